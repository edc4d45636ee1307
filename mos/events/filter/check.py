"""Names and types: turns a parsed tree into one of And, Or, Not, True, False and tests the machine can make."""
import struct
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_network

from mos.events import filtervm as vm
from mos.events.filter.names import BOUNDS
from mos.events.filter.syntax import And, Compare, In, Literal, Name, Not, Or, Range, fail, show

BLANK = vm.Insn(*[0] * len(vm.Insn._fields))
KINDS_OF_VALUE = ((bool, "a truth value"), ((int, float), "a number"), (str, "a name"),
                  ((IPv4Address, IPv6Address), "an address"), ((IPv4Network, IPv6Network), "a CIDR block"))
WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "enum": "one of its names",
          "ip": "an address"}


@dataclass(frozen=True)
class Test:
    """One instruction to be; its jumps, and the place of `pairs` in the pool, are the compiler's."""
    insn: vm.Insn
    note: str
    fields: tuple
    pairs: tuple = ()


def ordered(x):
    """A float as an integer of the same order, as the machine maps it."""
    i = struct.unpack("<q", struct.pack("<d", x + 0.0))[0]
    return i if i >= 0 else i ^ (2**63 - 1)


def bounds(field):
    if field.type == "float":
        return ordered(float("-inf")), ordered(float("inf"))
    return BOUNDS[field.source.type]


