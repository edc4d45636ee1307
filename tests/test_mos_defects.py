"""The defects of mOS (NSDI '17, at its last public commit), each as what must happen instead."""
import re
import struct
from pathlib import Path

import dpkt
import pytest
from events import play
from mos.tcp.reasm import Reassembler

from mos import BYPASS, DETACH, DROP, RESET, Replace, UserEvent, derive, events, on
from mos.errors import UsageError
from mos.events import FlowEnd, FlowStart, PacketIn, StreamData
from mos.nf import Chain
from mos.run import Engine, Settings
from mos.testing import icmp_echo, merge, tcp, udp
from mos.testing.conversation import START_NS

A, B = "10.0.0.1:1234", "10.0.0.2:80"


def conn(**options):
    return tcp(A, B, **options)


def sent_on(tmp_path, chain, packets, **settings):
    """What leaves: (frames, engine)."""
    path = tmp_path / "out.pcap"
    with Engine(Chain(*chain), Settings(**settings), write=str(path)) as engine:
        for ns, frame in packets:
            engine.feed(frame, ns)
    with open(path, "rb") as f:
        reader = dpkt.pcapng.Reader(f) if f.read(4) == b"\x0a\x0d\x0d\x0a" else None
        f.seek(0)
        return [frame for _, frame in reader or dpkt.pcap.Reader(f)], engine


def test_b01_the_last_segment_wins_without_reading_beyond_it():
    real = Reassembler("last")
    real.write(50, b"o" * 70)
    real.write(100, b"n" * 20)
    assert real.write(0, b"." * 50) == b"." * 50 + b"o" * 50 + b"n" * 20


def test_b02_the_policy_counts_from_the_first_byte():
    c = conn().segment("client", b"old", offset=1).segment("client", b"NEW", offset=1).segment("client", b"_", offset=0)
    assert play(c, overlap="last").streams[1, ">"] == b"_NEW"
    assert play(c, overlap="first").streams[1, ">"] == b"_old"


def test_b03_the_buffer_has_the_size_that_was_asked_for():
    c = conn().send(b"a", ack=False).send(b"b" * 100, ack=False).lose(4)
    assert "StreamGap > cap 0+1" in play(c, limits={"bytes": 99})
    assert "StreamGap > close 0+1" in play(c, limits={"bytes": 100})
    with pytest.raises(UsageError, match="no limit is called 'byte'"):
        play(c, limits={"byte": 1})


@pytest.mark.parametrize("answer,seen", [(BYPASS, ["FlowStart"]), (DETACH, ["FlowStart", "FlowEnd"])])
def test_b04_monitoring_stops_for_both_sides(answer, seen):
    got = []

    @on(events.FlowEvent)
    def look(ev):
        got.append(type(ev).__name__)
        return answer

    @on(FlowEnd)
    def end(ev):
        got.append("FlowEnd")
    play(conn().send(b"a").reply(b"b").close(), also=[[look, end]])
    assert got == seen


def test_b05_a_rst_needs_more_than_the_right_ports():
    log = play(conn().send(b"a").rst("server", seq=90_000_000).rst("client", seq=90_000_000).send(b"b").close())
    assert log.streams[1, ">"] == b"ab" and log[-1] == "FlowEnd fin"


def test_b06_one_live_flow_does_not_keep_idle_ones():
    alive = conn(step_ns=50_000_000_000)
    for _ in range(8):
        alive.keep_alive()
    idle = [tcp(f"10.0.1.{i}:9", B, handshake=False).syn() for i in range(5)]
    log = play(merge(alive, *idle), FlowEnd, close=False)
    assert log == ["FlowEnd idle"] + [f"#{i} FlowEnd idle" for i in range(2, 6)]     # by the order of their ends: not the sixth


def test_b07_a_hole_does_not_stall_the_direction():
    c = conn().send(b"a" * 100).send(b"b" * 100).send(b"c" * 100).lose(6).wait(2).send(b"d" * 100).close()
    log = play(c)
    assert log.of("StreamGap") == ["StreamGap > acked 100+100"] and log[-1] == "FlowEnd fin"
    assert log.streams[1, ">"] == b"a" * 100 + b"c" * 100 + b"d" * 100


def test_b08_a_retransmission_from_far_back_is_one_and_long_segments_fit():
    c = conn(mss=64_000).ack().send(b"x" * 640_000)
    c.segment("client", b"x" * 100, offset=0)
    c.segment("client", b"y" * 60_000, offset=700_000).segment("client", b"y" * 60_000, offset=640_000)
    log = play(c)
    assert "Retransmission > full 0+100" in log
    assert log.streams[1, ">"] == b"x" * 640_000 + b"y" * 120_000


def test_b09_data_is_announced_after_the_other_side_has_closed():
    assert play(conn().fin().reply(b"late").close("server")).streams[1, "<"] == b"late"


