"""Rewritten frames against frames built anew: the same conversation between the new ends, byte for byte."""
import ipaddress
import struct

import dpkt
from boxes import box, drive
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mos.events import FlowStart, PacketIn, StreamData, on
from mos.events.verdict import RESET, Replace, Rewrite
from mos.io.source import open_source
from mos.nf import Chain
from mos.run import Engine, Settings
from mos.testing import icmp_echo, tcp, udp

ADDRESS = st.integers(0x01000001, 0xdfffffff).map(lambda n: str(ipaddress.IPv4Address(n)))
SIX = st.integers(1, 2**120).map(lambda n: str(ipaddress.IPv6Address(n)))
PORT = st.integers(1, 65535)
PROTO = st.sampled_from(["tcp", "udp"])


def left(nfs, packets, tmp):
    drive(nfs, packets, write=str(tmp / "out.pcap"))
    return [record[2] for record in open_source(tmp / "out.pcap")]


def conversation(proto, client, server, data, vlan=None):
    def end(address, port):
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    if proto == "udp":
        return udp(end(*client), end(*server), vlan=vlan).send(data).reply(data)
    return tcp(end(*client), end(*server), vlan=vlan).send(data).reply(data).close()


def renaming(**ends):
    @on(FlowStart, edits="header")
    def nat(ev):
        return Rewrite(**ends)
    return box(nat)


def ends(address):
    return st.tuples(address, PORT)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans(), PROTO, st.binary(max_size=9), st.sampled_from([None, 5, (7, 5)]))
def test_both_ways_as_if_it_had_been_built_so(tmp_path_factory, data, six, proto, payload, vlan):
    end = ends(SIX if six else ADDRESS)
    client, server, outside, beyond = (data.draw(end) for _ in range(4))
    if len({client, server, outside, beyond}) < 4:
        return
    inner = conversation(proto, client, server, payload, vlan).built
    outer = conversation(proto, outside, beyond, payload, vlan).built
    sides = [p.side for p in inner]
    given = [(i.time, (i if s == "client" else o).frame()) for i, o, s in zip(inner, outer, sides)]
    wanted = [(o if s == "client" else i).frame() for i, o, s in zip(inner, outer, sides)]
    assert left([renaming(client=outside, server=beyond)], given, tmp_path_factory.mktemp("r")) == wanted


def test_a_udp_checksum_that_comes_to_zero_is_sent_as_ones(tmp_path):
    """Zero would say that there is none (RFC 768); IPv6 forbids that (RFC 8200 8.1)."""
    for six in (False, True):
        hits = 0
        for port in range(1, 65536, 257):
            plain = udp("10.0.0.1:1000", "10.0.0.2:53").send(b"ab")
            plain = plain.v6() if six else plain
            frame = plain.packets[0][1]
            at = frame.rindex(b"ab") - 8
            # The payload that makes the renamed datagram's checksum come to zero.
            target = udp(f"10.0.0.1:{port}", "10.0.0.2:53").send(b"\0\0")
            target = (target.v6() if six else target).packets[0][1]
            word = struct.unpack_from("!H", target, len(target) - 4)[0]
            payload = struct.pack("!H", word)
            first = udp("10.0.0.1:1000", "10.0.0.2:53").send(payload)
            first = first.v6() if six else first
            nat = renaming(client=("fd00::a00:1" if six else "10.0.0.1", port))
            (out,) = left([nat], first.packets, tmp_path)
            check = struct.unpack_from("!H", out, at + 6)[0]
            hits += check == 0xffff
            assert check != 0
            if hits:
                break
        assert hits


def test_a_udp_datagram_without_a_checksum_stays_without(tmp_path):
    ns, frame = udp("10.0.0.1:1000", "10.0.0.2:53").send(b"ab").packets[0]
    frame = frame[:40] + b"\0\0" + frame[42:]
    (out,) = left([renaming(client=("192.0.2.1", 9))], [(ns, frame)], tmp_path)
    assert out[40:42] == b"\0\0" and out[26:30] == bytes([192, 0, 2, 1]) and out[34:36] == b"\0\x09"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 65535), st.integers(0, 65535), ADDRESS, st.booleans())
def test_an_echo_keeps_its_two_names(tmp_path_factory, ident, other, address, six):
    if ident == other:
        return
    inside = icmp_echo("10.0.0.1", "10.0.0.2", ident=ident)
    outside = icmp_echo(address, "10.0.0.2", ident=other)
    if six:
        inside, outside = inside.v6(), outside.v6()
        address = str(ipaddress.IPv6Address(dpkt.ethernet.Ethernet(outside.packets[0][1]).data.src))
    given = [inside.packets[0], outside.packets[1]]
    nat = renaming(client=(address, other), server=("fd00::a00:2" if six else "10.0.0.2", other))
    assert left([nat], given, tmp_path_factory.mktemp("i")) == [outside.packets[0][1], inside.packets[1][1]]


