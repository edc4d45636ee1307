import gc
import ipaddress
import struct
import subprocess
import sys
import weakref
from pathlib import Path

import driver
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mos.errors import StaleEvent
from mos.events import spec, views
from mos.events.narrow import Narrowed
from mos.events.user import Blob, Text, UserEvent

ROOT = Path(__file__).parent.parent
A, B, N = bytes([10, 0, 0, 1]), bytes([192, 168, 255, 100]), bytes([172, 16, 0, 9])
cy = driver.load("views_driver")


@pytest.fixture
def rig():
    rig = cy.Rig(engine=object())
    rig.flow(6, A, 1234, B, 80)
    return rig


def tcp_frame(payload=b"hello", options=b"", flags=0x18, seq=7, ack=9):
    tcp = struct.pack("!HHIIBBHHH", 1234, 80, seq, ack, (20 + len(options)) // 4 << 4, flags, 512, 0, 0) + options
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp) + len(payload), 1, 0, 63, 6, 0, A, B)
    return b"\x02" * 12 + b"\x08\x00" + ip + tcp + payload, dict(
        ip=14, l4=34, payload=34 + len(tcp), tcp_flags=flags, seq=seq, ack=ack, wnd=512, number=42, ts=1000)


def with_packet(rig, **kw):
    frame, fields = tcp_frame(**kw)
    rig.packet(frame, **fields)
    return frame


def bit(name):
    return spec.BITS[name]


VALUES = {"now": 10**18, "to_server": 1, "cause": 1, "side": 1, "old": 4, "new": 5, "offset": 2**40, "flags": 7}


@pytest.mark.parametrize("name", spec.BITS)
def test_every_field_reads_its_slot(rig, name):
    obj = ("a", "value")
    ev = rig.view(bit(name), data=b"new", old_data=b"old", obj=obj, **VALUES)
    assert type(ev) is getattr(views, name)
    for field in spec.fields_of(name):
        raw = {"length": 3, "data": b"new", "old_data": b"old", "obj": obj, **VALUES}[field.slot]
        value = getattr(ev, field.name)
        if field.type == "enum":
            assert value == field.values[raw]
        elif field.type == "bool":
            assert value is True
        else:
            assert value == raw and type(value) is not bool
    assert list(views.event_fields(ev)) == [f.name for f in spec.fields_of(name) if f.log]
    assert name in repr(ev)


def test_an_enum_value_beyond_its_names_is_shown_as_a_number(rig):
    assert rig.view(bit("FlowEnd"), cause=200).reason == "200"


@pytest.mark.parametrize("name", spec.BITS)
def test_every_attribute_of_a_released_event_raises(rig, name):
    with_packet(rig)
    ev = rig.view(bit(name), data=b"x", old_data=b"y", obj="z")
    attributes = [f.name for f in spec.fields_of(name)] + ["flow", "packet", "client", "client_port", "server", "server_port"]
    for attribute in attributes:
        getattr(ev, attribute)
    cy.release(ev)
    for attribute in attributes:
        with pytest.raises(StaleEvent, match=rf"{name}\.{attribute} read after .* ev.keep\(\)"):
            getattr(ev, attribute)
    with pytest.raises(StaleEvent):
        ev.keep()
    assert repr(ev) == f"<{name} (stale)>"


def test_data_is_copied_once_and_forgotten_with_the_event(rig):
    ev = rig.view(bit("StreamData"), data=b"first")
    data = ev.data
    assert ev.data is data
    cy.release(ev)
    assert rig.view(bit("StreamData"), data=b"second", view=ev).data == b"second" and data == b"first"


def test_binding_again_without_release_forgets_the_caches(rig):
    ev = rig.view(bit("StreamData"), data=b"first", position=0)
    assert (ev.data, ev.client) == (b"first", "10.0.0.1")
    rig.alias(N, 999, B, 80, False, 1)
    rig.view(bit("StreamData"), data=b"second", view=ev, position=2)
    assert (ev.data, ev.client) == (b"second", "172.16.0.9")


@pytest.mark.parametrize("name", spec.BITS)
def test_a_kept_copy_outlives_everything(rig, name):
    with_packet(rig)
    ev = rig.view(bit(name), data=b"new", old_data=b"old", obj=["value"], **VALUES)
    seen = [f.name for f in spec.fields_of(name)] + ["flow", "client", "client_port", "server", "server_port"]
    before = {a: getattr(ev, a) for a in seen}
    kept, packet = ev.keep(), {a: getattr(ev.packet, a) for a in PACKET}
    cy.release(ev)
    rig.scribble()
    gc.collect()
    assert {a: getattr(kept, a) for a in seen} == before
    assert {a: getattr(kept.packet, a) for a in PACKET} == packet
    assert kept.keep() is kept and type(kept) is type(ev)
    assert views.event_fields(kept) and "stale" not in repr(kept)


