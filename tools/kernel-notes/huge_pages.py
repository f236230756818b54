#!/usr/bin/env python3
"""Note 0007: how many requests a disk sees for a megabyte, from small pages and from huge ones."""

import ctypes
import mmap
import os
import random

from common import MIB, fact, file_of, finish, holds, quietest, skip

ROUNDS = 8
ATTEMPTS = 20


def disk_of(path):
    device = os.stat(path).st_dev
    return os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")


def writes(disk):
    return int(open(f"{disk}/stat").read().split()[4])


def memory(advice):
    """A megabyte, aligned to 2 MiB, whose pages were touched in no order, as those of a buffer in use are."""
    area = mmap.mmap(-1, 4 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(advice)
    pages = list(range(0, 4 * MIB, 4096))
    random.Random(1).shuffle(pages)
    for page in pages:
        area[page] = 0x55
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    skipped = -start % (2 * MIB)
    return memoryview(area)[skipped : skipped + MIB]


with file_of(64 * MIB) as path:
    disk = disk_of(path)
    if not os.path.exists(f"{disk}/stat"):
        skip("the temporary directory is on no disk that counts its requests")
        finish()
    for name in ["max_segments", "max_sectors_kb"]:
        fact(f"{os.path.basename(disk)}: {name} {open(f'{disk}/queue/{name}').read().strip()}")
    fact(f"transparent huge pages: {open('/sys/kernel/mm/transparent_hugepage/enabled').read().strip()}")
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    os.posix_fallocate(fd, 0, 64 * MIB)
    for offset in range(0, 64 * MIB, MIB):
        os.pwrite(fd, memory(mmap.MADV_NOHUGEPAGE), offset)
    os.fsync(fd)
    counts = {}
    for name, advice in [("small pages", mmap.MADV_NOHUGEPAGE), ("huge pages", mmap.MADV_HUGEPAGE)]:
        area = memory(advice)

        def measure():
            before = writes(disk)
            for round_number in range(ROUNDS):
                os.pwrite(fd, area, round_number * MIB)
            return writes(disk) - before

        counts[name] = quietest(ATTEMPTS, measure)
        fact(f"{ROUNDS} writes of 1 MiB from {name}: {counts[name]} requests at the disk")
    limit = int(open(f"{disk}/queue/max_sectors_kb").read())
    if limit >= 1024 and "[never]" not in open("/sys/kernel/mm/transparent_hugepage/enabled").read():
        # Where the disk never rests, some requests of others are counted even in the quietest attempt.
        holds("a megabyte from huge pages is one request", ROUNDS <= counts["huge pages"] < 2 * ROUNDS)
    os.close(fd)
finish()
