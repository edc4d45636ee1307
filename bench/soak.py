"""One stack through a hundred million packets of everything: memory must not grow, and no packet may be unaccounted for.

    soak.py                     10^8 packets, a line for each tenth
    soak.py --packets 2000000 --json

A mix of ordinary, messy and short connections and of all attacks is made once and replayed again and again, each time later and
with other addresses (soak_shift.c), so that all flows are new. It is read as a stream, through the reader of captures, by a
chain of monitor, firewall (which drops and resets some), ids, and handlers that set timers and attach others. Exit status 1:
anonymous memory at the end is more than 5 % above that after the first tenth, or a balance does not hold.
"""
import argparse
import contextlib
import ctypes
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import attacks  # noqa: E402
import attacks_ordinary  # noqa: E402
from attacks_frames import HEADER, RST, Scene, Talk  # noqa: E402

from mos import Chain, on  # noqa: E402
from mos.events import CapReached, FlowStart, OutOfWindow, Retransmission, StreamData  # noqa: E402
from mos.memory import anonymous  # noqa: E402
from mos.nf import FunctionsNF  # noqa: E402
from mos.run import Engine, Settings  # noqa: E402

GROWTH = 1.05
PAUSE_NS = 20 * 10**9           # between two rounds: idle time-outs of all kinds come due in the first tenth
RULES = """
[[rule]]
action = "drop"
proto = "tcp"
server_port = 8080
[[rule]]
action = "reset"
proto = "tcp"
server_port = 443
client = "10.0.0.0/10"
"""
IDS_RULES = """
[[rule]]
name = "never"
content = "no such bytes in this mix"
"""


def messy(scene, n):
    """Connections of which every tenth packet is lost, comes twice or late."""
    rng, late = scene.rng, []
    stop = scene.attacks + n
    data = attacks.MSS[:200], attacks.total(attacks.MSS[:200])
    while scene.attacks < stop:
        for frame in attacks_ordinary.conversation(rng, *data):
            fate = rng.randrange(30)
            if fate == 0:
                continue
            if fate == 1:
                late.append(frame)
                continue
            scene.attack(frame)
            if fate == 2:
                scene.attack(frame)
            elif late and fate == 3:
                scene.attack(late.pop())


def churn(scene, n):
    """Connections of a handful of packets, some of which end by a RST."""
    rng, stop = scene.rng, scene.attacks + n
    while scene.attacks < stop:
        src, sport = attacks.client(rng)
        talk = Talk(src, attacks.SERVER, sport, 80, rng.getrandbits(32), rng.getrandbits(32))
        for frame in talk.open():
            scene.attack(frame)
        scene.attack(talk.send(0, 24, b"GET /"))
        for frame in talk.close() if rng.randrange(3) else [talk.send(1, RST | 16)]:
            scene.attack(frame)


# Packets of a round, in thousandths.
MIX = {attacks_ordinary.ordinary: 420, attacks_ordinary.ordinary_full: 60, messy: 150, churn: 100,
       attacks.syn_flood: 30, attacks.half_open: 30,
       attacks.udp_flood: 20, attacks.rst_orphans: 8, attacks.fin_orphans: 8, attacks.rst_storm: 10, attacks.paws_storm: 10,
       attacks.doubt_bomb: 10, attacks.ack_storm: 10, attacks.reuse_storm: 10, attacks.tiny_segments: 10, attacks.holes_upwards: 10,
       attacks.holes_downwards: 10, attacks.holes_shuffled: 10, attacks.order_bomb: 12, attacks.overlap_bomb: 10,
       attacks.repeat_bomb: 6, attacks.never_acked: 6, attacks.fragments4: 10, attacks.fragments6: 10, attacks.fragment_names: 8,
       attacks.fragment_overlaps: 8, attacks.nested: 12, attacks.too_nested: 2, attacks.one_flow: 5, attacks.new_sets: 5}


