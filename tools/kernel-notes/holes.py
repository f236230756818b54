#!/usr/bin/env python3
"""Note 0006: what SEEK_HOLE and SEEK_DATA tell of files and of block devices."""

import os

from common import MIB, aligned, error_of, fact, file_of, finish, holds, loop_over


def hole(fd, offset):
    return os.lseek(fd, offset, os.SEEK_HOLE)


def data(fd, offset):
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        return os.strerror(error.errno)


for where, directory in [("the temporary directory", None), ("/dev/shm", "/dev/shm")]:
    with file_of(16 * MIB, directory) as path:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        holds(f"{where}: a sparse file is one hole", hole(fd, 0) == 0 and data(fd, 0) == "No such device or address")
        os.pwritev(fd, [aligned(4096, 5)], 4 * MIB)
        found = data(fd, 0)
        holds(f"{where}: a block just written with O_DIRECT is data at once, without a flush", found == 4 * MIB)
        end = hole(fd, found)
        fact(f"{where}: a block of data counts as {end - found} bytes of data")
        holds(f"{where}: holes and data begin on multiples of 4 KiB", found % 4096 == 0 and end % 4096 == 0)
        os.posix_fallocate(fd, 8 * MIB, MIB)
        after = data(fd, end)
        fact(f"{where}: space that was only reserved counts as {'a hole' if after == 'No such device or address' else 'data'}")
        os.pwritev(fd, [aligned(4096, 0)], 12 * MIB)
        holds(f"{where}: zeroes that were written are data", data(fd, 12 * MIB) == 12 * MIB)
        holds(f"{where}: asking at the end fails with ENXIO", error_of(os.lseek, fd, 16 * MIB, os.SEEK_DATA) == "ENXIO")
        os.close(fd)
with file_of(16 * MIB) as path, loop_over(path) as device:
    if device:
        fd = os.open(device, os.O_RDWR | os.O_DIRECT)
        for name, whence in [("SEEK_HOLE", os.SEEK_HOLE), ("SEEK_DATA", os.SEEK_DATA)]:
            holds(f"a block device refuses {name} with EINVAL", error_of(os.lseek, fd, 0, whence) == "EINVAL")
        os.close(fd)
finish()
