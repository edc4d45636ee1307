"""What a filter comes to where some of its fields are known beforehand: whom packets of TCP flows cannot concern."""
from mos.events.filter.syntax import And, Compare, In, Literal, Name, Not, Or, Range, parse

# Of every packet that is raised for a TCP flow: its fields' least and greatest values.
OF_TCP_FLOW = {"tcp": (1, 1), "udp": (0, 0), "icmp": (0, 0), "protocol": (6, 6), "flow_id": (1, 2**63 - 1)}


def rejects(text, facts):
    """Whether the filter is false wherever the facts hold. False: it may be true."""
    return known(parse(text), facts) is False


def known(tree, facts):
    """True or False if the facts decide it, else None."""
    if isinstance(tree, Not):
        item = known(tree.item, facts)
        return None if item is None else not item
    if isinstance(tree, (And, Or)):
        items = [known(item, facts) for item in tree.items]
        decisive = isinstance(tree, Or)
        return decisive if decisive in items else None if None in items else not decisive
    if isinstance(tree, Literal):
        return tree.value if isinstance(tree.value, bool) else None
    name = tree if isinstance(tree, Name) else tree.left
    if not isinstance(name, Name) or name.name not in facts:
        return None
    lo, hi = facts[name.name]
    if isinstance(tree, Compare):
        return compared(lo, tree.op, hi, tree.right.value) if isinstance(tree.right, Literal) else None
    if lo != hi:
        return None
    return any(within(lo, item) for item in tree.items) if isinstance(tree, In) else bool(lo)


def compared(lo, op, hi, value):
    """A number from lo to hi against a value."""
    if op in ("==", "!="):
        same = False if not lo <= value <= hi else True if lo == hi else None
        return same if op == "==" or same is None else not same
    if op in (">", ">="):
        less = compared(lo, "<=" if op == ">" else "<", hi, value)
        return None if less is None else not less
    all_below, none_below = (hi < value, lo >= value) if op == "<" else (hi <= value, lo > value)
    return True if all_below else False if none_below else None


def within(number, item):
    first, last = (item.first, item.last) if isinstance(item, Range) else (item, item)
    return first.value <= number <= last.value


def spares_tcp(subscriptions, bit):
    """Whether nobody who wants the kind with this bit can want it of a TCP flow's packet: so it need not be raised."""
    return all(any(isinstance(p, str) and rejects(p, OF_TCP_FLOW) for p in texts(s))
               for s in subscriptions if s.kind_mask >> bit & 1)


def texts(subscription):
    return [*subscription.predicates, *([subscription.filter.text] if subscription.filter is not None else [])]
