"""Clients that never rest: they write known data, reconnect, and check that nothing acknowledged is lost or goes back in time.

Every client has blocks of its own, of which it knows what they may hold: the last acknowledged version or any version that was
sent since and never answered. Once a read has shown one of these, it stays. And all clients share a few blocks, written and
read through whichever server answers: there a read must not show what was overwritten before it was asked for. A server that
acknowledges or answers without owning the group is found by one of the two.
"""
import random
import threading
import time

from .nbd import BLOCK, Client, Failed, Wrong, content, version_of
from .world import NODES

SHARED_BLOCKS = 8
DEPTH = 4
WRITE_BLOCKS_MAX = 4
# A client gives a server up that answers nothing for so long; one that keeps to the rules may wait longer.
ANSWER_SECONDS = 4
# Shorter than the kernel's first wait for an answer to a new connection, which hides when the address came.
CONNECT_SECONDS = 0.25
RETRY_SECONDS = 0.02
# Keeps several runs possible beside each other on a small machine.
PAUSE_SECONDS = 0.004
# Writes of a shared block that are remembered.
MEMORY_MAX = 400


class Shared:
    """What every client was told of the shared blocks, and in which order all writes were acknowledged."""

    def __init__(self):
        self.lock = threading.Lock()
        self.version = 0
        # Per block: version -> [sent, known to be done at].
        self.writes = [{0: [0.0, 0.0]} for _ in range(SHARED_BLOCKS)]
        self.wrong = None
        # (time, server, kind of the request) of everything that was answered well.
        self.answers = []
        # Server that acknowledged last, and how often that changed; requests of one server that ended after one of the
        # other began don't count.
        self.last_server, self.last_time, self.changes = None, 0.0, 0

    def next_version(self):
        with self.lock:
            self.version += 1
            return self.version

    def begin(self, block, version):
        with self.lock:
            writes = self.writes[block]
            writes[version] = [time.monotonic(), None]
            if len(writes) > MEMORY_MAX:
                known = sorted((done, version) for version, (_, done) in writes.items() if done is not None)
                for _, old in known[:-MEMORY_MAX // 2]:
                    del writes[old]

    def acknowledged(self, block, version):
        with self.lock:
            entry = self.writes[block].get(version)
            if entry and entry[1] is None:
                entry[1] = time.monotonic()

    def seen(self, block, version, asked, server):
        """A read that was asked for then showed this version."""
        with self.lock:
            writes = self.writes[block]
            if version not in writes:
                # Forgotten, or never written: neither may be shown any more.
                raise Wrong(f"shared block {block}: {server} showed version {version}, which is older than all that are "
                            f"remembered, or was never written")
            sent, done = writes[version]
            for other, (other_sent, other_done) in writes.items():
                if done is not None and other_done is not None and other_sent > done and other_done < asked:
                    raise Wrong(
                        f"shared block {block}: {server} showed version {version}, asked {time.monotonic() - asked:.3f} s "
                        f"ago, although version {other} was done {asked - other_done:.3f} s before that")
            if done is None:
                writes[version][1] = time.monotonic()

    def answered(self, server, sent, kind):
        """Something was carried out well by a server."""
        now = time.monotonic()
        with self.lock:
            self.answers.append((now, server, kind))
            if server not in NODES:
                # Whoever has the floating address.
                return
            if server != self.last_server and sent > self.last_time:
                self.changes += self.last_server is not None
                self.last_server = server
            if server == self.last_server:
                self.last_time = now

    def fail(self, wrong):
        with self.lock:
            self.wrong = self.wrong or wrong

    def gap(self, since, by):
        """Longest time since then without a write that one of these acknowledged."""
        with self.lock:
            times = [when for when, server, kind in self.answers if kind == Client.WRITE and when >= since and server in by]
        before, longest = since, 0.0
        for when in times + [time.monotonic()]:
            longest = max(longest, when - before)
            before = when
        return longest

    def trim(self, before):
        with self.lock:
            self.answers = [answer for answer in self.answers if answer[0] >= before]


class Writer(threading.Thread):
    """One client that tries these servers in turn, for ever, until it rests or something is wrong."""

    pause, patience = PAUSE_SECONDS, ANSWER_SECONDS
    # A client that only reads is not stopped by its own writes, which a server holds that may not serve.
    reads_only = False

    def __init__(self, name, places, shared, first, blocks, seed, export="vol0"):
        super().__init__(daemon=True, name=name)
        # places: name of the server -> address and port.
        self.places, self.shared, self.export = list(places.items()), shared, export
        self.first, self.blocks, self.dice = first, blocks, random.Random(seed)
        self.resting, self.rested, self.over = threading.Event(), threading.Event(), threading.Event()
        # Block -> versions it may hold: the last acknowledged one and all that were never answered since.
        self.possible = {}
        self.acknowledged = self.flushes = self.reads = self.refused = self.errors = self.cuts = 0
        self.under_way, self.busy = {}, set()

    def run(self):
        turn = 0
        try:
            while not self.over.is_set():
                if self.resting.is_set():
                    self.rested.set()
                    time.sleep(RETRY_SECONDS)
                    continue
                self.rested.clear()
                server, where = self.places[turn % len(self.places)]
                turn += 1
                self.session(server, where)
        except Wrong as wrong:
            self.shared.fail(Wrong(f"{self.name}: {wrong}"))
        finally:
            self.rested.set()

    def session(self, server, where):
        try:
            client = Client(where, self.export, self.patience, CONNECT_SECONDS)
        except (OSError, EOFError):
            self.refused += 1
            time.sleep(RETRY_SECONDS)
            return
        self.under_way, self.busy = {}, set()
        try:
            while not self.ending() or self.under_way:
                self.ask(client)
                if self.under_way:
                    self.hear(client, server)
                time.sleep(self.pause)
            if not self.reads_only:
                client.send(Client.FLUSH)
                client.answer()
        except Failed:
            # A request fails when nobody can serve it: its outcome is unknown.
            self.errors += 1
        except (OSError, EOFError):
            self.cuts += 1
        finally:
            client.abandon()

    def ending(self):
        return self.resting.is_set() or self.over.is_set()

    def ask(self, client):
        while len(self.under_way) < DEPTH and not self.ending():
            chance = self.dice.random()
            if self.reads_only:
                self.read_shared(client)
            elif chance < 0.02:
                self.note(client.send(Client.FLUSH), Client.FLUSH, None, None)
            elif chance < 0.15:
                self.ask_shared(client)
            elif chance < 0.3:
                block = self.first + self.dice.randrange(self.blocks)
                if block not in self.busy:
                    may = list(self.possible.get(block, [0]))
                    self.busy.add(block)
                    self.note(client.send(Client.READ, block, 1), Client.READ, block, may)
            else:
                self.ask_write(client)

    def ask_write(self, client):
        count = self.dice.choice((1, 1, 1, WRITE_BLOCKS_MAX))
        first = self.first + self.dice.randrange(self.blocks - count)
        blocks = range(first, first + count)
        # What two writes of the same block leave behind is nobody's business.
        if self.busy.intersection(blocks):
            return
        version = self.shared.next_version()
        for block in blocks:
            self.possible.setdefault(block, [0]).append(version)
        self.busy.update(blocks)
        data = b"".join(content(block, version) for block in blocks)
        flags = Client.FUA if self.dice.random() < 0.05 else 0
        sent = time.monotonic()
        self.note(client.send(Client.WRITE, first, count, data, flags), Client.WRITE, blocks, version, sent)

    def ask_shared(self, client):
        if self.dice.random() < 0.4:
            block = self.dice.randrange(SHARED_BLOCKS)
            version = self.shared.next_version()
            self.shared.begin(block, version)
            sent = time.monotonic()
            self.note(client.send(Client.WRITE, block, 1, content(block, version)), "shared write", block, version, sent)
        else:
            self.read_shared(client)

    def read_shared(self, client):
        block, sent = self.dice.randrange(SHARED_BLOCKS), time.monotonic()
        self.note(client.send(Client.READ, block, 1), "shared read", block, None, sent)

    def note(self, cookie, kind, blocks, version, sent=None):
        self.under_way[cookie] = (kind, blocks, version, sent or time.monotonic())

    def hear(self, client, server):
        cookie = client.answer()
        kind, blocks, what, sent = self.under_way.pop(cookie)
        if kind == Client.FLUSH:
            self.flushes += 1
        elif kind == Client.WRITE:
            for block in blocks:
                self.possible[block] = [what]
            self.busy.difference_update(blocks)
            self.acknowledged += 1
        elif kind == Client.READ:
            self.busy.discard(blocks)
            self.settle(blocks, client.read_exactly(BLOCK), server)
        elif kind == "shared write":
            self.shared.acknowledged(blocks, what)
            kind = Client.WRITE
            self.acknowledged += 1
        else:
            data = client.read_exactly(BLOCK)
            version = version_of(blocks, data)
            if version is None:
                raise Wrong(f"shared block {blocks} of {server} holds what nobody wrote: {data[:32].hex()}")
            self.shared.seen(blocks, version, sent, server)
            kind = Client.READ
        self.reads += kind == Client.READ
        self.shared.answered(server, sent, kind)

    def settle(self, block, data, server):
        """A read has shown what a block of our own holds."""
        version, may = version_of(block, data), self.possible.get(block, [0])
        if version not in may:
            raise Wrong(f"block {block} holds version {version} on {server}, not one of {may}")
        if block in self.possible:
            self.possible[block] = [version]

    def rest(self, seconds):
        """Nothing is under way any more when this returns; False when it took too long."""
        self.resting.set()
        return self.rested.wait(seconds)

    def go_on(self):
        self.rested.clear()
        self.resting.clear()

    def check(self, client, server):
        """Reads back every block that was ever written. Only while resting."""
        step = 64
        for first in range(self.first, self.first + self.blocks, step):
            count = min(step, self.first + self.blocks - first)
            touched = [block for block in range(first, first + count) if block in self.possible]
            if touched:
                data = client.read(first, count)
                for block in touched:
                    self.settle(block, data[(block - first) * BLOCK:(block - first + 1) * BLOCK], server)


class Reader(Writer):
    """Reads what all share, on one server, slower than the others."""
    reads_only, pause = True, 5 * PAUSE_SECONDS


class Guest(Writer):
    """Goes by the floating address, and gives a connection up sooner: a server without power leaves it without an end."""
    patience = 1
