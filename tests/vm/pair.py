"""Two servers in one guest: network namespaces, RAM disks, daemons; and what scenarios do with them."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

BINARY = os.path.abspath(os.environ.get("TWINBLOCK", "target/release/twinblock"))
FOLDER = pathlib.Path("/run/twins")
MIB = 1 << 20
# Emulated and on a busy machine: a bound for hangs, not a measure of anything.
PATIENCE = 120

pairs = []


def run(*words, check=True, timeout=PATIENCE, **more):
    """A program to its end; its output."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=timeout, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def until(what, look, timeout=PATIENCE):
    """Looks again and again until it is so."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.1)


def kernel_errors():
    """Lines of the kernel's log that no scenario without a fault may cause."""
    wrong = re.compile(r"I/O error|Buffer I/O|EXT4-fs error|XFS.*(corrupt|shutdown|error)|hung task|blocked for more than"
                       r"|BUG:|WARNING:|Oops|lockdep", re.IGNORECASE)
    log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    return [line for line in log.splitlines() if wrong.search(line)]


class Server:
    """A server: a network namespace and a mount namespace, held by a process that does nothing."""

    def __init__(self, node, address):
        self.node, self.address, self.daemon = node, address, None
        self.log = FOLDER / f"{node}.log"
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "sleep", "infinity"])
        self.space = ["nsenter", "-t", str(self.holder.pid), "--net", "--mount"]
        until("the server's namespaces", lambda: os.readlink(f"/proc/{self.holder.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt"))
        self.run("ip", "link", "set", "lo", "up")
        self.run("mkdir", "-p", "/dev/twinblock")
        self.run("mount", "-t", "tmpfs", node, "/dev/twinblock")

    def run(self, *words, **more):
        """A program on this server."""
        return run(*self.space, *words, **more)

    def begin(self, *words, **more):
        """The same, not waited for."""
        return subprocess.Popen([*self.space, *map(str, words)], **more)

    def python(self, text):
        return self.run("python3", "-c", text)


