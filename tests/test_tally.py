"""Where packets are only counted a run counts most of them side by side: what is told and counted is as one by one."""
import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import ether, tcp4

from mos import DROP_FLOW, Chain, Engine, FlowVar, on
from mos.events import FlowEnd, FlowStart, Orphan, Timer
from mos.testing import merge, tcp, udp
from mos.testing.packets import pcap_bytes

PASSING = ("seconds", "cpu_", "peak_", "packets_per_")
ends = FlowVar(int)


def conversation(draw, i):
    """One of several kinds, at times that mix with those of others."""
    port, kind = draw.randrange(1, 60000), draw.randrange(8)
    if kind == 0:
        return udp(f"10.0.0.{i + 1}:{port}", "10.0.1.1:53").send(b"question").reply(b"answer")
    c = tcp(f"10.0.0.{i + 1}:{port}", f"10.0.{draw.randrange(2)}.1:{draw.choice([80, 60001])}", timestamps=draw.random() < 0.5)
    for _ in range(draw.randrange(6)):
        c.send(draw.randbytes(draw.randrange(40))).reply(draw.randbytes(9))
        if draw.random() < 0.1:
            c.wait(draw.choice([1, 60, 400, 4000]))
    if draw.random() < 0.7:
        c.close(draw.choice(["client", "server"]))
    for _ in range(draw.randrange(2)):
        draw.choice([c.lose, c.duplicate, c.reorder])(draw.randrange(1, len(c.packets)))
    if kind == 1:
        c.v6()
    elif kind == 2:
        c.on_vlan(*draw.choice([(7,), (7, 8)]))
    return c


def traffic(seed):
    """Conversations, and between their packets some that are broken, or nobody's."""
    draw = Random(seed)
    packets = merge(*[conversation(draw, i) for i in range(draw.randrange(1, 24))]).packets
    for _ in range(draw.randrange(12)):
        at = draw.randrange(len(packets))
        frame = bytearray(draw.choice([packets[at][1], ether(tcp4(b"z", options=b"\x13\x05")) + bytes(6)]))
        frame[draw.randrange(len(frame))] = draw.randrange(256)
        packets.insert(at, (packets[at][0], bytes(frame[:draw.choice([len(frame), draw.randrange(1, len(frame) + 1)])])))
    return packets


def box(kind, told):
    """Handlers that only listen, that drop flows, that keep state and set timers; or none."""
    def tell(ev, *more):
        sides = ev.flow.client_side, ev.flow.server_side
        told.append((type(ev).__name__, ev.flow.id, ev.time, *[(s.packets, s.wire_bytes, s.payload_bytes) for s in sides], *more))

    @on(FlowStart)
    def start(ev):
        tell(ev)
        ends[ev.flow] += 1
        if kind == "timers":
            ev.flow.timer(0.01, ev.client_port)
        return DROP_FLOW("odd") if kind == "drops" and ev.client_port % 2 else None

    @on(Timer)
    def timer(ev):
        tell(ev, ev.value)
        ends[ev.flow] += 1

    @on(FlowEnd)
    def end(ev):
        tell(ev, ev.reason, ends[ev.flow])

    @on(Orphan)
    def orphan(ev):
        told.append(("Orphan", ev.cause, ev.packet.number))
    return {"none": [], "drops": [[start, end, orphan]], "timers": [[start, timer, end]]}[kind]


def outcome(path, kind, shortcuts, **how):
    told = []
    with Engine(Chain(*box(kind, told)), level="flow", shortcuts=shortcuts, hash_key=bytes(16), **how) as engine:
        engine.run(path)
        engine.stack.flows.invariants()
    return told, {k: v for k, v in engine.stats().items() if not k.startswith(PASSING)}


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["none", "drops", "timers"]),
       how=st.sampled_from([{}, {"max_flows": 4}, {"max_flows": 4, "full": "refuse"}, {"pickup": "off"}, {"checksum": "off"}]))
