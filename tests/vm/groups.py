"""A failover group with a block device, a file system and a service on it: its owner's server dies, again and again."""

import json
import os
import pathlib
import sys

from devices import make_file_system
from pair import FOLDER, MIB, PATIENCE, Pair, run, until
from writer import acknowledged

AT = pathlib.Path("/run/mnt/data")
ACKED = FOLDER / "acked"
WRITER = pathlib.Path(__file__).resolve().parent / "writer.py"
# Emulated processors stand still now and then, so silence is suspected later than by default.
SECTIONS = f"""
[failover]
mode = "arbiter"
suspect_after = "2s"
dead_after = "4s"
stall_after = "30s"
flap_guard = "0s"
[arbiter]
kind = "file"
directory = "{FOLDER}/arbiter"
timeout = "10s"
[[group]]
name = "db"
home = "alpha"
volumes = ["vol0"]
[[group.filesystem]]
name = "data"
device = "/dev/twinblock/vol0"
mount_point = "{AT}"
kind = "ext4"
[[group.service]]
name = "writer"
command = ["{sys.executable}", "{WRITER}", "KIND", "{AT}", "{ACKED}"]
"""


class Group(Pair):
    """A pair whose volume, file system and service move together; `alpha` owns them first."""

    def __init__(self, writes, front_end="auto", size_mib=128):
        super().__init__(size_mib=size_mib, volume=f'front_end = "{front_end}"\n')
        make_file_system("ext4", self.alpha, self.device())
        self.verb("alpha", "demote", "vol0")
        for node in self.NODES:
            self.stop(node)
        (FOLDER / "arbiter").mkdir()
        self.writes = writes
        self.configure(SECTIONS.replace("KIND", writes))
        for node in self.NODES:
            self.start(node)
        self.owned_by("alpha")
        self.fit("alpha")

    def group(self, node):
        return json.loads(self.verb(node, "group", "status", "--json"))[0]["group"]

    def owned_by(self, node):
        """The group is there, and its service writes."""
        def serves():
            group = self.group(node)
            return group["role"] == "owner" and group["serving"]
        until(f"{node} owns the group", serves)
        before = len(acknowledged(ACKED))
        until(f"the service on {node} writes", lambda: len(acknowledged(ACKED)) > before)

    def fit(self, node):
        """The other server could take over."""
        def is_fit():
            return self.status(node)["in_sync"] and self.group(node)["peer_state"][0] in ("normal", "failed-over", "idle")
        until("the standby is fit", is_fit)

    def die(self, node):
        """As a server that loses its power; but its kernel goes on, with what was mounted."""
        server = self.servers[node]
        server.run("ip", "link", "set", "m-" + node, "down")
        self.kill(node)
        space = os.stat(f"/proc/{server.holder.pid}/ns/mnt")
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.path.samestat(os.stat(process / "ns/mnt"), space) and int(process.name) != server.holder.pid:
                    os.kill(int(process.name), 9)
            except (FileNotFoundError, ProcessLookupError):
                pass

    def comes_back(self, node):
        self.servers[node].run("ip", "link", "set", "m-" + node, "up")
        self.start(node)

    def right(self, node):
        """What the service was told to be durable is there, and whole."""
        print(self.servers[node].run(sys.executable, WRITER, "check", self.writes, AT, ACKED).splitlines()[0], flush=True)

    def has_nothing(self, node):
        """No device, no link to one, no mount is left on a server that lost the group."""
        until(f"the device of {node} is gone", lambda: self.status(node)["device"]["state"] == "absent")
        until(f"nothing is mounted on {node}", lambda: str(AT) not in self.servers[node].run("cat", "/proc/mounts"))
        assert self.servers[node].run("ls", "/dev/twinblock") == ""

    def ends_well(self):
        """Stopped in order, both disks are the same, and nothing is wrong with what is on them."""
        # One server alone would go on writing.
        self.verb("alpha", "group", "stop", "db", timeout=PATIENCE)
        until("nobody owns the group", lambda: all(self.group(node)["role"] != "owner" for node in self.NODES))
        self.identical()
        for disk in self.disks.values():
            run("e2fsck", "-f", "-n", disk)


def owner_dies(front_end):
    pair = Group("files", front_end)
    until("some files are written", lambda: len(acknowledged(ACKED)) > 30)
    pair.die("alpha")
    pair.owned_by("beta")
    pair.right("beta")
    pair.comes_back("alpha")
    pair.fit("beta")
    pair.has_nothing("alpha")
    copied = pair.status("beta")["last_resync"]["bytes_copied"]
    assert 0 < copied < 64 * MIB, f"the return copied {copied} bytes of 128 MiB"
    pair.right("beta")
    pair.ends_well()


def scenario_owner_dies_on_ublk():
    """The owner's server dies: the other one mounts, every fsynced file is there, the old one returns by difference."""
    owner_dies("ublk")


def scenario_owner_dies_on_nbd():
    """The same on a device of the kernel's NBD client."""
    owner_dies("nbd-device")


def scenario_five_failovers_under_sqlite():
    """A database with checksums across five deaths in a row: every committed transaction is there."""
    pair = Group("sqlite")
    owner, other = "alpha", "beta"
    for _ in range(5):
        before = len(acknowledged(ACKED))
        until("some transactions are committed", lambda: len(acknowledged(ACKED)) > before + 20)
        pair.die(owner)
        pair.owned_by(other)
        pair.right(other)
        pair.comes_back(owner)
        pair.fit(other)
        pair.has_nothing(owner)
        owner, other = other, owner
    pair.ends_well()


def scenario_group_moves_by_order():
    """A planned move and back: unmounted here, mounted there, no device left behind, no error."""
    pair = Group("sqlite")
    # What is mounted besides would lose its device: it is named.
    pair.alpha.run("mkdir", "-p", "/run/mnt/besides")
    pair.alpha.run("mount", "/dev/twinblock/vol0", "/run/mnt/besides")
    refused = pair.verb_or_error("alpha", "group", "move", "db")
    assert "mounted at /run/mnt/besides" in refused and str(AT) not in refused, refused
    pair.alpha.run("umount", "/run/mnt/besides")
    for owner, other in [("alpha", "beta"), ("beta", "alpha")]:
        pair.verb(owner, "group", "move", "db", timeout=PATIENCE)
        pair.owned_by(other)
        pair.right(other)
        pair.has_nothing(owner)
        pair.fit(other)
    pair.ends_well()


for scenario in [scenario_owner_dies_on_ublk, scenario_owner_dies_on_nbd, scenario_five_failovers_under_sqlite]:
    scenario.expects_errors = True
for scenario in [scenario_owner_dies_on_ublk, scenario_five_failovers_under_sqlite, scenario_group_moves_by_order]:
    scenario.kernel = "6.18"