def bounds(packets):
    """Settings with bounds that the mix reaches within the first tenth, so that memory has no reason to grow after it."""
    return {"max_flows": min(1 << 16, packets // 400),
            "limits": {"global": min(48 << 20, packets), "sets": min(4096, packets // 2000)}}


def mix(size, seed, makes):
    """(records of one round, ns from its first packet to its last)."""
    out = bytearray()
    scene = Scene(out.extend, seed, victims=0, every=1 << 60)
    begin = scene.now
    for make in makes:
        scene.attacks = 0
        make(scene, max(MIX[make] * size // 1000, 10))
    return out[len(HEADER):], scene.now - begin


def shifter(directory):
    """The function of soak_shift.c, compiled."""
    path = Path(directory) / "soak_shift.so"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", path, HERE / "soak_shift.c"], check=True)
    shift = ctypes.CDLL(str(path)).shift
    shift.restype, shift.argtypes = ctypes.c_uint64, (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32)
    return shift


class Rounds:
    """readinto() over the mix, round after round, until `packets` are given; calls `tenth(i)` when i tenths are."""

    def __init__(self, records, span_ns, shift, packets, tenth):
        self.records, self.shift, self.packets, self.tenth = records, shift, packets, tenth
        self.whole = (ctypes.c_uint8 * len(records)).from_buffer(records)
        self.view = memoryview(records)
        self.step_ns = span_ns + PAUSE_NS
        self.round = self.tenths = self.given = self.at = 0
        self.in_round = shift(ctypes.addressof(self.whole), len(records), 0, 0)
        self.rounds = max(-(-packets // self.in_round), 10)
        self.head = HEADER

    def read(self, n):
        """The first bytes, by which the format is told."""
        head, self.head = self.head[:n], self.head[n:]
        return head

    def readinto(self, view):
        if self.head:
            n = len(self.head)
            view[:n] = self.read(n)
            return n
        if self.at == len(self.records):
            self.at = 0
            self.round += 1
            self.given = self.round * self.in_round
            while self.tenths < self.round * 10 // self.rounds:
                self.tenths += 1
                self.tenth(self.tenths)
            if self.round == self.rounds:
                return 0
            flips = [(i * 40503) & 0xFFFF for i in (self.round, self.round - 1)]
            self.shift(ctypes.addressof(self.whole), len(self.records), self.step_ns, flips[0] ^ flips[1])
        n = min(len(view), len(self.records) - self.at)
        view[:n] = self.view[self.at:self.at + n]
        self.at += n
        return n


def busy():
    """Handlers that a peer can make set timers and attach others."""
    @on(Retransmission, attached=False)
    def one(ev):
        pass

    @on(OutOfWindow, attached=False)
    def two(ev):
        pass

    @on(StreamData, where="server_port == 8")
    def work(ev):
        ev.flow.timer(0.001)
        (ev.flow.attach if ev.offset & 1 else ev.flow.detach)(one if ev.offset & 2 else two)
    return FunctionsNF([one, two, work])


def counting(counts):
    """Handlers that count in Python what is not too frequent."""
    @on(CapReached, where="cause == sets")
    def caps(ev):
        counts["caps"] += 1

    @on(FlowStart, where="tcp and server_port == 80 and client in 10.1.0.0/16")
    def some(ev):
        counts["flows"] += 1
    return FunctionsNF([caps, some])


def chain(directory):
    from mbox.ids import Ids

    from mbox.firewall import Firewall
    from mbox.monitor import Monitor
    rules, patterns = Path(directory) / "rules.toml", Path(directory) / "ids.toml"
    rules.write_text(RULES)
    patterns.write_text(IDS_RULES)
    return Chain(Monitor(), Firewall(rules=rules), Ids(rules=patterns), busy(), counting({"caps": 0, "flows": 0}))


def balances(stats):
    """What of the two equations does not hold."""
    wrong = []
    if stats["packets_in"] != stats["forwarded"] + sum(stats["dropped"].values()) + stats["held"] + stats["consumed"]:
        wrong.append("in is not forwarded + dropped + held + consumed")
    if stats["packets_out"] != stats["forwarded"] + stats["injected"] + stats["split"]:
        wrong.append("sent is not forwarded + injected + split")
    return wrong


def soak(packets, seed=1, size=250_000, say=print):
    """Run; (rows of the tenths, what went wrong)."""
    rows, wrong = [], []
    with tempfile.TemporaryDirectory() as directory:
        started = time.monotonic()

        def tenth(i):
            stats = engine.stats()
            wrong.extend(f"tenth {i}: {w}" for w in balances(stats))
            rows.append({"tenth": i, "packets": stats["packets_in"], "anon": anonymous(), "alive": stats["table"]["flows"],
                         "flows": stats["flows"], "dropped": sum(stats["dropped"].values()), "injected": stats["injected"],
                         "reassembly": stats["reassembly"]["bytes"], "timers": stats["timers"], "caps": stats["caps"],
                         "cpu": round(time.process_time(), 2), "seconds": round(time.monotonic() - started, 1)})
            say(rows[-1])
        # Domains of tunnels have a bound of their own, 65,536, which a short run does not reach.
        makes = [make for make in MIX if make is not attacks.nested or packets >= 10**7]
        records, span = mix(min(size, max(packets // 20, 1000)), seed, makes)
        source = Rounds(records, span, shifter(directory), packets, tenth)
        engine = Engine(chain(directory), Settings(**bounds(packets)))
        engine.run(source)
        with contextlib.redirect_stdout(io.StringIO()):     # the monitor's table
            engine.close()
        stats = engine.stats()
    wrong.extend(f"end: {w}" for w in balances(stats))
    if stats["packets_in"] != source.in_round * source.rounds:
        wrong.append(f"{stats['packets_in']} packets came in, {source.in_round * source.rounds} were given")
    if stats["reassembly"]["bytes"] or stats["timers"] or stats["ring_lost"]:
        wrong.append(f"left behind: {stats['reassembly']['bytes']} bytes, {stats['timers']} timers, {stats['ring_lost']} events")
    if rows[-1]["anon"] > GROWTH * rows[0]["anon"]:
        wrong.append(f"anonymous memory grew from {rows[0]['anon']} to {rows[-1]['anon']} bytes")
    return rows, wrong


def line(row):
    return (f"{row['tenth']:3}/10  {row['packets']:11,} packets  {row['anon'] / 2**20:7.1f} MiB anonymous  "
            f"{row['alive']:6} of {row['flows']:,} flows alive  {row['dropped']:,} dropped  {row['cpu']:6.0f} s CPU")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=10**8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line of JSON for each tenth and one for the result")
    args = parser.parse_args()

    def say(row):
        print(json.dumps(row) if args.json else line(row), flush=True)
    rows, wrong = soak(args.packets, args.seed, say=say)
    result = {"packets": rows[-1]["packets"], "growth": rows[-1]["anon"] / rows[0]["anon"], "wrong": wrong}
    if args.json:
        print(json.dumps(result))
    else:
        print(f"memory at the end: {result['growth']:.3f} of that after the first tenth;", "; ".join(wrong) or "both balances hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
