"""The run loop: clock, selection, admission, balances, one stack for a whole chain."""
import pytest

from mos import DROP, Chain, Engine, HandlerError, on
from mos.events import CapReached, Event, FlowEnd, FlowStart, PacketIn, StreamData
from mos.testing import icmp_echo, merge, run, tcp, udp

HOUR = 3_600_000_000_000


def names(events):
    return [type(e).__name__ for e in events]


def gather(*kinds):
    out = []

    def handler(ev):
        out.append(ev.keep())
    for kind in kinds:
        handler = on(kind)(handler)
    return out, handler


def test_one_broken_time_stamp_times_nobody_out():
    packets = list(tcp("10.0.0.1:1", "10.0.0.2:2").send(b"a").send(b"b").packets)
    packets[3] = (packets[3][0] + 1000 * HOUR, packets[3][1])
    out, handler = gather(FlowStart, FlowEnd)
    with Engine(Chain([handler])) as engine:
        for ns, frame in packets:
            engine.feed(frame, ns)
    assert [getattr(e, "reason", "start") for e in out] == ["start", "shutdown"]


def test_a_confirmed_leap_is_time():
    c = merge(tcp("10.0.0.1:1", "10.0.0.2:2", start_ns=HOUR),
              udp("10.0.0.3:3", "10.0.0.4:4", start_ns=9 * HOUR).send(b"a").send(b"b"))
    out, handler = gather(FlowEnd)
    run(Chain([handler]), c)
    assert [e.reason for e in out] == ["idle", "shutdown"]


def test_the_packet_filter_selects_and_the_rest_passes():
    c = merge(tcp("10.0.0.1:1", "10.0.0.2:80").send(b"a"), udp("10.0.0.1:5", "10.0.0.2:53").send(b"q"))
    out, handler = gather(StreamData)
    result = run(Chain([handler]), c, bpf="udp port 53")
    assert [e.data for e in out] == [b"q"]
    assert result.stats["stages"]["unselected"] == 5 and result.stats["forwarded"] == 6


@pytest.mark.parametrize("full, ends", [("embryonic", ["evicted", "shutdown", "shutdown"]),
                                        ("lru", ["evicted", "shutdown", "shutdown"]), ("refuse", ["shutdown", "shutdown"])])
def test_a_full_table_makes_room_by_policy_and_says_so(full, ends):
    old = tcp("10.0.0.1:1", "10.0.0.2:2")
    new = [tcp(f"10.0.0.1:{n}", "10.0.0.2:2", handshake=False, start_ns=old.packets[-1][0] + n).syn("client") for n in (3, 4)]
    out, handler = gather(FlowStart, FlowEnd, CapReached)
    result = run(Chain([handler]), merge(old, *new), max_flows=2, full=full)
    assert [e.reason for e in out if isinstance(e, FlowEnd)] == ends
    assert sum(isinstance(e, CapReached) for e in out) == 1
    evicted = [e.flow.client_port for e in out if isinstance(e, FlowEnd) and e.reason == "evicted"]
    assert evicted == {"embryonic": [3], "lru": [1], "refuse": []}[full]
    assert result.stats["orphans"].get("table_full", 0) == (full == "refuse")


def test_udp_and_icmp_have_flows():
    out, handler = gather(FlowStart, StreamData, FlowEnd)
    run(Chain([handler]), merge(udp("10.0.0.1:5", "10.0.0.2:53").send(b"q").reply(b"a"), icmp_echo("10.0.0.1", "10.0.0.2")))
    assert names(out).count("FlowStart") == 2 and [e.data for e in out if isinstance(e, StreamData) and e.flow.udp] == [b"q", b"a"]


def test_a_handler_sees_the_verdict_on_the_packet_before_it_in_the_same_batch():
    """mOS's B12: the first copy is dropped, its receiver has not moved, and the next packet of the batch finds it so."""
    seen = []

    @on(StreamData)
    def data(ev):
        seen.append((ev.packet.number, ev.offset, ev.redelivered))
        if len(seen) == 1:
            return DROP("once")
    c = tcp("10.0.0.1:1", "10.0.0.2:2").send(b"abc", ack=False).retransmit(4).send(b"def", ack=False)
    result = run(Chain([data]), c)
    assert seen == [(4, 0, False), (5, 0, True), (6, 3, False)]
    assert result.stats["dropped"] == {"data": 1} and len(result.out) == 5


def small_boxes():
    def box(n):
        def handler(ev):
            return DROP(f"box {n}") if n == 3 and ev.offset == 0 and not ev.redelivered and ev.to_server else None
        handler.__name__ = f"box{n}"
        return on(StreamData)(handler)
    return [[box(n)] for n in range(6)]


def test_six_boxes_on_one_stack_do_what_six_runs_do():
    c = merge(tcp("10.0.0.1:1", "10.0.0.2:2").send(b"abc", ack=False).retransmit(4).reply(b"x" * 3000).close(),
              udp("10.0.0.1:5", "10.0.0.2:53").send(b"q"))
    boxes = small_boxes()
    one = run(Chain(*boxes), c)
    alone = [run(Chain(b), c) for b in small_boxes()]
    assert one.out == alone[3].out
    assert one.verdicts == alone[3].verdicts and all(not r.verdicts for i, r in enumerate(alone) if i != 3)
    assert [str(e) for e in one.events] == [str(e) for e in alone[3].events]
    assert one.stats["stages"] == alone[3].stats["stages"] and one.stats["stages"]["decoded"] == len(c.packets)


def test_both_balances_hold():
    @on(PacketIn, where="packet_number in {3, 5, 9}")
    def some(ev):
        return DROP
    s = run(Chain([some]), tcp("10.0.0.1:1", "10.0.0.2:2").send(b"a").send(b"b").close()).stats
    assert s["packets_in"] == s["forwarded"] + sum(s["dropped"].values()) + s["held"] + s["consumed"]
    assert s["packets_out"] == s["forwarded"] + s["injected"] + s["split"] and s["dropped"] == {"some": 3}


def test_a_raising_handler_stops_the_run_with_its_packet():
    @on(StreamData)
    def data(ev):
        raise KeyError("no")
    with pytest.raises(HandlerError, match="data.data raised KeyError at packet 4") as info:
        run(Chain([data]), tcp("10.0.0.1:1", "10.0.0.2:2").send(b"a"))
    assert isinstance(info.value.__cause__, KeyError) and info.value.packet == 4


def test_without_subscribers_nothing_takes_the_gil():
    engine = Engine(Chain())
    with engine:
        engine.run(tcp("10.0.0.1:1", "10.0.0.2:2").send(b"a").close().packets)
    assert engine.stats()["bus"]["gil_takes"] <= 1 and engine.stats()["events"] == {}


def test_every_event_of_a_flow_lies_between_start_and_end():
    out, handler = gather(Event)
    run(Chain([handler]), tcp("10.0.0.1:1", "10.0.0.2:2").send(b"a").reply(b"b").close())
    of_flow = [n for n in names(out) if n != "PacketIn"]
    assert of_flow[0] == "FlowStart" and of_flow[-1] == "FlowEnd" and of_flow.count("FlowEnd") == 1
