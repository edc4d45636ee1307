"""Conversations say on the wire what was asked for (dpkt reads them back), and faults are the seed's alone."""
import io
import ipaddress
import re
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mos.errors import UsageError
from mos.testing import fault, icmp_echo, merge, tcp, udp
from mos.testing.conversation import Conversation, EchoConversation, UdpConversation
from mos.testing.tcp_conversation import TcpConversation

C, S = "10.0.0.1:1234", "10.0.0.2:80"
C6, S6 = "[fd77::1]:1234", "[fd77::2]:80"
DOCS = Path(__file__).parent.parent / "docs" / "testing.md"


def ips(conversation):
    return [dpkt.ethernet.Ethernet(frame).data for _, frame in conversation.packets]


def segments(conversation):
    return [ip.data for ip in ips(conversation)]


def sums_to_zero(data):
    """RFC 1071, by another road than the code's: the one's complement sum is the number modulo 0xffff."""
    return int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF == 0


def good_transport(ip):
    raw = bytes(ip)[20:] if ip.v == 4 else bytes(ip)[40:]
    number = ip.p if ip.v == 4 else ip.nxt
    return sums_to_zero(raw if number == 1 else ip.src + ip.dst + len(raw).to_bytes(4, "big") + bytes([0, 0, 0, number]) + raw)


def assembled(conversation, side, isn):
    """What a receiver that keeps the first copy of each byte gets from `side`."""
    have = {}
    for p in conversation.built:
        if p.side == side:
            start = (p.l4.seq - isn - (0 if p.l4.flags & 2 else 1)) % 2**32
            for i, byte in enumerate(p.payload):
                have.setdefault((start + i) % 2**32, byte)
    return bytes(have[i] for i in range(len(have)))


def test_handshake_carries_what_each_side_offers():
    syn, syn_ack, ack = segments(tcp(C, S, isn=(1000, 2000), mss=(1460, 1200), wscale=(7, None)))
    assert (syn.seq, syn.flags, syn_ack.seq, syn_ack.ack, syn_ack.flags) == (1000, 2, 2000, 1001, 0x12)
    assert (ack.seq, ack.ack, ack.flags) == (1001, 2001, 0x10)
    options = [dict(dpkt.tcp.parse_opts(s.opts)) for s in (syn, syn_ack)]
    assert [o[2] for o in options] == [b"\x05\xb4", b"\x04\xb0"]
    assert options[0][3] == b"\x07" and 3 not in options[1] and options[1][4] == b""


def test_send_splits_by_the_receivers_mss_and_leaves_room_for_timestamps():
    c = tcp(C, S, mss=(1460, 500), timestamps=True).send(b"x" * 1000)
    data = [s for s in segments(c) if s.data]
    assert [len(s.data) for s in data] == [488, 488, 24]
    assert [bool(s.flags & 8) for s in data] == [False, False, True]
    last = segments(c)[-1]
    assert last.ack == 1001 + 1000 and last.sport == 80


@pytest.mark.parametrize("client, server", [(C, S), (C6, S6)])
def test_every_checksum_is_right(client, server):
    c = tcp(client, server, timestamps=True).send(b"odd").reply(b"even" * 700).keep_alive().close()
    u = udp(client, server).send(b"q").reply(b"aa")
    e = icmp_echo(client.rpartition(":")[0].strip("[]"), server.rpartition(":")[0].strip("[]"), count=2)
    for ip in ips(c) + ips(u) + ips(e):
        assert good_transport(ip)
        assert ip.v == 6 or sums_to_zero(bytes(ip)[:20])


def test_a_udp_checksum_of_zero_is_sent_as_ones():
    packet = udp(C, S).send(b"\0\0").built[0]
    packet.l4.payload = packet.transport()[6:8]     # adding the sum to the sum makes it all ones, whose complement is 0
    assert packet.transport()[6:8] == b"\xff\xff"


def test_corrupt_spoils_only_the_layer_named():
    first, second = ips(udp(C, S).send(b"a").send(b"b").corrupt(1).corrupt(2, layer="ip"))
    assert not good_transport(first) and sums_to_zero(bytes(first)[:20])
    assert good_transport(second) and not sums_to_zero(bytes(second)[:20])
    with pytest.raises(UsageError):
        udp(C6, S6).send(b"a").corrupt(1, layer="ip")


