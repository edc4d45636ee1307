"""What a receiver refuses, check by check: the Anomaly, and that neither end changes. A tap may learn better."""
import pytest
from events import play, states

from mos.testing import tcp

A, B = "10.0.0.1:1234", "10.0.0.2:80"


def conn(**options):
    return tcp(A, B, **options)


def unopened(**options):
    return tcp(A, B, handshake=False, **options)


def narrow(size=1000, **options):
    """The server offers `size` bytes and no scaling."""
    c = unopened(wscale=None, **options)
    c.end["server"].wnd = size
    return c.handshake()


# Both truths alike: conversation, then the lines between FlowEstablished and FlowEnd.
REFUSED = {
    "RST outside the window": (lambda: conn().rst("server", seq=500_000_000), ["OutOfWindow < rst 499999999+0"]),
    "RST below the window": (lambda: conn().reply(b"abc").rst("server", seq=2),
                             ["StreamData < 0+3", "OutOfWindow < rst 1+0"]),
    "RST in the window, refuted by data": (lambda: conn().rst("server", seq=100).send(b"on"),
                                           ["OutOfWindow < rst 99+0", "StreamData > 0+2"]),
    "RST in the window, refuted by a challenge ACK": (lambda: conn().send(b"a").rst("server", seq=100).ack("client").wait(300),
                                                      ["StreamData > 0+1", "OutOfWindow < rst 99+0"]),
    "SYN in an open connection": (lambda: conn().segment("client", flags="S", seq=5000, options=b"").send(b"on"),
                                  ["OutOfWindow > syn 4999+0", "StreamData > 0+2"]),
    "SYN of the server": (lambda: conn().segment("server", flags="S", seq=5000, options=b"").send(b"on"),
                          ["OutOfWindow < syn 4999+0", "StreamData > 0+2"]),
    "second SYN-ACK, another ISN": (lambda: conn().segment("server", flags="SA", seq=5000).send(b"on"),
                                    ["OutOfWindow < syn 4999+0", "StreamData > 0+2"]),
    "SYN and FIN": (lambda: conn().segment("client", flags="SF", seq=5000), ["OutOfWindow > flags 4999+0"]),
    "ACK of what was never sent": (lambda: conn().segment("server", ack=5000), ["OutOfWindow < ack 0+0"]),
    "ACK from long ago": (lambda: conn().segment("server", ack=-(1 << 21)), ["OutOfWindow < ack 0+0"]),
    "beyond the window": (lambda: narrow().segment("client", b"x" * 10, seq=1001), ["OutOfWindow > window 1000+10"]),
    "other connection's sequence numbers": (lambda: conn().segment("client", b"x", seq=(1 << 30) + 10),
                                            [f"OutOfWindow > window {(1 << 30) + 9}+1"]),
    "no ACK flag": (lambda: conn().segment("client", b"x", flags="P", seq=1), ["OutOfWindow > no_ack 0+1"]),
    "no flag at all": (lambda: conn().segment("client", b"x", flags=0, seq=1), ["OutOfWindow > no_ack 0+1"]),
    "data beyond the FIN": (lambda: conn().fin().segment("client", b"zz", seq=2).reply(b"on"),
                            ["OutOfWindow > after_fin 1+2", "StreamData < 0+2"]),
    "old timestamp": (lambda: conn(timestamps=True).send(b"a").segment("client", b"old", seq=2, ts=(5, 5)).send(b"new"),
                      ["StreamData > 0+1", "OutOfWindow > timestamp 1+3", "StreamData > 1+3"]),
}


@pytest.mark.parametrize("truth", ["tap", "inline"])
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, truth):
    conversation, want = REFUSED[case]
    log = play(conversation(), truth=truth)
    assert log == ["FlowStart", "FlowEstablished", *want, "FlowEnd shutdown"]


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_segment_changes_no_state(case):
    if "FIN" not in case or "SYN" in case:
        assert len(states(REFUSED[case][0]())) == 4      # the handshake's


