"""Ctrl-C and SIGTERM end a run after the packet in hand, so that counters agree and flows end; a second one ends it at once."""
import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """While entered, `signal` is the first that came, or 0. Signals that were ignored stay so (nohup, jobs of a script)."""

    def __init__(self):
        self.signal = self.count = 0
        self.run = None
        self.before = {}

    def watch(self, run):
        """From now on stop `run`, which has `source` and, once it is made, `engine`."""
        self.run = run

    def first(self):
        """Only one has come."""
        return self.count == 1

    @property
    def status(self):
        """The exit status that a shell gives to a death by that signal."""
        return 128 + (self.signal or signal.SIGINT)

    def __enter__(self):
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.before[number] = signal.signal(number, self.caught)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def caught(self, number, frame):
        """Waiting for input can only be ended by raising; a packet's handlers must not be."""
        self.signal = self.signal or number
        self.count += 1
        engine = self.run.engine if self.run else None
        if engine is not None:
            engine.halt()
        if engine is None or self.count > 1 or self.run.source.reading:
            raise KeyboardInterrupt
