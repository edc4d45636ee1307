"""Fragments inline: they wait for their datagram, get one verdict, and leave in the order in which they came, renamed if it is."""
import dpkt
import pytest
from boxes import assert_balanced, box, drive
from hypothesis import given, settings
from hypothesis import strategies as st
from mos.net.decode import Decoder
from test_leave import left

from mos import DROP, Rewrite, on
from mos.events import FlowStart, Malformed, PacketIn, StreamData
from mos.testing import icmp_echo, tcp, udp

A, B, OUTSIDE = "10.0.0.1:1234", "10.0.0.2:53", ("192.0.2.1", 4321)
SECOND = 1_000_000_000


@on(FlowStart, edits="header")
def rename(ev):
    return Rewrite(client=OUTSIDE)


def whole(frames):
    """(source, destination, transport bytes) of the datagram that these fragments make; its checksums are right."""
    decoder = Decoder(checksum="verify")
    for i, frame in enumerate(frames):
        found = decoder.parse(frame, ts=i)
    assert found["status"] == "flow" and not found["csum"], found
    return found


def shuffled(frames, order):
    return [(1_700_000_000 * SECOND + i, frames[k]) for i, k in enumerate(order)]


@settings(max_examples=30)
@given(st.data(), st.sampled_from([8, 16, 24, 600]), st.booleans(), st.sampled_from(["udp", "tcp"]))
def test_any_order_and_size_renamed(tmp_path_factory, data, size, six, proto):
    """Down to pieces that cut the transport header in two."""
    c = udp(A, B).send(bytes(range(100)) * 6)
    if proto == "tcp":
        c = tcp(A, B, handshake=False).syn().segment("client", bytes(500), offset=0)
    c = c.v6() if six else c
    before = len(c.packets) - 1
    c.fragment(before + 1, size)
    frames = [frame for _, frame in c.packets]
    first, pieces = frames[:before], frames[before:]
    order = data.draw(st.permutations(range(len(pieces))))
    to = ("fd00::c000:201", 4321) if six else OUTSIDE

    @on(FlowStart, edits="header")
    def anew(ev):
        return Rewrite(client=to)
    packets = [(0, f) for f in first] + shuffled(pieces, order)
    engine, out = left([box(anew)], packets, tmp_path_factory.mktemp("x"), truth="inline", checksum="verify")
    out = out[before:]
    assert [len(f) for f in out] == [len(pieces[k]) for k in order]
    src = slice(22, 38) if six else slice(26, 30)
    assert len({f[src] for f in out}) == 1 and out[0][src] != pieces[0][src]
    new, old = whole(out), whole(pieces)
    assert (new["sport"], new["dport"]) == (4321, old["dport"]) and new["payload"] == old["payload"]
    assert engine.stats()["stages"]["fragments"] == len(pieces) - 1


def test_one_verdict_for_all_of_it(tmp_path):
    """Handlers see the datagram once; dropped, no part of it leaves."""
    seen = []

    @on(PacketIn)
    def count(ev):
        seen.append(ev.packet.payload_length)

    @on(StreamData, where="length > 2000")
    def no(ev):
        return DROP
    for size, passed in ((2000, True), (3000, False)):
        c = udp(A, B).send(bytes(size)).fragment(1, 800)
        engine, out = left([box(count), box(no)], c, tmp_path, truth="inline")
        assert [frame for _, frame in c.packets] == out if passed else out == []
        assert seen.pop() == size and not seen
        assert engine.stats()["held"] == 0 and engine.stats()["dropped"] == ({} if passed else {"no": 1, "fragment": len(c) - 1})


def test_what_never_becomes_whole_is_dropped_in_the_end(tmp_path):
    c = udp(A, B).send(bytes(3000)).fragment(1, 800).lose([2])
    said = []

    @on(Malformed)
    def bad(ev):
        said.append(ev.cause)
    engine = drive([box(bad)], c, truth="inline")
    assert engine.stats()["held"] == 3 and engine.stats()["forwarded"] == 0
    assert_balanced(engine.stats())
    late = [*c.packets, (c.packets[-1][0] + 40 * SECOND, udp(A, B).send(bytes(3000)).fragment(1, 800).packets[0][1])]
    engine = drive([box(bad)], late, truth="inline")
    assert engine.stats()["dropped"] == {"fragment": 3} and engine.stats()["held"] == 1
    assert_balanced(engine.stats())
    engine = drive([box(bad)], c, truth="tap")
    assert engine.stats()["forwarded"] == 3


def test_how_much_waits_is_bounded():
    """By the bytes of the frames, too: each fragment of these says little in much."""
    packets = [(1_700_000_000 * SECOND + i, c.fragment(1, 1480).packets[0][1]) for i in range(9000)
               for c in [udp(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}:1", B).send(bytes(3000))]]
    engine = drive([box(on(StreamData)(lambda ev: None))], packets, truth="inline")
    stats = engine.stats()
    assert stats["held"] <= 4096 and stats["dropped"]["fragment"] >= 9000 - 4096 and stats["decode"]["datagrams_bytes"] <= 17 << 20
    assert_balanced(stats)


@pytest.mark.parametrize("size", [24, 1480])
def test_an_echo_in_fragments(tmp_path, size):
    c = icmp_echo("10.0.0.1", "10.0.0.2", ident=7, data=bytes(4000)).fragment(1, size)

    @on(FlowStart, edits="header")
    def anew(ev):
        return Rewrite(client=("192.0.2.1", 99), server=(ev.server, 99))
    _, out = left([box(anew)], c.packets[:-1], tmp_path, truth="inline", checksum="verify")
    whole(out)
    assert dpkt.ethernet.Ethernet(out[0]).data.src == bytes([192, 0, 2, 1])
