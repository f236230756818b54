"""What the scripts of the kernel notes share: a bare io_uring, temporary files and loop devices, and how they report."""

import contextlib
import ctypes
import mmap
import os
import platform
import select
import struct
import subprocess
import sys
import tempfile

MIB = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
FAILED = []


def holds(claim, true):
    """Reports one claim."""
    print(f"{'holds' if true else 'FAILS'}: {claim}")
    if not true:
        FAILED.append(claim)


def fact(text):
    print(f"fact:  {text}")


def quietest(attempts, measure):
    """The smallest of several counts: others use the disk, too, which only ever adds to one."""
    return min(measure() for _ in range(attempts))


def skip(text):
    print(f"SKIPPED: {text}")


def finish():
    print(f"kernel {platform.release()}: {'every claim holds' if not FAILED else f'{len(FAILED)} claims FAIL'}")
    sys.exit(1 if FAILED else 0)


def aligned(size, fill=0):
    """Page-aligned memory."""
    memory = mmap.mmap(-1, size)
    memory.write(bytes([fill]) * size)
    return memory


@contextlib.contextmanager
def file_of(size, directory=None):
    """A sparse file; yields its path."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        path = os.path.join(folder, "disk")
        with open(path, "wb") as new:
            new.truncate(size)
        yield path


@contextlib.contextmanager
def loop_over(path, *options):
    """A loop device over a file, or None where none may be made."""
    made = subprocess.run(["losetup", "-f", "--show", *options, path], capture_output=True, text=True)
    if made.returncode != 0:
        skip(f"no loop device can be made: {made.stderr.strip()}")
        yield None
        return
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=False)


def error_of(call, *arguments):
    """The name of the error a call ends with, or None."""
    try:
        result = call(*arguments)
        if isinstance(result, int) and call is os.open:
            os.close(result)
        return None
    except OSError as error:
        import errno

        return errno.errorcode.get(error.errno, str(error.errno))


class Ring:
    """io_uring by system call: enough to submit a few operations and look at the ring's descriptor."""

    CLAMP, COOP_TASKRUN, SINGLE_ISSUER, DEFER_TASKRUN = 1 << 4, 1 << 8, 1 << 12, 1 << 13
    READ, WRITE, FALLOCATE = 22, 23, 17
    GETEVENTS = 1

    def __init__(self, flags):
        parameters = bytearray(120)
        struct.pack_into("<II", parameters, 8, flags, 0)
        buffer = (ctypes.c_char * len(parameters)).from_buffer(parameters)
        self.fd = LIBC.syscall(425, 8, buffer)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        entries, cq_entries = struct.unpack_from("<II", parameters, 0)
        self.sq_offsets = struct.unpack_from("<7I", parameters, 40)
        self.cq_offsets = struct.unpack_from("<7I", parameters, 80)
        size = max(self.sq_offsets[6] + entries * 4, self.cq_offsets[5] + cq_entries * 16)
        self.ring = mmap.mmap(self.fd, size, offset=0)
        self.entries = mmap.mmap(self.fd, entries * 64, offset=0x10000000)

    def submit(self, opcode, fd, offset, address, length, flags=0):
        """One operation; for FALLOCATE `address` is the length and `length` the mode."""
        entry = struct.pack("<BBHiQQII", opcode, 0, 0, fd, offset, address, length, flags) + bytes(32)
        tail_at, mask_at, array_at = self.sq_offsets[1], self.sq_offsets[2], self.sq_offsets[6]
        (tail,) = struct.unpack_from("<I", self.ring, tail_at)
        (mask,) = struct.unpack_from("<I", self.ring, mask_at)
        slot = tail & mask
        self.entries[slot * 64 : slot * 64 + 64] = entry
        struct.pack_into("<I", self.ring, array_at + slot * 4, slot)
        struct.pack_into("<I", self.ring, tail_at, tail + 1)
        return LIBC.syscall(426, self.fd, 1, 0, 0, None, 0)

    def enter(self, wait):
        return LIBC.syscall(426, self.fd, 0, wait, self.GETEVENTS, None, 0)

    def completions(self):
        (head,) = struct.unpack_from("<I", self.ring, self.cq_offsets[0])
        (tail,) = struct.unpack_from("<I", self.ring, self.cq_offsets[1])
        (mask,) = struct.unpack_from("<I", self.ring, self.cq_offsets[2])
        found = []
        while head != tail:
            found.append(struct.unpack_from("<Qi", self.ring, self.cq_offsets[5] + (head & mask) * 16)[1])
            head += 1
        struct.pack_into("<I", self.ring, self.cq_offsets[0], head)
        return found

    def readable(self, seconds):
        """Whether the ring's descriptor becomes readable in epoll."""
        with select.epoll() as poller:
            poller.register(self.fd, select.EPOLLIN)
            return bool(poller.poll(seconds))

    def result(self):
        """Waits for one completion."""
        self.enter(1)
        return self.completions()[0]


def address_of(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
