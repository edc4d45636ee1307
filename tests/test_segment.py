"""A segment's way through its flow: what is delivered, given up, dropped and offered again."""
import pytest
from events import play
from hypothesis import given, settings
from hypothesis import strategies as st

from mos import DROP, DROP_FLOW, FlowVar, events
from mos.events import on
from mos.testing import tcp
from mos.testing.conversation import START_NS

A, B = "10.0.0.1:1234", "10.0.0.2:80"
TRUTHS = ["tap", "inline"]


def conn(**options):
    return tcp(A, B, **options)


def unopened(**options):
    return tcp(A, B, handshake=False, **options)


def stream(conversation, **options):
    """Lines of data and gaps."""
    return play(conversation, **options).of("StreamData", "StreamGap", "OverlapConflict", "FlowEnd")


START, FIN, OPEN = ["FlowStart", "FlowEstablished"], ["FlowEnd fin"], ["FlowEnd shutdown"]

BOTH = {
    "data both ways": (lambda: conn().send(b"a" * 1500).reply(b"b" * 10).close(),
                       ["StreamData > 0+1460", "StreamData > 1460+40", "StreamData < 0+10"] + FIN),
    "data with the FIN": (lambda: conn().segment("client", b"bye", flags="FPA").ack().close("server"),
                          ["StreamData > 0+3"] + FIN),
    "FIN before its data": (lambda: conn().send(b"abc", ack=False).fin(ack=False).lose(4, resend=True).ack().close("server"),
                            ["StreamData > 0+3"] + FIN),
    "data after the peer's FIN": (lambda: conn().fin().reply(b"x" * 2000).close("server"),
                                  ["StreamData < 0+1460", "StreamData < 1460+540"] + FIN),
    "disorder": (lambda: conn().send(b"a" * 4000, ack=False).reorder(4, by=2).ack(),
                 ["StreamData > 0+1460", "StreamData > 1460+1460", "StreamData > 2920+1080"] + OPEN),
    "a copy says nothing new": (lambda: conn().send(b"abc").retransmit(4).retransmit(4), ["StreamData > 0+3"] + OPEN),
    "other bytes lose to delivered ones": (
        lambda: conn().send(b"abcdef", ack=False).overlap(4, b"XXXX", shift=1).ack(),
        ["StreamData > 0+6", "OverlapConflict > 1+4"] + OPEN),
    "the urgent pointer leaves bytes in band": (lambda: conn().segment("client", b"abcdef", urg=3).ack(),
                                                ["StreamData > 0+6"] + OPEN),
    "a keep-alive with one byte": (lambda: conn().send(b"ab").segment("client", b"X", offset=1).ack(),
                                   ["StreamData > 0+2", "OverlapConflict > 1+1"] + OPEN),
    "data on a RST is no stream data": (lambda: conn().send(b"a").segment("server", b"no reason", flags="RA"),
                                        ["StreamData > 0+1", "FlowEnd rst_server"]),
    "segments in flight after a RST": (lambda: conn().send(b"a").rst("server").segment("client", b"b"),
                                       ["StreamData > 0+1", "FlowEnd rst_server"]),
    "late copies in TIME-WAIT": (lambda: conn().send(b"abc").close().retransmit(4).retransmit(-2), ["StreamData > 0+3"] + FIN),
}


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("case", BOTH)
def test_stream(case, truth):
    conversation, want = BOTH[case]
    assert stream(conversation(), truth=truth) == want


DIFFER = {
    "SYN data accepted": (lambda: unopened().syn_data(b"hello").reply(b"x"),
                          ["StreamData > 0+5 doubtful", "StreamData < 0+1"], ["StreamData > 0+5", "StreamData < 0+1"]),
    "SYN data refused": (lambda: unopened().syn_data(b"hello", accepted=False).send(b"more"),
                         ["StreamData > 0+5", "StreamData > 5+4"],
                         ["StreamData > 0+5", "StreamData > 0+5 redelivered", "StreamData > 5+4"]),
    "SYN-ACK data": (lambda: unopened().syn().syn("server", b"hello").ack("client"),
                     ["StreamData < 0+5 doubtful"], ["StreamData < 0+5"]),
    "gap, acknowledged": (
        lambda: conn().send(b"abc", ack=False).send(b"def", ack=False).lose(4).ack().wait(2).send(b"ghi"),
        ["StreamGap > acked 0+3", "StreamData > 3+3", "StreamData > 6+3"],
        ["StreamGap > close 0+3", "StreamData > 3+3", "StreamData > 6+3"]),
    "gap, age": (lambda: conn().send(b"a", ack=False).send(b"b", ack=False).lose(4).wait(301).send(b"c", ack=False),
                 ["StreamGap > age 0+1", "StreamData > 1+1", "StreamData > 2+1"],
                 ["StreamGap > close 0+1", "StreamData > 1+1", "StreamData > 2+1"]),
    "gap, the tap missed the only copy and the data after it": (
        lambda: conn().send(b"abc").send(b"def").lose([4, 6]).wait(2).ack().send(b"g"),
        ["StreamGap > acked 0+6", "StreamData > 6+1"], ["StreamGap > close 0+6", "StreamData > 6+1"]),
}


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("case", DIFFER)
def test_stream_where_tap_and_inline_differ(case, truth):
    conversation, *want = DIFFER[case]
    assert stream(conversation(), truth=truth) == want[TRUTHS.index(truth)] + OPEN


