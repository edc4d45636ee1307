"""The filter language's text: tokens, tree, parser, printer. Knows no field names."""
import re
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from mos.errors import FilterError

MAX_TEXT = 1 << 16      # characters; longer lists of addresses belong in a Table
MAX_DEPTH = 64          # nested parentheses and `not`: the parser, the compiler and the printer recurse
MAX_NUMBER = 40         # characters of a number: no arithmetic on thousands of digits

UNITS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
MIRROR = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
WORDS = ("and", "or", "not", "in", "true", "false")
NO_REGEX = "'~' comes with the string fields of application events; on stream data it would see a segment, not the stream"

TOKEN = re.compile(r"""\s*(?:
    (?P<str>'[^']*'|"[^"]*") |
    (?P<ip>(?:(?:[0-9A-Fa-f]{0,4}:){2,}[0-9A-Fa-f.]*|\d+(?:\.\d+){3})(?P<prefix>/\w*)?(?![\w:%])) |
    (?P<num>-?(?:0x[0-9A-Fa-f]+|\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?[kMGT]?)(?![\w:%])) |
    (?P<word>[A-Za-z_]\w*) |
    (?P<op>==|!=|<=|>=|&&|\|\||\.\.|[<>!(){},~]) |
    (?P<bad>\S)
)""", re.VERBOSE | re.ASCII)


@dataclass(frozen=True)
class Token:
    kind: str       # str, num, word, op, ip, net, end
    text: str
    at: int
    value: object = None


@dataclass(frozen=True)
class Literal:
    """A value: int, float, bool, str, an address or a network of ipaddress. `at` is its offset in the text."""
    value: object
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Name:
    name: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Range:
    first: Literal
    last: Literal       # included
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Compare:
    left: object
    op: str
    right: object


@dataclass(frozen=True)
class In:
    left: Name
    items: tuple        # Literal, Name, Range


@dataclass(frozen=True)
class Not:
    item: object


@dataclass(frozen=True)
class And:
    items: tuple


@dataclass(frozen=True)
class Or:
    items: tuple


def fail(text, at, message):
    """Raise FilterError: one line with the column (and the line, if there are several), and what stands there."""
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    where = f"line {line}, column {column}" if "\n" in text else f"column {column}"
    rest = " ".join(text[at:at + 24].split())
    raise FilterError(f"filter, {where}: {message}" + (f" (at {rest!r})" if rest else " (at its end)"))


def number(text, source, at):
    """A number's value: int where it is a whole one, else float."""
    if len(text) > MAX_NUMBER:
        fail(source, at, "this number is too long")
    if "0x" in text:
        return int(text, 16)
    unit = UNITS.get(text[-1], 1)
    from fractions import Fraction  # slow to import, and few filters hold a number with a unit
    value = Fraction(text[:-1] if unit > 1 else text) * unit
    whole = value.denominator == 1 and -2**64 < value < 2**64
    try:
        return int(value) if whole else float(value)
    except OverflowError:
        fail(source, at, "this number is too large")


def address(text, source, at):
    """(kind, value) of an address or CIDR block."""
    try:
        return ("net", ip_network(text)) if "/" in text else ("ip", ip_address(text))
    except ValueError as error:
        hint = str(error)
    if "host bits" in hint:
        fail(source, at, f"bits beyond the prefix are set: {ip_network(text, strict=False)}?")
    fail(source, at, "not an IP address or CIDR block")


def tokens(text):
    """The tokens of `text`, closed by one of kind `end`."""
    if len(text) > MAX_TEXT:
        raise FilterError(f"filter: {len(text)} characters, at most {MAX_TEXT}: use a Table")
    out, at, end = [], 0, len(text.rstrip())
    while at < end:
        m = TOKEN.match(text, at)
        kind, at = m.lastgroup if m.lastgroup != "prefix" else "ip", m.end()
        word, start = m[kind], m.start(kind)
        value = None
        if kind == "bad":
            hint = {"=": "'=' is written '=='", "/": "a CIDR block is written whole: 10.0.0.0/8", "&": "use 'and'",
                    "|": "use 'or'", "'": "the quote is not closed", '"': "the quote is not closed"}
            fail(text, start, hint.get(word, "this is no number, name or operator"))
        if kind == "op" and word == "~":
            fail(text, start, NO_REGEX)
        if kind == "num":
            value = number(word, text, start)
        elif kind == "str":
            value = word[1:-1]
        elif kind == "ip":
            kind, value = address(word, text, start)
        out.append(Token(kind, word, start, value))
    return out + [Token("end", "", len(text))]


