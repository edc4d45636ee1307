"""A sender that cheats, a middlebox in safe mode, a receiver: the receiver must never read a byte that the chain did not see.

    safety.py --cases 10000             that many generated cases, from seed 0
    safety.py --cases 1 --first 4711    one again

Each case is one connection: its sender sends any range of its stream at any time with any of four contents, on SYN and FIN and
RST, behind holes, beyond the window, urgent, as probes, while segments and ACKs are lost, doubled and reordered on both sides
of the box. Then the sender plays fair, and what it sends must arrive: safe mode lets no stream stand still.
"""
import argparse
import random
import sys
from collections import defaultdict

from hosts import ACK, FIN, NOP_NOP_TS, PSH, RST, SYN, URG, Host, Wire, frame, parse

from mos.events import StreamData, on
from mos.events.verdict import DROP, Replace
from mos.nf import Chain
from mos.run import Engine, Settings

STREAM = 3000       # bytes of a case: two to three segments of an Ethernet
FAIR = 400          # rounds in which a fair sender must get through
KEEPS = ("first", "last", "bsd", "any")


def content(at, n, version):
    """Bytes of a stream: at each offset the four versions differ."""
    return bytes((i * 7 + (i >> 5) + version * 61) & 0xff for i in range(at, at + n))


class Box:
    """One engine for many cases. `passed[port][offset]`: the bytes that left the chain there; `seen`: those it was shown."""

    def __init__(self, kind):
        self.wire, self.passed, self.seen = Wire(), defaultdict(dict), defaultdict(dict)
        self.rng, self.fair, self.now = random.Random(kind), set(), 10**18

        @on(StreamData, where="to_server", edits="same_length" if kind == "edit" else None)
        def judge(ev):
            note(self.seen[ev.client_port], ev.offset, ev.data)
            if kind != "pass" and ev.client_port not in self.fair and self.rng.random() < .2:
                return DROP
            return Replace(bytes(b ^ 0x80 for b in ev.data)) if kind == "edit" else None

        @on(StreamData, where="to_server", at="receiver")
        def committed(ev):
            note(self.passed[ev.client_port], ev.offset, ev.data)
        self.edits = kind == "edit"
        self.engine = Engine(Chain([judge, committed]), Settings(truth="inline", checksum="verify", timeouts={"CLOSED": 1}),
                             write=self.wire.path)

    def feed(self, raw, later=1000):
        """What leaves: [Segment]."""
        self.now += later
        self.engine.feed(raw, self.now)
        self.engine.writer.flush()
        return [parse(f) for f in self.wire.take()]

    def close(self):
        self.engine.close()
        stats = self.engine.stats()
        self.wire.close()
        assert stats["packets_in"] == stats["forwarded"] + sum(stats["dropped"].values()) + stats["held"] + stats["consumed"]
        assert stats["packets_out"] == stats["forwarded"] + stats["injected"] + stats["split"]
        assert not stats["ring_lost"] and not stats["reassembly"]["bytes"]
        return stats


def note(where, at, data):
    for i, byte in enumerate(data, at):
        where.setdefault(i, set()).add(byte)