def test_refused_syn_data_sent_again_with_other_bytes_is_what_the_server_gets():
    c = unopened().syn("client", b"innocent")
    c.end["client"].next = 1
    c.syn("server").segment("client", b"ATTACK!!")
    c.ack()
    for truth in TRUTHS:
        assert play(c, truth=truth).streams[1, ">"].endswith(b"ATTACK!!")
    assert play(c, truth="tap").streams[1, ">"] == b"ATTACK!!"


def test_an_acknowledged_hole_is_given_a_second_to_fill():
    """A capture from several queues may show the ACK before its data."""
    c = conn().send(b"abc").reorder(4).send(b"def")
    assert stream(c) == ["StreamData > 0+3", "StreamData > 3+3"] + OPEN


def test_missing_bytes_at_the_close():
    c = conn().send(b"abc", ack=False).send(b"def", ack=False).send(b"ghi", ack=False).lose(5).lose(4)
    assert stream(c) == ["StreamGap > close 0+6", "StreamData > 6+3"] + OPEN
    tail = conn().send(b"abc").send(b"def", ack=False).fin(ack=False).lose(6).ack().close("server")
    assert stream(tail) == ["StreamData > 0+3", "StreamGap > close 3+3"] + FIN


@pytest.mark.parametrize("limits", [{"bytes": 4000}, {"segments": 2}, {"global": 4600}])
def test_a_full_queue(limits):
    """A tap gives the hole up; inline the segment is dropped, so that TCP sends it again."""
    c = conn(mss=1000).send(b"a" * 1000, ack=False).send(b"b" * 6000, ack=False).lose(4)
    got = stream(c, limits=limits)
    assert got[0] == "StreamGap > cap 0+1000" and got[1:-1] == [f"StreamData > {i}000+1000" for i in range(1, 7)]
    log = play(c, truth="inline", limits=limits)
    assert log.stats["dropped"] and not log.of("StreamGap")[1:]
    assert log.stats["reassembly"]["bytes"] == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_order_of_arrival_gives_the_stream(data):
    stream = bytes(range(256)) * 12
    c = conn(mss=200).send(stream, ack=False)
    for n in data.draw(st.lists(st.integers(4, len(c)), max_size=6)):
        c.retransmit(n)
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(stream) - 1))
        c.segment("client", stream[start:start + data.draw(st.integers(1, 900))], offset=start)
    c.shuffle(data.draw(st.integers(0, 1 << 32))).ack().close()
    for truth in TRUTHS:
        log = play(c, truth=truth)
        assert log.streams[1, ">"] == stream
        assert not log.of("StreamGap", "OverlapConflict") and log[-1] == "FlowEnd fin"
        assert log.stats["reassembly"]["bytes"] == 0


def dropper(times, where="length > 0"):
    """Drops the first `times` deliveries."""
    left = [times]

    @on(events.StreamData, where=where)
    def drop(ev):
        if left[0]:
            left[0] -= 1
            return DROP("once more")
    return drop


def test_dropped_bytes_are_offered_again():
    """The receiver does not have them (mOS B12), so the retransmission delivers them, flagged."""
    c = conn().send(b"abc", ack=False).retransmit(4).retransmit(4).ack().send(b"def")
    log = play(c, truth="inline", also=[dropper(1)])
    assert log.of("StreamData") == ["StreamData > 0+3", "StreamData > 0+3 redelivered", "StreamData > 3+3"]
    assert log.stats["dropped"] == {"drop": 1} and log.stats["forwarded"] == log.stats["packets_in"] - 1


