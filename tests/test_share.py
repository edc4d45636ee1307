"""On a wire the kernel shares frames out by mos.io.fanout's program; fragments come to every worker, and one counts them."""
from collections import Counter

import pytest
from mos.net.bpf import run_code
from packets import ether, ip4, udp

from mos import DROP_FLOW, Engine, on
from mos.events import FlowStart
from mos.io.fanout import program
from mos.testing import icmp_echo, merge, tcp
from mos.testing import udp as datagrams

WORKERS = 3


@on(FlowStart)
def some(ev):
    return DROP_FLOW("some") if ev.flow.client_port % 3 == 1 else None


def on_wire(packets, **settings):
    """Counters of the workers that get their packets by the kernel's program."""
    share, fragments = program(WORKERS), program(WORKERS, "fragments")
    found = []
    for worker in range(WORKERS):
        with Engine([some], **settings) as engine:
            engine.stack.share(worker, WORKERS, on_wire=True)
            for packet in packets:
                ts, frame = packet[:2]
                if run_code(share, frame, len(frame)) == worker or run_code(fragments, frame, len(frame)):
                    engine.feed(frame, ts)
        found.append(engine.stats())
    return found


def one(packets, **settings):
    with Engine([some], **settings) as engine:
        engine.run(iter(packets))
    return engine.stats()


def talk(i=0):
    return tcp(f"10.0.0.1:{1000 + i}", "192.168.7.9:80").send(b"ask").reply(b"answer" * 300).close()


TALKS = {"tcp": talk, "udp": lambda i: datagrams(f"10.0.0.1:{i + 1}", "10.0.0.2:53").send(b"q" * 3000).reply(b"a" * 99),
         "icmp": lambda i: icmp_echo("10.0.0.1", f"10.0.0.{i + 2}", count=3), "tcp 6": lambda i: talk(i).v6()}


@pytest.mark.parametrize("kind", TALKS)
@pytest.mark.parametrize("settings", [{}, {"truth": "inline"}, {"bpf": "not tcp port 9"}], ids=["tap", "inline", "filter"])
def test_fragments_go_where_their_flow_goes(kind, settings):
    """Some datagrams of a flow come whole, others in pieces."""
    packets = merge(*[TALKS[kind](i) for i in range(12)]).packets
    pieces = merge(*[TALKS[kind](i).fragment(*([1, 600] if kind in ("udp", "icmp") else [4, 600])) if i % 2 else TALKS[kind](i)
                     for i in range(12)]).packets
    for sent in (packets, pieces, [p for i, p in enumerate(pieces) if i % 17 != 9]):
        expected, parts = one(sent, **settings), on_wire(sent, **settings)
        assert expected["flows"] == 12 and sum(part["flows"] for part in parts) == 12
        assert sum(part["flows"] > 0 for part in parts) > 1
        for key in ("packets_in", "bytes_in", "forwarded", "packets_out", "held"):
            assert sum(part[key] for part in parts) == expected[key], key
        assert sum((Counter(part["dropped"]) for part in parts), Counter()) == Counter(expected["dropped"])
        for key in ("tracked", "fragments", "decoded"):
            assert sum(part["stages"][key] for part in parts) == expected["stages"][key]
        assert sum(part["decode"]["flow"] for part in parts) == expected["decode"]["flow"]


def test_a_tunnel_in_fragments_goes_where_its_whole_packets_go():
    def vxlan(size, port=50000):
        inner = ether(ip4(udp(bytes(size), src="10.5.0.1", dst="10.5.0.2"), 17, "10.5.0.1", "10.5.0.2"))
        return ip4(udp(b"\x08\0\0\0\0\0\x2a\0" + inner, port, 4789, src="10.9.0.1", dst="10.9.0.2"),
                   17, "10.9.0.1", "10.9.0.2", ident=7)
    whole = vxlan(800, 50001)
    first = ip4(whole[20:20 + 400], 17, "10.9.0.1", "10.9.0.2", ident=8, frag=0x2000)
    last = ip4(whole[420:], 17, "10.9.0.1", "10.9.0.2", ident=8, frag=50)
    parts = on_wire([(1, ether(vxlan(100))), (2, ether(first)), (3, ether(last))])
    assert sorted(part["flows"] for part in parts) == [0, 0, 1] and max(part["stages"]["tracked"] for part in parts) == 2


def test_ids_of_flows_differ_among_workers():
    ids = []
    for worker in range(WORKERS):
        with Engine([]) as engine:
            engine.stack.share(worker, WORKERS, on_wire=True)
            for packet in talk().packets[:1] + talk(1).packets[:1]:
                engine.feed(packet[1], packet[0])
            ids += [flow.id for flow in engine.flows()]
    assert sorted(ids) == [3, 4, 5, 6, 7, 8]
