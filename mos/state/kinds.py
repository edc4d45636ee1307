"""State that outlives an event, declared once: FlowVar and FlowState per flow; Pool, Count, Map and Table per stack.

A declaration stands at the top level of a middlebox's module or in its NF class, and holds no data. The data lives in the
stack that runs: `var[ev.flow]` finds it through the flow, the others through the stack running on this thread, and after a
run `chain.value(declaration)` reads what is left. Each kind says its key, layout and writer, and how copies of it merge when
several workers share the traffic.

What a handler writes to FlowVar and FlowState is undone if its packet is dropped. Pool, Count, Map and Table are not: they
say what happened, and a dropped packet has happened too.
"""
import copy

from mos.errors import UsageError
from mos.events.user import Blob, Ip, Text, _annotations
from mos.state.slots import FlowVar, SlotField, StateView, state_view, store_of
from mos.state.stores import CountStore, MapStore, PoolStore, TableStore

__all__ = ["Blob", "Count", "FlowState", "FlowVar", "Ip", "Map", "Pool", "Table", "Text", "clone", "declared",
           "worker_refusal"]

POOL_MAX = 1 << 20      # numbers in a Pool, at 8 bytes each: sixteen addresses' worth of ports
LABELS_MAX = 1024       # labels of a Count: beyond that nobody reads it, and a monitoring system suffers
MAP_CAP = 65536         # entries of a Map unless it says otherwise: about 25 MB
MAP_MAX = 1 << 24       # entries a Map may ask for: some GB


def _constant(value):
    return property(lambda cls: value)


class StateType(type):
    """Class of FlowState: makes fields of the annotations, and `Conn[flow]` a view."""

    kind = _constant("FlowState")
    key = _constant("flow")
    writer = _constant("handlers of the flow")
    merge = _constant(None)
    partition = _constant("flow")
    name = property(lambda cls: cls.__name__)
    slots = property(lambda cls: tuple(cls._fields.values()), doc="Its FlowVars in the order declared.")
    layout = property(lambda cls: ", ".join(f"{field} {var.layout}" for field, var in cls._fields.items()))
    shippable = property(lambda cls: all(var.shippable for var in cls.slots))

    def __new__(meta, name, bases, namespace):
        fields = {field: copy.copy(var) for base in reversed(bases) for field, var in getattr(base, "_fields", {}).items()}
        for field, hint in _annotations(namespace).items():
            if not field.startswith("_"):
                fields[field] = _field(name, field, hint, namespace.get(field))
        for field, var in fields.items():
            var.name = f"{name}.{field}"
            namespace[field] = SlotField(var)
        namespace.update(__slots__=(), _fields=fields)
        return super().__new__(meta, name, bases, namespace)

    def __getitem__(cls, flow):
        return state_view(cls, flow)

    def __repr__(cls):
        return f"<FlowState {cls.__name__}: {cls.layout}>"


def _field(owner, field, hint, default):
    """The FlowVar of `field: hint = default`."""
    if hasattr(default, "limit"):
        return FlowVar(default)
    name = hint if isinstance(hint, str) else getattr(hint, "__name__", repr(hint))
    if name in ("bytes", "str"):
        like = "Blob(16)" if name == "bytes" else "Text(64)"
        raise UsageError(f"{owner}.{field}: a {name} field needs a bound: {field}: {name} = {like}")
    if name not in ("int", "float", "bool", "object"):
        raise UsageError(f"{owner}.{field}: fields are int, float, bool, bytes, str or object, not {name}")
    return FlowVar(object if name == "object" else name, default, name=f"{owner}.{field}")


class FlowState(StateView, metaclass=StateType):
    """Several values per flow that belong together.

        class Conn(FlowState):
            ext_port: int = 0
            tag: bytes = Blob(16)
            peer: str = Ip()
            parser: object = Parser     # called at the first access

        Conn[ev.flow].ext_port += 1

    Fields are FlowVars: `Conn.ext_port.add(ev.flow)` is the fast form. They lie in one block in this order, aligned as in a
    C struct. (A field called like something every declaration has, `name` or `key`, is reached through `Conn[flow]` alone.)
    Raises UsageError for a field without a known type or bound, AttributeError for a mis-spelt one.
    """

    def __repr__(self):
        values = ", ".join(f"{field}={getattr(self, field)!r}" for field in type(self)._fields)
        return f"<{type(self).__name__} {values}>"


