"""The bars: what is wanted of the measured numbers, each as one number from the results."""
import statistics
from dataclasses import dataclass

from bench.arms import CHAIN, STAGES, sliced


@dataclass(frozen=True)
class Bar:
    """`wanted` is a least value, or with `most` a greatest. `value` is None: an arm it needs was not run."""
    what: str
    value: "float | None"
    wanted: float
    most: bool = False
    unit: str = "x"
    note: str = ""

    @property
    def met(self):
        return 0 <= self.value <= self.wanted if self.most else self.value >= self.wanted

    def row(self):
        if self.value is None:
            return self.what, self.asked(), "-", "not run", self.note
        value = f"{self.value:.3g}{self.unit}" if self.value < 100 else f"{self.value:,.0f}{self.unit}"
        verdict = "noise" if self.value < 0 else "met" if self.met else "MISSED"
        return self.what, self.asked(), value, verdict, self.note

    def asked(self):
        return f"{'<=' if self.most else '>='} {self.wanted:g}{self.unit}"


class Ratios:
    """Ratios of medians; None where an arm is missing."""

    def __init__(self, results):
        self.results = results

    def get(self, capture, arm):
        return self.results.get((capture, arm))

    def rate(self, a, b, capture, other=None):
        """How many times more packets a second `a` does than `b`, which may have run on a slice."""
        x, y = self.get(capture, a), self.get(other or capture, b)
        return None if x is None or y is None else x.rate / y.rate

    def loop(self, a, b, capture):
        """The same by the tools' own clocks around their loops: without mapping the file in the floor's case."""
        x, y = self.get(capture, a), self.get(capture, b)
        return None if x is None or y is None or not x.loop or not y.loop else y.loop / x.loop

    def ns(self, capture, arm):
        found = self.get(capture, arm)
        return None if found is None else found.ns


def note_of(value, text):
    return "" if value is None else text.format(value)


def floor_bars(r):
    out = []
    for capture, wanted in (("small", .40), ("bulk", .75), ("messy", .65), ("churn", .53)):
        out.append(Bar(f"volume / floor iii, {capture}", r.rate("volume", "floor iii", capture), wanted,
                       note=note_of(r.loop("volume", "floor iii", capture), "{:.2f} by their own clocks")))
    for capture in ("small", "churn"):
        out.append(Bar(f"flows / floor iii, {capture}", r.rate("flows", "floor iii", capture), .8,
                       note=note_of(r.loop("flows", "floor iii", capture), "{:.2f} by their own clocks; --level flow")))
    out.append(Bar("connections / floor iii, churn", r.rate("connections", "floor iii", "churn"), .35))
    for capture in ("bulk", "messy"):
        out.append(Bar(f"connections / volume, {capture}", r.rate("connections", "volume", capture), .9))
    return out


def peer_bars(r):
    out = []
    for capture, wanted in (("small", 5), ("bulk", 2.5), ("messy", 3), ("churn", 2.5)):
        out.append(Bar(f"volume / libnids, {capture}", r.rate("volume", "libnids", capture), wanted))
    for peer, wanted in (("nfstream", 25), ("dpkt loop", 50), ("struct loop", 8), ("scapy", 1500), ("pyshark", 10000)):
        found = {c: r.rate("volume", peer, c, sliced(peer, c)) for c in STAGES}
        known = {c: v for c, v in found.items() if v is not None}
        worst = min(known, key=known.get, default=None)
        out.append(Bar(f"volume / {peer}, least of {len(known)}", known.get(worst), wanted,
                       note=", ".join(f"{c} {v:,.0f}" for c, v in known.items())))
    return out


