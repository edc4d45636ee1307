"""Which set has these handlers: each combination is one set, by whichever way flows come to it."""
import random

from boxes import box, drive

from mos import on
from mos.events import FlowStart, StreamData
from mos.testing import merge, udp


def test_thousands_of_sets_are_told_apart():
    """Each set that a flow comes by is numbered once, whichever way leads there."""
    rng, told, wanted, met = random.Random(1), {}, {}, {frozenset()}

    def handler(number):
        @on(StreamData, attached=False)
        def tell(ev):
            told.setdefault(ev.flow.id, set()).add(number)
        return tell
    made = [handler(i) for i in range(70)]

    @on(FlowStart)
    def start(ev):
        low, other, high = rng.sample(range(70), 3)
        ways = [(low, True), (high, True), (high, True)]
        if other % 8 == 0:
            ways[1:1], ways[4:] = [(other, True)], [(other, False)]
        have = set()
        for number, on_ in ways:
            assert (ev.flow.attach if on_ else ev.flow.detach)(made[number])
            have = have | {number} if on_ else have - {number}
            met.add(frozenset(have))
        wanted[ev.flow.id] = have
    talks = merge(*[udp(f"10.0.{i >> 8}.{i & 255}:1000", "10.1.0.1:53").send(b"q") for i in range(6000)])
    stats = drive([box(start), box(*made)], talks.packets).stats()
    assert told == wanted
    assert 2000 < stats["bus"]["sets"] == len(met)
