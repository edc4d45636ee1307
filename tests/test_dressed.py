"""Packets in VLANs and tunnels are decoded with their batch: what can be seen, and when, is as if each were in its turn."""
import io
import struct
from random import Random

import pytest
from packets import A6, B6, UDP, B, ether, ip4, ip6, tcp, tcp4, tcp6, udp

from mos import Chain, Engine, on
from mos.events import CapReached, FlowStart, Malformed, StreamData
from mos.testing.packets import pcap_bytes


def ipip(frame_in, src="192.0.2.1"):
    return ip4(frame_in, 4, src, B)


def wrapped(rng, inner):
    """`inner`, an IPv4 packet, in some of what packets wear, or in nothing."""
    vlans = [rng.randrange(1, 4) for _ in range(rng.randrange(3))]
    kind = rng.randrange(10)
    if kind < 2:
        inner = ipip(inner, f"192.0.2.{rng.randrange(1, 5)}")
    elif kind == 2:
        inner = ip4(struct.pack("!HHI", 0x2000, 0x0800, rng.randrange(3)) + inner, 47, B, "192.0.2.9")
    elif kind == 3:
        vxlan = b"\x08\0\0\0\0\0" + bytes([rng.randrange(3), 0]) + ether(inner, vlans=vlans)
        inner = ip4(udp(vxlan, dport=4789), UDP)
    elif kind == 4:
        inner = ip6(inner, 4)
    elif kind == 5:         # a glance does not tell what that is
        return ether(b"\x11\0" + struct.pack("!HHH", rng.randrange(3), len(inner) + 2, 0x21) + inner, 0x8864, vlans)
    return ether(inner, vlans=vlans)


def traffic(seed, n):
    """Frames of a few flows: plain and dressed ones, fragments within tunnels, broken ones, some too short."""
    rng, next_seq = Random(seed), {}
    for i in range(n):
        src, sport = f"10.0.0.{rng.randrange(1, 4)}", rng.randrange(1000, 1004)
        seq = next_seq.get((src, sport), 1)
        what = rng.randrange(12)
        if what == 0:
            yield ether(tcp6(b"6" * 30, sport=sport), vlans=[rng.randrange(3)])
        elif what == 1:
            yield ether(ip6(udp(b"name" * 5, src=A6, dst=B6), UDP))
        elif what == 2:
            whole = tcp(b"f" * 64, src=src, sport=sport, seq=seq)
            pieces = [ip4(whole[:48], src=src, ident=i, frag=0x2000), ip4(whole[48:], src=src, ident=i, frag=6)]
            yield from (wrapped(rng, piece) for piece in rng.sample(pieces, 2))
        elif what == 3:
            yield wrapped(rng, tcp4(b"b" * 10, src=src))[:rng.randrange(10, 90)]
        else:
            data = bytes([i & 255]) * rng.randrange(1, 40)
            yield wrapped(rng, tcp4(data, src=src, sport=sport, seq=seq, flags=2 if seq == 1 else 24))
            next_seq[src, sport] = seq + len(data)


def write(path, frames):
    path.write_bytes(pcap_bytes((i * 1000, frame) for i, frame in enumerate(frames)))
    return path


def seen(path, **how):
    """Log, what is not in it, and counters of a run."""
    out, facts = io.StringIO(), []

    @on(FlowStart)
    @on(StreamData)
    def note(ev):
        facts.append((ev.packet and ev.packet.number, ev.flow.id, ev.flow.domain, ev.flow.vlan, ev.flow.tunnel))

    @on(Malformed)
    @on(CapReached)
    def met(ev):
        facts.append((ev.packet.number, ev.cause))
    with Engine(Chain([note, met]), log=out, hash_key=bytes(16), **how) as engine:
        engine.run(path)
    stats = engine.stats()
    stats["stages"].pop("predicted")
    return out.getvalue(), facts, {k: v for k, v in stats.items() if not k.startswith(("seconds", "cpu_", "peak_", "packets_per_"))}


@pytest.mark.parametrize("checksum", ["off", "verify"])
@pytest.mark.parametrize("seed", range(12))
def test_any_mixture(seed, checksum, tmp_path):
    path = write(tmp_path / "mix.pcap", traffic(seed, 1500))
    short, long = (seen(path, shortcuts=s, checksum=checksum) for s in (True, False))
    assert short == long
    assert len({domain for _, _, domain, *_ in (f for f in long[1] if len(f) == 5)}) > 40


def test_more_domains_than_there_are(tmp_path):
    """That there is no room for a packet's domain is told with that packet."""
    def tagged(n):
        plain = ether(tcp4())
        for i in range(n):
            outer, inner = divmod(i, 4000)
            yield plain[:12] + struct.pack("!HHHH", 0x8100, 1 + outer, 0x8100, 1 + inner) + plain[12:]
    path = write(tmp_path / "tagged.pcap", tagged(65_600))
    short, long = (seen(path, shortcuts=s) for s in (True, False))
    assert short == long
    assert [f for f in short[1] if f[1] == "domains"] == [(n, "domains") for n in range(65_537, 65_601)]
    assert short[2]["decode"]["domain_overflow"] == 64
