"""Decorators: they mark, refuse what cannot be meant, and change nothing."""
import inspect

import pytest

from mos.errors import UsageError
from mos.events import (
    Anomaly,
    Event,
    FlowEnd,
    FlowEvent,
    FlowStart,
    PacketIn,
    StreamData,
    StreamEvent,
    StreamGap,
    TcpEvent,
    TcpStateChange,
    Timer,
    UserEvent,
    derive,
    every,
    on,
)
from mos.events.marks import Mark, marks_of


class Beacon(UserEvent):
    period: float
    count: int


def test_on_marks_and_changes_nothing():
    @on(FlowEnd, where="tcp", priority=-3, attached=False)
    @on(StreamData, at="acked")
    def handler(ev):
        return 5

    assert handler(None) == 5
    assert marks_of(handler) == handler.__mos_marks__ == (
        Mark(StreamData, at="acked"), Mark(FlowEnd, where="tcp", priority=-3, attached=False))
    assert handler.__mos_marks__[1].target == FlowEnd.where("tcp") and handler.__mos_marks__[0].target is StreamData
    assert on(StreamData, at="seen")(lambda ev: None).__mos_marks__ == (Mark(StreamData),)
    assert marks_of(print) == ()


def test_derive_marks_a_generator_function():
    class Box:
        @derive(Beacon, on=FlowEnd.where("tcp"))
        def beacons(self, ev):
            yield Beacon(1, 2)

    (mark,) = marks_of(Box.beacons)
    assert mark.publishes is Beacon and mark.event == FlowEnd.where("tcp")
    assert inspect.isgeneratorfunction(Box.beacons)


async def _async(ev):
    pass


async def _async_generator(ev):
    yield 1


def _generator(ev):
    yield 1


@pytest.mark.parametrize("mark, text", [
    (lambda: on("StreamDta"), "did you mean StreamData"), (lambda: on("streamdata"), "did you mean StreamData"),
    (lambda: on(int), "takes an event class"), (lambda: on(Beacon(1, 2)), "class: Beacon"),
    (lambda: on(lambda ev: 1), "needs an event"),
    (lambda: on(FlowEnd, wher="tcp"), "did you mean where"), (lambda: on(FlowEnd, xyz=1), "no argument 'xyz'; it takes"),
    (lambda: on(FlowEnd, where=3), "where is a filter text"), (lambda: on(FlowEnd, where=""), "where is a filter text"),
    (lambda: on(FlowEnd, at="reciever"), "did you mean receiver"), (lambda: on(FlowEnd, at=1), "at is one of"),
    (lambda: on(FlowStart, edits="same-length"), "did you mean same_length"),
    (lambda: on(FlowStart, priority="high"), "priority is an int"),
    (lambda: on(FlowStart, priority=True), "priority is an int"), (lambda: on(FlowStart, holds=1), "holds is True or False"),
    (lambda: on(FlowEnd, edits="header"), "takes no answer"), (lambda: on(StreamGap, holds=True), "takes no answer"),
    (lambda: on(Timer.where("to_server"), holds=True), "takes no answer"),
    (lambda: on(StreamData, at="receiver", edits="resize"), "only observes"),
    (lambda: on(StreamData, holds=True, observe=True), "observe"),
    (lambda: on(FlowEnd, at="acked"), "for stream events"), (lambda: on(FlowEvent, at="acked"), "for stream events"),
    (lambda: on(Beacon, at="acked"), "for stream events"),
    (lambda: on(FlowEnd)(3), "marks a function"), (lambda: on(FlowEnd)(dict), "marks a function"),
    (lambda: on(FlowStart, edits="header")(_async), "is async, so it observes copies, .*leave out edits"),
    (lambda: on(FlowStart, attached=False)(_async), "leave out attached"),
    (lambda: on(FlowEnd)(_async_generator), "is async and yields"),
    (lambda: derive(Beacon, on=FlowEnd)(_async), "is async and yields"),
    (lambda: on(FlowEnd)(_generator), "@derive publishes"), (lambda: on(FlowEnd)(lambda: 1), "must take the event"),
    (lambda: on(FlowEnd)(lambda a, b, c: 1), "must take the event"), (lambda: on(FlowEnd)([].append), "cannot be marked"),
    (lambda: derive(FlowEnd, on=FlowEnd), "derived from UserEvent"),
    (lambda: derive(UserEvent, on=FlowEnd), "derived from UserEvent"),
    (lambda: derive(Beacon, on="FlowEnd"), "did you mean FlowEnd"),
    (lambda: derive(Beacon, on=FlowEnd, were="x"), "did you mean where"),
    (lambda: derive(Beacon, on=FlowEnd)(lambda ev: 1), "must yield the Beacons")])
def test_what_is_wrong_is_said_at_once(mark, text):
    with pytest.raises(UsageError, match=text) as caught:
        mark()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mark", [
    lambda: on(Anomaly, edits="header"), lambda: on(Event, holds=True), lambda: on(StreamData.where("to_server"), at="acked"),
    lambda: on(Beacon, where=lambda ev: True), lambda: on(FlowEnd)(lambda *a: 1), lambda: on(FlowEnd)(lambda ev, x=1: 1)])
def test_what_makes_sense_is_taken(mark):
    mark()


@pytest.mark.parametrize("kind", [FlowEnd, FlowStart, StreamGap, Timer, Anomaly, Beacon, FlowEnd.where("tcp")])
def test_what_is_not_told_at_the_receiver_is_refused_there(kind):
    with pytest.raises(UsageError, match="at=\"receiver\" is for PacketIn, StreamData and TcpStateChange"):
        on(kind, at="receiver")


@pytest.mark.parametrize("kind", [PacketIn, StreamData, TcpStateChange, TcpEvent, StreamEvent, Event, FlowEvent])
def test_what_is_told_there_is_taken(kind):
    (mark,) = marks_of(on(kind, at="receiver")(lambda ev: None))
    assert mark.at == "receiver"


def test_every_marks_with_its_period():
    def tick(ev):
        return 7
    assert every(2.5)(tick) is tick and tick(None) == 7
    (mark,) = marks_of(tick)
    assert (mark.event, mark.every) == (Timer, 2.5)

    def yields(ev):
        yield 1
    for wrong in (3, yields):
        with pytest.raises(UsageError):
            every(1)(wrong)
