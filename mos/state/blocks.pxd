# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Per-flow state of a chain: one flat block per flow, put back when the packet that wrote it is dropped."""
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from mos.flow.flow cimport flow_t

cdef enum:
    SLOTS_MAX = 4096    # bytes a flow: a million flows stay below 4 GiB, and the undo copy fits the L1 cache
    OBJECTS_MAX = 64    # Python objects a flow: a bit each in undo_t.saved
    CHUNK_BYTES = 65536 # of blocks at a time: small when idle, a malloc in thousands of flows when busy

cdef struct layout_t

# The transaction of the packet in hand. A flow that is not `flow` has none: what is written to it holds at once.
cdef struct undo_t:
    flow_t  *flow       # whose packet it is, NULL: none, or that flow has no slots
    uint8_t *copy       # its block as the packet found it; meaningful while dirty
    bint     dirty      # its block was written since the packet began
    uint64_t saved      # bit i: object i was overwritten, and the copy owns what stood there; 0 between packets
    uint64_t undone     # packets whose writes were taken back
    const layout_t *layout
    uint32_t size       # layout.size

# A block begins with block_t; all offsets count from there, so offset 0 can say "not declared".
cdef struct layout_t:
    undo_t   undo
    uint8_t *image      # a block as a new flow gets it
    uint32_t size       # bytes of a block, at least 16; 0: the chain declares no per-flow state and flow_t.slots stays NULL
    uint32_t nobjects
    uint16_t objects[OBJECTS_MAX]   # offsets of the references; NULL there means the default
    uint16_t *offsets   # by FlowVar index
    uint32_t noffsets
    uint32_t open       # blocks in use
    uint32_t peak
    uint64_t bytes      # taken from malloc
    bint     exact      # each block its own malloc, for AddressSanitizer: a chunk hides overruns and late uses
    void    *spare      # returned blocks, last in first out
    void    *chunks

cdef struct block_t:        # how a block in use begins
    layout_t *layout
    uint32_t version        # counts committed changes

cdef struct spare_t:        # a block not in use
    layout_t *layout        # NULL, where a block in use names its layout
    spare_t *next

cdef struct chunk_t:        # blocks follow
    chunk_t *next
    uint32_t blocks

cdef inline int slots_grow(layout_t *layout) noexcept nogil:
    """Spare blocks. -1: out of memory."""
    cdef uint32_t stride = layout.size, n = 1 if layout.exact else CHUNK_BYTES // stride, i
    cdef size_t head = 0 if layout.exact else sizeof(chunk_t), bytes = head + <size_t>n * stride
    cdef char *p = <char *>malloc(bytes)
    cdef spare_t *b
    if p == NULL:
        return -1
    if not layout.exact:
        (<chunk_t *>p).next = <chunk_t *>layout.chunks
        (<chunk_t *>p).blocks = n
        layout.chunks = p
    layout.bytes += bytes
    for i in range(n, 0, -1):
        b = <spare_t *>(p + head + <size_t>(i - 1) * stride)
        b.layout = NULL
        b.next = <spare_t *>layout.spare
        layout.spare = b
    return 0

cdef inline int slots_open(layout_t *layout, flow_t *f) noexcept nogil:
    """Give a new flow its block, all defaults. -1: out of memory, and the flow has none."""
    cdef spare_t *b
    f.slots = NULL
    if layout.size == 0:
        return 0
    if layout.spare == NULL and slots_grow(layout) < 0:
        return -1
    b = <spare_t *>layout.spare
    layout.spare = b.next
    memcpy(b, layout.image, layout.size)     # version 0
    f.slots = b
    layout.open += 1
    if layout.open > layout.peak:
        layout.peak = layout.open
    return 0

cdef inline void slots_release(PyObject **refs, uint32_t n) noexcept nogil:
    """Last, when all else is consistent: a `__del__` may well read and write slots."""
    cdef uint32_t i
    if n:
        with gil:
            for i in range(n):
                Py_XDECREF(refs[i])

cdef inline uint32_t slots_overwritten(undo_t *u, const uint8_t *block, PyObject **refs) noexcept nogil:
    """The references that `block` (the copy, or what stands now) holds in overwritten object slots; forgets that they were."""
    cdef uint32_t n = 0, i
    cdef PyObject *ref
    for i in range(u.layout.nobjects):
        if u.saved >> i & 1:
            ref = (<PyObject **>(block + u.layout.objects[i]))[0]
            if ref != NULL:
                refs[n] = ref
                n += 1
    u.saved = 0
    return n