def test_b10_data_and_close_in_one_batch_lose_nothing():
    seen = []

    @on(StreamData)
    def data(ev):
        seen.append(ev.data)

    @on(FlowEnd)
    def end(ev):
        seen.append(ev.reason)
    with Engine(Chain([data, end]), Settings(checksum="off")) as engine:
        engine.run(conn().segment("client", b"all of it", flags="FPA").close("server").rst().packets)
    assert seen == [b"all of it", "fin"]


def test_b11_the_same_ports_may_be_used_again():
    second = tcp(A, B, isn=(77, 88), start_ns=START_NS + 10**9).send(b"two").close()
    log = play(conn().send(b"one").close().packets + second.packets)
    assert (log.streams[1, ">"], log.streams[2, ">"]) == (b"one", b"two")
    assert log.of("FlowEnd") == ["FlowEnd fin", "#2 FlowEnd fin"]


def test_b12_a_dropped_packet_does_not_reach_the_receivers_model():
    drops = [DROP]

    @on(StreamData)
    def once(ev):
        return drops.pop() if drops else None
    log = play(conn().send(b"abc", ack=False).retransmit(4).ack(), truth="inline", also=[once])
    assert log.of("StreamData") == ["StreamData > 0+3", "StreamData > 0+3 redelivered"]


def test_b13_a_filter_decides_for_each_flow_anew():
    seen = []

    @on(FlowStart, where="server_port == 80")
    def start(ev):
        seen.append(ev.flow.id)

    @on(StreamData, where="server_port == 80 and length > 1")
    def data(ev):
        seen.append(ev.data)
    play(merge(conn().send(b"web"), tcp("10.0.0.1:1235", "10.0.0.2:22").send(b"ssh"), tcp("10.0.0.1:1236", B).send(b"x")),
         also=[[start, data]])
    assert seen == [1, 3, b"web"] or seen == [1, b"web", 3]


class Big(UserEvent):
    size: int


class Bigger(Big):
    pass


def test_b14_an_event_that_is_raised_reaches_its_subscribers():
    sizes = []

    @derive(Big, on=StreamData)
    def big(ev):
        if ev.length > 3:
            yield Big(size=ev.length)

    @on(Big)
    def take(ev):
        sizes.append((ev.size, ev.flow.client_port))
    play(conn().send(b"small"[:3]).send(b"large").reply(b"larger"), also=[[big, take]])
    assert sizes == [(5, 1234), (6, 1234)]


def test_b15_events_nest():
    seen = []
    upward = StreamData.where("to_server")
    large = upward.where("length > 3").where(lambda ev: ev.data.startswith(b"G"))

    @derive(Bigger, on=large)
    def publish(ev):
        yield Bigger(size=ev.length)

    @on(Big)
    def parent(ev):
        seen.append((type(ev).__name__, ev.size))

    @on(large.where("length < 6"))
    def direct(ev):
        seen.append(ev.data)
    play(conn().send(b"GET").send(b"GETS").send(b"PUTS").send(b"GET it now").reply(b"GIVE"), also=[[publish, parent, direct]])
    assert [x for x in seen if isinstance(x, tuple)] == [("Bigger", 4), ("Bigger", 10)]
    assert [x for x in seen if isinstance(x, bytes)] == [b"GETS"]


def test_b16_every_packet_is_seen_once():
    numbers = []

    @on(PacketIn)
    def packet(ev):
        numbers.append(ev.packet.number)
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    c = merge(conn().send(b"a").rst(), udp("10.0.0.1:5", "10.0.0.2:53").send(b"q"), icmp_echo("10.0.0.1", "10.0.0.2"),
              tcp("10.0.0.1:6", B).send(b"x").lose([1, 2, 3]))
    packets = c.packets + [(c.packets[-1][0] + 1, arp)]
    for pickup in ("data", "off"):
        numbers.clear()
        play(packets, also=[packet], pickup=pickup)
        assert numbers == list(range(1, len(packets) + 1))


def test_b17_an_edit_changes_the_bytes_meant_and_mends_the_checksums(tmp_path):
    @on(StreamData, where="to_server", edits="same_length")
    def edit(ev):
        return Replace(ev.data.replace(b"secret", b"******"))
    c = conn().send(b"a secret word", ack=False).retransmit(4).ack()
    frames, _ = sent_on(tmp_path, [[edit]], c.packets, truth="inline")
    assert [bytes(dpkt.ethernet.Ethernet(f).data.data.data) for f in frames[3:5]] == [b"a ****** word"] * 2
    assert [len(f) for f in frames] == [len(f) for _, f in c.packets]
    whole = play(list(enumerate(frames[:4], START_NS)), checksum="verify")
    assert not whole.of("BadChecksum") and whole.streams[1, ">"] == b"a ****** word"