class Checker:
    def __init__(self, scope, text):
        self.scope, self.text = scope, text

    def fail(self, node, message):
        fail(self.text, node.at, message)

    def check(self, tree):
        if isinstance(tree, (And, Or)):
            return self.junction(type(tree), [self.check(item) for item in tree.items])
        if isinstance(tree, Not):
            item = self.check(tree.item)
            return not item if isinstance(item, bool) else Not(item)
        if isinstance(tree, Compare):
            return self.compare(tree)
        if isinstance(tree, In):
            return self.member(tree)
        if isinstance(tree, Name):
            field = self.scope.field(tree.name, self.text, tree.at)
            if field.type != "bool":
                self.fail(tree, f"{tree.name!r} is not a flag: compare it with {WANTED[field.type]}")
            return self.flag(field, True, tree)
        if isinstance(tree.value, bool):
            return tree.value
        self.fail(tree, "a value alone says nothing: compare a field with it")

    @staticmethod
    def junction(kind, items):
        """And or Or without constants."""
        idle = kind is And
        if any(item is (not idle) for item in items):
            return not idle
        items = tuple(item for item in items if item is not idle)
        return idle if not items else items[0] if len(items) == 1 else kind(items)

    def operand(self, node, against=None):
        """A Field, or the value of a literal; bare names of `against`, an enum, come before fields."""
        if isinstance(node, Literal):
            return node.value
        if against is not None and against.type == "enum":
            if node.name in against.values:
                return node.name
            if node.name not in self.scope.fields or self.scope.fields[node.name].type != "enum":
                self.no_value(node, against, node.name)
        return self.scope.field(node.name, self.text, node.at)

    def no_value(self, node, field, name):
        near = get_close_matches(name, field.values, 1) or [v for v in field.values if v.lower() == str(name).lower()]
        self.fail(node, f"{field.name!r} is never {name!r}" + (f": {near[0]}?" if near else "; it is one of " +
                                                               ", ".join(field.values)))

    def field_of(self, node):
        if isinstance(node, Name):
            return self.scope.field(node.name, self.text, node.at)
        self.fail(node, "expected a field before the operator")

    def value(self, field, node, value):
        """`value` as the machine compares it with `field`."""
        if field.type == "enum" and isinstance(value, str):
            if value in field.values:
                return field.values.index(value)
            self.no_value(node, field, value)
        if field.type == "ip" and isinstance(value, (IPv4Address, IPv6Address)):
            return ip_network(value)
        if field.type == "bool" and isinstance(value, bool):
            return value
        if field.type == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
            return ordered(float(value))
        if field.type == "int" and isinstance(value, (int, float)) and not isinstance(value, bool):
            lo, hi = bounds(field)
            if not lo <= value <= hi:
                self.fail(node, f"{field.name!r} is {lo} to {hi}")
            if isinstance(value, float):
                self.fail(node, f"{field.name!r} is a whole number, not a fraction")
            return value
        what = next(text for types, text in KINDS_OF_VALUE if isinstance(value, types))
        self.fail(node, f"{field.name!r} is {WANTED[field.type]}, not {what}" + (
            ": use `in`" if field.type == "ip" and "CIDR" in what else ""))

    def compare(self, tree):
        field, op = self.field_of(tree.left), tree.op
        if field.type in ("ip", "enum", "bool") and op not in ("==", "!="):
            self.fail(tree.left, f"{field.name!r} has no order: use ==, != or in")
        right = self.operand(tree.right, field)
        if hasattr(right, "source"):
            return self.fields(field, op, right, tree)
        value = self.value(field, tree.right, right)
        if field.type == "bool":
            return self.flag(field, value == (op == "=="), tree)
        if field.type == "ip":
            return self.net(field, value, show(tree), op == "!=")
        lo, hi = bounds(field)
        if op in ("==", "!="):
            return self.numbers(field, [(value, value)], tree, op == "!=")
        return self.numbers(field, [{"<": (lo, value - 1), "<=": (lo, value), ">": (value + 1, hi), ">=": (value, hi)}[op]],
                            tree)

    def fields(self, left, op, right, tree):
        """A comparison of two fields."""
        if left.type != right.type or left.values != right.values:
            self.fail(tree.right, f"{left.name!r} is {WANTED[left.type]}, {right.name!r} {WANTED[right.type]}: not comparable")
        if left.type == "bool":
            self.fail(tree.right, "flags are combined with and, or, not")
        if op in (">", ">="):
            left, right, op = right, left, {">": "<", ">=": "<="}[op]
        arg = {"==": vm.EQ, "!=": vm.EQ, "<": vm.LT, "<=": vm.LE}[op]
        a, b = left.source, right.source
        return Test(BLANK._replace(op=vm.SAME if left.type == "ip" else vm.FIELD, src=a.src, type=a.type, offset=a.offset,
                                   arg=arg, src2=b.src, type2=b.type, offset2=b.offset, invert=int(op == "!=")),
                    show(tree), (left, right))

    def member(self, tree):
        field = self.field_of(tree.left)
        if field.type == "bool":
            self.fail(tree.left, f"{field.name!r} is a flag: it stands alone")
        if field.type == "ip":
            return self.nets(field, tree)
        pairs = []
        for item in tree.items:
            first, last = (item.first, item.last) if isinstance(item, Range) else (item, item)
            if isinstance(item, Range) and field.type == "enum":
                self.fail(item, f"the names of {field.name!r} have no order: list them")
            pair = tuple(self.value(field, end, self.literal(end, field)) for end in (first, last))
            if pair[0] > pair[1]:
                self.fail(item, "this range is empty: the smaller end comes first")
            pairs.append(pair)
        return self.numbers(field, pairs, tree)

    def literal(self, node, field):
        value = self.operand(node, field)
        if hasattr(value, "source"):
            self.fail(node, "sets and ranges hold values, not fields")
        return value

    def nets(self, field, tree):
        blocks = []
        for item in tree.items:
            if isinstance(item, Range):
                self.fail(item, "an address range is written as CIDR blocks")
            value = self.literal(item, field)
            blocks.append(value if isinstance(value, (IPv4Network, IPv6Network)) else self.value(field, item, value))
        merged = [net for version in (4, 6) for net in collapse_addresses(b for b in blocks if b.version == version)]
        tests = [self.net(field, net, f"{field.name} in {net}") for net in merged]
        return self.junction(Or, tests)

    @staticmethod
    def net(field, net, note, invert=False):
        words = [int.from_bytes(part.packed.ljust(16, b"\0")[at:at + 8], "little")
                 for part in (net.network_address, net.netmask) for at in (0, 8)]
        s = field.source
        return Test(BLANK._replace(op=vm.NET, src=s.src, type=s.type, offset=s.offset, invert=int(invert), arg=net.version,
                                   a=words[0], b=words[1], c=words[2], d=words[3]), note, (field,))

    @staticmethod
    def flag(field, wanted, tree):
        s = field.source
        return Test(BLANK._replace(op=s.op, src=s.src, type=s.type, offset=s.offset, invert=int(not wanted), a=s.a, b=s.b),
                    show(tree), (field,))

    @staticmethod
    def numbers(field, pairs, tree, invert=False):
        """The number is in one of `pairs` (first, last)."""
        merged = []
        for first, last in sorted(pair for pair in pairs if pair[0] <= pair[1]):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        if not merged:
            return False
        if field.always and merged == [bounds(field)]:
            return True
        s, (first, last), span = field.source, merged[0], merged[-1][1] - merged[0][0]
        insn = BLANK._replace(src=s.src, type=s.type, offset=s.offset, invert=int(invert), a=first)
        if len(merged) == 1:
            return Test(insn._replace(op=vm.RANGE, b=last - first), show(tree), (field,))
        if span < 64:
            bits = sum(1 << n - first for pair in merged for n in range(pair[0], pair[1] + 1))
            return Test(insn._replace(op=vm.BITMAP, b=bits), show(tree), (field,))
        return Test(insn._replace(op=vm.RANGES, a=0, b=len(merged)), show(tree), (field,),
                    tuple(word for pair in merged for word in pair))
