"""Network namespaces joined by veth pairs, and the programs in them. Everything made here is taken down by `close`."""
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
# What a NIC would do late or early: frames are captured as they are on a wire only without it.
OFFLOADS = ("tx", "rx", "sg", "tso", "gso", "gro", "lro", "rxvlan", "txvlan")


class Network:
    """Namespaces named by role ("client", "server", "middle" …), interfaces, processes and at most one capture."""

    def __init__(self, scratch, target, dump="tcpdump"):
        self.scratch, self.target, self.dump = Path(scratch), Path(target), dump
        self.spaces, self.processes, self.wires = [], [], 0

    def name(self, space):
        return f"mosrec{os.getpid()}-{space}"

    def command(self, space, *command):
        return ["ip", "netns", "exec", self.name(space), *map(str, command)]

    def space(self, name, v6=False):
        """A new namespace with its loopback up; without `v6` it says nothing over IPv6."""
        subprocess.run(["ip", "netns", "add", self.name(name)], check=True)
        self.spaces.append(name)
        self.run(name, "ip", "link", "set", "lo", "up")
        if not v6:
            self.setting(name, "ipv6/conf/all/disable_ipv6", 1)
            self.setting(name, "ipv6/conf/default/disable_ipv6", 1)
        self.setting(name, "ipv6/conf/default/router_solicitations", 0)

    def setting(self, space, path, value):
        """Set a sysctl below net/ in one namespace."""
        self.run(space, "sh", "-c", f"echo {value} > /proc/sys/net/{path}")

    def wire(self, a, a_device, b, b_device):
        """A veth pair between two namespaces, with fixed MACs and every offload off."""
        subprocess.run(["ip", "link", "add", a_device, "netns", self.name(a), "type", "veth",
                        "peer", "name", b_device, "netns", self.name(b)], check=True)
        for space, device in ((a, a_device), (b, b_device)):
            self.wires += 1
            self.run(space, "ip", "link", "set", device, "address", f"02:77:00:00:00:{self.wires:02x}")
            for what in OFFLOADS:
                subprocess.run(self.command(space, "ethtool", "-K", device, what, "off"), capture_output=True)
            self.run(space, "ip", "link", "set", device, "up")

    def address(self, space, number, v6=False):
        """10.77.0.<number> (and fd77::<number>) on eth0."""
        self.run(space, "ip", "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
        if v6:
            self.run(space, "ip", "address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")

    def run(self, space, *command, ok=(0,), **options):
        """Run a program to its end and return its output; an exit status not in `ok` raises."""
        done = subprocess.run(self.command(space, *command), capture_output=True, text=True, timeout=60, **options)
        if done.returncode not in ok:
            raise RuntimeError(f"{' '.join(map(str, command))} in {space}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def spawn(self, space, *command, port=None, says=None):
        """Start a program; return when it listens on TCP or UDP `port`, or when its stderr has `says`."""
        log = open(self.scratch / f"{len(self.processes)}.log", "w+")
        process = subprocess.Popen(self.command(space, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)
        for _ in range(100):
            log.seek(0)
            text = log.read()
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended at once: {text.strip()}")
            if says and says in text:
                return process
            if port and f":{port} " in self.run(space, "ss", "-Hltun") + " ":
                return process
            time.sleep(0.05)
        raise RuntimeError(f"{command[0]} is not ready after 5 s: {text.strip()}")

    def end(self, process, how=signal.SIGTERM):
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextmanager
    def capture(self, space="client", device="eth0", limit=""):
        """Capture on one interface, whole frames, nanoseconds, for the duration of the `with` block."""
        if self.dump == "dumpcap":
            command = ["dumpcap", "-q", "-i", device, "-s", "0", "-w", self.target]
            says = "File:"
        else:
            command = ["tcpdump", "-i", device, "-s", "0", "-n", "-U", "--immediate-mode", "-Z", "root",
                       "--time-stamp-precision=nano", "-w", self.target]
            says = "listening on"
        if limit:
            command += ["-f", limit] if self.dump == "dumpcap" else [limit]
        process = self.spawn(space, *command, says=says)
        time.sleep(0.3)
        yield
        time.sleep(1.5)     # the last frames leave the ring buffer within its time-out of one second
        self.end(process, signal.SIGINT)

    def close(self):
        for process in reversed(self.processes):
            self.end(process)
        for space in self.spaces:
            subprocess.run(["ip", "netns", "delete", self.name(space)], check=False)


def direct(net, v6=False):
    """client (10.77.0.1) and server (10.77.0.2) on one wire."""
    net.space("client", v6)
    net.space("server", v6)
    net.wire("client", "eth0", "server", "eth0")
    net.address("client", 1, v6)
    net.address("server", 2, v6)


def through_relay(net, python, *options):
    """client and server with relay.py between them, which does to frames what its options say."""
    for name in ("client", "middle", "server"):
        net.space(name)
    net.wire("client", "eth0", "middle", "left")
    net.wire("middle", "right", "server", "eth0")
    net.address("client", 1)
    net.address("server", 2)
    net.spawn("middle", python, "-u", HERE / "relay.py", "left", "right", *options, says="ready")


def over_trunk(net, python, tag):
    """client and server, and between them two switches that tag what passes between them: capture "trunk" in "west"."""
    for name in ("client", "west", "east", "server"):
        net.space(name)
    net.wire("client", "eth0", "west", "access")
    net.wire("west", "trunk", "east", "trunk")
    net.wire("east", "access", "server", "eth0")
    net.address("client", 1)
    net.address("server", 2)
    for name in ("west", "east"):
        net.spawn(name, python, "-u", HERE / "relay.py", "access", "trunk", "--tag", tag, says="ready")
