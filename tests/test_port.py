"""mos/io/port.pyx, ring.pxd: frames of every kind between two real interfaces, offloads, losses; order and time in memory."""
import struct
import sys

import pytest
from mos.io.port import Memory
from namespaces import HERE, SERVER, Bed, Running, Wire
from transfer import digest

from mos import on
from mos.events import FlowEnd, PacketIn, Timer
from mos.run import Engine
from mos.testing import icmp_echo, tcp, udp

A, B, ALL = bytes.fromhex("0200000000c1"), bytes.fromhex("0200000000d1"), b"\xff" * 6


COUNT = """
from mos import FlowVar, on
from mos.events import FlowEnd, StreamData

up, down = FlowVar(int), FlowVar(int)

@on(StreamData, where="tcp")
def data(ev):
    (up if ev.to_server else down)[ev.flow] += ev.length

@on(FlowEnd, where="tcp")
def end(ev): print("tcp", up[ev.flow], down[ev.flow], ev.reason)
"""


def ether(kind, body=b"", to=B, tags=()):
    return to + A + b"".join(struct.pack(">HH", tpid, tci) for tpid, tci in tags) + struct.pack(">H", kind) + body


def framed(conversation):
    return [frame for _, frame in conversation.packets]


def kinds():
    """Frames of every kind, each different from all others."""
    hello = tcp("10.1.0.1:1000", "10.2.0.1:80").send(b"hello")
    ip = framed(icmp_echo("10.1.0.1", "10.2.0.1"))[0][14:]
    bad = bytearray(ip)
    bad[10] ^= 0xff
    return {
        "arp": [ether(0x0806, bytes.fromhex("0001080006040001") + A + b"\n\1\0\1" + bytes(6) + b"\n\1\0\2", to=ALL)],
        "stp": [bytes.fromhex("0180c2000000") + A + struct.pack(">H", 38) + b"\x42\x42\x03" + bytes(43)],
        "lldp": [ether(0x88cc, b"\x02\x07\x04" + A + bytes(40), to=bytes.fromhex("0180c200000e"))],
        "runt": [ether(0x88b5), ether(0x88b5, b"x"), ether(0x0800, b"E")],
        "tagged": [ether(0x0800, ip, tags=[(0x8100, 5)]), ether(0x0800, ip, tags=[(0x8100, 0xe000)]),
                   ether(0x88b5, b"tt", tags=[(0x8100, 4095)])],
        "two tags": [ether(0x0800, ip, tags=[(0x88a8, 100), (0x8100, 5)]), ether(0x0800, ip, tags=[(0x8100, 7), (0x8100, 8)])],
        "full tagged": [ether(0x88b5, bytes(1500), tags=[(0x8100, 6)])],
        "ip": [ether(0x0800, ip), ether(0x0800, bytes(bad)), ether(0x0800, b"\x43" + ip[1:]), ether(0x0800, ip[:30])],
        "v6": framed(icmp_echo("10.1.0.1", "10.2.0.1").v6()),
        "fragments": framed(udp("10.1.0.1:5", "10.2.0.1:6").send(bytes(3000)).fragment(1, 1000)),
        "tcp": framed(hello)[3:] + framed(tcp("10.1.0.1:1001", "10.2.0.1:80").send(b"x").corrupt(4)),
        "labels": [ether(0x8847, b"\x00\x01\x01\x40" + ip),
                   ether(0x8864, b"\x11\x00\x00\x01" + struct.pack(">HH", len(ip) + 2, 0x21) + ip)],
        "full": [ether(0x88b5, bytes(range(250)) * 6)],
    }


def crossed(bed, frames, *words):
    """What comes out at the far end of what is sent at each end, and the counters."""
    wires = [Wire(bed.client, "c0"), Wire(bed.server, "s0")]
    try:
        with Running(bed, *words, "--gro", "keep") as running:
            wires[0].send(frames)
            there = wires[1].wait(len(frames))
            wires[1].send(frames)
            back = wires[0].wait(len(frames))
            stats = running.stop()
    finally:
        for wire in wires:
            wire.close()
    return there, back, stats


