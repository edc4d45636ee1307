"""Async observers: copies of events, queued for coroutines on an event loop. The stack never waits for them on a wire.

One deque per reader. What the stack's thread appends is told to the loop once per turn of it, however much there is.
"""
import asyncio
import threading
from collections import deque

from mos.errors import HandlerError, UsageError, VerdictError

# Events that a reader may be behind: a millisecond of full load. At the worst each holds a super-packet, 64 MB together.
QUEUE = 1024


class Feed:
    """One reader's queue. `put` is the handler that the stack calls; who iterates gets copies, oldest first.

    Full, it drops what comes, without copying it, and counts that in `dropped`; where the hub is lossless, it waits instead.
    """

    def __init__(self, hub, name, size=QUEUE):
        if type(size) is not int or size < 1:
            raise UsageError(f"{name}: a queue holds 1 event or more, not {size!r}")
        self.hub, self.name, self.size = hub, name, size
        self.events = deque()
        self.told = self.dropped = self.errors = 0
        self.waiter = None
        self.busy = False
        self.room = threading.Event()

    def put(self, ev):
        if len(self.events) >= self.size and not (self.hub.lossless and self.wait()):
            self.dropped += 1
            return
        self.events.append(ev.keep())
        self.told += 1
        if not self.hub.woken:
            self.hub.wake()

    def wait(self):
        """Until there is room; False: nobody reads any more."""
        while len(self.events) >= self.size:
            self.room.clear()
            if self.hub.closed:
                return False
            self.room.wait(0.1)
        return True

    def look(self):
        """Wake the reader, if there is something to read. In the loop."""
        if self.waiter is not None and (self.events or self.hub.closed):
            if not self.waiter.done():
                self.waiter.set_result(None)
            self.waiter = None

    def __aiter__(self):
        return self

    async def __anext__(self):
        while not self.events:
            self.busy = False
            if self.hub.closed:
                raise StopAsyncIteration
            if self.waiter is not None:
                raise UsageError(f"{self.name}: two loops read one queue; ask for a queue each")
            waiter = self.waiter = self.hub.loop.create_future()
            try:
                await waiter
            finally:
                if self.waiter is waiter:
                    self.waiter = None
        self.busy = True
        ev = self.events.popleft()
        self.room.set()
        return ev

    def counters(self):
        return {"told": self.told, "dropped": self.dropped, "waiting": len(self.events), "errors": self.errors}


class Hub:
    """The queues that one event loop reads, and the tasks of async handlers. `on_error` as Engine has it."""

    def __init__(self, loop=None, on_error=None, on_fail=None):
        self.loop, self.on_error, self.on_fail = loop, on_error, on_fail
        self.thread = threading.get_ident()
        self.lossless = False
        self.closed = False         # nothing more comes: readers end when their queues are empty
        self.woken = False
        self.feeds, self.tasks = [], []
        self.error = None

    def feed(self, name, size=QUEUE):
        feed = Feed(self, name, size)
        self.feeds.append(feed)
        return feed

    def observe(self, name, function, stops):
        """The handler that stands for an async one, which a task tells one event after the other.

        `stops`: an exception ends the run.
        """
        feed = self.feed(name)
        self.tasks.append((feed, function, stops))
        return feed.put

    def start(self):
        """In the loop."""
        self.tasks = [asyncio.ensure_future(self.tell(*task)) for task in self.tasks]

    async def tell(self, feed, function, stops):
        async for ev in feed:
            try:
                if await function(ev) is not None:
                    raise VerdictError(f"{feed.name} is async and answered to {type(ev).__name__}: it may only observe")
            except Exception as e:
                feed.errors += 1
                number = ev.packet.number if ev.packet is not None else 0
                if stops:
                    return self.fail(feed, type(ev).__name__, number, e)
                if feed.errors == 1 and self.on_error is not None:
                    self.on_error(feed.name, type(ev).__name__, number, e)

    def fail(self, feed, what, number, exc):
        """The first handler that raises where that ends the run."""
        if self.error is None:
            self.error = HandlerError(f"{feed.name} raised {type(exc).__name__} at packet {number}, {what}: {exc}", number)
            self.error.__cause__ = exc
        feed.events.clear()
        feed.size = 0           # nobody reads: further events are dropped and counted
        feed.room.set()
        if self.on_fail is not None:
            self.on_fail(self.error)

    def wake(self):
        self.woken = True
        try:
            if threading.get_ident() == self.thread:
                self.loop.call_soon(self.look)
            else:
                self.loop.call_soon_threadsafe(self.look)
        except RuntimeError:
            self.closed = True      # the loop was closed under us

    def look(self):
        self.woken = False
        for feed in self.feeds:
            feed.look()

    def end(self):
        """Nothing more comes. In the loop."""
        self.closed = True
        self.look()

    async def drained(self):
        """Until every async handler has seen what was queued for it."""
        if self.tasks:
            await asyncio.wait(self.tasks)

    async def cancel(self):
        self.end()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def check(self):
        """Raise what an async handler raised."""
        if self.error is not None:
            raise self.error

    def counters(self):
        return {feed.name: feed.counters() for feed in self.feeds}

    def finish(self):
        """The engine has ended. Whose loop it is waits by itself."""

    stop = finish


class Background(Hub):
    """A hub whose loop runs in a thread of its own: for engines whose caller has no loop. A capture waits for its readers."""

    def __init__(self, on_error=None, on_fail=None):
        super().__init__(asyncio.new_event_loop(), on_error, on_fail)
        self.lossless = True
        self.runner = threading.Thread(target=self.loop.run_forever, name="mos observers", daemon=True)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def start(self):
        self.runner.start()
        self.thread = self.runner.ident
        self.run(self.begin())

    def call(self, function):
        """What a function returns in the loop's thread."""
        async def within():
            return function()
        return self.run(within())

    async def begin(self):
        super().start()

    def finish(self):
        """Wait until everything is told, and end. Raises what a handler raised."""
        async def rest():
            self.end()
            await self.drained()
        if self.runner.is_alive():
            self.run(rest())
            self.stop()
        self.check()

    def stop(self):
        """End at once."""
        if self.runner.is_alive():
            self.run(self.cancel())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.runner.join()
        if not self.loop.is_closed():
            self.loop.close()