@settings(max_examples=80, deadline=None)
@given(st.data(), PROTO, st.booleans(), st.integers(1, 255))
@example(None, "udp", False, 64)
def test_bytes_and_hops_as_if_they_had_been_sent_so(tmp_path_factory, data, proto, six, ttl):
    old = data.draw(st.binary(min_size=1, max_size=33)) if data else b"\0\0"
    new = data.draw(st.binary(min_size=len(old), max_size=len(old))) if data else b"\xff\xff"
    a, b = (conversation(proto, ("10.0.0.1", 1000), ("10.0.0.2", 53), text) for text in (old, new))
    a, b = (a.v6(), b.v6()) if six else (a, b)

    @on(StreamData, edits="same_length")
    def change(ev):
        return Replace(new)

    @on(PacketIn, edits="header")
    def hop(ev):
        return Rewrite(ttl=ttl)
    wanted = []
    for _, frame in b.packets:
        eth = dpkt.ethernet.Ethernet(frame)
        if six:
            eth.data.hlim = ttl
        else:
            eth.data.ttl, eth.data.sum = ttl, 0
        wanted.append(bytes(eth))
    assert left([box(change), box(hop)], a.packets, tmp_path_factory.mktemp("b")) == wanted


def test_odd_offsets_within_a_segment(tmp_path):
    """Bytes delivered before shift what is new to an odd place of the segment."""
    c = tcp("10.0.0.1:1", "10.0.0.2:2").send(b"abc", ack=False).segment("client", b"abcdefg", offset=0)

    @on(StreamData, edits="same_length")
    def change(ev):
        return Replace(ev.data.upper())
    wanted = tcp("10.0.0.1:1", "10.0.0.2:2").send(b"ABC", ack=False).segment("client", b"abcDEFG", offset=0)
    assert left([box(change)], c.packets, tmp_path) == [f for _, f in wanted.packets]


def test_a_tag_and_options_are_carried_into_a_reset(tmp_path):
    @on(StreamData)
    def no(ev):
        return RESET
    c = tcp("10.0.0.1:1", "10.0.0.2:2", timestamps=True).on_vlan(7, 5).send(b"abc")
    frames = left([box(no)], c.packets, tmp_path)[3:]
    assert len(frames) == 3
    for frame in frames:
        eth = dpkt.ethernet.Ethernet(frame)
        assert [t.id for t in eth.vlan_tags] == [7, 5] and eth.data.data.flags & dpkt.tcp.TH_RST and eth.data.len == 40
    there, back = (dpkt.ethernet.Ethernet(f) for f in frames[:2])
    assert (there.src, there.dst) == (back.dst, back.src)


def test_a_ttl_beyond_the_captured_bytes_is_left_alone(tmp_path):
    """An IP header that is cut off cannot be written to."""
    @on(PacketIn, edits="header")
    def hop(ev):
        return Rewrite(ttl=9)
    ns, frame = udp("10.0.0.1:1000", "10.0.0.2:53").send(b"x").packets[0]
    cut = [(ns + i, frame[:n]) for i, n in enumerate(range(14, len(frame)))]
    out = left([box(hop)], cut, tmp_path)
    assert [len(f) for f in out] == [len(f) for _, f in cut]
    assert all(f[:22] == g[:22] and f[26:] == g[26:] for f, (_, g) in zip(out, cut))


def pseudo_sum(frame):
    """The frame with the transport checksum field as a port hands it over: the pseudo header's sum alone."""
    eth = dpkt.ethernet.Ethernet(frame)
    ip = eth.data
    proto, l4 = ip.p if eth.type == 0x0800 else ip.nxt, bytes(ip.data)
    words = ip.src + ip.dst + struct.pack("!II", len(l4), proto)
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total & 0xffff) + (total >> 16)
    at = len(frame) - len(l4) + (16 if proto == 6 else 6)
    return frame[:at] + struct.pack("!H", (total & 0xffff) + (total >> 16)) + frame[at + 2:]


@settings(max_examples=80, deadline=None)
@given(st.data(), st.booleans(), PROTO)
def test_an_unfinished_checksum_stays_the_sum_of_the_pseudo_header(tmp_path_factory, data, six, proto):
    """Ports and payload do not enter into it, addresses do; and it is no bad checksum."""
    end = ends(SIX if six else ADDRESS)
    client, server, outside = (data.draw(end) for _ in range(3))
    if len({client, server, outside}) < 3:
        return

    @on(StreamData, edits="same_length")
    def change(ev):
        return Replace(ev.data.upper())
    (inner, outer), (inner_new, outer_new) = ([conversation(proto, c, server, text).built for c in (client, outside)]
                                              for text in (b"odd", b"ODD"))
    path = tmp_path_factory.mktemp("p") / "out.pcap"
    with Engine(Chain(renaming(client=outside), box(change)), Settings(checksum="verify"), write=str(path)) as engine:
        with engine.slots:
            for p, q in zip(inner, outer):
                engine.stack.feed(pseudo_sum((p if p.side == "client" else q).frame()), p.time, csum_partial=True)
    assert not engine.stats()["stages"]["bad_checksum"]
    wanted = [pseudo_sum((q if p.side == "client" else p).frame()) for p, q in zip(inner_new, outer_new)]
    assert [record[2] for record in open_source(path)] == wanted
