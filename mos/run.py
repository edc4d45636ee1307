"""Running a chain: settings to stages, a source through the stack, verdicts and events to a log, counters to a summary."""
import ipaddress
import os
import resource
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from mos.errors import ChainError, UsageError
from mos.events.bus import Bus
from mos.events.log import Log
from mos.events.marks import on
from mos.events.user import UserEvent
from mos.events.views import Event, OverlapConflict, StreamData, StreamEvent, TcpEvent
from mos.flow.table import FlowTable
from mos.io.source import open_source
from mos.io.writer import Writer
from mos.memory import anonymous
from mos.net.bpf import PacketFilter
from mos.net.decode import Decoder
from mos.nf import Chain, Subscription
from mos.stack import Stack
from mos.state.slots import SlotSpace
from mos.tcp.policies import POLICIES
from mos.tcp.states import STATES

PICKUPS = ("off", "state", "data")
TRUTHS = ("tap", "inline")
CHECKSUMS = ("off", "verify", "auto")
FULL = ("embryonic", "lru", "refuse")
SAFE = ("auto", "on", "off")
HOLES = ("wait", "skip")
LEVELS = ("tcp", "flow")
TCP_ONLY = TcpEvent.kind_mask | StreamEvent.kind_mask   # what level=flow does not have
RAISED = ("fail_open", "fail_closed", "detach")
CONTENT = StreamData.kind_mask | OverlapConflict.kind_mask

# Idle time-outs in seconds by TCP state; the longer one of both ends counts. Established: RFC 5382 REQ-5, at least 2 h 4 min.
# Handshake and closing: RFC 5382's transitory 4 min, less for a SYN nobody answers (Linux gives up after 127 s).
# Closed in good order: a last ACK that is lost has its FIN sent again after 0.2, 0.6, 1.4 and 3 s (Linux); Zeek waits 5 s too, and
# a host's 60 s would hold the memory of sixty seconds' connections. UDP and ICMP: RFC 4787 REQ-5, at least 2 min.
TIMEOUTS = {"CLOSED": 5, "LISTEN": 60, "SYN_SENT": 130, "SYN_RECEIVED": 130, "ESTABLISHED": 7440, "FIN_WAIT_1": 240,
            "FIN_WAIT_2": 240, "CLOSE_WAIT": 7440, "CLOSING": 240, "LAST_ACK": 240, "TIME_WAIT": 5, "DATAGRAM": 120}

LIMITS = {
    "bytes": 4 << 20,       # out of order, a direction: Linux's largest default receive window is 6 MB, half of it overhead
    "segments": 4096,       # out of order, a direction: 4 MB in full segments are 2,900
    "doubtful": 65536,      # doubtful bytes a direction: an unscaled window; evidence comes within a round trip or never
    "keep": 65536,          # delivered bytes kept to compare retransmissions with, a direction: an unscaled window
    "retained": 8 << 20,    # forwarded and not acknowledged, a direction: more than the 6 MB of Linux receive buffers
    "global": 1 << 30,      # memory of all directions together: what a small box can spare beside its flows
    "tunnels": 4,           # within each other: operators nest three; each further one only costs whoever has to parse it
    "sets": 65536,          # distinct sets of attached handlers; all of sixteen: 12 MB, or 42 MB if each hears all of a flow
}


