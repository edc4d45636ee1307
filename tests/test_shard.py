"""Each packet has one worker, each flow the same one in both directions, however its packets are wrapped."""
import pytest

from mos import Engine
from mos.testing import icmp_echo, merge, tcp, udp

WORKERS = 4


def split(packets, **settings):
    """Counters of one stack that takes all, and of WORKERS that share."""
    found = []
    for worker in range(-1, WORKERS):
        engine = Engine([], **settings)
        if worker >= 0:
            engine.stack.share(worker, WORKERS)
        with engine:
            engine.run(iter(packets))
        found.append(engine.stats())
    return found[0], found[1:]


def taker(conversation, **settings):
    """The worker that takes all of a conversation's flow."""
    one, parts = split(conversation.packets, **settings)
    takers = [i for i, part in enumerate(parts) if part["flows"]]
    assert len(takers) == 1 and parts[takers[0]]["stages"]["tracked"] == one["stages"]["tracked"] > 1
    assert sum(part["packets_in"] for part in parts) == one["packets_in"]
    return takers[0]


def talk(port=1000, **settings):
    return tcp(f"10.0.0.1:{port}", "192.168.7.9:80", **settings).send(b"ask").reply(b"answer" * 300).close()


@pytest.mark.parametrize("port", range(1000, 1008))
def test_a_flow_is_where_it_is_however_it_comes(port):
    """Plain frames are told by a few loads, the others decoded: both must name the same worker."""
    plain = taker(talk(port))
    assert {taker(talk(port, vlan=5)), taker(talk(port).fragment(8, 400)), taker(talk(port), bpf="tcp")} == {plain}
    assert taker(talk(port).v6()) == taker(talk(port, vlan=5).v6())


def test_other_protocols_are_shared_out_too():
    assert taker(udp("10.0.0.1:1", "10.0.0.2:53").send(b"q" * 3000).reply(b"a")) == \
        taker(udp("10.0.0.1:1", "10.0.0.2:53").send(b"q" * 3000).reply(b"a").fragment(1, 1000))
    taker(icmp_echo("10.0.0.1", "10.0.0.2", count=3))


def test_shares_are_fair_and_add_up():
    packets = merge(*[tcp(f"10.0.{i % 7}.{i % 11}:{1000 + i}", f"10.9.0.{i % 3}:80", start_ns=i * 1000).send(b"x").close()
                      for i in range(400)]).packets
    one, parts = split(packets)
    assert sum(part["flows"] for part in parts) == one["flows"] == 400
    assert all(60 < part["flows"] < 140 for part in parts)
    for key in ("packets_in", "bytes_in", "forwarded", "packets_out"):
        assert sum(part[key] for part in parts) == one[key]
    assert sum(part["decode"]["flow"] for part in parts) == one["decode"]["flow"]


def test_what_belongs_to_no_flow_is_the_first_workers():
    frame = bytes(12) + b"\x08\x06" + bytes(46)
    one, parts = split([(1, frame), (2, frame[:20])])
    assert [part["packets_in"] for part in parts] == [2, 0, 0, 0]
    assert [part["decode"]["packets"] for part in parts] == [2, 0, 0, 0]


def test_packets_that_the_filter_leaves_out_pass_once():
    one, parts = split(talk().packets, bpf="udp")
    assert [part["packets_in"] for part in parts] == [one["packets_in"], 0, 0, 0] and one["forwarded"] == one["packets_in"]
