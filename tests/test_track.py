"""Both ends' simulation, conversation by conversation: states, retransmissions, windows, duplicate ACKs, time-outs."""
import pytest
from boxes import box, drive
from events import play, states

from mos import DROP, events, on
from mos.events import PacketIn, TcpStateChange
from mos.testing import merge, tcp
from mos.testing.conversation import START_NS
from mos.testing.packets import ACK, FIN

A, B = "10.0.0.1:1234", "10.0.0.2:80"


def conn(**options):
    return tcp(A, B, **options)


def unopened(**options):
    return tcp(A, B, handshake=False, **options)


OPEN = """client CLOSED>SYN_SENT
server LISTEN>SYN_RECEIVED
client SYN_SENT>ESTABLISHED
server SYN_RECEIVED>ESTABLISHED"""
CROSSED = """client CLOSED>SYN_SENT
server LISTEN>SYN_RECEIVED
client SYN_SENT>SYN_RECEIVED
server SYN_RECEIVED>ESTABLISHED
client SYN_RECEIVED>ESTABLISHED"""
CLOSE = """client ESTABLISHED>FIN_WAIT_1
server ESTABLISHED>CLOSE_WAIT
server CLOSE_WAIT>LAST_ACK
client FIN_WAIT_1>FIN_WAIT_2
client FIN_WAIT_2>TIME_WAIT
server LAST_ACK>CLOSED"""
STEPWISE = """client ESTABLISHED>FIN_WAIT_1
server ESTABLISHED>CLOSE_WAIT
client FIN_WAIT_1>FIN_WAIT_2
server CLOSE_WAIT>LAST_ACK
client FIN_WAIT_2>TIME_WAIT
server LAST_ACK>CLOSED"""
RESET = """{0} ESTABLISHED>CLOSED
{1} ESTABLISHED>CLOSED"""

STATE_CASES = {
    "handshake": (lambda: conn(), [OPEN]),
    "handshake with copies": (lambda: conn().duplicate([1, 2, 3]), [OPEN]),
    "SYN alone": (lambda: unopened().syn(), ["client CLOSED>SYN_SENT\nserver LISTEN>SYN_RECEIVED"]),
    "simultaneous open": (lambda: unopened().syn().syn("server", ack=False).segment("client", flags="SA", seq=0)
                          .segment("server", flags="SA", seq=0).close(), [CROSSED, CLOSE]),
    "split handshake": (lambda: unopened().syn().segment("server", seq=0).syn("server", ack=False)
                        .segment("client", flags="SA", seq=0, ack=1).ack().close(), [CROSSED, CLOSE]),
    "close": (lambda: conn().send(b"x").close(), [OPEN, CLOSE]),
    "server closes": (lambda: conn().send(b"x").close("server"),
                      [OPEN, CLOSE.replace("client", "C").replace("server", "client").replace("C ", "server ")]),
    "half-close": (lambda: conn().fin().reply(b"x").close("server"), [OPEN, STEPWISE]),
    "FIN with data": (lambda: conn().segment("client", b"x", flags="FPA").ack().close("server"), [OPEN, STEPWISE]),
    "FIN sent again": (lambda: conn().fin(ack=False).retransmit(-1).ack().close("server"), [OPEN, STEPWISE]),
    "FIN before its data": (lambda: conn().send(b"abc", ack=False).fin(ack=False).lose(4, resend=True).ack().close("server"),
                            [OPEN, STEPWISE]),
    "simultaneous close": (lambda: conn().segment("client", flags="FA", ack=1).segment("server", flags="FA", ack=1)
                           .ack("client").ack("server"),
                           [OPEN, "client ESTABLISHED>FIN_WAIT_1\nserver ESTABLISHED>CLOSE_WAIT\nserver CLOSE_WAIT>LAST_ACK\n"
                                  "client FIN_WAIT_1>CLOSING\nserver LAST_ACK>CLOSED\nclient CLOSING>TIME_WAIT"]),
    "client resets": (lambda: conn().send(b"x").rst(), [OPEN, RESET.format("client", "server")]),
    "server resets": (lambda: conn().send(b"x").rst("server"), [OPEN, RESET.format("server", "client")]),
    "refused": (lambda: unopened().syn().rst("server", ack=1), ["client CLOSED>SYN_SENT\nserver LISTEN>SYN_RECEIVED\n"
                                                               "server SYN_RECEIVED>CLOSED\nclient SYN_SENT>CLOSED"]),
    "time-out of TIME-WAIT": (lambda: merge(conn().close(), tcp(A, "10.0.0.9:9", start_ns=START_NS + 90_000_000_000)),
                              [OPEN, CLOSE, "client TIME_WAIT>CLOSED"]),
}