class _Shared:
    """What Pool, Count, Map and Table have in common."""

    kind = key = layout = writer = merge = partition = None
    shippable = True
    name = None

    def __set_name__(self, owner, name):
        if self.name is None:
            self.name = name

    def __repr__(self):
        return f"<{self.kind} {self.name or 'without a name'}>"


class Pool(_Shared):
    """Hands out the integers `lo` to `hi`, both included, each to one holder at a time: NAT ports, ids.

    Deterministic: first in order, then the one that has been free longest. Raises UsageError for a range that is empty or
    larger than 1,048,576, and for a number given back that is not held.
    """
    kind, writer, partition = "Pool", "whoever takes or gives", "home"

    def __init__(self, lo, hi, *, name=None):
        if not (isinstance(lo, int) and isinstance(hi, int) and 0 <= hi - lo < POOL_MAX):
            raise UsageError(f"Pool takes two integers lo <= hi, at most {POOL_MAX} numbers, not {lo!r} and {hi!r}")
        self.lo, self.hi, self.name = lo, hi, name
        self.layout = f"numbers {lo} to {hi}"

    def make(self, space):
        return PoolStore(self.lo, self.hi)

    def take(self, prefer=None, parity=None):
        """A number for the caller alone until it is given back; None if there is none.

        `prefer` is taken if it is free. `parity` is a number with the parity wanted (RFC 4787 section 4.2.2): with it, None
        means that none of that parity is left.
        """
        return store_of(self).take(prefer, parity)

    def give(self, x):
        """Give `x` back. Raises UsageError if nobody holds it."""
        store_of(self).give(x)

    def holds(self, x):
        """Somebody holds `x`."""
        return store_of(self).holds(x)

    @property
    def free(self):
        """How many can be taken."""
        return store_of(self).free


class Count(_Shared):
    """A sum, or one per label: `hits = Count("hits")`, `hits.add()`, `hits.add(1, ev.server_port)`.

    `labels` names the labels if there are several; then `add` takes one for each. Labels are text, cut at 128 characters;
    what comes after the 1024th (or `bound`-th) goes to "other".
    """
    kind, writer, merge, layout = "Count", "any handler", "sum", "i64 by label"

    def __init__(self, name=None, labels=(), *, bound=LABELS_MAX):
        self.labels = (labels,) if isinstance(labels, str) else tuple(labels)
        if not 0 < bound <= MAP_CAP:
            raise UsageError(f"Count keeps 1 to {MAP_CAP} labels apart, not {bound}")
        self.name, self.bound = name, bound
        self.key = self.labels or None

    def make(self, space):
        return CountStore(self.labels, self.bound)

    def add(self, n=1, *label):
        """Add `n` to the sum of `label`. Raises UsageError if that is not as many labels as the Count has."""
        store_of(self).add(n, label)


