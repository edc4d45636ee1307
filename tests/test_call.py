"""Calling Python handlers: whatever can be called, with a view that is used again only while nobody else has it."""
import functools

import pytest
from boxes import box, drive, question

from mos.errors import HandlerError, StaleEvent
from mos.events import StreamData, on
from mos.events.marks import Mark
from mos.nf import NF


def ways(seen):
    """The same handler as every kind of callable."""
    def plain(ev):
        seen.append((ev.offset, ev.to_server))

    class Box:
        def __call__(self, ev):
            plain(ev)

        def method(self, ev):
            plain(ev)

        @classmethod
        def of_class(cls, ev):
            plain(ev)
    return {"function": plain, "lambda": lambda ev: plain(ev), "partial": functools.partial(plain), "object": Box(),
            "method": Box().method, "class method": Box.of_class}


class Calls(NF):
    """A box with one handler, whatever that is."""

    def __init__(self, callee):
        super().__init__()
        self.callee = callee

    def handlers(self):
        return [([Mark(StreamData)], self.callee)]


@pytest.mark.parametrize("way", ways([]))
def test_whatever_can_be_called_is_a_handler(way):
    seen = []
    callee = ways(seen)[way]
    if not hasattr(callee, "__name__"):
        callee.__name__ = way
    assert drive([Calls(callee)], question(2)).forwarded == [True] * 4
    assert seen == [(0, True), (0, False), (2, True), (2, False)]


def test_one_view_serves_until_somebody_keeps_it():
    """`seen` holds the events themselves: each must be one of its own, and stale, while those let go are used again."""
    ids, seen = [], []

    @on(StreamData)
    def handler(ev):
        ids.append(id(ev))
        if ev.offset >= 4:
            seen.append(ev)
    drive([box(handler)], question(6))
    assert len(set(ids[:4])) == 1 and len(set(map(id, seen))) == len(seen) == 8
    for ev in seen:
        with pytest.raises(StaleEvent):
            assert ev.offset


def test_a_view_is_stale_after_a_handler_that_raised():
    seen = []

    @on(StreamData)
    def handler(ev):
        seen.append(ev)
        raise KeyError("x")
    nf = box(handler)
    nf.on_error = "fail_open"
    drive([nf], question(2), raise_errors=False)
    assert len(seen) == 4 and len(set(map(id, seen))) == 4
    for ev in seen:
        with pytest.raises(StaleEvent):
            assert ev.offset


def test_the_traceback_shows_the_handler_and_none_of_ours():
    @on(StreamData)
    def handler(ev):
        raise KeyError("x")
    with pytest.raises(HandlerError) as e:
        drive([box(handler)], question())
    names, frame = [], e.value.__cause__.__traceback__
    while frame is not None:
        names.append(frame.tb_frame.f_code.co_name)
        frame = frame.tb_next
    assert names[-1] == "handler" and "call_python" not in names
