#!/usr/bin/env python3
"""Random operations on one file, compared with a copy in memory: written, mapped, cut, extended, punched, zeroed, reopened.

    exerciser.py FILE SEED OPERATIONS

Every read is compared; what the file system holds in memory is dropped now and then, so that reads reach the device.
Says the last operations when a byte differs.
"""

import ctypes
import mmap
import os
import random
import sys

FILE_BYTES_MAX = 2 << 20
CHUNK_BYTES_MAX = 128 << 10
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
BLOCK = 4096

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, offset, length) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"fallocate mode {mode}")


class Exerciser:
    def __init__(self, path, seed):
        self.path, self.random, self.model, self.done = path, random.Random(seed), bytearray(), []
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.page = mmap.mmap(-1, CHUNK_BYTES_MAX)

    def range(self, align=1, limit=FILE_BYTES_MAX):
        offset = self.random.randrange(0, max(limit, 1)) // align * align
        length = self.random.choice([self.random.randrange(1, 512), self.random.randrange(1, CHUNK_BYTES_MAX)])
        length = max(align, length // align * align)
        return offset, min(length, FILE_BYTES_MAX - offset)

    def put(self, offset, content):
        if offset + len(content) > len(self.model):
            self.model.extend(bytes(offset + len(content) - len(self.model)))
        self.model[offset:offset + len(content)] = content

    def write(self):
        offset, length = self.range()
        content = self.random.randbytes(length)
        assert os.pwrite(self.fd, content, offset) == length
        self.put(offset, content)
        return offset, length

    def write_direct(self):
        offset, length = self.range(align=BLOCK)
        content = self.random.randbytes(length)
        self.page[:length] = content
        assert os.pwritev(self.direct, [memoryview(self.page)[:length]], offset) == length
        self.put(offset, content)
        return offset, length

    def write_mapped(self):
        if len(self.model) < BLOCK:
            return self.write()
        offset, length = self.range(limit=len(self.model))
        length = min(length, len(self.model) - offset)
        content = self.random.randbytes(length)
        with mmap.mmap(self.fd, len(self.model)) as mapped:
            mapped[offset:offset + length] = content
        self.put(offset, content)
        return offset, length

    def truncate(self):
        size = self.random.randrange(0, FILE_BYTES_MAX)
        os.ftruncate(self.fd, size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))
        return size

    def punch(self):
        offset, length = self.range()
        fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
        end = min(offset + length, len(self.model))
        self.model[offset:end] = bytes(max(0, end - offset))
        return offset, length

    def zero(self):
        offset, length = self.range()
        fallocate(self.fd, ZERO_RANGE, offset, length)
        self.put(offset, bytes(length))
        return offset, length

    def flush(self):
        os.fsync(self.fd)

    def forget(self):
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def reopen(self):
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def read(self):
        offset, length = self.range()
        self.compare(os.pread(self.fd, length, offset), offset, length)
        return offset, length

    def read_direct(self):
        offset, length = self.range(align=BLOCK)
        count = os.preadv(self.direct, [memoryview(self.page)[:length]], offset)
        self.compare(self.page[:count], offset, length)
        return offset, length

    def compare_all(self):
        assert os.fstat(self.fd).st_size == len(self.model), "the size differs"
        self.compare(os.pread(self.fd, FILE_BYTES_MAX, 0), 0, FILE_BYTES_MAX)

    def compare(self, found, offset, length):
        expected = self.model[offset:offset + length]
        if found != expected:
            at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
            raise AssertionError(f"byte {offset + at} differs (read {len(found)} bytes at {offset}, expected {len(expected)})")

    def run(self, count):
        weights = {self.write: 8, self.write_direct: 6, self.write_mapped: 6, self.truncate: 2, self.punch: 3, self.zero: 3,
                   self.flush: 2, self.forget: 3, self.reopen: 1, self.read: 8, self.read_direct: 6, self.compare_all: 1}
        for operation in self.random.choices(list(weights), list(weights.values()), k=count):
            where = operation()
            self.done = [*self.done[-30:], f"{operation.__name__} {where or ''}"]
        self.forget()
        self.compare_all()


if __name__ == "__main__":
    file, seed, operations = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    exerciser = Exerciser(file, seed)
    try:
        exerciser.run(operations)
    except BaseException:
        print(f"seed {seed}, the last operations:", *exerciser.done, sep="\n", file=sys.stderr)
        raise
    print(f"{operations} operations, every byte as written")
