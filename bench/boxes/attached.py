"""A set of handlers of its own for each flow: two of 256 that FlowStart attaches, 32,640 different sets."""
from mos import on
from mos.events import FlowStart, ZeroWindow


def handler():
    @on(ZeroWindow, attached=False)
    def rare(ev):
        pass
    return rare


HANDLERS = [handler() for _ in range(256)]
globals().update({f"rare_{i}": rare for i, rare in enumerate(HANDLERS)})


@on(FlowStart)
def choose(ev):
    flow = ev.flow
    number = flow.id % 32640
    low, high = number % 255, number // 255 % 128
    flow.attach(HANDLERS[low])
    flow.attach(HANDLERS[(low + 1 + high) % 256])
