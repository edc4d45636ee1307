"""The kernel's program names the worker that the stack's own function names, whatever the packet."""
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mos.net.bpf import run_code, verify
from mos.net.decode import Decoder
from packets import ether, icmp, ip4, ip6, raw, tcp, udp

from mos.io.fanout import EVERYTHING, EXTENSIONS, KIND, OUTGOING, PROTOCOL, TAGS, TUNNEL_PORTS, program

W32 = 2**32 - 1


def mixed(words, a_port, b_port, workers):
    """mos.net.shard, in Python."""
    total = sum(words) & W32
    differ = 0
    for word in words:
        differ ^= word
    x = total * 0x9e3779b1 & W32 ^ differ
    x ^= (a_port + b_port) << 16 & W32 ^ (a_port ^ b_port)
    for shift, factor in ((16, 0x85ebca6b), (13, 0xc2b2ae35), (16, 1)):
        x = (x ^ x >> shift) * factor & W32
    return (x >> 16) * workers >> 16


def by_key(key, workers):
    return mixed(struct.unpack("!8I", key[:32]), *struct.unpack("=HH", key[32:36]), workers)


def by_addresses(src, dst, workers):
    packed = b"".join(raw(a).ljust(16, b"\0") for a in (src, dst))
    return mixed(struct.unpack("!8I", packed), 0, 0, workers)


def run(frame, workers, *args, **kwargs):
    return run_code(program(workers, *args, **kwargs), frame, len(frame))


def behind_link(frame, workers, outgoing=False):
    """As in a fanout group: the EtherType is told beside the frame, which begins behind it unless the host sends it."""
    told = {PROTOCOL: int.from_bytes(frame[12:14], "big"), KIND: OUTGOING if outgoing else 3}
    code = [(0x00, jt, jf, told[k]) if op == 0x20 and k in told else (op, jt, jf, k)
            for op, jt, jf, k in program(workers, link=False)]
    frame = frame if outgoing else frame[14:]
    return run_code(code, frame, len(frame))


PORT = st.one_of(st.integers(0, 65535), st.sampled_from([*TUNNEL_PORTS, 53, 80]))
ADDRESS = {4: st.integers(1, W32).map(lambda n: str(ipaddress.IPv4Address(n))),
           6: st.integers(1, 2**128 - 1).map(lambda n: str(ipaddress.IPv6Address(n)))}
TYPES = {4: [0, 3, 8, 11, 13, 14, 15, 16, 17, 18, 42, 43], 6: [1, 2, 128, 129, 133, 134, 135, 136, 139, 140, 160, 161]}


@st.composite
def transports(draw, version, src, dst):
    """(protocol, segment)."""
    kind = draw(st.sampled_from(["tcp", "udp", "icmp"]))
    if kind == "icmp":
        return (1 if version == 4 else 58), icmp(draw(st.sampled_from(TYPES[version])), draw(st.integers(0, 3)),
                                                 draw(st.integers(0, 65535)), bytes(8), src, dst)
    make = tcp if kind == "tcp" else udp
    return (6 if kind == "tcp" else 17), make(b"payload!", draw(PORT), draw(PORT), src=src, dst=dst)


def authentication(proto):
    return bytes([proto, 4, 0, 0]) + bytes(20)


