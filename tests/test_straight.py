"""The straight way of predicted segments. That it says what the long way says: test_predict.py."""
from mos import DROP, Chain, Engine, on
from mos.events import StreamData
from mos.testing import tcp


def exchange():
    c = tcp("10.0.0.1:1", "10.0.0.2:2")
    for _ in range(10):
        c.send(b"request").reply(b"response")
    return c


def fed(handlers, packets, **how):
    with Engine(Chain(handlers), **how) as engine:
        passed = [engine.feed(frame, ns) for ns, frame in packets]
    return passed, engine.stats()["stages"]["predicted"]


def test_an_ordinary_exchange_goes_straight_unless_it_must_not():
    """Ten requests and responses, each acknowledged: only the first two segments after the handshake tell something new."""
    @on(StreamData)
    def data(ev):
        pass

    @on(StreamData, at="receiver")
    def later(ev):
        pass
    assert fed([data], exchange().packets)[1] >= 36
    assert fed([data], exchange().packets, truth="inline", safe="on")[1] >= 36
    assert fed([data], exchange().packets, shortcuts=False)[1] == 0
    assert fed([data, later], exchange().packets)[1] == 0


def test_what_is_dropped_on_it_is_delivered_again():
    seen = []

    @on(StreamData, where="to_server")
    def data(ev):
        seen.append((ev.offset, ev.redelivered))
        if ev.offset == 14 and not ev.redelivered:
            return DROP("once")
    c = tcp("10.0.0.1:1", "10.0.0.2:2")
    for _ in range(3):
        c.send(b"request", ack=False)
    passed, straight = fed([data], c.retransmit(6).send(b"request").packets, truth="inline", safe="off")
    assert seen == [(0, False), (7, False), (14, False), (14, True), (21, False)] and straight >= 3
    assert passed == [True] * 5 + [False] + [True] * 3
