"""What the stages share: counters, timers, verdicts given outside a handler."""
import pytest

from mos import DROP, DROP_FLOW, Chain, Engine, MosError, StaleFlow, UsageError, on
from mos.events import FlowEnd, FlowStart, StreamData, Timer
from mos.testing import tcp


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
