"""The filter machine: names by position, packets without a key, and a verifier that lets nothing unsafe run."""
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mos.events.filtervm import FIELD_SOURCES, LIMITS, Filter, Insn, run_on

from mos.errors import FilterError, UsageError
from mos.events import filtervm as vm
from mos.events.filter import Layout, RecordField, compile_filter

MAX_INSNS, MAX_POOL = LIMITS
FLOW = dict(client=b"\x0a\0\0\5", client_port=5000, server=b"\x08\x08\x08\x08", server_port=53, proto=17)
OUTSIDE = (1, b"\xc0\0\2\1", 61000, b"\x08\x08\x08\x08", 53)        # what a NAT at position 1 makes of FLOW


def passes(text, **arguments):
    return run_on(compile_filter(text), **arguments)


@pytest.mark.parametrize("position, client, port", [(0, "10.0.0.5", 5000), (1, "10.0.0.5", 5000), (2, "192.0.2.1", 61000),
                                                    (9, "192.0.2.1", 61000)])
def test_each_position_has_its_own_names(position, client, port):
    text = f"client == {client} and client_port == {port} and server == 8.8.8.8 and server_port == 53"
    assert passes(text, flow=FLOW, aliases=[OUTSIDE], position=position)


@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize("wire_side", [0, 1])
@pytest.mark.parametrize("to_server", [0, 1])
def test_packet_ends_are_those_of_the_position(position, wire_side, to_server):
    """The packet carries one wire side's addresses; each position sees its own, in the packet's direction."""
    ends = [(FLOW["client"], FLOW["client_port"]), (FLOW["server"], 53)] if wire_side == 0 else \
        [OUTSIDE[1:3], (FLOW["server"], 53)]
    (src, sport), (dst, dport) = ends if to_server else ends[::-1]
    packet = dict(src=src, dst=dst, src_port=sport, dst_port=dport, proto=17)
    client = "10.0.0.5" if position == 0 else "192.0.2.1"
    port = 5000 if position == 0 else 61000
    mine, other = ("src", "dst") if to_server else ("dst", "src")
    text = f"{mine} == {client} and {mine}_port == {port} and {other} == 8.8.8.8 and {other}_port == 53"
    assert passes(text, flow=FLOW, packet=packet, aliases=[OUTSIDE], position=position)
    assert passes(f"{mine} == client and {other} == server", flow=FLOW, packet=packet, aliases=[OUTSIDE], position=position)


def test_direction_does_not_hang_on_the_key_s_halves():
    """client_hi differs between a flow's names: 10.0.0.5 < 200.0.0.1 but 240.0.0.1 > 200.0.0.1."""
    flow = dict(FLOW, server=b"\xc8\0\0\1")
    alias = (1, b"\xf0\0\0\1", 5000, b"\xc8\0\0\1", 53)
    out = dict(src=b"\xf0\0\0\1", dst=b"\xc8\0\0\1", src_port=5000, dst_port=53, proto=17)
    for position, client in ((0, "10.0.0.5"), (2, "240.0.0.1")):
        assert passes(f"src == {client} and dst == 200.0.0.1 and src_port == 5000", flow=flow, packet=out, aliases=[alias],
                      position=position)


def test_a_stranger_packet_keeps_its_names():
    packet = dict(src=b"\1\1\1\1", dst=b"\2\2\2\2", src_port=1, dst_port=2, proto=6)
    assert passes("src == 1.1.1.1 and dst_port == 2 and client == 10.0.0.5 and udp", flow=FLOW, packet=packet)
    assert passes("src == 1.1.1.1 and src_port == 1 and tcp", packet=packet)


def test_ports_only_of_tcp_and_udp():
    flow = dict(FLOW, proto=1)
    packet = dict(src=FLOW["client"], dst=FLOW["server"], src_port=8, dst_port=9, proto=1)
    assert passes("client_port == 0 and server_port == 0 and src_port == 0 and dst_port == 0 and icmp", flow=flow,
        packet=packet)
    assert passes("icmp and not udp and not tcp", flow=dict(flow, proto=58))
    assert not passes("icmp", flow=dict(flow, proto=59))


