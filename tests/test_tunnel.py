"""Tunnels: what each looks like, what only looks like one, and what sets its inside apart."""
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mos.net.decode import CAUSES, TUNNELS, Decoder
from packets import A6, B6, UDP, A, B, ether, ip, ip4, ip6, tcp4, tcp6, udp

from mos.errors import UsageError

FOUR = tcp4(b"inside", src="192.168.0.1", dst="192.168.0.2")
SIX = tcp6(b"inside", src="2001:0:a::1", dst="fe80::2")


def via_udp(payload, port, sport=40000):
    return ip4(udp(payload, sport=sport, dport=port), UDP)


def gre(type, body, key=None, sequence=None, check=False, version=0):
    bits = 0x2000 * (key is not None) | 0x1000 * (sequence is not None) | 0x8000 * check | version
    return (struct.pack("!HH", bits, type) + bytes(4 * check) + b"".join(
        struct.pack("!I", x) for x in (key, sequence) if x is not None) + body)


def pptp(ppp, call=7, sequence=1, ack=None, length=None):
    bits = 0x2001 | 0x1000 * (sequence is not None) | 0x0080 * (ack is not None)
    length = len(ppp) if length is None else length
    numbers = b"".join(struct.pack("!I", x) for x in (sequence, ack) if x is not None)
    return struct.pack("!HHHH", bits, 0x880b, length, call) + numbers + ppp


def vxlan(inner, vni=42, flags=8):
    return struct.pack("!B3xI", flags, vni << 8) + inner


