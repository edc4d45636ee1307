"""Dispatch: who is asked about an event, in which order and how often; attaching per flow; user-defined events; errors."""
import pytest
from boxes import box, drive, flows, question, web

from mos.errors import HandlerError, MosError, StaleEvent, StaleFlow, VerdictError
from mos.events import Event, FlowEnd, FlowEvent, FlowStart, Ip, PacketIn, StreamData, TcpEvent, Text, UserEvent, derive, on
from mos.events.verdict import BYPASS, DETACH, DROP
from mos.run import LIMITS


def noting(seen, tag, kind=StreamData, answer=None, **marks):
    """A handler that notes `tag` and the direction, and answers `answer`."""
    @on(kind, **marks)
    def handler(ev):
        seen.append(tag if kind is not StreamData else (tag, "up" if ev.to_server else "down"))
        return answer
    return handler


def test_the_walk_is_the_chain_forward_and_backward():
    seen = []
    drive([box(noting(seen, n)) for n in "abc"], question())
    assert seen == [("a", "up"), ("b", "up"), ("c", "up"), ("c", "down"), ("b", "down"), ("a", "down")]


def test_reverse_can_be_switched_off():
    seen = []
    drive([box(noting(seen, n)) for n in "ab"], question(), reverse=False)
    assert [tag for tag, _ in seen] == ["a", "b", "a", "b"]


def test_within_a_position_priority_then_order_of_writing():
    seen = []
    order = [noting(seen, "3"), noting(seen, "5", priority=2), noting(seen, "1", priority=-1), noting(seen, "4"),
             noting(seen, "2", priority=-1)]
    order[3], order[4] = order[4], order[3]
    drive([box(*order)], question())
    up = [tag for tag, way in seen if way == "up"]
    assert up == ["1", "2", "3", "4", "5"] == [tag for tag, way in seen if way == "down"]


def test_two_marks_on_one_function_are_two_handlers():
    seen = []

    @on(FlowStart)
    @on(FlowEnd)
    def both(ev):
        seen.append(type(ev).__name__)
    drive([box(both)], question())
    assert seen == ["FlowStart", "FlowEnd"]


def test_a_parent_receives_its_children_once_each():
    seen = {Event: [], FlowEvent: [], TcpEvent: []}
    handlers = []
    for kind, names in seen.items():
        @on(kind)
        def note(ev, names=names):
            names.append((type(ev), ev.time))
        handlers.append(note)
    drive([box(*handlers)], web())
    assert {k for k, _ in seen[FlowEvent]} >= {FlowStart, StreamData, FlowEnd} and PacketIn in {k for k, _ in seen[Event]}
    assert all(issubclass(k, FlowEvent) for k, _ in seen[FlowEvent]) and all(issubclass(k, TcpEvent) for k, _ in seen[TcpEvent])
    assert [x for x in seen[Event] if issubclass(x[0], FlowEvent)] == seen[FlowEvent]
    assert [x for x in seen[FlowEvent] if issubclass(x[0], TcpEvent)] == seen[TcpEvent]


def test_a_filter_is_asked_in_c():
    seen = []
    drive([box(noting(seen, "big", where="length > 2"), noting(seen, "up", where="to_server"))],
          question().send(b"longer"))
    assert seen == [("up", "up"), ("big", "up"), ("up", "up")]


def test_narrowed_events_nest_and_prune():
    asked, seen = [], []
    event = StreamData.where("to_server")
    for depth in range(16):
        def predicate(ev, depth=depth):
            asked.append(depth)
            return depth < 12 or len(ev.data) > 2
        event = event.where(predicate)
    drive([box(noting(seen, "deep", event))], question().send(b"long enough"))
    assert asked == [*range(13), *range(16)]       # false at 12: the rest is not asked; the answer's way never gets to 0
    assert seen == ["deep"]


