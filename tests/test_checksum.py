"""Internet checksums: alone, in every protocol that has one, and against tshark's verdicts on real captures."""
import json
import struct

import pytest
from captures import frames
from dpkt.dpkt import in_cksum
from hypothesis import given
from hypothesis import strategies as st
from mos.net.decode import Decoder, checksum, checksum_update
from packets import A6, B6, ICMP, ICMP6, TCP, UDP, A, B, ether, icmp, ip, ip4, ip6, raw, tcp, tcp4, udp

BAD_IP, BAD_L4, PARTIAL, UNKNOWN = 1, 2, 4, 8


def verdict(frame, mode="verify", **how):
    return Decoder(checksum=mode).parse(frame, **how)["csum"]


@given(st.binary(max_size=3000))
def test_sum_of_any_bytes(data):
    assert checksum(data) == in_cksum(data)


@given(st.binary(min_size=20, max_size=60), st.integers(0, 8), st.binary(min_size=4, max_size=4), st.booleans())
def test_update_equals_computing_anew(data, at, new, wide):
    n = 4 if wide else 2
    data = data[:len(data) & ~1]
    changed = data[:2 * at] + new[:n] + data[2 * at + n:]
    number = [int.from_bytes(x, "big") for x in (data[2 * at:2 * at + n], new[:n])]
    if any(data) and any(changed):      # a sum of nothing but zeros has two representations
        assert checksum_update(in_cksum(data), *number, wide=wide) == in_cksum(changed)


SEGMENTS = [(TCP, tcp, A, B), (UDP, udp, A, B), (TCP, tcp, A6, B6), (UDP, udp, A6, B6)]


@pytest.mark.parametrize("proto, build, src, dst", SEGMENTS)
@given(payload=st.binary(max_size=50), flip=st.integers(0, 10**6))
def test_one_wrong_bit_is_found(proto, build, src, dst, payload, flip):
    good = build(payload, src=src, dst=dst)
    assert verdict(ether(ip(good, proto, src, dst))) == 0
    bits = [b for b in range(8 * len(good)) if not (proto == UDP and 32 <= b < 48)]     # a wrong UDP length is malformed
    if proto == TCP:
        bits = [b for b in bits if not 96 <= b < 100]
    bit = bits[flip % len(bits)]
    wrong = bytearray(good)
    wrong[bit // 8] ^= 128 >> bit % 8
    if proto == UDP and wrong[6:8] == b"\0\0" and ":" not in src:
        return
    assert verdict(ether(ip(bytes(wrong), proto, src, dst))) & BAD_L4       # it may look like one left to the NIC, by chance


@pytest.mark.parametrize("proto, src, dst", [(ICMP, A, B), (ICMP6, A6, B6)])
def test_icmp(proto, src, dst):
    good = icmp(128 if proto == ICMP6 else 8, payload=b"odd", src=src, dst=dst)
    assert verdict(ether(ip(good, proto, src, dst))) == 0
    assert verdict(ether(ip(good[:-1] + b"x", proto, src, dst))) == BAD_L4


def test_udp_without_a_checksum():
    assert verdict(ether(ip4(udp(b"x", check=0), UDP))) == 0
    assert verdict(ether(ip6(udp(b"x", check=0), UDP))) == BAD_L4       # RFC 8200 8.1


def test_ip_header():
    assert verdict(ether(ip4(tcp(), check=1))) == BAD_IP
    assert verdict(ether(ip4(tcp(), check=0))) == BAD_IP
    assert verdict(ether(ip4(tcp(), check=0)), "auto") == 0
    assert verdict(ether(ip4(tcp(), check=1)), "auto") == BAD_IP


def test_outer_ip_header_counts():
    assert verdict(ether(ip4(tcp4(), proto=4, check=1))) == BAD_IP


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.parametrize("proto, build, src, dst", SEGMENTS)
def test_sum_left_to_the_nic(proto, build, src, dst, with_length):
    n = len(build(b"data", src=src, dst=dst)) if with_length else 0
    partial = ~in_cksum(raw(src) + raw(dst) + struct.pack("!IHH", n, 0, proto)) & 0xffff
    frame = ether(ip(build(b"data", src=src, dst=dst, check=partial), proto, src, dst))
    assert verdict(frame) == PARTIAL | BAD_L4
    assert verdict(frame, "auto") == PARTIAL


def test_zero_tcp_checksum():
    frame = ether(tcp4(b"data", check=0))
    assert verdict(frame) == BAD_L4
    assert verdict(frame, "auto") == PARTIAL


def test_what_cannot_be_checked_is_unknown():
    frame = ether(tcp4(bytes(100), check=7))
    assert verdict(frame, "off") == UNKNOWN
    assert verdict(frame[:-1], wirelen=len(frame)) == UNKNOWN
    assert verdict(ether(ip4(b"", proto=50))) == UNKNOWN


def test_segments_beyond_16_bits_of_length():
    assert verdict(ether(ip4(tcp(bytes(range(250)) * 300), total=0))) & BAD_L4 == 0
    assert verdict(ether(ip6(tcp(bytes(range(250)) * 300, src=A6, dst=B6), length=0))) == 0


def test_routing_header_names_the_pseudo_headers_destination():
    final = "2001:db8::77"
    header = bytes([TCP, 2, 0, 1]) + bytes(4) + raw(final)
    frame = ether(ip6(header + tcp(b"x", src=A6, dst=final), 43))
    assert verdict(frame) == 0
    assert Decoder().parse(frame)["dst"] == final


def test_counters():
    d = Decoder(checksum="verify")
    d.parse(ether(ip4(tcp(check=1), check=1)))
    d.parse(ether(ip4(tcp())))
    c = d.counters()
    assert (c["bad_ip_checksum"], c["bad_transport_checksum"], c["partial_checksum"]) == (1, 1, 0)


# Frames that tshark calls bad and we do not. All others agree, TCP frame by TCP frame.
#   6in4tunnel 45: an ICMPv6 error that quotes a TCP header; its own checksum is right.
QUOTED = {("tunnel-ip__ndpi__6in4tunnel.pcap", 45)}


def test_same_frames_are_bad_as_for_tshark(corpora):
    compared = 0
    for path in sorted(corpora.glob("*.pcap*")):
        theirs = set(json.loads((corpora / "oracle" / (path.name + ".json")).read_text())["bad_tcp_checksum_frames"])
        last = max(theirs) if len(theirs) == 200 else 10**9      # the list is cut at 200
        d, ours = Decoder(checksum="verify"), set()
        for f in frames(path):
            r = d.parse(f.data, f.linktype, f.ts, f.wirelen)
            if (path.name, f.number) in QUOTED:
                theirs.discard(f.number)
            if r["proto"] == TCP and r["csum"] & BAD_L4 and f.number <= last:
                ours.add(f.number)
        assert ours == theirs, path.name
        compared += len(ours)
    assert compared > 800
