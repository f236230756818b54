"""An NBD client with many requests under way, over plain sockets."""
import socket
import struct
import time

BLOCK = 4096


class Wrong(Exception):
    """Something that must not be."""


class Failed(Wrong):
    """A request that was answered with an error."""


class Client:
    """One connection to the export `name`, through a unix socket (a path) or TCP (address and port)."""

    READ, WRITE, FLUSH, FUA = 0, 1, 3, 1

    def __init__(self, where, name, answer_seconds, connect_seconds):
        self.cookie, self.name = 0, name.encode()
        self.socket = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        try:
            self.socket.settimeout(connect_seconds)
            self.socket.connect(where)
            self.socket.settimeout(answer_seconds)
            self.negotiate()
        except BaseException:
            self.abandon()
            raise

    @staticmethod
    def patiently(where, name, seconds):
        """Connects, again and again for so long."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return Client(where, name, seconds, seconds)
            except (OSError, EOFError) as error:
                if time.monotonic() > deadline:
                    raise Wrong(f"no NBD connection through {where}: {error}") from None
                time.sleep(0.02)

    def negotiate(self):
        if isinstance(self.socket.getsockname(), tuple):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A client that gives up takes back what the server has not received yet: the kernel must not send it later.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.read_exactly(18)
        name = struct.pack(">I", len(self.name)) + self.name + struct.pack(">H", 0)
        self.socket.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, len(name)) + name)
        kind = 0
        while kind != 1:
            _, _, kind, length = struct.unpack(">QIII", self.read_exactly(20))
            words = self.read_exactly(length)
            if kind & 0x80000000:
                raise OSError(words.decode())

    def abandon(self):
        self.socket.close()

    def read_exactly(self, length):
        parts = []
        while length:
            part = self.socket.recv(length)
            if not part:
                raise EOFError("the connection was cut")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def send(self, kind, block=0, blocks=0, data=b"", flags=0):
        self.cookie += 1
        header = struct.pack(">IHHQQI", 0x25609513, flags, kind, self.cookie, block * BLOCK, blocks * BLOCK)
        self.socket.sendall(header + data)
        return self.cookie

    def answer(self):
        """The number of the request that was carried out next. One that failed is told by `Failed`, with its number."""
        magic, error, cookie = struct.unpack(">IIQ", self.read_exactly(16))
        if magic != 0x67446698:
            raise Wrong("an answer without its magic number")
        if error:
            raise Failed(f"a request failed with error {error}", cookie)
        return cookie

    def read(self, block, blocks):
        """Reads while nothing else is under way."""
        self.send(self.READ, block, blocks)
        self.answer()
        return self.read_exactly(blocks * BLOCK)


def content(block, version):
    """What version `version` of a block holds; nothing but zeros before the first."""
    return struct.pack(">QQ", block, version) * (BLOCK // 16) if version else bytes(BLOCK)


def version_of(block, data):
    """Which version a block's bytes are; `None` when they are none."""
    version = struct.unpack(">Q", data[8:16])[0]
    return version if data == content(block, version) else None
