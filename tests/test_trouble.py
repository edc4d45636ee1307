"""Counters of troubled flows: each end's own, zero where nothing happened, and bounded evidence."""
from events import play

from mos import events
from mos.testing import tcp

A, B = "10.0.0.1:1234", "10.0.0.2:80"


def conn(**options):
    return tcp(A, B, **options)


def troubles(conversation, **options):
    """(client's, server's) counters at the flow's end, without the zeros."""
    found = []

    @events.on(events.FlowEnd)
    def end(ev):
        for side in (0, 1):
            found.append({k: n for k, n in ev.flow.owner.flow_trouble(ev.flow, side).items() if n})
    play(conversation, also=[end], **options)
    return tuple(found)


def test_a_calm_flow_has_none():
    assert troubles(conn().send(b"a").reply(b"b").close()) == ({}, {})


def test_each_kind_counts_at_its_sender():
    assert troubles(conn().send(b"abc").retransmit(4)) == ({"retransmitted_packets": 1, "retransmitted_bytes": 3}, {})
    assert troubles(conn().reply(b"abc").retransmit(4)) == ({}, {"retransmitted_packets": 1, "retransmitted_bytes": 3})
    assert troubles(conn().send(b"abc").retransmit(4, data=b"aXY"))[0]["conflict_bytes"] == 2
    assert troubles(conn().send(b"abc").segment("server", ack=4).segment("server", ack=4).send(b"d")) == ({}, {})
    assert troubles(conn().send(b"abc").send(b"d", ack=False).segment("server", ack=4)) == ({}, {"duplicate_acks": 1})
    assert troubles(conn().window(0).window(9000).window(0)) == ({}, {"zero_windows": 2})
    gap = conn().segment("client", b"x", offset=10).ack().wait(2).ack()
    assert troubles(gap) == ({"out_of_order": 1, "gap_bytes": 10}, {})
    assert troubles(conn().rst("server", seq=90_000_000)) == ({}, {"refused": 1})


def test_a_syn_sent_again_counts_as_a_packet_without_bytes():
    assert troubles(tcp(A, B, handshake=False).syn().retransmit(1).retransmit(1)) == ({"retransmitted_packets": 2}, {})


def test_bytes_sent_again_are_the_overlap_alone():
    assert troubles(conn().send(b"abcdef").overlap(4, b"efgh", shift=4))[0]["retransmitted_bytes"] == 2


def test_a_rst_in_doubt_is_settled_by_the_next_good_segment_or_by_silence():
    doubt = conn().send(b"a").rst("server", seq=100)
    assert play(doubt)[-1] == "FlowEnd rst_server"
    assert play(doubt.reply(b"b"))[-1] == "FlowEnd shutdown"
    quiet = conn().send(b"a").rst("server", seq=100)
    clock = tcp("10.0.0.3:3", B, handshake=False, start_ns=quiet.clock + 11_000_000_000).syn()
    log = play(quiet.packets + clock.packets, events.FlowEnd, close=False)
    assert log == ["FlowEnd rst_server"]


def test_an_impossible_ack_is_forgotten_when_the_other_end_contradicts_it():
    """A forged ACK, then proof that the sender is not there yet: the same ACK again is a claim again, not a confirmation."""
    c = conn().segment("server", ack=500).send(b"a").segment("server", ack=500)
    assert not play(c).of("StreamGap") and play(c).of("OutOfWindow") == ["OutOfWindow < ack 0+0"] * 2
