"""What the stages share: counters, timers, verdicts given outside a handler; and who may run an engine when."""
import random

import pytest
from boxes import assert_balanced, box, drive, flows, question, web
from hypothesis import given, settings
from hypothesis import strategies as st

from mos import BYPASS, DETACH, DROP, DROP_FLOW, RESET, Chain, Engine, HandlerError, MosError, StaleFlow, UsageError, on
from mos.events import (
    BadChecksum,
    Event,
    FlowEnd,
    FlowStart,
    Malformed,
    Orphan,
    PacketIn,
    StreamData,
    TcpStateChange,
    Timer,
)
from mos.io.source import open_source
from mos.testing import fault, icmp_echo, merge, tcp, udp


def play(conversation, *handlers, **settings):
    with Engine(Chain(list(handlers)), **settings) as engine:
        for ns, frame in conversation.packets:
            engine.feed(frame, ns)
    return engine


def talk():
    return tcp("10.0.0.1:1234", "10.0.0.2:80", start_ns=1_000_000_000)


def test_timers_of_a_flow_fire_in_packet_time_and_end_with_it():
    fired = []

    @on(FlowStart)
    def start(ev):
        ev.flow.timer(1, "once")
        ev.flow.timer(2, "each", every=True)
        ev.flow.cancel(ev.flow.timer(1, "never"))
        ev.flow.timer(1000, "too late")

    @on(Timer)
    def timer(ev):
        fired.append((ev.value, ev.time))

    engine = play(talk().wait(7).send(b"x").wait(1).send(b"y"), start, timer)
    assert fired == [("once", 2_000_000_000), ("each", 3_000_000_000), ("each", 5_000_000_000), ("each", 7_000_000_000),
                     ("each", 9_000_000_000)]
    assert engine.stats()["timers"] == 0


def test_a_verdict_given_to_a_flow_holds_from_its_next_packet():
    @on(StreamData)
    def data(ev):
        ev.flow.verdict(DROP_FLOW)
    stats = play(talk().send(b"a").send(b"b"), data).stats()
    assert stats["forwarded"] == 4 and sum(stats["dropped"].values()) == 3


def test_what_cannot_be_given_to_a_flow_is_refused():
    @on(FlowStart)
    def start(ev):
        ev.flow.verdict(DROP)
    with pytest.raises(MosError, match="DROP_FLOW or RESET"):
        play(talk(), start)


def test_an_ended_flow_keeps_its_name_only():
    kept = []

    @on(FlowEnd)
    def end(ev):
        kept.append(ev.flow)
    play(talk().close(), end)
    flow, = kept
    assert str(flow) == "tcp 10.0.0.1:1234 > 10.0.0.2:80" and flow.id == 1
    for use in (lambda: flow.client_packets, lambda: flow.timer(1), lambda: flow.attach(end)):
        with pytest.raises(StaleFlow):
            use()


def test_a_timer_needs_a_sensible_time():
    engine = Engine(Chain())
    with pytest.raises(UsageError, match="seconds"):
        engine.stack.flow_timer(None, -1)
    engine.close()


def test_smoothed_round_trips():
    seen = []

    @on(FlowEnd)
    def end(ev):
        seen.append((ev.flow.rtt, ev.flow.client_side.srtt))
    play(talk().send(b"a").send(b"b"), end)
    assert seen == [(0.002, 0.001)]


def noting(kind, seen, **marks):
    return on(kind, **marks)(lambda ev: seen.append(ev.packet.number if ev.packet else None))


def test_no_chain_forwards_everything_as_it_came(tmp_path):
    datagrams = [udp(f"10.0.0.1:{i}", "10.0.0.2:53").send(b"x") for i in range(1, 5)]
    packets = merge(web(), *datagrams).packets + [(0, b""), (0, b"junk")]
    engine = drive([], packets, write=str(tmp_path / "out.pcap"))
    assert all(engine.forwarded) and [r[2] for r in open_source(tmp_path / "out.pcap")] == [f for _, f in packets]
    assert_balanced(engine.stats())


def test_a_packet_filter_selects_what_is_looked_at():
    seen = []
    engine = drive([box(noting(PacketIn, seen), on(PacketIn)(lambda ev: DROP))], merge(question(2), web()), bpf="udp port 53")
    stats = engine.stats()
    assert len(seen) == 4 and stats["stages"]["unselected"] == 10 and stats["dropped"] == {"<lambda>": 4}
    assert_balanced(stats)


def test_without_a_flow_there_are_events_still():
    kinds = {}

    @on(Event)
    def all_(ev):
        kinds.setdefault(type(ev), []).append((ev.packet.number, ev.flow))
    rst = tcp("10.0.0.1:1", "10.0.0.2:2", handshake=False).rst().packets
    bad = udp("10.0.0.1:1", "10.0.0.2:2").send(b"x").corrupt(1).packets
    drive([box(all_)], [(1, b"\0" * 14 + b"\x45"), *rst, *bad], checksum="verify")
    assert set(kinds) == {PacketIn, Malformed, Orphan, BadChecksum}
    assert all(flow is None for found in kinds.values() for _, flow in found)


