"""A run takes ordinary packets express, `feed` never does: both tell the same, in the same order, and pass the same on."""
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mos import DROP, DROP_FLOW, Chain, Engine, FlowVar, on
from mos.events import FlowEnd, FlowEstablished, FlowStart, StreamData, StreamGap
from mos.testing import merge, tcp, udp

turns = FlowVar(int)


def box(share, told):
    """Tells what happens to flows. Drops data whose bytes sum up to a multiple of `share`, and flows after five such."""
    @on(StreamData)
    def data(ev):
        turns[ev.flow] += 1
        told.append((ev.flow.id, ev.to_server, ev.offset, ev.data, ev.redelivered, turns[ev.flow], ev.flow.client_side.packets))
        if share and sum(ev.data) % share == 0:
            return DROP_FLOW("often") if turns[ev.flow] > 5 else DROP("by its sum")

    def life(ev):
        told.append((type(ev).__name__, ev.flow.id, ev.time, ev.flow.client_side.wire_bytes, ev.flow.server_side.wire_bytes))
    return [data] + [on(kind)(lambda ev: life(ev)) for kind in (FlowStart, FlowEstablished, FlowEnd, StreamGap)]


def outcome(packets, path, share, express, **how):
    """What was told, the counters, and what left."""
    told, out = [], path.with_name(f"out_{express}.pcap")
    with Engine(Chain(box(share, told)), hash_key=bytes(16), write=out, **how) as engine:
        if express:
            engine.run(path)
        else:
            for ns, frame in packets:
                engine.feed(frame, ns)
    stats = engine.stats()
    return told, {k: v for k, v in stats.items() if k in ("packets_in", "bytes_in", "forwarded", "dropped", "flows")}, \
        stats["stages"], out.read_bytes()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0, 2, 7]), truth=st.sampled_from(["tap", "inline", "safe"]))
@example(seed=14, share=7, truth="tap")     # a hole whose bytes, dropped here, are acknowledged before anything waits behind it
def test_a_run_says_what_feeding_says(tmp_path_factory, seed, share, truth):
    """Six connections at a time; some end, some do not, segments of some are lost or come late, half of them minutes apart."""
    draw = Random(seed)
    parts = []
    for i in range(6):
        c = tcp(f"10.0.0.{i + 1}:{draw.randrange(1, 60000)}", "10.0.1.1:80", timestamps=draw.random() < 0.5)
        for _ in range(draw.randrange(6)):
            c.send(draw.randbytes(draw.randrange(1, 40)), ack=draw.random() < 0.7).reply(draw.randbytes(9))
            if draw.random() < 0.1:
                c.wait(draw.choice([1, 400, 4000]))
        if draw.random() < 0.7:
            c.close(draw.choice(["client", "server"]))
        for _ in range(draw.randrange(3)):
            draw.choice([c.lose, c.duplicate, c.reorder])(draw.randrange(1, len(c.packets)))
        parts.append(c)
    packets = merge(*parts)
    path = tmp_path_factory.mktemp("express") / "in.pcap"
    packets.pcap(path)
    how = {"truth": "tap" if truth == "tap" else "inline", "safe": "on" if truth == "safe" else "off"}
    assert outcome(packets.packets, path, share, True, **how) == outcome(packets.packets, path, share, False, **how)


@pytest.mark.parametrize("full", ["embryonic", "lru", "refuse"])
@pytest.mark.parametrize("truth", ["tap", "inline", "safe"])
def test_a_full_table_is_met_alike(tmp_path, full, truth):
    """Flows begin where there is room for three; time-outs run out between their packets, and ends speak again after them."""
    parts = []
    for i in range(40):
        c = tcp(f"10.0.0.{i % 7 + 1}:{i % 9 + 1}", "10.0.1.1:80", start_ns=10**18 + i * 700_000_000)
        c.send(b"request").reply(b"response")
        if i % 3:
            c.wait(i % 4 * 3).close("client" if i % 2 else "server")
        parts.append(c)
    packets = merge(*parts)
    packets.pcap(tmp_path / "in.pcap")
    how = {"truth": "tap" if truth == "tap" else "inline", "safe": "on" if truth == "safe" else "off", "full": full, "max_flows": 3}
    assert outcome(packets.packets, tmp_path / "in.pcap", 5, True, **how) == \
        outcome(packets.packets, tmp_path / "in.pcap", 5, False, **how)


def test_at_the_level_of_flows_both_ways_count_alike(tmp_path):
    """TCP is counted only: whatever its segments say, each is its flow's, which ends when the run does."""
    parts = [tcp(f"10.0.0.{i + 1}:{i + 1}", "10.0.1.1:80").send(b"request").reply(b"response").close("client") for i in range(5)]
    packets = merge(*parts, udp("10.0.2.1:1", "10.0.2.2:9").send(b"a").reply(b"bb").send(b""))
    packets.pcap(tmp_path / "in.pcap")

    def ends(express):
        told = []

        @on(FlowEnd)
        def ended(ev):
            client, server = ev.flow.client_side, ev.flow.server_side
            told.append((ev.flow.id, ev.reason, client.packets, client.payload_bytes, server.state))
        with Engine(Chain([ended]), level="flow") as engine:
            if express:
                engine.run(tmp_path / "in.pcap")
            else:
                for ns, frame in packets.packets:
                    engine.feed(frame, ns)
        assert engine.stats()["stages"]["predicted"] == 0
        return told
    told = ends(True)
    assert told == ends(False) and len(told) == 6
    assert {t[1:] for t in told} == {("shutdown", 2, 1, "CLOSED"),
                                     ("fin", sum(p.side == "client" for p in parts[0].built), 7, "CLOSED")}
