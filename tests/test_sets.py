"""Sets made out of other sets: whatever is attached and detached, handlers are asked in the order that all rows have."""
import random

import pytest
from boxes import box, drive, flows

from mos import BYPASS, on
from mos.events import FlowStart, StreamData
from mos.testing import merge, tcp, udp


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


def test_a_transition_that_lost_its_place_is_made_again():
    """More transitions than find places of their own: two in a hundred fall on another's, and none may lead astray."""
    rng, told, wanted = random.Random(1), {}, {}

    def handler(number):
        @on(StreamData, attached=False)
        def tell(ev):
            told.setdefault(ev.flow.id, set()).add(number)
        return tell
    made = [handler(i) for i in range(64)]

    @on(FlowStart)
    def start(ev):
        low, high = rng.sample(range(64), 2)
        ev.flow.attach(made[low])
        ev.flow.attach(made[high])
        wanted[ev.flow.id] = {low, high}
    talks = merge(*[udp(f"10.0.{i >> 8}.{i & 255}:1000", "10.1.0.1:53").send(b"q") for i in range(6000)])
    stats = drive([box(start), box(*made)], talks.packets).stats()
    assert told == wanted
    assert 1000 < stats["bus"]["sets"] <= 1 + 64 + 64 * 63 // 2