def test_addresses_from_the_header_of_a_packet_without_key():
    v4 = struct.pack(">12x4s4s", b"\x0a\0\0\1", b"\x0a\0\0\2")
    v6 = struct.pack(">8x16s16s", bytes(15) + b"\1", bytes(15) + b"\2")
    other = dict(status=1, proto=132)
    assert passes("src == 10.0.0.1 and dst in 10.0.0.2/32 and src_port == 0 and protocol == 132", packet=dict(other,
        header=v4))
    assert passes("src == ::1 and dst == ::2", packet=dict(other, header=v6, ipver=6))
    for header, ipver in ((v4[:19], 4), (v6[:39], 6), (v4, 6), (v4, 0), (b"", 4)):
        assert not passes("src in 0.0.0.0/0 or src in ::/0 or dst != 9.9.9.9", packet=dict(other, header=header, ipver=ipver))
    assert not passes("src in 0.0.0.0/0", packet=other)


def test_tcp_fields_need_tcp():
    for packet in (dict(proto=17, tcp_flags=2, wnd=5), dict(status=2, tcp_flags=2, wnd=5)):
        assert not passes("syn or window >= 0 or syn == false or syn == true", packet=packet)
    assert not passes("payload_length >= 0", packet=dict(status=3))
    assert passes("syn and not ack and window == 5 and payload_length == 0", packet=dict(tcp_flags=2, wnd=5))


SAMPLES = [("flow_id", "flow", "id"), ("client_bytes", "flow", "client_bytes"), ("server_bytes", "flow", "server_bytes"),
           ("client_packets", "flow", "client_packets"), ("server_packets", "flow", "server_packets"),
           ("packet_number", "packet", "number"), ("packet_length", "packet", "wirelen"),
           ("payload_length", "packet", "payload_len"), ("ip_version", "packet", "ipver"), ("protocol", "packet", "proto"),
           ("window", "packet", "wnd")]


@pytest.mark.parametrize("name, part, member", SAMPLES)
def test_each_number_comes_from_its_own_member(name, part, member):
    mine = {m: 200 + n for n, (_, p, m) in enumerate(SAMPLES) if p == part}
    if part == "packet":
        mine["proto"] = 6
    assert passes(f"{name} == {mine[member]}", **{part: mine})
    assert not passes(f"{name} == {mine[member]}", **{part: {**mine, member: 17}})


def test_record_fields():
    layout = Layout(33, {"x": RecordField("f64", 0), "n": RecordField("i64", 8), "peer": RecordField("ip", 16)})
    record = struct.pack("<dq4s12xB", -0.0, -7, b"\x0a\0\0\1", 4)

    def ask(text, **arguments):
        return run_on(compile_filter(text, "AppEvent", layout), **arguments)
    assert ask("x == 0 and x > -0.5 and n in -7..-7 and peer in 10.0.0.0/8", record=record)
    assert not ask("x == 0 or x != 0 or n != 5 or peer != ::1")
    assert not ask("peer != ::1", record=record[:32] + b"\0")
    with pytest.raises(UsageError):
        ask("x == 0", record=record[:-1])
    with pytest.raises(FilterError):
        compile_filter("peer != ::1", "AppEvent", layout._replace(size=32))


BLANK = Insn(*[0] * len(Insn._fields))
PORT23 = BLANK._replace(op=vm.RANGE, src=vm.SERVER_END, type=vm.PORT, a=23, jt=2, jf=1)


def test_a_program_by_hand():
    f = Filter("", "Event", [PORT23])
    assert run_on(f, flow=dict(FLOW, server_port=23)) and not run_on(f, flow=FLOW) and not run_on(f)
    assert run_on(Filter("", "Event", [], entry=1)) and not run_on(Filter("", "Event", []))


@pytest.mark.parametrize("change", [
    dict(op=7), dict(op=-1), dict(src=11), dict(type=vm.IP), dict(type=vm.U8), dict(offset=1), dict(src=vm.FLOW, type=vm.U8),
    dict(src=vm.EVENT, type=vm.I64, offset=4096), dict(src=vm.RECORD, type=vm.U8), dict(invert=2), dict(jt=0), dict(jf=0),
    dict(jt=3), dict(jf=3), dict(jf=-1), dict(op=vm.RANGES, b=1), dict(op=vm.RANGES, a=-1), dict(op=vm.NET),
        dict(op=vm.FIELD),
    dict(arg=256), dict(src2=-1), dict(offset2=2**16),
    dict(op=vm.FIELD, src2=vm.CLIENT_END, type2=vm.IP), dict(op=vm.FIELD, src2=vm.CLIENT_END, type2=vm.PORT, arg=3),
    dict(op=vm.SAME, type=vm.IP, src2=vm.CLIENT_END, type2=vm.PORT)])
