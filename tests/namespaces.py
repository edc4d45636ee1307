"""Two hosts and a middlebox between them, each in a network namespace: client c0 - m0 [box] m1 - s0 server.

As root, else in a user namespace. All of it goes with the processes that keep it, whatever becomes of us.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAMS = {"ip": "iproute2", "ethtool": "ethtool", "unshare": "util-linux", "nsenter": "util-linux"}
CLIENT, SERVER = "10.77.0.1", "10.77.0.2"
# What the senders leave to the card. On veth "full" gives super-packets of 64 KB with unfinished checksums, "wire" frames as
# a cable carries them.
OFFLOADS = {"full": "tso on gso on gro on tx on", "sums": "tso off gso off gro off tx on",
            "wire": "tso off gso off gro off tx off"}
MOS = [sys.executable, "-m", "mos"]


def why_not():
    """Why there can be no namespaces here; "" if there can."""
    absent = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if absent:
        return f"apt-get install {' '.join(absent)}"
    tried = subprocess.run([*unshare(), "ip", "link", "add", "m0", "type", "veth", "peer", "m1"],
                           capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else ""


def need():
    """Skip, and be seen, where there can be no namespaces."""
    reason = why_not()
    if reason:
        pytest.skip(f"live interfaces were NOT tried: {reason}")


def unshare():
    return ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-Urn"]


class Host:
    """A namespace, kept by a process that ends with us."""

    def __init__(self, first=None):
        into = unshare() if first is None else [*first.enter, "unshare", "-n"]
        self.keeper = subprocess.Popen([*into, "sh", "-c", "echo $$; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = int(self.keeper.stdout.readline())
        users = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        self.enter = ["nsenter", "-t", str(self.pid), *users, "-n", "--"]
        self.run("sh", "-c", "for f in all default; do echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6; done")
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *words, **kwargs):
        """A command to its end; raises if it fails."""
        how = {"check": True, "capture_output": True, "text": True, "timeout": 60} | kwargs
        return subprocess.run([*self.enter, *map(str, words)], **how)

    def start(self, *words, **kwargs):
        return subprocess.Popen([*self.enter, *map(str, words)],
                                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | kwargs)

    def close(self):
        self.keeper.stdin.close()
        self.keeper.stdout.close()
        self.keeper.wait()


class Bed:
    """The three namespaces and their cables."""

    def __init__(self, mtu=1500):
        self.client = Host()
        self.box, self.server = Host(self.client), Host(self.client)
        self.mtu = mtu
        self.cable(self.client, "c0", "m0", CLIENT)
        self.cable(self.server, "s0", "m1", SERVER)

    def cable(self, host, theirs, ours, address):
        host.run("ip", "link", "add", theirs, "mtu", self.mtu, "type", "veth",
                 "peer", "name", ours, "mtu", self.mtu, "netns", self.box.pid)
        host.run("ip", "address", "add", f"{address}/24", "dev", theirs)
        host.run("ip", "link", "set", theirs, "up")
        self.box.run("ip", "link", "set", ours, "up")

    def offload(self, mode):
        """What the hosts leave to their cards; ours only stops merging."""
        words = OFFLOADS[mode].split()
        for host, device in ((self.client, "c0"), (self.server, "s0")):
            host.run("ethtool", "-K", device, *words)
        for device in ("m0", "m1"):
            self.box.run("ethtool", "-K", device, "gro", "on" if mode == "full" else "off")

    def bridge(self):
        """The kernel's bridge in our place, until `unbridge`."""
        self.box.run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        for device in ("m0", "m1"):
            self.box.run("ip", "link", "set", device, "master", "br0")
        self.box.run("ip", "link", "set", "br0", "up")

    def unbridge(self):
        self.box.run("ip", "link", "del", "br0")

    def close(self):
        for host in (self.client, self.box, self.server):
            host.close()


def look(path):
    """Write a box that reads all streams and answers nothing."""
    path.write_text("from mos import on\nfrom mos.events import StreamData\n\n@on(StreamData)\ndef look(ev): ev.length\n")


class Running:
    """`mos run WORDS` in the box's namespace, once it runs; `stop` ends it and gives its counters."""

    def __init__(self, bed, *words, interfaces="m0:m1", cwd=None, before=(), python=sys.executable):
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
        self.process = bed.box.start(*before, python, *MOS[1:], "run", *words, "-i", interfaces, "--stats", env=env, cwd=cwd)
        self.said = []
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        if not self.ready.wait(30) or not self.hears("running ", 0):
            self.process.kill()
            self.reader.join()
            raise AssertionError("".join(self.said))

    def read(self):
        for line in self.process.stderr:
            self.said.append(line)
            if "running " in line:
                self.ready.set()
        self.ready.set()

    def hears(self, text, seconds=20, times=1):
        """Wait until it says so on standard error, for the n-th time."""
        end = time.monotonic() + seconds
        while sum(text in line for line in self.said) < times:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        return True

    @property
    def worker(self):
        """The process that takes the packets: the one we started, or under a supervisor its child."""
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return int((f.read().split() or [pid])[0])

    def stop(self, how=signal.SIGTERM):
        """Counters, after a stop in good order."""
        self.process.send_signal(how)
        return self.wait()

    def wait(self):
        self.out = self.process.stdout.read()
        status = self.process.wait(30)
        self.reader.join(10)
        self.process.stderr.close()
        self.process.stdout.close()
        assert status == 0, "".join(self.said)
        stats = json.loads(next(line for line in reversed(self.said) if line.startswith("{")))
        assert stats["packets_in"] == stats["forwarded"] + sum(stats["dropped"].values()) + stats["held"] + stats["consumed"]
        return stats

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def made():
    need()
    bed = Bed()
    yield bed
    bed.close()


bed = pytest.fixture(made, scope="module", name="bed")     # every test may use it; `bed = own_bed` makes a module's tests have
own_bed = pytest.fixture(made, name="bed")                 # one each


class Wire:
    """Raw frames at one device: those put on it, and all that come out of it."""

    def __init__(self, host, device, *how):
        self.process = host.start(sys.executable, HERE / "frames.py", device, *how, stdin=subprocess.PIPE, bufsize=1)
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()
        self.received = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.received.append(bytes.fromhex(line))

    def send(self, frames):
        for frame in frames:
            self.process.stdin.write(frame.hex() + "\n")
        self.process.stdin.flush()

    def wait(self, count, seconds=20):
        """What has come, once it is so many frames or time is up."""
        end = time.monotonic() + seconds
        while len(self.received) < count and time.monotonic() < end:
            time.sleep(0.01)
        return list(self.received)

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.reader.join(10)
        self.process.stdout.close()
        self.process.stderr.close()