@pytest.mark.parametrize("where,left", [("syn and not ack", 0), ("payload_length > 0", 3)])
def test_b18_a_reset_is_one_that_both_hosts_take(tmp_path, where, left):
    @on(PacketIn, where=where)
    def reset(ev):
        return RESET("no")
    c = conn().send(b"abc")
    frames, engine = sent_on(tmp_path, [[reset]], c.packets[:left + 1], truth="inline")
    resets = {dpkt.ethernet.Ethernet(f).data.data.sport: f for f in frames[left:]}
    assert engine.stats()["injected"] == len(frames) - left == (2 if left else 1)
    to_client, last = dpkt.ethernet.Ethernet(resets[80]).data.data, c.built[left].l4
    if left:
        assert to_client.seq == last.ack and dpkt.ethernet.Ethernet(resets[1234]).data.data.seq == last.seq
    else:
        assert to_client.flags & dpkt.tcp.TH_ACK and to_client.ack == last.seq + 1
    ends = {80: "rst_server", 1234: "rst_client"}
    for port, frame in resets.items():          # our own model of the two hosts takes it
        log = play(c.packets[:left or 1] + [(START_NS + 10**9, frame)], truth="inline", checksum="verify")
        assert log[-1] == f"FlowEnd {ends[port]}"


def test_b19_reading_where_there_is_nothing_is_harmless():
    seen = []

    @on(events.Event)
    def read(ev):
        seen.append((getattr(ev, "data", b""), ev.packet.payload if ev.packet else b""))
    play(conn().close(), also=[read])
    assert {x for pair in seen for x in pair} == {b""}
    real = Reassembler()
    assert real.write(0, b"") == real.acked(0) == b"" and real.skip() == (0, b"")


def broken(at, value):
    """The data packet of a conversation with the byte at `at` of its IP header and onward set to `value`."""
    frame = bytearray(conn().send(b"data").packets[3][1])
    frame[14 + at:14 + at + len(value)] = value
    return bytes(frame)


@pytest.mark.parametrize("frame", [
    broken(2, struct.pack("!H", 1500)), broken(2, struct.pack("!H", 10)), broken(0, b"\x4f"), broken(0, b"\x44"),
    broken(20 + 12, b"\xf0"), broken(20 + 12, b"\x40"), broken(2, struct.pack("!H", 35)), broken(0, b"\x45")[:40]])
def test_b20_every_length_is_held_against_the_frame(frame):
    log = play([(START_NS, frame)], pickup="data")
    assert log[0].startswith("Malformed") and not log.streams
    assert log.stats["forwarded"] == 1 and log.stats["flows"] == 0


def test_b21_the_hash_is_keyed_and_shows_nowhere():
    crowd = merge(*[tcp(f"10.0.{i >> 8}.{i & 255}:{1024 + i}", B, start_ns=START_NS + i).send(b"x") for i in range(300)])
    logs = [play(crowd, hash_key=bytes([k]) * 16, max_flows=100) for k in (0, 1, 2)]
    assert logs[0] == logs[1] == logs[2] and logs[0].of("CapReached")


def test_b22_handlers_may_come_and_go_while_they_run():
    seen = []

    @on(StreamData, attached=False)
    def first(ev):
        seen.append(("first", ev.offset))
        ev.flow.detach(first)
        ev.flow.attach(second)

    @on(StreamData, attached=False)
    def second(ev):
        seen.append(("second", ev.offset))
        return DETACH

    @on(FlowStart)
    def start(ev):
        ev.flow.attach(first)
    play(conn().send(b"a").send(b"b").send(b"c"), also=[[first, second, start]])
    assert seen == [("first", 0), ("second", 1)]


def test_b23_there_is_a_test_for_each():
    names = re.findall(r"^def test_b(\d\d)_", Path(__file__).read_text(), re.M)
    assert sorted(names) == [f"{i:02}" for i in range(1, 26)]


@pytest.mark.parametrize("size", [1, 1024, 8191, 8192, 8193])
def test_b24_a_buffer_that_is_exactly_full_is_read_right(size):
    data = bytes(i * 31 & 255 for i in range(size))
    real = Reassembler(limit=size, keep=size)
    for at in range(0, size, 1000):
        assert real.write(1 + at, data[at:at + 1000]) == b""
    assert real.state["queued"] == size and real.write(size + 1, b"!") is None
    assert real.write(0, b"_") == b"_" + data
    real.write(1, data)
    assert not real.conflicts                   # the ring of delivered bytes is exactly full, and has come round


@pytest.mark.parametrize("by", [4, 43])
def test_b25_disorder_does_not_freeze_the_direction(by):
    stream = bytes(i * 7 & 255 for i in range(292_000))
    c = conn().ack().send(stream, ack=False)
    for n in range(5, len(c) - by, by + 2):
        c.reorder(n, by=by)
    log = play(c.ack().close())
    assert log.streams[1, ">"] == stream and not log.of("OutOfWindow", "StreamGap")
