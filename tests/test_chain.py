"""A chain of six boxes on one stack against six runs with one box each: same log, same verdicts, same packets, work done once."""
import io
import json

import dpkt
import pytest
from boxes import assert_balanced, box
from source_tree import ROOT

from mos.events import FlowEnd, FlowStart, PacketIn, StreamData, UserEvent, derive, on
from mos.events.verdict import DROP, DROP_FLOW, RESET, Replace, Rewrite
from mos.io.source import open_source
from mos.nf import Chain
from mos.run import Engine
from mos.state.kinds import Count, FlowVar
from mos.testing import merge, tcp, udp

CAPTURES = sorted(p for p in (ROOT / "pcaps").iterdir() if p.suffix in (".pcap", ".pcapng"))
PORTS = range(1001, 1007)       # box n acts on the flow whose client has port 1000 + n


class Seen(UserEvent):
    packets: int


def six_boxes():
    writes, hits = FlowVar(int), Count("hits")

    @on(StreamData, where="client_port == 1001 and to_server and not redelivered")
    def drop(ev):
        return DROP("the first copy")

    @on(StreamData, where="client_port == 1002 and offset > 5")
    def drop_flow(ev):
        return DROP_FLOW("enough")

    @on(StreamData, where="client_port == 1003 and not to_server")
    def reset(ev):
        return RESET("no answer for you")

    @on(StreamData, where="client_port == 1004", edits="same_length")
    def upper(ev):
        return Replace(ev.data.upper())

    @on(PacketIn, where="client_port == 1005", edits="header")
    def hop(ev):
        return Rewrite(ttl=9)

    @on(StreamData, where="client_port == 1006")
    def count(ev):
        writes[ev.flow] += ev.length
        hits.add()

    @derive(Seen, on=FlowEnd, where="client_port == 1006")
    def seen(ev):
        yield Seen(writes[ev.flow])
    last = box(count, seen, name="count")
    last.declarations = lambda: [writes, hits]
    return [box(drop), box(drop_flow), box(reset), box(upper), box(hop), last]


def traffic():
    def web(port, start):
        c = tcp(f"10.0.0.1:{port}", "10.0.0.2:80", start_ns=1_700_000_000_000_000_000 + start)
        return c.send(b"ask" * 3, ack=False).retransmit(4).ack().reply(b"answer" * 400).send(b"more").close()
    dns = udp("10.0.0.1:1005", "10.0.0.2:53", start_ns=1_700_000_000_000_000_000).send(b"q").reply(b"a").send(b"Q").reply(b"A")
    return merge(dns, *[web(port, 1000 * i) for i, port in enumerate(PORTS) if port != 1005]).packets


def run(nfs, packets, path):
    log = io.StringIO()
    with Engine(Chain(*nfs), log=log, write=str(path)) as engine:
        engine.run(packets)
    assert_balanced(engine.stats())
    return engine.stats(), [json.loads(line) for line in log.getvalue().splitlines()], [r[2] for r in open_source(path)]


def port_of(frame):
    l4 = dpkt.ethernet.Ethernet(frame).data.data
    return next(p for p in (l4.sport, l4.dport) if p in PORTS)


def test_what_does_not_interact_is_the_sum_of_its_parts(tmp_path):
    packets = traffic()
    whole, log, out = run(six_boxes(), packets, tmp_path / "whole.pcap")
    ports = {}

    @on(FlowStart)
    def name(ev):
        ports[ev.client_port] = ev.flow.id
    run([box(name)], packets, tmp_path / "names.pcap")
    for n, port in enumerate(PORTS):
        alone, lines, left = run([six_boxes()[n]], packets, tmp_path / "alone.pcap")
        flow = ports[port]
        mine = [line for line in log if line["flow"] == flow]
        assert mine == [line for line in lines if line["flow"] == flow], f"box {n}"
        assert [f for f in out if port_of(f) == port] == [f for f in left if port_of(f) == port]
        assert whole["dropped"].get(six_boxes()[n].label(), 0) == sum(alone["dropped"].values())
        for stage in ("decoded", "unselected", "other"):
            assert whole["stages"][stage] == alone["stages"][stage]
    assert whole["stages"]["decoded"] == len(packets) >= whole["stages"]["tracked"]
    assert {line["verdict"] for line in log if line["event"] == "Verdict"} == {"DROP", "DROP_FLOW", "RESET", "EDIT"}


def watchers():
    """Six boxes that only watch: subscriptions to all levels, no answers."""
    total = []
    kinds = [PacketIn, FlowStart, StreamData, StreamData.where("length > 100"), FlowEnd, StreamData]
    nfs = []
    for i, kind in enumerate(kinds):
        @on(kind)
        def watch(ev, i=i):
            total.append((i, type(ev).__name__, ev.time))
        nfs.append(box(watch, name=f"watch{i}"))
    return nfs, total


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.name)
def test_six_watchers_cost_the_stack_once(capture, tmp_path):
    nfs, together = watchers()
    whole, log, out = run(nfs, capture, tmp_path / "whole.pcap")
    for i in range(6):
        nfs, alone = watchers()
        stats, lines, left = run([nfs[i]], capture, tmp_path / "alone.pcap")
        assert lines == log and left == out and stats["stages"] == whole["stages"]
        assert [t for t in together if t[0] == i] == alone
    assert whole["stages"]["decoded"] == whole["packets_in"] and whole["stages"]["reassembled"] <= whole["stages"]["tracked"]
