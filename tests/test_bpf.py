"""Packet filters: every verdict equals libpcap's own, and no program reads outside the frame or fails to end."""
import os
import pathlib
import struct
import sys

import dpkt
import pcapy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mos.net.bpf import MAX_INSNS, SNAPLEN, PacketFilter, run_code, verify

from mos.errors import FilterError, UsageError

CORPORA = pathlib.Path(os.environ.get("MOS_CORPORA") or pathlib.Path(__file__).parents[2] / "shared" / "corpora")

EXPRESSIONS = """
tcp
udp or icmp or icmp6
tcp port 80
port 53
not tcp portrange 1024-65535
src host 10.0.0.1
dst net 192.168.0.0/16 and not dst port 443
net 10.0.0.0/8 or net 2001:db8::/32
ip6
ip6 and tcp dst port 8080
tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and not src and dst net 10.0.0.0/8
tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420
ip[2:2] - ((ip[0] & 0xf) << 2) > 100
ip[8] % 7 = 3 or ip[8] / 3 > 20
ip[6:2] & 0x1fff != 0
(ip[4:2] ^ ip[10:2]) & 1 = 1
len > 100
less 60
greater 1000
ip proto 47
ip[ip[9] + 3] = 6
ip6[6] * 2 = 12
ip[1] = 0 and (ip[4:2] << 3) + 5 > 650 - ip[3]
-ip[9] < 0xfffffff0
""".strip().splitlines()
ETHERNET = ["arp", "vlan and tcp", "vlan 5", "ether host 02:00:00:00:00:01", "ether multicast", "mpls", "pppoes and ip"]


def libpcap(expr, linktype):
    dlt = {100: 11, 101: 12}.get(linktype, linktype)
    return pcapy.compile(dlt, SNAPLEN, expr, 1, 0)


def compile_or_none(expr, linktype):
    """None where libpcap refuses; asked through us, as pcapy's compile() reads freed memory then."""
    try:
        PacketFilter(expr).check(linktype)
    except FilterError as error:
        assert ": it " not in str(error)    # our own verifier's refusals
        return None
    return libpcap(expr, linktype)


def eth(body, kind, tags=()):
    head = b"\x02\0\0\0\0\1\x02\0\0\0\0\2"
    for tag in tags:
        head += struct.pack(">HH", 0x8100, tag)
    return head + struct.pack(">H", kind) + bytes(body)


def ip_packets():
    tcp = dpkt.tcp.TCP(sport=1234, dport=80, flags=dpkt.tcp.TH_SYN, data=b"")
    get = dpkt.tcp.TCP(sport=50000, dport=8080, flags=dpkt.tcp.TH_ACK, data=b"GET / HTTP/1.0\r\n\r\n" + b"x" * 200)
    udp = dpkt.udp.UDP(sport=53, dport=5353, data=b"dns", ulen=11)
    ping = dpkt.icmp.ICMP(type=8, data=dpkt.icmp.ICMP.Echo(id=1, seq=2, data=b"ping"))
    for proto, l4 in ((6, tcp), (6, get), (17, udp), (1, ping), (47, b"\0\0\x08\0")):
        for src, dst in ((b"\x0a\0\0\1", b"\xc0\xa8\1\1"), (b"\1\2\3\4", b"\x0a\0\0\1")):
            for opts, frag in ((b"", 0), (b"\1\1\1\0", 0), (b"", 100)):
                packet = bytearray(bytes(dpkt.ip.IP(src=src, dst=dst, p=proto, data=l4, opts=opts, ttl=64, id=77)))
                struct.pack_into(">H", packet, 6, frag)
                yield 4, bytes(packet)
        yield 6, bytes(dpkt.ip6.IP6(src=b"\x20\1\x0d\xb8" + bytes(12), dst=bytes(15) + b"\1", nxt=proto, hlim=9,
                                    plen=len(bytes(l4)), data=l4, extension_hdrs={}, all_extension_headers=[]))


