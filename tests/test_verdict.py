"""Verdicts: what each does to the packet and its flow, who wins, what a handler may not answer."""
import random
import tempfile
from pathlib import Path

import dpkt
import pytest
from boxes import assert_balanced, box, drive, question, web
from hypothesis import given, settings
from hypothesis import strategies as st

from mos.errors import HandlerError, VerdictError
from mos.events import FlowEnd, FlowEstablished, FlowStart, PacketIn, Retransmission, StreamData, TcpStateChange, on
from mos.events.verdict import BYPASS, CODES, DETACH, DROP, DROP_FLOW, PASS, RESET, Replace, Rewrite, Verdict, answered
from mos.io.source import open_source
from mos.nf import Chain
from mos.run import Engine
from mos.state.kinds import Count, FlowVar
from mos.testing import tcp, udp
from mos.testing.packets import pcap_bytes


def answering(answer, kind=StreamData, seen=None, **marks):
    @on(kind, **marks)
    def handler(ev):
        if seen is not None:
            seen.append(ev.packet.number)
        return answer(ev) if callable(answer) and not isinstance(answer, Verdict) else answer
    return handler


def noted(nfs, packets, **settings):
    """Forwarded flags and [(name, position, reason, packet)] of each verdict."""
    names, seen = {v: k for k, v in CODES.items()}, []
    engine = drive(nfs, packets, on_verdict=lambda c, p, r, n, *_: seen.append((names[c], p, r, n)), **settings)
    assert_balanced(engine.stats())
    return engine, seen


STRENGTH = [PASS, Replace(b"Q1"), DROP, DROP_FLOW, RESET]


@pytest.mark.parametrize("a", range(5))
@pytest.mark.parametrize("b", range(5))
def test_the_strongest_answer_of_a_position_stands_with_its_reason(a, b):
    first, second = (STRENGTH[i](f"reason {i}") for i in (a, b))
    nf = box(answering(first, edits="same_length"), answering(second, edits="same_length"))
    engine, verdicts = noted([nf], question(1).packets[:1])
    top = max(a, b)
    assert engine.forwarded == [top < 2]
    assert verdicts == ([(STRENGTH[top].name, 0, f"reason {top}", 1)] if top else [])


def test_a_stronger_verdict_without_a_reason_does_not_borrow_one():
    _, verdicts = noted([box(answering(DROP("weak")), answering(RESET))], question(1).packets[:1])
    assert verdicts == [("RESET", 0, None, 1)]


def test_equal_answers_keep_the_first():
    a, b = box(answering(DROP("first"), observe=False)), box(answering(DROP("second")))
    assert noted([a, b], question(1).packets)[1] == [("DROP", 0, "first", 1), ("DROP", 1, "second", 2)]


@pytest.mark.parametrize("verdict", [DROP, DROP_FLOW, RESET])
def test_a_drop_stops_the_walk_behind_it(verdict):
    seen = {n: [] for n in "abcdo"}
    nfs = [box(answering(None, seen=seen["a"])), box(answering(verdict, seen=seen["b"]), answering(None, seen=seen["c"])),
           box(answering(None, seen=seen["d"])), box(answering(None, seen=seen["o"], observe=True))]
    drive(nfs, question(1).packets[:1])
    assert [bool(seen[n]) for n in "abcdo"] == [True, True, True, False, True]


def test_a_drop_in_an_earlier_event_stops_the_later_ones_too():
    seen = []
    nfs = [box(answering(None, seen=seen), name="before"), box(answering(DROP, PacketIn)), box(answering(None, seen=seen))]
    drive(nfs, question(1).packets[:1])
    assert seen == [1]      # the box before the drop; the one behind sees nothing of the packet
    drive(nfs, question(1).packets[1:])
    assert seen == [1, 1]   # to the client the last box is the first


def test_a_box_that_observes_is_behind_every_drop():
    seen = []
    drive([box(answering(DROP)), box(answering(None, seen=seen), observe=True)], question(2))
    assert seen == [1, 2, 3, 4]


def lossy(data=b"abcdef"):
    """A segment, and its retransmission after it was dropped: packets 4 and 5."""
    return tcp("10.0.0.1:1234", "10.0.0.2:80").send(data, ack=False).retransmit(4).ack().close()


