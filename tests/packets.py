"""Builds frames for tests of mos.net, header by header, with right checksums unless told otherwise. No test in itself."""
import ipaddress
import struct

from dpkt.dpkt import in_cksum

A, B = "10.0.0.1", "10.0.0.2"
A6, B6 = "2001:db8::1", "2001:db8::2"
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58


def raw(address):
    return ipaddress.ip_address(address).packed


def segment(proto, header, at, payload, src, dst, check=None):
    """Header and payload with the checksum at offset `at` filled in; `check` is written as it is."""
    whole = header + payload
    if check is None:
        pseudo = b"" if proto == ICMP else raw(src) + raw(dst) + struct.pack("!IBBH", len(whole), 0, 0, proto)
        check = in_cksum(pseudo + whole[:at] + b"\0\0" + whole[at + 2:])
        check = 0xffff if check == 0 and proto == UDP else check
    return whole[:at] + struct.pack("!H", check) + whole[at + 2:]


def tcp(payload=b"", sport=1000, dport=80, seq=1, ack=2, flags=0x10, wnd=1024, urg=0, options=b"", src=A, dst=B,
        check=None, offset=None):
    options += bytes(-len(options) % 4)
    offset = 5 + len(options) // 4 if offset is None else offset
    header = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, offset << 4, flags, wnd, 0, urg)
    return segment(TCP, header + options, 16, payload, src, dst, check)


def udp(payload=b"", sport=1000, dport=53, src=A, dst=B, check=None, length=None):
    length = 8 + len(payload) if length is None else length
    return segment(UDP, struct.pack("!HHHH", sport, dport, length, 0), 6, payload, src, dst, check)


def icmp(type, code=0, ident=0, payload=b"", src=A, dst=B):
    proto = ICMP6 if ":" in src else ICMP
    return segment(proto, struct.pack("!BBHHH", type, code, 0, ident, 0), 2, payload, src, dst)


def ip4(payload, proto=TCP, src=A, dst=B, options=b"", total=None, ident=1, frag=0, check=None):
    options += bytes(-len(options) % 4)
    length = 20 + len(options)
    total = length + len(payload) if total is None else total
    header = struct.pack("!BBHHHBBH4s4s", 0x40 | length // 4, 0, total, ident, frag, 64, proto, 0, raw(src), raw(dst))
    check = in_cksum(header + options) if check is None else check
    return header[:10] + struct.pack("!H", check) + header[12:] + options + payload


def ip6(payload, proto=TCP, src=A6, dst=B6, length=None):
    length = len(payload) if length is None else length
    return struct.pack("!IHBB16s16s", 6 << 28, length, proto, 64, raw(src), raw(dst)) + payload


def ip(payload, proto=TCP, src=A, dst=B):
    return (ip6 if ":" in src else ip4)(payload, proto, src, dst)


def ether(payload, type=None, vlans=()):
    if type is None:
        type = 0x86dd if payload[0] >> 4 == 6 else 0x0800
    tags = b"".join(struct.pack("!HH", 0x8100, v) for v in vlans)
    return bytes(range(2, 14)) + tags + struct.pack("!H", type) + payload


def tcp4(payload=b"", src=A, dst=B, **fields):
    return ip4(tcp(payload, src=src, dst=dst, **fields), TCP, src, dst)


def tcp6(payload=b"", src=A6, dst=B6, **fields):
    return ip6(tcp(payload, src=src, dst=dst, **fields), TCP, src, dst)
