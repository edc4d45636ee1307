"""UDP and IPv6 take a short way through decode, too: it must find what the long one does, and a worker must know whose they are."""
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mos.net.decode import Decoder
from packets import A6, B6, UDP, A, B, ether, ip4, ip6, tcp6, udp

from mos import Engine

TIMES = b"\1\1\x08\x0a\1\2\3\4\5\6\7\x08"
VXLAN = b"\x08\0\0\0\0\0\7\0" + ether(tcp6(b"inner"))


def udp6(payload=b"", **fields):
    return ip6(udp(payload, src=A6, dst=B6, **fields), UDP)


WHOLE = {
    "udp4": ether(ip4(udp(b"question"), UDP)), "back": ether(ip4(udp(b"answer", 53, 1000, B, A), UDP, src=B, dst=A)),
    "empty": ether(ip4(udp(b""), UDP)) + bytes(18), "no sum": ether(ip4(udp(b"x", check=0), UDP)),
    "shorter": ether(ip4(udp(b"trailer", length=10), UDP)), "vxlan": ether(ip4(udp(VXLAN, dport=4789), UDP)),
    "teredo": ether(ip4(udp(udp6(b"x"), sport=3544), UDP)), "fragment": ether(ip4(udp(b"x" * 16), UDP, frag=0x2000)),
    "udp6": ether(udp6(b"question")), "no sum 6": ether(udp6(b"x", check=0)), "vxlan 6": ether(udp6(VXLAN, dport=8472)),
    "tcp6": ether(tcp6(b"x" * 20, options=TIMES)), "ack": ether(tcp6()), "back 6": ether(tcp6(b"y", src=B6, dst=A6)),
    "hop by hop": ether(ip6(b"\6\0\1\4\0\0\0\0" + tcp6(b"z")[40:], 0)), "long": ether(ip6(tcp6(b"z" * 40)[40:], length=0)),
    "options": ether(ip4(udp(b"x"), UDP, options=b"\1\1\1\1")),
}


@st.composite
def damaged(draw):
    """One of them with some bytes changed, and cut or prolonged."""
    frame = bytearray(draw(st.sampled_from(sorted(WHOLE.values()))))
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(frame) - 1), st.integers(0, 255)), max_size=3)):
        frame[at] = value
    return bytes(frame[:draw(st.integers(0, len(frame)) | st.just(len(frame)))]) + draw(st.binary(max_size=8))


def both(frame, checksum, wirelen=None):
    found = []
    for plainly in (True, False):
        d = Decoder(checksum=checksum, plainly=plainly)
        found.append((d.parse(frame, wirelen=wirelen), d.counters()))
    return found


@settings(max_examples=1500)
@given(damaged(), st.sampled_from(["off", "verify", "auto"]), st.none() | st.integers(0, 3000))
def test_both_ways_find_the_same(frame, checksum, wirelen):
    short, long = both(frame, checksum, wirelen)
    assert short == long


@pytest.mark.parametrize("name", WHOLE)
def test_whole_ones(name):
    short, long = both(WHOLE[name], "verify")
    assert short == long and short[0]["status"] == ("fragment" if name == "fragment" else "flow")


@settings(max_examples=100, deadline=None)
@given(st.lists(damaged(), min_size=1, max_size=4))
@example(list(WHOLE.values()))
@example([struct.pack("!6s6sH", bytes(6), bytes(6), 0x86dd) + b"\x60" + bytes(3) + b"\0\x08\x11\x40" + bytes(30)])
def test_each_packet_has_one_worker(frames):
    """Who decodes it ahead of time takes it: so it must be known beforehand that nobody else does."""
    taken = []
    for worker in range(3):
        with Engine([]) as engine:
            engine.stack.share(worker, 3)
            engine.run((i * 1000, frame) for i, frame in enumerate(frames))
        taken.append(engine.stats())
    assert sum(stats["packets_in"] for stats in taken) == len(frames)
    assert sum(stats["decode"]["packets"] for stats in taken) >= len(frames)