@pytest.mark.parametrize("truth", ["tap", "inline"])
def test_a_dropped_packet_leaves_its_receiver_as_it_was(truth):
    """State, offset and slots are those before it; the sender's history has it; its retransmission is offered again."""
    writes, hits = FlowVar(int), Count("hits")
    offered, told, states = [], [], []

    @on(StreamData)
    def drop(ev):
        writes[ev.flow] += 1
        hits.add()
        offered.append((ev.packet.number, ev.offset, ev.data, ev.redelivered, writes[ev.flow]))
        return DROP("once") if ev.packet.number == 4 else None

    @on(PacketIn)
    def before(ev):
        states.append((ev.packet.number, ev.flow.client_side.stream_bytes, ev.flow.server_side.state, writes[ev.flow]))

    @on(StreamData, at="receiver")
    def receiver(ev):
        told.append((ev.packet.number, ev.data))
    nf = box(drop, before, receiver)
    nf.declarations = lambda: [writes, hits]
    engine, verdicts = noted([nf], lossy(), truth=truth)
    assert engine.forwarded == [True, True, True, False, True, True, True, True, True]
    assert verdicts == [("DROP", 0, "once", 4)]
    assert offered == [(4, 0, b"abcdef", False, 1), (5, 0, b"abcdef", True, 1)]
    assert [s for s in states if s[0] in (4, 5, 6)] == [
        (4, 0, "ESTABLISHED", 0), (5, 0, "ESTABLISHED", 0), (6, 6, "ESTABLISHED", 1)]
    assert told == [(5, b"abcdef")] and engine.value(hits) == 2


def test_a_dropped_fin_does_not_close():
    seen = []

    @on(PacketIn, where="fin")
    def fin(ev):
        seen.append((ev.packet.number, ev.flow.server_side.state))
        return DROP if len(seen) == 1 else None
    c = tcp("10.0.0.1:1234", "10.0.0.2:80").fin(ack=False).retransmit(4).close("server")
    drive([box(fin)], c)
    assert [state for _, state in seen[:2]] == ["ESTABLISHED", "ESTABLISHED"]


def test_drop_flow_holds_for_both_directions_and_is_counted():
    calls = []
    engine, verdicts = noted([box(answering(None, seen=calls), name="x"), box(answering(DROP_FLOW("bad")), name="judge")], web())
    assert engine.forwarded == [True] * 3 + [False] * 7 and calls == [4]
    assert verdicts[0] == ("DROP_FLOW", 1, "bad", 4) and {v[:2] for v in verdicts} == {("DROP_FLOW", 1)}
    assert engine.stats()["dropped"] == {"judge": 7}


def test_a_verdict_on_a_flow_holds_from_its_next_packet():
    @on(FlowEstablished)
    def late(ev):
        ev.flow.verdict(DROP_FLOW)
    engine, verdicts = noted([box(answering(None), name="x"), box(late, name="judge")], web())
    assert engine.forwarded == [True] * 3 + [False] * 7
    assert {v[:2] for v in verdicts} == {("DROP_FLOW", 1)} and engine.stats()["dropped"] == {"judge": 7}


def parsed(frames):
    return [dpkt.ethernet.Ethernet(f).data for f in frames]


def sums_are_right(ip):
    again = type(ip)(bytes(ip))
    if isinstance(again, dpkt.ip.IP):
        again.sum = 0
    again.data.sum = 0
    raw = type(again)(bytes(again))
    return raw.data.sum == ip.data.sum and getattr(raw, "sum", None) == getattr(ip, "sum", None)