def test_unsafe_instructions_are_refused(change):
    with pytest.raises(FilterError, match="bad instruction 0"):
        Filter("", "Event", [PORT23._replace(**change)])


def test_unsafe_programs_are_refused():
    loop = [PORT23._replace(jt=1, jf=1), PORT23._replace(jt=1, jf=2)]
    for program, pool, entry, size in ((loop, (), 0, 0), ([PORT23], (), 1, 0), ([], (), 2, 0), ([], (), -1, 0),
                                       ([PORT23._replace(op=vm.RANGES, a=1, b=1)], (1, 2), 0, 0),
                                       ([PORT23._replace(jt=MAX_INSNS + 2, jf=MAX_INSNS + 2)] * (MAX_INSNS + 1), (), 0, 0),
                                       ([], [0] * (MAX_POOL + 1), 0, 0),
                                       ([BLANK._replace(src=vm.RECORD, type=vm.I64, offset=1, jt=1, jf=1)], (), 0, 8),
                                       ([BLANK._replace(src=vm.RECORD, type=vm.I64, offset=-1, jt=1, jf=1)], (), 0, 8)):
        with pytest.raises(FilterError):
            Filter("", "Event", program, pool, entry, size)


SMALL = st.integers(-1, 12)
WORD = st.one_of(SMALL, st.sampled_from([2**63, 2**64 - 1, 23]))
SOURCES = sorted({s[:3] for s in FIELD_SOURCES.values()} | {(vm.RECORD, t, o) for t in range(7) for o in (0, 8, 15, 16, 24)})


@st.composite
def programs(draw):
    n = draw(st.integers(0, 6))
    out = []
    for pc in range(n):
        one, two = draw(st.sampled_from(SOURCES)), draw(st.sampled_from(SOURCES))
        op = draw(st.sampled_from([vm.NET, vm.SAME] if one[1] == vm.IP else range(5)))
        insn = Insn(op, one[0], one[1], draw(st.integers(0, 1)), draw(st.integers(0, 2)), two[0], two[1], one[2], two[2],
                    draw(st.integers(pc + 1, n + 1)), draw(st.integers(pc + 1, n + 1)), *(draw(WORD) for _ in range(4)))
        if draw(st.integers(0, 9)) == 0:
            insn = insn._replace(**{draw(st.sampled_from(Insn._fields)): draw(WORD)})
        out.append(insn)
    return out


@settings(max_examples=400, deadline=None)
@given(programs(), st.lists(st.integers(-2**63, 2**63 - 1), max_size=6), st.booleans(), st.booleans())
def test_random_programs_are_refused_or_end(program, pool, with_flow, with_packet):
    try:
        f = Filter("", "Event", program, pool, 0, 33)
    except FilterError:
        return
    arguments = dict(flow=FLOW if with_flow else None, packet=FLOW_PACKET if with_packet else None)
    assert run_on(f, record=bytes(33), **arguments) in (True, False)
    assert all(pc < i.jt <= len(program) + 1 and pc < i.jf <= len(program) + 1 for pc, i in enumerate(f.program))
    assert all(i.a + 2 * i.b <= len(pool) for i in f.program if i.op == vm.RANGES)


FLOW_PACKET = dict(src=FLOW["client"], dst=FLOW["server"], src_port=5000, dst_port=53, proto=17)


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(0, 65535), min_size=1, max_size=40), st.integers(0, 65535))
def test_range_search(ports, port):
    pool = [word for p in sorted(ports) for word in (p, p)]
    f = Filter("", "Event", [PORT23._replace(op=vm.RANGES, a=0, b=len(ports))], pool)
    for asked in (port, max(ports), min(ports), (max(ports) + 1) % 65536):
        assert run_on(f, flow=dict(FLOW, server_port=asked)) == (asked in ports)


@settings(max_examples=300, deadline=None)
@given(first=WORD, more=WORD, invert=st.booleans(), swap=st.booleans(),
       length=st.integers(0, 12) | st.sampled_from([2**63, 2**64 - 1]))
def test_a_number_of_the_event_asked_first(first, more, invert, swap, length):
    """What a filter begins with is asked before it is run: both must say the same."""
    more %= 2**64
    src, kind, at = FIELD_SOURCES["event.length"][:3]
    f = Filter("", "Event", [BLANK._replace(op=vm.RANGE, src=src, type=kind, offset=at, a=first, b=more, invert=int(invert),
                                            jt=1 + (not swap), jf=1 + swap)])
    assert run_on(f, length=length) == (((length - first) % 2**64 <= more) ^ invert ^ swap)
