"""What leaves: counted, in order, and nothing else. RESET: RSTs that both ends take, in every state."""
import dpkt
import pytest
from boxes import assert_balanced, box, drive, web
from events import play

from mos.events import FlowEnd, PacketIn, StreamData, on
from mos.events.verdict import RESET
from mos.io.source import open_source
from mos.nf import Chain
from mos.run import Engine, Settings
from mos.testing import tcp

SECOND = 1_000_000_000
A, B = "10.0.0.1:1234", "10.0.0.2:80"


def left(nfs, packets, tmp_path, **settings):
    engine = drive(nfs, packets, write=str(tmp_path / "out.pcap"), **settings)
    assert_balanced(engine.stats())
    return engine, [record[2] for record in open_source(tmp_path / "out.pcap")]


def segment_of(frame):
    return dpkt.ethernet.Ethernet(frame).data.data


def test_all_that_leaves_is_what_came_and_what_is_counted_as_ours(tmp_path):
    @on(StreamData, where="not to_server")
    def no(ev):
        return RESET
    c = web()
    engine, out = left([box(no)], c, tmp_path)
    passed = engine.forwarded.index(False)
    assert out[:passed] == [frame for _, frame in c][:passed] and not any(engine.forwarded[passed:])
    ours = [segment_of(frame) for frame in out[passed:]]
    assert len(ours) == engine.stats()["injected"] and all(s.flags & dpkt.tcp.TH_RST for s in ours)
    assert [s.dport for s in ours[:2]] == [1234, 80]    # on to the packet's receiver first, then back to its sender


CONVERSATIONS = {
    "a life": lambda: web(),
    "the server closes first": lambda: tcp(A, B).send(b"q").reply(b"a").close("server"),
    "half closed": lambda: tcp(A, B).fin().reply(b"more").fin("server"),
    "both at once": lambda: tcp(A, B).fin(ack=False).fin("server", ack=False).ack().ack("client"),
    "SYN sent again": lambda: tcp(A, B, handshake=False).syn().retransmit(1).syn("server").retransmit(3).ack("client"),
    "simultaneous open": lambda: tcp(A, B, handshake=False).syn().syn("server", ack=False).segment("client", flags="SA", seq=0)
    .segment("server", flags="SA", seq=0).send(b"x"),
    "under way": lambda: tcp(A, B).send(b"abc").reply(b"def").close().lose([1, 2, 3]),
    "wrapping, IPv6": lambda: tcp(A, B, isn=(2**32 - 2, 2**32 - 5), timestamps=True).v6().send(b"abc").reply(b"defg").close(),
}


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_a_reset_is_taken_by_both_ends_in_every_state(case, tmp_path):
    """Our own model of each host, which takes an exact RST only (RFC 5961), has seen what that host has; then it gets the RST."""
    packets, taken = CONVERSATIONS[case]().packets, 0
    for i in range(len(packets)):
        @on(PacketIn, where=f"packet_number == {i + 1}")
        def reset(ev):
            return RESET("no")
        engine, out = left([box(reset)], packets[:i + 1], tmp_path, truth="inline")
        assert out[:i] == [frame for _, frame in packets[:i]] and not engine.forwarded[i]
        p = segment_of(packets[i][1])
        over = play(packets[:i], truth="inline", close=False)
        fins = {segment_of(frame).dport for _, frame in packets[:i] if segment_of(frame).flags & dpkt.tcp.TH_FIN}
        to = {segment_of(frame).dport: frame for frame in out[i:]}
        assert len(to) == len(out) - i == (1 if i == 0 and p.flags & dpkt.tcp.TH_SYN else 2), (i, over)
        if len(fins) == 2:
            continue        # in TIME-WAIT a RST says nothing new
        for port, frame in to.items():
            seen = packets[:i] if port == p.dport else packets[:i + 1]
            if not seen:
                continue
            log = play(seen + [(packets[i][0] + SECOND, frame)], truth="inline", checksum="verify")
            assert log[-1] == f"FlowEnd rst_{'server' if port == 1234 else 'client'}", (i, port)
            taken += 1
    assert taken >= len(packets)


