"""Filters: `@on(FlowStart, where="server_port == 23 and not client in 10.0.0.0/8")`.

    expression   `and or not ( )`, also `&& || !`; `true`, `false`
    flags        `tcp`, `syn`, `to_server` stand alone, or `syn == false`
    comparisons  `== != < <= > >=` of a field with a value or another field of its type; addresses and names only == and !=
    membership   `in` and `not in`: a CIDR block, a range `1000..2000` (both ends included), a set `{22, 80, 1k..2k}`
    numbers      decimal, `0x1f`, `1e6`, with k M G T as powers of 1000
    addresses    `10.0.0.1`, `fd00::/8`, never quoted; an IPv4 address is in no IPv6 block, and the reverse
    names        bare or quoted: `reason == idle`, `new == 'ESTABLISHED'`, `cause in {window, rst}`

Fields are those of the event, then of its flow and of its packet (mos.events.spec). Where there is no flow, no packet, or
the packet is not TCP, such a field is absent: every comparison of it, `!=` too, is false, and `not` of that is true.
"""
from mos.events import filtervm as vm
from mos.events.filter.check import Checker, Test
from mos.events.filter.names import Layout, RecordField, Scope
from mos.events.filter.syntax import And, Not, parse, show

__all__ = ["Filter", "Layout", "RecordField", "compile_filter", "explain", "parse", "show"]

Filter = vm.Filter

ACCEPT, REJECT = "accept", "reject"

NEEDS = {vm.FLOW: "a flow", vm.CLIENT_END: "a flow", vm.SERVER_END: "a flow", vm.PACKET: "a packet",
         vm.PARSED: "a TCP, UDP or ICMP packet", vm.TCP: "a TCP packet", vm.SENDER: "an IP packet",
         vm.RECEIVER: "an IP packet", vm.PROTO: "a flow or a packet", vm.RECORD: "a record"}
OPS = {vm.RANGE: "range", vm.BITS: "bits", vm.BITMAP: "bitmap", vm.RANGES: "ranges", vm.FIELD: "fields", vm.NET: "net",
       vm.SAME: "same"}


class Code:
    """Lays the tests out back to front, so that every jump target is known and lies ahead."""

    def __init__(self):
        self.tests = []     # (Test, target if true, target if false), last one first

    def emit(self, tree, yes, no):
        """Code that goes to `yes` or `no`; returns its entry. Targets are places in `tests`, or ACCEPT, REJECT."""
        if isinstance(tree, bool):
            return yes if tree else no
        if isinstance(tree, Test):
            self.tests.append((tree, yes, no))
            return len(self.tests) - 1
        if isinstance(tree, Not):
            return self.emit(tree.item, no, yes)
        entry = None
        for item in reversed(tree.items):
            if entry is None:
                entry = self.emit(item, yes, no)
            elif isinstance(tree, And):
                entry = self.emit(item, entry, no)
            else:
                entry = self.emit(item, yes, entry)
        return entry

    def link(self):
        """(program, pool)."""
        n, program, pool = len(self.tests), [], []
        place = {ACCEPT: n + 1, REJECT: n}
        for test, yes, no in reversed(self.tests):
            insn = test.insn
            if test.pairs:
                insn = insn._replace(a=len(pool))
                pool.extend(test.pairs)
            program.append(insn._replace(jt=place.get(yes, n - 1 - yes if yes not in place else 0),
                                         jf=place.get(no, n - 1 - no if no not in place else 0)))
        return program, pool


def build(text, kind, extra):
    """(Filter, its tests in order)."""
    scope = Scope(kind, extra)
    code = Code()
    entry = code.emit(Checker(scope, text).check(parse(text)), ACCEPT, REJECT)
    program, pool = code.link()
    size = extra.size if extra else 0
    return Filter(text, kind, program, pool, int(entry == ACCEPT), size), [test for test, *_ in reversed(code.tests)]


def compile_filter(text, kind="Event", extra=None):
    """A Filter of `text` for events of `kind`, a class or its name, and its children: `.matches(ev)` asks it in a handler.

    Raises FilterError, one line with the column.
    `extra`: Layout of the record of a user-defined event derived from `kind`.
    """
    return build(text, kind if isinstance(kind, str) else kind.__name__, extra)[0]


def explain(text, kind="Event", extra=None):
    """The program of a filter, a numbered line per test, and what its fields need to be present."""
    compiled, tests = build(text, kind, extra)
    n = len(tests)
    lines = [f"filter on {kind}: {' '.join(text.split())}"]
    if not n:
        lines.append(f"always {ACCEPT if compiled.entry else REJECT}s")
    target = {n: REJECT, n + 1: ACCEPT}
    width = max((len(test.note) for test in tests), default=0)
    for pc, (test, insn) in enumerate(zip(tests, compiled.program)):
        yes, no = (target.get(t, t) for t in (insn.jt, insn.jf))
        lines.append(f"{pc:4}  {OPS[insn.op]:7} {test.note:{min(width, 60)}}  true: {yes}, false: {no}")
    needs = {}
    for field in (f for test in tests for f in test.fields if not f.always):
        needs.setdefault(NEEDS[field.source.src], {})[field.name] = None
    lines += [f"without {need} absent, hence its test false: {', '.join(names)}" for need, names in needs.items()]
    return "\n".join(lines)