class Map(_Shared):
    """A bounded dict: per client, per name, per whatever a flow is not.

    Keys are str, bytes, int or tuples of those, at most 1024 bytes; `key` says in words what they are. Beyond `cap` entries
    the least recently used goes, counted. `expire` is in seconds of packet time since an entry was last written, or with
    `since="create"` since it was made. `map[k]` of a missing key is `default`; a callable default makes the value and keeps it.
    With several workers either `partition` ("client" or "server") says whose traffic goes together, or `merge` ("sum", "max",
    "min", or a function of two values) how values of one key combine.
    """
    kind, writer = "Map", "any handler"

    def __init__(self, key=None, cap=MAP_CAP, expire=None, default=None, *, since="write", partition=None, merge=None, name=None):
        if not (isinstance(cap, int) and 0 < cap <= MAP_MAX):
            raise UsageError(f"Map(cap=...) takes 1 to {MAP_MAX} entries, not {cap!r}")
        if expire is not None and not expire > 0:
            raise UsageError(f"Map(expire=...) takes seconds above 0 or None, not {expire!r}")
        for option, value, known in (("since", since, ("write", "create")), ("partition", partition, (None, "client", "server")),
                                     ("merge", merge, (None, "sum", "max", "min"))):
            if value not in known and not (option == "merge" and callable(value)):
                raise UsageError(f"Map({option}=...) takes {', '.join(map(repr, known))}, not {value!r}")
        self.key, self.cap, self.expire, self.default, self.since = key, cap, expire, default, since
        self.partition, self.merge, self.name = partition, merge, name
        self.layout = f"{type(default).__name__ if default is not None and not callable(default) else 'object'}, {cap} entries"
        self.shippable = isinstance(default, (int, float, str, bytes))

    def make(self, space):
        expire = None if self.expire is None else int(self.expire * 1e9)
        return MapStore(space, self.cap, expire, self.since == "create", self.default)

    def __getitem__(self, key):
        return store_of(self)[key]

    def __setitem__(self, key, value):
        store_of(self)[key] = value

    def __delitem__(self, key):
        """Forget `key`; one that is not there is none to forget."""
        store_of(self).pop(key, None)

    def __contains__(self, key):
        """`key` is there. Does not count as use."""
        return key in store_of(self)

    def __len__(self):
        return len(store_of(self))

    def __iter__(self):
        return iter([key for key, _ in store_of(self).items()])

    def get(self, key, otherwise=None):
        """The value of `key`, or `otherwise`."""
        return store_of(self).get(key, otherwise)

    def add(self, key, n=1):
        """Add `n` to the value of `key` (to the default, else to 0, if it is missing) and return the sum."""
        return store_of(self).add(key, n)

    def pop(self, key, otherwise=None):
        """Forget `key` and return its value, or `otherwise`."""
        return store_of(self).pop(key, otherwise)

    def items(self):
        """(key, value) pairs of this moment, least recently used first."""
        return store_of(self).items()


class Table(_Shared):
    """A dict that handlers read and that is replaced as a whole: block lists, routes. Its size is what its owner gives it.

    `initial` is what each stack starts with. Not changed in place, so `snapshot()` stays as it was.
    """
    kind, writer, merge, layout = "Table", "replace(), whoever loads it", "same", "mapping"
    partition = "copy"

    def __init__(self, initial=(), *, name=None):
        self.initial, self.name = dict(initial), name

    def make(self, space):
        return TableStore(self.initial)

    def __getitem__(self, key):
        return store_of(self).now[key]

    def __contains__(self, key):
        return key in store_of(self).now

    def __len__(self):
        return len(store_of(self).now)

    def __iter__(self):
        return iter(store_of(self).now)

    def get(self, key, otherwise=None):
        """The value of `key`, or `otherwise`."""
        return store_of(self).now.get(key, otherwise)

    def replace(self, mapping):
        """Put a copy of `mapping` in place of all there is."""
        store_of(self).replace(mapping)

    def snapshot(self):
        """What is there now, as a mapping that cannot be written and that no `replace` changes."""
        return store_of(self).now


def is_declaration(thing):
    """`thing` is a declaration of state."""
    if isinstance(thing, StateType):
        return bool(thing.slots)
    return isinstance(thing, (FlowVar, _Shared))


def declared(namespace):
    """The declarations among a module's or class's names, in order, each once; those without a name are given theirs."""
    found = {}
    for name, thing in namespace.items():
        if is_declaration(thing):
            found.setdefault(thing)
            if thing.name is None:
                thing.name = name
    return list(found)


def clone(declaration):
    """Another declaration like it, with data of its own: for the second instance of one NF class in a chain."""
    if isinstance(declaration, StateType):
        return StateType(declaration.__name__, (declaration,), {"__module__": declaration.__module__})
    return copy.copy(declaration)


def worker_refusal(declaration):
    """Why `--workers` cannot split this declaration among processes, which share the traffic by flow; None if it can."""
    if declaration.merge is not None or declaration.partition in ("flow", "copy"):
        return None
    if declaration.partition is None:
        return (f"{declaration.kind} {declaration.name} is shared by all flows: give it merge=\"sum\", \"max\" or \"min\", or a "
                "function that makes one of two values")
    if declaration.partition == "home":
        return f"{declaration.kind} {declaration.name} hands out numbers in the order in which they are asked for"
    return (f"{declaration.kind} {declaration.name} is kept by {declaration.partition}, and the flows of one "
            f"{declaration.partition} go to several workers")