@st.composite
def headers(draw, proto, most):
    """(first protocol, IPv6 extension headers in front of `proto`). Of routing headers the innermost alone has segments left."""
    out, routed = b"", False
    for kind in draw(st.lists(st.sampled_from(["options", "authentication", "atomic", 0, 2, 4]), max_size=most)):
        if kind == "options":
            out, proto = bytes([proto, 1]) + b"\1\x0c" + bytes(12) + out, 60
        elif kind == "authentication":
            out, proto = authentication(proto) + out, 51
        elif kind == "atomic":
            out, proto = bytes([proto]) + bytes(7) + out, 44
        else:
            hops = b"".join(raw(draw(ADDRESS[6])) for _ in range(draw(st.integers(1, 3))))
            out, proto = bytes([proto, len(hops) // 8, kind, 0 if routed else draw(st.integers(0, 1))]) + bytes(4) + hops + out, 43
            routed = True
    return proto, out


@st.composite
def frames(draw, tags=TAGS, extensions=EXTENSIONS):
    version = draw(st.sampled_from([4, 6]))
    src, dst = draw(ADDRESS[version]), draw(ADDRESS[version])
    proto, body = draw(transports(version, src, dst))
    if version == 4:
        for _ in range(draw(st.integers(0, extensions))):
            proto, body = 51, authentication(proto) + body
        packet = ip4(body, proto, src, dst, options=b"\1" * draw(st.sampled_from([0, 4, 40])))
    else:
        proto, before = draw(headers(proto, extensions))
        packet = ip6(before + body, proto, src, dst)
    if draw(st.booleans()) and draw(st.booleans()):
        number = b"\x00\x21" if version == 4 else b"\x00\x57"
        return ether(b"\x11\0\0\1" + struct.pack("!H", len(packet) + 2) + number + packet, type=0x8864,
                     vlans=range(1, 1 + draw(st.integers(0, tags))))
    return ether(packet, vlans=range(1, 1 + draw(st.integers(0, tags))))


@given(frames(), st.sampled_from([1, 2, 3, 7, 64]))
def test_the_program_agrees_with_the_stack(frame, workers):
    found = Decoder(tunnels=False).parse(frame)
    assert found["status"] == "flow"
    expected = by_key(found["key"], workers)
    if found["proto"] == 17 and {found["sport"], found["dport"]} & set(TUNNEL_PORTS):
        expected = mixed(struct.unpack("!8I", found["key"][:32]), 0, 0, workers)
    assert run(frame, workers) == behind_link(frame, workers) == behind_link(frame, workers, True) == expected
    owners = [worker for worker in range(workers) if run(frame, workers, "own", worker) == EVERYTHING]
    assert owners == [expected] and run(frame, workers, "fragments") == 0


@given(frames(), st.integers(0, 200), st.booleans())
def test_every_frame_has_one_owner_or_is_a_fragment(frame, cut, broken):
    """Whatever is cut off or damaged: a frame that no socket takes is lost, one that two take is sent twice."""
    frame = bytes(b ^ 0x55 if broken and i % 7 == cut % 7 else b for i, b in enumerate(frame))[:cut]
    owners = [worker for worker in range(3) if run(frame, 3, "own", worker) == EVERYTHING]
    shared = run(frame, 3)
    assert owners == ([0, 1, 2] if run(frame, 3, "fragments") else [shared]) and (cut < 14 or behind_link(frame, 3) == shared)


TUNNELS = [ip4(b"\0\0\x08\0" + ip4(tcp(), 6), 47, "10.9.0.1", "10.9.0.2"), ip4(ip4(udp(), 17), 4, "10.9.0.1", "10.9.0.2"),
           ip4(udp(b"\x08\0\0\0\0\0\x2a\0" + ether(ip4(tcp(), 6)), 50000, 4789), 17, "10.9.0.1", "10.9.0.2")]


@pytest.mark.parametrize("packet", TUNNELS)
def test_what_is_in_a_tunnel_goes_by_its_ends(packet):
    assert Decoder().parse(ether(packet))["domain"]
    back = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
    for workers in range(2, 9):
        assert run(ether(packet), workers) == run(ether(back), workers) == by_addresses("10.9.0.1", "10.9.0.2", workers)


@pytest.mark.parametrize("frag, last", [(0x2000, False), (0x2001, False), (0x0001, True)])
@pytest.mark.parametrize("tags", range(TAGS + 1))
def test_fragments_are_everybodys(frag, last, tags):
    extension = bytes([17, 0]) + struct.pack("!H", (frag & 0x1fff) * 8 | (not last)) + bytes(4)
    for packet in (ip4(bytes(64), 17, frag=frag), ip6(extension + bytes(64), 44),
                   ip6(bytes([44, 0, 1, 4, 0, 0, 0, 0]) + extension + bytes(64), 60)):
        frame = ether(packet, vlans=range(tags))
        assert run(frame, 5) == 0 and run(frame, 5, "fragments") == EVERYTHING
        assert all(run(frame, 5, "own", worker) == EVERYTHING for worker in range(5))


def test_the_first_worker_takes_what_is_not_understood():
    options = b"".join(bytes([60, 0, 1, 4, 0, 0, 0, 0]) for _ in range(EXTENSIONS)) + bytes([6, 0, 1, 4, 0, 0, 0, 0])
    for frame in (ether(bytes(46), type=0x0806), ether(ip4(tcp()), vlans=range(TAGS + 1)), ether(ip6(options + tcp(), 60)),
                  bytes(9), b"", ether(ip4(tcp())[:24])):
        assert run(frame, 64) == 0 and run(frame, 64, "own", 0) == EVERYTHING and run(frame, 64, "own", 1) == 0


def test_the_kernel_would_take_it():
    for ending in ("share", "own", "fragments"):
        code = program(64, ending)
        verify(code)
        assert len(code) < 4096
