#!/usr/bin/env python3
"""Note 0001: what O_DIRECT wants, and how the kernel says so beforehand."""

import ctypes
import os
import struct

from common import LIBC, MIB, aligned, error_of, fact, file_of, finish, holds, loop_over, skip

STATX_DIOALIGN = 0x2000


def alignment(path):
    """Memory and offset alignment for direct I/O as statx says, or None where it doesn't."""
    answer = ctypes.create_string_buffer(256)
    result = LIBC.statx(-100, path.encode(), 0, STATX_DIOALIGN, answer)
    (mask,) = struct.unpack_from("<I", answer, 0)
    if result != 0 or not mask & STATX_DIOALIGN:
        return None
    return struct.unpack_from("<II", answer, 152)


def write(path, offset, length, shift=0):
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        memory = memoryview(aligned(length + 8192))[shift : shift + length]
        return error_of(os.pwritev, fd, [memory], offset)
    finally:
        os.close(fd)


for name, directory in [("the temporary directory", None), ("/dev/shm", "/dev/shm")]:
    with file_of(8 * MIB, directory) as path:
        said = alignment(path)
        fact(f"a file in {name}: statx says {said} (memory, offset)")
        opened = error_of(os.open, path, os.O_RDWR | os.O_DIRECT)
        if opened:
            fact(f"a file in {name}: O_DIRECT is refused with {opened}")
            continue
        holds(f"in {name} a write of 4 KiB at 4 KiB from page-aligned memory works", write(path, 4096, 4096) is None)
        odd = write(path, 100, 512)
        fact(f"in {name} a write at offset 100: {odd or 'works'}")
        if said and said[1]:
            holds(f"in {name} statx is right: unaligned offsets fail", odd == "EINVAL")

with file_of(8 * MIB) as path, loop_over(path) as device:
    if device:
        fact(f"a loop device: statx says {alignment(device)}")
        holds("on a block device a write of 4 KiB at 4 KiB works", write(device, 4096, 4096) is None)
        holds("on a block device a write of 100 bytes fails with EINVAL", write(device, 4096, 100) == "EINVAL")
    else:
        skip("block devices")
with file_of(8 * MIB - 1000) as path:
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    got = os.preadv(fd, [aligned(4096)], 8 * MIB - 4096)
    holds("a read of the last, partial block of a file comes back short", got == 3096)
    os.close(fd)
finish()
