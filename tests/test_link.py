"""Link layers: the same segment behind every header that can carry it."""
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mos.net.decode import CAUSES, Decoder
from packets import A6, B6, ether, tcp4, tcp6

FOUR, SIX = tcp4(b"hello"), tcp6(b"hello")
SNAP = b"\xaa\xaa\x03\0\0\0"


def sll(type, arphrd=1):
    return struct.pack("!HHH8sH", 0, arphrd, 6, bytes(8), type)


def sll2(type, arphrd=1):
    return struct.pack("!HHIHBB8s", type, 0, 1, arphrd, 0, 6, bytes(8))


def dot3(llc, pad=b""):
    return bytes(range(2, 14)) + struct.pack("!H", len(llc)) + llc + pad


def pppoe(ppp, pad=b"", code=0):
    return struct.pack("!BBHH", 0x11, code, 7, len(ppp)) + ppp + pad


CARRIERS = {
    "ethernet": (1, ether(FOUR)), "ethernet 6": (1, ether(SIX)),
    "padding": (1, ether(tcp4()) + bytes(6)),
    "vlan": (1, ether(FOUR, vlans=[5])), "three tags": (1, ether(FOUR, vlans=[1, 2, 3])),
    "802.1ad": (1, ether(FOUR)[:12] + b"\x88\xa8\0\1\x91\0\0\2\x08\0" + FOUR),
    "snap": (1, dot3(SNAP + b"\x08\0" + FOUR, b"pad")), "snap 6": (1, dot3(SNAP + b"\x86\xdd" + SIX)),
    "802.1h": (1, dot3(b"\xaa\xaa\x03\0\0\xf8\x08\0" + FOUR)), "llc ip": (1, dot3(b"\x06\x06\x03" + FOUR)),
    "snap in vlan": (1, ether(SNAP + b"\x08\0" + FOUR, len(FOUR) + 8, vlans=[9])),
    "mpls": (1, ether(b"\0\1\0\xff\0\2\1\xff" + FOUR, 0x8847)), "mpls 6": (1, ether(b"\0\2\1\xff" + SIX, 0x8848)),
    "pseudo-wire": (1, ether(b"\0\2\1\xff" + ether(FOUR), 0x8847)),
    "pseudo-wire, control word": (1, ether(b"\0\2\1\xff" + bytes(4) + ether(FOUR, vlans=[3]), 0x8847)),
    "pppoe": (1, ether(pppoe(b"\0\x21" + FOUR, b"padding"), 0x8864)),
    "pppoe 6": (1, ether(pppoe(b"\0\x57" + SIX), 0x8864)),
    "bridged": (1, ether(ether(FOUR), 0x6558)),
    "raw": (101, FOUR), "raw 6": (101, SIX), "raw 12": (12, FOUR), "raw 14": (14, SIX),
    "ipv4": (228, FOUR), "ipv6": (229, SIX),
    "null": (0, b"\2\0\0\0" + FOUR), "null, big": (0, b"\0\0\0\2" + FOUR), "loop": (108, b"\0\0\0\2" + FOUR),
    **{f"null, af {af}": (0, struct.pack("<I", af) + SIX) for af in (10, 23, 24, 28, 30)},
    "sll": (113, sll(0x800) + FOUR), "sll 6": (113, sll(0x86dd) + SIX), "sll llc": (113, sll(4) + SNAP + b"\x08\0" + FOUR),
    "sll vlan": (113, sll(0x8100) + b"\0\5\x08\0" + FOUR), "sll2": (276, sll2(0x800) + FOUR),
    "ppp": (9, b"\xff\3\0\x21" + FOUR), "ppp, short": (9, b"\x21" + FOUR), "ppp 6": (9, b"\0\x57" + SIX),
    "ppp mpls": (9, b"\xff\3\x02\x81\0\2\1\xff" + FOUR),
    "ppp hdlc": (50, b"\xff\3\0\x21" + FOUR), "ppp hdlc, cisco": (50, b"\x0f\0\x08\0" + FOUR),
    "ppp ether": (51, pppoe(b"\0\x21" + FOUR)), "ppp, direction": (204, b"\1\xff\3\0\x21" + FOUR),
    "cisco hdlc": (104, b"\x8f\0\x86\xdd" + SIX),
}


