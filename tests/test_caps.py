"""Each bound met once, by packets or by what they make a handler do: counted, told, and an established flow goes on."""
import pytest
from boxes import assert_balanced

from mos import Chain, Engine, on
from mos.events import CapReached, FlowEnd, FlowStart, Retransmission, StreamData
from mos.events.spec import CAPS
from mos.testing import tcp, udp

SAID = b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"


def many(n):
    """SYNs of `n` flows."""
    for i in range(n):
        yield from tcp(f"10.1.0.1:{1000 + i}", "10.0.0.2:80").packets[:1]


def far(count, step=2, length=1, base=1):
    """An open connection and `count` segments of the client with holes before them."""
    c = tcp("10.1.0.1:1000", "10.0.0.2:80")
    for i in range(count):
        c.segment("client", b"x" * length, offset=base + i * step, seq=base + i * step + 1)
    return c.packets


def domains():
    for i in range(65_600):
        yield from udp("10.1.0.1:1", "10.0.0.2:53", vlan=(1 + i % 4000, 1 + i // 4000)).send(b"x").packets


def questions(n):
    c = udp("10.1.0.1:1", "10.0.0.2:5353")
    for _ in range(n):
        c.send(b"?")
    return c.packets


ARRANGED = {
    "flows": (lambda: many(20), dict(max_flows=8), 13),
    "segments": (lambda: far(12), dict(limits={"segments": 8}), 4),
    "bytes": (lambda: far(12, step=200, length=100), dict(limits={"bytes": 900}), 3),
    "global_bytes": (lambda: far(30, step=300, length=250), dict(limits={"global": 4000}), None),
    "doubtful": (lambda: far(70, base=100_000), {}, 6),
    "fragments": (lambda: udp("10.1.0.1:1", "10.0.0.2:53").send(b"x" * 3000).fragment(1, 8).packets, {}, 1),
    "timers": (lambda: questions(4100), {}, 4),
    "sets": (lambda: questions(3), dict(limits={"sets": 2}), 3),
    "domains": (domains, {}, 65_600 - 65_536),
    "retained": (lambda: far(5, step=4, length=4, base=0), dict(truth="inline", limits={"retained": 10}), 1),
}


@pytest.mark.parametrize("cause", CAPS)
def test_a_bound_is_counted_and_told_and_an_established_flow_survives(cause):
    packets, settings, times = ARRANGED[cause]
    told, said, ends, refused = [], [b"", b""], [], []

    @on(CapReached)
    def cap(ev):
        told.append(ev.cause)

    @on(StreamData, where="server_port == 8080")
    def data(ev):
        said[not ev.to_server] += ev.data

    @on(FlowEnd, where="server_port == 8080")
    def end(ev):
        ends.append(ev.reason)

    @on(Retransmission, attached=False)
    def a(ev):
        pass

    @on(Retransmission, attached=False)
    def b(ev):
        pass

    @on(StreamData, where="server_port == 5353")
    def ask(ev):
        done = ev.flow.timer(1000) if cause == "timers" else ev.flow.attach(a) and ev.flow.attach(b)
        refused.append(not done)
    victim = tcp("10.0.0.9:999", "10.0.0.2:8080").send(SAID[0]).reply(SAID[1]).close().packets
    with Engine(Chain([cap, data, end, a, b, ask]), **settings) as engine:
        for ns, frame in [*victim[:4], *packets(), *victim[4:]]:
            engine.feed(frame, ns)
    stats = engine.stats()
    assert set(told) == {cause} and stats["caps"] == {cause: stats["caps"][cause]}
    assert stats["caps"][cause] >= len(told) > 0 and times in (None, stats["caps"][cause])
    assert sum(refused) == (times if cause in ("timers", "sets") else 0)
    assert said == list(SAID) and ends == ["fin"]
    assert_balanced(stats)


def test_every_cause_is_arranged():
    assert list(ARRANGED) == list(CAPS)


def test_inline_a_segment_beyond_the_bound_is_dropped_and_told_once():
    told = []

    @on(CapReached)
    def cap(ev):
        told.append((ev.cause, ev.flow.client_port, ev.packet.number))

    @on(StreamData)
    def data(ev):
        pass
    with Engine(Chain([cap, data]), truth="inline", safe="off", limits={"segments": 8}) as engine:
        passed = [engine.feed(frame, ns) for ns, frame in far(9)]
    assert passed == [True] * 11 + [False] and told == [("segments", 1000, 12)]
    assert engine.stats()["caps"] == {"segments": 1}


def test_bytes_that_wait_for_an_ack_are_handed_out_beyond_the_bound():
    out = []

    @on(StreamData, at="acked", where="to_server")
    def data(ev):
        out.append(ev.data)
    c = tcp("10.1.0.1:1000", "10.0.0.2:80")
    for _ in range(12):
        c.send(b"ab", ack=False)
    with Engine(Chain([data]), limits={"segments": 8}) as engine:
        for ns, frame in c.packets:
            engine.feed(frame, ns)
        assert out == [b"ab"] * 4 and engine.stats()["caps"] == {"segments": 4}


def test_a_handler_that_meets_a_bound_at_a_flows_start_hears_of_it_with_the_same_packet():
    log = []

    @on(FlowStart)
    def start(ev):
        for _ in range(4098):
            ev.flow.timer(1000)

    @on(CapReached)
    def cap(ev):
        log.append((ev.cause, ev.packet.number))
    with Engine(Chain([start, cap])) as engine:
        for ns, frame in questions(2):
            engine.feed(frame, ns)
    assert log == [("timers", 1)] and engine.stats()["caps"] == {"timers": 2}