def test_a_drop_leaves_the_receiver_alone_and_holds_back_what_follows():
    c = conn().send(b"abc", ack=False).send(b"def", ack=False).retransmit(4).ack()
    log = play(c, truth="inline", also=[dropper(1)])
    assert log.of("StreamData", "OutOfOrder") == [
        "StreamData > 0+3", "OutOfOrder > 3+3", "StreamData > 0+3 redelivered", "StreamData > 3+3"]


def test_a_retransmission_cut_differently_is_flagged_as_far_as_it_was_offered():
    c = conn().send(b"abcd", ack=False).overlap(4, b"ab").overlap(4, b"cdef", shift=2)
    log = play(c, truth="inline", also=[dropper(1)])
    assert log.of("StreamData")[:2] == ["StreamData > 0+4", "StreamData > 0+2 redelivered"]
    assert log.streams[1, ">"] == b"abcd" + b"ab" + b"cdef"


def test_a_dropped_fin_does_not_close():
    @on(events.PacketIn, where="fin and to_server")
    def drop(ev):
        if ev.packet.number == 4:
            return DROP
    log = play(conn().fin(ack=False).send(b""), events.TcpStateChange, truth="inline", also=[drop])
    assert "TcpStateChange server ESTABLISHED>CLOSE_WAIT" not in log
    again = play(conn().fin(ack=False).retransmit(-1), events.TcpStateChange, truth="inline", also=[drop])
    assert "TcpStateChange server ESTABLISHED>CLOSE_WAIT" in again


def test_a_dropped_syn_and_rst_do_nothing_to_their_receiver():
    @on(events.PacketIn, where="rst or syn and not ack")
    def drop(ev):
        return DROP
    log = play(unopened().syn(), events.TcpStateChange, truth="inline", also=[drop])
    assert log == ["TcpStateChange client CLOSED>SYN_SENT"]

    @on(events.PacketIn, where="rst")
    def no_rst(ev):
        return DROP
    log = play(conn().send(b"a").rst().send(b"b"), truth="inline", also=[no_rst])
    assert log.of("StreamData", "FlowEnd") == ["StreamData > 0+1", "StreamData > 1+1", "FlowEnd shutdown"]


def test_a_drop_is_seen_by_the_handler_of_the_next_packet():
    """Nothing runs ahead of the handlers, not even within a batch."""
    seen = []

    @on(events.PacketIn)
    def watch(ev):
        seen.append((ev.flow.server_side.state, ev.flow.client_side.stream_bytes))
    first = [True]

    @on(events.StreamData)
    def drop(ev):
        if first.pop() if first else False:
            return DROP
    c = conn().send(b"abc", ack=False).retransmit(4).ack()
    play(c, truth="inline", before=[watch], also=[drop])
    assert [n for _, n in seen] == [0, 0, 0, 0, 0, 3]


tries = FlowVar(int)


def test_a_drop_takes_the_slots_back():
    counted = []

    @on(events.StreamData)
    def count(ev):
        tries[ev.flow] += 1
        counted.append(tries[ev.flow])
    play(conn().send(b"abc", ack=False).retransmit(4).ack().send(b"d"), truth="inline", before=[count], also=[dropper(1)])
    assert counted == [1, 1, 2]


def test_drop_flow_ends_everything_and_says_so():
    @on(events.StreamData)
    def stop(ev):
        return DROP_FLOW("enough")
    log = play(conn().send(b"a").send(b"b").close(), truth="inline", also=[stop])
    assert log.of("StreamData") == ["StreamData > 0+1"]
    assert len(log.of("FlowEnd")) == 1
    assert log.stats["forwarded"] == 3


def later(seconds=1, **options):
    return tcp(A, B, isn=(90_000, 80_000), start_ns=START_NS + seconds * 1_000_000_000, **options).send(b"b")


REUSE = {
    "after FIN": (lambda: conn().send(b"a").close(), "fin"), "after RST": (lambda: conn().send(b"a").rst(), "rst_client"),
    "open": (lambda: conn().send(b"a"), "reused"), "unanswered": (lambda: unopened().syn(), "reused"),
    "half closed": (lambda: conn().send(b"a").fin(), "reused"),
}


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("case", REUSE)
def test_the_next_connection_with_the_same_ends(case, truth):
    conversation, reason = REUSE[case]
    log = play(conversation().packets + later().packets, truth=truth)
    of_first = [x for x in log if not x.startswith("#2")]
    assert of_first[-1] == f"FlowEnd {reason}"
    assert log[-4:] == ["#2 FlowStart", "#2 FlowEstablished", "#2 StreamData > 0+1", "#2 FlowEnd shutdown"]
    assert log.streams[2, ">"] == b"b"