@pytest.mark.parametrize("truth", ["tap", "inline"])
@pytest.mark.parametrize("case", STATE_CASES)
def test_states(case, truth):
    conversation, want = STATE_CASES[case]
    got = [x for x in states(conversation(), truth=truth) if not x.startswith("#2")]
    assert got == "\n".join(want).split("\n")


def test_a_receivers_state_changes_after_the_packet_was_forwarded():
    """`at="receiver"` has the receiver's changes alone; a dropped packet changes its sender alone."""
    seen = []

    @events.on(events.TcpStateChange, at="receiver")
    def after(ev):
        seen.append(f"{ev.side} {ev.new}")
    play(conn(), also=[after])
    assert seen == ["server SYN_RECEIVED", "client ESTABLISHED", "server ESTABLISHED"]


START, END = ["FlowStart", "FlowEstablished"], ["FlowEnd shutdown"]
CASES = {
    "simultaneous open carries data": (lambda: unopened().syn().syn("server", ack=False).segment("client", flags="SA", seq=0)
                                       .segment("server", flags="SA", seq=0).send(b"hi").reply(b"ho"),
                                       START + ["StreamData > 0+2", "StreamData < 0+2"] + END),
    "split handshake carries data": (lambda: unopened().syn().segment("server", seq=0).syn("server", ack=False)
                                     .segment("client", flags="SA", seq=0, ack=1).ack().send(b"hi"),
                                     ["FlowStart", "OutOfWindow < syn 0+0", "FlowEstablished", "StreamData > 0+2"] + END),
    "SYN and SYN-ACK again": (lambda: unopened().syn().retransmit(1).syn("server").retransmit(3).ack("client").retransmit(1),
                              ["FlowStart", "Retransmission > syn 0+1", "Retransmission < syn 0+1", "FlowEstablished",
                               "Retransmission > syn 0+1"] + END),
    "half-close": (lambda: conn().send(b"q").fin().reply(b"answer").reply(b"more").close("server"),
                   START + ["StreamData > 0+1", "StreamData < 0+6", "StreamData < 6+4", "FlowEnd fin"]),
    "FIN again": (lambda: conn().send(b"a").fin(ack=False).retransmit(-1).ack().close("server"),
                  START + ["StreamData > 0+1", "Retransmission > fin 1+0", "FlowEnd fin"]),
    "data sent again in whole and in part": (
        lambda: conn().send(b"abcdef").retransmit(4).overlap(4, b"efgh", shift=4),
        START + ["StreamData > 0+6", "Retransmission > full 0+6", "Retransmission > partial 4+2", "StreamData > 6+2"] + END),
    "keep-alives, empty and with the last byte": (
        lambda: conn().send(b"ab").keep_alive().segment("client", b"b", offset=1).ack().keep_alive("server"),
        START + ["StreamData > 0+2", "Retransmission > keep_alive 1+0", "Retransmission > keep_alive 1+1",
                 "Retransmission < keep_alive 0+0"] + END),
    "zero window, probe, update": (
        lambda: conn().send(b"a").window(0).segment("client", b"p").segment("server", ack=2).segment("client", b"p", offset=1)
        .segment("server", ack=2).segment("server", ack=2, wnd=39).send(b"q", ack=False),
        START + ["StreamData > 0+1", "ZeroWindow server", "StreamData > 1+1", "DuplicateAck < 1 x1",
                 "Retransmission > zero_window_probe 1+1", "DuplicateAck < 1 x2", "WindowUpdate server 4992",
                 "StreamData > 2+1"] + END),
    "duplicate ACKs": (
        lambda: conn().send(b"x").segment("client", b"b" * 10, offset=11).segment("server", ack=2).segment("server", ack=2)
        .segment("server", ack=2).segment("client", b"a" * 10, offset=1).ack(),
        START + ["StreamData > 0+1", "OutOfOrder > 11+10"] + [f"DuplicateAck < 1 x{i}" for i in (1, 2, 3)]
        + ["Retransmission > full 1+10", "StreamData > 1+10", "StreamData > 11+10"] + END),
    "no duplicate ACK with a new window, with data, or with nothing outstanding": (
        lambda: conn().send(b"a").ack().segment("server", b"x").segment("client", b"b").segment("server", ack=2, wnd=9),
        START + ["StreamData > 0+1", "StreamData < 0+1", "StreamData > 1+1"] + END),
}


@pytest.mark.parametrize("case", CASES)
def test_log(case):
    conversation, want = CASES[case]
    assert play(conversation()) == want


def test_one_flow_end_however_often_the_ends_close():
    log = play(conn().close().close().rst().fin("server").retransmit(-3))
    assert [x for x in log if x.startswith("FlowEnd")] == ["FlowEnd fin"]