def geneve(inner, type=0x6558, vni=42, options=b""):
    return struct.pack("!BBHI", len(options) // 4, 0, type, vni << 8) + options + inner


def gtp(inner, teid=1, extra=b"", flags=0x30, kind=255):
    return struct.pack("!BBHI", flags, kind, len(extra) + len(inner), teid) + extra + inner


def teredo(inner, auth=False, origin=False):
    head = b"\0\1\2\3" + b"idaut" + bytes(9) if auth else b""
    return head + (bytes(8) if origin else b"") + inner


def ayiya(inner, next=4):
    return struct.pack("!BBBB", 0x41, 0x52, 0x11, next) + bytes(4 + 16 + 20) + inner


TUNNELLED = {
    "4in4": (ip4(FOUR, 4), "ipip"), "6in4": (ip4(SIX, 41), "ipip"), "4in6": (ip6(FOUR, 4), "ipip"),
    "6in6": (ip6(SIX, 41), "ipip"), "etherip": (ip4(b"\x30\0" + ether(FOUR), 97), "etherip"),
    "mpls": (ip4(b"\0\1\1\xff" + FOUR, 137), "mpls"),
    "gre": (ip4(gre(0x800, FOUR), 47), "gre"), "gre 6": (ip6(gre(0x86dd, SIX), 47), "gre"),
    "gre key": (ip4(gre(0x800, FOUR, key=9), 47), "gre:9"),
    "gre all": (ip4(gre(0x800, FOUR, key=9, sequence=5, check=True), 47), "gre:9"),
    "gre sequence": (ip4(gre(0x800, FOUR, sequence=5), 47), "gre"),
    "gre ethernet": (ip4(gre(0x6558, ether(FOUR)), 47), "gre"), "gre mpls": (ip4(gre(0x8847, b"\0\1\1\xff" + FOUR), 47), "gre"),
    "gre wccp": (ip4(gre(0x883e, FOUR), 47), "gre"), "gre wccp 2": (ip4(gre(0x883e, bytes(4) + FOUR), 47), "gre"),
    "erspan 1": (ip4(gre(0x88be, ether(FOUR)), 47), "gre"),
    "erspan 2": (ip4(gre(0x88be, struct.pack("!HHI", 0x1000, 5, 0) + ether(FOUR), sequence=1), 47), "gre:5"),
    "erspan 3": (ip4(gre(0x22eb, struct.pack("!HH8x", 0x2000, 6) + ether(FOUR), sequence=1), 47), "gre:6"),
    "erspan 3+": (ip4(gre(0x22eb, struct.pack("!HH7xB8x", 0x2000, 6, 1) + ether(FOUR), sequence=1), 47), "gre:6"),
    "pptp": (ip4(pptp(b"\xff\3\0\x21" + FOUR), 47), "gre"), "pptp ack": (ip4(pptp(b"\x21" + FOUR, ack=3) + b"pad", 47), "gre"),
    "vxlan": (via_udp(vxlan(ether(FOUR)), 4789), "vxlan:42"), "vxlan linux": (via_udp(vxlan(ether(SIX)), 8472), "vxlan:42"),
    "vxlan gpe": (via_udp(struct.pack("!BxxBI", 0x0c, 1, 42 << 8) + FOUR, 4790), "vxlan-gpe:42"),
    "vxlan gpe ethernet": (via_udp(struct.pack("!BxxBI", 0x0c, 3, 42 << 8) + ether(FOUR), 4790), "vxlan-gpe:42"),
    "geneve": (via_udp(geneve(ether(FOUR)), 6081), "geneve:42"),
    "geneve options": (via_udp(geneve(SIX, 0x86dd, options=bytes(252)), 6081), "geneve:42"),
    "gtp": (via_udp(gtp(FOUR), 2152), "gtp-u"), "gtp 6": (via_udp(gtp(SIX), 2152), "gtp-u"),
    "gtp back": (via_udp(gtp(FOUR), 9999, sport=2152), "gtp-u"),
    "gtp sequence": (via_udp(gtp(FOUR, extra=b"\0\7\0\0", flags=0x32), 2152), "gtp-u"),
    "gtp extensions": (via_udp(gtp(FOUR, extra=b"\0\0\0\x85" + b"\1\0\0\x40" + b"\2" + bytes(7), flags=0x34), 2152), "gtp-u"),
    "teredo": (via_udp(teredo(SIX), 3544), "teredo"), "teredo back": (via_udp(teredo(SIX), 5, sport=3544), "teredo"),
    "teredo origin": (via_udp(teredo(SIX, origin=True), 3544), "teredo"),
    "teredo both": (via_udp(teredo(SIX, auth=True, origin=True), 3544), "teredo"),
    "ayiya": (via_udp(ayiya(FOUR), 5072), "ayiya"),
}


@pytest.mark.parametrize("name", TUNNELLED)
def test_inside_is_found(name):
    packet, text = TUNNELLED[name]
    d = Decoder()
    r = d.parse(ether(packet))
    six = r["ipver"] == 6
    assert (r["status"], r["payload"]) == ("flow", b"inside")
    assert (r["src"], r["dst"]) == (("2001:0:a::1", "fe80::2") if six else ("192.168.0.1", "192.168.0.2"))
    outer = f"{A6}-{B6}" if packet[0] >> 4 == 6 else f"{A}-{B}"
    assert d.domain(r["domain"]) == ([], f"{text} {outer}")
    assert d.counters()["tunnel_" + text.split(":")[0]] == 1


@pytest.mark.parametrize("name", TUNNELLED)
def test_switched_off_the_outside_stays(name):
    packet, text = TUNNELLED[name]
    for d in (Decoder(tunnels=False), Decoder(tunnels=set(TUNNELS) - {text.split(":")[0]})):
        r = d.parse(ether(packet))
        proto = packet[9] if packet[0] >> 4 == 4 else packet[6]
        assert (r["status"], r["proto"]) == ("flow" if proto == UDP else "other", proto)
        assert r.get("domain", 0) == 0


@pytest.mark.parametrize("name", TUNNELLED)
def test_cut_anywhere_it_stays_inside(name):
    frame = ether(TUNNELLED[name][0])
    for n in range(len(frame)):
        assert Decoder().parse(frame[:n], wirelen=len(frame))["status"] in ("flow", "other", "malformed")
        assert Decoder().parse(frame[:n])["status"] == "malformed"


def test_tunnels_in_a_udp_datagram_shorter_than_its_packet():
    r = Decoder().parse(ether(ip4(udp(vxlan(ether(FOUR)), dport=4789) + b"trailer", UDP)))
    assert r["payload"] == b"inside"


NOT_ONE = {
    "vxlan without I": via_udp(vxlan(ether(FOUR), flags=0), 4789), "vxlan of noise": via_udp(vxlan(bytes(range(60))), 4789),
    "vxlan of bad ip": via_udp(vxlan(ether(b"\x44" + FOUR[1:], 0x800)), 4789),
    "vxlan to another port": via_udp(vxlan(ether(FOUR)), 4788),
    "vxlan from its port": via_udp(vxlan(ether(FOUR)), 99, sport=4789), "short": via_udp(b"\x08", 4789),
    "geneve version 1": via_udp(b"\x40" + geneve(ether(FOUR))[1:], 6081), "geneve of noise": via_udp(geneve(bytes(60)), 6081),
    "geneve options too long": via_udp(geneve(ether(FOUR), options=bytes(8))[:12], 6081),
    "gtp echo": via_udp(gtp(b"", kind=1), 2152), "gtp'": via_udp(gtp(FOUR, flags=0x20), 2152),
    "gtp of noise": via_udp(gtp(bytes(40)), 2152), "gtp too long": via_udp(gtp(FOUR)[:-1], 2152),
    "gtp endless extension": via_udp(gtp(FOUR, extra=b"\0\0\0\x85" + b"\0\0\0\x85" * 3, flags=0x34), 2152),
    "gtp extension beyond": via_udp(gtp(FOUR, extra=b"\0\0\0\x85\xff\0\0\0", flags=0x34), 2152),
    "teredo of ip4": via_udp(FOUR, 3544), "teredo with more behind": via_udp(tcp6(b"x") + b"y", 3544),
    "teredo with less": via_udp(SIX[:-1], 3544), "ayiya noise": via_udp(ayiya(bytes(40)), 5072),
    "gpe unknown next": via_udp(struct.pack("!BxxBI", 0x0c, 9, 42 << 8) + FOUR, 4790), "dns": via_udp(b"query", 53),
}


@pytest.mark.parametrize("name", NOT_ONE)
def test_what_only_uses_the_port_is_a_flow_of_its_own(name):
    d = Decoder()
    r = d.parse(ether(NOT_ONE[name]))
    assert (r["status"], r["proto"], r["src"], r["domain"]) == ("flow", UDP, A, 0)
    assert r["payload"] == NOT_ONE[name][28:] and d.counters()["domains"] == 0


@pytest.mark.parametrize("packet, cause", [
    (ip4(b"\x20\0" + ether(FOUR), 97), "tunnel"), (ip4(gre(0x88be, bytes(8) + ether(FOUR), sequence=1), 47), "tunnel"),
    (ip4(pptp(b"\x21" + FOUR, length=900), 47), "tunnel"), (ip4(gre(0x800, FOUR, version=1), 47), "tunnel"),
    (ip4(gre(0x800, b"", key=1)[:7], 47), "tunnel"), (ip4(FOUR, 41), "ip_version"), (ip4(FOUR[:-1], 4), "ip_length")])
def test_broken_tunnels_are_malformed(packet, cause):
    assert CAUSES[Decoder().parse(ether(packet))["cause"]] == cause


@pytest.mark.parametrize("packet", [
    ip4(gre(0x800, FOUR, version=2), 47), ip4(struct.pack("!HH", 0x4000, 0x800) + FOUR, 47), ip4(gre(0, b""), 47),
    ip4(pptp(b"", sequence=None, ack=4), 47), via_udp(vxlan(ether(bytes(28), 0x0806)), 4789)],
    ids=["version", "source route", "keep-alive", "acknowledgement", "arp inside"])
def test_tunnels_without_a_packet_are_other(packet):
    r = Decoder().parse(ether(packet))
    assert r["status"] == "other" and r["ip"] == 14
    assert (r["sport"], r["dport"], r["payload_len"]) == (0, 0, 0)


def test_two_tunnels_claim_one_datagram():
    """The first that its inside proves."""
    d = Decoder()
    r = d.parse(ether(via_udp(gtp(FOUR), 4789, sport=2152)))
    assert r["payload"] == b"inside" and d.counters()["tunnel_gtp-u"] == 1


def test_names_are_checked():
    with pytest.raises(UsageError, match="vxlam.*vxlan"):
        Decoder(tunnels=["gre", "vxlam"])
    assert Decoder(tunnels="gre").parse(ether(ip4(FOUR, 4)))["status"] == "other"


def test_both_directions_have_one_key():
    for wrap in (lambda inner, a, b, teid: ip(inner, 4, a, b),
                 lambda inner, a, b, teid: ip4(udp(gtp(inner, teid), 2152, 2152, a, b), UDP, a, b),
                 lambda inner, a, b, teid: ip4(udp(vxlan(ether(inner)), teid, 4789, a, b), UDP, a, b),
                 lambda inner, a, b, teid: ip4(pptp(b"\x21" + inner, call=teid), 47, a, b)):
        d = Decoder()
        there = d.parse(ether(wrap(tcp4(src="1.1.1.1", dst="1.1.1.2", sport=5, dport=6), A, B, 100)))
        back = d.parse(ether(wrap(tcp4(src="1.1.1.2", dst="1.1.1.1", sport=6, dport=5), B, A, 200)))
        assert there["key"] == back["key"] and there["domain"] == 1 and there["from_hi"] + back["from_hi"] == 1


def test_fragmented_tunnel_packets_with_fragments_inside():
    """Whole again layer by layer: outer fragments, then the inner ones."""
    d = Decoder()
    inner = tcp4(bytes(range(200)))
    halves = [ip4(inner[20:100], frag=0x2000), ip4(inner[100:], frag=10)]
    outer = [ip4(udp(vxlan(ether(h)), dport=4789), UDP) for h in halves]
    results = []
    for ident, packet in enumerate(outer):
        results += [d.parse(ether(ip4(packet[20:60], UDP, frag=0x2000, ident=ident))),
                    d.parse(ether(ip4(packet[60:], UDP, frag=5, ident=ident)))]
    assert [r["status"] for r in results] == ["fragment", "fragment", "fragment", "flow"]
    assert results[-1]["payload"] == bytes(range(200)) and results[-1]["reassembled"]


@given(st.sampled_from([4789, 8472, 4790, 6081, 2152, 3544, 5072]), st.binary(max_size=120))
def test_noise_on_tunnel_ports(port, noise):
    assert Decoder().parse(ether(via_udp(noise, port)))["status"] in ("flow", "other", "malformed")


@given(st.sampled_from([4, 41, 47, 97, 137]), st.binary(max_size=120))
def test_noise_in_tunnel_protocols(proto, noise):
    assert Decoder().parse(ether(ip4(noise, proto)))["status"] in ("flow", "other", "malformed", "fragment")


@st.composite
def nested(draw):
    """IPv4 in IPv4 and GRE, up to six deep, most of it of the simplest kind, with bytes changed or cut off."""
    inner = draw(st.sampled_from([FOUR, ip4(udp(b"x"), UDP), ip4(FOUR, 4, frag=0x2000), b"", b"\x45", SIX]))
    for _ in range(draw(st.integers(1, 6))):
        end = draw(st.sampled_from([A, B, "192.0.2.9"]))
        key = draw(st.none() | st.integers(0, 3))
        kind = draw(st.sampled_from([4, 4, 47, 47, "sequence", "options", "padded", "cut", "checksum", "zero"]))
        plain = ip4(inner, 4, end, B)
        inner = {4: plain, 47: ip4(gre(0x800, inner, key=key), 47, end, B),
                 "sequence": ip4(gre(0x800, inner, key=key, sequence=1), 47, end, B),
                 "options": ip4(inner, 4, end, B, options=b"\1\1\1"), "padded": plain + bytes(6), "cut": plain[:-3],
                 "checksum": ip4(inner, 4, end, B, check=1), "zero": ip4(inner, 4, end, B, total=0)}[kind]
    frame = bytearray(ether(inner, vlans=draw(st.sampled_from([(), (), (7,), (7, 8)]))))
    for at, value in draw(st.lists(st.tuples(st.integers(14, 90), st.integers(0, 255)), max_size=2)):
        frame[min(at, len(frame) - 1)] = value
    return bytes(frame[:draw(st.integers(14, len(frame)))] if draw(st.integers(0, 3)) == 0 else frame)


@settings(max_examples=1500, deadline=None)
@given(nested(), st.sampled_from(["off", "verify"]), st.integers(1, 8), st.sampled_from([True, False, ("ipip",)]))
def test_simple_headers_are_gone_through_in_one_go_to_the_same_end(frame, checksum, most, tunnels):
    found = []
    for plainly in (True, False):
        d = Decoder(plainly=plainly, checksum=checksum, max_tunnels=most, tunnels=tunnels)
        r = d.parse(frame)
        found.append((r, d.counters(), d.domain(r["domain"]) if r.get("domain") else None))
    assert found[0] == found[1]
