"""TCP, UDP and ICMP headers against struct, option lists against a reference, and keys that both directions share."""
import ipaddress
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mos.net.decode import CAUSES, Decoder
from packets import A6, B6, ICMP, ICMP6, TCP, UDP, A, B, ether, icmp, ip, ip4, ip6, tcp, tcp4, udp

U16, U32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
V4 = st.integers(0, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n)))
V6 = st.integers(0, 2**128 - 1).map(lambda n: str(ipaddress.IPv6Address(n)))
MSS, WSCALE, SACK_OK, SACK, TS, TFO, MPTCP, MD5 = (1 << i for i in range(8))


def parse(packet):
    return Decoder().parse(ether(packet))


@given(sport=U16, dport=U16, seq=U32, ack=U32, flags=st.integers(0, 255), wnd=U16, urg=U16, payload=st.binary(max_size=40))
def test_tcp_fields(payload, **fields):
    r = parse(tcp4(payload, **fields))
    fields["tcp_flags"] = fields.pop("flags")
    assert {k: r[k] for k in fields} == fields
    assert (r["payload"], r["payload_at"], r["payload_len"], r["opts"]) == (payload, 40, len(payload), 0)


def options_of(o):
    """What RFC 9293 3.2 and the options' own RFCs see in a list, and whether it is whole."""
    got, opts = {"mss": 0, "wscale": 0, "tsval": 0, "tsecr": 0, "sack": []}, 0
    while o and o[0] != 0:
        if o[0] == 1:
            o = o[1:]
            continue
        if len(o) < 2 or not 2 <= o[1] <= len(o):
            return got, opts, False
        kind, body = o[0], o[2:o[1]]
        if kind == 2 and len(body) == 2:
            got["mss"], opts = int.from_bytes(body, "big"), opts | MSS
        elif kind == 3 and len(body) == 1:
            got["wscale"], opts = body[0], opts | WSCALE
        elif kind == 4 and not body:
            opts |= SACK_OK
        elif kind == 5 and body and len(body) % 8 == 0:
            numbers = struct.unpack(f"!{len(body) // 4}I", body)
            got["sack"], opts = list(zip(numbers[::2], numbers[1::2])), opts | SACK
        elif kind == 8 and len(body) == 8:
            (got["tsval"], got["tsecr"]), opts = struct.unpack("!II", body), opts | TS
        elif kind == 34 or (kind == 254 and body[:2] == b"\xf9\x89"):
            opts |= TFO
        elif kind == 30 and body:
            opts |= MPTCP
        elif kind == 19 and len(body) == 16:
            opts |= MD5
        o = o[o[1]:]
    return got, opts, True


OPTION = st.one_of(
    st.just(b"\1"), st.just(b"\0"), st.tuples(st.sampled_from([2, 3, 4, 5, 8, 19, 30, 34, 69, 254]),
                                              st.sampled_from([0, 1, 2, 3, 4, 6, 8, 10, 18, 26, 34])
                                              ).flatmap(lambda t: st.binary(min_size=t[1], max_size=t[1]).map(
                                                  lambda b: bytes([t[0], t[1]]) + b[2:])),
    U16.map(lambda n: struct.pack("!BBH", 2, 4, n)), st.binary(min_size=8, max_size=8).map(lambda b: b"\1\1\x08\x0a" + b))


SYN = b"\2\4\5\xb4\4\2\x08\x0a" + bytes(range(1, 9)) + b"\1\3\3\7"      # what most systems send with theirs


@given(st.lists(OPTION, max_size=6).map(b"".join) | st.binary(max_size=40))
@example(b"\1\1\x08\x0a" + bytes(range(8)))
@example(b"\1\1\x08\x0a" + bytes(range(8)) + b"\1\1\1\1")
@example(b"\x05\x22" + bytes(range(32)))
@example(b"\5\2\1\1")
@example(b"\xfe\4\xf9\x89")
@example(b"\xfe\3\xf9\x89")
@example(b"\2\4\5\xb4\3\0")
@example(SYN)
@example(SYN[:17] + b"\2" + SYN[18:])
@example(SYN[:6] + b"\x08\x0b" + SYN[8:])
@example(SYN[:1] + b"\3" + SYN[2:])
def test_tcp_options(options):
    options = (options + bytes(-len(options) % 4))[:40]
    got, opts, whole = options_of(options)
    d = Decoder()
    r = d.parse(ether(tcp4(b"x", options=options)))
    assert (r["status"], r["payload"], r["opts"]) == ("flow", b"x", opts)
    assert {k: r[k] for k in got} == got
    assert d.counters()["broken_tcp_options"] == (not whole)


