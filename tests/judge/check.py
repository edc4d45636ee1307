"""One capture through the stack: what it says of each connection against what the receiving kernels gave their programs."""
import hashlib
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from plan import PORT, Stream, plan

from mos import NF, on
from mos.events import FlowEnd, FlowEstablished, StreamData, StreamGap
from mos.run import Engine

SIDES = ("client", "server")
RST, ACK = 4, 16


@dataclass
class Seen:
    """One direction of one connection as the stack told it."""
    side: str               # who sent it
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
        self.seen = {(c.number, side): Seen(side, c.stream(side), read[c.number, side]) for c in connections for side in SIDES}
        self.ends = {c.number: [] for c in connections}
        self.established = set()

    def of(self, ev):
        number, side = ev.flow.server_port - PORT, "client" if ev.to_server else "server"
        if (number, side) not in self.seen:     # nobody planned it: `complaints` says so
            self.seen[number, side] = Seen(side, Stream("", 0), 0)
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


def complaints(c, watcher, read, capture):
    """What is wrong with connection `c`, a line each."""
    ends = watcher.ends[c.number]
    by_reset = c.how in ("rst", "abort")
    expected = f"rst_{c.who}" if by_reset else "fin"
    if ends != [(expected, True)] and not (by_reset and ends in ([(how, True)] for how in told_otherwise(c, frames(capture)))):
        yield f"ends {ends}, not one established flow that ends with {expected}"
    for side in SIDES:
        seen, n, digest = watcher.seen[c.number, side], *read[c.number, side]
        where = f"bytes from the {side}"
        yield from (f"{where}: {line}" for line in misplaced(seen))
        early = [gap for gap in seen.gaps if c.how != "abort" or gap[0] < n]
        if early:
            yield f"{where}: {len(early)} gaps, the first {early[0]}"
        if c.how != "abort" and seen.next != c.size(side):
            yield f"{where}: ends at {seen.next}, not {c.size(side)}"
        if seen.next < n:
            yield f"{where}: ends at {seen.next} although {n} were read"
        if not early and seen.digest.hexdigest() != digest:
            yield f"{where}: not what its receiver read, {n} bytes"


def told_otherwise(c, packets):
    """How else the end of `c` by a RST may look from outside.

    An ACK after it may answer bytes that were under way before, or challenge it (RFC 5961 section 3.2): it stays open then. If it
    is overtaken by RSTs without ACK, which a host without the connection answers, a forged RST may be taken for what ended it.
    """
    said = [(side, flags) for number, side, flags, _ in filter(None, (payload(f) for _, f in packets)) if number == c.number]
    words = [i for i, (side, flags) in enumerate(said) if side == c.who and not flags & RST]
    resets = [i for i, (side, flags) in enumerate(said) if side == c.who and flags & RST and i > words[-1]]
    if resets and any(side != c.who and not flags & RST for side, flags in said[resets[-1]:]):
        yield "shutdown"
    if resets and not said[resets[0]][1] & ACK:
        yield f"rst_{SIDES[c.who == 'client']}"


def misplaced(seen):
    """Bytes that are not what was sent at their offset."""
    if seen.differing:
        yield f"{seen.differing} differ, the first at {seen.first}"
    if seen.jumps:
        yield f"out of order, first from {seen.jumps[0][0]} to {seen.jumps[0][1]}"


def shortened(c, seen, lost):
    """What is wrong with a direction of which the capture lacks `lost` payload bytes: all others must be there.

    Unless a RST comes before the ACK that settles doubts: nobody can tell what was read then.
    """
    yield from misplaced(seen)
    least = c.size(seen.side) if c.how != "abort" else 0
    if seen.equal < least - lost:
        yield f"{seen.equal} bytes of {least} although only {lost} were not captured"


def frames(capture):
    """(ns, frame) of a capture that relay.c wrote."""
    data = Path(capture).read_bytes()
    at, out = 24, []
    while at < len(data):
        seconds, ns, length, _ = struct.unpack_from("=4I", data, at)
        out.append((seconds * 1_000_000_000 + ns, data[at + 16:at + 16 + length]))
        at += 16 + length
    return out