def test_sequence_numbers_wrap():
    c = tcp(C, S, isn=(0xFFFFFFFF, 0xFFFFFFFE)).send(b"abc").reply(b"defg").close()
    got = segments(c)
    assert got[3].seq == 0 and got[4].ack == 3 and got[5].seq == 0xFFFFFFFF and got[6].ack == 3
    assert assembled(c, "server", 0xFFFFFFFE) == b"defg"


def test_close_leaves_out_an_end_that_has_closed():
    assert [s.flags & 1 for s in segments(tcp(C, S).close())][3:] == [1, 1, 0]
    half = segments(tcp(C, S).fin("client").reply(b"late").close())
    assert [(s.sport, s.flags & 1) for s in half if s.flags & 1] == [(1234, 1), (80, 1)]
    assert half[-1].ack == 2001 + 4 + 1


def test_refusal_and_reset():
    refused = segments(tcp(C, S, handshake=False).syn().rst("server"))[-1]
    assert (refused.flags, refused.seq, refused.ack) == (0x14, 0, 1001)
    reset = segments(tcp(C, S).send(b"ab").rst("server", seq=77))[-1]
    assert (reset.seq, reset.ack, reset.win) == (2077, 1003, 0)


def test_simultaneous_open():
    c = tcp(C, S, handshake=False).syn("client").syn("server", ack=False)
    c.segment("client", seq=0, flags="SA").segment("server", seq=0, flags="SA")
    assert [(s.flags, s.seq, s.ack) for s in segments(c)] == [
        (2, 1000, 0), (2, 2000, 0), (0x12, 1000, 2001), (0x12, 2000, 1001)]


@pytest.mark.parametrize("accepted, covered, again", [(True, 1004, 0), (False, 1001, 1)])
def test_fast_open(accepted, covered, again):
    c = tcp(C, S, handshake=False).syn_data(b"GET", accepted=accepted)
    syn, syn_ack, third = segments(c)[:3]
    assert syn.data == b"GET" and dict(dpkt.tcp.parse_opts(syn.opts))[34]
    assert syn_ack.ack == covered and bool(third.data) == again
    assert c.sent("client") == b"GET" and segments(c.send(b"x"))[-1].ack == 1005


def test_segment_controls_every_field():
    c = tcp(C, S).segment("client", b"zz", seq=-5, ack=9, wnd=3, urg=1, ts=(7, 8), sack=[(10, 20)], flags="PAE")
    s = segments(c)[-1]
    assert (s.seq, s.ack, s.win, s.urp, s.flags) == (995, 2009, 3, 1, 0x78)
    options = dict(dpkt.tcp.parse_opts(s.opts))
    assert options[8] == bytes([0, 0, 0, 7, 0, 0, 0, 8]) and options[5] == (2011).to_bytes(4, "big") + (2021).to_bytes(4, "big")
    c.segment("client", b"far", seq=5000)
    assert segments(c.send(b"a"))[-2].seq == 1001, "a raw seq must not move the conversation's own"
    assert segments(c.segment("client", b"b", offset=9).ack())[-1].ack == 1001 + 10
    assert segments(c.segment("client", offset=5 << 30))[-1].seq == (1001 + (5 << 30)) % 2**32


def test_keep_alive_is_one_below_and_empty():
    probe, answer = segments(tcp(C, S).send(b"abc").keep_alive("server"))[-2:]
    assert (probe.sport, probe.seq, probe.data, answer.ack) == (80, 2000, b"", 2001)
    assert segments(tcp(C, S).send(b"abc").keep_alive(answered=False))[-1].seq == 1003


def test_timestamps_are_echoed_and_left_out_unless_both_offer_them():
    got = [dict(dpkt.tcp.parse_opts(s.opts))[8] for s in segments(tcp(C, S, timestamps=True).send(b"a"))]
    values, echoes = [o[:4] for o in got], [o[4:] for o in got]
    assert echoes == [bytes(4), values[0], values[1], values[1], values[3]] and len(set(values)) == 5
    assert not segments(tcp(C, S, timestamps=(True, False)).send(b"a"))[-1].opts


