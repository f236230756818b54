#!/usr/bin/env python3
"""Note 0009: what PR_SET_PDEATHSIG follows, and how what it leaves over is found."""

import os
import signal
import threading
import time

from common import LIBC, finish, holds

SET_PDEATHSIG = 1
PATIENCE = 0.3


def child(then):
    """Forks a child that asks to be killed when its parent ends; `then` is what it does. Its id, once it is ready."""
    ready, say = os.pipe()
    process = os.fork()
    if process == 0:
        LIBC.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        then(say)
        time.sleep(60)
        os._exit(0)
    os.close(say)
    return process, int(os.read(ready, 32) or 0)


def tell_ready(say):
    os.write(say, b"1")


def fork_and_tell(say):
    grandchild = os.fork()
    if grandchild == 0:
        os.environ.clear()
        os.execve("/bin/sleep", ["sleep", "60"], {"TB_NOTE": "mark"})
    os.write(say, str(grandchild).encode())


def is_dead(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def from_thread(then):
    """A child whose spawning thread has ended while the process lives on."""
    found = []
    thread = threading.Thread(target=lambda: found.append(child(then)))
    thread.start()
    thread.join()
    until = time.monotonic() + 10
    while not is_dead(found[0][0]) and time.monotonic() < until:
        time.sleep(0.01)
    return found[0]


process, _ = child(tell_ready)
time.sleep(PATIENCE)
holds("a child of the main thread lives while that thread does", not is_dead(process))
os.kill(process, signal.SIGKILL)
os.waitpid(process, 0)

process, _ = from_thread(tell_ready)
holds("a child is killed when the thread that forked it ends, though the process goes on", is_dead(process))
os.waitpid(process, 0)

process, grandchild = from_thread(fork_and_tell)
time.sleep(PATIENCE)
holds("what that child forked is not killed", is_dead(process) and not is_dead(grandchild))
with open(f"/proc/{grandchild}/environ", "rb") as environment:
    holds("it is found by a variable of its environment", b"TB_NOTE=mark" in environment.read().split(b"\0"))
os.kill(grandchild, signal.SIGKILL)
os.waitpid(process, 0)
finish()
