"""What serves a volume: started, asked for its processor time, ended. Each has a name, a URI for fio, and whether it mirrors."""
import json
import os
import shutil
import signal
import socket
import subprocess
import time

START_SECONDS_MAX = 30
TICKS = os.sysconf("SC_CLK_TCK")
# Room behind the volume for twinblock's own metadata.
METADATA_BYTES = 64 << 20


class Missing(Exception):
    """Why something can't be measured here."""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(what, is_so, process):
    deadline = time.monotonic() + START_SECONDS_MAX
    while not is_so():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args[0]} ended with {process.returncode} while waiting for {what}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{process.args[0]}: {what} did not come in {START_SECONDS_MAX} s")
        time.sleep(0.02)


def accepts(family, address):
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


class Contender:
    """One way to serve a volume, of files in a directory of its own."""

    name = ""
    mirrors = True
    # Whether `copy` copies everything to the other side.
    copies = False

    def __init__(self, directory, size_bytes):
        self.directory = os.path.join(directory, self.name.replace(" ", "-"))
        self.size_bytes = size_bytes
        self.processes = []
        os.mkdir(self.directory)

    def path(self, name):
        return os.path.join(self.directory, name)

    def start(self, *command):
        if shutil.which(command[0]) is None:
            raise Missing(f"{command[0]} is not installed")
        with open(self.path(os.path.basename(command[0]) + ".log"), "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory)
        self.processes.append(process)
        return process

    def file(self, name):
        """A file of the volume's size. Filled through the server, so that no round has to allocate."""
        with open(self.path(name), "wb") as made:
            made.truncate(self.size_bytes)
        return self.path(name)

    def uri(self):
        return f"nbd+unix:///vol0?socket={self.path('nbd.sock')}"

    def fio_arguments(self):
        return ["--ioengine=nbd", f"--uri={self.uri()}"]

    def processor_seconds(self):
        """Of all its processes, threads included, so far."""
        total = 0
        for process in self.processes:
            with open(f"/proc/{process.pid}/stat", encoding="utf-8", errors="replace") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def resident_bytes(self):
        """The most memory its largest process ever had."""
        most = 0
        for process in self.processes:
            with open(f"/proc/{process.pid}/status", encoding="utf-8") as status:
                most = max(most, *(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM")))
        return most

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Twinblock(Contender):
    """Two daemons, a link over loopback TCP; every safety feature is on."""

    name = "twinblock"
    copies = True

    def __init__(self, directory, size_bytes, binary, settings=""):
        super().__init__(directory, size_bytes)
        self.binary = binary
        if not os.access(binary, os.X_OK):
            raise Missing(f"{binary} is not there: cargo build --release")
        mirror = [free_port(), free_port()]
        text = 'cluster = "compare"\nsecret_file = "secret"\n'
        for node, port in zip(("alpha", "beta"), mirror):
            text += f'[[node]]\nname = "{node}"\nmirror = ["127.0.0.1:{port}"]\n'
            text += f'control = "{node}.sock"\nstate_dir = "{node}.d"\n'
        text += f'[[volume]]\nname = "vol0"\nmode = "sync"\n{settings}\n'
        for node, listen in (("alpha", "nbd.sock"), ("beta", "beta-nbd.sock")):
            text += f'[volume.on.{node}]\ndisk = "{node}.img"\nmetadata = "internal"\nnbd = ["unix:{listen}"]\n'
        with open(self.path("pair.toml"), "w", encoding="utf-8") as config:
            config.write(text)
        with open(self.path("secret"), "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as secret:
            secret.write(os.urandom(32).hex() + "\n")
        for node in ("alpha", "beta"):
            self.verb(node, "init-disk", "vol0", "--size", str(size_bytes + METADATA_BYTES))
        for node in ("alpha", "beta"):
            process = self.start(binary, "-c", self.path("pair.toml"), "--node", node, "run", "--die-with-parent")
            wait_until("its control socket", lambda node=node: accepts(socket.AF_UNIX, self.path(f"{node}.sock")), process)
        self.verb("alpha", "promote", "vol0", "--timeout", "20s")
        wait_until("both in sync", lambda: self.status()["in_sync"], self.processes[0])

    def verb(self, node, *arguments):
        command = [self.binary, "-c", self.path("pair.toml"), "--node", node, *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if ran.returncode != 0:
            raise RuntimeError(f"twinblock {' '.join(arguments)}: {ran.stderr.strip()}")
        return ran.stdout

    def status(self):
        return json.loads(self.verb("alpha", "status", "--json"))["volumes"][0]

    def latency(self):
        """Where the time went since it started."""
        return json.loads(self.verb("alpha", "status", "--latency", "--json"))[0]["stages"]

    def copy(self):
        self.verb("alpha", "resync", "vol0", "--full", "--wait", "--yes")
        return self.status()["last_resync"]["milliseconds"] / 1e3


class StorageDaemon(Contender):
    """qemu-storage-daemon that mirrors to a qemu-nbd, every write waiting for both."""

    name = "qemu-storage-daemon"
    copies = True

    def __init__(self, directory, size_bytes):
        super().__init__(directory, size_bytes)
        port = free_port()
        target = self.start("qemu-nbd", "--format=raw", "--cache=none", "--aio=native", "--persistent", "--export-name=target",
                            "--bind=127.0.0.1", f"--port={port}", self.file("target.img"))
        wait_until("its port", lambda: accepts(socket.AF_INET, ("127.0.0.1", port)), target)
        daemon = self.start(
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=file,filename={self.file('source.img')},cache.direct=on,aio=native",
            "--blockdev", "driver=raw,node-name=source,file=file",
            "--blockdev", f"driver=nbd,node-name=target,server.type=inet,server.host=127.0.0.1,server.port={port},export=target",
            "--chardev", f"socket,id=qmp,path={self.path('qmp.sock')},server=on,wait=off", "--monitor", "chardev=qmp",
            "--nbd-server", f"addr.type=unix,addr.path={self.path('nbd.sock')}",
            "--export", "type=nbd,id=export,node-name=source,name=vol0,writable=on")
        wait_until("its sockets", lambda: os.path.exists(self.path("nbd.sock")) and os.path.exists(self.path("qmp.sock")), daemon)
        monitor = socket.socket(socket.AF_UNIX)
        monitor.settimeout(600)
        monitor.connect(self.path("qmp.sock"))
        self.monitor = monitor.makefile("rw")
        self.monitor.readline()
        self.execute("qmp_capabilities")
        self.mirror()

    def execute(self, command, **arguments):
        self.monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.monitor.flush()
        self.event("return")

    def event(self, wanted):
        while True:
            line = json.loads(self.monitor.readline())
            if "error" in line or line.get("event") == "BLOCK_JOB_ERROR":
                raise RuntimeError(f"qemu-storage-daemon: {line}")
            if wanted in line or line.get("event") == wanted:
                return

    def mirror(self):
        self.execute("blockdev-mirror", **{"job-id": "mirror", "device": "source", "target": "target", "sync": "full",
                                           "copy-mode": "write-blocking"})
        self.event("BLOCK_JOB_READY")

    def copy(self):
        self.execute("block-job-cancel", device="mirror")
        self.event("BLOCK_JOB_COMPLETED")
        began = time.monotonic()
        self.mirror()
        return time.monotonic() - began


class QemuNbd(Contender):
    """qemu-nbd, one disk, nothing replicated."""

    name = "qemu-nbd"
    mirrors = False

    def __init__(self, directory, size_bytes):
        super().__init__(directory, size_bytes)
        process = self.start("qemu-nbd", "--format=raw", "--cache=none", "--aio=native", "--persistent", "--export-name=vol0",
                             "--shared=0", f"--socket={self.path('nbd.sock')}", self.file("disk.img"))
        wait_until("its socket", lambda: os.path.exists(self.path("nbd.sock")), process)


class Nbdkit(Contender):
    """nbdkit's file plugin, one disk, nothing replicated; it goes through the page cache."""

    name = "nbdkit"
    mirrors = False

    def __init__(self, directory, size_bytes):
        super().__init__(directory, size_bytes)
        process = self.start("nbdkit", "--foreground", "--exit-with-parent", f"--unix={self.path('nbd.sock')}",
                             "--exportname=vol0", "file", self.file("disk.img"), "cache=none")
        wait_until("its socket", lambda: os.path.exists(self.path("nbd.sock")), process)


class Raw(Contender):
    """No server: fio on two such files at once. What it does on both is a pair: what a mirror without any cost would do."""

    name = "raw files"
    mirrors = False

    def __init__(self, directory, size_bytes):
        super().__init__(directory, size_bytes)
        self.files = [self.file(name) for name in ("one.img", "two.img")]

    def fio_arguments(self):
        return ["--ioengine=io_uring", "--direct=1", f"--filename={self.files[0]}"]

    def second_job(self):
        return [f"--filename={self.files[1]}"]