def test_a_shared_predicate_is_asked_once_an_event():
    asked, seen = [], []

    def text(ev):
        asked.append(ev.offset)
        return True
    narrow = StreamData.where("to_server").where(text)
    drive([box(noting(seen, n, narrow), noting(seen, n + "2", narrow.where("length > 100"))) for n in "abc"], question(2))
    assert seen == ["a", "b", "c"] * 2 and asked == [0, 2]


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
    for i in range(4):
        @on(StreamData, attached=False)
        def extra(ev):
            pass
        extras.append(extra)
    refused = []

    @on(FlowStart)
    def start(ev):
        try:
            ev.flow.attach(extras[ev.flow.id - 1])
        except MosError as e:
            refused.append(str(e))
    stats = drive([box(start, *extras)], flows(4), limits={"sets": 4}).stats()
    assert len(refused) == 1 and "4 distinct handler sets are in use" in refused[0]
    assert stats["bus"]["sets"] == 4 and stats["bus"]["sets_refused"] == 1


def test_the_cap_is_what_the_design_says():
    assert LIMITS["sets"] == 65536


def test_attaching_what_is_no_handler_says_so():
    @on(FlowStart)
    def start(ev):
        ev.flow.attach(print)
    with pytest.raises(HandlerError, match="'print' is no handler of this chain: mark it with @on"):
        drive([box(start)], question())


class Beacon(UserEvent):
    size: int
    ratio: float = 0.5
    up: bool = True
    peer: str = Ip(default="10.0.0.9")
    note: str = Text(16, default="")


class Loud(Beacon):
    volume: int = 11


class Echo(UserEvent):
    n: int


@derive(Beacon, on=StreamData, where="to_server")
def beacons(ev):
    yield Beacon(len(ev.data), peer=ev.client)


def test_user_events_come_after_the_handler_that_yields():
    seen = []

    @derive(Beacon, on=StreamData)
    def two(ev):
        seen.append("before")
        yield Beacon(1)
        seen.append("between")
        yield Beacon(2)
        seen.append("after")

    @on(Beacon)
    def sub(ev):
        seen.append((ev.size, ev.flow.id, ev.to_server, ev.time))
    later = noting(seen, "later")
    packets = question().packets
    drive([box(two, later), box(sub)], packets[:1])
    assert seen == ["before", "between", "after", (1, 1, True, packets[0][0]), (2, 1, True, packets[0][0]), ("later", "up")]


def test_a_user_event_class_receives_its_subclasses():
    seen = []

    @derive(Loud, on=FlowStart)
    def loud(ev):
        yield Loud(1)
    handlers = []
    for kind in (UserEvent, Beacon, Loud):
        @on(kind)
        def sub(ev, kind=kind):
            seen.append((kind.__name__, type(ev).__name__))
        handlers.append(sub)

    @derive(Beacon, on=FlowEnd)
    def plain(ev):
        yield Beacon(2)
    drive([box(loud, plain, *handlers)], question())
    assert seen == [("UserEvent", "Loud"), ("Beacon", "Loud"), ("Loud", "Loud"), ("UserEvent", "Beacon"), ("Beacon", "Beacon")]


@pytest.mark.parametrize("where, sizes", [
    ("size > 2", [3, 4]), ("size in 2..3", [2, 3]), ("ratio < 1.0", [2]), ("not up", [3]), ("peer in 192.0.2.0/24", [4]),
    ("size > 2 and server_port == 53", [3, 4]), ("server_port == 54", []), ("not to_server", [])])
def test_where_reads_the_fields_of_the_record(where, sizes):
    seen = []

    @derive(Beacon, on=StreamData)
    def some(ev):
        if ev.offset == 0 and ev.to_server:
            yield Beacon(2, ratio=0.25)
            yield Beacon(3, ratio=2.5, up=False)
            yield Beacon(4, ratio=1.0, peer="192.0.2.7", note="é")

    @on(Beacon, where=where)
    def sub(ev):
        seen.append(ev.size)
    drive([box(some, sub)], question())
    assert seen == sizes


def test_user_events_narrow_by_callables_too():
    seen = []
    narrow = Beacon.where("size > 1").where(lambda ev: ev.note == "x")

    @derive(Beacon, on=FlowStart)
    def some(ev):
        yield Beacon(1, note="x")
        yield Beacon(2, note="y")
        yield Beacon(3, note="x")

    @on(narrow)
    def sub(ev):
        seen.append(ev.size)
    drive([box(some, sub)], question())
    assert seen == [3]


