"""In which order handlers are asked. Computed once per set of handlers; the bus walks the result."""
from mos.events.spec import BITS, LEAVES

SENDER, RECEIVER, ACKED = MOMENTS = range(3)        # as AT_* in ring.pxd


def walk(subscriptions, members, reverse):
    """Indices of `members`, a row for each (moment, kind, to the client and to the server), in walking order.

    A state change has its own moment: who subscribes to it before the packet is forwarded gets both ends' changes.
    """
    rows = []
    for at in MOMENTS:
        for kind in range(len(LEAVES)):
            wanted = {at, SENDER} if kind == BITS["TcpStateChange"] and at == RECEIVER else {at}
            mine = [i for i in sorted(members) if subscriptions[i].kind_mask >> kind & 1 and wanted & {*subscriptions[i].moments}]
            rows += [in_order(subscriptions, mine, -1 if reverse else 1), in_order(subscriptions, mine, 1)]
    return rows


def in_order(subscriptions, indices, sign=1):
    """By position, from the last one if `sign` is -1, then by priority, then as written; the log before all."""
    def place(i):
        s = subscriptions[i]
        return not s.first, sign * s.position, s.priority, i
    return sorted(indices, key=place) if len(indices) > 1 else indices


def listeners(subscriptions, cls, known):
    """Indices of the handlers of a user event class and of its ancestors, in chain order; `known` remembers them."""
    if cls not in known:
        mine = [i for i, s in enumerate(subscriptions) if s.user_class is not None and issubclass(cls, s.user_class)]
        known[cls] = in_order(subscriptions, mine)
    return known[cls]
