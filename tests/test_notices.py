"""Inline, a segment beyond a cap: who listens is told which, then it is dropped."""
import pytest
from events import play

from mos import DROP, Chain, Engine, on
from mos.events import StreamData
from mos.testing import tcp


@pytest.mark.parametrize("safe", ["auto", "off"])
@pytest.mark.parametrize("limits,cause", [({"bytes": 1500}, "bytes"), ({"segments": 1}, "segments"),
                                          ({"global": 1600}, "global_bytes")])
def test_a_cap_is_told_before_its_segment_is_dropped(limits, cause, safe):
    c = tcp("10.0.0.1:1234", "10.0.0.2:80", mss=1000).send(b"a" * 4000, ack=False).lose(4)
    log = play(c, truth="inline", limits=limits, safe=safe)
    assert log.of("CapReached") == [f"CapReached {cause}"] * 2 and log.stats["caps"] == {cause: 2}
    assert log.stats["dropped"] == {"cap": 2}
    assert log.stats["packets_in"] == log.stats["forwarded"] + log.stats["consumed"] + 2


def filled(queued, refuse, resends):
    """A hole, `queued` segments of a byte behind it, and what fills it again and again; `refuse` answers for a piece of data.

    Calls of the handler, those while it refused, and the counters.
    """
    c = tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"f", ack=False)
    for _ in range(queued):
        c.send(b"q", ack=False)
    *opening, fill = c.packets[:4]
    queue, calls = c.packets[4:], []

    @on(StreamData)
    def data(ev):
        calls.append((ev.offset, ev.redelivered))
        if len(calls) < limit[0] and refuse(ev):
            return DROP("not yet")
    limit = [1 << 30]
    with Engine(Chain([data]), truth="tap", safe="off") as engine:
        now = 0
        for _, frame in [*opening, *queue, *[fill] * resends]:
            now += 1000
            engine.feed(frame, now)
        before, limit[0] = len(calls), 0
        for _ in range(2 * queued):
            now += 1000
            engine.feed(fill[1], now)
    return calls, before, engine.stats()


def test_a_refused_queue_is_offered_again_as_often_as_packets_earn():
    queued = 100
    resends, at_first = 6000, 1 << 13
    calls, before, stats = filled(queued, lambda ev: ev.offset == queued, resends)
    assert at_first + resends < before < at_first + 2.1 * (resends + queued)
    assert [offset for offset, _ in calls[-queued - 1:]] == list(range(queued + 1))     # once it relents, all comes, in order
    assert stats["dropped"]["cap"] == stats["caps"]["segments"] > resends / 2


def test_what_a_dropped_packet_would_let_in_is_not_asked_about():
    calls, before, _ = filled(100, lambda ev: ev.offset == 0, 50)
    assert {offset for offset, _ in calls[:before]} == {0}
    assert [offset for offset, _ in calls[before:]] == list(range(101)) and not any(again for _, again in calls[before + 1:])