class Parser:
    """Recursive descent; `or` binds weakest, then `and`, `not`, comparisons."""

    def __init__(self, text):
        self.text, self.tokens, self.next, self.depth = text, tokens(text), 0, 0

    def peek(self, *words):
        token = self.tokens[self.next]
        return token.kind in ("op", "word") and token.text in words

    def take(self):
        token = self.tokens[self.next]
        self.next = min(self.next + 1, len(self.tokens) - 1)
        return token

    def accept(self, *words):
        return self.take() if self.peek(*words) else None

    def expect(self, word, after):
        if not self.accept(word):
            self.fail(f"expected {word!r} {after}")

    def fail(self, message):
        fail(self.text, self.tokens[self.next].at, message)

    def parse(self):
        if self.tokens[0].kind == "end":
            self.fail("nothing in it; leave `where` out to see every event")
        tree = self.either()
        if self.tokens[self.next].kind != "end":
            self.fail("expected 'and', 'or' or the end")
        return tree

    def either(self):
        items = [self.both()]
        while self.accept("or", "||"):
            items.append(self.both())
        return items[0] if len(items) == 1 else Or(tuple(items))

    def both(self):
        items = [self.negation()]
        while self.accept("and", "&&"):
            items.append(self.negation())
        return items[0] if len(items) == 1 else And(tuple(items))

    def negation(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"more than {MAX_DEPTH} levels deep")
        if self.accept("not", "!"):
            tree = Not(self.negation())
        elif self.accept("("):
            tree = self.either()
            self.expect(")", "after the group")
        else:
            tree = self.comparison()
        self.depth -= 1
        return tree

    def comparison(self):
        left = self.operand()
        if op := self.accept(*COMPARISONS):
            right = self.operand()
            if self.peek(*COMPARISONS):
                self.fail("comparisons do not chain: use `in 1..9`")
            if isinstance(left, Literal) and isinstance(right, Name):
                return Compare(right, MIRROR[op.text], left)
            return Compare(left, op.text, right)
        negated = self.accept("not")
        if self.accept("in"):
            tree = In(left, self.members())
            return Not(tree) if negated else tree
        if negated:
            self.fail("expected 'in' after 'not'")
        return left

    def members(self):
        if not self.accept("{"):
            token = self.tokens[self.next]
            item = self.member()
            if not isinstance(item, Range) and token.kind not in ("ip", "net"):
                fail(self.text, token.at, "`in` takes a set {1, 2}, a range 1..9 or a CIDR block: use == for one value")
            return (item,)
        items = [self.member()]
        while self.accept(","):
            items.append(self.member())
        self.expect("}", "or ',' in the set")
        return tuple(items)

    def member(self):
        first = self.operand()
        if not self.accept(".."):
            return first
        return Range(first, self.operand(), first.at)

    def operand(self):
        token = self.take()
        if token.kind == "word" and token.text in ("true", "false"):
            return Literal(token.text == "true", token.at)
        if token.kind == "word" and token.text not in WORDS:
            return Name(token.text, token.at)
        if token.kind in ("num", "str", "ip", "net"):
            return Literal(token.value, token.at)
        fail(self.text, token.at, "expected a field or a value")


def parse(text):
    """The tree of a filter's text. Raises FilterError with the column."""
    return Parser(text).parse()


def show_value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"' if "'" in value else f"'{value}'"
    return repr(value) if isinstance(value, float) else str(value)


def show(tree):
    """Text that parses to `tree` again."""
    if isinstance(tree, Literal):
        return show_value(tree.value)
    if isinstance(tree, Name):
        return tree.name
    if isinstance(tree, Range):
        return f"{show(tree.first)}..{show(tree.last)}"
    if isinstance(tree, Compare):
        return f"{show(tree.left)} {tree.op} {show(tree.right)}"
    if isinstance(tree, In):
        items = ", ".join(map(show, tree.items))
        plain = len(tree.items) == 1 and (isinstance(tree.items[0], Range) or "/" in items)
        return f"{show(tree.left)} in " + (items if plain else f"{{{items}}}")
    if isinstance(tree, Not):
        return f"not {group(tree.item)}"
    return (" and " if isinstance(tree, And) else " or ").join(map(group, tree.items))


def group(tree):
    return f"({show(tree)})" if isinstance(tree, (And, Or)) else show(tree)
