"""Sets made out of other sets: whatever is attached and detached, handlers are asked in the order that all rows have."""
import random

import pytest
from boxes import box, drive, flows

from mos import BYPASS, on
from mos.events import FlowStart, StreamData
from mos.testing import merge, tcp


@pytest.mark.parametrize("seed", range(6))
def test_any_way_to_a_set_leads_to_the_same_order(seed):
    """Nine handlers of random priority in three boxes; each flow gets some of them in another order and with detours."""
    rng, log, wanted, places = random.Random(seed), [], {}, {}

    def handler(position, number):
        priority = rng.randrange(-1, 2)

        @on(StreamData, attached=number == 0, priority=priority)
        def told(ev):
            log.append((ev.flow.id, ev.to_server, places[told]))
        places[told] = position, priority, number
        return told
    made = [box(*[handler(position, i) for i in range(3)]) for position in range(3)]

    @on(FlowStart)
    def start(ev):
        have, chosen = {h for h in places if places[h][2] == 0}, {h for h in places if rng.random() < 0.5}
        for h in rng.sample(list(places), 9) * 2 + rng.sample(list(places), 9):
            if rng.random() < 0.3:
                (ev.flow.detach if h in have else ev.flow.attach)(h)
                have ^= {h}
        for h in rng.sample(list(places), 9):
            if (h in chosen) != (h in have):
                (ev.flow.attach if h in chosen else ev.flow.detach)(h)
        wanted[ev.flow.id] = {places[h] for h in chosen}
    talks = merge(*[tcp(f"10.0.0.1:{1000 + i}", "10.0.0.2:80").send(b"q").reply(b"a") for i in range(40)])
    stats = drive([box(start), *made], talks.packets).stats()
    for flow, chosen in wanted.items():
        for up, sign in ((True, 1), (False, -1)):
            asked = [p for f, to_server, p in log if (f, to_server) == (flow, up)]
            assert asked == sorted(chosen, key=lambda p: (sign * p[0], *p[1:]))
    assert len({frozenset(c) for c in wanted.values()}) <= stats["bus"]["sets"] <= 512


def test_bypass_takes_all_of_a_box_out_of_a_set():
    told = []

    @on(StreamData)
    def one(ev):
        told.append("one")
        return BYPASS

    @on(StreamData)
    def two(ev):
        told.append("two")

    @on(StreamData)
    def other(ev):
        told.append("other")
    drive([box(one, two), box(other)], flows(1))
    assert told[:3] == ["one", "two", "other"] and set(told[3:]) == {"other"}