def test_window_is_scaled_and_stays():
    got = segments(tcp(C, S, wscale=3).window(800, "client").ack("client"))
    assert [s.win for s in got[-2:]] == [100, 100]


def test_retransmit_and_overlap():
    c = tcp(C, S).send(b"hello").reply(b"yes").retransmit(4).retransmit(4, data=b"HELLO").overlap(4, b"LOW", shift=3)
    again, evil, over = segments(c)[-3:]
    assert (again.seq, again.data, again.ack) == (1001, b"hello", 2004)
    assert (evil.seq, evil.data) == (1001, b"HELLO") and (over.seq, over.data) == (1004, b"LOW")
    assert c.sent("client") == b"hello" + b"W"
    assert segments(c.retransmit(1))[-1].opts == segments(c)[0].opts
    assert segments(c.segment("client", b"!", urg=1).retransmit(-1))[-1].urp == 1


def test_lose_and_resend():
    c = tcp(C, S).send(b"x" * 3000, ack=False)
    lost = c.built[4].l4
    assert segments(c.lose(5, resend=True).ack())[-2].seq == lost.seq and len(c) == 7
    assert not [s for s in segments(c.lose(lambda p: p.side == "client")) if s.sport == 1234]


def test_reorder_keeps_times_and_moves_by_places():
    c = tcp(C, S).send(b"a", ack=False).send(b"b", ack=False).send(b"c")
    times = [t for t, _ in c.packets]
    assert [s.data for s in segments(c.reorder(4, by=2)) if s.data] == [b"b", b"c", b"a"]
    assert [t for t, _ in c.packets] == times
    assert [s.data for s in segments(c.reorder(-2, by=-2)) if s.data] == [b"a", b"b", b"c"]
    assert [t for t, _ in c.packets] == times


def test_duplicate():
    assert [s.data for s in segments(udp(C, S).send(b"a").send(b"b").duplicate(1, times=2))] == [b"a", b"a", b"a", b"b"]


@given(st.binary(max_size=300), st.integers(0, 99), st.integers(0, 2**32 - 1))
def test_any_shuffle_still_holds_the_stream(data, seed, isn):
    c = tcp(C, S, isn=(isn, 7), mss=16).send(data, ack=False).duplicate(lambda p: len(p.payload) == 16)
    order = [bytes(p.payload) for p in c.shuffle(seed).built]
    assert assembled(c, "client", isn) == data == c.sent("client")
    assert order == [bytes(p.payload) for p in tcp(C, S, isn=(isn, 7), mss=16).send(data, ack=False).duplicate(
        lambda p: len(p.payload) == 16).shuffle(seed).built]


@pytest.mark.parametrize("client, server", [(C, S), (C6, S6)])
def test_fragments_carry_the_whole_datagram(client, server):
    whole = udp(client, server).send(b"0123456789" * 5)
    body = whole.built[0].transport()
    pieces = ips(whole.fragment(1, 20))
    if pieces[0].v == 4:
        parts = [(ip.offset * 8, bytes(ip.data), bool(ip.mf)) for ip in pieces]
        assert all(sums_to_zero(bytes(ip)[:20]) and not ip.df for ip in pieces)
    else:
        headers = [ip.extension_hdrs[44] for ip in pieces]
        parts = [(h.frag_off * 8, bytes(ip)[48:], bool(h.m_flag)) for h, ip in zip(headers, pieces)]
    whole_again = ips(udp(client, server).send(b"a"))[0]
    assert whole_again.v == 6 or whole_again.df
    assert [p[0] for p in parts] == [0, 16, 32, 48] and [p[2] for p in parts] == [True, True, True, False]
    assert b"".join(p[1] for p in parts) == body


def test_vlan_tags():
    eth = dpkt.ethernet.Ethernet(udp(C, S, vlan=5).send(b"a").packets[0][1])
    assert [t.id for t in eth.vlan_tags] == [5]
    both = udp(C, S).send(b"a").on_vlan(7, 9).send(b"b").packets
    assert all(frame[12:20] == bytes.fromhex("88a8000781000009") for _, frame in both)


def test_v6_twin():
    c = tcp(C, S).send(b"hi").v6().reply(b"yo")
    assert {ip.v for ip in ips(c)} == {6} and all(good_transport(ip) for ip in ips(c))
    assert ipaddress.ip_address(ips(c)[0].src) == ipaddress.ip_address("fd00::10.0.0.1")
    assert [ip.data.type for ip in ips(icmp_echo("10.0.0.1", "10.0.0.2").v6())] == [128, 129]


