"""Safe mode: what reaches a receiver is what the chain let pass, whatever its sender does."""
import random

import packets
import pytest
import safety
from boxes import assert_balanced, box
from hosts import ACK, FIN, NOP_NOP_TS, PSH, RST, SYN, URG, Host, Wire, frame, parse

from mos.errors import UsageError
from mos.events import CapReached, Event, FlowStart, OverlapConflict, PacketIn, StreamData, StreamGap, UserEvent, derive, on
from mos.events.verdict import BYPASS, DROP, Replace, Rewrite
from mos.nf import Chain
from mos.run import Engine, Settings, safe_level


def test_no_receiver_reads_what_the_chain_did_not_see():
    """`make safe` runs ten thousand cases; here some hundreds."""
    problems, read, counters = safety.run(360)
    assert not problems
    assert read > 900_000 and all(n > 100 for n in counters.values()), (read, counters)


def test_without_safe_mode_the_same_cases_show_the_leak():
    """So the receiver of the test above would notice."""
    original = safety.Settings
    safety.Settings = lambda **kwargs: original(**kwargs, safe="off")
    try:
        bench = safety.Box("pass")
        found = [p for seed in range(0, 90, 3) for p in safety.Case(bench, seed).run()]
        bench.engine.abandon()
        bench.wire.close()
    finally:
        safety.Settings = original
    assert [p for p in found if "the chain let pass" in p]


def watching(ev):
    """A handler that might block."""