def test_the_gil_is_taken_once_a_batch_at_most(tmp_path):
    packets = flows(200)
    path = packets.pcap(tmp_path / "in.pcap")
    for nfs, takes in (([], 3), ([box(noting(FlowStart, [], where="flow_id == 1"))], 4),
                       ([box(noting(PacketIn, []))], len(packets) // 64 + 4)):
        with Engine(Chain(*nfs)) as engine:
            engine.run(path)
        assert engine.stats()["bus"]["gil_takes"] <= takes


@pytest.mark.parametrize("call", [
    lambda e: e.feed(b"", 1), lambda e: e.run(iter(())), lambda e: e.close()], ids=["feed", "run", "close"])
def test_a_handler_cannot_run_the_engine_it_runs_in(call):
    @on(PacketIn)
    def again(ev):
        call(engine)
    with Engine(Chain(box(again, name="box"))) as engine:
        with pytest.raises(HandlerError, match="box.again is being asked: packets are fed and flows ended when it has returned"):
            engine.feed(question().packets[0][1], 1)
        engine.abandon()


def test_an_engine_in_a_handler_of_another_is_fine():
    lengths = []

    @on(PacketIn)
    def inner(ev):
        lengths.append(ev.packet.length)

    @on(PacketIn)
    def outer(ev):
        drive([box(inner)], [(1, ev.packet.data)])
    drive([box(outer)], question())
    assert len(lengths) == 2


def test_a_frame_larger_than_any_capture_is_refused():
    with Engine(Chain()) as engine:
        with pytest.raises(UsageError, match="a frame of 262145 bytes"):
            engine.feed(bytes((1 << 18) + 1), 1)
        assert engine.feed(bytes(1 << 18), 1)


@pytest.mark.parametrize("ns", [-1, (1 << 62) + 1])
def test_a_time_to_which_no_interval_could_be_added_is_refused(ns):
    with Engine(Chain()) as engine:
        with pytest.raises(UsageError, match="not in ns since 1970"):
            engine.feed(question().packets[0][1], ns)
        assert engine.feed(question().packets[0][1], 1 << 62)


def test_halt_ends_after_the_packet_in_hand():
    seen = []

    @on(PacketIn)
    def stop(ev):
        seen.append(ev.packet.number)
        if len(seen) == 3:
            engine.halt()
    with Engine(Chain(box(stop))) as engine:
        engine.run(iter(question(20).packets))
    assert seen == [1, 2, 3]


def test_until_ends_after_that_packet():
    with Engine(Chain()) as engine:
        engine.run(iter(question(100).packets), until=70)
    assert engine.stats()["packets_in"] == 70


@pytest.mark.parametrize("pickup, started", [("off", 0), ("state", 1), ("data", 1)])
def test_flows_without_their_syn(pickup, started):
    got, starts = [], []

    @on(StreamData)
    def data(ev):
        got.append(ev.data)

    @on(FlowStart)
    def start(ev):
        starts.append(ev.midstream)
    drive([box(data, start)], web(data=b"up", answer=b"down").packets[3:], pickup=pickup)
    assert starts == [True] * started and got == ([b"up", b"down"] if pickup == "data" else [])


def test_a_flow_picked_up_for_its_state_alone_stays_so_when_its_handlers_change():
    got = []

    @on(StreamData)
    def data(ev):
        got.append(ev.data)

    @on(PacketIn)
    def once(ev):
        return DETACH
    c = web(data=b"up", answer=b"down")
    drive([box(data, once)], c.packets[3:], pickup="state")
    assert got == []
    drive([box(data, once)], c.packets, pickup="state")
    assert got == [b"up", b"down"]


def test_a_broken_state_of_the_engine_stays_told():
    """After a handler raised, feeding on raises the same; closing is left to `abandon`."""
    @on(PacketIn)
    def boom(ev):
        raise ValueError("first")
    engine = Engine(Chain(box(boom)))
    for _ in range(2):
        with pytest.raises(HandlerError, match="first"):
            engine.feed(question().packets[0][1], 1)
    with pytest.raises(MosError):
        engine.close()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["tap", "inline"]), st.sampled_from([1, 3, 1000]), st.booleans())
def test_both_balances_on_bad_networks(seed, truth, max_flows, writes):
    rng = random.Random(seed)
    talk = merge(*[web(port=1 + i, data=bytes(rng.randrange(1, 3000)), mss=500) for i in range(3)], question(3),
                 icmp_echo("10.0.0.1", "10.0.0.2", count=2)).packets
    rough = list(fault.inject(talk, seed=seed, drop=0.1, duplicate=0.1, corrupt=0.1, reorder=0.2))
    answers = [None] * 12 + [DROP, DROP, DROP_FLOW, RESET, BYPASS]
    ended = []

    @on(Event)
    def chance(ev):
        answer = rng.choice(answers)
        if isinstance(ev, TcpStateChange) and answer is DROP:
            return DROP_FLOW        # the receiver's side changes after the commit
        return answer if ev.answers or answer is BYPASS else None

    @on(FlowEnd)
    def end(ev):
        ended.append(ev.flow.id)
    engine = drive([box(chance, name="a"), box(chance, name="b"), box(end)], rough, truth=truth, max_flows=max_flows,
                   checksum="verify")
    stats = engine.stats()
    assert_balanced(stats)
    assert stats["packets_in"] == len(rough) and stats["forwarded"] >= sum(engine.forwarded)    # some wait for a later one
    assert truth == "inline" or stats["forwarded"] == sum(engine.forwarded)
    assert len(set(ended)) == len(ended) == stats["flows"], "each flow ends exactly once"
    assert stats["timers"] == 0 and stats["reassembly"]["bytes"] == 0
