"""What goes wrong: each fault begins, lasts, ends, and says what the operator has to put right afterwards, if anything."""
import time

from .world import NETWORKS, NODES

# Longest a fault lasts, in seconds; a pause or a cut is as long as it likes between this and the shortest.
LAST_MIN, LAST_MAX = 0.1, 5.0


class Fault:
    """One fault. The dice are thrown when it is made, never later: then the same seed makes the same choices."""

    kind = "?"
    # What the mode must have in it.
    needs = None

    def __init__(self, world, dice):
        self.world = world
        self.node = dice.choice(NODES)
        self.lasts = dice.uniform(LAST_MIN, LAST_MAX) ** dice.choice((1, 0.5))
        self.choose(dice)

    def choose(self, dice):
        pass

    @property
    def server(self):
        return self.world.servers[self.node]

    def begin(self):
        raise NotImplementedError

    def end(self):
        raise NotImplementedError

    def settle(self):
        """Waits for what this fault has begun. All faults have ended by then."""

    def __str__(self):
        return f"{self.kind} {self.node} for {self.lasts:.1f} s"


class Kill(Fault):
    """SIGKILL, and a start some time later."""
    kind = "kill"

    def begin(self):
        self.server.kill()

    def end(self):
        self.server.start()


class KillBoth(Fault):
    kind = "kill both"

    def choose(self, dice):
        self.order = dice.sample(NODES, 2)
        self.back = dice.sample(NODES, 2)
        self.between = dice.choice((0, dice.uniform(0, 1.5)))
        self.node = "both"

    def begin(self):
        for node in self.order:
            self.world.servers[node].kill()

    def end(self):
        self.world.servers[self.back[0]].start()
        time.sleep(self.between)
        self.world.servers[self.back[1]].start()


class PowerOff(Fault):
    """Its cables are pulled, its daemon is gone; later another boot of it comes."""
    kind = "power off"

    def begin(self):
        for network in NETWORKS:
            self.world.networks.cut(network, self.node, "cable", id(self))
        self.server.kill()

    def end(self):
        self.world.clear_address(self.node)
        self.server.reboot()
        self.world.networks.mend(id(self))
        self.server.start()


class Stop(Fault):
    """SIGTERM."""
    kind = "stop"

    def begin(self):
        self.server.stop()

    def end(self):
        self.server.start()


class Pause(Fault):
    """SIGSTOP, SIGCONT."""
    kind = "pause"

    def begin(self):
        self.server.pause(True)

    def end(self):
        self.server.pause(False)


class Cut(Fault):
    """Some networks of one server, in one direction, in both, or by the cable."""
    networks = ()

    def choose(self, dice):
        self.how = dice.choice(("from", "to", "both", "both", "cable"))
        self.kind = f"cut {self.word} {'one way' if self.how in ('from', 'to') else self.how}"

    def begin(self):
        hows = ("from", "to") if self.how == "both" else (self.how,)
        for network in self.networks:
            for how in hows:
                self.world.networks.cut(network, self.node, how, id(self))

    def end(self):
        self.world.networks.mend(id(self))

    def __str__(self):
        return f"cut {self.word} of {self.node} ({self.how}) for {self.lasts:.1f} s"


class CutMirror(Cut):
    word, networks = "mirror", ("mirror",)


class CutBeat(Cut):
    word, networks = "beat", ("beat",)


class CutPublic(Cut):
    word, networks = "public", ("public",)


class CutArbiter(Cut):
    word, networks, needs = "arbiter", ("arbiter",), "arbiter"


class CutPeer(Cut):
    """The servers lose each other, not the arbiter nor the clients."""
    word, networks = "peer", ("mirror", "beat")


class CutServers(Cut):
    """Only clients still reach this server."""
    word, networks = "servers", ("mirror", "beat", "arbiter")


class CutAll(Cut):
    word, networks = "all", NETWORKS


class EtcdKill(Fault):
    kind, needs = "etcd kill", "arbiter"

    def choose(self, dice):
        self.node = "etcd"

    def begin(self):
        self.world.etcd.kill()

    def end(self):
        if self.world.etcd.process is None:
            self.world.etcd.start()


class EtcdPause(Fault):
    kind, needs = "etcd pause", "arbiter"

    def choose(self, dice):
        self.node = "etcd"

    def begin(self):
        self.world.etcd.pause(True)

    def end(self):
        self.world.etcd.pause(False)


class DiskFails(Fault):
    """The device ends before its end, or what the file stands on has no room for blocks that were never written."""

    def choose(self, dice):
        disk = self.world.disks[self.node]
        self.left = dice.choice((4096, disk.size // 2, disk.size - 65536))
        self.kind = "disk error" if disk.is_device else "disk full"

    def begin(self):
        self.world.disks[self.node].fail(self.left)

    def end(self):
        self.world.disks[self.node].restore()


class Verb(Fault):
    """An operator at work. Whether it is refused or done is the product's business; it must end."""
    words = ()

    def choose(self, dice):
        self.kind = "verb " + " ".join(self.words[:2])
        self.running = None

    def begin(self):
        if self.server.daemon:
            self.running = self.server.verb(*self.words)

    def end(self):
        pass

    def settle(self):
        if self.running:
            self.server.end_verb(self.running, " ".join(self.words))

    def __str__(self):
        return f"{' '.join(self.words)} on {self.node}"


class Move(Verb):
    words = ("group", "move")


class MoveHere(Verb):
    words = ("group", "move", "--to")

    def choose(self, dice):
        super().choose(dice)
        self.words = (*self.words, dice.choice(NODES))


class Fallback(Verb):
    words = ("group", "fallback")


class Recover(Verb):
    words = ("group", "recover")


class StopGroup(Verb):
    words = ("group", "stop")


class Deactivate(Verb):
    words = ("deactivate",)


class Disable(Verb):
    words = ("group", "disable")


KINDS = (
    (Kill, 6), (KillBoth, 2), (PowerOff, 4), (Stop, 2), (Pause, 6), (CutMirror, 3), (CutBeat, 1), (CutPublic, 2),
    (CutArbiter, 2), (CutPeer, 3), (CutServers, 4), (CutAll, 3), (EtcdKill, 2), (EtcdPause, 2), (DiskFails, 5), (Move, 3),
    (MoveHere, 2), (Fallback, 1), (Recover, 1), (StopGroup, 1), (Deactivate, 1), (Disable, 1))


def throw(world, dice, only):
    """A fault that this world can have, of these kinds, or of any."""
    fitting = [(kind, weight) for kind, weight in KINDS
               if (kind.needs is None or kind.needs in world.mode) and (not only or kind.__name__ in only)]
    kinds, weights = zip(*fitting)
    return dice.choices(kinds, weights)[0](world, dice)
