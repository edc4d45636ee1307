"""Domains: paths of VLANs and tunnels against a dict, their texts, their bound."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mos.net.decode import Decoder
from packets import UDP, A, B, ether, ip4, tcp4, udp

from mos.errors import UsageError

PATH = st.tuples(st.lists(st.integers(1, 20), max_size=3).map(tuple), st.sampled_from([None, 1, 2, 77]), st.booleans(),
                 st.sampled_from([(), (7,)]))


def frame(path):
    """VLANs, then a VXLAN with this VNI in one direction or the other, then VLANs inside it."""
    vlans, vni, reverse, inner = path
    packet = tcp4()
    if vni is not None:
        src, dst = (B, A) if reverse else (A, B)
        packet = ip4(udp(b"\x08\0\0\0\0\0" + bytes([vni, 0]) + ether(packet, vlans=inner), dport=4789, src=src, dst=dst),
                     UDP, src, dst)
    return ether(packet, vlans=vlans)


@given(st.lists(PATH, max_size=60), st.binary(min_size=16, max_size=16))
@settings(max_examples=50)
def test_same_path_same_number(paths, key):
    d, known = Decoder(hash_key=key), {}
    for path in paths:
        vlans, vni, _, inner = path
        name = (vlans, vni, inner if vni is not None else ())
        got = d.parse(frame(path))["domain"]
        if not vlans and vni is None:
            assert got == 0
            continue
        assert got == known.setdefault(name, len(known) + 1)
        text = None if vni is None else f"vxlan:{vni} {A}-{B}" + "".join(f", vlan:{v}" for v in name[2])
        assert d.domain(got) == (list(vlans), text)
    assert d.counters()["domains"] == len(known)


def test_numbers_are_given_by_decoders():
    d = Decoder()
    assert d.domain(0) == ([], None)
    with pytest.raises(UsageError, match="no domain 1"):
        d.domain(1)


def test_bound_is_shared_by_all_that_come_later():
    """4,094 VLANs in 16 others make more than 65,536 domains."""
    d = Decoder()
    plain = tcp4()
    head, tail = ether(plain)[:12], b"\x08\0" + plain
    pairs = [(outer, inner) for outer in range(1, 18) for inner in range(1, 4095)][:65536 + 3]
    for n, (outer, inner) in enumerate(pairs, 1):
        r = d.parse(head + bytes((0x81, 0, 0, outer, 0x81, 0, inner >> 8, inner & 255)) + tail)
        assert r["domain"] == min(n, 65537)
    assert d.domain(65537) == ([], "overflow")
    assert (d.counters()["domains"], d.counters()["domain_overflow"]) == (65536, 3)
    assert d.parse(head + bytes((0x81, 0, 0, 16, 0x81, 0, 0, 1)) + tail)["domain"] == 15 * 4094 + 1
    assert d.domain(65536) == ([17, 65536 - 16 * 4094], None)
    assert d.parse(head + bytes((0x81, 0, 0, 1, 0x81, 0, 0, 9)) + tail)["domain"] == 9
    assert d.domain(9) == ([1, 9], None) and d.domain(2049) == ([1, 2049], None)