def test_options_cut_by_the_capture_are_not_broken():
    frame = ether(tcp4(b"data", options=b"\2\4\5\xb4\1\3\3\7"))
    d = Decoder()
    for n in range(54, 62):
        r = d.parse(frame[:n], wirelen=len(frame))
        assert (r["payload"], r["payload_len"], r["cut"]) == (b"", 4, True)
        assert r["mss"] == (1460 if n >= 58 else 0)
    assert d.counters()["broken_tcp_options"] == 0
    frame = ether(tcp4(b"data", options=b"\1\1\x08\x0a" + bytes(range(1, 9))))
    assert [d.parse(frame[:n], wirelen=len(frame))["tsval"] for n in (54, 58, 65, 66)] == [0, 0, 0, 0x01020304]


@pytest.mark.parametrize("offset, cause", [(0, "tcp_header"), (4, "tcp_header"), (6, "none"), (7, "tcp_header"),
                                           (15, "tcp_header")])
def test_tcp_offset(offset, cause):
    assert CAUSES[parse(tcp4(b"1234", offset=offset))["cause"]] == cause


@pytest.mark.parametrize("length, payload, cause", [
    (7, None, "udp_header"), (8, b"", "none"), (11, b"abc", "none"), (13, b"abcde", "none"), (14, None, "udp_header"),
    (0, None, "udp_header")])
def test_udp_length(length, payload, cause):
    r = parse(ip4(udp(b"abcde", length=length), UDP))
    assert (CAUSES[r["cause"]], r.get("payload")) == (cause, payload)


@given(src=V4, dst=V4, sport=U16, dport=U16, udp_too=st.booleans())
@example(A, A, 7, 7, False)
@example(A, A, 7, 8, False)
@example("0.0.0.1", "1.0.0.0", 9, 3, True)
def test_key_of_ports_in_ip4(src, dst, sport, dport, udp_too):
    check_key(src, dst, sport, dport, UDP if udp_too else TCP)


@given(src=V6, dst=V6, sport=U16, dport=U16)
@example(A6, A6, 7, 7)
@example("1::1", "1::2", 3, 2)
@example("::ff", "100::", 3, 2)
def test_key_of_ports_in_ip6(src, dst, sport, dport):
    check_key(src, dst, sport, dport, TCP)


def check_key(src, dst, sport, dport, proto):
    build = udp if proto == UDP else tcp
    d = Decoder(tunnels=False)
    there = d.parse(ether(ip(build(sport=sport, dport=dport, src=src, dst=dst), proto, src, dst)))
    back = d.parse(ether(ip(build(sport=dport, dport=sport, src=dst, dst=src), proto, dst, src)))
    ends = sorted((ipaddress.ip_address(a).packed, port) for a, port in ((src, sport), (dst, dport)))
    version = 6 if ":" in src else 4
    key = b"".join(a.ljust(16, b"\0") for a, _ in ends) + struct.pack(
        "=HHBBHI", ends[0][1], ends[1][1], proto, version, 0, 0)
    assert there["key"] == back["key"] == key and len(key) == 44
    same = (src, sport) == (dst, dport)
    assert there["from_hi"] == ((ipaddress.ip_address(src).packed, sport) == ends[1] and not same)
    assert there["from_hi"] + back["from_hi"] == (0 if same else 1)
    assert (there["src"], there["dst"], there["sport"], there["dport"]) == (src, dst, sport, dport)


@given(src=V4, dst=V4, kind=st.integers(0, 255), code=st.integers(0, 255), ident=U16)
@example(A, B, 8, 0, 77)
def test_icmp_key(src, dst, kind, code, ident):
    check_icmp(src, dst, kind, code, ident, ICMP, {8: 0, 13: 14, 15: 16, 17: 18, 42: 43}, {0, 8, 42, 43})


@given(src=V6, dst=V6, kind=st.integers(0, 255), code=st.integers(0, 255), ident=U16)
def test_icmp6_key(src, dst, kind, code, ident):
    check_icmp(src, dst, kind, code, ident, ICMP6, {128: 129, 133: 134, 135: 136, 139: 140, 160: 161}, {128, 129, 160, 161})


def check_icmp(src, dst, kind, code, ident, proto, answers, with_ident):
    there = parse(ip(icmp(kind, code, ident, b"x", src, dst), proto, src, dst))
    back = parse(ip(icmp(answers.get(kind, kind), code, ident, src=dst, dst=src), proto, dst, src))
    assert there["key"] == back["key"] and there["payload"] == b"x"
    request = {v: k for k, v in answers.items()}.get(kind, kind)
    assert struct.unpack_from("=HH", there["key"], 32) == ((ident, ident) if kind in with_ident else (request, code))
    assert there["from_hi"] == (ipaddress.ip_address(src).packed > ipaddress.ip_address(dst).packed)
    assert (there["src"], there["dst"]) == (src, dst)


def test_headers_quoted_by_icmp_are_no_flow():
    r = parse(ip4(icmp(3, 1, payload=tcp4()), ICMP))
    assert (r["proto"], r["dport"]) == (ICMP, 1)
    assert parse(ip6(icmp(1, payload=tcp4(), src=A6, dst=B6), ICMP6))["proto"] == ICMP6