@pytest.mark.parametrize("name", CARRIERS)
def test_carries(name):
    linktype, frame = CARRIERS[name]
    r = Decoder().parse(frame, linktype)
    assert (r["status"], r["proto"], r["sport"], r["dport"]) == ("flow", 6, 1000, 80)
    assert r["payload"] == (b"" if name == "padding" else b"hello") and not r["cut"]
    assert (r["src"], r["dst"]) == ((A6, B6) if r["ipver"] == 6 else ("10.0.0.1", "10.0.0.2"))


@pytest.mark.parametrize("name", CARRIERS)
def test_carries_nothing_but_what_is_there(name):
    """Cut anywhere, each ends in exactly one way, and short frames are nobody's flow."""
    linktype, frame = CARRIERS[name]
    for n in range(len(frame)):
        d = Decoder()
        assert d.parse(frame[:n], linktype)["status"] in ("malformed", "other", "flow")
        c = d.counters()
        assert c["flow"] + c["other"] + c["malformed"] == 1
        assert not c["flow"] or name == "padding" or n >= len(frame) - 7


OTHERS = {
    "arp": (1, ether(bytes(28), 0x0806)), "lldp": (1, ether(bytes(28), 0x88cc)), "stp": (1, dot3(b"\x42\x42\x03" + bytes(35))),
    "pppoe discovery": (1, ether(pppoe(b"", code=9), 0x8864)), "lcp": (9, b"\xff\3\xc0\x21" + bytes(8)),
    "netlink": (113, sll(0x0800, arphrd=824) + FOUR), "snap of a vendor": (1, dot3(b"\xaa\xaa\x03\0\0\x0c\x20\0" + FOUR)),
    "null, appletalk": (0, b"\x10\0\0\0" + FOUR), "mpls, oam": (1, ether(b"\0\2\1\xff\x10\0\0\0" + bytes(30), 0x8847)),
    "slow hdlc": (104, b"\x8f\0\0\x05" + bytes(8)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_without_ip_is_other(name):
    linktype, frame = OTHERS[name]
    d = Decoder()
    r = d.parse(frame, linktype)
    assert (r["status"], r["ipver"], r["ip"]) == ("other", 0, None) and d.counters()["unknown_link_type"] == 0


@given(st.integers(0, 65535), st.binary(max_size=60))
def test_link_types_that_nobody_knows_are_counted(linktype, frame):
    known = {0, 1, 9, 12, 14, 50, 51, 101, 104, 105, 108, 113, 119, 127, 163, 204, 228, 229, 276}
    d = Decoder()
    r = d.parse(frame, linktype)
    assert d.counters()["unknown_link_type"] == (linktype not in known)
    assert linktype in known or r["status"] == "other"


@pytest.mark.parametrize("frame, cause", [
    (ether(pppoe(b"\0\x21" + FOUR)[:-1], 0x8864), "link"), (ether(b"\x12" + pppoe(FOUR)[1:], 0x8864), "link"),
    (ether(FOUR, vlans=range(1, 10)), "depth"), (ether(b"\0\1\0\xff" * 17 + FOUR, 0x8847), "depth")])
def test_refused(frame, cause):
    assert CAUSES[Decoder().parse(frame)["cause"]] == cause


def test_length_of_the_session_cuts_the_padding_off():
    for session in (pppoe(b"\0\x21" + tcp4(b"hello")[:-1], b"o"), pppoe(b"\0\x57" + tcp6(b"hello")[:-1], b"o")):
        assert CAUSES[Decoder().parse(ether(session, 0x8864))["cause"]] == "ip_length"


def test_priority_tag_is_no_vlan():
    """VLAN 0 carries a priority only (802.1Q), often in one direction."""
    r = Decoder().parse(ether(FOUR, vlans=[0]))
    assert r["status"] == "flow" and r["domain"] == 0
    assert r["key"] == Decoder().parse(ether(FOUR))["key"]


def test_labels_set_nothing_apart():
    """MPLS labels differ by direction."""
    assert Decoder().parse(CARRIERS["mpls"][1])["key"] == Decoder().parse(ether(FOUR))["key"]
