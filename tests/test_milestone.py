"""What opens and closes a connection takes the straight way too, and says what the long way says."""
from hypothesis import given, settings
from hypothesis import strategies as st
from test_predict import same
from test_straight import fed

from mos import DROP, Chain, Engine, on
from mos.events import FlowEnd, TcpStateChange
from mos.testing import tcp


def closing():
    return tcp("10.0.0.1:1", "10.0.0.2:2").send(b"request").reply(b"response").close("server")


def test_the_whole_life_of_a_connection_goes_straight():
    """SYN, SYN-ACK, ACK; four segments and acknowledgements; FIN, ACK of it and FIN, the last ACK."""
    @on(FlowEnd)
    def ended(ev):
        pass
    packets = closing().packets
    assert fed([ended], packets)[1] >= len(packets) - 2     # the first data each way tells something new


def test_states_are_told_in_order():
    seen = []

    @on(TcpStateChange)
    def changed(ev):
        seen.append((ev.side, ev.new))
    packets = closing().packets
    _, straight = fed([changed], packets)
    assert straight >= len(packets) - 2
    assert [new for side, new in seen if side == "client"] == ["SYN_SENT", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK", "CLOSED"]
    assert [new for side, new in seen if side == "server"] == ["SYN_RECEIVED", "ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2",
                                                               "TIME_WAIT"]


def test_a_dropped_milestone_reaches_nobody():
    """The SYN-ACK is dropped once: the client stays where it was until it comes again."""
    dropped = []

    @on(TcpStateChange, where="side == server and new == FIN_WAIT_1")
    def changed(ev):
        dropped.append(ev.packet.number)
        return DROP("once")
    packets = closing().packets
    with Engine(Chain([changed]), truth="inline", safe="off") as engine:
        passed = [engine.feed(frame, ns) for ns, frame in packets]
    assert [i for i, ok in enumerate(passed, 1) if not ok] == dropped and len(dropped) == 1


@settings(max_examples=200, deadline=None)
@given(data=st.data(), truth=st.sampled_from(["tap", "inline"]), share=st.sampled_from([None, 0, 3]))
def test_as_on_the_long_way(data, truth, share):
    """Connections that open and close in every manner, some segments lost, sent twice or late."""
    c = tcp("10.0.0.1:1", "10.0.0.2:2", isn=data.draw(st.sampled_from([(1, 2), (2**32 - 1, 2**32 - 2)])),
            timestamps=data.draw(st.booleans()))
    steps = st.sampled_from(["send", "reply", "fin client", "fin server", "rst client", "rst server"])
    for step in data.draw(st.lists(steps, max_size=6)):
        if step in ("send", "reply"):
            getattr(c, step)(b"some bytes", ack=data.draw(st.booleans()))
        elif step[:3] == "rst":
            c.rst(step[4:])
        else:
            c.fin(step[4:], ack=data.draw(st.booleans()))
    for _ in range(data.draw(st.integers(0, 3))):
        if len(c.packets) < 2:
            break
        at = data.draw(st.integers(1, len(c.packets) - 1))
        data.draw(st.sampled_from([c.lose, c.duplicate, c.reorder]))(at)
    same(c.packets, share=share, truth=truth, safe="off")
