"""Two servers, an arbiter and the networks between them, on one machine, in namespaces that go when this process goes.

    alpha ── mirror ── beta      replication link, first heartbeat path          10.77.1.0/24
    alpha ── beat ──── beta      second heartbeat path                           10.77.2.0/24
    alpha ── public ── beta      clients (this process) and the floating address 10.77.3.0/24
    alpha ── arbiter ─ beta      etcd                                            10.77.4.0/24

Each network is a bridge in this process's own network namespace; alpha is .1, beta .2, this process .9. A path is cut in one
direction or both at the server's port of the bridge, in silence, or by pulling the cable, which the server's kernel sees.
"""
import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import threading
import time

from .nbd import Wrong

NODES = ("alpha", "beta")
NETWORKS = ("mirror", "beat", "public", "arbiter")
FLOATING = "10.77.3.100"
NBD_PORT = 10809
ETCD = "10.77.4.9:2379"
VERB_SECONDS_MAX = 90
STOP_SECONDS_MAX = 60
# What a verb may end with; see the README.
VERB_ENDS = range(8)
CLONE_NEWNET = 0x40000000
LOOP_SET_STATUS64, LOOP_GET_STATUS64, LOOP_AUTOCLEAR = 0x4C04, 0x4C05, 4


def run(*words, check=True):
    ran = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if check and ran.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {ran.stderr.strip()}")
    return ran.stdout


def address(network, node):
    host = 9 if node is None else NODES.index(node) + 1
    return f"10.77.{NETWORKS.index(network) + 1}.{host}"


@contextlib.contextmanager
def inside(node):
    """The calling thread is in the network namespace of a server meanwhile: what sockets it makes stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/self/task/{threading.get_native_id()}/ns/net") as own, open(f"/run/netns/{node}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if libc.setns(own.fileno(), CLONE_NEWNET):
                os.abort()


class Networks:
    """The bridges, and what is cut of them. A cut is a word, so that two faults may cut the same path and one end first."""

    def __init__(self):
        os.makedirs("/run/netns", exist_ok=True)
        run("mount", "-t", "tmpfs", "none", "/run/netns")
        run("ip", "link", "set", "lo", "up")
        self.cuts, self.macs = {}, {}
        for node in NODES:
            run("ip", "netns", "add", node)
            run("ip", "-n", node, "link", "set", "lo", "up")
        for network in NETWORKS:
            run("ip", "link", "add", network, "type", "bridge", "mcast_snooping", "0")
            run("ip", "link", "set", network, "up")
            run("ip", "address", "add", address(network, None) + "/24", "dev", network)
            for node in NODES:
                port = f"{network}-{node}"
                run("ip", "link", "add", port, "type", "veth", "peer", "name", network, "netns", node)
                run("ip", "link", "set", port, "master", network, "up")
                run("ip", "-n", node, "link", "set", network, "up")
                run("ip", "-n", node, "address", "add", address(network, node) + "/24", "dev", network)
                told = json.loads(run("ip", "-n", node, "-j", "link", "show", network))
                self.macs[port] = told[0]["address"]

    def cut(self, network, node, how, by):
        """`how`: `from` the server, `to` it, or `cable`."""
        self.cuts.setdefault((network, node), set()).add((how, by))
        self.apply(network, node)

    def mend(self, by):
        for (network, node), cuts in self.cuts.items():
            kept = {cut for cut in cuts if cut[1] != by}
            if kept != cuts:
                self.cuts[(network, node)] = kept
                self.apply(network, node)

    def apply(self, network, node):
        hows, port = {how for how, _ in self.cuts[(network, node)]}, f"{network}-{node}"
        on = {True: "on", False: "off"}
        # A locked port lets nothing in from an address it has not learnt, and learns none; a port that is not flooded gets
        # nothing for an address that was not learnt.
        run("bridge", "link", "set", "dev", port, "locked", on["from" in hows], "learning", on[not {"from", "to"} & hows],
            "flood", on["to" not in hows], "mcast_flood", on["to" not in hows], "bcast_flood", on["to" not in hows])
        if {"from", "to"} & hows:
            run("bridge", "fdb", "del", self.macs[port], "dev", port, "master", check=False)
        run("ip", "link", "set", port, "down" if "cable" in hows else "up")


class Disk:
    """A disk on a file system of its own: a plain file, for which there may be no room, or a loop device over one, which may
    shrink under the daemon. Not a loop device without room: the kernel calls a write whole of which it wrote a part."""

    def __init__(self, folder, node, size, is_device):
        self.folder, self.size, self.is_device, self.descriptor = os.path.join(folder, f"{node}.store"), size, is_device, None
        os.makedirs(self.folder)
        run("mount", "-t", "tmpfs", "-o", f"size={size + (1 << 20)}", "none", self.folder)
        self.file = self.path = os.path.join(self.folder, "disk")
        with open(self.file, "wb") as file:
            file.truncate(size)
        if is_device:
            self.path = run("losetup", "--find", "--show", self.file).strip()
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            # Gone with the last who has it open.
            self.change(flags=LOOP_AUTOCLEAR)

    def change(self, limit=0, flags=None):
        status = bytearray(232)
        fcntl.ioctl(self.descriptor, LOOP_GET_STATUS64, status)
        struct.pack_into("=Q", status, 32, limit)
        if flags is not None:
            struct.pack_into("=I", status, 52, flags)
        fcntl.ioctl(self.descriptor, LOOP_SET_STATUS64, bytes(status))

    def fail(self, left):
        """Nothing behind this many bytes can be read or written; of a plain file, nothing that was never written."""
        if self.is_device:
            self.change(limit=left)
            return
        with contextlib.suppress(OSError), open(os.path.join(self.folder, "ballast"), "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    def restore(self):
        if self.is_device:
            self.change(limit=0)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.folder, "ballast"))

    def end(self):
        if self.is_device:
            os.close(self.descriptor)


class Etcd:
    """Debian's etcd, one member."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        self.start()

    def start(self):
        url, peer = f"http://{ETCD}", f"http://{address('arbiter', None)}:2380"
        with open(os.path.join(self.folder, "etcd.log"), "a") as log:
            self.process = subprocess.Popen(
                ["etcd", "--name", "m0", "--data-dir", os.path.join(self.folder, "etcd"), "--listen-client-urls", url,
                 "--advertise-client-urls", url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                 "--initial-cluster", f"m0={peer}", "--logger", "zap", "--log-level", "error"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={})

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self, on):
        if self.process:
            self.process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)


