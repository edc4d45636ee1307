"""A set of handlers of its own for each flow: two of 256 that FlowStart attaches, 32,640 different sets."""
from itertools import combinations, cycle

from mos import on
from mos.events import FlowStart, ZeroWindow


def handler():
    @on(ZeroWindow, attached=False)
    def rare(ev):
        pass
    return rare


HANDLERS = [handler() for _ in range(256)]
PAIRS = cycle(combinations(HANDLERS, 2))
globals().update({f"rare_{i}": rare for i, rare in enumerate(HANDLERS)})


@on(FlowStart)
def choose(ev):
    attach = ev.flow.attach
    one, other = next(PAIRS)
    attach(one)
    attach(other)
