"""Which handlers a flow has: attaching, detaching, sets and their cap; when events and flows go stale."""
import pytest
from boxes import box, drive, flows, noting, question

from mos.errors import HandlerError, StaleEvent, StaleFlow
from mos.events import Event, FlowEnd, FlowStart, PacketIn, StreamData, on
from mos.events.verdict import BYPASS, DETACH
from mos.run import LIMITS


def test_set_ids_grow_with_patterns_not_with_flows():
    @on(StreamData, attached=False)
    def extra(ev):
        pass

    @on(FlowStart)
    def start(ev):
        if ev.client_port % 3 == 0:
            ev.flow.attach(extra)
        elif ev.client_port % 3 == 1:
            ev.flow.detach(start)
    bus = drive([box(extra, start)], flows(60)).stats()["bus"]
    assert bus["sets"] == 3 and bus["calls"]["extra.extra"] == 20 * 3


def test_attach_and_detach_hold_from_the_next_event():
    seen = []
    late = noting(seen, "late", attached=False)

    @on(StreamData)
    def switch(ev):
        seen.append(("switch", "up" if ev.to_server else "down"))
        {0: ev.flow.attach, 2: ev.flow.detach}.get(ev.offset, lambda _: None)(late)
    drive([box(switch, late)], question(2))
    assert seen == [("switch", "up"), ("switch", "down"), ("late", "down"), ("switch", "up"), ("late", "up"), ("switch", "down")]


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside a handler of everything"])
@pytest.mark.parametrize("kind, times", [(FlowStart, 1), (StreamData, 3), (FlowEnd, 1)])
def test_what_is_attached_is_asked_whoever_else_listens(kind, times, others):
    """The next event counts even if nobody but the new handler wants its kind."""
    seen = []
    late = noting([], "", kind, attached=False)

    @on(kind, attached=False)
    def late(ev):       # noqa: F811
        seen.append(type(ev))

    @on(PacketIn)
    def first(ev):
        if ev.flow is not None and ev.packet.number == 1:
            ev.flow.attach(late)
    everything = [box(noting([], "", Event))] if others else []
    drive([box(first, late), *everything], question().send(b"x"))
    assert seen == [kind] * times


def test_detach_answers_for_one_handler_bypass_for_its_box():
    seen = []
    a = box(noting(seen, "a1", answer=DETACH), noting(seen, "a2"))
    b = box(noting(seen, "b1", answer=BYPASS), noting(seen, "b2"), noting(seen, "b3", FlowEnd))
    c = box(noting(seen, "c", where="to_server"))
    drive([a, b, c], question(2))
    assert seen == [("a1", "up"), ("a2", "up"), ("b1", "up"), ("b2", "up"), ("c", "up"), ("a2", "down"),
                    ("a2", "up"), ("c", "up"), ("a2", "down")]


def test_bypass_takes_one_transition():
    """Not one set for each handler that goes."""
    seen = []
    handlers = [noting(seen, "x", answer=BYPASS)] + [noting(seen, n) for n in "abcdefgh"]
    assert drive([box(*handlers)], question()).stats()["bus"]["sets"] == 2


def test_other_flows_keep_what_one_detached():
    seen = []

    @on(StreamData, where="to_server")
    def once(ev):
        seen.append(ev.flow.id)
        return DETACH
    drive([box(once)], flows(3))
    assert sorted(seen) == [1, 2, 3]


def test_the_cap_on_sets_refuses_and_counts():
    """Four handlers to combine and room for four sets: the pattern that finds it full is refused, the flow keeps what it has."""
    extras = []
    for _ in range(4):
        @on(StreamData, attached=False)
        def extra(ev):
            pass
        extras.append(extra)
    refused = []

    @on(FlowStart)
    def start(ev):
        if not ev.flow.attach(extras[ev.flow.id - 1]):
            refused.append(ev.flow.id)
    stats = drive([box(start, *extras)], flows(4), limits={"sets": 4}).stats()
    assert refused == [4]
    assert stats["bus"]["sets"] == 4 and stats["bus"]["sets_refused"] == 1


def test_the_cap_is_what_the_design_says():
    assert LIMITS["sets"] == 65536


def test_attaching_what_is_no_handler_says_so():
    @on(FlowStart)
    def start(ev):
        ev.flow.attach(print)
    with pytest.raises(HandlerError, match="'print' is no handler of this chain: mark it with @on"):
        drive([box(start)], question())


def test_an_event_is_stale_after_its_handler_and_a_flow_after_its_end():
    kept = []

    @on(StreamData)
    def data(ev):
        kept.append((ev, ev.flow))
    drive([box(data)], question())
    for ev, flow in kept:
        with pytest.raises(StaleEvent):
            _ = ev.data
        with pytest.raises(StaleFlow):
            _ = flow.client_bytes
        assert flow.id == 1 and flow.client == "10.0.0.1"
