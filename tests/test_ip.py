"""IPv4 and IPv6 headers: what is taken, what hosts refuse, where the datagram ends."""
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mos.net.decode import CAUSES, Decoder
from packets import A6, B6, ICMP6, TCP, UDP, A, ether, icmp, ip4, ip6, raw, tcp, tcp4, tcp6, udp


def parse(packet, **how):
    return Decoder().parse(ether(packet), **how)


def cause(packet, **how):
    return CAUSES[parse(packet, **how)["cause"]]


def extension(next, body=b"", length=None):
    body += bytes(-(len(body) + 2) % 8)
    return bytes([next, (len(body) - 6) // 8 if length is None else length]) + body


def options_fit(options):
    """RFC 791 3.1, word by word."""
    while options and options[0] != 0:
        if options[0] == 1:
            options = options[1:]
        elif len(options) < 2 or not 2 <= options[1] <= len(options):
            return False
        else:
            options = options[options[1]:]
    return True


@given(st.binary(max_size=40) | st.lists(st.sampled_from([b"\1", b"\x07\x07\4" + bytes(4), b"\x94\4\0\0", b"\x44\2", b"\x82\x0b"]),
                                         max_size=6).map(b"".join))
def test_ip4_options(options):
    options = (options + bytes(-len(options) % 4))[:40]
    r = parse(ip4(tcp(b"x"), options=options))
    assert (r["status"] == "flow") == options_fit(options)
    assert CAUSES[r["cause"]] == ("none" if options_fit(options) else "ip_options")
    if r["status"] == "flow":
        assert (r["l4"], r["payload"]) == (20 + len(options), b"x")


def test_total_length_cuts_the_padding_off():
    r = Decoder().parse(ether(tcp4(b"x")) + b"padding")
    assert (r["payload"], r["ip_len"], r["cut"]) == (b"x", 41, False)


def test_total_length_zero_is_to_the_end_of_the_frame():
    """Segmentation offload: Linux's BIG TCP, and NICs that fill it in."""
    r = parse(ip4(tcp(bytes(70000)), total=0))
    assert (r["payload_len"], r["ip_len"]) == (70000, 70040)
    r = parse(ip6(tcp(bytes(70000)), length=0))
    assert (r["payload_len"], r["ip_len"]) == (70000, 70060)


@pytest.mark.parametrize("total", [19, 39, 41, 65535])
def test_total_length_that_cannot_be(total):
    assert cause(ip4(tcp(), total=total)) == ("tcp_header" if total == 39 else "ip_length")
    assert total == 19 or cause(ip6(tcp(), length=total - 20)) == ("tcp_header" if total == 39 else "ip_length")


def test_capture_shorter_than_the_datagram_is_cut():
    frame = ether(tcp4(bytes(100)))
    r = Decoder().parse(frame[:80], wirelen=len(frame))
    assert (r["cut"], r["payload_len"], len(r["payload"])) == (True, 100, 26)


@pytest.mark.parametrize("version", [v for v in range(16) if v not in (4, 6)])
def test_versions(version):
    first = bytes([version << 4 | 5])
    for linktype, packet in ((228, first + tcp4()[1:]), (229, first + tcp6()[1:]), (101, first + tcp4()[1:])):
        assert CAUSES[Decoder().parse(packet, linktype)["cause"]] == "ip_version"


ROUTING = bytes([0, 1]) + bytes(4) + raw(B6)
CHAINS = {
    "hop-by-hop": (0, lambda n: extension(n, bytes(6))), "destination": (60, lambda n: extension(n, b"\1\4" + bytes(4))),
    "routing": (43, lambda n: bytes([n, 2]) + ROUTING), "atomic fragment": (44, lambda n: bytes([n]) + bytes(7)),
    "authentication": (51, lambda n: bytes([n, 4]) + bytes(22)), "long": (60, lambda n: extension(n, bytes(1000))),
}


@given(st.lists(st.sampled_from(sorted(set(CHAINS) - {"hop-by-hop"})), max_size=6), st.booleans())
def test_extension_headers(names, hop_by_hop):
    names = ["hop-by-hop"] * hop_by_hop + names
    packet, proto = tcp(b"x", src=A6, dst=B6), TCP
    for name in reversed(names):
        number, build = CHAINS[name]
        packet, proto = build(proto) + packet, number
    r = parse(ip6(packet, proto))
    assert (r["status"], r.get("payload"), r["proto"]) == ("flow", b"x", TCP)
    assert r["l4"] == 40 + len(packet) - 21


def test_extension_headers_are_bounded():
    packet = tcp(src=A6, dst=B6)
    for proto in [TCP] + [60] * 15:
        packet = extension(proto) + packet
    assert parse(ip6(packet, 60))["status"] == "flow"
    assert cause(ip6(extension(60) + packet, 60)) == "extension"


def test_hop_by_hop_comes_first_or_never():
    assert cause(ip6(extension(0) + extension(TCP) + tcp(), 60)) == "extension"


@pytest.mark.parametrize("kind, segments, final", [(0, 1, True), (2, 1, True), (4, 1, True), (4, 0, False), (9, 1, False)])
def test_routing_header_names_the_final_destination(kind, segments, final):
    at_end = "2001:db8::99"
    header = bytes([TCP, 2, kind, segments]) + bytes(4) + raw(at_end)
    assert parse(ip6(header + tcp(), 43))["dst"] == (at_end if final else B6)


def jumbo(n, option=b"\xc2\4", at=0):
    return extension(TCP, bytes(at) + option + struct.pack("!I", n))


def test_jumbogram():
    segment = tcp(bytes(70000), src=A6, dst=B6)
    r = parse(ip6(jumbo(len(segment) + 8) + segment, 0, length=0))
    assert (r["status"], r["payload_len"], r["ip_len"]) == ("flow", 70000, 70068)
    for n, option in ((len(segment) + 9, b"\xc2\4"), (65535, b"\xc2\4"), (len(segment) + 8, b"\xc2\3"), (8, b"\5\4")):
        assert cause(ip6(jumbo(n, option) + segment, 0, length=0)) == "ip_length"


def test_jumbo_udp_has_no_length():
    body = udp(bytes(70000), length=0, check=0)
    assert parse(ip6(extension(UDP, b"\xc2\4" + struct.pack("!I", len(body) + 8)) + body, 0, length=0))["payload_len"] == 70000


@pytest.mark.parametrize("proto", [2, 50, 59, 89, 132, 135, 255])
def test_other_protocols(proto):
    for packet in (ip4(bytes(30), proto), ip6(bytes(30), proto)):
        r = parse(packet)
        assert (r["status"], r["proto"], r["ip"]) == ("other", proto, 14)


def test_icmp_of_the_other_version_is_other():
    assert parse(ip4(icmp(8), ICMP6))["status"] == parse(ip6(icmp(8), 1))["status"] == "other"


def test_authentication_header_under_ip4():
    r = parse(ip4(bytes([TCP, 4]) + bytes(22) + tcp(b"x"), 51))
    assert (r["src"], r["payload"], r["l4"]) == (A, b"x", 44)
    assert cause(ip4(bytes([TCP, 200]) + bytes(22) + tcp(b"x"), 51)) == "extension"


def test_no_next_header():
    assert parse(ip6(b"", 59))["status"] == "other"
