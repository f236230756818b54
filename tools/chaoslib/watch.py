"""Watches both servers from outside, all the time: on which of them is the floating address?"""
import errno
import socket
import threading
import time

from .nbd import Wrong
from .world import FLOATING, NODES, inside

LOOK_SECONDS = 0.005
# Both servers may have the address only while one of them can't take it off: its daemon does not run. This long after it
# runs again, or was told that it must not have it any more, it is off. The product takes milliseconds; the machine is busy.
BOTH_SECONDS_MAX = 2.0


class AddressWatch(threading.Thread):
    """Samples; `longest` is the longest time both had it while both daemons ran."""

    def __init__(self, world, shared):
        super().__init__(daemon=True, name="addresses")
        self.world, self.shared, self.over = world, shared, threading.Event()
        self.longest, self.looks, self.excused = 0.0, 0, 0.0
        self.probes = {}
        self.held = {node: False for node in NODES}
        self.start()

    def probe(self, node):
        """Whether the address is on that server: only then can a socket be bound to it."""
        probe = self.probes.get(node)
        if probe is None:
            with inside(node):
                probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.probes[node] = probe
        try:
            probe.bind((FLOATING, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
        probe.close()
        del self.probes[node]
        return True

    def run(self):
        both_since, last = None, time.monotonic()
        try:
            while not self.over.is_set():
                self.held = {node: self.probe(node) for node in NODES}
                now = time.monotonic()
                running = [self.world.servers[node].runs_since for node in NODES]
                # Looks that came too late tell nothing of what was between them.
                late = now - last > 20 * LOOK_SECONDS
                if not all(self.held.values()) or late:
                    both_since = None
                elif None in running:
                    self.excused += now - last
                    both_since = None
                else:
                    both_since = max(both_since or now, *running)
                    self.longest = max(self.longest, now - both_since)
                    if now - both_since > BOTH_SECONDS_MAX:
                        raise Wrong(f"both servers have {FLOATING} for {now - both_since:.2f} s, and both daemons run")
                self.looks += 1
                last = now
                time.sleep(LOOK_SECONDS)
        except Wrong as wrong:
            self.shared.fail(wrong)
        finally:
            for probe in self.probes.values():
                probe.close()
