"""Seeded faults for any iterable of (nanoseconds, frame): a live port's packets, a capture's, a conversation's.

Each stage is a generator that reads one packet ahead at most by what it holds back, so endless inputs work. The same
input and seed give the same output on every machine. Times never run backwards if the input's do not.
"""
import heapq
from random import Random

from mos.errors import UsageError

HEADER = 14     # corrupt() leaves the Ethernet header alone: a switch would not deliver the frame otherwise


def drop(packets, rate, seed):
    """Leave out each packet with probability `rate`."""
    rng = Random(f"drop {seed}")
    return (p for p in packets if rng.random() >= rate)


def duplicate(packets, rate, seed):
    """Yield each packet a second time, right behind the first, with probability `rate`."""
    rng = Random(f"duplicate {seed}")
    for p in packets:
        yield p
        if rng.random() < rate:
            yield p


def corrupt(packets, rate, seed):
    """Flip one bit behind the Ethernet header of each packet with probability `rate`."""
    rng = Random(f"corrupt {seed}")
    for time, frame in packets:
        if rng.random() < rate and len(frame) > HEADER:
            damaged = bytearray(frame)
            damaged[rng.randrange(HEADER, len(frame))] ^= 1 << rng.randrange(8)
            frame = bytes(damaged)
        yield time, frame


def reorder(packets, rate, seed, places=3):
    """Hold back each packet with probability `rate` until 1 to `places` later ones are past; it leaves at their time."""
    rng = Random(f"reorder {seed}")
    held = []
    time = 0
    for time, frame in packets:
        if rng.random() < rate:
            held.append([rng.randint(1, places), frame])
            continue
        yield time, frame
        for entry in held:
            entry[0] -= 1
        yield from ((time, late) for left, late in held if left == 0)
        held = [entry for entry in held if entry[0]]
    yield from ((time, late) for _, late in held)


def delay(packets, rate, seed, limit_ns=50_000_000):
    """Delay each packet with probability `rate` by up to `limit_ns`; the output is in the order of the new times."""
    rng = Random(f"delay {seed}")
    waiting = []
    for number, (time, frame) in enumerate(packets):
        while waiting and waiting[0][0] <= time:
            due, _, late = heapq.heappop(waiting)
            yield due, late
        if rng.random() < rate:
            heapq.heappush(waiting, (time + rng.randint(1, limit_ns), number, frame))
        else:
            yield time, frame
    while waiting:
        due, _, late = heapq.heappop(waiting)
        yield due, late


STAGES = dict(drop=drop, duplicate=duplicate, corrupt=corrupt, delay=delay, reorder=reorder)


def inject(packets, seed, **rates):
    """The stages above, one behind the other, each with its rate: `inject(packets, 1, drop=0.01, reorder=0.05)`.

    Raises UsageError on a name that is no stage or a rate that is no probability.
    """
    for name in rates:
        if name not in STAGES:
            raise UsageError(f"{name!r} is no fault: choose among {', '.join(STAGES)}")
        if not 0 <= rates[name] <= 1:
            raise UsageError(f"{name}={rates[name]} is no probability: give 0 to 1")
    for name, stage in STAGES.items():
        if rates.get(name):
            packets = stage(packets, rates[name], seed)
    return iter(packets)
