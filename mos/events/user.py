"""User-defined events: records of declared fields, checked when the class is made and again when one is filled in.

    class Beacon(UserEvent):
        period: float
        peer: str = Ip()
        note: str = Text(64, default="")

`layout()` says where each field sits in a fixed-size record: the built-in events and per-flow state are laid out alike.
"""
import ipaddress
import operator
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, dataclass_transform

from mos.errors import UsageError
from mos.events.views import AppEvent

RECORD_MAX = 4096   # bytes: a queue of user events is bounded by their number, so one of them must be bounded too
_REQUIRED: Any = object()


@dataclass(frozen=True)
class _Declared:
    """What stands behind the `=` of a field. `limit` is in bytes, 0 where the type fixes the width."""
    type: str
    limit: int = 0
    default: Any = _REQUIRED
    cut: bool = False


class Slot(NamedTuple):
    """Where a field sits in the record: type is i64, f64, bool, ip, str or bytes, offset and width are bytes."""
    name: str
    type: str
    offset: int
    width: int


def Text(limit: int, *, default: Any = _REQUIRED, cut: bool = False) -> Any:
    """A str of at most `limit` bytes in UTF-8. A longer one is refused, or with `cut` shortened: choose that for wire data."""
    return _Declared("str", _limit("Text", limit), default, cut)


def Blob(limit: int, *, default: Any = _REQUIRED, cut: bool = False) -> Any:
    """Bytes, at most `limit`. More are refused, or with `cut` shortened: choose that for data from the wire."""
    return _Declared("bytes", _limit("Blob", limit), default, cut)


def Ip(*, default: Any = _REQUIRED) -> Any:
    """An IPv4 or IPv6 address, given as text or `ipaddress` object, read as text."""
    return _Declared("ip", 0, default)


def _limit(name: str, limit: int) -> int:
    if type(limit) is not int or not 0 < limit <= RECORD_MAX:
        raise UsageError(f"{name}() takes a limit of 1 to {RECORD_MAX} bytes, not {limit!r}")
    return limit


_PLAIN = {"int": "i64", "float": "f64", "bool": "bool"}
_BOUNDED = {"str": "Text(64) or Ip()", "bytes": "Blob(64)"}
_WIDTH = {"i64": 8, "f64": 8, "bool": 1, "ip": 17}      # an address: 16 bytes, then its version
_FORMAT = {"i64": "=q", "f64": "=d", "bool": "=?"}
_ALIGN = {"i64": 8, "f64": 8, "str": 2}                 # str and bytes: two bytes of length, then the text


def _to_int(d: _Declared, value: Any) -> int:
    number = int(operator.index(value))
    if not -1 << 63 <= number < 1 << 63:
        raise ValueError("does not fit 64 bits")
    return number


def _to_float(d: _Declared, value: Any) -> float:
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError("is not a number")
    return float(value)


