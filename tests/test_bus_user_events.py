"""User-defined events on the bus: delivery, filters on their fields, answers, depth, errors."""
import pytest
from boxes import box, drive, flows, noting, question

from mos.errors import HandlerError, VerdictError
from mos.events import FlowEnd, FlowStart, Ip, StreamData, Text, UserEvent, derive, on
from mos.events.verdict import BYPASS, DETACH, DROP


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
