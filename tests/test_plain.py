"""Simple packets take a short way through decode: it must find what the long one does, or leave the packet alone."""
import pytest
from captures import frames
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mos.net.decode import Decoder
from packets import TCP, A, B, ether, ip4, tcp, tcp4
from source_tree import ROOT

CAPTURES = sorted((ROOT / "pcaps").glob("*.pcap*"))
TIMES = b"\1\1\x08\x0a\1\2\3\4\5\6\7\x08"
WHOLE = [ether(tcp4(b"x" * 20, options=TIMES)), ether(tcp4(b"", options=b"\2\4\5\xb4\1\3\3\7")), ether(tcp4(b"y" * 3)),
         ether(tcp4(src=B, dst=A)), ether(tcp4(src=A, dst=A)), ether(tcp4(b"z", options=b"\x13\x05")) + bytes(6)]


@st.composite
def damaged(draw):
    """A whole segment with some bytes changed, and cut or prolonged."""
    frame = bytearray(draw(st.sampled_from(WHOLE)))
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(frame) - 1), st.integers(0, 255)), max_size=3)):
        frame[at] = value
    return bytes(frame[:draw(st.integers(0, len(frame)) | st.just(len(frame)))]) + draw(st.binary(max_size=8))


def both(frame, checksum, linktype=1, wirelen=None):
    """What both ways find, and what they count."""
    found = []
    for plainly in (True, False):
        d = Decoder(checksum=checksum, plainly=plainly)
        found.append((d.parse(frame, linktype, wirelen=wirelen), d.counters()))
    return found


@settings(max_examples=1000)
@given(damaged(), st.sampled_from(["off", "verify", "auto"]), st.sampled_from([1, 1, 1, 101]), st.none() | st.integers(0, 3000))
@example(WHOLE[0], "verify", 1, None)
@example(ether(ip4(tcp(b"x" * 40), TCP, frag=0x2000)), "off", 1, None)
def test_both_ways_find_the_same(frame, checksum, linktype, wirelen):
    short, long = both(frame, checksum, linktype, wirelen)
    assert short == long


@pytest.mark.parametrize("path", CAPTURES, ids=lambda p: p.name)
def test_both_ways_find_the_same_in_real_captures(path):
    for number, linktype, _, frame, wirelen in frames(path):
        short, long = both(frame, "verify", linktype, wirelen)
        assert short == long, number