def test_a_challenge_is_answered_where_it_stands(tmp_path):
    """What was forwarded was lost behind us: the server expects less than we think, so its ACK of our RST gets one that fits."""
    @on(StreamData, where="offset > 0")
    def no(ev):
        return RESET
    c = tcp(A, B).send(b"lost", ack=False).send(b"x", ack=False).segment("server", ack=1)
    _, out = left([box(no)], c, tmp_path, truth="inline")
    first, back, again = (segment_of(frame) for frame in out[4:])
    assert (first.dport, first.seq) == (80, 1005) and back.dport == 1234
    assert (again.dport, again.seq, again.flags) == (80, 1001, dpkt.tcp.TH_RST)


def test_a_dropped_rst_is_replaced_by_ours_and_not_answered(tmp_path):
    @on(PacketIn, where="rst")
    def no(ev):
        return RESET
    _, out = left([box(no)], tcp(A, B).send(b"abc").rst().rst(), tmp_path, truth="inline")
    (ours,) = (segment_of(frame) for frame in out[5:])
    assert (ours.dport, ours.seq) == (80, 1004)


def test_a_reset_asked_for_between_packets_tells_both_ends_with_the_next(tmp_path):
    c = tcp(A, B).send(b"abc").send(b"def").send(b"ghi")
    with Engine(Chain(box(on(StreamData)(lambda ev: None))), Settings(truth="inline"), write=str(tmp_path / "out.pcap")) as engine:
        for i, (ns, frame) in enumerate(c.packets):
            if i == 5:
                engine.find("tcp", "10.0.0.1", 1234, "10.0.0.2", 80).verdict(RESET)
            engine.feed(frame, ns)
    assert_balanced(engine.stats())
    out = [segment_of(record[2]) for record in open_source(tmp_path / "out.pcap")][5:]
    assert [(s.dport, s.seq) for s in out[:2]] == [(80, 1004), (1234, 2001)] and all(s.flags & dpkt.tcp.TH_RST for s in out)


def test_a_reset_flow_is_forgotten_when_nobody_speaks_any_more():
    """Longer than a host waits until it sends again; then the same ends may start anew."""
    ends = []

    @on(PacketIn, where="payload_length > 0")
    def no(ev):
        return RESET

    @on(FlowEnd)
    def end(ev):
        ends.append(ev.reason)
    c = tcp(A, B).send(b"abc", ack=False)
    for seconds in (200, 200, 241):
        c.wait(seconds).retransmit(4)
    engine = drive([box(no, end)], c, truth="inline")
    assert ends == ["stopped", "shutdown"] and engine.forwarded == [True] * 3 + [False] * 4
    assert_balanced(engine.stats())


def test_a_reset_is_said_again_where_it_may_be_lost(tmp_path):
    """A silent end would stay open; five times in a second and a half, as the latest one was."""
    @on(PacketIn, where="payload_length > 0")
    def no(ev):
        return RESET
    c = tcp(A, B).send(b"abc", ack=False)
    times = [0.05, 0.12, 0.35, 0.75, 1.6, 5]
    packets = [*c.packets, *((c.packets[-1][0] + int(s * SECOND), b"") for s in times)]
    engine, out = left([box(no)], packets, tmp_path, truth="inline")
    assert engine.stats()["injected"] == 10
    resets = [segment_of(frame) for frame in out if len(frame) > 20][3:]
    assert sorted((s.dport, s.seq) for s in resets) == [(80, 1001)] * 5 + [(1234, 2001)] * 5
    engine, _ = left([box(no)], packets, tmp_path, truth="tap")
    assert engine.stats()["injected"] == 2


def test_a_flood_of_invented_syns_is_answered_once_each(tmp_path):
    """But for a thousand a second: RSTs of ours shall not be a weapon."""
    @on(PacketIn)
    def no(ev):
        return RESET
    packets = [(c.packets[0][0] + i * 1000, c.packets[0][1]) for i in range(3000)
               for c in [tcp(f"10.1.{i >> 8}.{i & 255}:1234", B, handshake=False).syn()]]
    packets.append((packets[-1][0] + 10 * SECOND, b""))
    engine, _ = left([box(no)], packets, tmp_path, truth="inline")
    assert 3000 < engine.stats()["injected"] <= 3000 + 4 * 1000