@pytest.mark.parametrize("words", [(), ("monitor",)], ids=["bare", "monitor"])
def test_frames_of_every_kind_pass_unchanged_and_in_order(bed, words):
    frames = [frame for group in kinds().values() for frame in group]
    there, back, stats = crossed(bed, frames, *words)
    assert there == frames, [f.hex() for f in frames if f not in there]
    assert back == frames
    assert stats["packets_in"] == stats["forwarded"] == 2 * len(frames)
    assert stats["ports"]["m0"]["vlan_tags"] == sum(f[12:14] in (b"\x81\x00", b"\x88\xa8") for f in frames if len(f) >= 18)
    for side in stats["ports"].values():
        assert not any(side["unsent"].values()) and not side["kernel_drops"] + side["truncated"]


def test_jumbo_frames_pass(bed):
    big = Bed(mtu=9000)
    try:
        frames = [ether(0x88b5, bytes([n & 0xff]) * n) for n in (100, 1500, 1501, 1969, 1970, 2034, 2100, 8999, 9000)]
        there, back, _ = crossed(big, frames)
    finally:
        big.close()
    assert there == back == frames


def test_a_frame_longer_than_the_far_mtu_is_counted(bed):
    bed.box.run("ip", "link", "set", "m1", "mtu", "1000")
    try:
        frames = [ether(0x88b5, bytes(1200)), ether(0x88b5, bytes(900))]
        wires = [Wire(bed.client, "c0"), Wire(bed.server, "s0")]
        with Running(bed, "--gro", "keep") as running:
            wires[0].send(frames)
            there = wires[1].wait(1)
            stats = running.stop()
        for wire in wires:
            wire.close()
    finally:
        bed.box.run("ip", "link", "set", "m1", "mtu", "1500")
    assert there == frames[1:]
    assert stats["ports"]["m1"]["unsent"] == {"over_mtu": 1, "busy": 0, "down": 0, "failed": 0}


SLOW = """
import time
from mos import on
from mos.events import PacketIn

@on(PacketIn, where="packet_number == 1")
def slow(ev): time.sleep(2)
"""


def test_what_finds_the_ring_full_is_dropped_and_counted(bed, tmp_path):
    """A handler keeps us busy while more frames come than the ring holds: each is sent on once or counted, in their order."""
    (tmp_path / "slow.py").write_text(SLOW)
    frames = [ether(0x88b5, n.to_bytes(4, "big") + bytes(46)) for n in range(5000)]
    wires = [Wire(bed.client, "c0"), Wire(bed.server, "s0")]
    with Running(bed, tmp_path / "slow.py", "--gro", "keep") as running:
        wires[0].send(frames)
        assert wires[1].wait(1)
        stats = running.stop()
    there = [f for f in wires[1].received if f[12:14] == b"\x88\xb5"]      # our reader misses many: it is slower yet
    for wire in wires:
        wire.close()
    side = stats["ports"]["m0"]
    assert side["kernel_drops"] > 1000 and side["received"] + side["kernel_drops"] >= 5000
    assert stats["ports"]["m1"]["sent"] == side["received"] and there == sorted(set(there))


@pytest.fixture
def count(tmp_path):
    """A box that prints of each TCP flow how many bytes of its streams it saw."""
    (tmp_path / "count.py").write_text(COUNT)
    return tmp_path / "count.py"


def transfer(bed, size=8_000_000, server=SERVER, port=5001):
    """Both directions of one TCP connection; True if every byte came, both ways."""
    serving = bed.server.start(sys.executable, HERE / "transfer.py", "serve", server, port, size)
    assert serving.stdout.readline() == "ready\n", serving.stderr.read()
    try:
        got = bed.client.run(sys.executable, HERE / "transfer.py", "send", server, port, size, timeout=60).stdout.strip()
        theirs = serving.communicate(timeout=30)[0].strip()
    finally:
        serving.kill()
        serving.communicate()
    return (theirs, got) == (digest("client", size), digest("server", size))


@pytest.mark.parametrize("mode", ["full", "sums", "wire"])
def test_tcp_of_real_kernels(bed, mode, count):
    """With super-packets, with unfinished checksums alone, and as on a cable: every byte, and the flow tracked to its end."""
    bed.offload(mode)
    with Running(bed, count, "--gro", "keep") as running:
        assert transfer(bed)
        stats = running.stop()
    assert running.out == "tcp 8000000 8000000 fin\n"
    assert (stats["ports"]["m0"]["super_packets"] > 0) == (mode == "full")
    assert stats["stages"]["bad_checksum"] == stats["stages"]["malformed"] == 0