@dataclass
class Settings:
    """How a run treats its traffic. The defaults are those for files."""
    truth: str = "tap"
    safe: str = "auto"              # inline, no byte passes but as the chain saw it: auto (if a handler may block content), on, off
    holes: str = "wait"             # safe mode, beyond the caps: wait for TCP to fill the hole, or skip: its bytes never pass
    level: str = "tcp"              # flow: packets and bytes of TCP flows are counted, there are no states and no streams
    pickup: str = "data"
    checksum: str = "auto"
    overlap: str = "first"          # a policy, then NETWORK=POLICY for receiving hosts: "linux,10.0.0.0/8=windows"
    tunnels: object = True
    max_flows: int = 1 << 20
    full: str = "embryonic"         # who makes room in a full table: embryonic (first), lru, or refuse
    hash_key: "bytes | None" = None
    bpf: "str | None" = None
    timeouts: dict = field(default_factory=dict)
    limits: dict = field(default_factory=dict)
    raise_errors: bool = True
    on_raise: str = "fail_open"     # without raise_errors, of handlers whose NF says nothing: fail_open, fail_closed or detach
    linktype: int = 1
    shortcuts: bool = True          # short ways for ordinary packets; the long ones say the same, which tests compare

    def __post_init__(self):
        for name, value, choices in (("truth", self.truth, TRUTHS), ("pickup", self.pickup, PICKUPS),
                                     ("checksum", self.checksum, CHECKSUMS), ("full", self.full, FULL),
                                     ("safe", self.safe, SAFE), ("holes", self.holes, HOLES), ("level", self.level, LEVELS),
                                     ("on_raise", self.on_raise, RAISED)):
            if value not in choices:
                raise UsageError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
        if self.safe == "on" and self.truth != "inline":
            raise UsageError("safe=on is for truth=inline: a tap changes nothing")
        if self.holes == "skip" and self.safe == "off":
            raise UsageError("holes=skip needs safe mode: without it their bytes have passed; leave out safe=off")
        self.overlap_default, self.overlap_targets = overlap_policies(self.overlap)
        for name, value, choices in (("time-out", self.timeouts, TIMEOUTS), ("limit", self.limits, LIMITS)):
            for key in value:
                if key not in choices:
                    raise UsageError(f"no {name} is called {key!r}; there are {', '.join(choices)}")
        if self.limits.get("sets", 0) > LIMITS["sets"]:
            raise UsageError(f"limits.sets is {self.limits['sets']}: a flow has 16 bits for its set; at most {LIMITS['sets']}")


def overlap_policies(text):
    """(default, [(network, policy)]) by number, of "linux,10.0.0.0/8=windows". Raises UsageError."""
    default, targets = 0, []
    for part in text.split(","):
        network, given, name = part.rpartition("=")
        if name not in POLICIES:
            raise UsageError(f"overlap policy {name!r} is unknown; choose one of {', '.join(POLICIES)}")
        if not given:
            default = POLICIES.index(name)
            continue
        try:
            targets.append((ipaddress.ip_network(network.strip()), POLICIES.index(name)))
        except ValueError as e:
            raise UsageError(f"overlap={part!r}: {e}; write NETWORK=POLICY, 10.0.0.0/8=windows") from None
    return default, targets


def safe_level(settings, subscriptions):
    """SAFE_* of core.pxd. auto: if some handler may stop or change bytes of a stream, be it by way of an event of its own."""
    if settings.truth != "inline" or settings.safe == "off":
        return 0
    if settings.safe == "on":
        return 2
    answering = [s for s in subscriptions if s.answers and not s.observe and 0 in s.moments]
    reads = any(s.kind_mask & CONTENT and s.name != "log.event" for s in subscriptions)
    return int(any(s.kind_mask & CONTENT or s.edits == 2 or (s.user_class and reads) for s in answering))


def check_level(settings, subscriptions):
    """ChainError if a handler wants what the level does not have. One that wants other events too goes without."""
    for s in subscriptions if settings.level == "flow" else ():
        if s.kind_mask and not s.kind_mask & ~TCP_ONLY:
            raise ChainError(f"{s.name} wants {s.on}, which level=flow does not have: it counts packets and bytes of flows, "
                             "TCP states and streams are not followed. Leave out the level, or this handler")
    if settings.level == "flow" and settings.safe == "on":
        raise UsageError("safe=on is about streams, which level=flow does not have")


