"""Narrowed events as values; what they do is tested with the bus."""
import pytest

from mos.errors import FilterError
from mos.events import StreamData, UserEvent


class Beacon(UserEvent):
    period: float
    count: int


def test_narrowed_events_compare_by_what_they_say():
    def long(ev):
        return ev.length > 3

    a, b = StreamData.where("length > 3").where(long), StreamData.where("length > 3").where(long)
    assert a == b and hash(a) == hash(b) and a != StreamData.where(long).where("length > 3")
    assert repr(a) == "StreamData.where('length > 3').where(long)"
    assert a.compiled(lambda text, kind: (text, kind)) == (("length > 3", StreamData), long)
    assert a.kind_mask == StreamData.kind_mask and a.parent == StreamData.where("length > 3") and a.parent.parent is StreamData
    assert Beacon.where("count > 3").root is Beacon


def test_narrowing_many_times_costs_no_recursion():
    kind = StreamData
    for _ in range(3000):
        kind = kind.where("to_server")
    assert hash(kind) and kind == kind.parent.where("to_server") and len(repr(kind)) > 3000


@pytest.mark.parametrize("predicate", ["", "  ", None, 3])
def test_a_predicate_is_text_or_callable(predicate):
    with pytest.raises(FilterError, match="filter text or a callable"):
        StreamData.where(predicate)


def test_narrowing_a_narrowed_event_keeps_the_order_of_writing():
    seen = []

    def first(ev):
        seen.append(1)

    def second(ev):
        seen.append(2)
    kind = StreamData.where(first).where(second)
    assert kind.predicates == (first, second) and kind.name == "StreamData.where(first).where(second)" and not seen
