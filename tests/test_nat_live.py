"""The NAT between real kernels, with a router behind it: errors, path MTUs, fragments and echoes find their way back.

client 10.77.0.1 - [mos run nat] - 10.77.0.2 router 10.88.0.254 - far 10.88.0.2
"""
import json
import sys

import namespaces
import pytest
from namespaces import Bed, Host, Running, Wire
from test_live import mac

from mos.testing import udp

OUTSIDE, FAR = "10.77.0.9", "10.88.0.2"
ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.88.0.2", 7000))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(65535)
    print(*peer, len(data), flush=True)
    if data == b"close":
        continue
    s.sendto(data, peer)
"""
ASK = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.88.0.2", 7002))
print("ready", flush=True)
data, peer = s.recvfrom(65535)
s.sendto(data, peer)
s.connect(peer)
for _ in range(50):
    time.sleep(0.1)
    try:
        s.send(b"are you there?")
    except OSError as e:
        print(peer[0], type(e).__name__, flush=True)
        break
"""
SINK = """
import hashlib, socket
s = socket.create_server(("10.88.0.2", 7001))
print("ready", flush=True)
while True:
    c, peer = s.accept()
    h, n = hashlib.sha256(), 0
    while data := c.recv(65536):
        h.update(data)
        n += len(data)
    c.sendall(f"{n} {h.hexdigest()}".encode())
    c.close()
"""


class Routed(Bed):
    """The bed's server is the router to another network."""

    def __init__(self):
        super().__init__()
        self.far = Host(self.client)
        self.far.run("ip", "link", "add", "f0", "type", "veth", "peer", "name", "r1", "netns", self.server.pid)
        self.far.run("ip", "address", "add", f"{FAR}/24", "dev", "f0")
        self.far.run("ip", "link", "set", "f0", "up")
        self.server.run("ip", "address", "add", "10.88.0.254/24", "dev", "r1")
        self.server.run("ip", "link", "set", "r1", "up")
        self.server.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        self.far.run("ip", "route", "add", "default", "via", "10.88.0.254")
        self.client.run("ip", "route", "add", "default", "via", "10.77.0.2")
        self.server.run("ip", "neighbour", "replace", OUTSIDE, "lladdr", mac(self.client, "c0"), "dev", "s0")
        for host in (self.client, self.server, self.far):
            host.run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv4/icmp_ratemask")
        for host, device in ((self.server, "r1"), (self.far, "f0")):
            host.run("ethtool", "-K", device, *"tso off gso off gro off tx off".split())

    def close(self):
        self.far.close()
        super().close()


@pytest.fixture(scope="module")
def bed():
    namespaces.need()
    bed = Routed()
    bed.offload("wire")
    yield bed
    bed.close()


@pytest.fixture(scope="module", autouse=True)
def servers(bed):
    running = [bed.far.start(sys.executable, "-c", program) for program in (ECHO, SINK)]
    for process in running:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    yield running
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def nat(bed):
    with Running(bed, "nat", "--set", f"nat.external={OUTSIDE}", "--set", "nat.inside=10.77.0.1/32") as running:
        yield running


def client(bed, program):
    return bed.client.run(sys.executable, "-c", "import socket, sys, os\n"
                          "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(5)\n" + program).stdout.split()


def test_a_closed_port_is_told(bed, nat):
    assert client(bed, f"""
s.connect(("{FAR}", 9))
s.send(b"x")
try: s.recv(10)
except OSError as e: print(type(e).__name__)
""") == ["ConnectionRefusedError"]
    stats = nat.stop()
    assert stats["stages"]["quoted"] == 1 and stats["stages"]["bad_checksum"] == 0


def test_a_closed_port_inside_is_told_outside(bed, nat):
    """The server goes on asking when the client's socket is closed: its own socket hears of it."""
    asks = bed.far.start(sys.executable, "-c", ASK)
    assert asks.stdout.readline() == "ready\n", asks.stderr.read()
    client(bed, f"""
s.sendto(b"later", ("{FAR}", 7002))
s.recv(100)
""")
    assert asks.communicate(timeout=20)[0].split() == [OUTSIDE, "ConnectionRefusedError"]
    assert nat.stop()["stages"]["quoted"] >= 1