class Engine:
    """One chain on one stack: `feed` packets or `run` a source, then `close`. A context manager closes by itself.

    After the run `engine.value(declaration)` gives what a Count, Map, Pool or Table holds.
    """

    def __init__(self, chain, settings=None, *, log=None, write=None, record=None, on_tick=None, on_verdict=None, on_notice=None,
                 on_error=None, observers=None, **kwargs):
        self.chain = chain if isinstance(chain, Chain) else Chain(*(chain if isinstance(chain, (list, tuple)) else [chain]))
        self.settings = settings or Settings(**kwargs)
        s = self.settings
        key = s.hash_key or os.urandom(16)
        self.log = Log(log, self.chain.names) if log is not None else None
        self.verdicts = on_verdict
        self.ticks = on_tick
        self.notice = on_notice or (lambda text: None)      # what happens to interfaces, as lines for people
        self.peak_anon = 0
        self.writer = Writer(write) if isinstance(write, (str, os.PathLike)) else write
        self.recorder = record
        subscriptions = list(self.chain.subscriptions)
        check_level(s, subscriptions)
        subscriptions = [replace(sub, policy="raise" if s.raise_errors else sub.policy or s.on_raise) for sub in subscriptions]
        self.observers = observers
        if any(sub.asynchronous for sub in subscriptions):
            subscriptions = self._observe(subscriptions, on_error)
        if self.log is not None:
            subscriptions += log_subscriptions(self.log, len(self.chain.nfs))
        self.slots = SlotSpace(self.chain.declarations(), " ".join(self.chain.names),
                               exact=bool(os.environ.get("MOS_SANITIZE")))
        bus = Bus(subscriptions, len(self.chain.nfs), reverse=self.chain.reverse,
                  sets_cap=(LIMITS | s.limits)["sets"], hash_key=key)
        self.stack = Stack(
            bus, Decoder(tunnels=s.tunnels, max_tunnels=(LIMITS | s.limits)["tunnels"], checksum=s.checksum, hash_key=key,
                         plainly=s.shortcuts, overlap="drop" if s.truth == "inline" else "first"),
            FlowTable(max_flows=s.max_flows, hash_key=key), self.slots, truth=TRUTHS.index(s.truth),
            pickup=PICKUPS.index(s.pickup), verify=s.checksum != "off",
            safe=safe_level(s, subscriptions), skip_holes=s.holes == "skip",
            policy=s.overlap_default, targets=s.overlap_targets,
            full=FULL.index(s.full), straight=s.shortcuts, flat=s.level == "flow", limits=LIMITS | s.limits,
            timeouts=[(TIMEOUTS | s.timeouts)[n] for n in (*STATES, "DATAGRAM")],
            selection=PacketFilter(s.bpf) if s.bpf else None, writer=self.writer, recorder=self.recorder,
            on_verdict=self._verdict if self.log is not None or on_verdict else None, on_tick=self._tick)
        self.stack.on_error = on_error
        self.seconds = self.cpu_seconds = 0.0
        self.source = None
        self.closed = False
        with self.slots:
            for nf in self.chain.nfs:
                nf.start(self)
        for tick in [s.tick for s in subscriptions if s.tick is not None]:
            self.stack.flow_timer(None, tick.seconds, tick, every=True)

    def _observe(self, subscriptions, on_error):
        """Put queues in the places of async handlers.

        Without a loop of the caller's one runs in a thread, until the engine closes.
        """
        from mos.observe import Background  # asyncio takes longer to load than all of mos
        own = self.observers is None
        if own:
            self.observers = Background(on_error, lambda error: self.halt())
        out = [replace(sub, function=self.observers.observe(sub.name, sub.function, sub.policy == "raise"))
               if sub.asynchronous else sub for sub in subscriptions]
        if own:
            self.observers.start()
        return out

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind is None:
            self.close()
        else:
            self.abandon()

    @property
    def clock(self):
        """Packet time, ns since 1970."""
        return self.stack.clock

    def feed(self, frame, ts_ns, linktype=None):
        """One packet from memory; True if it is forwarded."""
        with self.slots:
            return self.stack.feed(frame, ts_ns, self.settings.linktype if linktype is None else linktype)

    def run(self, what, until=0):
        """Everything from a file name, `-`, an iterable of (ts_ns, frame) or a live port; returns self.

        `until`: stop after that packet. Raises CaptureError after the last good packet of a damaged file, and whatever a
        handler raised.
        """
        self.source = open_source(what)
        self.stack.stop_after(until)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            with self.slots:
                self.stack.run(self.source)
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu
        if self.observers is not None:
            self.observers.check()
        self.source.check()
        return self

    def step(self, port):
        """One batch from a port that does not wait, for callers who wait by themselves: how many packets and ticks, 0 or less at
        the end. Raises like `run`. Call `tick` now and then."""
        self.source = port
        with self.slots:
            return self.stack.run_batch(port)

    def tick(self):
        """Look after interfaces and memory, and call `on_tick`, as `run` does by itself."""
        self._tick(self.stack.packets)

    def halt(self):
        """Stop after the packet in hand; `run` then returns. May be called from a signal handler."""
        self.stack.halt()

    def close(self):
        """End all flows, tell the NFs, flush log and capture."""
        if self.closed:
            return
        self.stack.outside()
        self.closed = True
        try:
            self.end_flows()
            self.stop_nfs()
            if self.observers is not None:
                self.observers.finish()
        finally:
            self._release()

    @contextmanager
    def _timed(self):
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            with self.slots:
                yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu
            self._sample()

    def end_flows(self):
        """End all flows and let the NFs settle their state. No packet may follow."""
        with self._timed():
            self.stack.finish_all()
            for nf in self.chain.nfs:
                nf.settle(self)

    def stop_nfs(self):
        """Tell the NFs that the run is over."""
        with self._timed():
            for nf in self.chain.nfs:
                nf.stop(self)

    def abandon(self):
        """After a failure: release everything, call nobody."""
        self.closed = True
        self._release()

    def _release(self):
        self.stack.shut()
        if self.observers is not None:
            self.observers.stop()
        if self.log is not None:
            self.log.close()
        for writer in (self.writer, self.recorder):
            if writer is not None:
                writer.close()

    def value(self, declaration):
        """What a Count, Map, Pool or Table of the chain holds."""
        return self.slots.value(declaration)

    def find(self, proto, a, a_port, b, b_port):
        """The live flow between two ends, whichever opened it ("tcp", "udp" or "icmp"); None if there is none."""
        return self.stack.find_flow(proto, a, a_port, b, b_port)

    def inject(self, frame, side):
        """Send a link-layer frame of your own out of the first (0) or second (1) interface, between two packets.

        A recording repeats what handlers send (`Event.inject`), not this.
        """
        with self.slots:
            self.stack.inject(0, frame, {0: 2, 1: 3}[side])

    def flows(self):
        """Live flows, the one idle for longest first."""
        return self.stack.live_flows()

    def _tick(self, packets):
        self._sample()
        if self.source is not None and self.source.live:
            for text in self.source.look():
                self.notice(text)
        if self.ticks is not None:
            self.ticks(packets)

    def _sample(self):
        self.peak_anon = max(self.peak_anon, anonymous())

    def timer(self, seconds, value=None):
        """Fire `Timer` with `value` and no flow after `seconds` of packet time, at the first packet if none was seen yet.

        Returns a handle; None: refused, and counted, because there are 1,048,576 timers. Raises UsageError where several
        workers share the traffic: it would fire in each.
        """
        if self.stack.shared:
            raise UsageError("a timer that belongs to no flow would fire in each of several workers: use Flow.timer")
        return self.stack.flow_timer(None, seconds, value)

    def _verdict(self, code, position, reason, packet, now, flow):
        if self.log is not None:
            self.log.verdict(code, position, reason, packet, now, flow)
        if self.verdicts is not None:
            self.verdicts(code, position, reason, packet, now, flow)

    def _flow_bytes(self, table, reassembly):
        """Bytes per flow at the peak: its record, and all else that is kept for flows, shared out among them."""
        peak = table["peak"] or 1
        kept = table["memory"] + self.slots.counters()["bytes"] + reassembly
        return {"record": table["flow_bytes"], "extra": max(0, round(kept / peak) - table["flow_bytes"]) if table["peak"] else 0}

    def stats(self):
        """The summary of `--stats`: counters, time of the run loop, memory. Both balances hold.

        A packet whose handler raised got no verdict: it is in `dropped` as "failed".
        """
        self._sample()
        c = self.stack.counters()
        dropped = {self.chain.names[i]: n for i, n in c.pop("dropped_by").items()}
        dropped |= {k: n for k, n in c.pop("dropped_core").items() if n}
        failed = c["packets_in"] - c["forwarded"] - sum(dropped.values()) - c["held"] - c["consumed"]
        if failed == 1 and self.stack.failed:
            dropped["failed"] = failed
        table = c["flows"]
        first = ("packets_in", "packets_out", "forwarded")
        out = {k: c[k] for k in first} | {"dropped": dropped}
        out |= {k: c[k] for k in ("held", "consumed", "injected", "split", "bytes_in")}
        out |= {"flows": c["flows"].get("created", 0), "events": c["events"], "seconds": round(self.seconds, 6),
                "cpu_seconds": round(self.cpu_seconds, 6),
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "peak_anon_bytes": self.peak_anon,
                "packets_per_cpu_second": round(c["packets_in"] / self.cpu_seconds) if self.cpu_seconds else 0,
                "peak_flows": table["peak"], "flow_bytes": self._flow_bytes(table, c["reassembly"]["peak"])}
        if hasattr(self.source, "stats"):       # a port's, or a tap's
            out["ports"] = self.source.stats()
        out["observers"] = self.observers.counters() if self.observers is not None else {}
        rest = {k: v for k, v in c.items() if k not in out} | {"table": c["flows"], "state": self.slots.counters(),
                                                              "stores": self.slots.store_counters()}
        return out | rest