class Server:
    """One server: a network namespace, a disk, a daemon."""

    def __init__(self, world, node):
        self.world, self.node, self.daemon = world, node, None
        self.paused = False
        # When the daemon was last started or continued.
        self.runs_since = None
        self.boot = os.path.join(world.folder, f"{node}.boot")
        self.reboot()

    def reboot(self):
        """From here on its kernel is another one, as the daemon sees it."""
        with open(self.boot, "w") as file:
            file.write(open("/proc/sys/kernel/random/uuid").read())

    def verb(self, *words):
        """A verb under way, in this server's namespaces."""
        return subprocess.Popen(
            self.within(self.world.binary, "-c", "pair.toml", "--node", self.node, *words), cwd=self.world.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def within(self, *words):
        boot = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
        return ["nsenter", f"--net=/run/netns/{self.node}", "unshare", "--mount", "sh", "-c", boot, self.boot, *words]

    def end_verb(self, process, what):
        """Its exit code and what it said."""
        try:
            out, err = process.communicate(timeout=VERB_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Wrong(f"`{what}` on {self.node} hangs") from None
        if process.returncode not in VERB_ENDS:
            raise Wrong(f"`{what}` on {self.node} ended with {process.returncode}: {err.strip()}")
        return process.returncode, out, err.strip()

    def done(self, *words):
        return self.end_verb(self.verb(*words), " ".join(words))

    def group(self):
        """The group as the daemon shows it; `None` when it can't be asked."""
        code, out, _ = self.done("group", "status", "--json")
        return json.loads(out)[0]["group"] if code == 0 else None

    def volumes(self):
        code, out, _ = self.done("status", "--json")
        return json.loads(out)["volumes"] if code == 0 else None

    def start(self):
        if self.daemon:
            return
        with open(self.world.path(f"{self.node}.log"), "a") as log:
            # A death of this daemon that nobody ordered is found by its log and exit code.
            self.daemon = subprocess.Popen(
                self.within(self.world.binary, "-c", "pair.toml", "--node", self.node, "run", "--log", self.world.log),
                cwd=self.world.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                env={**os.environ, "RUST_BACKTRACE": "1"})
        with open(self.world.path(f"{self.node}.pid"), "w") as file:
            file.write(str(self.daemon.pid))
        self.paused, self.runs_since = False, time.monotonic()

    def kill(self):
        if self.daemon:
            self.runs_since = None
            self.daemon.kill()
            self.forget()

    def forget(self):
        self.daemon.wait()
        self.daemon, self.runs_since = None, None

    def stop(self):
        """In order."""
        if not self.daemon:
            return
        daemon = self.daemon
        daemon.terminate()
        try:
            code = daemon.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Wrong(f"the daemon of {self.node} did not stop in time") from None
        if code not in (0, 1, -signal.SIGKILL):
            raise Wrong(f"the daemon of {self.node} ended with {code} when it was to stop in order")
        if self.daemon is daemon:
            self.forget()

    def pause(self, on):
        if not self.daemon:
            return
        if on:
            self.runs_since = None
        self.daemon.send_signal(signal.SIGSTOP if on else signal.SIGCONT)
        self.paused = on
        if not on:
            self.runs_since = time.monotonic()

    def check_alive(self):
        """A daemon ends when it is told to, killed by us, or switched off by the other server. By nothing else."""
        code = self.daemon.poll() if self.daemon else None
        if code is None:
            return
        self.forget()
        if code == -signal.SIGKILL and self.world.was_fenced(self.node):
            return
        raise Wrong(f"the daemon of {self.node} ended by itself with {code}, see {self.node}.log")

    def nbd(self, volume):
        return address("public", self.node), NBD_PORT + volume


class World:
    """Everything of one run."""

    def __init__(self, binary, folder, options, dice):
        self.binary, self.folder, self.log, self.mode = os.path.abspath(binary), folder, options.log, options.mode
        self.networks, self.etcd = Networks(), None
        if "arbiter" in self.mode:
            self.etcd = Etcd(folder)
        self.disks = {node: Disk(folder, node, options.size, dice.random() < 0.5) for node in NODES}
        self.servers = {node: Server(self, node) for node in NODES}
        with os.fdopen(os.open(self.path("secret"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(os.urandom(32).hex() + "\n")
        self.external = dice.random() < 0.5
        with open(self.path("pair.toml"), "w") as file:
            file.write(self.configuration(options))

    def path(self, name):
        return os.path.join(self.folder, name)

    def configuration(self, options):
        text = 'cluster = "chaos"\nsecret_file = "secret"\n'
        for node in NODES:
            text += (f'[[node]]\nname = "{node}"\nmirror = ["{address("mirror", node)}:7101"]\n'
                     f'heartbeat = ["{address("mirror", node)}:7201", "{address("beat", node)}:7201"]\n'
                     f'control = "{node}.sock"\nstate_dir = "{node}.d"\n')
        text += f'[failover]\nmode = "{self.mode}"\n{options.failover}\n'
        if self.etcd:
            text += f'[arbiter]\nkind = "etcd"\nendpoints = ["http://{ETCD}"]\n'
        if "fencing" in self.mode:
            for node in NODES:
                text += f'[fencing.{node}]\nscript = "{self.path("fence")}"\n'
            self.write_fence_script(options.lying_fence)
        text += f'[[volume]]\nname = "vol0"\n{options.volume}\n'
        for node in NODES:
            text += f'[volume.on.{node}]\ndisk = "{self.disks[node].path}"\n'
            if self.external:
                text += f'metadata = "{self.path(node + ".meta")}"\n'
            host, port = self.servers[node].nbd(0)
            text += f'nbd = ["tcp:{host}:{port}", "tcp:{FLOATING}:{NBD_PORT}"]\n'
        script = f'["/bin/sh", "-c", "echo $TWINBLOCK_NODE $TWINBLOCK_VERB $TWINBLOCK_EVENT >> {self.path("told")}"]'
        text += ('[[group]]\nname = "db"\nhome = "alpha"\nvolumes = ["vol0"]\n'
                 f'[[group.address]]\nname = "ip"\naddress = "{FLOATING}"\n'
                 f'[[group.script]]\nname = "hook"\nstart = {script}\nstop = {script}\n')
        return text

    def write_fence_script(self, lies):
        """Switches a server off: its daemon is killed, its address is gone. What is off stays so until it is started. Or only
        says so, to see that what comes of it is found."""
        text = "#!/bin/sh\n[ $1 = status ] && exit 3\nexit 0\n" if lies else f"""#!/bin/sh
cd "{self.folder}" || exit 1
case $1 in
off)
    touch "$2.fenced"
    kill -9 "$(cat "$2.pid")" 2>/dev/null
    i=0
    while [ -d "/proc/$(cat "$2.pid")" ] && ! grep -q "^State:.Z" "/proc/$(cat "$2.pid")/status"; do
        i=$((i + 1)); [ $i -gt 500 ] && exit 1
        sleep 0.01
    done
    for address in $(nsenter --net=/run/netns/$2 ip -4 -o address show dev public | sed 's/.*inet \\([^ ]*\\).*/\\1/'); do
        case $address in {FLOATING}/*) nsenter --net=/run/netns/$2 ip address del "$address" dev public || exit 1 ;; esac
    done
    exit 0 ;;
status) [ -e "$2.fenced" ] && exit 2; exit 0 ;;
*) exit 0 ;;
esac
"""
        with open(self.path("fence"), "w") as file:
            file.write(text)
        os.chmod(self.path("fence"), 0o700)

    def was_fenced(self, node):
        return os.path.exists(self.path(f"{node}.fenced"))

    def unfence(self, node):
        """The server was switched on again: another boot."""
        os.unlink(self.path(f"{node}.fenced"))
        self.servers[node].reboot()

    def clear_address(self, node):
        """No power, no address."""
        run("ip", "-n", node, "address", "del", f"{FLOATING}/24", "dev", "public", check=False)

    def initialise(self):
        for node in NODES:
            code, out, err = self.servers[node].done("init-disk", "vol0", "--zero", "--yes")
            if code != 0:
                raise Wrong(f"init-disk on {node} ended with {code}: {out}{err}")
            # So that there is something for which a full file system has no room.
            run("fallocate", "--dig-holes", self.disks[node].file)

    def end(self):
        for server in self.servers.values():
            if server.daemon:
                server.daemon.kill()
                server.daemon.wait()
        if self.etcd:
            self.etcd.kill()
        for disk in self.disks.values():
            disk.end()

    def keep(self, to):
        """Copies what explains a failure to where it outlasts this process."""
        ignored = shutil.ignore_patterns("*.sock", "*.store", "etcd")
        shutil.copytree(self.folder, to, dirs_exist_ok=True, ignore=ignored)
