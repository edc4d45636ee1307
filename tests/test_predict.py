"""Predicted segments take a straight way through the stack: all that can be seen is as on the long way."""
from pathlib import Path
from random import Random

import pytest
from boxes import outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from mos import DROP, FlowVar, Replace, on
from mos.events import PacketIn, StreamData, TcpEvent
from mos.testing import tcp

PCAPS = Path(__file__).parent.parent / "pcaps"
CAPTURES = sorted(p for p in PCAPS.iterdir() if p.suffix in (".pcap", ".pcapng"))
TRUTHS = {"tap": {"truth": "tap"}, "inline": {"truth": "inline", "safe": "off"}, "safe": {"truth": "inline", "safe": "on"}}
seen = FlowVar(int)


def box(share, edits):
    """Drops every packet whose data sum up to a multiple of `share`, counts what it saw, asks about both ends.

    None: wants no data at all, so that only states are tracked. `edits`: of other packets it turns the bytes around.
    """
    facts = []

    @on(StreamData, edits="same_length")
    def data(ev):
        seen[ev.flow] += 1
        facts.append((ev.offset, ev.data, ev.redelivered, seen[ev.flow], repr(ev.flow.client), repr(ev.flow.server)))
        if share and sum(ev.data) % share == 0:
            return DROP("by its sum")
        if share and edits and ev.flow.tcp and sum(ev.data) % share == 1:
            return Replace(ev.data[::-1])

    @on(PacketIn)
    def packet(ev):
        if share and ev.packet.number % (5 * share) == 0:
            return DROP("by its number")

    @on(TcpEvent)
    def told(ev):
        pass
    return facts, [told] if share is None else [data, packet, told]


def everything(packets, share, **how):
    """Log, facts and counters of a run, and what left."""
    facts, handlers = box(share, how.get("safe") == "on")
    return *outcome(handlers, packets, **how), facts


def same(packets, **how):
    assert everything(packets, shortcuts=True, **how) == everything(packets, shortcuts=False, **how)


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("share", [None, 0, 3])
@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.name)
def test_captures(capture, share, truth):
    same(capture, share=share, **TRUTHS[truth])


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([None, 0, 2, 7]), truth=st.sampled_from(sorted(TRUTHS)))
def test_conversations_with_faults(seed, share, truth):
    draw = Random(seed)
    c = tcp("10.0.0.1:1", "10.0.0.2:2", isn=draw.choice([(1, 2), (2**32 - 40, 2**32 - 9)]), timestamps=draw.random() < 0.5)
    for _ in range(draw.randrange(1, 25)):
        draw.choice([c.send, c.reply])(draw.randbytes(draw.randrange(1, 60)), ack=draw.random() < 0.7)
    if draw.random() < 0.5:
        c.close(draw.choice(["client", "server"]))
    for _ in range(draw.randrange(4)):
        draw.choice([c.lose, c.duplicate, c.reorder])(draw.randrange(1, len(c.packets) - 1))
    same(c.packets, share=share, **TRUTHS[truth])
