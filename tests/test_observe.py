"""mos/observe.py: async handlers are told owned copies, in order, on bounded queues; without a loop one runs in a thread."""
import asyncio
import threading
import time

import pytest
from boxes import box

from mos import DROP, DROP_FLOW, Engine, HandlerError, MosError, UsageError, every, on
from mos.events import FlowEnd, FlowStart, StreamData, Timer
from mos.observe import Feed, Hub
from mos.run import Settings
from mos.testing import tcp


def conversations(n):
    """(ts, frame) of `n` conversations one after the other."""
    return [(ts + i * 1_000_000_000, frame) for i in range(n) for ts, frame in
            tcp(f"10.0.0.1:{1000 + i}", "10.0.0.2:80").send(b"ask%d" % i).reply(b"answer").close()]


def run(handlers, packets, **settings):
    with Engine([box(*handlers)], Settings(**settings)) as engine:
        engine.run(packets)
    return engine


def test_every_copy_of_a_capture_is_told_in_order():
    """More than a queue holds, to a handler slower than the stack: a capture waits for it."""
    told, seen = [], []

    @on(StreamData)
    async def later(ev):
        await asyncio.sleep(0)
        told.append((ev.flow.id, ev.offset, ev.data, ev.client, ev.packet.number))

    @on(StreamData)
    def now(ev):
        seen.append((ev.flow.id, ev.offset, ev.data, ev.client, ev.packet.number))
    engine = run([later, now], conversations(800))
    assert told == seen and len(told) == 1600
    assert engine.stats()["observers"] == {"later.later": {"told": 1600, "dropped": 0, "waiting": 0, "errors": 0}}


def test_ends_of_flows_and_times_are_told_too():
    told = []

    @on(FlowEnd)
    async def end(ev):
        told.append(ev.reason)

    @every(0.5)
    async def tick(ev):
        told.append(type(ev))
    run([end, tick], conversations(3))
    assert told.count("fin") + told.count("shutdown") == 3 and Timer in told


def test_an_exception_ends_a_run_on_a_capture():
    @on(FlowStart)
    async def bad(ev):
        raise ValueError("no")
    with pytest.raises(HandlerError, match="bad.bad raised ValueError at packet 1, FlowStart: no") as caught:
        run([bad], conversations(500))
    assert isinstance(caught.value.__cause__, ValueError)


def test_inline_it_is_told_once_and_counted():
    said = []

    @on(FlowStart)
    async def bad(ev):
        return DROP
    with Engine([box(bad)], Settings(raise_errors=False), on_error=lambda *what: said.append(what)) as engine:
        engine.run(conversations(5))
    assert engine.stats()["observers"]["bad.bad"]["errors"] == 5
    assert len(said) == 1 and "it may only observe" in str(said[0][3]) and engine.stats()["dropped"] == {}


def test_the_stack_is_asked_from_its_own_thread_only():
    """A flow's record is changed without the GIL; from another thread that would be a race."""
    said, done = [], threading.Event()

    @on(FlowStart)
    async def meddle(ev):
        for ask in (lambda: ev.flow.timer(1), lambda: ev.flow.verdict(DROP_FLOW), lambda: ev.flow.cancel(1)):
            try:
                ask()
            except MosError as e:
                said.append(str(e))
        done.set()

    @on(StreamData)
    def wait(ev):
        assert done.wait(30)        # the flow is alive
    run([meddle, wait], conversations(1))
    assert len(said) == 3 and all("box.call" in text for text in said)


def test_a_full_queue_drops_what_is_new_and_counts():
    class Kept:
        copies = 0

        def keep(self):
            self.copies += 1
            return self
    ev = Kept()

    async def reader():
        hub = Hub(asyncio.get_running_loop())
        feed = hub.feed("slow", 3)
        for _ in range(5):
            feed.put(ev)
        assert (feed.told, feed.dropped, ev.copies) == (3, 2, 3)
        hub.end()
        assert [e async for e in feed] == [ev] * 3
        again = hub.feed("two", 3)
        hub.closed = False
        waiting = asyncio.ensure_future(again.__anext__())
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="two loops read one queue"):
            await again.__anext__()
        hub.end()
        with pytest.raises(StopAsyncIteration):
            await waiting
    asyncio.run(reader())
    with pytest.raises(UsageError, match="1 event or more"):
        Feed(None, "x", 0)


def test_an_engine_left_behind_ends_its_thread():
    @on(FlowStart)
    async def slow(ev):
        await asyncio.sleep(60)
    before = threading.active_count()
    started = time.monotonic()
    with pytest.raises(RuntimeError), Engine([box(slow)]) as engine:
        engine.run(conversations(1))
        raise RuntimeError
    assert threading.active_count() == before and time.monotonic() - started < 30
