"""The same load on DRBD and on twinblock, side by side in one kernel."""

import json
import shutil
import subprocess

from pair import Pair, run, until

LOADS = [("4 KiB, depth 1", "4k", 1), ("4 KiB, depth 32", "4k", 32), ("128 KiB, depth 8", "128k", 8)]
SECONDS = 6
PORTS = (7001, 7002)


def writes_per_second(device, block, depth, on=run):
    out = on("fio", "--output-format=json", "--name=load", f"--filename={device}", "--ioengine=io_uring", "--direct=1",
             "--rw=randwrite", f"--bs={block}", f"--iodepth={depth}", "--time_based", f"--runtime={SECONDS}",
             "--size=100%", "--randrepeat=0", "--ramp_time=1", timeout=SECONDS * 10 + 60)
    return json.loads(out[out.index("{"):])["jobs"][0]["write"]["iops"]


def begin_drbd(disks):
    """Both ends in this kernel, replicating with protocol C; its device."""
    run("modprobe", "drbd", "minor_count=8")
    run("ip", "link", "set", "lo", "up")
    for minor, disk in enumerate(disks):
        subprocess.run(["drbdmeta", "--force", str(minor), "v08", disk, "internal", "create-md"], input=b"yes\nyes\n", check=True,
                       capture_output=True)
        run("drbdsetup", "new-resource", f"r{minor}")
        run("drbdsetup", "new-minor", f"r{minor}", minor, 0)
        run("drbdsetup", "attach", minor, disk, disk, "internal", "--disk-flushes=no", "--md-flushes=no")
    ends = []
    for minor, (ours, theirs) in enumerate([PORTS, PORTS[::-1]]):
        ends.append(subprocess.Popen(["drbdsetup", "connect", f"r{minor}", f"ipv4:127.0.0.1:{ours}", f"ipv4:127.0.0.1:{theirs}",
                                      "--protocol=C"]))
    for end in ends:
        assert end.wait(60) == 0, "drbdsetup connect failed"
    until("DRBD is connected", lambda: "cs:Connected" in run("cat", "/proc/drbd"))
    run("drbdsetup", "new-current-uuid", 0, "--clear-bitmap")
    run("drbdsetup", "primary", 0)
    return "/dev/drbd0"


def end_drbd():
    for minor, (ours, theirs) in enumerate([PORTS, PORTS[::-1]]):
        for words in [["secondary", minor], ["disconnect", f"ipv4:127.0.0.1:{ours}", f"ipv4:127.0.0.1:{theirs}"],
                      ["detach", minor], ["del-minor", minor], ["del-resource", f"r{minor}"]]:
            run("drbdsetup", *words, check=False)
    run("modprobe", "-r", "drbd", check=False)


def scenario_beside_drbd():
    """The same random writes on DRBD (protocol C) and on twinblock over ublk, both on RAM disks: prints the ratio."""
    if not shutil.which("drbdsetup"):
        print("SKIPPED: virtual machine: drbdsetup is not installed (package drbd-utils)")
        return
    pair = Pair(size_mib=256, volume='front_end = "ublk"\n')
    drbd = begin_drbd(["/dev/ram2", "/dev/ram3"])
    ours = pair.device()
    for name, block, depth in LOADS:
        theirs = writes_per_second(drbd, block, depth)
        rate = writes_per_second(ours, block, depth, pair.alpha.run)
        print(f"{name}: DRBD {theirs:.0f}/s, twinblock {rate:.0f}/s, ratio {rate / theirs:.2f}", flush=True)
    end_drbd()
    pair.identical()


scenario_beside_drbd.kernel = "6.18"
