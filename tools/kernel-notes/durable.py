#!/usr/bin/env python3
"""Note 0002: what RWF_DSYNC and fdatasync send to a disk with a volatile cache, counted at the disk."""

import os

from common import MIB, aligned, fact, file_of, finish, holds, quietest, skip

ROUNDS = 50


def disk_of(path):
    device = os.stat(path).st_dev
    return os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")


def flushes(disk):
    fields = open(f"{disk}/stat").read().split()
    return int(fields[15]) if len(fields) > 15 else None


def count(disk, call):
    before = flushes(disk)
    for round_number in range(ROUNDS):
        call(round_number)
    return flushes(disk) - before


with file_of(8 * MIB) as path:
    disk = disk_of(path)
    if not os.path.exists(f"{disk}/stat") or flushes(disk) is None:
        skip(f"the temporary directory is on no disk whose flushes are counted ({disk})")
        finish()
    cache = open(f"{disk}/queue/write_cache").read().strip()
    fua = open(f"{disk}/queue/fua").read().strip()
    fact(f"{os.path.basename(disk)}: write cache {cache!r}, FUA {fua}")
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    block = aligned(4096, 7)
    os.pwritev(fd, [aligned(4 * MIB, 1)], 0)
    os.fsync(fd)
    if cache != "write back":
        skip("the disk has no volatile cache: nothing is flushed")
        finish()

    plain = quietest(20, lambda: count(disk, lambda n: os.pwritev(fd, [block], n * 4096)))
    durable = count(disk, lambda n: os.pwritev(fd, [block], n * 4096, os.RWF_DSYNC))
    synced = count(disk, lambda n: (os.pwritev(fd, [block], n * 4096), os.fdatasync(fd)))
    idle = count(disk, lambda n: os.fdatasync(fd))
    fact(f"flushes per {ROUNDS} calls: plain {plain}, RWF_DSYNC {durable}, write and fdatasync {synced}, idle fdatasync {idle}")
    # Others use the disk too: at least one flush for each call, and hardly any for plain writes.
    if fua == "0":
        holds("without FUA every RWF_DSYNC write is followed by a flush", durable >= ROUNDS)
    holds("every fdatasync after a direct write flushes the disk", synced >= ROUNDS)
    holds("fdatasync with nothing written since flushes all the same", idle >= ROUNDS)
    holds("a plain direct write does not flush", plain < ROUNDS)
    os.close(fd)
finish()