def written(nfs, packets, tmp_path, **settings):
    path = tmp_path / "out.pcap"
    engine = drive(nfs, packets, write=str(path), **settings)
    assert_balanced(engine.stats())
    return engine, [record[2] for record in open_source(path)]


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("number, who", [(4, "client"), (6, "server")])
def test_a_reset_is_valid_at_both_ends(tmp_path, number, who, six):
    """RSTs carry exactly what each end expects next (RFC 9293 3.10.7.4); later segments get theirs at their own ack."""
    c = web(isn=(2**32 - 3, 7))
    c = c.v6() if six else c
    engine, out = written([box(answering(RESET, where=f"packet_number == {number}"))], c, tmp_path)
    assert engine.forwarded[:number] == [True] * (number - 1) + [False]
    ips = parsed(out)
    assert all(sums_are_right(ip) for ip in ips)
    isn = {"client": 2**32 - 3, "server": 7}
    side = {ip.src: "client" if ip.data.dport == 80 else "server" for ip in ips}
    nxt = {}
    for ip in ips[:number - 1]:
        nxt[side[ip.src]] = (ip.data.seq + len(ip.data.data) + bool(ip.data.flags & dpkt.tcp.TH_SYN)) & 0xffffffff
    resets = ips[number - 1:number + 1]
    assert all(ip.data.flags & dpkt.tcp.TH_RST and not ip.data.data for ip in resets)
    assert {side[ip.src] for ip in resets} == {"client", "server"}
    for ip in resets:
        assert ip.data.seq == nxt[side[ip.src]], "the peer expects this number next"
    assert isn["client"] != nxt["client"]
    later = ips[number + 1:]
    assert later and all(ip.data.flags & dpkt.tcp.TH_RST for ip in later)
    assert engine.stats()["injected"] == len(later) + 2
    for ip in later:
        sent = [p for p in parsed(f for _, f in c.packets[number:]) if p.src == ip.dst]
        assert side[ip.src] != side[ip.dst] and (ip.data.seq in {p.data.ack for p in sent} or ip.data.seq == nxt[side[ip.src]])


def test_a_reset_of_a_syn_refuses_the_connection(tmp_path):
    engine, out = written([box(answering(RESET, FlowStart))], web().packets[:1], tmp_path)
    (ip,) = parsed(out)
    assert ip.data.flags == dpkt.tcp.TH_RST | dpkt.tcp.TH_ACK and (ip.data.ack, ip.data.dport) == (1001, 1234)
    assert sums_are_right(ip) and engine.stats()["injected"] == 1


def test_a_reset_is_not_answered_with_one(tmp_path):
    c = tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"x").rst()
    engine, out = written([box(answering(RESET))], c, tmp_path)
    assert not engine.forwarded[-1] and engine.stats()["injected"] == len(out) - 3


def test_reset_of_udp_is_a_drop_of_the_flow(tmp_path):
    engine, out = written([box(answering(RESET))], question(2), tmp_path)
    assert out == [] and engine.forwarded == [False] * 4


TEXT = st.binary(min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(TEXT, st.data(), st.booleans(), st.sampled_from(["tcp", "udp"]), st.integers(0, 3))
def test_replaced_bytes_have_right_checksums(data, draw, six, proto, odd):
    other = draw.draw(st.binary(min_size=len(data), max_size=len(data)))
    if proto == "tcp":
        c = tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"x" * odd, ack=False).send(data)
    else:
        c = udp("10.0.0.1:1234", "10.0.0.2:53").send(data)
    c = c.v6() if six else c
    last = b"x" * odd + data
    seen = []

    @on(StreamData, edits="same_length")
    def change(ev):
        seen.append(ev.data)
        return Replace(other) if ev.data == data and ev.offset >= (odd if proto == "tcp" else 0) else None

    with tempfile.TemporaryDirectory() as d:
        _, out = written([box(change)], c, Path(d))
    ips = parsed(out)
    assert all(sums_are_right(ip) for ip in ips)
    payloads = [bytes(ip.data.data) for ip in ips if ip.data.data]
    assert other in payloads and b"".join(seen) == (last if proto == "tcp" else data)


def test_boxes_behind_an_edit_see_it_and_those_before_do_not(tmp_path):
    views = {}

    def look(name, **marks):
        @on(StreamData, **marks)
        def handler(ev):
            views.setdefault(name, []).append(ev.data)
        return handler

    @on(StreamData, edits="same_length")
    def upper(ev):
        return Replace(ev.data.upper())
    nfs = [box(look("a")), box(upper, look("same")), box(look("b")), box(look("end", at="receiver"))]
    _, out = written(nfs, question(1), tmp_path)
    assert views == {"a": [b"q0", b"A0"], "same": [b"Q0", b"A0"], "b": [b"Q0", b"a0"], "end": [b"Q0", b"A0"]}
    assert [bytes(ip.data.data) for ip in parsed(out)] == [b"Q0", b"A0"]