def test_only_kinds_whose_length_counts_bytes_copy_them(rig):
    """DuplicateAck's length is a count: taken for bytes it would be read out of bounds."""
    kept = rig.view(bit("DuplicateAck"), data=b"x", length=2**60).keep()
    assert kept.count == 2**60


PACKET = ("number", "time", "length", "data", "payload", "payload_length", "src", "src_port", "dst", "dst_port", "ip_version",
          "protocol", "ttl", "tcp_flags", "syn", "ack", "fin", "rst", "psh", "urg", "seq", "ack_number", "window", "options")


def test_packet_reads_headers_and_payload(rig):
    options = bytes([2, 4, 5, 180, 1, 3, 3, 7, 1, 1, 1, 0])
    frame = with_packet(rig, options=options, flags=0x12)
    p = rig.view(bit("PacketIn")).packet
    assert (p.number, p.time, p.length, p.data) == (42, 1000, len(frame), frame)
    assert (p.src, p.src_port, p.dst, p.dst_port) == ("10.0.0.1", 1234, "192.168.255.100", 80)
    assert (p.ttl, p.ip_version, p.protocol, p.payload, p.payload_length) == (63, 4, 6, b"hello", 5)
    assert (p.seq, p.ack_number, p.window, p.tcp_flags) == (7, 9, 512, 0x12)
    assert (p.syn, p.ack, p.fin, p.rst, p.psh, p.urg) == (True, True, False, False, False, False)
    assert p.options == ((2, b"\x05\xb4"), (3, b"\x07"))


@given(options=st.binary(max_size=40).map(lambda b: b + bytes(-len(b) % 4)))
def test_options_of_any_bytes_stay_inside_the_header(options):
    def model(raw):
        found, i = [], 0
        while i < len(raw) and raw[i]:
            if raw[i] == 1:
                i += 1
                continue
            if i + 1 >= len(raw) or raw[i + 1] < 2 or i + raw[i + 1] > len(raw):
                break
            found.append((raw[i], raw[i + 2:i + raw[i + 1]]))
            i += raw[i + 1]
        return tuple(found)

    rig = cy.Rig()
    rig.flow(6, A, 1234, B, 80)
    with_packet(rig, options=options)
    assert rig.view(bit("PacketIn")).packet.options == model(options)


def test_a_packet_goes_stale_with_its_event_and_a_kept_one_does_not(rig):
    with_packet(rig)
    ev = rig.view(bit("PacketIn"))
    packet, kept = ev.packet, ev.packet.keep()
    assert packet.data and packet.payload and kept.keep() is kept
    cy.release(ev)
    for name in PACKET + ("keep",):
        with pytest.raises(StaleEvent):
            attribute = getattr(packet, name)
            attribute()
    assert kept.payload == b"hello" and "stale" in repr(packet)


def test_a_kept_packet_of_a_reassembled_datagram_has_its_own_datagram(rig):
    whole, fields = tcp_frame(payload=b"reassembled")
    rig.packet(b"\x02" * 20, datagram=whole[14:], **{**fields, "ip": 0, "l4": 20, "payload": 40})
    ev = rig.view(bit("StreamData"), data=b"x")
    kept = ev.packet.keep()
    cy.release(ev)
    rig.scribble()
    assert (kept.payload, kept.ttl, kept.src, kept.data, kept.options) == (b"reassembled", 63, "10.0.0.1", b"\x02" * 20, ())


@pytest.mark.parametrize("size", range(14, 60))
def test_an_unparsed_packet_reads_no_further_than_its_frame(rig, size):
    frame = tcp_frame()[0][:size]
    rig.packet(frame, status=2, ip=14, ipver=4)
    p = rig.view(bit("Malformed")).packet
    there = size >= 34
    for packet in (p, p.keep()):
        assert (packet.src, packet.dst) == (("10.0.0.1", "192.168.255.100") if there else (None, None))
        assert packet.ttl == (63 if there else None)
        assert (packet.payload, packet.options, packet.seq, packet.payload_length) == (b"", (), None, 0)