def test_merge_is_by_time_and_leaves_its_parts_alone():
    a, b = udp(C, S, step_ns=10).send(b"1").send(b"3"), udp(C, S, step_ns=10).wait(5e-9).send(b"2")
    m = merge(a, b)
    assert [s.data for s in segments(m)] == [b"1", b"2", b"3"]
    m.corrupt(1)
    assert good_transport(ips(a)[0])


def test_pcap_has_nanoseconds(tmp_path):
    c = udp(C, S, start_ns=1_000_000_007).send(b"a")
    reader = dpkt.pcap.Reader(io.BytesIO(c.pcap_bytes()))
    (time, frame), = list(reader)
    assert round(time * 10**9) == 1_000_000_007 and frame == c.packets[0][1]
    assert Path(c.pcap(tmp_path / "a.pcap")).read_bytes() == c.pcap_bytes()


@pytest.mark.parametrize("wrong", [
    lambda: tcp("10.0.0.1", S), lambda: tcp(C, S6), lambda: tcp(C, S, wscale=15), lambda: tcp(C, S, vlan=5000),
    lambda: tcp(C, S).lose(0), lambda: tcp(C, S).lose(4), lambda: tcp(C, S).reorder(3), lambda: tcp(C, S).syn(),
    lambda: tcp(C, S).segment("klient"), lambda: tcp(C, S).segment("client", flags="X"), lambda: tcp(C, S).window(1 << 30),
    lambda: tcp(C, S, handshake=False).send(b"a"), lambda: udp(C, S).send(b"a").fragment(1, 7),
    lambda: tcp(C, S).overlap(3, b"a", shift=-9), lambda: tcp(C, S).segment("client", options=bytes(41)).packets,
    lambda: fault.inject([], 1, loss=0.1), lambda: fault.inject([], 1, drop=2)])
def test_misuse_raises_one_line(wrong):
    with pytest.raises(UsageError) as e:
        wrong()
    assert "\n" not in str(e.value)


PACKETS = [(i * 1000, bytes(20) + i.to_bytes(4, "big")) for i in range(500)]


@given(st.integers(), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 0.5))
def test_faults_are_repeatable_and_ordered_in_time(seed, some, more, most):
    rates = dict(drop=some, duplicate=more, reorder=most, delay=some, corrupt=more)
    got = list(fault.inject(PACKETS, seed, **rates))
    assert got == list(fault.inject(iter(PACKETS), seed, **rates))
    assert [t for t, _ in got] == sorted(t for t, _ in got)
    assert {len(f) for _, f in got} == {24}


def test_each_fault_does_what_it_is_called():
    plain = [f for _, f in PACKETS]
    frames = {name: [f for _, f in fault.inject(PACKETS, 1, **{name: 0.2})] for name in fault.STAGES}
    assert 350 < len(frames["drop"]) < 450 and set(frames["drop"]) < set(plain)
    assert 550 < len(frames["duplicate"]) < 650 and set(frames["duplicate"]) == set(plain)
    for name in ("reorder", "delay"):
        assert frames[name] != plain and sorted(frames[name]) == plain
    late = [frames["reorder"].index(f) - i for i, f in enumerate(plain)]
    assert max(late) <= 9 and any(n > 0 for n in late), "a packet is held for a few later ones only"
    flipped = [(a, b) for a, b in zip(plain, frames["corrupt"]) if a != b]
    assert 50 < len(flipped) < 150 and all(a[:14] == b[:14] for a, b in flipped)
    assert all((int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count() == 1 for a, b in flipped)
    assert list(fault.inject(PACKETS, 1)) == PACKETS and not list(fault.drop(PACKETS, 1, 1))


def test_documentation_names_every_verb_and_its_examples_run():
    text = DOCS.read_text()
    for kind in (Conversation, UdpConversation, EchoConversation, TcpConversation):
        for name in vars(kind):
            assert name.startswith("_") or f"{name}(" in text or f".{name}" in text, f"{name} is not in {DOCS.name}"
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        if "mos.testing import run" not in code:
            exec(code, {})