def payload(frame):
    """Connection number, sender, flags and payload length of a frame; None if it is no TCP."""
    v6 = frame[12:14] == b"\x86\xdd"
    if frame[20 if v6 else 23] != 6 or frame[12] != (0x86 if v6 else 8):
        return None
    ip_end = 54 + struct.unpack_from("!H", frame, 18)[0] if v6 else 14 + struct.unpack_from("!H", frame, 16)[0]
    tcp = 54 if v6 else 14 + (frame[14] & 15) * 4
    source, target = struct.unpack_from("!2H", frame, tcp)
    client = source > target
    return (target if client else source) - PORT, SIDES[not client], frame[tcp + 13], ip_end - tcp - (frame[tcp + 12] >> 4) * 4


def thinned(packets, rng):
    """A capture that lacks one frame in a hundred, no SYN; and how many payload bytes went, by connection and sender."""
    lost, out = Counter(), []
    for ts, frame in packets:
        told = payload(frame)
        if told and not told[2] & 2 and rng.random() < 0.01:
            lost[told[:2]] += told[3]
        else:
            out.append((ts, frame))
    return out, lost


def skewed(packets, rng):
    """The same frames as from two queues: one direction up to five frames behind the other, each in order in itself."""
    out, queues, lag = [], {"client": [], "server": []}, {"client": 0, "server": 0}
    last = 0
    for ts, frame in packets:
        told = payload(frame)
        late, last = ts - last > 1_000_000, ts
        if late:
            out += queues["client"] + queues["server"]
            queues = {"client": [], "server": []}
        if told is None or told[2] & 7:     # SYN, FIN and RST are where they were
            out += queues["client"] + queues["server"] + [frame]
            queues = {"client": [], "server": []}
            continue
        queues[told[1]].append(frame)
        for side, queue in queues.items():
            if len(queue) > lag[side]:
                out += queue
                queue.clear()
                lag[side] = rng.choice((0, 0, 1, 5))
    out += queues["client"] + queues["server"]
    return [(ts, frame) for (ts, _), frame in zip(packets, out)]


class Judgement:
    """The captures of one seed. `read`: (number, sender) to (bytes, digest) of what was read at the other end."""

    def __init__(self, seed, total, read, checksum):
        self.seed, self.connections, self.read = seed, plan(seed, total), read
        self.checksum = checksum
        self.tally = Counter()      # (view, behind the faults, IPv6) to bytes compared; with "wrong" in front to those that differ

    def watch(self, packets, view, tap):
        watcher = Watcher(self.connections, {key: n for key, (n, _) in self.read.items()})
        with Engine(watcher, checksum=self.checksum) as engine:
            engine.run(packets)
        version = {c.number: c.v6 for c in self.connections}
        for (number, side), seen in watcher.seen.items():
            behind, v6 = (tap == "right") == (side == "client"), version.get(number)
            if view != "thinned" or not behind:
                self.tally[view, behind, v6] += seen.equal + seen.differing
                self.tally["wrong", view, behind, v6] += seen.differing
        return watcher

    def whole(self, capture, tap):
        """Complaints about a capture as it is: bytes, order, gaps, endings."""
        watcher = self.watch(capture, "whole", tap)
        planned = {c.number for c in self.connections}
        for n in {*watcher.ends, *(n for n, _ in watcher.seen)} - planned:
            yield f"a flow nobody planned, to port {n + PORT}"
        for c in self.connections:
            yield from (f"{label(c)}: {line}" for line in complaints(c, watcher, self.read, capture))

    def queues(self, packets, tap):
        """Complaints about it with ACKs before their data and late after it."""
        watcher = self.watch(skewed(packets, Random(f"skewed {self.seed}")), "skewed", tap)
        for c in self.connections:
            for side in SIDES:
                lines = shortened(c, watcher.seen[c.number, side], 0)
                yield from (f"{label(c)}: bytes from the {side}, skewed: {line}" for line in lines)

    def losses(self, packets, tap):
        """Complaints about it with frames missing, before the faults: behind them a forged copy may be all that is left."""
        packets, lost = thinned(packets, Random(f"thinned {self.seed}"))
        watcher = self.watch(packets, "thinned", tap)
        side = "client" if tap == "left" else "server"
        for c in self.connections:
            lines = shortened(c, watcher.seen[c.number, side], lost[c.number, side])
            yield from (f"{label(c)}: bytes from the {side}, thinned: {line}" for line in lines)

    def of(self, capture, tap, imperfect):
        yield from self.whole(capture, tap)
        if imperfect:
            packets = frames(capture)
            yield from self.queues(packets, tap)
            yield from self.losses(packets, tap)


def label(c):
    return f"connection {c.number} ({'IPv6' if c.v6 else 'IPv4'}, {c.close})"
