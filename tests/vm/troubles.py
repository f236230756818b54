"""What goes wrong around a block device: each time a message that says what and what next, and nothing hangs."""

import pathlib
import subprocess

from devices import FIO, check_file_system, mounted
from pair import FOLDER, Pair, run, until

REFUSED_MODULES = pathlib.Path("/etc/modprobe.d/refused.conf")


def trouble(pair, words):
    """The device can't be had, and status says why, in these words."""
    def told():
        device = pair.status("alpha")["device"]
        return device["state"] == "failed" and words in (device["trouble"] or "")
    try:
        until(words, told, timeout=60)
    except AssertionError as error:
        raise AssertionError(f"{error}: {pair.status('alpha')['device']}") from None


def served_by(pair, front_end, before=()):
    """The daemon of alpha again, with this front end; primary again."""
    if pair.alpha.daemon:
        pair.stop("alpha")
    pair.volume = f'front_end = "{front_end}"\n'
    pair.configure()
    pair.start("alpha", before)
    pair.in_sync("alpha")
    pair.verb("alpha", "promote", "vol0")


def unload():
    for module in ("ublk_drv", "nbd"):
        run("modprobe", "-r", module, check=False)


def scenario_devices_that_can_not_be_had():
    """No module, too many devices, no rights, a link's place taken, a second daemon: each named, with what to do next."""
    pair = Pair(size_mib=64, volume='front_end = "none"\n')
    REFUSED_MODULES.write_text("install ublk_drv /bin/false\ninstall nbd /bin/false\n")
    for front_end, module in [("ublk", "ublk_drv"), ("nbd-device", "nbd"), ("auto", "ublk_drv"), ("auto", "nbd")]:
        served_by(pair, front_end)
        trouble(pair, f"load the module {module}")
    # It is tried again by itself.
    REFUSED_MODULES.unlink()
    pair.device()

    pair.stop("alpha")
    unload()
    run("modprobe", "ublk_drv", "ublks_max=0")
    served_by(pair, "ublk")
    trouble(pair, "too many ublk devices")
    pair.stop("alpha")
    unload()

    run("modprobe", "nbd")
    run("modprobe", "ublk_drv")
    for front_end in ("ublk", "nbd-device"):
        served_by(pair, front_end, ["setpriv", "--bounding-set=-sys_admin"])
        trouble(pair, "run the daemon as root")

    place = "/dev/twinblock/vol0"
    pair.stop("alpha")
    pair.alpha.run("sh", "-c", f"echo mine > {place}")
    served_by(pair, "nbd-device")
    trouble(pair, f"{place} is taken by a file")
    assert pair.alpha.run("cat", place) == "mine\n"
    pair.alpha.run("rm", place)
    pair.device()

    second = pair.verb_or_error("alpha", "run")
    assert "already running" in second, second
    assert pair.status("alpha")["device"]["state"] == "live"
    # With other tools it is taken away: made again, and told.
    pair.alpha.run("nbd-client", "-d", "/dev/nbd0")
    until("that is told", lambda: "stopped by somebody else" in pair.alpha.log.read_text())
    pair.device()
    pair.identical()


def scenario_disk_gone_under_a_mount():
    """The disk of the primary vanishes under a mounted file system: the other server's disk serves, no error is seen."""
    run("modprobe", "scsi_debug", "dev_size_mb=96", "delay=0")
    found = until("a disk to take away", lambda: list(pathlib.Path("/sys/bus/pseudo/drivers/scsi_debug").glob(
        "adapter*/host*/target*/*:*/block/sd*")))
    run("modprobe", "brd", "rd_nr=4", f"rd_size={96 << 10}")
    pair = Pair(disks=[f"/dev/{found[0].name}", "/dev/ram1"])
    device, at = mounted(pair)
    load = pair.alpha.begin(*FIO, "--name=load", f"--directory={at}", "--size=6m", "--bs=4k", "--iodepth=8",
                            "--rw=randwrite", "--fsync=32", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until("the load runs", lambda: (pathlib.Path(f"/proc/{pair.alpha.holder.pid}/root{at}/load.0.0")).exists())
    (found[0] / "device/delete").write_text("1")
    output, _ = load.communicate(timeout=300)
    assert load.returncode == 0, output.decode()
    status = pair.status("alpha")
    assert status["disk"] == "diskless" and status["disk_reason"], status
    pair.alpha.run("umount", at)
    check_file_system("ext4", pair.alpha, device)
    pair.verb("alpha", "demote", "vol0")
    pair.stop("alpha")
    pair.stop("beta")


def grows(front_end, kind):
    pair = Pair(size_mib=64, volume=f'front_end = "{front_end}"\n', disks="files")
    device, at = mounted(pair)
    pair.alpha.run("sh", "-c", f"echo kept > {at}/file")
    before = pair.status("alpha")["size_bytes"]
    refused = pair.verb_or_error("alpha", "resize", "vol0", "--size", "1GiB")
    assert "can't have" in refused and "Replace the smaller disk" in refused, refused
    # Each server's disk is replaced by a larger one, while the volume is mounted; the primary's goes last.
    for node in ("beta", "alpha"):
        run("truncate", "-s", 128 << 20, FOLDER / f"{node}-large")
        pair.disks[node] = FOLDER / f"{node}-large"
        pair.configure()
        pair.verb(node, "replace-disk", "vol0", "--yes", "--wait")
        pair.in_sync("beta")
        if node == "beta":
            pair.alpha.run("umount", at)
            pair.verb("alpha", "demote", "vol0")
            pair.verb("beta", "promote", "vol0")
            device = pair.device("beta")
            pair.beta.run("mount", device, at)
    answer = pair.verb("beta", "resize", "vol0")
    assert "being copied" in answer, answer
    size = pair.status("beta")["size_bytes"]
    assert size > before + (60 << 20), f"{before} bytes before, {size} after"
    until("the device has the size", lambda: pair.beta.run("blockdev", "--getsize64", device).strip() == str(size))
    pair.beta.run("resize2fs", device)
    pair.in_sync("beta")
    free = int(pair.beta.run("df", "--output=size", "-B1", at).split()[-1])
    assert free > before, f"the file system has {free} bytes"
    pair.beta.run("dd", "if=/dev/urandom", f"of={at}/large", "bs=1M", "count=80", "conv=fsync")
    assert pair.beta.run("cat", at / "file") == "kept\n"
    pair.beta.run("umount", at)
    check_file_system(kind, pair.beta, device)
    pair.identical()


def scenario_grows_under_a_mount_on_ublk():
    """Both disks are replaced by larger ones, `resize`, and the file system grows with the mounted device."""
    grows("ublk", "ext4")


def scenario_grows_under_a_mount_on_nbd():
    """The same on a device of the kernel's NBD client."""
    grows("nbd-device", "ext4")


scenario_grows_under_a_mount_on_ublk.kernel = "6.18"
scenario_disk_gone_under_a_mount.expects_errors = True
