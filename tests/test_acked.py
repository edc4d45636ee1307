"""StreamData with at="acked": the same bytes, once their receiver has acknowledged them."""
import pytest

from mos import Chain, Engine, UsageError, on
from mos.events import FlowEnd, StreamData
from mos.testing import tcp


def log(conversation, **settings):
    """("seen" | "acked" | "end", packet time, offset, bytes) as they come, of bytes to the server."""
    out = []

    @on(StreamData, where="to_server")
    def seen(ev):
        out.append(("seen", ev.offset, ev.data))

    @on(StreamData, where="to_server", at="acked")
    def acked(ev):
        out.append(("acked", ev.offset, ev.data))

    @on(FlowEnd)
    def end(ev):
        out.append(("end", 0, b""))
    with Engine(Chain([seen, acked, end]), **settings) as engine:
        for ns, frame in conversation.packets:
            engine.feed(frame, ns)
    assert engine.stats()["reassembly"]["bytes"] == 0
    return out


def both():
    return tcp("10.0.0.1:1234", "10.0.0.2:80")


def test_bytes_wait_for_their_ack():
    assert log(both().send(b"abc", ack=False).send(b"def", ack=False).ack()) == [
        ("seen", 0, b"abc"), ("seen", 3, b"def"), ("acked", 0, b"abc"), ("acked", 3, b"def"), ("end", 0, b"")]


def test_an_ack_in_the_middle_confirms_its_part():
    c = both().send(b"abcdef", ack=False).segment("server", ack=4).ack()
    assert [x for x in log(c) if x[0] == "acked"] == [("acked", 0, b"abc"), ("acked", 3, b"def")]


def test_bytes_nobody_acknowledged_are_not_confirmed():
    assert log(both().send(b"abc", ack=False)) == [("seen", 0, b"abc"), ("end", 0, b"")]


def test_one_sided_captures_are_handed_out_at_the_end():
    c = both().send(b"abc").send(b"def").lose(lambda p: p.side == "server")
    assert log(c)[-3:] == [("acked", 0, b"abc"), ("acked", 3, b"def"), ("end", 0, b"")]


def test_reordered_bytes_come_in_order():
    c = both().send(b"abc", ack=False).send(b"def", ack=False).reorder(4).ack()
    assert [x[2] for x in log(c) if x[0] == "acked"] == [b"abc", b"def"]


def test_the_wait_is_bounded():
    c = both()
    for _ in range(8):
        c.send(b"x" * 1000, ack=False)
    out = log(c, limits={"bytes": 3000})
    assert sum(len(x[2]) for x in out if x[0] == "acked") == 5000


def test_only_stream_events_can_be_acked():
    with pytest.raises(UsageError):
        on(FlowEnd, at="acked")