cdef inline void slots_close(layout_t *layout, flow_t *f) noexcept nogil:
    """Take the block back, after FlowEnd and flow_view_end. Takes the GIL if there are objects to release."""
    cdef PyObject *refs[2 * OBJECTS_MAX]
    cdef uint32_t n = 0, i
    cdef spare_t *b = <spare_t *>f.slots
    cdef PyObject *ref
    if b == NULL:
        return
    if layout.undo.flow == f:
        n = slots_overwritten(&layout.undo, layout.undo.copy, refs)
        layout.undo.flow = NULL
        layout.undo.dirty = 0
    for i in range(layout.nobjects):
        ref = (<PyObject **>(<char *>b + layout.objects[i]))[0]
        if ref != NULL:
            refs[n] = ref
            n += 1
    f.slots = NULL
    layout.open -= 1
    if layout.exact:
        layout.bytes -= layout.size
        free(b)
    else:
        b.layout = NULL
        b.next = <spare_t *>layout.spare
        layout.spare = b
    slots_release(refs, n)

cdef inline void slots_write(undo_t *u, flow_t *f) noexcept nogil:
    """Call before each write to the slots of `f`, which must have some."""
    if f != u.flow:
        (<block_t *>f.slots).version += 1
    elif not u.dirty:
        memcpy(u.copy, f.slots, u.size)
        u.dirty = 1

cdef inline void slots_put_object(flow_t *f, uint32_t offset, PyObject *ref) noexcept:
    """Put `ref`, which is handed over, into an object slot. With the GIL."""
    cdef layout_t *layout = (<layout_t **>f.slots)[0]
    cdef PyObject **slot = <PyObject **>(<char *>f.slots + offset)
    cdef PyObject *old
    cdef uint32_t i
    slots_write(&layout.undo, f)
    old = slot[0]
    slot[0] = ref
    if f == layout.undo.flow:
        for i in range(layout.nobjects):
            if layout.objects[i] == offset and not layout.undo.saved >> i & 1:
                layout.undo.saved |= <uint64_t>1 << i
                return
    Py_XDECREF(old)

cdef inline void slots_settle(undo_t *u) noexcept nogil:
    """Release the objects that a committed packet has overwritten."""
    cdef PyObject *refs[OBJECTS_MAX]
    slots_release(refs, slots_overwritten(u, u.copy, refs))

cdef inline void slots_commit(undo_t *u) noexcept nogil:
    """The packet is forwarded: what its handlers wrote holds. Ends the transaction."""
    cdef flow_t *f = u.flow
    if f == NULL:
        return
    u.flow = NULL
    if u.dirty:
        u.dirty = 0
        (<block_t *>f.slots).version += 1
        if u.saved:
            slots_settle(u)

cdef inline void slots_abort(undo_t *u) noexcept nogil:
    """The packet is dropped: the slots of its flow are as it found them. Ends the transaction."""
    cdef PyObject *refs[OBJECTS_MAX]
    cdef flow_t *f = u.flow
    cdef uint32_t n
    u.flow = NULL
    if f == NULL or not u.dirty:
        return
    n = slots_overwritten(u, <const uint8_t *>f.slots, refs)
    memcpy(f.slots, u.copy, u.size)
    u.dirty = 0
    u.undone += 1
    slots_release(refs, n)

cdef inline void undo_begin(undo_t *u, flow_t *f) noexcept nogil:
    """A packet of `f` (NULL: of no flow) begins. One that was neither committed nor aborted is committed."""
    slots_commit(u)
    u.flow = NULL if f == NULL or f.slots == NULL else f

cdef inline void *mos_slot(flow_t *f, uint32_t offset) noexcept nogil:
    """The slot at `offset` for reading: int64_t, double, uint8_t (bool), uint16_t length and bytes, version and 16 bytes (ip).

    NULL: the chain declares no per-flow state. `offset` is slot_offset()'s, asked once at build.
    """
    return NULL if f.slots == NULL else <uint8_t *>f.slots + offset

cdef inline void *mos_slot_write(flow_t *f, uint32_t offset) noexcept nogil:
    """The same for writing, until the packet ends. References (object slots) are not for C handlers to write."""
    if f.slots == NULL:
        return NULL
    slots_write(&(<layout_t **>f.slots)[0].undo, f)
    return <uint8_t *>f.slots + offset

cdef inline uint32_t mos_var_offset(const flow_t *f, uint32_t var) noexcept nogil:
    cdef const layout_t *layout
    if f == NULL or f.slots == NULL:
        return 0
    layout = (<const layout_t **>f.slots)[0]
    return layout.offsets[var] if var < layout.noffsets else 0

cdef inline void *mos_var(flow_t *f, uint32_t var) noexcept nogil:
    """mos_slot by FlowVar.index: looked up in the flow's own chain, so it serves any number of stacks at once.

    NULL: no flow (`f` may be NULL), or its chain does not declare the variable.
    """
    cdef uint32_t offset = mos_var_offset(f, var)
    return <uint8_t *>f.slots + offset if offset else NULL

cdef inline void *mos_var_write(flow_t *f, uint32_t var) noexcept nogil:
    """mos_slot_write by FlowVar.index, with the same NULLs as mos_var."""
    cdef uint32_t offset = mos_var_offset(f, var)
    return mos_slot_write(f, offset) if offset else NULL