def test_what_publishes_itself_stops_at_the_depth_limit():
    @derive(Echo, on=FlowStart)
    def first(ev):
        yield Echo(1)

    @derive(Echo, on=Echo)
    def again(ev):
        yield Echo(ev.n + 1)
    with pytest.raises(HandlerError, match="16 deep: a handler publishes what it subscribes to"):
        drive([box(first, again)], question())


def test_user_events_of_user_events_up_to_the_limit():
    seen = []

    @derive(Echo, on=FlowStart)
    def first(ev):
        yield Echo(1)

    @derive(Echo, on=Echo, where="n < 16")
    def again(ev):
        yield Echo(ev.n + 1)

    @on(Echo)
    def note(ev):
        seen.append(ev.n)
    assert drive([box(first, again, note)], question()).stats()["bus"]["published"] == {"Echo": 16}
    assert seen == [*range(1, 17)]


def test_answers_to_user_events_count_for_the_packet():
    verdicts = []

    @on(Beacon, where="size == 2")
    def sub(ev):
        return DROP("too small")
    engine = drive([box(beacons), box(sub, name="judge"), box(noting([], "x"))], question(),
                   on_verdict=lambda *a: verdicts.append(a[:4]))
    assert engine.forwarded == [False, True] and verdicts == [(3, 1, "too small", 1)]
    assert engine.stats()["dropped"] == {"judge": 1}


def test_what_is_told_about_a_dropped_packet_is_heard_behind_the_drop():
    seen = []

    @on(StreamData)
    def drop(ev):
        return DROP

    @on(Beacon)
    def sub(ev):
        seen.append(ev.size)
    engine = drive([box(drop, beacons), box(sub)], question())
    assert engine.forwarded == [False, False] and seen == [2]


@pytest.mark.parametrize("answer, left", [(DETACH, ["sub2"]), (BYPASS, [])])
def test_leaving_answered_to_a_user_event_is_the_subscribers(answer, left):
    """Not the publisher's, which goes on."""
    seen, published = [], []

    @derive(Beacon, on=StreamData, where="to_server")
    def publisher(ev):
        published.append(ev.offset)
        yield Beacon(1)

    @on(Beacon)
    def sub(ev):
        seen.append("sub")
        return answer

    @on(Beacon)
    def sub2(ev):
        seen.append("sub2")
    drive([box(publisher), box(sub, sub2)], question(2))
    assert published == [0, 2] and seen == ["sub", "sub2", *left]


def test_a_user_event_handler_is_attached_per_flow():
    seen = []

    @on(Beacon, attached=False)
    def sub(ev):
        seen.append(ev.flow.id)

    @on(FlowStart, where="flow_id == 2")
    def start(ev):
        ev.flow.attach(sub)
    drive([box(beacons, sub, start)], flows(3))
    assert seen == [2, 2]


def test_a_user_event_of_an_event_without_answers_takes_none():
    @derive(Beacon, on=FlowEnd)
    def ends(ev):
        yield Beacon(1)

    @on(Beacon)
    def sub(ev):
        return DROP
    with pytest.raises(HandlerError, match="answered DROP to Beacon of FlowEnd, which may only be observed") as e:
        drive([box(ends), box(sub, name="sub")], question())
    assert isinstance(e.value.__cause__, VerdictError)


def test_a_publisher_that_raises_publishes_nothing():
    seen = []

    @derive(Beacon, on=StreamData)
    def half(ev):
        yield Beacon(1)
        raise ValueError("no more")

    @on(Beacon)
    def sub(ev):
        seen.append(ev.size)
    engine = drive([box(half, noting([], "x"), sub)], question(), raise_errors=False)
    assert seen == [] and engine.stats()["bus"]["errors"] == {"half.half": 2}


def test_an_event_is_stale_after_its_handler_and_a_flow_after_its_end():
    kept = []

    @on(StreamData)
    def data(ev):
        kept.append((ev, ev.flow))
    drive([box(data)], question())
    for ev, flow in kept:
        with pytest.raises(StaleEvent):
            ev.data
        with pytest.raises(StaleFlow):
            flow.client_bytes
        assert flow.id == 1 and flow.client == "10.0.0.1"
