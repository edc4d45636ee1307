"""Why a walk through a frame ends early: every cause from a frame that deserves it, and the depth bounds."""
import pytest
from mos.net.decode import CAUSES, Decoder
from packets import ICMP, UDP, ether, icmp, ip4, ip6, tcp, tcp4, tcp6, udp

from mos.events.spec import MALFORMED


def nested(layers):
    packet = tcp4()
    for _ in range(layers):
        packet = ip4(packet, proto=4)
    return packet


BY_CAUSE = {
    "link": ether(tcp4())[:13],
    "ip_version": ether(b"\x55" + tcp4()[1:], 0x0800),
    "ip_header": ether(b"\x44" + tcp4()[1:], 0x0800),
    "ip_length": ether(ip4(tcp(), total=41)),
    "ip_options": ether(ip4(tcp(), options=b"\x07\x09\x04\x00")),
    "extension": ether(ip6(bytes([6, 9]) + tcp(), 60)),
    "tcp_header": ether(tcp4(offset=4)),
    "udp_header": ether(ip4(udp(b"x", length=10), UDP)),
    "icmp_header": ether(ip4(icmp(8)[:7], ICMP)),
    "tunnel": ether(ip4(b"\0\0\x08", 47)),
    "depth": ether(nested(9)),
    "fragment_length": ether(ip4(b"1234567", frag=0x2000)),
}


def test_numbers_are_those_of_the_event():
    assert CAUSES == MALFORMED


@pytest.mark.parametrize("cause", BY_CAUSE)
def test_cause(cause):
    d = Decoder()
    r = d.parse(BY_CAUSE[cause])
    assert (r["status"], CAUSES[r["cause"]]) == ("malformed", cause)
    assert d.counters()[f"malformed_{cause}"] == d.counters()["malformed"] == 1


@pytest.mark.parametrize("frame, needs", [
    (ether(tcp4()), 54), (ether(tcp6()), 74), (ether(ip4(udp(b"x"), UDP)), 42), (ether(ip4(icmp(8), ICMP)), 42),
    (ether(tcp4(), vlans=(1, 2)), 62)])
def test_a_header_cut_by_the_capture_is_truncated(frame, needs):
    for n in range(needs):
        r = Decoder().parse(frame[:n], wirelen=len(frame))
        assert (r["status"], CAUSES[r["cause"]]) == ("malformed", "truncated"), n
    assert Decoder().parse(frame[:needs], wirelen=len(frame))["status"] == "flow"


def test_eight_tunnels_are_followed():
    d = Decoder()
    assert d.parse(ether(nested(8)))["status"] == "flow"
    assert d.counters()["tunnel_ipip"] == 8


def test_headers_without_end():
    """Steps that are no tunnels are bounded too: Ethernet in MPLS in Ethernet."""
    frame = ether(tcp4())
    for _ in range(30):
        frame = ether(b"\0\1\1\xff" + bytes(4) + frame, 0x8847)
    r = Decoder().parse(frame)
    assert CAUSES[r["cause"]] == "depth"


def test_path_has_room_for_the_deepest_tunnels():
    packet = tcp6()
    for _ in range(8):
        packet = ip6(packet, 41)
    d = Decoder()
    r = d.parse(ether(packet, vlans=range(1, 9)))
    assert r["status"] == "flow"
    assert d.domain(r["domain"])[0] == list(range(1, 9)) and d.domain(r["domain"])[1].count("ipip") == 8
