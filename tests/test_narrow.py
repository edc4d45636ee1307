"""Events narrowed by predicates are events."""
import pytest

from mos import FilterError
from mos.events import FlowEnd, StreamData
from mos.events.narrow import Narrowed


def test_narrowing_keeps_the_root_and_the_order_of_predicates():
    def even(ev):
        return ev.offset % 2 == 0
    big = StreamData.where("length > 10")
    both = big.where(even)
    assert both.root is StreamData and both.predicates == ("length > 10", even)
    assert both.parent == big and big.parent is StreamData
    assert both.kind_mask == StreamData.kind_mask


def test_equal_ones_are_interchangeable():
    assert StreamData.where("length > 10") == StreamData.where("length > 10")
    assert len({StreamData.where("length > 10"), StreamData.where("length > 10")}) == 1
    assert StreamData.where("length > 10") != FlowEnd.where("length > 10")


def test_its_name_is_what_was_written():
    assert repr(StreamData.where("length > 10")) == "StreamData.where('length > 10')"


@pytest.mark.parametrize("wrong", ["", "  ", 5, None])
def test_other_predicates_are_refused(wrong):
    with pytest.raises(FilterError, match="StreamData.where"):
        StreamData.where(wrong)


def test_texts_are_compiled_and_callables_kept():
    n = Narrowed(StreamData, ("length > 10", len))
    assert n.compiled(lambda text, root: (root, text)) == ((StreamData, "length > 10"), len)
