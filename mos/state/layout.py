"""How declared values lie in a flow's block: widths, places and the bytes of each type."""
import ipaddress
import struct

from mos.errors import ChainError

SLOTS_MAX = 4096    # bytes a flow: a million flows stay below 4 GiB, and the undo copy fits the L1 cache
OBJECTS_MAX = 64    # Python objects a flow: a bit each in the undo record's 64-bit mask
HEADER = 12         # a block begins with a pointer to its layout and its version

# Type name: (code in slots.pyx, width, alignment, zero). bytes and str: two bytes of length, then as many as declared;
# ip: version (0: unset), then 16 bytes. As events.user lays out the fields of events.
TYPES = {
    "i64": (0, 8, 8, 0), "f64": (1, 8, 8, 0.0), "bool": (2, 1, 1, False), "bytes": (3, 2, 2, b""), "str": (4, 2, 2, ""),
    "ip": (5, 17, 1, None), "object": (6, 8, 8, None),
}
SPELT = {"int": "i64", "float": "f64"}
_ADDRESS = (str, ipaddress.IPv4Address, ipaddress.IPv6Address)


def type_name(given):
    """Name in TYPES of a Python type or a name, None if there is none."""
    name = given if isinstance(given, str) else given.__name__ if given in (int, float, bool, bytes, str, object) else ""
    name = SPELT.get(name, name)
    return name if name in TYPES else None


def place(declarations, chain):
    """{FlowVar: offset} in the order declared, each on its own alignment; a FlowState begins on a multiple of 8.

    Raises ChainError if a flow would need more than SLOTS_MAX bytes or OBJECTS_MAX objects.
    """
    placed, end = {}, HEADER
    for d in declarations:
        fields = getattr(d, "slots", None)
        if fields is not None:
            end = -(-end // 8) * 8
        for var in (d,) if fields is None else fields:
            if var not in placed:
                placed[var] = -(-end // var.align) * var.align
                end = placed[var] + var.width
    if end > SLOTS_MAX:
        raise ChainError(f"the chain {chain!r} declares {end} bytes of state per flow and may have {SLOTS_MAX}: "
                         "declare smaller sizes, or keep what few flows need in a Map")
    if sum(var.type == "object" for var in placed) > OBJECTS_MAX:
        raise ChainError(f"the chain {chain!r} declares more than {OBJECTS_MAX} objects per flow: gather them in one object")
    return placed


def encode(var, value):
    """`value` as the slot of `var` holds it: bool, bytes, str or ip. Raises TypeError or ValueError."""
    if var.type == "bool":
        if not isinstance(value, bool):
            raise TypeError(f"{var.label()} takes True or False, not {type(value).__name__}")
        return b"\1" if value else b"\0"
    if var.type == "ip":
        return _encode_ip(var, value)
    raw = _text(var, value)
    return struct.pack("=H", len(raw)) + raw


def _encode_ip(var, value):
    if value is None:
        return bytes(17)
    if not isinstance(value, _ADDRESS) or "%" in str(value):
        raise TypeError(f"{var.label()} takes an address without a zone, not {value!r:.60}")
    address = ipaddress.ip_address(value)
    return (bytes([address.version]) + address.packed).ljust(17, b"\0")


def _text(var, value):
    """Bytes or the UTF-8 of a str; neither longer than var.size."""
    if var.type == "bytes":
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"{var.label()} takes bytes, not {type(value).__name__}")
        raw = bytes(value)
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
    else:
        raise TypeError(f"{var.label()} takes a str, not {type(value).__name__}")
    if len(raw) <= var.size:
        return raw
    if not var.cut:
        raise ValueError(f"{var.label()} holds {var.size} bytes, not {len(raw)}: declare a larger size, or cut=True")
    raw = raw[:var.size]
    return raw if var.type == "bytes" else raw.decode("utf-8", "ignore").encode("utf-8")
