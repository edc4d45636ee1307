"""Engines: feeding, running, finding flows."""
import json
import os

import pytest
from boxes import box, drive, flows, question, web
from packets import ip4

import mos
from mos import NF, CaptureError, Chain, Count, Engine, FlowVar, HandlerError, StaleFlow, UsageError, on
from mos.events import FlowEnd, FlowStart, PacketIn, StreamData
from mos.testing import merge, tcp, udp


def test_a_live_flow_is_found_by_its_ends():
    with Engine(Chain()) as engine:
        for ns, frame in tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"x").packets:
            engine.feed(frame, ns)
        found = engine.find("tcp", "10.0.0.2", 80, "10.0.0.1", 1234)
        assert found is engine.find("tcp", "10.0.0.1", 1234, "10.0.0.2", 80) and found.client == "10.0.0.1"
        assert engine.find("tcp", "10.0.0.1", 1235, "10.0.0.2", 80) is None
        assert engine.flows() == [found]


def test_tunnels_are_taken_off_as_deep_as_is_allowed():
    frame = question().packets[0][1]
    for _ in range(5):
        frame = frame[:14] + ip4(frame[14:], 4)
    for deep, found in ((4, 0), (5, 1)):
        with Engine(Chain(), limits={"tunnels": deep}) as engine:
            engine.feed(frame, 1)
            assert len(engine.flows()) == found and engine.stats()["decode"]["malformed_depth"] == 1 - found
    with pytest.raises(UsageError, match="limits.tunnels is 9: choose 1 to 8"):
        Engine(Chain(), limits={"tunnels": 9})


def test_the_level_of_flows_refuses_whom_it_leaves_without():
    @on(StreamData)
    def data(ev):
        pass

    @on(FlowStart)
    def start(ev):
        pass
    with pytest.raises(mos.ChainError, match="data wants StreamData, which level=flow does not have"):
        Engine(Chain([data, start]), level="flow")
    with Engine(Chain([start]), level="flow"):
        pass
    with pytest.raises(UsageError, match="level is 'bytes'; choose one of tcp, flow"):
        Engine(Chain(), level="bytes")


def watching(kind, seen):
    return on(kind)(lambda ev: seen.append(type(ev).__name__))


def test_an_engine_closes_itself_unless_something_went_wrong():
    seen = []
    with Engine(Chain([watching(FlowEnd, seen)])) as engine:
        engine.run(web())
    assert seen == ["FlowEnd"] and engine.closed
    engine.close()
    with pytest.raises(KeyError):
        with Engine(Chain([watching(FlowEnd, seen)])) as engine:
            engine.run(web().packets[:4])
            raise KeyError
    assert seen == ["FlowEnd"] and engine.closed, "after a failure nobody is told"


def test_the_boxes_are_told_when_it_starts_and_stops():
    class Hooked(NF):
        calls = []

        def start(self, engine):
            self.calls.append(("start", engine.clock))

        def stop(self, engine):
            self.calls.append(("stop", engine.stats()["forwarded"]))
    with Engine(Chain(Hooked())) as engine:
        engine.run(web())
    assert Hooked.calls == [("start", 0), ("stop", 10)]


def test_a_chain_may_be_run_again_with_other_settings():
    """What one run asks of errors does not stick to the chain."""
    @on(StreamData)
    def boom(ev):
        raise ValueError
    chain = Chain([boom])
    with pytest.raises(HandlerError):
        drive(chain, question())
    assert drive(chain, question(), raise_errors=False).forwarded == [True, True]
    with pytest.raises(HandlerError):
        drive(chain, question())


def test_state_of_two_engines_is_apart():
    hits = Count("hits")

    @on(PacketIn)
    def count(ev):
        hits.add()
    nf = box(count)
    nf.declarations = lambda: [hits]
    chain = Chain(nf)
    a, b = Engine(chain), Engine(chain)
    for engine, times in ((a, 1), (b, 3), (a, 1)):
        for ns, frame in question(times):
            engine.feed(frame, ns)
    assert (a.value(hits), b.value(hits)) == (4, 6)
    a.close(), b.close()


KEYS = {"packets_in", "packets_out", "forwarded", "dropped", "held", "consumed", "injected", "split", "bytes_in", "flows", "events",
        "seconds", "cpu_seconds", "peak_rss_bytes", "peak_anon_bytes",
        "packets_per_cpu_second", "peak_flows", "flow_bytes", "stages", "orphans", "refused", "ended", "decode", "bus",
        "reassembly", "timers", "ring_lost"}


