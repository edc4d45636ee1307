import pytest
from hypothesis import given
from hypothesis import strategies as st

from mos.errors import ChainError
from mos.events.user import Blob, Ip, Text, UserEvent
from mos.state.kinds import FlowState, FlowVar
from mos.state.layout import HEADER, OBJECTS_MAX, SLOTS_MAX, TYPES, place
from mos.state.slots import SlotSpace

VARS = st.one_of(st.sampled_from([int, float, bool, "ip", object]).map(FlowVar),
                 st.tuples(st.sampled_from([bytes, str]), st.integers(1, 30)).map(lambda a: FlowVar(a[0], size=a[1])))


@given(st.lists(VARS, max_size=30))
def test_slots_are_aligned_ordered_and_apart(declared):
    placed = place(declared, "c")
    end = HEADER
    for var in declared:
        offset = placed[var]
        assert offset >= end and offset % var.align == 0 and offset - end < var.align
        end = offset + var.width
    assert [(s.type, s.offset, s.width) for s in SlotSpace(declared).layout] == [(v.type, placed[v], v.width) for v in declared]


def test_a_state_is_laid_out_like_an_event():
    class Record(UserEvent):
        a: bool
        b: int
        c: str = Text(5)
        d: str = Ip()
        e: bytes = Blob(3)
        f: float

    class State(FlowState):
        a: bool
        b: int
        c: str = Text(5)
        d: str = Ip()
        e: bytes = Blob(3)
        f: float

    placed = place([FlowVar(bool), State], "c")
    first = placed[State.a]
    assert first == 16
    assert [(var.type, placed[var] - first, var.width) for var in State.slots] == [tuple(s)[1:] for s in Record.layout()]


def test_declared_twice_is_placed_once():
    var = FlowVar()
    assert place([var, var, FlowVar(bool)], "c")[var] == 16 and len(place([var, var], "c")) == 1


def test_a_flow_has_a_limit():
    fits = FlowVar(bytes, size=SLOTS_MAX - HEADER - 2)
    assert place([fits], "c")
    SlotSpace([fits])
    with pytest.raises(ChainError, match="the chain 'c' declares 4097 bytes.*may have 4096"):
        place([fits, FlowVar(bool)], "c")
    objects = [FlowVar(object) for _ in range(OBJECTS_MAX)]
    assert place(objects, "c")
    with pytest.raises(ChainError, match="more than 64 objects"):
        place([*objects, FlowVar(object)], "c")


def test_widths_hold_their_values():
    assert all(width >= align and align in (1, 2, 8) for _, width, align, _ in TYPES.values())
