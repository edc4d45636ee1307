import gc
import ipaddress
import weakref

import driver
import pytest

from mos import run
from mos.errors import StaleFlow
from mos.events import FlowStart, StreamData, on, spec
from mos.flow import view
from mos.testing import merge, udp

cy = driver.load("views_driver")
A, B = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])


class Engine:
    """Records what a flow asks of it."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if not name.startswith("flow_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments)) or name

    def flow_domain(self, domain):
        return (100, domain), ("vxlan 7",)


@pytest.fixture
def rig():
    rig = cy.Rig(engine=Engine())
    rig.flow(6, A, 80, B, 1234, client_hi=True, id=7, domain=5)
    return rig


def packed(text):
    return ipaddress.ip_address(text).packed


NAMES = {"id": 7, "proto": "tcp", "tcp": True, "udp": False, "icmp": False, "client": "10.0.0.2", "client_port": 1234,
         "server": "10.0.0.1", "server_port": 80, "client_ip": ipaddress.ip_address("10.0.0.2"),
         "server_ip": ipaddress.ip_address("10.0.0.1"), "ip_version": 4, "domain": 5, "vlan": (100, 5), "tunnel": ("vxlan 7",)}
COUNTED = ("first_ns", "last_ns", "rtt", "history", "established", "midstream", "closed", "dropped", "resetting", "bypassed",
           "end_reason", "overlap_policy", "client_bytes", "server_bytes", "client_packets", "server_packets")
SIDE = ("packets", "wire_bytes", "payload_bytes", "stream_bytes", "state", "window", "mss", "wscale", "sack_permitted",
        "timestamps", "isn", "syn", "fin")


def test_names_last_for_ever_and_the_rest_until_the_end(rig):
    flow = rig.get_flow()
    side = flow.client_side
    assert not flow.ended and [getattr(flow, a) for a in COUNTED] and [getattr(side, a) for a in SIDE]
    rig.end_flow()
    assert {a: getattr(flow, a) for a in NAMES} == NAMES and flow.ended
    assert (side.address, side.port) == ("10.0.0.2", 1234)
    for owner, attributes in ((flow, COUNTED), (side, SIDE)):
        for a in attributes:
            with pytest.raises(StaleFlow, match=f"flow 7: {a} read after the flow ended"):
                getattr(owner, a)
    for call in (lambda: flow.attach(len), lambda: flow.detach(len), lambda: flow.timer(1), lambda: flow.verdict(None)):
        with pytest.raises(StaleFlow):
            call()


def test_every_declared_flow_field_is_on_the_flow(rig):
    flow = rig.get_flow()
    for field in spec.FLOW_FIELDS:
        assert hasattr(flow, field.name.removeprefix("flow_"))


def test_one_object_per_flow_hashed_by_id(rig):
    other = cy.Rig()
    other.flow(6, A, 80, B, 1234, id=7)
    flow = rig.get_flow()
    assert rig.get_flow() is flow and hash(flow) == 7
    assert flow == rig.get_flow() and flow != other.get_flow()
    rig.end_flow()
    assert {flow: 1}[flow] == 1


def test_the_table_s_reference_is_dropped_at_the_end(rig):
    flow = rig.get_flow()
    gone = weakref.ref(flow)
    del flow
    gc.collect()
    assert gone() is rig.get_flow()
    rig.end_flow()
    rig.end_flow()
    gc.collect()
    assert gone() is None


def test_a_slot_used_again_gives_a_new_flow(rig):
    old = rig.get_flow()
    rig.end_flow()
    rig.flow(17, A, 53, B, 5353, client_hi=True, id=8)
    new = rig.get_flow()
    assert (old.id, old.proto, old.ended, new.id, new.proto, new.ended) == (7, "tcp", True, 8, "udp", False)


def test_counters_and_state_read_the_right_end(rig):
    rig.counters(flags=1 | 2, end_reason=3, rtt_us=1500, hist=b"ShAD", first_ns=10, last_ns=20)
    rig.end(0, packets=3, wire=300, payload=30, offset=25, state=4, mss=1460, wscale=7, flags=1 | 4 | 32 | 128, window=65535,
            iss=2**32 - 1)
    rig.end(1, packets=4, wire=400, payload=40, offset=35, state=99, flags=64)
    flow = rig.get_flow()
    assert [getattr(flow, a) for a in COUNTED[:11]] == [
        10, 20, 0.0015, "ShAD", True, True, False, False, False, False, "rst_server"]
    assert (flow.client_bytes, flow.server_bytes, flow.client_packets, flow.server_packets) == (30, 40, 3, 4)
    assert [getattr(flow.client_side, a) for a in SIDE] == [
        3, 300, 30, 25, "ESTABLISHED", 65535, 1460, 7, True, False, 2**32 - 1, True, True]
    assert [getattr(flow.server_side, a) for a in SIDE] == [
        4, 400, 40, 35, "99", 0, None, None, False, True, None, False, False]
    assert (flow.server_side.address, flow.server_side.port) == ("10.0.0.1", 80)


def test_requests_go_to_the_engine(rig):
    flow, calls = rig.get_flow(), rig.engine.calls
    flow.attach(len)
    flow.detach(len)
    flow.verdict("drop")
    assert flow.timer(1.5, "v") == flow.timer(2, every=True) == "flow_timer"
    assert flow.overlap_policy == "flow_policy"
    assert calls == [("flow_attach", flow, len), ("flow_detach", flow, len), ("flow_verdict", flow, "drop"),
                     ("flow_timer", flow, 1.5, "v", False), ("flow_timer", flow, 2, None, True), ("flow_policy", 0)]


@pytest.mark.parametrize("proto, lo, hi, text", [
    (6, "10.0.0.1", "10.0.0.2", "tcp 10.0.0.1:5 > 10.0.0.2:6"), (17, "::1", "2001:db8::1", "udp [::1]:5 > [2001:db8::1]:6"),
    (1, "10.0.0.1", "10.0.0.2", "icmp 10.0.0.1 > 10.0.0.2"), (58, "::1", "fe80::1", "icmp ::1 > fe80::1")])
def test_a_flow_is_written_as_client_and_server(proto, lo, hi, text):
    rig = cy.Rig()
    rig.flow(proto, packed(lo), 5, packed(hi), 6)
    flow = rig.get_flow()
    assert str(flow) == text and repr(flow) == f"<Flow 1 {text}>"
    assert (flow.vlan, flow.tunnel, flow.domain) == ((), (), 0)
    rig.end_flow()
    assert repr(flow) == f"<Flow 1 {text} (ended)>"


def flows_alive():
    return sum(type(o) is view.Flow for o in gc.get_objects())


def test_a_flow_looked_at_in_its_first_event_needs_no_memory_for_that():
    """But one that somebody keeps, be it by a weak reference, is the same as long as the flow lives."""
    kept, weak, same, most = {}, weakref.WeakKeyDictionary(), [], []

    @on(FlowStart)
    def start(ev):
        number = ev.flow.id
        if number % 10 == 0:
            kept[number] = ev.flow
        if number % 10 == 1:
            weak[ev.flow] = number
        if number % 10 == 2:
            ev.flow.timer(1000, number)
        most.append(flows_alive())

    @on(StreamData)
    def data(ev):
        if not ev.to_server:
            same.append(kept.get(ev.flow.id, ev.flow) is ev.flow and weak.get(ev.flow, ev.flow.id) == ev.flow.id)
            assert ev.flow.id % 10 != 1 or ev.flow in weak
    before = flows_alive()
    packets = merge(*[udp(f"10.0.{i >> 8}.{i & 255}:5", "10.1.0.1:53").wait(1).send(b"q").wait(1).reply(b"a") for i in range(200)])
    engine = run.Engine([start, data])
    for ns, frame in sorted(packets, key=lambda p: p[0]):
        engine.feed(frame, ns)
    assert max(most) - before <= 200 // 5 + 2 and len(same) == 200 and all(same) and len(kept) >= 15 and len(weak) >= 15
    engine.close()
    assert not weak and all(flow.ended for flow in kept.values())
