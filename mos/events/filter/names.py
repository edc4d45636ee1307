"""What a name in a filter stands for: a field's type and the place it is loaded from."""
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from mos.errors import FilterError
from mos.events import filtervm as vm
from mos.events.filter.syntax import fail
from mos.events.spec import BY_NAME, FLOW_FIELDS, KINDS, PACKET_FIELDS, fields_of

BOUNDS = {vm.U8: (0, 2**8 - 1), vm.U16: (0, 2**16 - 1), vm.PORT: (0, 2**16 - 1), vm.U32: (0, 2**32 - 1),
          vm.I64: (-2**63, 2**63 - 1)}

RECORD_TYPES = {    # a record field's declared type -> the filter's type, how it is stored
    "u8": ("int", vm.U8), "u16": ("int", vm.U16), "u32": ("int", vm.U32), "i64": ("int", vm.I64), "f64": ("float", vm.F64),
    "bool": ("bool", vm.U8), "enum": ("enum", vm.U8), "ip": ("ip", vm.IP)}


class RecordField(NamedTuple):
    """A field of a user-defined event's record. `ip` takes 17 bytes: the address as in key_t, then the version."""
    type: str           # a key of RECORD_TYPES; others (bytes, str) may be named but are refused in a filter
    offset: int         # bytes from the start of the record
    values: tuple = ()  # enum


class Layout(NamedTuple):
    """The record event_t.obj points to. Its publisher guarantees `size` readable bytes."""
    size: int
    fields: Mapping[str, RecordField]


@dataclass(frozen=True)
class Field:
    """A field as the checker sees it. `type` is int, float, bool, enum or ip."""
    name: str
    type: str
    source: vm.Source
    values: tuple = ()

    @property
    def always(self):
        """Never absent."""
        return self.source.src == vm.EVENT


class Scope:
    """The fields that filters on one kind may name; the event's own come first where names coincide."""

    def __init__(self, kind, extra=None):
        if kind not in BY_NAME:
            near = get_close_matches(kind, BY_NAME, 1)
            raise FilterError(f"no event is called {kind!r}" + (f": {near[0]}?" if near else ": see mos.events.spec"))
        self.kind, self.extra = kind, extra or Layout(0, {})
        self.fields = {f.name: self.builtin(f, f.name) for f in PACKET_FIELDS + FLOW_FIELDS}
        self.fields |= {f.name: self.builtin(f, f.flag or "event." + f.slot) for f in fields_of(kind) if f.filter}
        self.fields |= {n: self.record(n, f) for n, f in self.extra.fields.items() if f.type in RECORD_TYPES}

    @staticmethod
    def builtin(f, key):
        return Field(f.name, f.type, vm.FIELD_SOURCES[key], f.values)

    @staticmethod
    def record(name, f):
        kind, stored = RECORD_TYPES[f.type]
        test = (vm.BITS, 255) if kind == "bool" else ()
        return Field(name, kind, vm.Source(vm.RECORD, stored, f.offset, *test), f.values)

    def field(self, name, text, at):
        if name in self.fields:
            return self.fields[name]
        fail(text, at, self.why_unknown(name))

    def why_unknown(self, name):
        """One line on a name that is no field here."""
        if name in self.extra.fields or any(f.name == name for f in fields_of(self.kind)):
            return f"{name!r} cannot stand in a filter, only fields that are numbers, flags, names or addresses: test it in " \
                   "the handler"
        for f in self.fields.values():
            if name in f.values:
                return f"{name!r} is a value of {f.name!r}: write {f.name} == {name}"
        kinds = [k.name for k in KINDS if any(f.name == name for f in k.fields)]
        if kinds:
            return f"{name!r} is a field of {', '.join(kinds)}, not of {self.kind}"
        near = get_close_matches(name, [*self.fields, "and", "or", "not", "in"], 1) \
            or get_close_matches(name.lower(), ["and", "or", "not", "in"], 1)
        return f"{self.kind} has no field {name!r}" + (f": {near[0]}?" if near else "; it has " + ", ".join(self.fields))
