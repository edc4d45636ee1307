"""What must hold of every run, whatever came over the wire: a middlebox that observes, and the sums at the end."""
from mos.events import FlowEnd, FlowStart, StreamData, StreamGap, on
from mos.nf import NF, Chain
from mos.run import LIMITS, Engine

DROP = 3                    # mos.events.verdict.CODES: this and stronger ones


class Direction:
    """Bytes of one direction: the next offset due, and how far a drop lets it go back; how many came with the SYN."""
    due = floor = begin = syn = 0
    packet = None


class Watch(NF):
    """Each flow starts and ends once; each direction's data and gaps come by offset, each byte once.

    After a packet that was dropped its bytes may come again: `verdict` wants to be told.
    """
    name = "watch"
    observe = True
    on_error = "raise"

    def __init__(self):
        super().__init__()
        self.open = {}
        self.started = self.ended = self.bytes = 0

    @on(FlowStart)
    def start_flow(self, ev):
        assert ev.flow.id not in self.open, f"flow {ev.flow.id} starts again"
        self.open[ev.flow.id] = {True: Direction(), False: Direction()}
        self.started += 1

    @on(FlowEnd)
    def end_flow(self, ev):
        assert ev.flow.id in self.open, f"flow {ev.flow.id} ends, and is not open"
        del self.open[ev.flow.id]
        self.ended += 1

    @on(StreamData)
    def data(self, ev):
        assert len(ev.data) == ev.length, f"{len(ev.data)} bytes at hand, {ev.length} told"
        self.bytes += sum(ev.data[::509])
        self.advance(ev, "data")

    @on(StreamGap)
    def gap(self, ev):
        self.advance(ev, f"gap ({ev.cause})")

    def advance(self, ev, what):
        assert ev.flow.id in self.open, f"{what} of flow {ev.flow.id}, which is not open"
        d = self.open[ev.flow.id][ev.to_server]
        number = ev.packet.number if ev.packet is not None else None
        if d.syn == d.due and getattr(ev, "redelivered", False):
            d.floor = 0         # inline a SYN's bytes that its SYN-ACK does not cover come again
        assert d.floor <= ev.offset <= d.due and ev.length > 0, (
            f"flow {ev.flow.id}, to_server {ev.to_server}, packet {number}: {what} at {ev.offset}, {ev.length} bytes; due {d.due}")
        if d.packet != number:
            d.packet, d.begin = number, ev.offset
        d.due = d.floor = ev.offset + ev.length
        if number is not None and ev.packet.syn:
            d.syn = d.due

    def verdict(self, code, position, reason, packet, now, flow):
        for d in self.open.get(flow, {}).values():
            if code >= DROP and d.packet == packet:
                d.floor = d.begin


def run(packets, *nfs, limits=None, **settings):
    """Run (ns, frame) pairs or the name of a capture through `nfs` and a Watch, and check everything; returns the Engine.

    Raises AssertionError, CaptureError of a damaged capture after the checks, or what the run raised.
    """
    from mos.errors import CaptureError
    watch, damage = Watch(), None
    limits = LIMITS | (limits or {})
    engine = Engine(Chain(*nfs, watch), on_verdict=watch.verdict, limits=limits, **settings)
    with engine:
        try:
            engine.run(packets)
        except CaptureError as e:
            damage = e
        engine.stack.flows.invariants()
        engine.close()
        check(engine, watch, limits)
    if damage:
        raise damage
    return engine


def check(engine, watch, limits):
    """The sums after `close`."""
    c = engine.stats()
    assert c["packets_in"] == c["forwarded"] + sum(c["dropped"].values()) + c["held"] + c["consumed"], c
    assert c["packets_out"] == c["forwarded"] + c["injected"] + c["split"], c
    assert not watch.open and watch.started == watch.ended == c["flows"], (watch.started, watch.ended, c["flows"])
    assert sum(c["ended"].values()) == c["flows"], c
    assert c["reassembly"]["bytes"] == 0 and c["reassembly"]["peak"] <= limits["global"], c["reassembly"]
    assert not engine.flows() and engine.stack.flows.counters()["aliases"] == 0
    engine.stack.flows.invariants()