PACKETS = list(ip_packets())
FRAMES = {1: [eth(p, 0x800 if v == 4 else 0x86dd, tags) for v, p in PACKETS for tags in ((), (5,), (7, 5))]
          + [eth(dpkt.arp.ARP(), 0x806), b"", b"\0" * 13, b"\xff" * 1200],
          101: [p for _, p in PACKETS] + [b"", b"\x45"],
          113: [struct.pack(">HHH8sH", 0, 1, 6, b"", 0x800 if v == 4 else 0x86dd) + p for v, p in PACKETS],
          0: [struct.pack("=I", 2 if v == 4 else 10) + p for v, p in PACKETS]}


@pytest.mark.parametrize("linktype", FRAMES)
@pytest.mark.parametrize("expr", EXPRESSIONS + ETHERNET)
def test_verdict_is_libpcaps(expr, linktype):
    if linktype != 1 and expr in ETHERNET:
        expr = "tcp"
    oracle, ours = libpcap(expr, linktype), PacketFilter(expr)
    for frame in FRAMES[linktype]:
        for cut in {len(frame), 20, 40, 53, 60}:
            assert ours.matches(frame[:cut], linktype) == bool(oracle.filter(frame[:cut])), (expr, linktype,
                frame[:cut].hex())


def test_the_expressions_tell_packets_apart():
    for expr in EXPRESSIONS + ETHERNET[:5]:
        f = PacketFilter(expr)
        verdicts = {f.matches(frame, 1) for frame in FRAMES[1]}
        assert verdicts == {True, False}, expr


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_bytes_as_libpcap(data):
    expr = data.draw(st.sampled_from(EXPRESSIONS + ETHERNET))
    oracle, ours = libpcap(expr, 1), PacketFilter(expr)
    for _ in range(20):
        frame = bytearray(data.draw(st.sampled_from(FRAMES[1])))
        for at, byte in data.draw(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6)):
            if at < len(frame):
                frame[at] = byte
        frame = bytes(frame) if data.draw(st.booleans()) else data.draw(st.binary(max_size=80))
        assert ours.matches(frame) == bool(oracle.filter(frame))


EXPR = st.recursive(
    st.one_of(st.integers(0, 70000).map(str), st.builds("{}[{}:{}]".format, st.sampled_from(["ip", "ether", "link"]),
                                                        st.integers(0, 60), st.sampled_from([1, 2, 4])), st.just("len")),
    lambda sub: st.one_of(st.builds("({} {} {})".format, sub, st.sampled_from("+-*&|^"), sub),
                          st.builds("({} {} {})".format, sub, st.sampled_from(["/", "%", "<<", ">>"]), st.integers(1, 31)),
                          st.builds("ip[{} & 0x3f]".format, sub)), max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(st.builds("{} {} {}".format, EXPR, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), EXPR))
def test_random_arithmetic_as_libpcap(expr):
    oracle, ours = compile_or_none(expr, 1), PacketFilter(expr)
    if oracle is None:
        return
    for frame in FRAMES[1][::7] + FRAMES[1][-4:]:
        assert ours.matches(frame) == bool(oracle.filter(frame)), (expr, frame.hex())


def test_wire_length_is_not_the_captured_one():
    f = PacketFilter("len > 1000")
    assert not f.matches(bytes(60)) and f.matches(bytes(60), wirelen=1514)


def captured(path):
    """(linktype, frames) as far as dpkt reads them."""
    with open(path, "rb") as file:
        try:
            reader = dpkt.pcap.UniversalReader(file)
            for count, (_, frame) in enumerate(reader):
                if count == 300:
                    return
                yield reader.datalink() & 0xffff, bytes(frame)      # above: FCS length
        except (ValueError, dpkt.dpkt.Error, struct.error, EOFError, NotImplementedError):
            return


def test_captures_as_libpcap():
    files = sorted(CORPORA.glob("*.pcap*"))
    if not files:
        pytest.skip(f"no captures in {CORPORA}: set MOS_CORPORA to the directory that holds them")
    exprs = EXPRESSIONS[::3]
    ours, oracles, compared = [PacketFilter(e) for e in exprs], {}, 0
    for path in files:
        for linktype, frame in captured(path):
            if linktype not in oracles:
                oracles[linktype] = [compile_or_none(e, linktype) for e in exprs]
            for f, oracle in zip(ours, oracles[linktype]):
                if oracle:
                    assert f.matches(frame, linktype) == bool(oracle.filter(frame)), (path, f, frame.hex())
                    compared += 1
    assert compared > 10000, (len(files), compared)