class Lane:
    """One connection, already open, from the client's side: `send` gives what leaves, told as "> offset+length flags"."""
    port = 1234

    def __init__(self, *handlers, open=True, **settings):
        self.wire, self.now, self.stream, self.gaps, self.caps = Wire(), 10**18, b"", [], []

        @on(StreamData, where="to_server", at="receiver")
        def note(ev):
            self.stream += ev.data

        @on(StreamGap, where="to_server")
        def gap(ev):
            self.gaps.append((ev.cause, ev.offset, ev.length))

        @on(CapReached)
        def cap(ev):
            self.caps.append(ev.cause)
        handlers = handlers or (on(StreamData)(watching),)
        settings = Settings(**{"truth": "inline", "checksum": "verify"} | settings)
        self.engine = Engine(Chain(box(*handlers), [note, gap, cap]), settings, write=self.wire.path)
        if open:
            self.client(-1, flags=SYN)
            self.server(flags=SYN | ACK)
            self.client(0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.engine.close()
        self.wire.close()
        assert_balanced(self.engine.stats())

    def feed(self, raw, **offload):
        self.now += 1000
        with self.engine.slots:
            self.engine.stack.feed(raw, self.now, **offload)
        self.engine.writer.flush()
        self.frames = self.wire.take()
        return self.frames

    def client(self, at, data=b"", flags=None, **fields):
        """A segment of the client's; what leaves for the server."""
        flags = (ACK | (PSH if data else 0)) if flags is None else flags
        out = self.feed(frame(self.port, True, 1001 + at, 0 if flags == SYN else 2001, flags, data, **fields))
        return self.told([parse(f) for f in out if parse(f).to_server])

    def server(self, ack=0, flags=ACK, seq=0, **fields):
        """An ACK of the server's; the frames that leave for the client."""
        return self.feed(frame(self.port, False, 2000 + (0 if flags & SYN else 1) + seq, 1001 + ack, flags, **fields))

    def told(self, segments):
        names = ((FIN, "F"), (SYN, "S"), (RST, "R"), (URG, "U"))
        return [f"{s.seq - 1001}+{s.data.decode()}" + "".join(n for bit, n in names if s.flags & bit) for s in segments]


def test_the_copy_is_what_is_sent_again():
    with Lane() as lane:
        assert lane.client(0, b"innocent") == ["0+innocent"]
        assert lane.client(0, b"ATTACK!!") == ["0+innocent"]
        assert lane.client(0, b"ATT") == ["0+inn"] and lane.client(3, b"ACK") == ["3+oce"]
        assert lane.client(6, b"!!more") == ["6+ntmore"] and lane.stream == b"innocentmore"
        lane.server(ack=4)
        assert lane.client(2, b"XXXXXX") == ["4+cent"]      # what was acknowledged goes no further
        assert lane.engine.stats()["safe"]["rewritten"] == 5


def test_the_copy_is_as_it_was_edited():
    @on(StreamData, where="to_server", edits="same_length")
    def edit(ev):
        return Replace(ev.data.upper())
    with Lane(edit) as lane:
        assert lane.client(0, b"abcdef") == ["0+ABCDEF"]
        assert lane.client(0, b"abcdef") == ["0+ABCDEF"] and lane.client(4, b"efgh") == ["4+EFGH"]
        assert lane.client(12, b"mn") == []
        assert lane.client(8, b"ijkl") == ["8+IJKL", "12+MN"]       # behind a hole nothing has left, so it can be changed
        assert lane.stream == b"ABCDEFGHIJKLMN"


def test_acknowledged_bytes_bring_an_ack_and_nothing_else():
    """Its ACK was lost, so the sender repeats itself: the receiver has to hear of it, but no byte."""
    with Lane() as lane:
        lane.client(0, b"abc")
        lane.server(ack=3)
        assert lane.client(0, b"xyz") == ["2+"] and lane.client(2, b"?") == ["2+"]      # the second is a keep-alive
        assert lane.client(2) == ["2+"]
        assert lane.engine.stats()["safe"]["bare"] == 2


def test_behind_a_hole_nothing_leaves_and_the_sender_is_told():
    with Lane() as lane:
        lane.client(0, b"a")
        lane.server(ack=1, wnd=500)
        assert lane.client(4, b"de") == []
        (ack,) = [parse(f) for f in lane.frames]
        assert (ack.to_server, ack.seq, ack.ack, ack.flags, ack.wnd, ack.data) == (False, 2001, 1002, ACK, 500, b"")
        assert lane.client(2, b"bc", flags=ACK | URG, urg=1) == [] and lane.stream == b"a"
        assert lane.client(1, b"?") == ["1+?", "2+bc", "4+de"] and lane.stream == b"a?bcde"
        stats = lane.engine.stats()
        assert (stats["consumed"], stats["split"], stats["injected"]) == (2, 2, 2)


def test_sack_says_what_waits():
    options = bytes.fromhex("020405b4 0402 0101")
    with Lane(open=False) as lane:
        lane.client(-1, flags=SYN, options=options)
        lane.server(flags=SYN | ACK, options=options)
        lane.client(0)
        found = []
        for at in (10, 30, 12, 20):
            lane.client(at, b"xy")
            found.append([int.from_bytes(parse(lane.frames[0]).options[i:i + 4], "big") - 1001
                          for i in range(4, len(parse(lane.frames[0]).options), 4)])
        assert found == [[10, 12], [30, 32, 10, 12], [10, 14, 30, 32], [20, 22, 10, 14, 30, 32]]


def test_an_ack_behind_a_hole_goes_on_alone():
    with Lane() as lane:
        lane.feed(frame(1234, False, 2001, 1001, ACK, b"answer"))
        raw = frame(1234, True, 1006, 2007, ACK | PSH, b"fg")
        assert lane.told([parse(f) for f in lane.feed(raw)]) == ["5+", "1006+"]
        assert [parse(f).ack for f in lane.frames if parse(f).to_server] == [2007]
        assert lane.engine.stats()["consumed"] == 0


def test_a_fin_behind_a_hole_comes_with_the_last_bytes():
    with Lane() as lane:
        assert lane.client(3, b"def", flags=ACK | FIN) == []
        assert lane.client(0, b"abc") == ["0+abc", "3+defF"]
        lane.server(ack=7)
        assert lane.client(3, b"xxx", flags=ACK | FIN) == ["6+"]


def test_one_stream_has_one_end():
    with Lane() as lane:
        assert lane.client(0, b"abcdef") == ["0+abcdef"]
        assert lane.client(0, b"abc", flags=ACK | FIN) == ["0+abc"]     # below what has left: no end
        assert lane.client(6, b"gh", flags=ACK | FIN) == ["6+ghF"]
        assert lane.client(6, b"ghij", flags=ACK | FIN) == ["6+gh"] and lane.client(8, b"more") == ["-1+"]
        assert lane.stream == b"abcdefgh"


def test_what_waits_leaves_with_the_time_stamp_of_what_let_it_go():
    """Its own is older than the filler's, and its receiver would refuse it (RFC 7323 section 5)."""
    def stamp(value):
        return NOP_NOP_TS + value.to_bytes(4, "big") + bytes(4)
    with Lane() as lane:
        lane.client(3, b"def", options=stamp(50))
        lane.client(0, b"abc", options=stamp(70))
        assert [parse(f).ts for f in lane.frames] == [70, 70]


@pytest.mark.parametrize("six", [False, True])
def test_segments_made_anew_are_no_longer_than_the_receiver_takes(six):
    mss = bytes.fromhex("02040100")
    with Lane(open=False) as lane:
        lane.client(-1, flags=SYN, options=mss, six=six)
        lane.server(flags=SYN | ACK, options=mss, six=six)
        lane.client(1, b"b" * 700, six=six)
        assert lane.client(0, b"a", six=six) == ["0+a", "1+" + "b" * 256, "257+" + "b" * 256, "513+" + "b" * 188]


def test_urgent_bytes_are_read_in_line():
    """Else chain and program read two streams: the host takes the byte out and hands it over apart."""
    with Lane() as lane:
        assert lane.client(0, b"rm -rXf", flags=ACK | URG, urg=6) == ["0+rm -rXf"]
        assert parse(lane.frames[0]).urg == 0 and lane.engine.stats()["safe"]["not_urgent"] == 1
        assert lane.client(7, flags=ACK | URG, urg=1) == ["7+"]     # the pointer may come before its byte


def test_a_probe_of_a_closed_window_asks_without_its_byte():
    """The receiver may or may not have taken it. So it is asked for its window with nothing it could take."""
    with Lane(open=False) as lane:
        lane.client(-1, flags=SYN)
        lane.server(flags=SYN | ACK, wnd=3)
        assert lane.client(0, b"abc") == ["0+abc"]
        lane.server(ack=3, wnd=0)
        assert lane.client(3, b"d") == ["2+"]
        lane.server(ack=3, wnd=9)
        assert lane.client(3, b"def") == ["3+def"]
        lane.server(ack=6, wnd=0)       # shrunk below what was offered: the host may still take a byte, and then this one
        assert lane.client(6, b"g") == ["6+g"] and lane.client(6, b"x") == ["6+g"]


def test_of_a_segment_that_overruns_the_window_all_is_retained():
    with Lane() as lane:
        lane.server(ack=0, wnd=2)
        assert lane.client(0, b"abcdef") == ["0+abcdef"]
        lane.server(ack=2, wnd=2)
        assert lane.client(2, b"XXXX") == ["2+cdef"]


def test_data_on_a_rst_goes_nowhere():
    with Lane() as lane:
        lane.client(0, b"abc")
        assert lane.client(3, b"no reason", flags=RST | ACK) == ["3+R"]


def test_refused_segments_lose_their_bytes():
    with Lane() as lane:
        lane.client(0, b"abc")
        lane.server(ack=3)
        assert lane.client(3 + (1 << 30), b"far") == ["2+"]
        assert lane.client(3, b"none", flags=PSH) == ["2+"]
        assert lane.client(50, b"again", flags=SYN) == ["50+S"] and lane.stream == b"abc"


def test_data_on_a_syn_sent_again():
    with Lane(open=False) as lane:
        assert lane.client(-1, b"hello", flags=SYN) == ["-1+helloS"]
        assert lane.client(-1, b"HELLO you", flags=SYN) == ["-1+helloS"]
        lane.server(ack=5, flags=SYN | ACK)
        assert lane.client(-1, b"HELLO", flags=SYN) == ["-1+S"]
        assert lane.client(5, b"!") == ["5+!"] and lane.stream == b"hello!"


def test_before_a_pick_up_nothing_was_seen_so_nothing_passes():
    """Bytes pass from where their receiver says that it is; those it lacks from before are sent again, and seen."""
    with Lane(open=False) as lane:
        assert not any(words.endswith("abc") for words in lane.client(100, b"abc")) and lane.stream == b""
        assert not any(words.endswith("x") for words in lane.client(50, b"x" * 50))
        lane.server(ack=50)
        assert lane.client(100, b"abc") == [] and lane.client(50, b"x" * 50)[0] == "50+" + "x" * 50
        assert lane.stream == b"x" * 50 + b"abc" and lane.gaps == []
        lane.server(ack=103)
        assert lane.client(20, b"y" * 30) == ["102+"] and lane.client(103, b"go") == ["103+go"]


def test_the_copy_is_capped_and_what_finds_no_room_comes_again():
    with Lane(limits={"retained": 10}) as lane:
        assert lane.client(0, b"a" * 8) == ["0+aaaaaaaa"]
        assert lane.client(8, b"bbb") == [] and lane.caps == ["retained"]
        assert lane.engine.stats()["dropped"] == {"cap": 1}
        lane.server(ack=8)
        assert lane.client(8, b"bbb") == ["8+bbb"] and lane.stream == b"a" * 8 + b"bbb"


def test_thousands_of_retained_segments_are_few_to_look_through_and_say_the_same():
    """Single bytes without an ACK, some of them acknowledged later: what comes again with other bytes leaves as it did first."""
    rng = random.Random(1)
    with Lane() as lane:
        said = bytes(rng.randrange(97, 123) for _ in range(3000))
        for i in range(3000):
            assert lane.client(i, said[i:i + 1]) == [f"{i}+{said[i:i + 1].decode()}"]
        held = lane.engine.stats()["reassembly"]["bytes"]
        assert held < 20 * 100 + 3000 + 2 * 4096        # sixteen one by one, the others in one or two
        for acked in (0, 10, 700, 2990):
            lane.server(ack=acked)
            for _ in range(20):
                a = rng.randrange(acked, 2999)
                b = min(3000, a + rng.randrange(1, 400))
                assert lane.client(a, b"?" * (b - a)) == [f"{a}+{said[a:b].decode()}"]
        lane.server(ack=3000)
        assert lane.engine.stats()["reassembly"]["bytes"] < held / 4 and lane.stream == said


@pytest.mark.parametrize("holes,left,gaps", [("wait", ["0+abc", "3+def"], []), ("skip", ["2+"], [("cap", 0, 3)])])
def test_a_hole_beyond_the_caps(holes, left, gaps):
    with Lane(limits={"segments": 1}, holes=holes) as lane:
        lane.server(ack=0)
        assert lane.client(3, b"def") == lane.client(7, b"x") == [] and lane.caps == ["segments"] and lane.gaps == gaps
        lane.server(ack=0)
        if holes == "wait":
            assert lane.client(0, b"abc") == left and lane.stream == b"abcdef"
        else:
            assert lane.client(0, b"abc") == ["-1+"]        # never: what lies behind it was told as if it were lost
            assert lane.client(3, b"def") == ["3+def"] and lane.stream == b"def"


def test_a_bypass_lets_new_bytes_pass_and_old_ones_stay_as_they_were():
    @on(StreamData, where="to_server", edits="same_length")
    def edit(ev):
        return Replace(ev.data.upper()) if ev.offset < 3 else BYPASS
    wire = Wire()
    with Engine(Chain(box(edit)), Settings(truth="inline"), write=wire.path) as engine:
        out = []
        for at, data in ((-1, b""), (0, b"abc"), (3, b"def"), (0, b"abcdefghi"), (6, b"ghi")):
            engine.feed(frame(1234, True, 1001 + at, 2001 if at >= 0 else 0, ACK if at >= 0 else SYN, data), 10**18)
            engine.writer.flush()
            out += [parse(f).data for f in wire.take()]
            if at < 0:
                engine.feed(frame(1234, False, 2000, 1001, SYN | ACK), 10**18)
                engine.writer.flush()
                wire.take()
        assert out == [b"", b"ABC", b"def", b"ABCdefghi", b"ghi"]
    wire.close()
    assert_balanced(engine.stats())
    assert engine.stats()["reassembly"]["bytes"] == 0


def test_other_names_and_other_bytes_together():
    @on(FlowStart, edits="header")
    def nat(ev):
        return Rewrite(client=("192.0.2.1", 4000))
    with Lane(nat, on(StreamData)(watching)) as lane:
        lane.client(3, b"def")
        assert parse(lane.frames[0]).to_server is False and lane.frames[0][30:34] == bytes([10, 0, 0, 1])
        assert lane.client(0, b"abc") == ["0+abc", "3+def"] and lane.client(0, b"xyzDEF") == ["0+abcdef"]
        assert {f[26:30] for f in lane.frames} == {bytes([192, 0, 2, 1])}


def test_a_super_packet_is_cut_where_it_was_acknowledged():
    with Lane() as lane:
        lane.client(0, b"a" * 1000)
        lane.server(ack=600)
        raw = frame(1234, True, 1001, 2001, ACK, b"x" * 1000 + b"b" * 2000)
        out = lane.told([parse(f) for f in lane.feed(raw, gso_size=1000)])
        assert out == ["600+" + "a" * 400 + "b" * 2000]


def test_nobody_has_to_listen():
    wire = Wire()
    with Engine(Chain(box(on(FlowStart)(watching))), Settings(truth="inline", safe="on"), write=wire.path) as engine:
        engine.feed(frame(1234, True, 1000, 0, SYN), 10**18)
        engine.feed(frame(1234, False, 2000, 1001, SYN | ACK), 10**18)
        for data in (b"", b"one", b"two"):
            engine.feed(frame(1234, True, 1001, 2001, ACK, data), 10**18)
    out = [parse(f).data for f in wire.take()]
    wire.close()
    assert out[3:] == [b"one", b"one"]


class Alarm(UserEvent):
    n: int


@derive(Alarm, on=StreamData)
def alarm(ev):
    yield Alarm(n=1)


@pytest.mark.parametrize("handlers,level", [
    ([on(StreamData)(lambda ev: None)], 1), ([on(StreamData, observe=True)(lambda ev: None)], 0),
    ([on(StreamData, at="receiver")(lambda ev: None)], 0), ([on(PacketIn)(lambda ev: None)], 0),
    ([on(StreamGap)(lambda ev: None)], 0), ([on(OverlapConflict)(lambda ev: None)], 1), ([on(Event)(lambda ev: None)], 1),
    ([on(StreamData, attached=False)(lambda ev: None)], 1), ([alarm, on(Alarm)(lambda ev: DROP)], 1)])
def test_when_it_is_on(handlers, level):
    subscriptions = Chain(box(*handlers)).subscriptions
    for truth, safe, want in (("inline", "auto", level), ("tap", "auto", 0), ("inline", "off", 0), ("inline", "on", 2)):
        assert safe_level(Settings(truth=truth, safe=safe), subscriptions) == want


def test_settings_that_make_no_sense():
    for wrong in ({"safe": "on"}, {"safe": "maybe"}, {"truth": "inline", "safe": "off", "holes": "skip"}, {"holes": "jump"}):
        with pytest.raises(UsageError):
            Settings(**wrong)


@pytest.mark.parametrize("seed", range(12))
def test_an_honest_sender_gets_through_whatever_is_lost(seed):
    """Both sides lossy, segments of any size, everything edited: in the end the host has read all of it."""
    rng = random.Random(seed)
    stream = bytes(rng.randrange(97, 123) for _ in range(20000))

    @on(StreamData, where="to_server", edits="same_length")
    def edit(ev):
        return Replace(ev.data.upper())
    with Lane(edit) as lane:
        host, una = Host(rng), 0
        host.irs, host.wnd = 1000, 6000
        lost, late = rng.choice([0, .05, .3]), []
        for _ in range(3000):
            if host.closed:
                break
            at = una + rng.choice([0, 0, rng.randrange(6000)])
            data = stream[at:at + rng.randrange(1, 1460)]
            if rng.random() < lost:
                continue
            lane.client(at, data, flags=ACK | (FIN if data and at + len(data) == len(stream) else 0))
            late += [parse(f) for f in lane.frames if parse(f).to_server]
            rng.shuffle(late)
            while late and rng.random() < .8:
                if rng.random() >= lost and host.take(late.pop()) and rng.random() >= lost:
                    lane.server(ack=host.rcv_nxt, wnd=host.wnd)
                    una = una if rng.random() < lost else min(host.rcv_nxt, len(stream))
        assert bytes(host.read.values()) == stream.upper() and host.closed


def test_what_cannot_be_made_and_may_not_be_renamed_is_counted_once():
    """In a tunnel a segment of a flow that was picked up cannot be made anew; that its new name is taken drops the flow besides."""
    @on(FlowStart, edits="header")
    def same_name(ev):
        return Rewrite(client=("192.0.2.1", 5000))
    with Engine(Chain(box(same_name, on(StreamData)(watching))), Settings(truth="inline", safe="on", raise_errors=False)) as engine:
        for i in range(2):
            inner = packets.ip4(packets.tcp(b"data", src=f"10.0.0.{i + 3}"), src=f"10.0.0.{i + 3}")
            engine.feed(packets.ether(packets.ip4(inner, 4)), 10**18 + i)
        assert engine.stats()["dropped"]["unsafe"] >= 1
        assert_balanced(engine.stats())
