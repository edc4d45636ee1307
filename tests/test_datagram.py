"""Datagrams take a short way or the long one: both tell, count and pass on the same."""
from random import Random

import pytest
from boxes import outcome

from mos import DROP, DROP_FLOW, FlowVar, Replace, on
from mos.events import FlowEnd, FlowStart, PacketIn, StreamData
from mos.testing import merge, tcp, udp

seen = FlowVar(int)


def box(told, arms):
    """What the arms of a case do with payloads; everything that is heard is told."""
    @on(StreamData, edits="same_length" if "edit" in arms else None)
    def data(ev):
        seen[ev.flow] += 1
        told.append(("data", ev.flow.id, ev.to_server, ev.offset, ev.data, seen[ev.flow]))
        if "drop" in arms and ev.data[:1] < b"\x30":
            return DROP_FLOW("enough") if seen[ev.flow] > 6 else DROP("low")
        return Replace(bytes(reversed(ev.data))) if "edit" in arms else None

    @on(StreamData, at="receiver")
    def arrived(ev):
        told.append(("arrived", ev.flow.id, ev.offset, ev.data))

    @on(PacketIn)
    def packet(ev):
        told.append(("packet", ev.flow and ev.flow.id, ev.time))

    def life(ev):
        told.append((type(ev).__name__, ev.flow.id, ev.time, ev.flow.client_side.packets, ev.flow.server_side.payload_bytes))
    return [data] + [arrived] * ("receiver" in arms) + [packet] * ("packet" in arms) + [on(k)(life) for k in (FlowStart, FlowEnd)]


def traffic(seed):
    """Datagrams, empty ones too, of eight flows over IPv4 and IPv6, in a VLAN, some idle for long; a connection among them."""
    draw, parts = Random(seed), [tcp("10.0.9.1:9", "10.0.9.2:80", timestamps=True).v6().send(b"six" * 9).reply(b"x").close()]
    for i in range(8):
        c = udp(f"10.0.0.{i + 1}:{draw.randrange(1, 60000)}", f"10.0.1.1:{draw.choice([53, 443, 4789])}",
                vlan=5 if i % 4 == 3 else None)
        for _ in range(draw.randrange(1, 12)):
            draw.choice([c.send, c.reply])(draw.randbytes(draw.randrange(30)))
            if draw.random() < 0.1:
                c.wait(draw.choice([1, 400]))
        parts.append(c.v6() if i % 2 else c)
    return merge(*parts)


@pytest.mark.parametrize("arms", ["", "drop", "edit", "drop edit", "receiver", "packet drop"])
@pytest.mark.parametrize("how", [{}, {"checksum": "verify"}, {"truth": "inline", "safe": "on"}],
                         ids=lambda how: ",".join(how) or "tap")
def test_both_ways_say_the_same(tmp_path, arms, how):
    for seed in range(3):
        found = []
        traffic(seed).pcap(tmp_path / "in.pcap")
        for shortcuts in (True, False):
            told = []
            found.append((told, *outcome(box(told, arms), tmp_path / "in.pcap", shortcuts=shortcuts, **how)))
        assert found[0] == found[1]
        assert len(found[0][0]) > 20