def test_a_reopened_flow_has_its_whole_handshake_in_its_history():
    found = []

    @on(events.FlowEnd)
    def end(ev):
        found.append((ev.flow.history, ev.flow.established, ev.flow.client, ev.flow.midstream))
    play(conn().send(b"a").packets + later().packets, also=[end])
    assert found[1] == ("ShADa", True, "10.0.0.1", False)


@pytest.mark.parametrize("second", [lambda: later(), lambda: tcp("10.0.0.9:9", B, start_ns=START_NS + 1_000_000_000).send(b"b")])
def test_what_is_answered_at_a_flows_end_does_not_hit_the_packet_that_ended_it(second):
    """The bytes behind the last hole were forwarded long ago; the packet in hand is another flow's."""
    @on(events.StreamData, where="client_bytes == 6")
    def drop(ev):
        return DROP_FLOW("too late")
    first = conn().send(b"abc", ack=False).send(b"def", ack=False).send(b"ghi", ack=False).lose(4).fin().fin("server")
    log = play(first.packets + second().packets, also=[drop], max_flows=1)
    assert "StreamData > 3+3" in log and "#2 StreamData > 0+1" in log
    assert log.stats["forwarded"] == log.stats["packets_in"]


def test_what_is_answered_at_a_flows_end_does_not_keep_the_rest_from_others():
    @on(events.StreamData, where="offset >= 3")
    def drop(ev):
        return DROP
    c = conn().send(b"abc", ack=False).send(b"def", ack=False).send(b"ghi", ack=False).lose(4)
    assert play(c, before=[drop]).of("StreamData", "FlowEnd") == ["StreamData > 3+3", "StreamData > 6+3"] + OPEN


PICKUP = {
    "from the data on": (lambda: conn().send(b"abc").close().lose([1, 2, 3]), ["StreamData > 0+3"] + FIN),
    "from the SYN-ACK": (lambda: conn().send(b"abc").close().lose(1), ["StreamData > 0+3"] + FIN),
    "from the server's data": (lambda: conn().reply(b"abc").send(b"x").close().lose([1, 2, 3]),
                               ["StreamData < 0+3", "StreamData > 0+1"] + FIN),
    "from an ACK": (lambda: conn().reply(b"abc").reply(b"def").close().lose([1, 2, 3, 4]), ["StreamData < 0+3"] + FIN),
}


@pytest.mark.parametrize("case", PICKUP)
def test_pickup_mid_stream(case):
    conversation, want = PICKUP[case]
    log = play(conversation())
    assert log[0] == "FlowStart midstream" and "FlowEstablished" not in log
    assert log.of("StreamData", "StreamGap", "FlowEnd") == want


@pytest.mark.parametrize("case", PICKUP)
def test_pickup_of_the_state_alone(case):
    log = play(PICKUP[case][0](), pickup="state")
    assert log[0] == "FlowStart midstream" and not log.of("StreamData", "StreamGap") and log[-1] == "FlowEnd fin"


def test_pickup_off_gives_orphans():
    c = conn().send(b"abc").close().lose([1, 2, 3])
    assert play(c, pickup="off") == ["Orphan no_syn"] * len(c)


def test_a_rst_alone_starts_no_flow():
    assert play(conn().rst().lose([1, 2, 3])) == ["Orphan no_syn"]


def client_of(conversation):
    found = []

    @on(events.FlowStart)
    def start(ev):
        found.append((ev.client, ev.client_port, ev.midstream))
    play(conversation, also=[start])
    return found[0]


@pytest.mark.parametrize("conversation,client", [
    (lambda: conn().reply(b"x").lose([1, 2, 3]), 1234),                                # the lower port serves
    (lambda: tcp("10.0.0.1:80", "10.0.0.2:1234").send(b"x").lose([1, 2, 3]), 1234),
    (lambda: tcp("10.0.0.1:80", "10.0.0.2:1234").lose(1), 80),                         # who sends a SYN-ACK serves
    (lambda: unopened().segment("client", flags="SF"), 1234)])                         # a SYN-FIN scan's sender is the client
def test_who_is_taken_for_the_client(conversation, client):
    assert client_of(conversation())[1] == client


def test_bytes_refused_before_anything_places_them_are_not_kept():
    """Nothing tells yet at which offset they are: kept at 0 they came a second time, when the server's first byte was known."""
    c = conn(handshake=False).segment("client", seq=1, flags="A").segment("server", b"x" * 54, seq=1, ack=200)
    c.segment("server", b"x" * 54, seq=1, ack=200)
    assert stream(c) == ["StreamData < 0+54", "StreamGap > close 0+199"] + OPEN