def test_two_edits_follow_each_other(tmp_path):
    one = box(answering(lambda ev: Replace(b"1" + ev.data[1:]), edits="same_length"))
    two = box(answering(lambda ev: Replace(ev.data[:1] + b"2"), edits="same_length"))
    _, out = written([one, two], question(1), tmp_path)
    assert [bytes(ip.data.data) for ip in parsed(out)] == [b"12", b"12"]


@pytest.mark.parametrize("at", ["receiver", "acked"])
def test_a_tcp_receiver_sees_the_edited_bytes(at):
    got = []
    drive([box(answering(lambda ev: Replace(ev.data.swapcase()), edits="same_length")),
           box(on(StreamData, at=at)(lambda ev: got.append(ev.data)))], web(data=b"Get", answer=b"Ok"))
    assert got == [b"gET", b"oK"]


def reordered():
    return tcp("10.0.0.1:1234", "10.0.0.2:80", mss=3).send(b"abcdef", ack=False).reorder(4).ack()


def test_bytes_of_an_earlier_packet_cannot_be_replaced():
    nf = box(answering(lambda ev: Replace(b"xyz"), edits="same_length"), on_error="fail_closed", name="late")
    with pytest.raises(HandlerError, match="offset 3 came in an earlier packet.*Replace reaches only the packet at hand"):
        drive([nf], reordered())
    engine, verdicts = noted([nf], reordered(), raise_errors=False)
    assert [v[:2] + v[3:] for v in verdicts] == [("DROP", 0, 5)] and "VerdictError" in verdicts[0][2]
    assert not engine.forwarded[4]


@pytest.mark.parametrize("marks, answer, said", [
    ({}, Replace(b"Q0"), r"answered Replace without declaring it: @on\(…, edits='same_length'\)"),
    ({"edits": "header"}, Replace(b"Q0"), "answered Replace without declaring"),
    ({}, Rewrite(ttl=3), "answered Rewrite without declaring it: .*edits='header'"),
    ({"edits": "same_length"}, Replace(b"longer"), "Replace has 6 bytes, the event 2"),
    ({"observe": True}, DROP, "answered DROP to StreamData, which may only be observed"),
    ({"at": "receiver"}, DROP, "answered DROP to StreamData, which may only be observed"),
    ({"at": "receiver"}, DROP_FLOW, "answered DROP_FLOW to StreamData, which may only be observed"),
    ({}, 3, "returned 3: answer None or a verdict"), ({}, "DROP", "returned 'DROP'"), ({}, True, "returned True"),
    ({}, Verdict("HOLD"), "holding packets is not possible yet")])
def test_what_may_not_be_answered(marks, answer, said):
    with pytest.raises(HandlerError, match=said) as e:
        drive([box(answering(answer, **marks))], question())
    assert isinstance(e.value.__cause__, VerdictError) and e.value.packet == 1


def test_an_event_that_is_only_observed_takes_no_answer():
    with pytest.raises(HandlerError, match="answered DROP to FlowEnd, which may only be observed"):
        @on(FlowEnd)
        def end(ev):
            return DROP
        drive([box(end)], question())


@pytest.mark.parametrize("answer", [BYPASS, DETACH, PASS, None])
def test_what_is_no_answer_about_the_packet_may_always_be_given(answer):
    @on(FlowEnd)
    def end(ev):
        return answer
    drive([box(end, answering(answer, at="receiver"), answering(answer, observe=True))], question())


def test_the_receivers_side_of_a_state_change_can_end_a_flow_only():
    @on(TcpStateChange, where="new == SYN_RECEIVED and side == server")
    def change(ev):
        return DROP
    with pytest.raises(HandlerError, match="after the packet was committed: only DROP_FLOW and RESET"):
        drive([box(change)], web())


def test_the_receiver_is_told_of_committed_packets_alone():
    told = []
    nfs = [box(answering(lambda ev: DROP if ev.offset == 2 else None)), box(answering(None, seen=told, at="receiver"))]
    drive(nfs, question(2))
    assert told == [1, 2]