EDGES = {
    "RST at RCV.NXT": (lambda: conn().reply(b"abc").rst("server"), "rst_server"),
    "RST at RCV.NXT though its window is shut": (lambda: conn().reply(b"a").window(0, "client").rst("server"), "rst_server"),
    "RST at the last ACK sent": (lambda: conn().reply(b"abc", ack=False).rst("server", seq=1), "rst_server"),
    "RST one below": (lambda: conn().reply(b"abc").rst("server", seq=3), "shutdown"),
    "RST one above": (lambda: conn().reply(b"abc").rst("server", seq=5), None),
    "RST above a hole, at RCV.NXT": (lambda: conn().reply(b"abc", ack=False).reply(b"def", ack=False).lose(4).rst("server", seq=1),
                                     "rst_server"),
    "refusal": (lambda: unopened().syn().rst("server", ack=1), "rst_server"),
    "refusal of another SYN": (lambda: unopened().syn().rst("server", ack=9), "shutdown"),
    "client gives up its SYN": (lambda: unopened().syn().rst("client"), "rst_client"),
    "RST one above, then nobody is there": (
        lambda: conn().reply(b"abc").rst("server", seq=5).ack("client").segment("client", flags="R", options=b""), "rst_server"),
    "RST one above, data beyond it, then nobody is there": (
        lambda: conn().reply(b"abc").rst("server", seq=5).reply(b"on and on").segment("client", flags="R", options=b""),
        "rst_client"),
    "RST above a hole that is filled late, then nobody is there": (     # the answer stands where the late segment's ACK does
        lambda: conn().send(b"abc").reply(b"de", ack=False).reply(b"f" * 8, ack=False).reorder(6, by=1)
        .rst("server").reorder(-1, by=-1)
        .segment("client", flags="R", seq=1, options=b""), None),
    "RST one above, then its sender knows of no connection": (      # what was in flight is answered at old numbers
        lambda: conn().reply(b"abc").rst("server", seq=5).ack("client").segment("server", flags="R", seq=2, options=b""), None),
    "RST one above, then a RST of the other's own": (lambda: conn().reply(b"abc").rst("server", seq=5).rst("client"), "rst_client"),
}


@pytest.mark.parametrize("case", EDGES)
def test_where_a_rst_counts(case):
    conversation, want = EDGES[case]
    for truth in ("inline", "tap"):
        reason = play(conversation(), truth=truth)[-1].removeprefix("FlowEnd ")
        assert reason == (want or ("rst_server" if truth == "tap" else "shutdown"))     # in doubt: the tap heard no more


# What proves after a RST in doubt of the server's that both ends live: one has read what the other sent since.
SPOKE_ON = {"the server spoke on": lambda c: c.reply(b"on"), "the client spoke on": lambda c: c.send(b"on")}


@pytest.mark.parametrize("case", SPOKE_ON)
def test_a_refuted_rst_stays_refuted(case):
    """An old RST without ACK is no answer to it any more, so that silence afterwards means nothing."""
    c = SPOKE_ON[case](conn().reply(b"abc").send(b"abc").rst("server", seq=1000))
    c.segment("client", flags="R", seq=2, options=b"").wait(20).send(b"late").reply(b"later").close()
    assert play(c, truth="tap").of("FlowStart", "FlowEnd") == ["FlowStart", "FlowEnd fin"]


def test_a_timestamp_may_be_one_tick_old():
    """As Linux has it (TCP_PAWS_WINDOW): a segment overtaken by one that is a tick younger is still read."""
    def late(tsval):
        return conn(timestamps=True).segment("client", b"a", ts=(200_000, 5)).ack().segment("client", b"b", ts=(tsval, 5))
    for truth in ("inline", "tap"):
        assert play(late(199_999), truth=truth).streams[1, ">"] == b"ab"
        assert play(late(199_998), truth=truth).streams[1, ">"] == b"a"


def test_window_edges_are_exact():
    """[RCV.NXT, RCV.NXT + RCV.WND) may begin data; an empty segment may stand at the edge itself (RFC 9293 3.10.7.4)."""
    inside = play(narrow().segment("client", b"x" * 10, seq=1000), truth="inline")
    assert "OutOfOrder > 999+10" in inside
    assert not play(narrow().segment("client", seq=1001), truth="inline").of("OutOfWindow")
    assert play(narrow().segment("client", seq=1002), truth="inline").of("OutOfWindow") == ["OutOfWindow > window 1001+0"]


def test_a_window_is_never_taken_back():
    """Shrinking is discouraged (RFC 9293 3.8.6): what was offered once may be on its way."""
    c = narrow(1000).window(10).segment("client", b"x" * 10, seq=900)
    assert not play(c, truth="inline").of("OutOfWindow")


def test_a_tap_goes_by_the_highest_ack_it_saw():
    """Data missed by the tap moves the window on all the same."""
    c = narrow(1000).send(b"a" * 900).send(b"b" * 900).lose(4).send(b"c" * 900)
    assert not [x for x in play(c) if x.startswith("OutOfWindow >")]


def test_a_tap_goes_by_the_window_of_an_ack_seen_before_its_data():
    """As from two queues: what the window lets in is no matter for a later ACK, which a RST may forestall."""
    c = narrow(10).segment("client", b"a" * 10).ack().reorder(4, by=1).segment("client", b"b" * 10).rst("server", ack=11)
    assert play(c).of("OutOfWindow", "StreamData") == ["OutOfWindow < ack 0+0", "StreamData > 0+10", "StreamData > 10+10"]