def _to_bool(d: _Declared, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("is not True or False")
    return value


def _to_ip(d: _Declared, value: Any) -> str:
    if not isinstance(value, (str, ipaddress.IPv4Address, ipaddress.IPv6Address)) or "%" in str(value):
        raise TypeError("is not an address without a zone")
    return str(ipaddress.ip_address(value))


def _to_text(d: _Declared, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("is not a str")
    raw = value.encode("utf-8", "surrogatepass")
    if len(raw) <= d.limit:
        return str(value)
    if not d.cut:
        raise ValueError(f"is longer than {d.limit} bytes; Text({d.limit}, cut=True) would cut it")
    return raw[:d.limit].decode("utf-8", "ignore")


def _to_blob(d: _Declared, value: Any) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("is not bytes")
    raw = bytes(value)
    if len(raw) > d.limit and not d.cut:
        raise ValueError(f"is longer than {d.limit} bytes; Blob({d.limit}, cut=True) would cut it")
    return raw[:d.limit]


_COERCE = {"i64": _to_int, "f64": _to_float, "bool": _to_bool, "ip": _to_ip, "str": _to_text, "bytes": _to_blob}


def _coerce(owner: str, name: str, d: _Declared, value: Any) -> Any:
    try:
        return _COERCE[d.type](d, value)
    except (TypeError, ValueError, OverflowError) as e:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:60] + "…"
        raise UsageError(f"{owner}.{name} is {d.type}, and {shown} does not fit: {e}") from None


def _declare(owner: str, name: str, annotation: Any, default: Any) -> _Declared:
    """What `name: annotation = default` declares."""
    kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", repr(annotation))
    if isinstance(default, _Declared):
        if kind != ("bytes" if default.type == "bytes" else "str"):
            raise UsageError(f"{owner}.{name}: {default.type} fields are annotated "
                             f"{'bytes' if default.type == 'bytes' else 'str'}, not {kind}")
        declared = default
    elif kind in _BOUNDED:
        raise UsageError(f"{owner}.{name}: a {kind} field needs a bound: {name}: {kind} = {_BOUNDED[kind]}")
    elif kind in _PLAIN:
        declared = _Declared(_PLAIN[kind], 0, default)
    else:
        raise UsageError(f"{owner}.{name}: fields are int, float, bool, str or bytes, not {kind}")
    if declared.default is _REQUIRED:
        return declared
    return _Declared(declared.type, declared.limit, _coerce(owner, name, declared, declared.default), declared.cut)


def _annotations(namespace: "dict[str, Any]") -> "dict[str, Any]":
    """The annotations of a class body; from Python 3.14 on a function gives them (PEP 649)."""
    if "__annotations__" in namespace:
        return dict(namespace["__annotations__"])
    annotate = namespace.get("__annotate_func__") or namespace.get("__annotate__")
    return dict(annotate(1)) if annotate else {}


def _lay_out(declared: "dict[str, _Declared]") -> "tuple[list[Slot], int]":
    slots, end = [], 0
    for name, d in declared.items():
        width, align = _WIDTH.get(d.type, d.limit + 2), _ALIGN.get(d.type, 2 if d.type == "bytes" else 1)
        offset = -(-end // align) * align
        slots.append(Slot(name, d.type, offset, width))
        end = offset + width
    return slots, -(-end // 8) * 8


@dataclass_transform(frozen_default=True, field_specifiers=(Text, Blob, Ip))
class _Record(type):
    """Turns a class body's annotations into slots before the class exists."""

    def __new__(meta, name: str, bases: "tuple[type, ...]", namespace: "dict[str, Any]") -> "_Record":
        declared: dict[str, _Declared] = {}
        for base in reversed(bases):
            declared.update(getattr(base, "_declared", {}))
        own = {field: annotation for field, annotation in _annotations(namespace).items()
               if not str(annotation).replace("typing.", "").startswith("ClassVar")}
        for field, annotation in own.items():
            if field in declared:
                raise UsageError(f"{name}.{field} is declared by a class it derives from already")
            if field.startswith("_") or any(hasattr(base, field) for base in bases):
                raise UsageError(f"{name}.{field}: names with a leading _ and those that every event has are taken; "
                                 "choose another name")
            declared[field] = _declare(name, field, annotation, namespace.pop(field, _REQUIRED))
        required = [d.default is _REQUIRED for d in declared.values()]
        if sorted(required, reverse=True) != required:
            raise UsageError(f"{name}: fields with a default come after those without")
        slots, size = _lay_out(declared)
        if size > RECORD_MAX:
            raise UsageError(f"{name} takes {size} bytes and may take {RECORD_MAX}: give its fields lower limits")
        namespace.update(__slots__=tuple(own), _declared=declared, _slots=tuple(slots), _size=size, name=name,
                         fields=tuple(AppEvent.fields) + tuple(declared))
        return super().__new__(meta, name, bases, namespace)


class UserEvent(AppEvent, metaclass=_Record):
    """Base of user-defined events: annotate its fields, publish it with `derive`. Instances cannot be changed.

    `flow`, `time` and `to_server` are filled in when it is published, from the event its handler was given. Unlike built-in
    events it is never stale. Raises UsageError for values that do not fit their fields.
    """
    if TYPE_CHECKING:
        _declared: "ClassVar[dict[str, _Declared]]"
        _slots: "ClassVar[tuple[Slot, ...]]"
        _size: ClassVar[int]

    def __init__(self, *args: Any, **values: Any) -> None:
        cls = type(self)
        if len(args) > len(cls._declared):
            raise UsageError(f"{cls.__name__} has {len(cls._declared)} fields, not {len(args)}")
        for field, value in zip(cls._declared, args):
            if field in values:
                raise UsageError(f"{cls.__name__}.{field} is given twice")
            values[field] = value
        for field, d in cls._declared.items():
            value = values.pop(field, d.default)
            if value is _REQUIRED:
                raise UsageError(f"{cls.__name__} needs a value for {field}")
            object.__setattr__(self, field, value if value is d.default else _coerce(cls.__name__, field, d, value))
        if values:
            raise UsageError(f"{cls.__name__} has no field {min(values)!r}; it has {', '.join(cls._declared) or 'none'}")
        self._record()

    def __setattr__(self, name: str, value: Any) -> None:
        raise UsageError(f"{type(self).__name__}.{name} cannot be changed: make another {type(self).__name__}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __eq__(self, other: object) -> bool:
        """Same class, same values; flow and time do not count."""
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._declared)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self._declared)))

    def record(self) -> bytes:
        """The fields as `layout()` says, `record_size()` bytes: what filters read. Numbers are in the machine's byte order."""
        packed = bytearray(self._size)
        for name, kind, offset, _ in self._slots:
            value = getattr(self, name)
            if kind in _FORMAT:
                struct.pack_into(_FORMAT[kind], packed, offset, value)
                continue
            if kind == "ip":
                address = ipaddress.ip_address(value)
                raw = address.packed.ljust(16, b"\0") + bytes([address.version])
            else:
                text = value.encode("utf-8", "surrogatepass") if kind == "str" else value
                raw = struct.pack("=H", len(text)) + text
            packed[offset:offset + len(raw)] = raw
        return bytes(packed)

    @classmethod
    def layout(cls) -> "list[Slot]":
        """(name, type, offset, width) of each field in the record; bytes. `record_size()` is the record's."""
        return list(cls._slots)

    @classmethod
    def record_size(cls) -> int:
        """Bytes of one record, a multiple of 8."""
        return cls._size
