"""FlowVar and what resolves declarations: by the flow, or by the stack that runs on this thread."""
import struct

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from mos.flow.flow cimport flow_t
from mos.flow.view cimport Flow, ip_text
from mos.state.blocks cimport chunk_t, layout_t, slots_close, slots_put_object, slots_settle, slots_write, spare_t

from mos.errors import ChainError, MosError, StaleFlow, UsageError
from mos.events.user import Slot, _REQUIRED
from mos.state.layout import SLOTS_MAX as _LARGEST, TYPES as _TYPES, encode, place, type_name

cdef extern from *:
    """
    static _Thread_local PyObject *mos_running = NULL;
    #define mos_add_overflow(a, b, sum) __builtin_add_overflow(a, b, sum)
    """
    PyObject *mos_running
    bint mos_add_overflow(int64_t a, int64_t b, int64_t *sum) nogil
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    bint PyLong_Check(object o)

cdef enum:
    I64 = 0                 # FlowVar.code, as in layout.TYPES
    F64 = 1
    BOOL = 2
    BYTES = 3
    STR = 4
    IP = 5
    OBJECT = 6

cdef uint32_t _declared = 0         # FlowVars made so far


cdef inline uint32_t offset_in(const layout_t *layout, uint32_t index) noexcept nogil:
    return layout.offsets[index] if index < layout.noffsets else 0


cdef inline uint32_t offset_of(FlowVar v, Flow flow) except 0:
    """Where `v` sits in the block of `flow`, which has one."""
    cdef flow_t *f = flow.f
    cdef uint32_t offset
    if f != NULL and f.slots != NULL:
        offset = offset_in((<layout_t **>f.slots)[0], v.index)
        if offset:
            return offset
    return unusable(v, flow)


cdef uint32_t unusable(FlowVar v, Flow flow) except 0:
    if flow.f == NULL:
        raise StaleFlow(f"flow {flow.id}: {v.label()} was used after the flow ended; use it in FlowEnd at the latest")
    space = getattr(flow.owner, "slots", None)
    if isinstance(space, SlotSpace) and offset_in((<SlotSpace>space).c, v.index):
        raise MosError(f"flow {flow.id} has no memory for its state: lower the limit on flows")
    chain = repr(space.chain) if isinstance(space, SlotSpace) else "that tracks this flow"
    raise ChainError(f"{v.label()} is not declared in the chain {chain}: give it a name at the top level of a middlebox's "
                     "module, or make it an attribute of its NF class")


cdef int64_t to_int(FlowVar v, object value) except? -1:
    cdef int overflow = 0
    cdef int64_t number
    if not PyLong_Check(value):
        if not hasattr(value, "__index__"):
            raise TypeError(f"{v.label()} takes an int, not {type(value).__name__}")
        value = value.__index__()
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        raise too_big(v)
    return number


cdef double to_float(FlowVar v, object value) except? -1:
    if isinstance(value, float) or PyLong_Check(value) or hasattr(value, "__float__"):
        return value
    raise TypeError(f"{v.label()} takes a float, not {type(value).__name__}")


cdef object too_big(FlowVar v):
    return OverflowError(f"{v.label()} is a 64-bit integer: the value does not fit")