def test_hops_are_told(bed, nat):
    """As traceroute asks: a datagram that dies at the router."""
    assert client(bed, f"""
s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
s.setsockopt(socket.IPPROTO_IP, 11, 1)     # IP_RECVERR
s.sendto(b"x", ("{FAR}", 33434))
import select
select.select([], [], [s], 5)
data, ancillary, flags, peer = s.recvmsg(100, 200, socket.MSG_ERRQUEUE)
print(data, peer[0], ancillary[0][2][4:8], socket.inet_ntoa(ancillary[0][2][20:24]))
""") == ["b'x'", FAR, r"b'\x02\x0b\x00\x00'", "10.77.0.2"]
    assert nat.stop()["stages"]["quoted"] == 1


def test_a_narrow_link_behind_is_found(bed, nat):
    """Path MTU discovery: TCP of full-size segments gets through a link of 1,300 bytes, and an UDP socket learns of it."""
    bed.server.run("ip", "link", "set", "r1", "mtu", "1300")       # and its end does not know
    try:
        said = client(bed, f"""
import hashlib
c = socket.create_connection(("{FAR}", 7001))
c.settimeout(20)
data = os.urandom(300_000)
c.sendall(data)
c.shutdown(socket.SHUT_WR)
print(c.recv(1000).decode() == f"{{len(data)}} {{hashlib.sha256(data).hexdigest()}}")
print(c.getsockopt(socket.IPPROTO_IP, 14))          # IP_MTU
""")
        assert said == ["True", "1300"]
        bed.client.run("ip", "route", "flush", "cache")
        said = client(bed, f"""
s.connect(("{FAR}", 7000))
s.setsockopt(socket.IPPROTO_IP, 10, 2)              # IP_MTU_DISCOVER: always
s.send(b"close" * 280)
import time
for _ in range(100):
    time.sleep(0.05)
    if s.getsockopt(socket.IPPROTO_IP, 14) == 1300: break
print(s.getsockopt(socket.IPPROTO_IP, 14))
""")
        assert said == ["1300"]
    finally:
        bed.server.run("ip", "link", "set", "r1", "mtu", "1500")
        bed.client.run("ip", "route", "flush", "cache")
    stats = nat.stop()
    assert stats["stages"]["quoted"] >= 2 and stats["stages"]["bad_checksum"] == 0


@pytest.mark.parametrize("size", [3000, 20000])
def test_fragments_there_and_back(bed, nat, servers, size):
    """Datagrams larger than the link, answered in fragments, too; the server sees the external address."""
    said = client(bed, f"""
s.setsockopt(socket.IPPROTO_IP, 10, 0)              # let it be cut
data = os.urandom({size})
s.sendto(data, ("{FAR}", 7000))
got, peer = s.recvfrom(65535)
print(got == data, peer[0])
""")
    assert said == ["True", FAR]
    assert servers[0].stdout.readline().split()[::2] == [OUTSIDE, str(size)]
    stats = nat.stop()
    assert stats["held"] == 0 and stats["dropped"] == {} and stats["decode"]["datagrams_reassembled"] == 2


def test_fragments_in_any_order(bed, nat, servers):
    """The last one first: nothing says yet whose they are, so they wait."""
    c = udp("10.77.0.1:5555", f"{FAR}:7000").send(bytes(range(250)) * 12).fragment(1, 600)
    to = bytes.fromhex(mac(bed.server, "s0").replace(":", ""))
    wire = Wire(bed.client, "c0")
    try:
        wire.send([to + frame[6:] for _, frame in reversed(c.packets)])
        host, port, length = servers[0].stdout.readline().split()
        assert (host, length) == (OUTSIDE, "3000")
        wire.wait(1)
    finally:
        wire.close()
    assert nat.stop()["dropped"].keys() <= {"nat"}


@pytest.mark.parametrize("size", [56, 4000])
def test_echoes(bed, nat, size):
    """An echo request needs no permission on a datagram socket of its own kind."""
    bed.client.run("sh", "-c", "echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range")
    said = bed.client.run(sys.executable, "-c", f"""
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
s.settimeout(5)
data = os.urandom({size})
s.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]) + data, ("{FAR}", 0))
print(s.recv(65535)[8:] == data)
""").stdout.split()
    assert said == ["True"]
    assert json.dumps(nat.stop()["dropped"]) == "{}"