def super_packet(payload):
    """One TCP segment of many frames' size in a VLAN as a kernel that leaves all work to the card hands it over."""
    tcp_header = struct.pack(">HHIIBBHHH", 1000, 80, 1, 1, 0x50, 0x10, 1000, 0, 0)
    ip = bytearray(struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 1, 0x4000, 64, 6, 0,
                               bytes([10, 1, 0, 1]), bytes([10, 2, 0, 1])))
    ip[10:12] = struct.pack(">H", ones(ip) ^ 0xffff)
    pseudo = ones(ip[12:20] + struct.pack(">HH", 6, 20 + len(payload)))
    segment = tcp_header[:16] + struct.pack(">H", pseudo) + tcp_header[18:] + payload
    frame = ether(0x0800, bytes(ip) + segment, tags=[(0x8100, 5)])
    return struct.pack("=BBHHHH", 1, 1, 18 + 40, 1000, 18 + 20, 16) + frame


def ones(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    return (total & 0xffff) + (total >> 16)


@pytest.mark.parametrize("far", ["on", "off"])
def test_a_tagged_super_packet_arrives(bed, far):
    """`off`: the far card cannot segment, so the kernel has to, and refuses to where its queueing is passed by."""
    bed.offload("full")
    bed.box.run("ethtool", "-K", "m1", "tx", far, "tso", far)
    payload = bytes(range(251)) * 100
    sent = super_packet(payload)
    wires = [Wire(bed.client, "c0", "vnet"), Wire(bed.server, "s0", "vnet")]
    try:
        with Running(bed, "monitor", "--gro", "keep") as running:
            wires[0].send([sent])
            there = wires[1].wait(1 if far == "on" else 26)
            stats = running.stop()
    finally:
        bed.box.run("ethtool", "-K", "m1", "tx", "on", "tso", "on")
        for wire in wires:
            wire.close()
    headers, frames = [f[:10] for f in there], [f[10:] for f in there]
    assert {f[:18] for f in frames} == {sent[10:28]}
    assert b"".join(f[58:] for f in frames) == payload
    if far == "on":     # the kernel tells offsets without the tag, which it takes out
        assert frames == [sent[10:]] and headers == [struct.pack("=BBHHHH", 1, 1, 14 + 40, 1000, 14 + 20, 16)]
    else:
        assert len(frames) == 26
        for f in frames:
            assert ones(f[18 + 12:18 + 20] + struct.pack(">HH", 6, len(f) - 38) + f[38:] + bytes(len(f) & 1)) == 0xffff
    assert stats["ports"]["m0"]["super_packets"] == stats["ports"]["m0"]["vlan_tags"] == 1
    assert not any(stats["ports"]["m1"]["unsent"].values())


def memory(packets, *handlers):
    port = Memory(packets)
    with Engine(list(handlers), truth="inline") as engine:
        engine.run(port)
    return port, engine


def test_sides_and_order_in_memory():
    """The far side of each packet gets it; a RST of ours goes to both."""
    from mos import RESET
    said = tcp("10.0.0.1:1000", "10.0.0.2:80").send(b"attack")
    packets = [(ns, 0 if frame[26:30] == bytes([10, 0, 0, 1]) else 1, frame) for ns, frame in said.packets]

    @on(PacketIn, where="packet_number == 4")
    def stop(ev):
        return RESET("no")
    port, engine = memory(packets, stop)
    passed = [(1 - side, frame) for _, side, frame in packets[:3]]
    assert port.sent[:3] == passed
    assert [(side, frame[47] & 4) for side, frame in port.sent[3:5]] == [(1, 4), (0, 4)]
    assert engine.stats()["injected"] == len(port.sent) - 3


def test_time_goes_by_without_packets():
    """Ticks run timers and end idle flows; they are no packets."""
    second = 1_000_000_000
    ns, frame = udp("10.0.0.1:5", "10.0.0.2:6").send(b"x").packets[0]
    seen = []

    @on(FlowEnd)
    def end(ev): seen.append((ev.reason, ev.time - ns))

    @on(Timer)
    def late(ev): seen.append(("timer", ev.time - ns))
    port = Memory([(ns, 0, frame), *((ns + i * 100 * second, 0, None) for i in range(1, 4))])
    with Engine([end, late], truth="inline") as engine:
        engine.timer(30, "x")
        engine.run(port)
        assert seen == [("timer", 30 * second), ("idle", 200 * second)]
    assert engine.stats()["packets_in"] == 1