def log_subscriptions(log, position):
    """The log as a handler of everything, user-defined events too: asked first, answers nothing."""
    common = dict(function=log.event, position=position, moments=(0,), observe=True, answers=False, first=True)
    return [Subscription(name="log.event", kind_mask=Event.kind_mask, root=Event, on="Event", **common),
            Subscription(name="log.user", kind_mask=0, root=UserEvent, user_class=UserEvent, on="UserEvent", **common)]


class Capture:
    """A capture to be walked in Python: what `mos.open` gives. Nothing is read before it is asked for."""

    def __init__(self, what, **settings):
        self.what = what
        self.settings = settings

    def events(self, *kinds, where=None):
        """Kept copies of events as they happen, at most one batch ahead; leaving the loop closes the file."""
        waiting = []

        def keep(ev):
            waiting.append(ev.keep())
        for kind in kinds or (Event,):
            keep = on(kind, where=where)(keep)
        engine = Engine(Chain([keep]), Settings(**self.settings))
        source = open_source(self.what)
        try:
            more = True
            while more:
                with engine.slots:      # not while the caller has the turn, who may run another engine
                    more = engine.stack.run_batch(source) > 0
                yield from waiting
                waiting.clear()
            source.check()
            engine.close()
            yield from waiting
        finally:
            if not engine.closed:
                engine.abandon()
            source.close()

    def run(self, *nfs, **kwargs):
        """Run NFs over it and close; returns the Engine with counters and values."""
        with Engine(Chain(*nfs), Settings(**self.settings), **kwargs) as engine:
            engine.run(self.what)
        return engine