cdef class FlowVar:
    """One value per flow: `hits = FlowVar(int)`, then `hits[ev.flow] += 1`.

    `type` is int (64 bits), float, bool, bytes or str (with `size`, the most bytes they take), "ip" (an address, read as
    text, None if unset), a field of an event (`Text(64)`, `Blob(16)`, `Ip()`), or object. The default is the type's zero. An
    object's `default` is a callable that makes it at the first access; without one it is None. Objects are released when
    their flow ends, cannot be shipped, and what happens inside them is not undone with a dropped packet.

    A declaration holds no data: each stack keeps its own. Values can be read and written until FlowEnd has been handled, and
    go back to what they were when the packet whose handlers wrote them is dropped (section 5 of the design).
    Raises StaleFlow after the flow's end, ChainError in a chain that does not declare it, OverflowError beyond 64 bits,
    ValueError for bytes or text longer than `size` (`cut=True` shortens them), TypeError for another type.
    """
    cdef readonly uint32_t index    # unique in the process
    cdef readonly str type          # i64, f64, bool, bytes, str, ip, object
    cdef int code
    cdef readonly uint32_t size     # most bytes of bytes or str, 0 for the others
    cdef readonly uint32_t width    # bytes of the slot
    cdef readonly uint32_t align
    cdef readonly bint cut
    cdef readonly object default
    cdef readonly bytes image       # the default as it is stored
    cdef public str name

    kind = "FlowVar"
    key = "flow"
    writer = "handlers of the flow"
    merge = None
    partition = "flow"

    def __init__(self, type=int, default=None, *, size=0, cut=False, name=None):
        global _declared
        if hasattr(type, "limit") and hasattr(type, "type"):    # Text, Blob, Ip
            if default is None and type.default is not _REQUIRED:
                default = type.default
            type, size, cut = type.type, type.limit, type.cut
        self.type = type_name(type)
        self.name = name
        if self.type is None:
            raise UsageError(f"FlowVar takes int, float, bool, bytes, str, \"ip\" or object, not {type!r}")
        self.code, width, self.align, zero = _TYPES[self.type]
        if self.code not in (BYTES, STR):
            if size:
                raise UsageError(f"{self.label()} is {self.type}: only bytes and str have a size")
        elif not 0 < size <= _LARGEST:
            raise UsageError(f"{self.label()}: bytes and str need a size of 1 to {_LARGEST} bytes: FlowVar(str, size=64)")
        self.size, self.cut, self.width = size, cut, width + size
        self.default = zero if default is None else default
        if self.code == OBJECT and default is not None and not callable(default):
            raise UsageError(f"{self.label()}: an object's default is a callable that makes it, not {default!r:.60}")
        self.image = default_image(self)
        self.index = _declared
        _declared += 1

    def __set_name__(self, owner, name):
        if self.name is None:
            self.name = name

    def __copy__(self):
        """Another declaration like this one, with data of its own."""
        return FlowVar(self.type, self.default, size=self.size, cut=self.cut, name=self.name)

    def __repr__(self):
        return f"<{self.label()} {self.layout}>"

    def label(self):
        """How messages call it."""
        return f"FlowVar {self.name!r}" if self.name else "a FlowVar without a name"

    @property
    def layout(self):
        """Type and size: i64, bytes[16] …"""
        return f"{self.type}[{self.size}]" if self.size else self.type

    @property
    def shippable(self):
        """False for objects: they mean nothing elsewhere."""
        return self.code != OBJECT

    def __getitem__(self, Flow flow not None):
        return var_get(self, flow)

    def __setitem__(self, Flow flow not None, value):
        var_put(self, flow, value)

    def add(self, Flow flow not None, n=1):
        """Add `n` to an int or float and return the sum: `var[flow] += n`, faster."""
        cdef int64_t number, total
        cdef uint32_t offset
        cdef char *p
        if self.code != I64:
            return self.add_float(flow, n)
        number = to_int(self, n)
        offset = offset_of(self, flow)
        p = <char *>flow.f.slots + offset
        if mos_add_overflow((<int64_t *>p)[0], number, &total):
            raise too_big(self)
        slots_write(&(<layout_t **>flow.f.slots)[0].undo, flow.f)
        (<int64_t *>p)[0] = total
        return total

    cdef object add_float(self, Flow flow, object n):
        if self.code != F64:
            raise TypeError(f"{self.label()} is {self.type}: only int and float can be added to")
        total = var_get(self, flow) + n
        var_put(self, flow, total)
        return total


cdef bytes default_image(FlowVar v):
    """The default as it is stored; of an object: NULL."""
    if v.code == I64:
        return struct.pack("=q", to_int(v, v.default))
    if v.code == F64:
        return struct.pack("=d", to_float(v, v.default))
    return bytes(8) if v.code == OBJECT else encode(v, v.default)


