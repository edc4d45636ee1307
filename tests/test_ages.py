"""Flows in the order of their last packets."""
import random

import pytest

from mos import Chain, Engine, on
from mos.events import FlowEnd
from mos.testing import udp

SECOND = 10**9


def talk(flows, ns):
    """Each flow's first packet, then another of many of them in any order; `ns` between two packets."""
    draw = random.Random(flows)
    frame = bytearray(udp("10.0.0.1:1", "10.0.0.2:2").send(b"x").packets[0][1])
    frame[40:42] = bytes(2)
    second = [i for i in range(flows) if draw.random() < 0.7]
    draw.shuffle(second)
    for n, i in enumerate([*range(flows), *second]):
        frame[26:30] = (i + 10 * 2**24).to_bytes(4, "big")
        yield 10**18 + n * ns, bytes(frame)


@pytest.mark.parametrize("flows, ns", [(0, 1), (1, 1), (5000, 0), (5000, 1), (5000, 1000), (300_000, 20),
                                       (5000, SECOND // 100_000)])
def test_all_are_gone_through_in_order(flows, ns):
    ended = []

    @on(FlowEnd)
    def end(ev):
        ended.append((ev.flow.last_ns, ev.flow.id))
    with Engine(Chain([end]), checksum="off") as engine:
        engine.run(talk(flows, ns))
        listed = [(flow.last_ns, flow.id) for flow in engine.flows()]
    assert len(listed) == flows and listed == sorted(listed) == ended
