"""`@on` and `@derive` only mark, and refuse at once what can be seen to be wrong."""
import pytest

from mos import UsageError, UserEvent, derive, on
from mos.events import FlowEnd, FlowStart, StreamData
from mos.events.marks import marks_of


class Beacon(UserEvent):
    period: float


def test_a_mark_is_all_that_happens():
    @on(FlowStart, where="tcp", priority=-1)
    @on(FlowEnd)
    def fn(ev):
        return "as before"
    inner, outer = marks_of(fn)
    assert (inner.event, outer.event, outer.where, outer.priority) == (FlowEnd, FlowStart, "tcp", -1)
    assert fn(None) == "as before"
    assert outer.target == FlowStart.where("tcp") and inner.target is FlowEnd


@pytest.mark.parametrize("arguments, word", [
    (dict(kind="FlowStart"), "event"),
    (dict(kind=FlowStart, at="reciever"), "receiver"),
    (dict(kind=FlowStart, edits="headers"), "header"),
    (dict(kind=FlowStart, priority="first"), "priority"),
    (dict(kind=FlowStart, wher="tcp"), "where"),
    (dict(kind=FlowStart, observe=1), "True or False"),
    (dict(kind=FlowStart, at="acked"), "acked"),
    (dict(kind=StreamData, at="receiver", edits="same_length"), "receiver"),
])
def test_mistakes_are_named_when_they_are_made(arguments, word):
    with pytest.raises(UsageError, match=word):
        on(**arguments)


def test_a_generator_is_for_derive():
    with pytest.raises(UsageError, match="@derive"):
        @on(FlowEnd)
        def fn(ev):
            yield Beacon(period=1.0)
    with pytest.raises(UsageError, match="yield"):
        @derive(Beacon, on=FlowEnd)
        def gn(ev):
            return Beacon(period=1.0)


def test_derive_says_what_it_publishes():
    @derive(Beacon, on=FlowEnd, where="tcp")
    def fn(ev):
        yield Beacon(period=1.0)
    mark, = marks_of(fn)
    assert mark.publishes is Beacon and mark.event is FlowEnd and mark.where == "tcp"