@pytest.mark.parametrize("make", [
    lambda: Rewrite(), lambda: Rewrite(ttl=0), lambda: Rewrite(ttl=300), lambda: Rewrite(client=("nowhere", 1)),
    lambda: Rewrite(server=("10.0.0.1", 70000)), lambda: Rewrite(client=("10.0.0.1", "80")), lambda: Replace("text"),
    lambda: DROP(3)])
def test_impossible_verdicts_are_refused_where_they_are_written(make):
    with pytest.raises((TypeError, ValueError)):
        make()


def test_verdicts_compare_and_print():
    assert DROP == Verdict("DROP") != DROP("x") and hash(DROP) == hash(Verdict("DROP"))
    assert repr(DROP("x")) == "DROP('x')" and repr(PASS) == "PASS"
    assert answered(DROP, "h", "E", True, False, 0) == CODES["DROP"]


@pytest.mark.parametrize("six", [False, True])
def test_a_ttl_is_rewritten_for_the_packet(tmp_path, six):
    c = web()
    c = c.v6() if six else c
    _, out = written([box(answering(Rewrite(ttl=3), PacketIn, edits="header", where="to_server"))], c, tmp_path)
    ips = parsed(out)
    hops = [getattr(ip, "hlim", None) if six else ip.ttl for ip in ips]
    assert {h for ip, h in zip(ips, hops) if ip.data.dport == 80} == {3}
    assert 3 not in {h for ip, h in zip(ips, hops) if ip.data.sport == 80}
    assert all(sums_are_right(ip) for ip in ips)


def renaming(client=None, server=None, seen=None):
    """Boxes: before, NAT, behind; each notes the names it sees."""
    def look(name, **marks):
        def note(ev):
            seen.append((name, type(ev).__name__, ev.client, ev.client_port, ev.server, ev.packet.src if ev.packet else None))
        return [on(kind, **marks)(lambda ev: note(ev)) for kind in (StreamData, FlowStart, FlowEnd)]

    @on(FlowStart, edits="header")
    def nat(ev):
        return Rewrite(client=client, server=server)
    return [box(*look("before")), box(nat), box(*look("behind"))]


def test_one_flow_with_two_names(tmp_path):
    seen = []
    nfs = renaming(("192.0.2.1", 4000), ("192.0.2.2", 8080), seen)
    engine, out = written(nfs, two_way("192.0.2.2", 8080, "192.0.2.1", 4000), tmp_path)
    assert engine.stats()["flows"] == 1
    ips = parsed(out)
    assert all(sums_are_right(ip) for ip in ips)
    assert {(dotted(ip.src), ip.data.sport, dotted(ip.dst), ip.data.dport) for ip in ips} == {
        ("192.0.2.1", 4000, "192.0.2.2", 8080), ("10.0.0.2", 80, "10.0.0.1", 1234)}
    names = {(who, client, port, server) for who, _, client, port, server, _ in seen}
    assert names == {("before", "10.0.0.1", 1234, "10.0.0.2"), ("behind", "192.0.2.1", 4000, "192.0.2.2")}
    assert {(w, s) for w, k, *_, s in seen if k == "StreamData"} == {
        ("before", "10.0.0.1"), ("before", "10.0.0.2"), ("behind", "192.0.2.1"), ("behind", "192.0.2.2")}


def dotted(raw):
    return ".".join(map(str, raw))


def two_way(outside_server, port, outside_client, client_port):
    """The client's packets as seen inside, the server's as seen outside: what the two wires of a NAT carry."""
    inside = web().packets
    outside = tcp(f"{outside_client}:{client_port}", f"{outside_server}:{port}").send(b"GET / HTTP/1.0\r\n\r\n").reply(
        b"HTTP/1.0 200 OK\r\n\r\n").close().packets
    return [o if dpkt.ethernet.Ethernet(i[1]).data.data.sport == 80 else i for i, o in zip(inside, outside)]


