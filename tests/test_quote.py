"""ICMP errors about renamed flows: what they quote is renamed with them, whichever side they come from."""
import socket

import dpkt
import pytest
from boxes import box
from test_leave import left

from mbox.nat import Nat
from mos import DROP, on
from mos.events import FlowStart, PacketIn
from mos.testing import icmp_echo, tcp, udp

INSIDE, OUTSIDE, SERVER, ROUTER = "10.0.0.1", "192.0.2.1", "8.8.8.8", "203.0.113.254"
SECOND = 1_000_000_000


def error(source, target, quoted, kind=3, code=3, rest=bytes(4), cut=None):
    """A frame with an ICMP error about the packet in frame `quoted`."""
    body = bytes(quoted)[14:][:cut]
    icmp = dpkt.icmp.ICMP(type=kind, code=code)
    icmp.data = rest + body
    ip = dpkt.ip.IP(src=socket.inet_aton(source), dst=socket.inet_aton(target), p=1, ttl=64, data=icmp)
    ip.len = len(ip)
    return bytes(dpkt.ethernet.Ethernet(src=b"2" * 6, dst=b"3" * 6, type=0x800, data=ip))


def check(frame):
    """(source, target, quoted source, quoted port, quoted target, quoted port) of an error whose sums are all right."""
    ip = dpkt.ethernet.Ethernet(frame).data
    text = socket.inet_ntoa
    raw = bytes(ip.data)
    total = sum(int.from_bytes(raw[i:i + 2].ljust(2, b"\0"), "big") for i in range(0, len(raw), 2))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    assert total == 0xffff, "the error's checksum"
    old = ip.sum
    ip.sum = 0
    assert dpkt.ip.IP(bytes(ip)).sum == old
    inner = raw[8:]
    header = inner[:20]
    words = sum(int.from_bytes(header[i:i + 2], "big") for i in range(0, 20, 2))
    while words >> 16:
        words = (words & 0xffff) + (words >> 16)
    assert words == 0xffff, "the quoted header's checksum"
    ports = [int.from_bytes(inner[20 + i:22 + i], "big") for i in (0, 2)]
    return text(ip.src), text(ip.dst), text(inner[12:16]), ports[0], text(inner[16:20]), ports[1]


def through(packets, tmp_path, *more, **options):
    return left([Nat(**{"external": OUTSIDE} | options), *more], packets, tmp_path, truth="inline", checksum="verify")


def translated(c, tmp_path):
    """Frames of a conversation as they are on the outside, and its packets."""
    _, out = through(c, tmp_path, ports="7000-7000")
    return out


@pytest.mark.parametrize("make", [lambda: udp(f"{INSIDE}:5000", f"{SERVER}:53").send(b"question"),
                                  lambda: tcp(f"{INSIDE}:5000", f"{SERVER}:53").send(bytes(1000))])
@pytest.mark.parametrize("cut", [28, None])
@pytest.mark.parametrize("source", [ROUTER, SERVER])
def test_from_outside(make, cut, source, tmp_path):
    """To whom the flow is inside; the reporter keeps its name. However little of the packet it quotes."""
    c = make()
    outside = translated(c, tmp_path)
    mine = [i for i, (_, frame) in enumerate(c.packets) if frame[26:30] == socket.inet_aton(INSIDE)][-1]
    about = outside[mine]
    packets = [*c.packets, (c.packets[-1][0] + 1000, error(source, OUTSIDE, about, cut=cut))]
    engine, out = through(packets, tmp_path, ports="7000-7000")
    assert check(out[-1]) == (source, INSIDE, INSIDE, 5000, SERVER, 53)
    if cut is None:
        assert bytes(dpkt.ethernet.Ethernet(out[-1]).data.data)[8:] == c.packets[mine][1][14:]
    assert engine.stats()["flows"] == 1 and engine.stats()["stages"]["quoted"] == 1


@pytest.mark.parametrize("source", [INSIDE, "10.9.9.9"])
def test_from_inside(source, tmp_path):
    """A host, or a router behind us, that does not want the answer: outside both are the external address."""
    c = udp(f"{INSIDE}:5000", f"{SERVER}:53").send(b"question").reply(b"answer")
    packets = [*c.packets, (c.packets[-1][0] + 1000, error(source, SERVER, c.packets[1][1]))]
    packets[1] = (packets[1][0], translated_answer(c, tmp_path))
    _, out = through(packets, tmp_path, ports="7000-7000")
    assert check(out[-1]) == (OUTSIDE, SERVER, SERVER, 53, OUTSIDE, 7000)


def translated_answer(c, tmp_path):
    """The server's answer as it is on the outside: to the external end."""
    answer = udp(f"{OUTSIDE}:7000", f"{SERVER}:53").reply(b"answer")
    return answer.packets[0][1]


def test_about_an_echo(tmp_path):
    c = icmp_echo(INSIDE, SERVER, ident=77, count=1)
    out = translated(c.packets[:1], tmp_path)
    packets = [c.packets[0], (c.packets[0][0] + 1000, error(ROUTER, OUTSIDE, out[0], kind=11, code=0))]
    _, out = through(packets, tmp_path, ports="7000-7000")
    assert check(out[1])[:3] == (ROUTER, INSIDE, INSIDE)
    quoted = bytes(dpkt.ethernet.Ethernet(out[1]).data.data)[8:]
    assert quoted == c.packets[0][1][14:]


def test_what_is_about_no_flow_of_ours_does_not_pass(tmp_path):
    """Nor does one with a wrong checksum, or one too short to say what it is about."""
    c = udp(f"{INSIDE}:5000", f"{SERVER}:53").send(b"question")
    about = translated(c, tmp_path)[0]
    other = udp(f"{OUTSIDE}:7001", f"{SERVER}:53").send(b"x").packets[0][1]
    good = error(ROUTER, OUTSIDE, about)
    for bad in (error(ROUTER, OUTSIDE, other), good[:-1] + bytes([good[-1] ^ 1]), error(ROUTER, OUTSIDE, about, cut=24)):
        _, out = through([*c.packets, (c.packets[0][0] + 1000, bad)], tmp_path, ports="7000-7000")
        assert len(out) == 1


def test_handlers_see_it_as_a_packet_of_its_flow(tmp_path):
    seen = []

    @on(PacketIn, where="protocol == 1")
    def no(ev):
        seen.append((ev.flow.id, ev.flow.proto, ev.to_server, ev.packet.src))
        return DROP

    @on(FlowStart)
    def count(ev):
        seen.append(ev.flow.id)
    c = udp(f"{INSIDE}:5000", f"{SERVER}:53").send(b"question")
    about = translated(c, tmp_path)[0]
    packets = [*c.packets, (c.packets[0][0] + 1000, error(ROUTER, OUTSIDE, about))]
    _, out = through(packets, tmp_path, box(no, count), ports="7000-7000")
    assert seen == [1, (1, "udp", False, ROUTER)] and len(out) == 1
