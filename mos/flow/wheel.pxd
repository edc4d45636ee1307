# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Timers over packet time: arm and cancel in O(1), expiry in the order of times, then of arming."""
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from mos.flow.flow cimport flow_cold, flow_t, timer_node_t
from mos.flow.slab cimport slab_at, slab_t

cdef enum:
    DIGIT_BITS = 6          # 64 slots a level: one word tells which are occupied
    SLOTS = 64
    LEVELS = 11             # digits of a 63-bit time, so that the lowest slot is one nanosecond and needs no sorting
    PAST = LEVELS * SLOTS   # the list of nodes before the clock, sorted, has its head behind theirs
    HEAD = 0x80000000       # this bit in a neighbour's number: a head, else 1 + the slot of the object with the node; 0: none
    NO_TIMER = 0xffffffff
    QUEUED = 0x7ffffffc     # and a queue's number, a node's `prev`: it is in that, and `next` is the number of its entry

cdef enum:                  # queues; of what is due at one time those in the first come first, those in none last
    QUEUE_CLOSED = 0
    QUEUE_HALF_OPEN = 1
    QUEUE_DATAGRAMS = 2
    QUEUES = 3

cdef struct due_t:
    int64_t  when
    uint32_t slot           # NO_TIMER: it was disarmed, or armed anew
    uint32_t tag            # whatever its owner wants to be told again when it is due

cdef struct queue_t:        # of those who wait equally long: by time as they come, and read in a row when memory is cold
    due_t   *at
    uint32_t first          # ring: entries gone and entries ever, modulo 2**32
    uint32_t behind
    uint32_t called         # entries that wheel_coming has told of, or passed over
    uint32_t room           # entries it has memory for, a power of two
    uint32_t live           # that are not void
    int64_t  last           # the time of the last

cdef struct wheel_t:
    int64_t  clock          # every node in `slot` has when >= clock, those in PAST have when < clock
    int64_t  seen           # the latest time it was told
    int64_t  next_due       # nothing is due before this; INT64_MAX: nothing armed
    int64_t  listed_due     # nothing but what is in a queue
    uint64_t order          # armings ever
    uint64_t fired
    uint32_t armed          # nodes; they belong to flows and stacks, whose bounds are theirs
    uint32_t peak
    uint16_t levels         # bit l: level l has nodes
    uint64_t busy[11]       # bit s of busy[l]: slot s of level l has nodes
    const slab_t *of        # what has the nodes:
    bint     flows          # flows, in their cold parts, or objects that begin with one
    bint     sorts          # few that are due soon are put in order at once: for time-outs, which are armed far ahead
    queue_t  queues[3]      # QUEUE_*
    uint8_t  turn           # the one that something came due in last
    const due_t *came       # the entry of what came due last, until something is armed; NULL: it was in no queue
    timer_node_t slot[705]  # LEVELS * SLOTS list heads, and PAST; in slot s of level l, digit l is s and the clock's is not

cdef class Wheel:
    cdef wheel_t *c
    cdef slab_t nodes           # for tests
    cdef uint32_t n_nodes

cdef void wheel_start(wheel_t *w, int64_t now) noexcept nogil
cdef void wheel_arm(wheel_t *w, uint32_t slot, int64_t when) noexcept nogil
cdef void wheel_queue(wheel_t *w, uint32_t slot, int64_t when, uint32_t tag, int which) noexcept nogil
cdef void wheel_cancel(wheel_t *w, uint32_t slot) noexcept nogil
cdef uint32_t wheel_expire(wheel_t *w, int64_t now) noexcept nogil

cdef inline bint wheel_armed(const timer_node_t *n) noexcept nogil:
    return n.prev != 0

cdef inline timer_node_t *wheel_node(const wheel_t *w, uint32_t slot) noexcept nogil:
    """The node of the object in `slot`."""
    cdef void *p = slab_at(w.of, slot)
    return &flow_cold(<flow_t *>p).timer if w.flows else <timer_node_t *>p

cdef inline bint wheel_tag(const wheel_t *w, uint32_t slot, uint32_t *tag) noexcept nogil:
    """The `tag` that the object in `slot` was queued with. False: it is in no queue."""
    cdef const timer_node_t *n = wheel_node(w, slot)
    cdef const queue_t *q = &w.queues[n.prev & 3]
    if n.prev & ~<uint32_t>3 != QUEUED:
        return False
    tag[0] = q.at[n.next & q.room - 1].tag
    return True

cdef inline bint wheel_due(const wheel_t *w, int64_t now) noexcept nogil:
    """Is it worth calling wheel_expire? One compare; never wrongly no."""
    return now >= w.next_due

cdef inline const due_t *wheel_coming(wheel_t *w, uint32_t n) noexcept nogil:
    """Whose turn in the queue comes within `n` entries, each once; NULL: nobody's that was not said. To be called for in time."""
    cdef queue_t *q = &w.queues[w.turn]
    cdef const due_t *e
    if w.of.exact:
        return NULL
    if <int32_t>(q.called - q.first) < 0:
        q.called = q.first
    while q.called != q.behind and q.called - q.first < n:
        e = &q.at[q.called & q.room - 1]
        q.called += 1
        if e.slot != NO_TIMER:
            return e
    return NULL
