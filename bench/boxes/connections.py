"""Python handlers on start and end of each flow, and nothing between."""
from mos import on
from mos.events import FlowEnd, FlowStart

seen = [0, 0]


@on(FlowStart)
def start(ev):
    seen[0] += 1


@on(FlowEnd)
def end(ev):
    seen[1] += 1