def python_bars(r):
    """By paired.py: as differences of processes these are lost in what else the machine does."""
    calls, filters = [], []
    for capture in ("small", "bulk"):
        found = r.get(capture, "in turns")
        told = {} if found is None else {key: statistics.median(s.facts[key] for s in found.samples)
                                         for key in ("ratio", "added_ns", "bare_ns", "rejected_percent")}
        calls.append(Bar(f"Python call per data event / bare call, {capture}", told.get("ratio"), 1.6, most=True,
                         note="{added_ns:.1f} ns over {bare_ns:.1f} ns".format(**told) if told else ""))
        filters.append(Bar(f"a filter that rejects all costs, {capture}", told.get("rejected_percent"), 5, most=True, unit=" %"))
    return calls + filters


def fitted(points):
    """(S, F) of cost(n) = S + n F, least squares over {n: cost}."""
    n = len(points)
    mean_x, mean_y = sum(points) / n, sum(points.values()) / n
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points.items()) / sum((x - mean_x) ** 2 for x in points)
    return mean_y - slope * mean_x, slope


def chain_bars(r):
    out = []
    for what in ("volume", "connections"):
        cost = {n: r.ns("bulk", "volume" if (n, what) == (1, "volume") else f"{n} {what}") for n in CHAIN}
        if None in cost.values():
            continue
        s, f = fitted(cost)
        for n, wanted in ((4, 2.5), (7, 4)):
            out.append(Bar(f"{n} {what} on one stack, not one each", n * cost[1] / cost[n], wanted,
                           note=f"S {s:.0f} ns, F {f:.1f} ns a packet, bound {n * (s + f) / (s + n * f):.2f}"))
    return out


def level_bars(r):
    return [Bar("state only / bytes with copies kept, bulk", r.rate("connections", "volume, copies kept", "bulk"), 1.6,
                note=note_of(r.rate("connections", "volume", "bulk"), "{:.2f} over bytes without copies"))]


def alive(r, arm):
    """ns of a packet of a flow that is there, in a million of them: what the longer capture takes more, by packet."""
    short, long = r.get("many", arm), r.get("many, longer", arm)
    if None in (short, long):
        return None
    return (long.ns * long.fact("packets_in") - short.ns * short.fact("packets_in")) / (
        long.fact("packets_in") - short.fact("packets_in"))


def flow_bars(r):
    few, many, sets = r.get("few", "volume"), r.get("many", "volume"), r.get("many", "volume + own sets")
    plain, varied = alive(r, "volume"), alive(r, "volume + own sets")
    out = [Bar("a packet among 10^6 live flows / among 10^3", None if None in (few, plain) else plain / few.ns, 1.6, most=True,
               note="" if None in (few, plain) else
               f"{plain:.0f} and {few.ns:.0f} ns; {many.ns / few.ns:.2f} with the making of 10^6"),
           Bar("the same with a handler set per flow / without", None if None in (plain, varied) else varied / plain, 1.25,
               most=True, note="" if None in (plain, varied) else
               f"32,640 sets, attached by a Python FlowStart; {sets.ns / many.ns:.2f} with the making of 10^6")]
    if many is not None and few is not None:
        anon = many.fact("peak_anon_bytes")
        per = (anon - few.fact("peak_anon_bytes")) / (many.fact("flows") - few.fact("flows"))
        out += [Bar("memory per idle TCP flow", per, 320, most=True, unit=" B", note="difference of peak anonymous memory"),
                Bar("peak anonymous memory, 10^6 flows", anon / 1e6, 400, most=True, unit=" MB")]
    return out


def worker_bars(r):
    out = []
    for capture in ("small", "churn"):
        one, two = r.get(capture, "volume"), r.get(capture, "volume, 2 workers")
        both, runs = None not in (one, two), r.get(capture, "volume, two runs")
        bound = f"; two runs at once: {2 * one.wall / runs.wall:.2f}" if both and runs is not None else ""
        out.append(Bar(f"2 workers, wall time, {capture}", one.wall / two.wall if both else None, 1.7,
                       note=f"{one.least_wall / two.least_wall:.2f} by the least of each{bound}" if both else ""))
    return out


def all_bars(results):
    r = Ratios(results)
    groups = floor_bars, peer_bars, python_bars, chain_bars, level_bars, flow_bars, worker_bars
    return [bar for group in groups for bar in group(r)]