def test_counters_have_the_keys_that_are_documented():
    stats = drive([], web()).stats()
    assert KEYS <= set(stats) and json.dumps(stats)
    assert stats["packets_in"] == stats["forwarded"] == 10 and stats["bytes_in"] == sum(len(f) for _, f in web())
    assert stats["peak_flows"] == 1 and stats["flow_bytes"]["record"] == 298 and stats["flow_bytes"]["extra"] > 0
    assert stats["packets_per_cpu_second"] > 0


def test_events_of_a_capture_are_walked_as_copies(tmp_path):
    path = web(data=b"ask").pcap(tmp_path / "a.pcap")
    events = list(mos.open(path).events(FlowStart, StreamData, FlowEnd))
    assert [type(e).__name__ for e in events] == ["FlowStart", "StreamData", "StreamData", "FlowEnd"]
    assert events[1].data == b"ask" and events[1].packet.number == 4 and events[3].reason == "fin"
    assert [e.to_server for e in mos.open(path).events(StreamData, where="not to_server")] == [False]
    assert len(list(mos.open(path).events())) > 20


def test_a_walk_tells_totals_of_flows_that_have_ended(tmp_path):
    talk, var = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"ask").reply(b"answer").close(), FlowVar(int)
    path = merge(talk, udp("10.0.0.3:5", "10.0.0.4:53").send(b"who")).pcap(tmp_path / "two.pcap")
    began = {ev.flow: ev.time for ev in mos.open(path).events(FlowStart)}
    ended = sorted(mos.open(path).events(FlowEnd), key=lambda ev: ev.flow.id)
    assert [(ev.flow.proto, ev.flow.client_bytes, ev.flow.server_side.payload_bytes, ev.flow.end_reason) for ev in ended] == [
        ("tcp", 3, 6, "fin"), ("udp", 3, 0, "shutdown")]
    assert ended[0].flow.history == "ShADadFf" and ended[0].flow.client_side.state == "TIME_WAIT"
    assert [ev.flow.first_ns for ev in ended] == list(began.values()) and all(ev.flow.ended for ev in ended)
    both = {}           # a copy is the same key as the flow
    for ev in mos.open(path).events(FlowStart, FlowEnd):
        both.setdefault(ev.flow, []).append(ev.name)
    assert list(both.values()) == [["FlowStart", "FlowEnd"]] * 2
    for ask in (lambda flow: flow.timer(1), lambda flow: var[flow], lambda flow: flow.attach(len)):
        with pytest.raises(StaleFlow):
            ask(ended[0].flow)


def test_leaving_the_walk_closes_the_file(tmp_path):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))
    path = flows(300).pcap(tmp_path / "a.pcap")
    before = descriptors()
    for ev in mos.open(path).events(FlowStart):
        assert ev.flow.id == 1 and descriptors() > before
        break
    del ev
    assert descriptors() == before


def test_two_walks_can_be_taken_in_step(tmp_path):
    """Each walk's state is its own while the other one runs."""
    path = flows(200).pcap(tmp_path / "a.pcap")
    hits = Count("hits")

    @on(PacketIn)
    def count(ev):
        hits.add()
    nf = box(count)
    nf.declarations = lambda: [hits]
    pairs = zip(mos.open(path).events(PacketIn), mos.open(path).events(PacketIn))
    with Engine(Chain(nf)) as engine:
        a, b = next(pairs)
        for ns, frame in question(2):
            engine.feed(frame, ns)
            next(pairs)
    assert engine.value(hits) == 4 and (a.packet.number, b.packet.number) == (1, 1)
    assert sum(1 for _ in pairs) == 600 - 5


def test_a_damaged_capture_gives_what_precedes(tmp_path):
    path = tmp_path / "a.pcap"
    path.write_bytes(flows(100).pcap_bytes()[:-5])
    got = []
    with pytest.raises(CaptureError, match="packet"):
        for ev in mos.open(path).events(PacketIn):
            got.append(ev.packet.number)
    assert len(got) == 299
    engine = Engine(Chain())
    with pytest.raises(CaptureError):
        engine.run(path)
    assert engine.stats()["packets_in"] == 299
    engine.abandon()


@pytest.mark.parametrize("settings, said", [
    ({"truth": "tapp"}, "truth is 'tapp'; choose one of tap, inline"), ({"overlap": "frist"}, "overlap"),
    ({"timeouts": {"ESTABLISHD": 5}}, "no time-out is called 'ESTABLISHD'"), ({"limits": {"byte": 5}}, "no limit is called 'byte'"),
    ({"limits": {"sets": 65537}}, "limits.sets is 65537"),
    ({"bpf": "tcp prt 5"}, "prt|filter|syntax")])
def test_wrong_settings_are_refused_by_name(settings, said):
    with pytest.raises(UsageError, match=said):
        drive([], question(), **settings)