def test_counted_side_by_side_as_one_by_one(tmp_path_factory, seed, kind, how):
    path = tmp_path_factory.mktemp("tally") / "in.pcap"
    path.write_bytes(pcap_bytes(traffic(seed)))
    how = {"checksum": "off"} | how
    assert outcome(path, kind, True, **how) == outcome(path, kind, False, **how)


@pytest.mark.parametrize("flows", [1, 3, 128, 700])
def test_counts_are_those_of_the_packets(tmp_path, flows):
    """Each flow's packets and bytes, by a count of our own: the flows' packets take turns, so they are far apart, and near."""
    expected, packets = {}, []
    for turn in range(40):
        for i in range(flows):
            port, up, size = 1000 + i, turn % 3 == 0, (turn * 7 + i) % 50
            src, dst = ("10.0.0.1", "10.0.0.2") if i % 2 else ("10.0.0.2", "10.0.0.1")
            ends = (port, 80) if up else (80, port)
            frame = ether(tcp4(b"x" * size, sport=ends[0], dport=ends[1], flags=2 if not turn else 16,
                               src=src if up else dst, dst=dst if up else src))
            packets.append((10**18 + 1000 * len(packets), frame))
            count = expected.setdefault((src, port), [[0, 0, 0], [0, 0, 0]])[not up]
            count[0], count[1], count[2] = count[0] + 1, count[1] + len(frame), count[2] + size
    (tmp_path / "in.pcap").write_bytes(pcap_bytes(packets))
    found = {}

    @on(FlowEnd)
    def end(ev):
        found[str(ev.client), ev.client_port] = [[s.packets, s.wire_bytes, s.payload_bytes]
                                                 for s in (ev.flow.client_side, ev.flow.server_side)]
    with Engine(Chain([end]), level="flow", checksum="off") as engine:
        engine.run(tmp_path / "in.pcap")
    assert found == expected


def test_a_handler_that_stops_the_run_stops_it_there(tmp_path):
    packets = merge(*[tcp(f"10.0.0.{i + 1}:5", "10.0.1.1:80").send(b"x" * i).close() for i in range(50)]).packets
    (tmp_path / "in.pcap").write_bytes(pcap_bytes(packets))

    def after(shortcuts):
        @on(FlowStart)
        def start(ev):
            if ev.client_port == 5 and str(ev.client) == "10.0.0.17":
                engine.halt()
        with Engine(Chain([start]), level="flow", checksum="off", shortcuts=shortcuts) as engine:
            engine.run(tmp_path / "in.pcap")
        return engine.stats()["packets_in"]
    assert after(True) == after(False) < len(packets)


def test_ticks_of_a_recording_pass_by(tmp_path):
    """What is no packet, among packets: time passes and nothing is counted."""
    section = struct.pack("<IIIHHqI", 0x0a0d0d0a, 28, 0x1a2b3c4d, 1, 0, -1, 28) + struct.pack("<IIHHII", 1, 20, 1, 0, 0, 20)
    blocks = [section]
    for i, (_, frame) in enumerate(tcp("10.0.0.1:1", "10.0.0.2:2").send(b"a").reply(b"b").packets):
        body = struct.pack("<5I", 0, 0, 1000 * i, len(frame), len(frame)) + frame + bytes(-len(frame) % 4)
        blocks.append(struct.pack("<II", 6, 12 + len(body)) + body + struct.pack("<I", 12 + len(body)))
        blocks.append(struct.pack("<7I", 0xbad, 28, 32473, 1, 0, 1000 * 1000 * i, 28))
    (tmp_path / "in.pcapng").write_bytes(b"".join(blocks))
    both = [outcome(tmp_path / "in.pcapng", "timers", shortcuts, checksum="off") for shortcuts in (True, False)]
    assert both[0] == both[1] and both[0][1]["packets_in"] == len(blocks) // 2