@pytest.mark.parametrize("scales,taken", [((7, 7), True), ((7, None), False), ((None, 7), False), ((None, None), False)])
def test_windows_are_scaled_only_when_both_syns_say_so(scales, taken):
    """The server offers 100; at 7 bits of scale that is 12,800 bytes (RFC 7323 section 2.2)."""
    c = unopened(wscale=scales)
    c.end["server"].wnd = 100
    c.syn().syn("server").ack("client").ack("server").segment("client", b"x" * 10, offset=12_000)
    log = play(c, truth="inline")
    assert ("OutOfOrder > 12000+10" in log) == taken
    assert ("OutOfWindow > window 12000+10" in log) != taken


def test_the_window_of_a_syn_is_never_scaled():
    c = unopened(wscale=14)
    c.end["server"].wnd = 100
    c.syn().syn("server").ack("client").segment("client", b"x" * 10, offset=5_000)
    assert "OutOfWindow > window 5000+10" in play(c, truth="inline")


def flow_at_end(conversation):
    found = []

    @events.on(events.FlowEnd)
    def end(ev):
        f = ev.flow
        found.append((f.history, f.rtt, f.client_side.mss, f.server_side.wscale, f.client_side.sack_permitted))
    play(conversation, also=[end])
    return found[0]


def test_history_round_trip_and_options():
    c = unopened(mss=(1400, 1300), wscale=(2, 3), sack=(True, False), step_ns=10_000_000)
    c.syn().syn("server").ack("client").send(b"a").reply(b"b").close()
    history, rtt, mss, wscale, sack = flow_at_end(c)
    assert (history, mss, wscale, sack) == ("ShADadFf", 1400, 3, True)
    assert rtt == pytest.approx(0.02)


def history(conversation):
    return flow_at_end(conversation)[0]


def test_history_of_trouble():
    assert history(conn().send(b"a").rst("server")) == "ShADar"
    assert history(conn().send(b"a").retransmit(-2).window(0)) == "ShADaTw"
    assert history(conn().lose(2).send(b"a")) == "SADa"


LATER = 1_000_000_000


@pytest.mark.parametrize("conversation,state,seconds", [
    (lambda: unopened().syn(), "SYN_SENT", 130), (lambda: conn(), "ESTABLISHED", 7440),
    (lambda: conn().fin(), "CLOSE_WAIT", 7440), (lambda: conn().close(), "TIME_WAIT", 5),
    (lambda: conn().rst(), "CLOSED", 10)])
def test_idle_flows_end_in_packet_time(conversation, state, seconds):
    c = conversation()
    for early, ended in ((-1, 0), (1, 1)):
        at = c.built[-1].time + (seconds + early) * LATER
        clock = tcp(A, "10.0.0.3:80", handshake=False, start_ns=at - 1).syn().syn("server")     # two: a leap needs a witness
        log = play(c.packets + [(at - 1, clock.packets[0][1]), (at, clock.packets[1][1])], events.FlowEnd, close=False)
        assert len(log) == ended, (state, early)


def test_one_long_flow_does_not_block_ten_thousand_short_ones():
    """mOS looked at the oldest SYN first and stopped there (B6)."""
    long = conn(step_ns=20 * LATER)
    for _ in range(20):
        long.keep_alive()
    frames = long.packets
    for i in range(10_000):
        c = tcp(f"10.1.{i >> 8}.{i & 255}:99", B, handshake=False, start_ns=START_NS + i * 1_000_000).syn()
        frames += c.packets
    log = play(sorted(frames), events.FlowEnd, close=False)
    assert len(log) == 10_000 and all(x.endswith("FlowEnd idle") for x in log)
    assert log.stats["reassembly"]["bytes"] == 0


def test_a_flow_that_speaks_is_not_idle():
    c = conn(step_ns=3600 * LATER)
    for _ in range(10):
        c.keep_alive()
    assert play(c, events.FlowEnd, close=False) == []


def test_a_dropped_fin_takes_effect_when_it_comes_again():
    """Neither what is sent behind it nor bytes that end at its place put it through (RFC 9293 section 3.10.7.4)."""
    @on(PacketIn)
    def drop(ev):
        return DROP if ev.packet.number == 4 else None

    def seen(*segments):
        found, c = [], conn()
        for flags, data, seq in segments:
            c.segment("client", data, flags=flags, seq=seq)

        @on(TcpStateChange)
        def changed(ev):
            found.append((ev.packet.number, ev.side, ev.new))
        drive([box(drop), box(changed, observe=True)], c.packets, truth="inline")
        return [f for f in found if f[0] > 3]
    fin, data, later = (FIN | ACK, b"abc", 1), (ACK, b"abc", 1), (ACK, b"", 5)
    sent, taken = (4, "client", "FIN_WAIT_1"), ("server", "CLOSE_WAIT")
    assert seen(fin, data, later) == [sent]
    assert seen(fin, data, fin) == [sent, (6, *taken)]
    assert seen(fin, later, data, (FIN | ACK, b"", 4)) == [sent, (7, *taken)]
