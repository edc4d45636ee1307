"""Dispatch when handlers raise: by policy, by the right name, and never a skipped or doubled call."""
import pytest
from boxes import box, drive, noting, question, web
from hypothesis import given, settings
from hypothesis import strategies as st

from mos.errors import HandlerError
from mos.events import FlowStart, PacketIn, StreamData, UserEvent, derive, on
from mos.events.verdict import BYPASS, DETACH, DROP, Replace, Rewrite
from mos.nf import Chain
from mos.run import Engine, Settings
from mos.testing import udp


class Beacon(UserEvent):
    size: int


@derive(Beacon, on=StreamData, where="to_server")
def beacons(ev):
    yield Beacon(len(ev.data))


def boom(kind=StreamData, error=None, **marks):
    @on(kind, **marks)
    def handler(ev):
        raise error or ValueError("boom")
    return handler


def test_on_files_the_first_error_stops_the_run():
    seen = []
    with pytest.raises(HandlerError) as e:
        drive([box(boom(where="not to_server"), name="b"), box(noting(seen, "x"))], question(3))
    assert str(e.value) == "b.handler raised ValueError at packet 2, StreamData: boom"
    assert isinstance(e.value.__cause__, ValueError) and e.value.packet == 2
    assert e.value.__cause__.__traceback__.tb_next.tb_frame.f_code.co_name == "handler"
    assert seen == [("x", "up"), ("x", "down")]


def test_what_is_no_error_passes_as_it_is():
    with pytest.raises(KeyboardInterrupt):
        drive([box(boom(error=KeyboardInterrupt()), on_error="fail_open")], question(), raise_errors=False)


@pytest.mark.parametrize("policy, forwarded, calls", [
    ("fail_open", [True] * 4, 4), ("fail_closed", [False] * 4, 4), ("detach", [True] * 4, 1)])
def test_inline_the_policy_of_the_box_applies(policy, forwarded, calls):
    engine = drive([box(boom(), on_error=policy, name="b")], question(2), raise_errors=False)
    assert engine.forwarded == forwarded
    assert engine.stats()["bus"]["errors"] == {"b.handler": calls}


@pytest.mark.parametrize("boxes, run, forwarded", [
    ("", "fail_closed", False), ("", "fail_open", True), ("fail_open", "fail_closed", True), ("fail_closed", "fail_open", False)])
def test_a_box_that_says_nothing_has_the_policy_of_the_run(boxes, run, forwarded):
    engine = drive([box(boom(), on_error=boxes)], question(), raise_errors=False, on_raise=run)
    assert engine.forwarded == [forwarded] * 2


def test_an_error_in_a_predicate_is_its_handlers():
    event = StreamData.where(lambda ev: 1 // 0)
    with pytest.raises(HandlerError, match="ZeroDivisionError"):
        drive([box(noting([], "x", event))], question())
    engine = drive([box(noting([], "x", event), name="b")], question(), raise_errors=False)
    assert engine.forwarded == [True, True] and sum(engine.stats()["bus"]["errors"].values()) == 2


def test_an_error_of_a_user_events_subscriber_is_its_own():
    @on(Beacon)
    def sub(ev):
        raise ValueError("mine")
    with pytest.raises(HandlerError, match="judge.sub raised ValueError at packet 1, Beacon: mine"):
        drive([box(beacons), box(sub, name="judge")], question())
    engine = drive([box(beacons), box(sub, name="judge", on_error="fail_closed")], question(2), raise_errors=False)
    assert engine.forwarded == [False, True, False, True] and engine.stats()["bus"]["errors"] == {"judge.sub": 2}


STEPS = st.sampled_from(["attach", "detach", "raise", "DETACH", "BYPASS", "DROP"])
PLAN = st.lists(st.lists(st.tuples(st.integers(0, 5), STEPS, st.integers(0, 5)), max_size=4), min_size=1, max_size=6)


class Signal(UserEvent):
    n: int


@settings(max_examples=150, deadline=None)
@given(PLAN, st.lists(st.booleans(), min_size=6, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_no_call_is_skipped_or_doubled(plan, attached, observes):
    """Six handlers in three boxes; before each datagram it is decided what each does when it is asked."""
    todo, called, handlers = {}, [], []

    def act(me, ev):
        called.append(me)
        result = None
        for what, other in todo.get(me, ()):
            if what in ("attach", "detach"):
                getattr(ev.flow, what)(handlers[other])
            elif what == "raise":
                raise ValueError
            else:
                result = {"DETACH": DETACH, "BYPASS": BYPASS, "DROP": DROP}[what]
                break
        return None if observes[me] and result is DROP else result
    for i in range(6):
        @on(StreamData, attached=attached[i], observe=observes[i])
        def handler(ev, i=i):
            return act(i, ev)
        handlers.append(handler)

    @derive(Signal, on=PacketIn)
    def signals(ev):
        yield Signal(ev.packet.number)

    @on(Signal)
    def signal(ev):
        called.append("signal")
    chain = Chain(*[box(*handlers[2 * i:2 * i + 2], on_error="fail_open") for i in range(3)], box(signals, signal))
    mine, expected, packets = {i for i in range(6) if attached[i]}, [], question(len(plan)).packets[:len(plan)]
    steps = iter(plan)

    def before(ns, frame):
        nonlocal mine
        todo.clear()
        for me, what, other in next(steps):
            todo.setdefault(me, []).append((what, other))
        up = packets.index((ns, frame)) % 2 == 0
        expected.append("signal")
        stopped, asked = None, set(mine)
        for me in sorted(asked, key=lambda i: (i // 2 if up else -(i // 2), i)):
            rank = me // 2 if up else -(me // 2)
            if stopped is not None and rank > stopped and not observes[me]:
                continue
            expected.append(me)
            for what, other in todo.get(me, ()):
                if what == "attach":
                    mine |= {other}
                elif what == "detach":
                    mine -= {other}
                elif what == "raise":
                    break
                elif what == "DETACH":
                    mine -= {me}
                    break
                elif what == "BYPASS":
                    mine -= {me // 2 * 2, me // 2 * 2 + 1}
                    break
                else:
                    if not observes[me] and stopped is None:
                        stopped = rank
                    break
    with Engine(chain, Settings(raise_errors=False)) as engine:
        for ns, frame in packets:
            before(ns, frame)
            engine.feed(frame, ns)
    assert called == expected


def test_bytes_in_fragments_cannot_be_replaced_where_the_flow_is_renamed_either():
    """The name's edit has an offset, too, 0; inline nothing that comes over the wire may end the run."""
    @on(FlowStart, edits="header")
    def rename(ev):
        return Rewrite(client=("192.0.2.1", 4000))

    @on(StreamData, edits="same_length")
    def change(ev):
        return Replace(bytes(ev.length))
    engine = drive([box(rename, change)], udp("10.0.0.1:1", "10.0.0.2:2").send(bytes(range(100))).fragment(1, 48), truth="inline",
                   raise_errors=False)
    stats = engine.stats()
    assert stats["bus"]["errors"] == {"rename.change": 1} and stats["packets_in"] == stats["forwarded"] == 3


def test_a_packet_without_a_flow_cannot_be_renamed():
    @on(PacketIn, edits="header")
    def rename(ev):
        return Rewrite(client=("192.0.2.1", 4000))
    engine = drive([box(rename)], web().packets[3:5], truth="inline", pickup="off", raise_errors=False)
    stats = engine.stats()
    assert stats["bus"]["errors"] == {"rename.rename": 2} and stats["packets_in"] == stats["forwarded"] == 2