TAKEN = {
    "old timestamp": (lambda: conn(timestamps=True).send(b"a").segment("client", b"old", ts=(5, 5)).ack(),
                      ["StreamData > 0+1", "OutOfWindow > timestamp 1+3", "StreamData > 1+3 doubtful"]),
    "no ACK flag": (lambda: conn().segment("client", b"xy", flags="P").ack(),
                    ["OutOfWindow > no_ack 0+2", "StreamData > 0+2 doubtful"]),
    "beyond the window": (lambda: narrow(10).segment("client", b"x" * 10).segment("client", b"y" * 5).segment("client", b"z" * 5)
                          .ack(),
                          ["StreamData > 0+10", "OutOfWindow > window 10+5", "OutOfWindow > window 15+5",
                           "StreamData > 10+5 doubtful", "StreamData > 15+5 doubtful"]),
    "acknowledged by the RST": (lambda: conn().segment("client", b"xy", flags="P").rst("server"),
                                ["OutOfWindow > no_ack 0+2", "StreamData > 0+2 doubtful"]),
    "in a SACK": (lambda: narrow(10, timestamps=True).segment("client", b"z" * 5, offset=20)
                  .segment("server", sack=[(20, 25)], ack=1)
                  .window(100).segment("client", b"y" * 20, offset=0),
                  ["OutOfWindow > window 20+5", "StreamData > 0+20", "StreamData > 20+5 doubtful"]),
    "data with an impossible ACK": (lambda: conn().segment("server", b"x", ack=500).ack("client"),
                                    ["OutOfWindow < ack 0+1", "StreamData < 0+1 doubtful"]),
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_tap_takes_refused_bytes_on_the_receivers_word(case):
    conversation, want = TAKEN[case]
    log = play(conversation())
    assert [x for x in log.of("OutOfWindow", "StreamData")] == want


@pytest.mark.parametrize("case", TAKEN)
def test_inline_the_checks_are_authority(case):
    conversation, want = TAKEN[case]
    log = play(conversation(), truth="inline")
    assert not [x for x in log if x.endswith("doubtful")]


def test_an_ack_beyond_everything_counts_when_it_is_repeated():
    """Once it may be forged; twice, and nothing from the other end against it, the tap has missed data."""
    once = conn().send(b"a").segment("server", ack=500)
    assert not play(once).of("StreamGap")
    twice = once.wait(2).segment("server", ack=500).wait(2).segment("server", ack=500)
    assert play(twice).of("StreamGap") == ["StreamGap > acked 1+498"]


def test_a_tap_mends_a_flow_whose_rst_nobody_took():
    c = conn().send(b"a").segment("server", flags="R", seq=1, options=b"").send(b"more").reply(b"answer").close()
    log = play(c)
    assert log[-1] == "FlowEnd fin"
    assert log.streams[1, ">"] == b"amore" and log.streams[1, "<"] == b"answer"


def both_windows_missed():
    """Windows of 1000 bytes, filled; the tap misses the two ACKs that open them, then both ends go on."""
    c = unopened(wscale=None)
    c.end["client"].wnd = c.end["server"].wnd = 1000
    c.handshake().segment("client", b"a" * 1000).segment("server", b"A" * 1000, ack=1).ack().ack("client").lose([6, 7])
    for _ in range(4):
        c.segment("client", b"b" * 1000).segment("server", b"B" * 1000)
    return c


def test_two_windows_too_small_do_not_shut_a_tap_out():
    """Each end's ACK rides on a segment beyond the window that the other's would open: one capture loss must not be for ever."""
    log = play(both_windows_missed().close())
    assert log.streams[1, ">"] == b"a" * 1000 + b"b" * 4000
    assert log.streams[1, "<"] == b"A" * 1000 + b"B" * 4000
    assert log[-1] == "FlowEnd fin" and not log.of("StreamGap")


def test_a_fin_beyond_the_window_counts_once_it_is_acknowledged():
    c = narrow(10).segment("client", b"x" * 10).segment("client", b"bye", flags="FPA").window(100).ack().close("server")
    log = play(c)
    assert log.streams[1, ">"] == b"x" * 10 + b"bye"
    assert log[-1] == "FlowEnd fin" and not log.of("StreamGap")


def test_what_is_beyond_the_window_and_out_of_place_is_no_evidence():
    """Whoever forges the ACK of a forged segment must know where its sender is."""
    def forged(seq):
        c = unopened(wscale=None)
        c.end["client"].wnd = c.end["server"].wnd = 10
        c.handshake().segment("client", b"EVIL", offset=20).segment("server", seq=seq, ack=25)
        return play(c).of("StreamData", "StreamGap")
    assert not forged(1 + 65536)
    assert forged(1 + 65535) == ["StreamGap > close 0+20", "StreamData > 20+4 doubtful"]


def test_an_ack_before_its_data_settles_doubts_when_the_data_come():
    """Captures of several queues: the ACK covers a parked segment and one that is still to come."""
    c = narrow(10).segment("client", b"x" * 10).segment("client", b"y" * 5).segment("server", ack=11, wnd=100)
    c.segment("client", b"z" * 5).segment("server", wnd=100).reorder(-1, by=-1).segment("client", b"on")
    assert play(c).streams[1, ">"] == b"x" * 10 + b"y" * 5 + b"z" * 5 + b"on"
