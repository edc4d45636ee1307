"""A NAT's hairpin: two hosts on the inside meet by the external address, and what they say leaves where it came in.

    a 10.77.0.11 \\
                  switch - m0 [mos run nat] m1 - 10.77.0.2 router, everybody's way out
    b 10.77.0.12 /
"""
import sys

import dpkt
import namespaces
import pytest
from boxes import box
from mos.io.port import Memory
from namespaces import Bed, Host, Running
from test_live import mac

from mbox.nat import Nat
from mos import RESET, Chain, Engine, Rewrite, on
from mos.events import FlowStart, StreamData
from mos.testing import tcp, udp

OUTSIDE = "192.0.2.1"
A, B, ROUTER = b"\2\0\0\0\0\x0a", b"\2\0\0\0\0\x0b", b"\2\0\0\0\0\1"
SECOND = 1_000_000_000


class Inside(Bed):
    """The bed's client is a switch, with two hosts at it."""

    def __init__(self, mode):
        super().__init__()
        self.hosts = Host(self.client), Host(self.client)
        self.client.run("ip", "address", "flush", "dev", "c0")
        self.client.run("ip", "link", "add", "sw", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        self.client.run("ip", "link", "set", "c0", "master", "sw")
        self.client.run("ip", "link", "set", "sw", "up")
        self.macs = []
        for i, host in enumerate(self.hosts):
            host.run("ip", "link", "add", "h0", "type", "veth", "peer", "name", f"p{i}", "netns", self.client.pid)
            host.run("ip", "address", "add", f"10.77.0.{11 + i}/24", "dev", "h0")
            host.run("ip", "link", "set", "h0", "up")
            self.client.run("ip", "link", "set", f"p{i}", "master", "sw", "up")
            host.run("ip", "route", "add", "default", "via", "10.77.0.2")
            host.run("ethtool", "-K", "h0", *namespaces.OFFLOADS[mode].split())
            self.macs.append(mac(host, "h0"))
        self.server.run("ip", "route", "add", OUTSIDE, "dev", "s0")
        self.server.run("ip", "neighbour", "replace", OUTSIDE, "lladdr", self.macs[1], "dev", "s0")
        self.offload(mode)

    def close(self):
        for host in self.hosts:
            host.close()
        super().close()


@pytest.fixture(scope="module", params=["wire", "full"])
def bed(request):
    namespaces.need()
    bed = Inside(request.param)
    yield bed
    bed.close()


@pytest.fixture
def nat(bed):
    with Running(bed, "nat", "--set", f"nat.external={OUTSIDE}", "--set", "nat.inside=10.77.0.8/29") as running:
        yield running


def python(host, program):
    return host.start(sys.executable, "-c", "import hashlib, os, socket, time\n" + program)


# The listening port is mapped as long as a connection out of it is open.
LISTEN = """
def bound():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("", 5000))
    return s
listening, out = bound(), bound()
listening.listen()
out.connect(("10.77.0.2", 7001))
print("ready", flush=True)
for _ in range(2):
    c, peer = listening.accept()
    data = b"".join(iter(lambda: c.recv(65536), b""))
    c.sendall(hashlib.sha256(data).digest() + data[::-1])
    c.close()
    print(peer[0], len(data), flush=True)
"""
CALL = f"""
s = socket.create_connection(("{OUTSIDE}", 5000), 10)
data = os.urandom(2_000_000)
s.sendall(data)
s.shutdown(socket.SHUT_WR)
back = b"".join(iter(lambda: s.recv(65536), b""))
print(back == hashlib.sha256(data).digest() + data[::-1])
"""


def test_hosts_inside_meet_over_tcp(bed, nat):
    """Also a host and itself. The switch goes on knowing where everybody is, and the router hears nothing of it."""
    router = python(bed.server, 's = socket.create_server(("", 7001)); print("ready", flush=True); c = s.accept(); time.sleep(60)')
    assert router.stdout.readline() == "ready\n", router.stderr.read()
    server = python(bed.hosts[1], LISTEN)
    try:
        assert server.stdout.readline() == "ready\n", server.stderr.read()
        for host in bed.hosts:
            said, wrong = python(host, CALL).communicate(timeout=60)
            assert (said, wrong) == ("True\n", "")
            assert server.stdout.readline() == f"{OUTSIDE} 2000000\n"
        learned = bed.client.run("bridge", "fdb", "show", "br", "sw").stdout
        for i, address in enumerate(bed.macs):
            assert {line.split()[2] for line in learned.splitlines() if line.startswith(address)} == {f"p{i}"}
    finally:
        for process in (server, router):
            process.kill()
            process.communicate()
    stats = nat.stop()
    assert stats["stages"]["bad_checksum"] == 0 and stats["ports"]["m1"]["sent"] < 50 < stats["ports"]["m0"]["sent"]


def test_hosts_inside_meet_over_udp(bed, nat):
    """Whole and in fragments; when nobody listens any more, the error comes back, too."""
    server = python(bed.hosts[1], """
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 6000))
s.sendto(b"map me", ("10.77.0.2", 9))
print("ready", flush=True)
for _ in range(2):
    data, peer = s.recvfrom(65536)
    s.sendto(data[::-1], peer)
    print(peer[0], len(data), flush=True)
""")
    assert server.stdout.readline() == "ready\n", server.stderr.read()
    client = python(bed.hosts[0], f"""
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.setsockopt(socket.IPPROTO_IP, 10, 0)
s.connect(("{OUTSIDE}", 6000))
for size in (30, 5000):
    data = os.urandom(size)
    s.send(data)
    print(s.recv(65536) == data[::-1])
for _ in range(50):
    time.sleep(0.1)
    try:
        s.send(b"and now?")
    except ConnectionRefusedError:
        print("refused")
        break
""")
    assert client.communicate(timeout=60) == ("True\nTrue\nrefused\n", "")
    assert server.communicate(timeout=10)[0] == f"{OUTSIDE} 30\n{OUTSIDE} 5000\n"
    stats = nat.stop()
    assert stats["stages"]["quoted"] >= 1 and stats["stages"]["bad_checksum"] == 0


def on_wire(conversation, sender):
    """(time, side, frame) of what the client says, as it comes in from this host, to the router's address."""
    return [(ns, 0, ROUTER + sender + frame[12:]) for (ns, frame), built in zip(conversation.packets, conversation.built)
            if built.side == "client"]


def sent(nfs, packets):
    port = Memory(sorted(packets))
    with Engine(Chain(*nfs), truth="inline") as engine:
        engine.run(port)
    return port.sent


def test_frames_go_to_where_the_other_end_sends_from():
    """Both ends of what is reset are told on that side, too."""
    @on(StreamData, where="server_port == 8080")
    def end(ev):
        return RESET
    later = {"start_ns": 1_700_000_001 * SECOND}
    ask = tcp("10.0.0.1:6000", f"{OUTSIDE}:8080", isn=(100, 200), **later).send(b"bad", ack=False)
    answer = tcp(f"{OUTSIDE}:6000", "10.0.0.2:8080", isn=(100, 200), **later)
    said = [(ns, 0, ROUTER + B + frame[12:]) for (ns, frame), built in zip(answer.packets, answer.built) if built.side == "server"]
    frames = sent([Nat(external=OUTSIDE, inside="10.0.0.0/8"), box(end)], [
        *on_wire(udp("10.0.0.2:5000", "8.8.8.8:53").send(b"q"), B), *on_wire(tcp("10.0.0.2:8080", "8.8.8.8:443"), B),
        *on_wire(udp("10.0.0.1:7000", f"{OUTSIDE}:5000", **later).send(b"hello"), A), *on_wire(ask, A), *said])
    assert {(side, frame[:6]) for side, frame in frames if frame[6:12] == B} == {(1, ROUTER)}
    turned = [(side, frame[:6], dpkt.ethernet.Ethernet(frame).data.data) for side, frame in frames if frame[6:12] == ROUTER]
    assert [(side, to) for side, to, tcp in turned if isinstance(tcp, dpkt.udp.UDP)] == [(0, B)]
    assert [(side, to, tcp.flags & 4) for side, to, tcp in turned if isinstance(tcp, dpkt.tcp.TCP)] == [
        (0, B, 0), (0, A, 0), (0, B, 0), (0, B, 4), (0, A, 4)]


def test_back_is_an_address_of_a_server():
    for wrong in ({"client": ("10.0.0.1", 1), "back": A}, {"server": ("10.0.0.1", 1), "back": b""},
                  {"server": ("10.0.0.1", 1), "back": "02:00:00:00:00:01"}):
        with pytest.raises(ValueError, match="for back 6 bytes, beside a server"):
            Rewrite(**wrong)


def test_a_frame_tells_who_sent_it_on_this_wire():
    seen = []
    on_start = on(FlowStart)(lambda ev: seen.append(ev.packet.link_src))
    sent([box(on_start)], on_wire(udp("10.0.0.2:5000", "8.8.8.8:53").send(b"q"), B))
    assert seen == [B]