class Pair:
    """Two servers and one volume, `alpha` its primary unless told otherwise. Its disks are RAM disks, or those given."""

    NODES = ("alpha", "beta")

    def __init__(self, size_mib=192, volume="", sections="", promote=True, disks=None):
        pairs.append(self)
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        if not disks:
            run("modprobe", "brd", "rd_nr=4", f"rd_size={size_mib << 10}")
        elif disks == "files":
            for node in self.NODES:
                run("truncate", "-s", size_mib * MIB, FOLDER / node)
            disks = [FOLDER / node for node in self.NODES]
        self.disks = dict(zip(self.NODES, disks or ("/dev/ram0", "/dev/ram1")))
        self.servers = {node: Server(node, address) for node, address in zip(self.NODES, ("10.9.0.1", "10.9.0.2"))}
        self.alpha, self.beta = self.servers["alpha"], self.servers["beta"]
        run("ip", "link", "add", "m-alpha", "netns", self.alpha.holder.pid, "type", "veth", "peer", "name", "m-beta",
            "netns", self.beta.holder.pid)
        for node, server in self.servers.items():
            server.run("ip", "address", "add", server.address + "/24", "dev", "m-" + node)
            server.run("ip", "link", "set", "m-" + node, "up")
        self.nodes = "".join(
            f'[[node]]\nname = "{node}"\nmirror = ["{server.address}:7101"]\nheartbeat = ["{server.address}:7201"]\n'
            f'control = "{FOLDER}/{node}.sock"\nstate_dir = "{FOLDER}/{node}.d"\n'
            for node, server in self.servers.items())
        self.config, self.volume = FOLDER / "pair.toml", volume
        self.configure(sections)
        secret = FOLDER / "secret"
        secret.touch(mode=0o600)
        secret.write_text("0123456789abcdef0123456789abcdef0123456789abcdef\n")
        for node in self.NODES:
            run("blkdiscard", "-f", self.disks[node], check=False)
            self.verb(node, "init-disk", "vol0", "--zero", "--yes")
            self.start(node)
        if promote:
            self.verb("alpha", "promote", "vol0")
            self.in_sync("alpha")

    def configure(self, sections=""):
        """Writes the configuration; daemons read it when they start."""
        places = "".join(f'[volume.on.{node}]\ndisk = "{self.disks[node]}"\n' for node in self.NODES)
        self.config.write_text('cluster = "vm"\nsecret_file = "secret"\n' + self.nodes +
                               f'[[volume]]\nname = "vol0"\n{self.volume}{places}{sections}')

    def words(self, node, *words):
        return [BINARY, "-c", self.config, "--node", node, *words]

    def verb(self, node, *words, **more):
        return self.servers[node].run(*self.words(node, *words), **more)

    def start(self, node, before=()):
        """Starts the daemon, by way of these words before its own."""
        server = self.servers[node]
        log = open(server.log, "ab")
        server.daemon = server.begin(*before, *self.words(node, "run"), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(f"{node} answers", lambda: "ended with" not in self.verb_or_error(node, "status"))

    def verb_or_error(self, node, *words):
        try:
            return self.verb(node, *words)
        except AssertionError as error:
            return str(error)

    def kill(self, node):
        """As a crash of the daemon."""
        daemon, self.servers[node].daemon = self.servers[node].daemon, None
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(PATIENCE)

    def stop(self, node):
        """In order; its exit status."""
        daemon, self.servers[node].daemon = self.servers[node].daemon, None
        daemon.terminate()
        return daemon.wait(PATIENCE)

    def status(self, node):
        return json.loads(self.verb(node, "status", "--json"))["volumes"][0]

    def in_sync(self, node):
        until(f"{node} in sync", lambda: self.status(node)["in_sync"])

    def device(self, node="alpha"):
        """The stable link, once the device is live."""
        until(f"the device of {node} is live", lambda: self.status(node)["device"]["state"] == "live")
        return "/dev/twinblock/vol0"

    def running(self):
        return [node for node, server in self.servers.items() if server.daemon]

    def identical(self):
        """Both disks hold the same, once everything is flushed and in sync."""
        for node in self.running():
            self.in_sync(node)
        size = self.status(self.running()[0])["size_bytes"]
        for node in self.running():
            code = self.stop(node)
            assert code == 0, f"{node} did not stop in order: {code}"
        run("cmp", "-n", size, self.disks["alpha"], self.disks["beta"])

    def show(self):
        for node, server in self.servers.items():
            if server.daemon:
                print(f"-- status of {node}\n{self.verb_or_error(node, 'status')}")
                if "[[group]]" in self.config.read_text():
                    print(self.verb_or_error(node, "group", "status"))
                print(server.run("cat", "/proc/mounts"), server.run("ls", "-l", "/dev/twinblock"))
            text = server.log.read_text(errors="replace") if server.log.exists() else ""
            print(f"-- log of {node}\n{text[-4000:]}")
        run("sh", "-c", "echo w > /proc/sysrq-trigger")
        print("-- kernel\n" + "\n".join(run("dmesg").splitlines()[-60:]))

    def end(self):
        for server in self.servers.values():
            if server.daemon:
                server.daemon.kill()
                server.daemon.wait(PATIENCE)
            server.holder.kill()
            server.holder.wait(PATIENCE)


def reset():
    """Ends every pair and takes away what it left. After a scenario that passed, nothing of it is in use."""
    for pair in pairs:
        pair.end()
    pairs.clear()
    run("modprobe", "-r", "ublk_drv", check=False)
    run("modprobe", "-r", "nbd", check=False)
    run("modprobe", "-r", "brd", check=False)
    run("modprobe", "-r", "scsi_debug", check=False)


def mount_point(name="mnt"):
    path = pathlib.Path("/run/mnt") / name
    path.mkdir(parents=True, exist_ok=True)
    return path
