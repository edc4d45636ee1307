"""One capture through the stack: what it says of each connection against what the receiving kernels gave their programs."""
import hashlib
from dataclasses import dataclass, field

from plan import PORT, Stream, plan

from mos import NF, on
from mos.events import FlowEnd, FlowEstablished, StreamData, StreamGap
from mos.run import Engine

SIDES = ("client", "server")


@dataclass
class Seen:
    """One direction of one connection as the stack told it."""
    stream: object          # plan.Stream: what was sent
    read: int               # what the receiving program read of it
    digest: object = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    next: int = 0
    equal: int = 0
    differing: int = 0
    first: "int | None" = None  # offset of the first byte that differs
    gaps: list = field(default_factory=list)
    jumps: list = field(default_factory=list)

    def data(self, offset, data):
        if offset != self.next:
            self.jumps.append((self.next, offset))
        self.next = offset + len(data)
        if offset < self.read:
            self.digest.update(data[:self.read - offset])
        expected = self.stream.at(offset, len(data))
        if data == expected:
            self.equal += len(data)
            return
        wrong = [i for i, b in enumerate(data) if i >= len(expected) or b != expected[i]]
        self.equal += len(data) - len(wrong)
        self.differing += len(wrong)
        self.first = offset + wrong[0] if self.first is None else self.first

    def gap(self, offset, length, cause):
        if offset != self.next:
            self.jumps.append((self.next, offset))
        self.next = offset + length
        self.gaps.append((offset, length, cause))


class Watcher(NF):
    """Sorts streams and endings by connection."""

    def __init__(self, connections, read):
        super().__init__()
        self.seen = {(c.number, side): Seen(c.stream(side), read[c.number, side]) for c in connections for side in SIDES}
        self.ends = {c.number: [] for c in connections}
        self.established = set()

    def of(self, ev):
        number, side = ev.flow.server_port - PORT, "client" if ev.to_server else "server"
        if (number, side) not in self.seen:     # nobody planned it: `complaints` says so
            self.seen[number, side] = Seen(Stream("", 0), 0)
        return self.seen[number, side]

    @on(StreamData, where="tcp")
    def data(self, ev):
        self.of(ev).data(ev.offset, ev.data)

    @on(StreamGap, where="tcp")
    def gap(self, ev):
        self.of(ev).gap(ev.offset, ev.length, ev.cause)

    @on(FlowEstablished, where="tcp")
    def opened(self, ev):
        self.established.add(ev.flow)

    @on(FlowEnd, where="tcp")
    def end(self, ev):
        self.ends.setdefault(ev.flow.server_port - PORT, []).append((str(ev.reason), ev.flow in self.established))


def complaints(c, watcher, read):
    """What is wrong with connection `c`, a line each."""
    ends = watcher.ends[c.number]
    expected = f"rst_{c.who}" if c.how in ("rst", "abort") else "fin"
    if ends != [(expected, True)]:
        yield f"ends {ends}, not one established flow that ends with {expected}"
    for side in SIDES:
        seen, n, digest = watcher.seen[c.number, side], *read[c.number, side]
        where = f"bytes from the {side}"
        if seen.differing:
            yield f"{where}: {seen.differing} differ, the first at {seen.first}"
        if seen.jumps:
            yield f"{where}: out of order, first from {seen.jumps[0][0]} to {seen.jumps[0][1]}"
        early = [gap for gap in seen.gaps if c.how != "abort" or gap[0] < n]
        if early:
            yield f"{where}: {len(early)} gaps, the first {early[0]}"
        if c.how != "abort" and seen.next != c.size(side):
            yield f"{where}: ends at {seen.next}, not {c.size(side)}"
        if seen.next < n:
            yield f"{where}: ends at {seen.next} although {n} were read"
        if not early and seen.digest.hexdigest() != digest:
            yield f"{where}: not what its receiver read, {n} bytes"


def check(capture, seed, total, read, settings):
    """Complaints about a capture, and the bytes that were compared and differed. `read`: (number, sender) to (bytes, digest)."""
    connections = plan(seed, total)
    watcher = Watcher(connections, {key: n for key, (n, _) in read.items()})
    with Engine(watcher, **settings) as engine:
        engine.run(capture)
    planned = {c.number for c in connections}
    wrong = [f"a flow nobody planned, to port {n + PORT}" for n in {*watcher.ends, *(n for n, _ in watcher.seen)} - planned]
    wrong += [f"connection {c.number} ({'IPv6' if c.v6 else 'IPv4'}, {c.close}): {line}"
             for c in connections for line in complaints(c, watcher, read)]
    tally = {}
    for c in connections:
        for side in SIDES:
            seen = watcher.seen[c.number, side]
            t = tally.setdefault((c.v6, side), [0, 0])
            t[0] += seen.equal + seen.differing
            t[1] += seen.differing
    return wrong, tally, engine.stats()