def test_no_flow_and_no_packet(rig):
    rig = cy.Rig()
    ev = rig.view(bit("Timer"), obj=5)
    assert (ev.flow, ev.packet, ev.client, ev.server_port, ev.value) == (None, None, None, None, 5)
    kept = ev.keep()
    assert (kept.flow, kept.packet, kept.client, kept.value) == (None, None, None, 5)


def test_names_are_those_of_the_position(rig):
    """Behind a NAT at position 1 the client has another name, whose key has its halves the other way round."""
    rig.alias(B, 80, bytes([203, 0, 113, 5]), 40000, True, 1)
    with_packet(rig)
    for position, client, port in ((0, "10.0.0.1", 1234), (1, "10.0.0.1", 1234), (2, "203.0.113.5", 40000)):
        ev = rig.view(bit("StreamData"), data=b"", position=position)
        p = ev.packet
        for e, packet in ((ev, p), (ev.keep(), p.keep())):
            assert (e.client, e.client_port, e.server, e.server_port) == (client, port, "192.168.255.100", 80)
            assert (packet.src, packet.src_port, packet.dst) == (client, port, "192.168.255.100")
        cy.release(ev)


def test_an_answer_found_by_the_later_name_is_the_servers(rig):
    rig.alias(B, 80, bytes([203, 0, 113, 5]), 40000, True, 1)
    frame, fields = tcp_frame()
    rig.packet(frame, from_hi=False, key_of_alias=True, **fields)
    p = rig.view(bit("PacketIn"), position=0).packet
    assert (p.src, p.src_port, p.dst, p.dst_port) == ("192.168.255.100", 80, "10.0.0.1", 1234)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_addresses_are_written_as_ipaddress_does(address):
    rig = cy.Rig()
    rig.flow(17, address.packed, 5, address.packed, 6)
    written = rig.view(bit("FlowStart")).client
    assert ipaddress.ip_address(written) == address
    if address.version == 4 or address.ipv4_mapped is None and not written.startswith("::"):
        assert written == str(address)


def test_icmp_has_no_ports(rig):
    rig.flow(1, A, 8, B, 0)
    ev = rig.view(bit("FlowStart"))
    assert (ev.client_port, ev.server_port) == (0, 0)


def test_views_hold_nothing_after_release(rig):
    class Value:
        pass

    value = Value()
    gone = weakref.ref(value)
    ev = rig.view(bit("Timer"), obj=value)
    assert ev.value is value
    kept = ev.keep()
    cy.release(ev)
    rig.scribble()
    del value
    assert gone() is kept.value
    del kept
    gc.collect()
    assert gone() is None


def test_who_else_holds_a_view_is_seen():
    assert cy.held_elsewhere() == (False, True, 1)


def test_logged_fields_are_plain_json(rig):
    class Odd(UserEvent):
        raw: bytes = Blob(8)
        text: str = Text(8)

    assert views.event_fields(Odd(b"ab", "x")) == {"to_server": False, "raw": "crc32:9e83486d", "text": "x"}
    ev = rig.view(bit("Timer"), obj=object())
    assert views.event_fields(ev) == {"to_server": False, "value": "<object>"}


def test_a_published_event_takes_its_cause_s_flow_and_time(rig):
    class Beacon(UserEvent):
        period: float

    rig.alias(B, 80, bytes([203, 0, 113, 5]), 40000, True, 1)
    cause = rig.view(bit("FlowEnd"), now=77, to_server=1, position=2)
    beacon = Beacon(2.5)
    assert (beacon.flow, beacon.time, beacon.client) == (None, 0, None)
    rig.stamp(beacon)
    cy.release(cause)
    rig.scribble()
    assert (beacon.flow, beacon.time, beacon.to_server) == (rig.get_flow(), 77, True)
    assert beacon.client == "203.0.113.5" and beacon.keep() is beacon


def test_where_gives_an_event_to_any_depth():
    kind = views.StreamData
    for i in range(40):
        kind = kind.where(f"length > {i}")
    assert isinstance(kind, Narrowed) and kind.root is views.StreamData and len(kind.predicates) == 40
    assert kind.parent.parent.predicates == kind.predicates[:38]


def test_stubs_agree_with_the_modules():
    pytest.importorskip("mypy.stubtest", reason="mypy is not installed: stubs are not compared")
    modules = ["mos.events.views", "mos.flow.view", "mos.events.marks", "mos.events.user", "mos.events.narrow"]
    result = subprocess.run([sys.executable, "-m", "mypy.stubtest", "--ignore-unused-allowlist",
                             "--allowlist", "tests/stubtest.allow", *modules],
                            cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
