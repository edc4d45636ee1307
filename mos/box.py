"""`async with mos.inline("A:B", chain) as box`: a chain between two interfaces, in an asyncio program."""
import asyncio
import threading
import time
from collections import deque

from mos.errors import UsageError
from mos.events.marks import marks_of, on
from mos.events.narrow import Narrowed
from mos.events.user import UserEvent
from mos.events.views import Event
from mos.io.gro import CHOICES, Joining
from mos.io.live import open_live
from mos.io.port import Port
from mos.io.writer import Writer
from mos.nf import NF, Chain, as_nf
from mos.observe import QUEUE, Hub
from mos.run import Engine, Settings

TICK = 0.1          # seconds without packets until time is told anyhow, as of a blocking port
LOOK = 0.05         # seconds between two looks at interfaces and calls


class Readers(NF):
    """What `Box.events` asks for: a box that only looks, behind all others."""
    name = "events"
    observe = True

    def __init__(self, handlers):
        super().__init__()
        self.handlers_ = handlers

    def handlers(self):
        return [(marks_of(h), h) for h in self.handlers_]

    def declarations(self):
        return []


class Box:
    """What `mos.inline` gives: an async context manager. Frames are taken from its entry on, and handled from the first `await`."""

    def __init__(self, what, chain=(), *, thread=False, queue=QUEUE, record=None, gro="on", **options):
        if gro not in CHOICES:
            raise UsageError(f"gro is {gro!r}; choose one of {', '.join(CHOICES)}")
        self.what, self.thread, self.queue, self.record = what, thread, queue, record
        pair = what.split(":") if isinstance(what, str) and ":" in what else []
        self.joining = Joining([name.strip() for name in pair], gro)
        boxes = list(chain) if isinstance(chain, (list, tuple)) else [chain]
        self.chain = chain if isinstance(chain, Chain) else Chain(*map(as_nf, boxes))
        names = {"log", "write", "on_verdict", "on_notice", "on_error"}
        self.options = {k: v for k, v in options.items() if k in names}
        self.settings = {"raise_errors": False} | {k: v for k, v in options.items() if k not in names}
        self.engine = self.port = self.loop = self.hub = self.task = self.alarm = self.runner = self.fd = self.error = None
        self.readers, self.calls = [], deque()
        self.over = self.leaving = self.abandoned = self.interrupted = False
        self.looked = 0.0

    def events(self, *kinds, where=None, at="sender", queue=None):
        """An async iterator over copies of events, ending with the box. Ask before the first `await` in `async with`.

        kinds (all by default), where and at as `@on` has them. `queue`: how many events it may be behind; more are dropped and
        counted under its name in `stats()`.
        """
        if self.engine is not None:
            raise UsageError("box.events() came too late, packets are being handled: ask before the first await in `async with`")
        if self.hub is None:
            raise UsageError("box.events() came too early: ask within `async with mos.inline(…) as box`")
        name = ", ".join(k.name for k in kinds) or "Event"
        feed = self.hub.feed(f"events {len(self.readers) + 1}: {name}", queue or self.queue)

        def put(ev):
            feed.put(ev)
        for kind in kinds or (Event, UserEvent):
            put = on(kind, where=where, at=at, observe=True)(put)
            root = kind.root if isinstance(kind, Narrowed) else kind
            if where is not None and not issubclass(root, UserEvent):
                Chain._compile("box.events()", where, root)
        self.readers.append(put)
        return feed

    async def __aenter__(self):
        if self.loop is not None:
            raise UsageError("a box runs once: call mos.inline again")
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        self.ended = self.loop.create_future()
        self.hub = Hub(self.loop, self.options.get("on_error"), self.fail)
        self.port = self.what if isinstance(self.what, Port) else open_live(self.what)
        self.joining.set()
        if self.joining.names:
            self.port.joining = self.joining
        self.settings.setdefault("truth", "inline" if getattr(self.port, "sides", 2) == 2 else "tap")
        try:
            self.settings = Settings(**self.settings)
            if not self.thread and not isinstance(self.what, Port) and not hasattr(self.port, "fd"):
                raise UsageError(f"{self.what} is tapped through libpcap, which does the waiting itself: give thread=True")
            if hasattr(self.port, "wait"):
                self.port.wait, self.fd = self.thread, None if self.thread else self.port.fd
        except BaseException:
            self.close_port()
            raise
        self.loop.call_soon(self.start)
        return self

    def start(self):
        """Make the engine and let packets in."""
        if self.over:
            return
        try:
            chain = self.chain
            if self.readers:
                chain = Chain(*chain.nfs, Readers(self.readers), reverse=chain.reverse, names=[*chain.names, None])
            names = self.what.split(":") if isinstance(self.what, str) else ["a", "b"]
            record = Writer.recorder(self.record, self.settings.truth, names) if self.record else None
            self.engine = Engine(chain, self.settings, record=record, observers=self.hub, on_tick=self.run_calls, **self.options)
            for text in self.joining.complaints():
                self.engine.notice(text)
            self.hub.start()
        except BaseException as e:
            return self.finish(e)
        if self.thread:
            self.runner = threading.Thread(target=self.run, name="mos stack", daemon=True)
            self.runner.start()
        elif self.fd is not None:
            self.loop.add_reader(self.fd, self.batch)
            self.set_alarm()
        else:
            self.loop.call_soon(self.batch)

    def run(self):
        """All of it, in a thread of its own."""
        try:
            self.engine.run(self.port)
            self.end_engine(self.error)
            error = None
        except BaseException as e:
            self.engine.abandon()
            error = e
        self.loop.call_soon_threadsafe(self.finish, error)

    def end_engine(self, error):
        """End all flows, and tell of it; after a failure call nobody."""
        if error is None and not self.abandoned:
            self.engine.close()
        else:
            self.engine.abandon()

    def batch(self):
        """One batch, however much is there: the loop's other work has its turn in between."""
        if self.over:
            return
        try:
            more = self.engine.step(self.port)
            now = self.loop.time()
            if now - self.looked > LOOK:
                self.looked = now
                self.engine.tick()
        except BaseException as e:
            return self.finish(e)
        if more <= 0 or self.engine.stack.halted:
            self.finish()
        elif self.alarm is None:
            self.loop.call_soon(self.batch)
        elif self.due() < self.alarm.when() - 0.001:
            self.set_alarm()

    def due(self):
        """When time has to pass without packets, on the loop's clock."""
        ahead = (self.engine.stack.due - time.time_ns()) / 1e9
        return self.loop.time() + min(max(ahead, 0.001), TICK)

    def set_alarm(self):
        if self.alarm is not None:
            self.alarm.cancel()
        self.alarm = self.loop.call_at(self.due(), self.ring)

    def ring(self):
        self.batch()
        if not self.over:
            self.set_alarm()

    @property
    def threaded(self):
        """Its stack runs in another thread now."""
        return self.runner is not None and not self.over

    async def call(self, function, *args):
        """Run a function where the stack runs, between two packets; what it returns. It may ask flows for whatever handlers may."""
        if not self.threaded:
            return function(*args)
        answer = self.loop.create_future()
        self.calls.append((answer, function, args))
        return await answer

    def run_calls(self, packets):
        """What `call` left for the stack's thread, which comes by when nothing comes, too."""
        while self.calls:
            answer, function, args = self.calls.popleft()
            try:
                result, error = function(*args), None
            except Exception as e:
                result, error = None, e
            self.loop.call_soon_threadsafe(settle, answer, result, error)

    async def stats(self):
        """The counters of `--stats`; `observers`: what was told to readers and async handlers, and dropped for them."""
        if self.engine is None:
            raise UsageError("box.stats() before the first await in `async with`: nothing is counted yet")
        return await self.call(self.engine.stats)

    def stop(self):
        """Let no packet in any more and end all flows: readers end when they have read what is queued."""
        if self.threaded:
            self.engine.halt()
        else:
            self.finish()

    async def wait(self):
        """Until the box ends: by `stop`, or because something raised."""
        await asyncio.shield(self.ended)

    def fail(self, error):
        """An async handler raised where that ends the run."""
        if self.threaded:
            self.error = self.error or error
            self.engine.halt()
        elif self.over:
            self.error = self.error or error
            self.interrupt()
        else:
            self.finish(error)

    def finish(self, error=None):
        """No packet comes any more: let go of everything. A failure interrupts who is inside `async with`."""
        if self.over:
            return
        if self.runner is not None:
            self.runner.join()
        elif self.engine is not None:
            try:
                self.end_engine(error)
            except BaseException as e:
                error = e
                self.engine.abandon()
        self.over = True
        self.error = self.error or error
        if self.alarm is not None:
            self.alarm.cancel()
        self.run_calls(0)
        self.close_port()
        self.hub.end()
        self.ended.set_result(None)
        self.interrupt()

    def interrupt(self):
        if self.error is not None and not self.leaving and not self.interrupted:
            self.interrupted = True
            self.task.cancel()

    def close_port(self):
        if self.fd is not None and not self.thread:
            self.loop.remove_reader(self.fd)
        if hasattr(self.port, "close"):
            self.port.close()
        self.joining.restore()

    async def __aexit__(self, kind, exc, trace):
        self.leaving, self.abandoned = True, kind is not None
        self.stop()
        try:
            if not self.over:
                await asyncio.shield(self.ended)
            if kind is None and self.error is None:
                await self.hub.drained()
        finally:
            await self.hub.cancel()
        if self.interrupted:
            self.task.uncancel()
        if self.error is not None and (kind is None or issubclass(kind, asyncio.CancelledError) and self.interrupted):
            raise self.error from exc if exc is not None and not self.interrupted else None
        if kind is None:
            self.hub.check()


def settle(answer, result, error):
    """Give a caller its answer, if it still waits."""
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)
