"""The block device of a volume, used as users use disks."""

import errno
import os
import pathlib
import subprocess
import sys
import time

from pair import MIB, Pair, mount_point, until

FIO = ["fio", "--minimal", "--ioengine=io_uring", "--direct=1", "--verify=crc32c", "--verify_fatal=1", "--randrepeat=0"]
EXERCISER = pathlib.Path(__file__).resolve().parent / "exerciser.py"
# Takes memory until little is left, and keeps it.
HOG = """
import time
def free():
    return next(int(line.split()[1]) >> 10 for line in open("/proc/meminfo") if line.startswith("MemAvailable"))
held = []
while free() > 220:
    held.append(b"x" * (8 << 20))
time.sleep(3600)
"""


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


def extents(path, size):
    """Where a file has data, as (from, to); the rest are holes."""
    found, at = [], 0
    with open(path, "rb") as file:
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            if start < size:
                found.append((start, min(at, size)))
    return found


def holes(front_end):
    pair = Pair(size_mib=128, volume=f'front_end = "{front_end}"\n', disks="files")
    device, alpha = pair.device(), pair.alpha
    size = pair.status("alpha")["size_bytes"]
    alpha.run("dd", "if=/dev/urandom", f"of={device}", "bs=1M", "count=48", "oflag=direct")
    alpha.run("blkdiscard", "-o", 8 * MIB, "-l", 16 * MIB, device)
    alpha.run("blkdiscard", "-z", "-o", 32 * MIB + 512, "-l", 4 * MIB, device)
    for offset, length in [(8 * MIB, 16 * MIB), (32 * MIB + 512, 4 * MIB)]:
        alpha.run("cmp", "-n", length, "-i", f"{offset}:0", device, "/dev/zero")
    has = [extents(path, size) for path in pair.disks.values()]
    assert has[0] == has[1], f"holes differ: {has}"
    inside = [extent for extent in has[0] if extent[0] < 24 * MIB and extent[1] > 8 * MIB]
    assert not inside, f"what was discarded has data: {inside}"
    make_file_system("ext4", alpha, device)
    at = mount_point()
    alpha.run("mount", device, at)
    alpha.run("dd", "if=/dev/urandom", f"of={at}/gone", "bs=1M", "count=24", "conv=fsync")
    full = sum(end - start for start, end in extents(pair.disks["beta"], size))
    alpha.run("sh", "-c", f"rm {at}/gone; sync -f {at}")
    trimmed = alpha.run("fstrim", "-v", at)
    assert "trimmed" in trimmed, trimmed
    alpha.run("umount", at)
    pair.identical()
    has = [extents(path, size) for path in pair.disks.values()]
    left = sum(end - start for start, end in has[1])
    assert has[0] == has[1], f"holes differ: {has}"
    assert left < full - 20 * MIB, f"fstrim gave back too little: {full} before, {left} after"


def scenario_holes_on_ublk():
    """blkdiscard, fstrim and zeroing reach both disks: both files have the same holes."""
    holes("ublk")


def scenario_holes_on_nbd():
    """The same on a device of the kernel's NBD client."""
    holes("nbd-device")


def exercised(front_end, kind):
    pair = Pair(size_mib=400 if kind == "xfs" else 128, volume=f'front_end = "{front_end}"\n')
    device, at = mounted(pair, kind)
    for seed in (1, 2):
        print(pair.alpha.run(sys.executable, EXERCISER, at / f"file{seed}", seed, 1500, timeout=600).strip(), flush=True)
    pair.alpha.run("umount", at)
    check_file_system(kind, pair.alpha, device)
    pair.identical()


def scenario_every_kind_of_file_operation_on_ext4():
    """Random operations on files (mapped, direct, cut, punched, zeroed), every byte compared; in the manner of fsx."""
    exercised("ublk", "ext4")


def scenario_every_kind_of_file_operation_on_xfs():
    """The same with xfs, on a device of the kernel's NBD client."""
    exercised("nbd-device", "xfs")


def memory_full(front_end):
    pair = Pair(volume=f'front_end = "{front_end}"\n', disks=["/dev/vda", "/dev/vdb"])
    device, at = mounted(pair)
    # Writers are held back late, and little is free, so that the kernel must write to us to go on at all.
    for name, value in [("dirty_background_ratio", 80), ("dirty_ratio", 90)]:
        pathlib.Path("/proc/sys/vm", name).write_text(str(value))
    hog = subprocess.Popen([sys.executable, "-c", HOG])
    pair.alpha.run("fio", "--minimal", "--ioengine=psync", "--direct=0", "--name=load", f"--directory={at}", "--rw=write",
                   "--bs=1m", "--size=600m", "--numjobs=2", "--end_fsync=1", "--verify=crc32c", "--verify_fatal=1",
                   timeout=900)
    assert hog.poll() is None, "the program that holds the memory was ended, so there was no shortage"
    hog.kill()
    hog.wait()
    pair.alpha.run("umount", at)
    check_file_system("ext4", pair.alpha, device)
    pair.identical()


def scenario_memory_full_of_dirty_pages_on_ublk():
    """More is written than memory holds while little is free: written back through the daemons, nothing hangs."""
    memory_full("ublk")


def scenario_memory_full_of_dirty_pages_on_nbd():
    """The same on a device of the kernel's NBD client."""
    memory_full("nbd-device")


for scenario in [scenario_memory_full_of_dirty_pages_on_ublk, scenario_memory_full_of_dirty_pages_on_nbd]:
    scenario.memory, scenario.disks, scenario.disk_size = "1G", 2, 1536 * MIB
for scenario in [scenario_daemon_killed_under_load_on_ublk, scenario_memory_full_of_dirty_pages_on_ublk,
                 scenario_every_kind_of_file_operation_on_ext4, scenario_orderly_restart_under_a_mount]:
    scenario.kernel = "6.18"
for scenario in [scenario_daemon_killed_under_load_on_ublk, scenario_holes_on_nbd]:
    scenario.quick = True
