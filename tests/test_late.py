"""Segments sent again or late take the straight way: all is as on the long way."""
from random import Random

import pytest
from boxes import outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from test_predict import TRUTHS
from test_straight import fed

from mos import DROP, FlowVar, on
from mos.events import FlowEnd, OutOfOrder, OverlapConflict, Retransmission, StreamData, StreamGap, TcpEvent
from mos.testing import tcp

asked = FlowVar(int)


def told(packets, drop, shortcuts, conflicts=False, **how):
    """Log, what left, counters, and what handlers saw. `drop`: one of so many answers is DROP; 0: none."""
    seen = []

    def answer(ev):
        asked[ev.flow] += 1
        seen.append((type(ev).__name__, ev.offset, ev.length, asked[ev.flow], ev.flow.server_side.packets))
        return DROP("in turn") if drop and len(seen) % drop == 0 else None
    handlers = [on(kind)(lambda ev: answer(ev)) for kind in (OutOfOrder, Retransmission, StreamData)]
    handlers += [on(kind)(lambda ev: None) for kind in (StreamGap, TcpEvent, FlowEnd)]
    if conflicts:
        handlers.append(on(OverlapConflict)(lambda ev: seen.append((ev.offset, ev.old, ev.new)) or None))
    return *outcome(handlers, packets, shortcuts=shortcuts, **how), seen


def behind(places, size=10, gap=1):
    """A connection whose server says the segments of these numbers behind a hole of `gap` bytes."""
    c = tcp("10.0.0.1:1", "10.0.0.2:2").send(b"request").reply(b"response")
    start = len(c.sent("server")) + gap
    for n in places:
        c.segment("server", bytes([n % 251]) * size, offset=start + n * size)
    return c


@pytest.mark.parametrize("what", ["again", "between", "delivered"])
def test_what_comes_again_or_late_goes_straight(what):
    """Thirty segments behind a hole, each again; each second one first and then the others; thirty in order, each again."""
    @on(StreamData)
    def data(ev):
        pass
    order = [*range(0, 30, 2), *range(1, 30, 2)] if what == "between" else [n for n in range(30) for _ in range(2)]
    packets = behind(order, gap=what != "delivered").packets
    straight = fed([data], packets)[1]
    assert straight >= len(packets) - 4
    assert fed([data], packets, truth="inline", safe="off")[1] == straight
    assert fed([data], packets, shortcuts=False)[1] == 0
    assert told(packets, 0, True) == told(packets, 0, False)


@pytest.mark.parametrize("limits", [{"segments": 64}, {"bytes": 100_000}, {"global": 1 << 17}])
def test_what_has_no_room_is_given_up_as_on_the_long_way(limits):
    draw = Random(5)
    packets = behind([draw.randrange(150) for _ in range(400)], size=1400).packets
    for truth in TRUTHS.values():
        assert told(packets, 0, True, limits=limits, **truth) == told(packets, 0, False, limits=limits, **truth)


@settings(max_examples=250, deadline=None)
@given(seed=st.integers(0, 2**32), drop=st.sampled_from([0, 0, 3, 7]), truth=st.sampled_from(sorted(TRUTHS)),
       policy=st.sampled_from(["first", "last", "linux", "bsd", "windows", "solaris"]), conflicts=st.booleans())
def test_as_on_the_long_way(seed, drop, truth, policy, conflicts):
    """Segments of other bytes at places drawn from a few, some overlapping, some delivered long ago; ACKs, silence, windows."""
    draw = Random(seed)
    c = tcp("10.0.0.1:1", "10.0.0.2:2", isn=draw.choice([(1, 2), (2**32 - 30, 2**32 - 60)]), timestamps=draw.random() < 0.3)
    c.send(b"request").reply(b"response")
    start, size, places = len(c.sent("server")), draw.choice([1, 10, 1400]), draw.randrange(2, 40)
    for _ in range(draw.randrange(80)):
        at = draw.randrange(places) * size + draw.choice([0, 0, 0, 0, size // 2])
        c.segment("server", draw.randbytes(size + draw.choice([0, 0, 0, 0, size // 2, 3 * size])), offset=start + at)
        if draw.random() < 0.1:
            c.segment("client", b"x" * draw.choice([0, 5]), ack=1 + start + draw.randrange(places) * size * draw.choice([0, 0, 1]),
                      wnd=draw.choice([65535, 65535, 9000, 0]))
        if draw.random() < 0.02:
            c.wait(draw.choice([2, 400]))
    if draw.random() < 0.5:
        c.close(draw.choice(["client", "server"]))
    how = {**TRUTHS[truth], "overlap": policy, "limits": {"segments": draw.choice([64, 4096])}}
    assert told(c.packets, drop, True, conflicts, **how) == told(c.packets, drop, False, conflicts, **how)
