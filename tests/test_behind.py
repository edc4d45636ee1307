"""Segments behind a hole, and the ACKs that say again where it is, take the straight way: all is as on the long way."""
from random import Random

import pytest
from boxes import outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from test_predict import TRUTHS
from test_straight import fed

from mos import DROP, Chain, Engine, FlowVar, on
from mos.events import DuplicateAck, FlowEnd, OutOfOrder, StreamData, StreamGap, TcpEvent
from mos.testing import tcp

asked = FlowVar(int)


def transfer(order, size=10, **how):
    """The server sends segments by number in `order`, the client says after each what it has without a hole."""
    c = tcp("10.0.0.1:1", "10.0.0.2:2", **how).send(b"request").reply(b"response")
    start, have = len(c.sent("server")), set()
    for n in order:
        c.segment("server", bytes([n % 251]) * size, offset=start + n * size)
        have.add(n)
        whole = next(i for i in range(len(order) + 1) if i not in have)
        c.segment("client", ack=1 + start + whole * size)
    return c


def told(packets, drop, shortcuts, **how):
    """Log, what left, and counters. `drop`: one of so many answers about order, about ACKs and about data is DROP; 0: none."""
    seen = []

    def answer(ev):
        asked[ev.flow] += 1
        seen.append((type(ev).__name__, asked[ev.flow], ev.flow.server_side.packets))
        return DROP("in turn") if drop and len(seen) % drop == 0 else None
    handlers = [on(kind)(lambda ev: answer(ev)) for kind in (OutOfOrder, DuplicateAck, StreamData)]
    handlers += [on(kind)(lambda ev: None) for kind in (StreamGap, TcpEvent, FlowEnd)]
    return *outcome(handlers, packets, shortcuts=shortcuts, **how), seen


def test_a_lost_segment_leaves_the_rest_on_the_straight_way():
    """Of 40 segments the third comes last: 37 are queued, as many ACKs say the same; only the late one goes the long way."""
    @on(StreamData)
    def data(ev):
        pass
    order = [0, 1, *range(3, 40), 2]
    packets = transfer(order).packets
    straight = fed([data], packets)[1]
    assert straight >= len(packets) - 4
    assert fed([data], packets, truth="inline", safe="off")[1] == straight
    assert fed([data], packets, truth="inline", safe="on")[1] < straight - 30     # they do not leave as they came
    assert fed([data], packets, shortcuts=False)[1] == 0


@pytest.mark.parametrize("limits", [{"segments": 64}, {"bytes": 200_000}, {"global": 1 << 18}])
def test_what_has_no_room_is_given_up_as_on_the_long_way(limits):
    packets = transfer([0, *range(2, 250), 1], size=1400).packets
    for truth in TRUTHS.values():
        assert told(packets, 0, True, limits=limits, **truth) == told(packets, 0, False, limits=limits, **truth)


@pytest.mark.parametrize("first", [100, 299.98])
def test_a_hole_that_is_old_is_given_up_by_the_next_segment(tmp_path, first):
    """Which may be the very packet that makes it five minutes, and go express: with a log none would."""
    c = transfer([0, 2, 3])
    for _ in range(10):
        c.wait(first / 10).segment("client", b"request", ack=19)     # of the hole it says nothing
    c.wait(300 - first)
    c.segment("server", b"later", offset=100)
    c.segment("server", b"again", offset=105)
    c.pcap(tmp_path / "in.pcap")

    def gaps(run, **how):
        seen = []
        handlers = [on(kind)(lambda ev: seen.append((type(ev).__name__, ev.offset, ev.time))) for kind in (StreamData, StreamGap)]
        with Engine(Chain(handlers), **how) as engine:
            if run:
                engine.run(tmp_path / "in.pcap")
            else:
                for ns, frame in c.packets:
                    engine.feed(frame, ns)
        return seen
    late = c.packets[-2][0]
    assert [name for name, _, ns in gaps(True) if ns == late] == ["StreamGap", "StreamData", "StreamData"]
    assert gaps(True) == gaps(False) == gaps(True, shortcuts=False)


@settings(max_examples=250, deadline=None)
@given(seed=st.integers(0, 2**32), drop=st.sampled_from([0, 0, 3, 7]), truth=st.sampled_from(sorted(TRUTHS)))
def test_as_on_the_long_way(seed, drop, truth):
    """Transfers with segments late, twice, lost or overlapping, windows that move, requests in between, bytes nobody saw."""
    draw = Random(seed)
    c = tcp("10.0.0.1:1", "10.0.0.2:2", isn=draw.choice([(1, 2), (2**32 - 30, 2**32 - 60)]), timestamps=draw.random() < 0.3,
            handshake=draw.random() < 0.9)
    if not c.packets:
        c.end["client"].next = c.end["server"].next = 1
    if draw.random() < 0.9:
        c.send(b"request").reply(b"response")
    start, size, have, late = len(c.sent("server")), draw.choice([1, 10, 1400]), set(), []
    n = draw.randrange(2, 40)
    for i in range(n):
        places = [i] + [late.pop(draw.randrange(len(late))) for _ in late[:1] if draw.random() < 0.2]
        if draw.random() < 0.2:
            late.append(places.pop(0))
        for at in places:
            c.segment("server", bytes([at]) * (size + draw.choice([0, 0, 0, size // 2])), offset=start + at * size)
            have.add(at)
            if draw.random() < 0.1:
                c.segment("server", bytes([at]) * size, offset=start + at * size)
        whole = next(k for k in range(n + 1) if k not in have)
        if draw.random() < 0.6:
            known = start + whole * size if draw.random() < 0.95 else draw.randrange(start + n * size)
            last = start + max(have, default=0) * size
            c.segment("client", b"x" * draw.choice([0, 0, 0, 5]), ack=1 + known, wnd=draw.choice([65535, 65535, 65535, 9000, 0]),
                      sack=[(last, last + size)] * draw.choice([0, 0, 1]))
        if draw.random() < 0.02:
            c.wait(draw.choice([2, 400]))
    if draw.random() < 0.5:
        c.close(draw.choice(["client", "server"]))
    how = {**TRUTHS[truth], "limits": {"segments": draw.choice([64, 4096])}}
    assert told(c.packets, drop, True, **how) == told(c.packets, drop, False, **how)