cdef object var_get(FlowVar v, Flow flow):
    cdef uint32_t offset = offset_of(v, flow)
    cdef const char *p = <const char *>flow.f.slots + offset
    cdef uint32_t n
    if v.code == I64:
        return (<const int64_t *>p)[0]
    if v.code == F64:
        return (<const double *>p)[0]
    if v.code == BOOL:
        return p[0] != 0
    if v.code == OBJECT:
        return object_get(v, flow, (<PyObject **>p)[0])
    if v.code == IP:
        return ip_text(<const uint8_t *>p + 1, p[0]) if p[0] else None
    n = (<const uint16_t *>p)[0]
    if n > v.size:      # a C handler wrote nonsense
        n = v.size
    if v.code == BYTES:
        return PyBytes_FromStringAndSize(p + 2, n)
    return PyUnicode_DecodeUTF8(p + 2, n, "surrogatepass")


cdef object object_get(FlowVar v, Flow flow, PyObject *ref):
    if ref != NULL:
        return <object>ref
    if v.default is None:
        return None
    value = v.default()
    var_put(v, flow, value)
    return value


cdef int var_put(FlowVar v, Flow flow, object value) except -1:
    """Whatever may run Python (conversion) comes before the slot is looked up: it might end the flow."""
    cdef int64_t number
    cdef double real
    cdef uint32_t offset
    cdef bytes raw
    if v.code == I64:
        number = to_int(v, value)
        offset = offset_of(v, flow)
        slots_write(&(<layout_t **>flow.f.slots)[0].undo, flow.f)
        (<int64_t *>(<char *>flow.f.slots + offset))[0] = number
    elif v.code == F64:
        real = to_float(v, value)
        offset = offset_of(v, flow)
        slots_write(&(<layout_t **>flow.f.slots)[0].undo, flow.f)
        (<double *>(<char *>flow.f.slots + offset))[0] = real
    elif v.code == OBJECT:
        offset = offset_of(v, flow)
        Py_INCREF(value)
        slots_put_object(flow.f, offset, <PyObject *>value)
    else:
        raw = encode(v, value)
        offset = offset_of(v, flow)
        slots_write(&(<layout_t **>flow.f.slots)[0].undo, flow.f)
        memcpy(<char *>flow.f.slots + offset, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
    return 0


cdef class StateView:
    """The fields of a FlowState for one flow: base of every FlowState."""
    cdef readonly Flow flow


cdef class SlotField:
    """Attribute of a FlowState: the FlowVar on the class, the value on a view."""
    cdef readonly FlowVar var

    def __init__(self, FlowVar var not None):
        self.var = var

    def __get__(self, StateView view, owner):
        return self.var if view is None else var_get(self.var, view.flow)

    def __set__(self, StateView view not None, value):
        var_put(self.var, view.flow, value)


def state_view(cls, Flow flow not None):
    """`cls[flow]` of the FlowState `cls`."""
    cdef StateView view = StateView.__new__(cls)
    view.flow = flow
    return view


cdef int draw(layout_t *layout, dict placed) except -1:
    """Offsets, default image and undo copy for {FlowVar: offset}."""
    cdef FlowVar var
    layout.noffsets = 1 + max([v.index for v in placed])
    layout.size = (max([offset + v.width for v, offset in placed.items()]) + 7) // 8 * 8
    layout.undo.size = layout.size
    layout.offsets = <uint16_t *>calloc(layout.noffsets, sizeof(uint16_t))
    layout.image = <uint8_t *>calloc(1, layout.size)
    layout.undo.copy = <uint8_t *>calloc(1, layout.size)
    if layout.offsets == NULL or layout.image == NULL or layout.undo.copy == NULL:
        raise MemoryError()
    (<layout_t **>layout.image)[0] = layout
    for var, offset in placed.items():
        layout.offsets[var.index] = offset
        if var.code == OBJECT:
            layout.objects[layout.nobjects] = offset
            layout.nobjects += 1
        else:
            memcpy(layout.image + <int>offset, PyBytes_AS_STRING(var.image), PyBytes_GET_SIZE(var.image))
    return 0


cdef class SlotSpace:
    """The declared state of one stack. `declarations` are those of its chain, in order; `chain` is its name.

    Raises ChainError if a flow would need more than 4096 bytes or 64 objects. Flows must be closed (slots_close) before it
    goes; objects of those that were not are released with it.
    """

    def __cinit__(self, declarations=(), str chain="", *, bint exact=False):
        self.c = <layout_t *>calloc(1, sizeof(layout_t))
        if self.c == NULL:
            raise MemoryError()
        self.u = &self.c.undo
        self.u.layout = self.c
        self.c.exact = exact
        self.chain = chain
        self.outer = []
        self.declarations = tuple(dict.fromkeys(declarations))
        self.stores = {d: d.make(self) for d in self.declarations if hasattr(d, "make")}
        placed = place([d for d in self.declarations if d not in self.stores], chain)
        self.layout = tuple(Slot(var.name or "", var.type, offset, var.width) for var, offset in placed.items())
        if placed:
            draw(self.c, placed)

    def __dealloc__(self):
        cdef chunk_t *c
        cdef flow_t f
        cdef uint32_t i
        if self.c == NULL:
            return
        slots_settle(self.u)
        self.u.flow = NULL
        while self.c.chunks != NULL:
            c = <chunk_t *>self.c.chunks
            for i in range(c.blocks):
                f.slots = <char *>c + sizeof(chunk_t) + <size_t>i * self.c.size
                if (<spare_t *>f.slots).layout != NULL:
                    slots_close(self.c, &f)
            self.c.chunks = c.next
            free(c)
        free(self.c.offsets)
        free(self.c.image)
        free(self.c.undo.copy)
        free(self.c)

    def offset(self, FlowVar var not None):
        """Offset of `var` for C handlers (mos_slot). Raises ChainError if the chain does not declare it."""
        return slot_offset(self, var)

    def store(self, declaration):
        """The data of a Pool, Count, Map or Table in this stack."""
        try:
            return self.stores[declaration]
        except KeyError:
            pass
        if isinstance(declaration, FlowVar) or hasattr(declaration, "slots"):
            raise UsageError(f"{declaration!r} has a value per flow: read it in FlowEnd")
        raise ChainError(f"{declaration!r} is not declared in the chain {self.chain!r}")

    def value(self, declaration):
        """What a run has left: int or dict of a Count, dict of a Map or Table, numbers handed out of a Pool."""
        return self.store(declaration).value()

    def counters(self):
        """Blocks open now and at most, bytes taken for them, packets whose writes were undone."""
        return {"open": self.c.open, "peak": self.c.peak, "bytes": self.c.bytes, "undone": self.u.undone}

    def store_counters(self):
        """[(kind, name, counters)] of the Pools, Counts, Maps and Tables."""
        return [(d.kind, d.name, store.counters()) for d, store in self.stores.items()]

    def __enter__(self):
        """Run as this stack until __exit__. The stack itself uses state_enter and state_leave."""
        self.outer.append(running())
        state_enter(self)
        return self

    def __exit__(self, *_):
        outer = self.outer.pop()
        state_leave(NULL if outer is None else <PyObject *>outer)


cdef int slot_offset(SlotSpace space, object var) except -1:
    """Offset of a FlowVar for mos_slot. Raises ChainError if the chain of `space` does not declare it."""
    cdef uint32_t offset = offset_in(space.c, (<FlowVar?>var).index)
    if not offset:
        raise ChainError(f"{var.label()} is not declared in the chain {space.chain!r}")
    return offset


cdef PyObject *state_enter(SlotSpace space) noexcept nogil:
    """From now on declarations on this thread mean `space`. Returns what state_leave takes; borrowed references both."""
    global mos_running
    cdef PyObject *outer = mos_running
    mos_running = <PyObject *>space
    return outer


cdef void state_leave(PyObject *outer) noexcept nogil:
    global mos_running
    mos_running = outer


def running():
    """The SlotSpace of the stack that runs on this thread, None outside a run."""
    return None if mos_running == NULL else <object>mos_running


def store_of(declaration):
    """The running stack's data for a Pool, Count, Map or Table. Raises MosError outside a run."""
    if mos_running == NULL:
        raise MosError(f"{declaration!r} can be used inside a handler only; "
                       f"after a run read chain.value({declaration.name or '...'})")
    store = (<SlotSpace>mos_running).stores.get(declaration)
    return store if store is not None else (<SlotSpace>mos_running).store(declaration)