class Case:
    """One connection."""

    def __init__(self, box, seed):
        rng = self.rng = random.Random(seed)
        self.box, self.seed, self.port = box, seed, 1024 + seed % 60000
        box.rng.seed(seed)
        box.passed.pop(self.port, None), box.seen.pop(self.port, None)
        self.iss = rng.choice([1000, 2**32 - 500, rng.randrange(2**32)])
        self.irs = rng.randrange(2**32)
        self.six, self.stamps, self.tfo = rng.random() < .3, rng.random() < .5, rng.random() < .3
        self.host = Host(rng, rng.choice(KEEPS), tfo=self.tfo)
        self.una, self.clock, self.late, self.problems = 0, rng.randrange(2**32), [], []
        self.loss = rng.choice([0, 0, .1, .4])
        self.reorder = rng.choice([0, 0, .2])
        self.replied, self.ended, self.resets = False, False, False     # ended: it has closed, so nothing more has to arrive

    def options(self):
        self.clock += 1
        return NOP_NOP_TS + (self.clock & 0xffffffff).to_bytes(4, "big") + bytes(4) if self.stamps else b""

    def send(self, at, data, flags=ACK, urg=0, loss=None):
        """From the client: stream offset `at`; -1 with SYN."""
        syn = flags & SYN
        raw = frame(self.port, True, self.iss + (0 if syn else 1 + at), 0 if syn else self.irs + 1, flags, data, urg=urg,
                    options=self.options(), six=self.six)
        self.arrive(self.box.feed(raw), self.loss if loss is None else loss)

    def arrive(self, segments, loss):
        """What left the box goes on to the host, some of it late, some never."""
        for s in segments:
            if not s.to_server:
                continue
            if self.rng.random() < self.reorder:
                self.late.append(s)
                continue
            self.deliver(s, loss)
            while self.late and self.rng.random() < .5:
                self.deliver(self.late.pop(self.rng.randrange(len(self.late))), loss)

    def deliver(self, s, loss):
        if self.rng.random() < loss:
            return
        before = self.host.rcv_nxt
        answer = self.host.take(s)
        self.check(before)
        if answer and self.rng.random() > loss:
            self.acknowledge(loss)

    def acknowledge(self, loss, flags=ACK):
        """The host's ACK through the box; the sender may miss it behind the box."""
        flags |= SYN if not self.replied or self.host.rcv_nxt == 0 and self.rng.random() < .2 else 0
        self.replied = True
        raw = frame(self.port, False, self.irs + (0 if flags & SYN else 1), self.host.ack, flags, wnd=self.host.wnd,
                    options=self.options(), six=self.six)
        if any(not s.to_server for s in self.box.feed(raw)) and self.rng.random() >= loss:
            self.una = max(self.una, self.host.rcv_nxt)

    def check(self, since):
        """Each byte read is one that left the chain for that place."""
        h, passed = self.host, self.box.passed[self.port]
        for i in range(since, h.rcv_nxt):
            if i in h.read and h.read[i] not in passed.get(i, ()):
                self.problems.append(f"offset {i}: read {h.read[i]:#x}, the chain let pass {passed.get(i)}")
        for i, byte in h.apart.items():
            if byte not in passed.get(i, ()):
                self.problems.append(f"offset {i}: read {byte:#x} out of band, the chain let pass {passed.get(i)}")

    def cheat(self):
        """One thing a sender might do."""
        rng = self.rng
        at = max(0, self.una + rng.choice([0, 0, 0, 1, -1, rng.randrange(-300, 900), rng.randrange(STREAM)]))
        n = rng.choice([1, 2, 9, 100, 536, rng.randrange(1, 1460)])
        data = content(at, n, rng.randrange(4))
        what = rng.random()
        if what < .72:
            self.send(at, data, ACK | rng.choice([0, PSH]))
        elif what < .78:
            self.send(at, data, ACK | URG, urg=rng.choice([0, 1, n, n + 1, rng.randrange(65536)]))
        elif what < .82:
            self.send(max(0, self.una - 1), data[:rng.choice([0, 1])])     # keep-alive
        elif what < .86:
            self.send(self.una + self.host.wnd, data[:1])       # probe beyond the window
        elif what < .88:
            self.resets = True
            self.send(at, data, ACK | RST)
        elif what < .90:
            self.send(at, data, 0)
        elif what < .92:
            self.send(-1, data, SYN)
        elif what < .93 and at > STREAM // 2:
            self.ended = True
            self.send(at, data, ACK | FIN)
        elif what < .97:
            self.host.wnd = rng.choice([0, 1, 700, 4000, 4000])
            self.acknowledge(self.loss)
        else:
            self.acknowledge(self.loss)

    def open(self):
        self.send(-1, content(0, self.rng.randrange(1, 300), 0) if self.rng.random() < .4 else b"", SYN)
        for _ in range(FAIR):
            if self.host.irs is None:
                self.send(-1, content(0, 9, self.rng.randrange(4)) if self.rng.random() < .3 else b"", SYN)
            elif not self.replied:
                self.acknowledge(self.loss)
            else:
                break
        self.send(0, b"", ACK)

    def play_fair(self):
        """Everything once more, from what was acknowledged on, by a sender that means it."""
        h = self.host
        self.box.fair.add(self.port)
        self.reorder, h.wnd, self.late = 0, 4000, []
        self.acknowledge(0, ACK)
        for _ in range(FAIR):
            if h.rcv_nxt >= STREAM or h.reset or self.ended:
                return
            at, n = self.una, min(700, STREAM - self.una)
            self.send(at, content(at, n, 0), ACK, loss=0)
            if self.una == at:
                self.acknowledge(0)
        a, b = ("fd00::1", "fd00::2") if self.six else ("10.0.0.1", "10.0.0.2")
        if self.resets and self.box.engine.find("tcp", a, self.port, b, 80).client_side.state == "CLOSED":
            return      # it has met the number that the box expected, and the host may have missed the RST
        self.problems.append(f"stuck at {h.rcv_nxt} of {STREAM}, acknowledged {self.una}")

    def run(self):
        self.open()
        for _ in range(self.rng.randrange(5, 40)):
            self.cheat()
        if not any(s for s in self.problems):
            self.play_fair()
        for s in self.late:
            self.deliver(s, 0)
        return [f"seed {self.seed}: {p}" for p in self.problems]


def run(cases, first=0, every=2000):
    """Problems of `cases` cases, and how many bytes their receivers read."""
    problems, read, counters = [], 0, defaultdict(int)
    for kind in ("pass", "drop", "edit"):
        box = Box(kind)
        for seed in range(first, first + cases):
            if seed % 3 == ("pass", "drop", "edit").index(kind):
                case = Case(box, seed)
                problems += case.run()
                read += len(case.host.read)
        for name, n in box.close()["safe"].items():
            counters[name] += n
    return problems, read, dict(counters)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    problems, read, counters = run(args.cases, args.first)
    print("\n".join(problems[:40]))
    print(f"{args.cases} cases, {read} bytes read, {counters}, {len(problems)} problems")
    sys.exit(bool(problems))
