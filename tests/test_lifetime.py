"""How flows end, and timers: in packet time, once, and in order."""
import gc

import pytest
from boxes import assert_balanced, box, drive, question, web

import mos
from mos.errors import StaleFlow, UsageError
from mos.events import CapReached, FlowEnd, FlowStart, PacketIn, StreamData, Timer, on
from mos.events.verdict import DROP
from mos.nf import NF, Chain
from mos.run import TIMEOUTS, Engine
from mos.testing import merge, run, tcp, udp

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def ends(nfs, packets, **settings):
    """(flow id, reason, seconds) of each FlowEnd, and the engine."""
    seen = []

    @on(FlowEnd)
    def end(ev):
        seen.append((ev.flow.id, ev.reason, (ev.time - START) // SECOND))
    return seen, drive([*nfs, box(end)], packets, **settings)


def datagrams(*seconds, port=1000):
    c = udp(f"10.0.0.1:{port}", "10.0.0.2:53")
    for s in seconds:
        c.clock = START + round(s * SECOND)
        c.send(b"x")
    return c


def test_each_flow_ends_once_oldest_first_at_shutdown():
    seen, _ = ends([], merge(datagrams(0, 3, port=1), datagrams(1, port=2), datagrams(2, port=3)))
    assert seen == [(2, "shutdown", 3), (3, "shutdown", 3), (1, "shutdown", 3)]


def test_a_silent_flow_ends_when_the_next_packet_tells_the_time():
    seen, _ = ends([], merge(datagrams(0, port=1), datagrams(0, 119, 200, 330, port=2)))
    assert seen == [(1, "idle", 200), (2, "idle", 330), (5, "shutdown", 330)]


@pytest.mark.parametrize("name, seconds", [("DATAGRAM", 5), ("SYN_SENT", 5)])
def test_time_outs_are_settings(name, seconds):
    first = datagrams(0) if name == "DATAGRAM" else tcp("10.0.0.1:1", "10.0.0.2:2", handshake=False).syn()
    for after, reason in ((seconds - 1, "shutdown"), (seconds + 1, "idle")):
        seen, _ = ends([], merge(first, datagrams(after, port=9)),
                       timeouts={name: seconds, "SYN_RECEIVED": seconds, "LISTEN": seconds})
        assert seen[0][:2] == (1, reason)
    assert TIMEOUTS["ESTABLISHED"] == 7440


def test_a_full_table_evicts_embryonic_flows_first_and_says_so():
    half_open = tcp("10.0.0.1:1", "10.0.0.2:80", handshake=False, start_ns=START + SECOND).syn()
    open_ = tcp("10.0.0.1:2", "10.0.0.2:80", start_ns=START)
    caps = []

    @on(CapReached)
    def cap(ev):
        caps.append((ev.cause, ev.packet.src_port))
    seen, engine = ends([box(cap)], merge(open_, half_open, datagrams(2, port=3), datagrams(3, port=4)), max_flows=2)
    # The open flow had packets since it was queued, that of the first datagram had none.
    assert [s[:2] for s in seen] == [(4, "evicted"), (5, "evicted"), (1, "shutdown"), (6, "shutdown")]
    assert caps == [("flows", 3), ("flows", 4)] and all(engine.forwarded)
    assert engine.stats()["ended"] == {"evicted": 2, "shutdown": 2}


def test_what_an_evicted_flow_says_is_not_about_the_packet_that_came():
    """A handler that drops data at the end of the evicted flow does not drop the newcomer's packet."""
    torn = tcp("10.0.0.1:2", "10.0.0.2:80", start_ns=START).send(b"a" * 10).segment("client", b"late", offset=20)

    @on(StreamData, where="offset == 20")
    def drop(ev):
        return DROP
    _, engine = ends([box(drop)], merge(torn, datagrams(2)), max_flows=1)
    assert engine.forwarded[-1]
    assert_balanced(engine.stats())


def test_ended_flows_hold_no_timers_views_or_memory():
    @on(FlowStart)
    def start(ev):
        ev.flow.timer(1000, "never")
    _, engine = ends([box(start)], merge(*[datagrams(i, port=1 + i) for i in range(20)]), max_flows=4)
    stats = engine.stats()
    assert stats["timers"] == 0 and stats["reassembly"]["bytes"] == 0


def timed(*calls, at=(0, 1, 2, 3, 4, 5.5)):
    """[(what, seconds)] of the timers that `calls(flow)` set at the first packet."""
    seen = []

    @on(FlowStart)
    def start(ev):
        for call in calls:
            call(ev.flow)

    @on(Timer)
    def timer(ev):
        assert ev.packet is None and ev.to_server
        seen.append((ev.value, (ev.time - START) / SECOND))
    drive([box(start, timer)], datagrams(*at))
    return seen


def test_one_shot_timers_fire_once_in_order_of_their_time():
    assert timed(lambda f: f.timer(2.5, "b"), lambda f: f.timer(1.25, "a"), lambda f: f.timer(2.5, "c")) == [
        ("a", 1.25), ("b", 2.5), ("c", 2.5)]


def test_periodic_timers_catch_up():
    assert timed(lambda f: f.timer(1.5, "p", every=True)) == [("p", 1.5), ("p", 3.0), ("p", 4.5)]


def test_a_long_silence_is_not_made_up_for_tick_by_tick():
    seen = timed(lambda f: f.timer(0.001, "p", every=True), at=(0, 100))
    assert 1 < len(seen) <= 1100 and seen[-1][1] == 100.0 and [s for _, s in seen] == sorted(s for _, s in seen)


def test_a_timer_of_no_time_fires_at_a_later_packet():
    calls = []

    @on(FlowStart)
    def start(ev):
        ev.flow.timer(0)

    @on(Timer)
    def again(ev):
        calls.append(ev.time)
        ev.flow.timer(0)
    drive([box(start, again)], datagrams(0, 1, 2))
    assert len(calls) == 2


@pytest.mark.parametrize("every", [False, True])
def test_a_timer_can_be_cancelled_also_from_its_own_handler(every):
    handles, told = [], []

    @on(FlowStart)
    def start(ev):
        for value in (object(), object()):
            handles.append(ev.flow.timer(1.5, value, every=every))
        assert ev.flow.cancel(ev.flow.timer(1, "gone")) is True

    @on(Timer)
    def timer(ev):
        value = ev.value
        told.append(ev.flow.cancel(handles[len(told)]))
        gc.collect()
        assert ev.value is value
    engine = drive([box(start, timer)], datagrams(0, 1, 2, 3, 4, 5))
    assert told == [every, every] and engine.stats()["timers"] == 0


def test_timers_end_with_their_flow():
    seen = []

    @on(FlowStart)
    def start(ev):
        ev.flow.timer(130, "late")

    @on(Timer)
    def timer(ev):
        seen.append(ev.value)
    drive([box(start, timer)], merge(datagrams(0, port=1), datagrams(125, 200, 260, port=2)))
    assert seen == ["late"], "the second flow's, at 255 s; the first flow was idle for 120 s before its came"


@pytest.mark.parametrize("call", [lambda f: f.timer(-1), lambda f: f.timer(0, every=True)])
def test_impossible_timers_are_refused(call):
    @on(FlowStart)
    def start(ev):
        with pytest.raises(UsageError, match="give a positive number of seconds"):
            call(ev.flow)
    drive([box(start)], question())


def test_an_ended_flow_takes_no_timer():
    flows = []

    @on(FlowStart)
    def start(ev):
        flows.append(ev.flow)
    drive([box(start)], question())
    with pytest.raises(StaleFlow):
        flows[0].timer(1)


def test_every_runs_from_the_first_packet_on():
    seen = []

    @mos.every(2)
    def tick(ev):
        seen.append(((ev.time - START) / SECOND, ev.flow))

    @mos.every(3)
    def tock(ev):
        seen.append(((ev.time - START) / SECOND, "tock"))
    drive([box(tick, tock)], datagrams(0, 1, 4, 6.5))
    assert seen == [(2.0, None), (3.0, "tock"), (4.0, None), (6.0, "tock"), (6.0, None)]


def test_every_on_a_method_is_each_instances_own():
    class Ticker(NF):
        def __init__(self):
            super().__init__()
            self.ticks = 0

        @mos.every(1)
        def tick(self, ev):
            self.ticks += 1
    chain = Chain(Ticker(), Ticker())
    for _ in range(2):
        drive(chain, datagrams(0, 5))
    assert [nf.ticks for nf in chain.nfs] == [10, 10]


@pytest.mark.parametrize("seconds", [0, -1, "1", float("nan"), float("inf"), True])
def test_every_takes_a_positive_time(seconds):
    with pytest.raises(UsageError, match="every takes"):
        mos.every(seconds)


def test_a_timer_set_before_the_first_packet_counts_from_it():
    seen = []

    class Early(NF):
        def start(self, engine):
            engine.stack.flow_timer(None, 1.5, "early")

        @on(Timer)
        def timer(self, ev):
            seen.append((ev.value, ev.time - START))
    drive([Early()], datagrams(0, 1, 2))
    assert seen == [("early", 1.5 * SECOND)]


def test_one_broken_time_stamp_does_not_time_everything_out():
    c = datagrams(0, 1, 2).packets
    c.insert(2, (START + 10**18, udp("10.0.0.1:5", "10.0.0.2:53").send(b"x").packets[0][1]))
    seen, _ = ends([], c)
    assert [s[1] for s in seen] == ["shutdown", "shutdown"]


def test_time_never_goes_back():
    times = []

    @on(PacketIn)
    def packet(ev):
        times.append(ev.time)
    with Engine(Chain(box(packet))) as engine:
        for ns, frame in datagrams(5, 3, 4, 6).packets:
            engine.feed(frame, ns)
    assert times == sorted(times) and engine.clock == START + 6 * SECOND


def test_a_closed_connection_ends_by_its_fins():
    seen, _ = ends([], merge(web(), datagrams(100)))
    assert seen[0][:2] == (1, "fin")


@pytest.mark.parametrize("every", [False, True])
def test_a_timer_may_be_cancelled_by_its_own_handler(every):
    """AddressSanitizer sees it best: the timer and its value are still in use when the handler lets go of them."""
    handles, seen = [], []

    @on(FlowStart)
    def start(ev):
        handles.append(ev.flow.timer(1, ["value"] * 3, every=every))

    @on(Timer)
    def timer(ev):
        seen.append((ev.flow.cancel(handles[0]), list(ev.value), ev.flow.cancel(handles[0])))
    result = run([start, timer], tcp("10.0.0.1:1234", "10.0.0.2:80").wait(5).send(b"x").wait(5).send(b"y").close())
    assert seen == [(every, ["value"] * 3, False)]
    assert result.stats["timers"] == 0