# The machine by itself, against a plain reading of the paper.

W32 = 2**32 - 1
LOADS = {0x20: ("A", "abs", 4), 0x28: ("A", "abs", 2), 0x30: ("A", "abs", 1), 0x40: ("A", "ind", 4), 0x48: ("A", "ind", 2),
         0x50: ("A", "ind", 1), 0x00: ("A", "imm", 0), 0x60: ("A", "mem", 0), 0x80: ("A", "len", 0), 0x01: ("X", "imm", 0),
         0x61: ("X", "mem", 0), 0x81: ("X", "len", 0), 0xb1: ("X", "msh", 1)}
ALU = [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a // b, lambda a, b: a | b,
       lambda a, b: a & b, lambda a, b: a << b if b < 32 else 0, lambda a, b: a >> b if b < 32 else 0, lambda a, b: -a,
       lambda a, b: a % b, lambda a, b: a ^ b]
JUMPS = {0x10: lambda a, b: a == b, 0x20: lambda a, b: a > b, 0x30: lambda a, b: a >= b, 0x40: lambda a, b: a & b}


def reference(program, frame, wirelen):
    r, mem, pc = {"A": 0, "X": 0}, [0] * 16, 0
    while True:
        code, jt, jf, k = program[pc]
        pc += 1
        operand = r["X"] if code & 8 else k
        if code in LOADS:
            to, mode, size = LOADS[code]
            at = k + (r["X"] if mode == "ind" else 0)
            if mode in ("abs", "ind", "msh") and at + size > len(frame):
                return 0
            r[to] = {"imm": k, "len": wirelen, "mem": mem[k & 15], "msh": (frame[at:at + 1] or b"\0")[0] % 16 * 4}.get(
                mode, int.from_bytes(frame[at:at + size], "big"))
        elif code & 7 == 4:
            if code & 0xf0 in (0x30, 0x90) and operand == 0:
                return 0
            r["A"] = ALU[code >> 4](r["A"], operand) & W32
        elif code & 7 == 5:
            pc += k if code == 5 else jt if JUMPS[code & 0xf0](r["A"], operand) else jf
        elif code & 7 == 6:
            return r["A"] if code & 0x10 else k
        elif code & 7 in (2, 3):
            mem[k] = r["A" if code & 7 == 2 else "X"]
        else:
            r["X" if code == 7 else "A"] = r["A" if code == 7 else "X"]


CODES = [*LOADS, *(op << 4 | 4 | s for op in range(11) for s in (0, 8)), *(op | 5 | s for op in JUMPS for s in (0, 8)),
    5, 2, 3,
         7, 0x87]
NUMBERS = st.one_of(st.integers(0, 40), st.sampled_from([W32, 2**31, 2**31 - 1, 0xffff, 0xfffff000]), st.integers(0, W32))


@st.composite
def programs(draw):
    """Safe ones, mostly: what the verifier asks for, broken now and then."""
    n = draw(st.integers(1, 20))
    out = []
    for at in range(n):
        code, left = draw(st.sampled_from(CODES)), n - at - 1
        k = draw(st.integers(0, left) if code == 5 else st.integers(0, 15) if code in (2, 3, 0x60, 0x61) else NUMBERS)
        out.append((code, draw(st.integers(0, left)), draw(st.integers(0, left)), k))
    out.append((draw(st.sampled_from([0x06, 0x16])), 0, 0, draw(NUMBERS)))
    if draw(st.integers(0, 9)) == 0:
        out[draw(st.integers(0, n))] = draw(st.tuples(st.integers(0, 0xffff), st.integers(0, 255), st.integers(0, 255),
            NUMBERS))
    return out


@settings(max_examples=400, deadline=None)
@given(programs(), st.binary(max_size=64), st.integers(0, W32))
def test_random_programs_as_the_reference(program, frame, wirelen):
    try:
        verify(program)
    except FilterError:
        return
    assert run_code(program, frame, wirelen) == reference(program, frame, wirelen)


