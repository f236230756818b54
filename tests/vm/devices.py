"""The block device of a volume, used as users use disks."""

import subprocess
import time

from pair import MIB, Pair, mount_point, until

FIO = ["fio", "--minimal", "--ioengine=io_uring", "--direct=1", "--verify=crc32c", "--verify_fatal=1", "--randrepeat=0"]
FRONT_ENDS = ("ublk", "nbd-device")


def make_file_system(kind, server, device):
    if kind == "ext4":
        server.run("mkfs.ext4", "-q", "-F", device)
    else:
        server.run("mkfs.xfs", "-q", "-f", "-m", "reflink=0", device)


def check_file_system(kind, server, device):
    if kind == "ext4":
        server.run("e2fsck", "-f", "-n", device)
    else:
        server.run("xfs_repair", "-n", device)


def mounted(pair, kind="ext4"):
    """A new file system on the volume, mounted."""
    device, at = pair.device(), mount_point()
    make_file_system(kind, pair.alpha, device)
    pair.alpha.run("mount", device, at)
    return device, at


def file_system_works(front_end, kind):
    pair = Pair(size_mib=400 if kind == "xfs" else 128, volume=f'front_end = "{front_end}"\n')
    device, at = mounted(pair, kind)
    pair.alpha.run(*FIO, "--name=load", f"--directory={at}", "--size=8m", "--bs=4k", "--iodepth=16", "--rw=randwrite",
                   timeout=300)
    pair.alpha.run("umount", at)
    check_file_system(kind, pair.alpha, device)
    pair.identical()


def scenario_ext4_on_ublk():
    """mkfs, mount, verified load, unmount, fsck; both disks the same."""
    file_system_works("ublk", "ext4")


def scenario_xfs_on_ublk():
    """The same with xfs."""
    file_system_works("ublk", "xfs")


def scenario_ext4_on_nbd():
    """The same on a device of the kernel's NBD client."""
    file_system_works("nbd-device", "ext4")


def scenario_xfs_on_nbd():
    """The same with xfs."""
    file_system_works("nbd-device", "xfs")


def survives_kills(front_end):
    pair = Pair(size_mib=128, volume=f'front_end = "{front_end}"\n')
    device, at = mounted(pair)
    load = pair.alpha.begin(*FIO, "--name=load", f"--directory={at}", "--size=6m", "--bs=4k", "--iodepth=8",
                            "--rw=randwrite", "--fsync=32", "--loops=2", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for _ in range(2):
        time.sleep(2)
        pair.kill("alpha")
        time.sleep(0.5)
        pair.start("alpha")
        pair.device()
    output, _ = load.communicate(timeout=600)
    assert load.returncode == 0, output.decode()
    pair.alpha.run("umount", at)
    check_file_system("ext4", pair.alpha, device)
    pair.identical()


def scenario_daemon_killed_under_load_on_ublk():
    """kill -9 of the primary's daemon under a mounted file system: its users wait, nothing is lost."""
    survives_kills("ublk")


def scenario_daemon_killed_under_load_on_nbd():
    """The same on a device of the kernel's NBD client."""
    survives_kills("nbd-device")


def goes_with_the_role(front_end):
    pair = Pair(size_mib=128, volume=f'front_end = "{front_end}"\n')
    device, at = mounted(pair)
    pair.alpha.run("sh", "-c", f"echo kept > {at}/file")
    refused = pair.verb_or_error("alpha", "demote", "vol0")
    assert f"mounted at {at}" in refused, refused
    pair.alpha.run("umount", at)
    pair.verb("alpha", "demote", "vol0")
    until("the device is gone", lambda: pair.status("alpha")["device"]["state"] == "absent")
    assert "No such file" in pair.alpha.run("ls", device, check=False)
    pair.verb("beta", "promote", "vol0")
    pair.beta.run("mount", pair.device("beta"), at)
    assert pair.beta.run("cat", at / "file") == "kept\n"
    # By force its users get errors, at once, and nothing hangs.
    pair.verb("beta", "demote", "vol0", "--force", "--yes")
    until("the device is gone", lambda: pair.status("beta")["device"]["state"] == "absent")
    failed = pair.beta.run("sh", "-c", f"echo lost > {at}/lost; sync {at}/lost", check=False, timeout=60)
    assert "rror" in failed or "ead-only" in failed, failed
    pair.beta.run("umount", at, check=False, timeout=60)


def scenario_device_goes_with_the_role_on_ublk():
    """Demotion names who uses the device; forced, they get errors at once."""
    goes_with_the_role("ublk")


def scenario_device_goes_with_the_role_on_nbd():
    """The same on a device of the kernel's NBD client."""
    goes_with_the_role("nbd-device")


scenario_device_goes_with_the_role_on_ublk.expects_errors = True
scenario_device_goes_with_the_role_on_nbd.expects_errors = True


def scenario_orderly_restart_under_a_mount():
    """SIGTERM and a new daemon under a mounted file system: its users wait, and never hear of it."""
    pair = Pair(size_mib=128)
    device, at = mounted(pair)
    load = pair.alpha.begin(*FIO, "--name=load", f"--directory={at}", "--size=6m", "--bs=4k", "--iodepth=8",
                            "--rw=randwrite", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    time.sleep(2)
    assert pair.stop("alpha") == 0
    pair.start("alpha")
    output, _ = load.communicate(timeout=300)
    assert load.returncode == 0, output.decode()
    pair.alpha.run("umount", at)
    pair.identical()


def scenario_holes():
    """blkdiscard, fstrim and zeroing reach both disks."""
    pair = Pair(size_mib=128)
    device, alpha = pair.device(), pair.alpha
    alpha.run("dd", "if=/dev/urandom", f"of={device}", "bs=1M", "count=48", "oflag=direct")
    alpha.run("blkdiscard", "-o", 8 * MIB, "-l", 16 * MIB, device)
    alpha.run("blkdiscard", "-z", "-o", 32 * MIB + 512, "-l", 4 * MIB, device)
    for offset, length in [(8 * MIB, 16 * MIB), (32 * MIB + 512, 4 * MIB)]:
        alpha.run("cmp", "-n", length, "-i", f"{offset}:0", device, "/dev/zero")
    make_file_system("ext4", alpha, device)
    at = mount_point()
    alpha.run("mount", device, at)
    trimmed = alpha.run("fstrim", "-v", at)
    assert "trimmed" in trimmed, trimmed
    alpha.run("umount", at)
    pair.identical()
