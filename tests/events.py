"""A conversation's event log as short lines, such as "StreamData > 0+11": what tests of the core expect."""
from collections import defaultdict

from mos import events
from mos.events import on, spec
from mos.nf import Chain
from mos.run import Engine, Settings

ARROW = {True: ">", False: "<"}
QUIET = (events.PacketIn, events.TcpStateChange)     # too many for most tests: named only when asked for


class Log(list):
    """The lines; `streams[n-th flow, ">" or "<"]` holds the bytes delivered and `stats` the run's counters."""

    def __init__(self):
        super().__init__()
        self.streams = defaultdict(bytes)
        self.stats = {}
        self.flows = {}         # ids seen, and which of the flows each one is

    def nth(self, flow):
        """1 for the first flow that was told of, 2 for the next."""
        return self.flows.setdefault(flow.id, len(self.flows) + 1)

    def of(self, *names):
        """Only the lines of these events."""
        return [x for x in self if x.split()[x.startswith("#")] in names]


def line(ev, number=1):
    """One event in a line; from the second flow on its `number` comes first."""
    kind = type(ev).__name__
    words = [kind]
    if kind == "FlowStart":
        words += ["midstream"] if ev.midstream else []
    elif kind == "FlowEnd":
        words.append(ev.reason)
    elif kind == "TcpStateChange":
        words += [ev.side, f"{ev.old}>{ev.new}"]
    elif kind in ("ZeroWindow", "WindowUpdate"):
        words += [ev.side] + ([str(ev.window)] if kind == "WindowUpdate" else [])
    elif kind == "DuplicateAck":
        words += [ARROW[ev.to_server], f"{ev.ack} x{ev.count}"]
    elif hasattr(ev, "offset"):
        words.append(ARROW[ev.to_server])
        words += [str(getattr(ev, k)) for k in ("kind", "cause") if hasattr(ev, k)]
        words.append(f"{ev.offset}+{ev.length}")
        words += [k for k in ("redelivered", "doubtful") if getattr(ev, k, False)]
    elif hasattr(ev, "cause") or hasattr(ev, "layer"):
        words.append(getattr(ev, "cause", None) or ev.layer)
    return (f"#{number} " if number > 1 else "") + " ".join(words)


def recorder(log, kinds):
    """A handler of `kinds` that writes to `log`."""
    def write(ev):
        log.append(line(ev, log.nth(ev.flow) if ev.flow is not None else 1))
        if type(ev) is events.StreamData:
            log.streams[log.nth(ev.flow), ARROW[ev.to_server]] += ev.data
    for kind in kinds:
        write = on(kind)(write)
    return write


def play(packets, *kinds, also=(), close=True, before=(), **settings):
    """Run (ns, frame) pairs, or a list of conversations' packets, through a chain and give its Log.

    kinds: the events wanted, by default all but packets and state changes. before, also: NFs ahead of and behind the
    recorder.
    """
    log = Log()
    if not kinds:
        kinds = [getattr(events, k.name) for k in spec.LEAVES if k.name != "Timer" and getattr(events, k.name) not in QUIET]
    engine = Engine(Chain(*before, recorder(log, kinds), *also), Settings(**{"checksum": "off"} | settings))
    with engine:
        for ns, frame in packets:
            engine.feed(frame, ns)
        if not close:
            log.stats = engine.stats()
            engine.abandon()
            return log
    log.stats = engine.stats()
    return log


def states(packets, **settings):
    """State changes alone: ["client CLOSED>SYN_SENT", …]."""
    return [x.removeprefix("TcpStateChange ") for x in play(packets, events.TcpStateChange, **settings)]
