#!/usr/bin/env python3
"""Note 0004: a ring's descriptor in epoll, by how the ring was set up."""

import os
import time

from common import MIB, Ring, address_of, aligned, fact, file_of, finish, holds, skip


def read_once(flags, path, wait_first):
    """Whether a read's end makes the ring's descriptor readable, and what its queue holds before and after the kernel is
    entered. The read ends while epoll waits, or (`wait_first`) before epoll is asked."""
    ring = Ring(flags)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    memory = aligned(4096)
    ring.submit(Ring.READ, fd, 4096, address_of(memory), 4096)
    if wait_first:
        time.sleep(0.2)
    readable = ring.readable(1.0)
    before = ring.completions()
    ring.enter(0)
    after = ring.completions()
    os.close(fd)
    return readable, before, after


with file_of(8 * MIB) as path:
    with open(path, "wb") as new:
        new.write(bytes(8 * MIB))
        os.fsync(new.fileno())
    kinds = {
        "no flags": 0,
        "COOP_TASKRUN": Ring.COOP_TASKRUN,
        "COOP_TASKRUN with SINGLE_ISSUER": Ring.COOP_TASKRUN | Ring.SINGLE_ISSUER,
        "DEFER_TASKRUN with SINGLE_ISSUER": Ring.DEFER_TASKRUN | Ring.SINGLE_ISSUER,
    }
    for name, flags in kinds.items():
        for wait_first in [False, True]:
            moment = "before epoll is asked" if wait_first else "while epoll waits"
            try:
                readable, before, after = read_once(Ring.CLAMP | flags, path, wait_first)
            except OSError as error:
                skip(f"{name}: {error.strerror}")
                break
            seen = f"readable {readable}, then {len(before)} completions, {len(after)} more after entering the kernel"
            fact(f"{name}, a read that ends {moment}: {seen}")
            if "DEFER" in name:
                holds(f"{name}: nothing is in the queue until the kernel is entered for it", (before, after) == ([], [4096]))
            else:
                holds(f"{name}: a read that ends {moment} is seen", readable and before == [4096])
finish()
