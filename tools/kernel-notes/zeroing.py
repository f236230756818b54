#!/usr/bin/env python3
"""Note 0005: zeroing and giving back space by fallocate, on files and block devices, through io_uring."""

import errno
import os

from common import MIB, Ring, address_of, aligned, fact, file_of, finish, holds, loop_over, skip

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


def filled(path):
    with open(path, "r+b") as file:
        file.write(b"\xaa" * 8 * MIB)
        os.fsync(file.fileno())


def try_on(name, path):
    for what, mode in [("PUNCH_HOLE", PUNCH_HOLE | KEEP_SIZE), ("ZERO_RANGE", ZERO_RANGE | KEEP_SIZE)]:
        filled(path)
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        ring = Ring(Ring.CLAMP)
        ring.submit(Ring.FALLOCATE, fd, 2 * MIB, MIB, mode)
        result = ring.result()
        if result < 0:
            fact(f"{name}: {what} is refused with {errno.errorcode[-result]}")
            os.close(fd)
            continue
        inside, before, after = aligned(MIB, 1), aligned(4096), aligned(4096)
        os.preadv(fd, [inside], 2 * MIB)
        os.preadv(fd, [before], 2 * MIB - 4096)
        os.preadv(fd, [after], 3 * MIB)
        holds(f"{name}: {what} through io_uring reads back as zeroes at once", inside[:] == bytes(MIB))
        holds(f"{name}: {what} leaves what lies around it", before[:] == after[:] == b"\xaa" * 4096)
        os.close(fd)


try:
    Ring(Ring.CLAMP)
except OSError as error:
    skip(f"io_uring: {error.strerror}")
    finish()
for where, directory in [("a file in the temporary directory", None), ("a file in /dev/shm", "/dev/shm")]:
    with file_of(8 * MIB, directory) as path:
        try_on(where, path)
        filled(path)
        fd = os.open(path, os.O_RDWR)
        before = os.fstat(fd).st_blocks
        ring = Ring(Ring.CLAMP)
        ring.submit(Ring.FALLOCATE, fd, 2 * MIB, MIB, PUNCH_HOLE | KEEP_SIZE)
        if ring.result() == 0:
            given = (before - os.fstat(fd).st_blocks) * 512
            holds(f"{where}: PUNCH_HOLE gives the space back ({given} bytes of {MIB})", given >= MIB - 65536)
        ring.submit(Ring.FALLOCATE, fd, 2 * MIB + 100, 1000, PUNCH_HOLE | KEEP_SIZE)
        fact(f"{where}: an unaligned hole ends with {ring.result()}")
        os.close(fd)
with file_of(8 * MIB) as path, loop_over(path) as device:
    if device:
        try_on("a loop device", device)
        fd = os.open(device, os.O_RDWR | os.O_DIRECT)
        ring = Ring(Ring.CLAMP)
        ring.submit(Ring.FALLOCATE, fd, 100, 1000, PUNCH_HOLE | KEEP_SIZE)
        holds("a block device refuses an unaligned hole with EINVAL", ring.result() == -errno.EINVAL)
        name = os.path.basename(device)
        limit = f"/sys/block/{name}/queue/write_zeroes_max_bytes"
        fact(f"a loop device: write_zeroes_max_bytes {open(limit).read().strip()}")
        os.close(fd)
finish()