RET = (6, 0, 0, 1)


@pytest.mark.parametrize("program, why", [
    ([], "instructions"), ([RET] * (MAX_INSNS + 1), "instructions"), ([(0x20, 0, 0, 0)], "past its end"),
    ([(5, 0, 0, 1), RET], "past its end"), ([(5, 0, 0, W32), RET], "loop"), ([(0x15, 0, 1, 0), RET], "past its end"),
    ([(0x15, 1, 0, 0), RET], "past its end"), ([(2, 0, 0, 16), RET], "scratch"), ([(3, 0, 0, 16), RET], "scratch"),
    ([(0x60, 0, 0, 16), RET], "scratch"), ([(0x61, 0, 0, W32), RET], "scratch"), ([(0x34, 0, 0, 0), RET], "zero"),
    ([(0x94, 0, 0, 0), RET], "zero"), ([(0x20, 0, 0, 0xfffff004), RET], "kernel"), ([(0xb1, 0, 0, 2**31), RET], "kernel"),
    ([(0x40, 0, 0, 2**31), RET], "kernel"), ([(0x38, 0, 0, 0), RET], "opcode"), ([(0xb4, 0, 0, 1), RET], "opcode"),
    ([(0xa1, 0, 0, 0), RET], "opcode"), ([(0x55, 0, 0, 0), RET], "opcode"), ([(0x106, 0, 0, 0), RET], "opcode")])
def test_unsafe_programs_are_refused(program, why):
    with pytest.raises(FilterError, match=why):
        run_code(program, b"", 0)


def test_loads_at_the_very_end():
    for code, size in ((0x20, 4), (0x28, 2), (0x30, 1)):
        program = [(code, 0, 0, 8 - size), RET]
        assert run_code(program, bytes(8), 8) == 1 and run_code(program, bytes(7), 8) == 0
    indirect = [(1, 0, 0, W32), (0x50, 0, 0, 1), RET]
    assert run_code(indirect, bytes(8), 8) == 0     # X + k does not wrap round to 0


@pytest.mark.parametrize("by, left, right", [(0, 7, 7), (1, 14, 3), (31, 2**31, 0), (32, 0, 0), (33, 0, 0), (W32, 0, 0)])
def test_shifts_beyond_the_word_give_zero(by, left, right):
    for code, result in ((0x64, left), (0x74, right)):
        assert run_code([(0, 0, 0, 7), (code, 0, 0, by), (0x16, 0, 0, 0)], b"", 0) == result
        assert run_code([(0, 0, 0, 7), (1, 0, 0, by), (code | 8, 0, 0, 0), (0x16, 0, 0, 0)], b"", 0) == result


@pytest.mark.parametrize("expr, linktype, why", [
    ("tcp prt 80", 1, "syntax error"), ("inbound", 1, "to_server"), ("ether[-1] = 1", 1, "kernel"),
    ("ip6 protochain 6", 1, "loop"),
    ("tcp", 999, "link type 999.*leave the packet filter out"), ("tcp", 195, "only offsets"), ("vlan", 101, "VLAN"),
    ("tcp\0", 1, "NUL"), ("tcp", -1, "65535"), ("tcp", 2**16 + 1, "65535")])
def test_errors_are_one_line_and_name_the_expression(expr, linktype, why):
    f = PacketFilter(expr)
    with pytest.raises(FilterError, match=why) as caught:
        f.check(linktype)
    assert "\n" not in str(caught.value) and repr(expr) in str(caught.value)


def test_programs_per_link_type_are_bounded():
    f, compiled = PacketFilter("tcp"), 0
    with pytest.raises(FilterError, match="more than 16 link types"):
        for linktype in range(150):
            try:
                f.check(linktype)
                f.check(linktype)
                compiled += 1
            except FilterError as error:
                if "link types" in str(error):
                    raise
    assert compiled == 16 and f.matches(FRAMES[1][0], 1)


def test_without_pcapy(monkeypatch):
    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name == "pcapy":
                raise ImportError(name)

    monkeypatch.delitem(sys.modules, "pcapy")
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(UsageError, match="pip install pcapy-ng"):
        PacketFilter("tcp")