def test_filters_and_shared_predicates_use_the_names_of_their_place():
    hits = []
    inside = "client == 10.0.0.1"
    look = [answering(lambda ev, n=n: hits.append(n), FlowStart, where=inside) for n in "ab"]
    narrowed = FlowStart.where(lambda ev: ev.client == "10.0.0.1")
    calls = [answering(lambda ev, n=n: hits.append(n), narrowed) for n in "cd"]
    nat = box(answering(Rewrite(client=("192.0.2.1", 4000)), FlowStart, edits="header"))
    drive([box(look[0], calls[0]), nat, box(look[1], calls[1])], web())
    assert hits == ["a", "c"]


def test_a_name_that_is_taken_is_refused():
    """Never two flows under one name: the second one is dropped."""
    nat = box(answering(Rewrite(client=("192.0.2.1", 4000)), FlowStart, edits="header"), name="nat")
    packets = [udp(f"10.0.0.1:{p}", "10.0.0.2:53").send(b"x").packets[0] for p in (1000, 1001)]
    engine, verdicts = noted([nat], packets)
    assert engine.forwarded == [True, False] and verdicts[1][:2] == ("DROP_FLOW", 0)


def test_a_name_of_the_other_ip_version_is_refused():
    nat = box(answering(Rewrite(client=("fd00::1", 4000)), FlowStart, edits="header"))
    with pytest.raises(HandlerError, match="fd00::1 is IPv6, the flow is IPv4"):
        drive([nat], question())


def test_a_reset_behind_a_nat_carries_each_sides_names(tmp_path):
    nat = box(answering(Rewrite(client=("192.0.2.1", 4000)), FlowStart, edits="header"))
    _, out = written([nat, box(answering(RESET))], web().packets[:1] + two_way("10.0.0.2", 80, "192.0.2.1", 4000)[1:4], tmp_path)
    resets = [ip for ip in parsed(out) if ip.data.flags & dpkt.tcp.TH_RST]
    assert {(dotted(ip.src), dotted(ip.dst)) for ip in resets} == {("192.0.2.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")}
    assert all(sums_are_right(ip) for ip in resets)


def test_the_verdict_before_is_felt_in_the_middle_of_a_batch(tmp_path):
    """A file of a few packets is one batch: each packet finds what was said about the one before it."""
    seen = []

    @on(PacketIn)
    def each(ev):
        seen.append((ev.packet.number, ev.flow.client_side.stream_bytes, ev.flow.dropped))

    @on(StreamData)
    def judge(ev):
        return {4: DROP, 7: DROP_FLOW}.get(ev.packet.number)

    with Engine(Chain(box(each), box(judge))) as engine:
        c = lossy().packets[:6] + tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"abcdef").send(b"more").send(b"!").packets[5:]
        c = [(1_700_000_000_000_000_000 + i * 1_000_000, f) for i, (_, f) in enumerate(c)]
        (tmp_path / "in.pcap").write_bytes(pcap_bytes(c))
        engine.run(tmp_path / "in.pcap")
    assert seen[3:7] == [(4, 0, False), (5, 0, False), (6, 6, False), (7, 6, False)] and len(seen) == 7
    assert engine.stats()["dropped"] == {"judge": 1 + len(c) - 6}


def test_retransmissions_are_seen_whatever_became_of_the_first():
    seen = []
    drive([box(answering(lambda ev: DROP if ev.packet.number == 4 else None),
               answering(lambda ev: seen.append(ev.packet.number), Retransmission))], lossy())
    assert seen == [5]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["tap", "inline"]))
def test_balances_hold_whatever_is_answered(seed, truth):
    rng = random.Random(seed)
    answers = [None, PASS, DROP, DROP, DROP_FLOW, RESET, BYPASS, DETACH]

    @on(PacketIn)
    @on(StreamData)
    @on(Retransmission)
    def chance(ev):
        return rng.choice(answers) if rng.random() < 0.2 else None
    c = web(port=1 + seed % 60000).shuffle(seed)
    engine = drive([box(chance, name=n) for n in "abc"], [*c.packets, *question(3).packets, (c.clock, b"junk")], truth=truth)
    stats = engine.stats()
    assert_balanced(stats)
    assert stats["packets_in"] == len(c) + 7 and stats["forwarded"] == sum(engine.forwarded)
