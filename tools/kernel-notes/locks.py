#!/usr/bin/env python3
"""Note 0003: who is kept out by flock and by an exclusive open of a block device, and for how long."""

import fcntl
import os
import signal
import shutil
import subprocess
import tempfile
import time

from common import MIB, Ring, address_of, aligned, error_of, fact, file_of, finish, holds, loop_over, skip

EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB


def locked(path):
    """Whether flock refuses a second opener."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, EXCLUSIVE)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


with file_of(8 * MIB) as path:
    first = os.open(path, os.O_RDWR)
    fcntl.flock(first, EXCLUSIVE)
    holds("flock keeps out a second open of the same process", locked(path))
    second = os.dup(first)
    os.close(first)
    holds("it stays while a duplicate of the descriptor is open", locked(path))
    os.close(second)
    holds("and ends with the last one", not locked(path))

    with loop_over(path) as device:
        if device:
            first = os.open(device, os.O_RDWR | os.O_EXCL)
            holds("a second exclusive open of a block device fails with EBUSY",
                  error_of(os.open, device, os.O_RDWR | os.O_EXCL) == "EBUSY")
            holds("an open without O_EXCL is not kept out", error_of(os.open, device, os.O_RDWR) is None)
            holds("flock works on a block device", (fcntl.flock(first, EXCLUSIVE), locked(device))[1])
            subprocess.run(["mkfs.ext4", "-q", "-F", path], check=False, capture_output=True)
            with tempfile.TemporaryDirectory() as mountpoint:
                mounted = subprocess.run(["mount", device, mountpoint], capture_output=True, text=True)
                holds("a mount fails while it is open exclusively", mounted.returncode != 0)
                os.close(first)
                if subprocess.run(["mount", device, mountpoint], capture_output=True).returncode == 0:
                    holds("an exclusive open of a mounted device fails with EBUSY",
                          error_of(os.open, device, os.O_RDWR | os.O_EXCL) == "EBUSY")
                    subprocess.run(["umount", mountpoint], check=True)


def kill_with_reads_under_way(device):
    """Seconds from the kill of a process with a slow read under way until its lock is free."""
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        fd = os.open(device, os.O_RDWR | os.O_DIRECT | os.O_EXCL)
        fcntl.flock(fd, EXCLUSIVE)
        ring, memory = Ring(0), aligned(4096)
        ring.submit(Ring.READ, fd, 4 * MIB, address_of(memory), 4096)
        os.write(say, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    since = time.monotonic()
    os.kill(child, signal.SIGKILL)
    while locked(device):
        time.sleep(0.02)
        if time.monotonic() - since > 30:
            break
    took = time.monotonic() - since
    os.waitpid(child, 0)
    return took


SLOW = 2
if os.geteuid() == 0 and shutil.which("nbdkit") and shutil.which("nbdfuse"):
    with tempfile.TemporaryDirectory() as folder:
        socket, mountpoint = f"{folder}/socket", f"{folder}/disk"
        open(mountpoint, "w").close()
        server = subprocess.Popen(["nbdkit", "-f", "-U", socket, "--filter=delay", "memory", "16M", f"rdelay={SLOW}"])
        while not os.path.exists(socket):
            time.sleep(0.05)
        fuse = subprocess.Popen(["nbdfuse", mountpoint, "--unix", socket])
        while os.path.getsize(mountpoint) == 0 and fuse.poll() is None:
            time.sleep(0.05)
        with loop_over(mountpoint) as device:
            if device:
                took = kill_with_reads_under_way(device)
                fact(f"a process with a read of {SLOW} s under way was killed; its lock was free after {took:.1f} s")
                holds("the lock of a killed process stays until its I/O is done", took > SLOW / 2)
        subprocess.run(["umount", mountpoint], check=False)
        fuse.wait(timeout=10)
        server.terminate()
        server.wait(timeout=10)
else:
    skip("I/O under way at a kill: needs root, nbdkit and nbdfuse")
finish()
