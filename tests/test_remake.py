"""Segments made anew from one that came: headers, lengths, checksums (their content: test_safe.py)."""
import struct

from hosts import ACK, SYN, frame
from mos.net.decode import checksum
from packets import ether, ip4
from packets import udp as datagram
from test_rewrite import pseudo_sum
from test_safe import Lane

from mos.events import Event, on


def vlan(raw, *ids):
    return raw[:12] + b"".join(struct.pack("!HH", 0x8100, i) for i in ids) + raw[12:]


def vxlan(raw):
    """Both hosts behind tunnel ends; the outer UDP without a checksum, as Linux sends it."""
    return ether(ip4(datagram(struct.pack("!II", 1 << 27, 7 << 8) + raw, 5000, 4789, check=0), 17))


HELLO = ((True, 1000, 0, SYN, b""), (False, 2000, 1001, SYN | ACK, b""), (True, 1001, 2001, ACK, b""))


def opened(lane, wrap):
    for segment in HELLO:
        lane.feed(wrap(frame(1234, *segment)))


def test_tags_stay():
    with Lane(open=False) as lane:
        opened(lane, lambda raw: vlan(raw, 7, 5))
        (ack,) = lane.feed(vlan(frame(1234, True, 1004, 2001, ACK, b"def"), 7, 5))
        assert ack[12:20] == vlan(bytes(14), 7, 5)[12:20] and ack[:12] == bytes(range(8, 14)) + bytes(range(2, 8))
        first, rest = lane.feed(vlan(frame(1234, True, 1001, 2001, ACK, b"abc"), 7, 5))
        assert rest[:12] == first[:12] and rest[12:20] == first[12:20] and rest.endswith(b"def")
        assert rest[:26] == vlan(frame(1234, True, 1004, 2001, ACK | 8, b"def"), 7, 5)[:26]
        assert rest[26:] == frame(1234, True, 1004, 2001, ACK | 8, b"def", wnd=65535)[18:]


def test_an_unfinished_checksum_stays_unfinished_when_bytes_are_cut_off():
    with Lane() as lane:
        lane.client(0, b"abc")
        lane.server(ack=2)
        (out,) = lane.feed(pseudo_sum(frame(1234, True, 1001, 2001, ACK, b"xyzdef")), csum_partial=True)
        assert out[54:] == b"cdef" and pseudo_sum(out) == out
        (out,) = lane.feed(pseudo_sum(frame(1234, True, 1001, 2001, ACK, b"xy")), csum_partial=True)
        assert len(out) == 54 and pseudo_sum(out) == out


def test_a_super_packet_is_one_packet_of_many_segments():
    seen = []

    @on(Event, where="not to_server")
    def note(ev):
        if ev.packet is not None:
            seen.append(ev.packet.segments)
    with Lane(note) as lane:
        raw = frame(1234, False, 2001, 1001, ACK, b"x" * 64_000)
        (out,) = lane.feed(pseudo_sum(raw), csum_partial=True, gso_size=1448)
        assert out == pseudo_sum(raw)
        big = raw[:16] + b"\0\0" + raw[18:24] + b"\0\0" + raw[26:]      # BIG TCP: the length does not fit its field
        big = big[:24] + checksum(big[14:34]).to_bytes(2, "big") + big[26:] + b"y" * 8000
        assert lane.feed(big, csum_partial=True, gso_size=1448) and len(lane.frames) == 1
        stats = lane.engine.stats()
        assert set(seen) == {1, 45, 50} and stats["packets_in"] == 5 and stats["segments_in"] == 5 + 44 + 49


def test_in_a_tunnel_bytes_are_put_right_and_none_cut_off():
    with Lane(open=False) as lane:
        opened(lane, vxlan)
        assert lane.feed(vxlan(frame(1234, True, 1001, 2001, ACK, b"abc")))
        (out,) = lane.feed(vxlan(frame(1234, True, 1001, 2001, ACK, b"xyz")))
        assert out == vxlan(frame(1234, True, 1001, 2001, ACK, b"abc"))
        lane.feed(vxlan(frame(1234, False, 2001, 1003, ACK)))
        assert lane.feed(vxlan(frame(1234, True, 1001, 2001, ACK, b"xyz"))) == []
        assert lane.engine.stats()["dropped"] == {"unsafe": 1}
        assert lane.feed(vxlan(frame(1234, True, 1008, 2001, ACK, b"h"))) == []     # no ACK of ours either
