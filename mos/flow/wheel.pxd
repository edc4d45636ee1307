# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Timers over packet time: arm and cancel in O(1), expiry in the order of times, then of arming."""
from libc.stdint cimport INT64_MAX, int64_t, uint16_t, uint32_t, uint64_t
from mos.flow.flow cimport timer_node_t

cdef enum:
    DIGIT_BITS = 6          # 64 slots a level: one word tells which are occupied
    SLOTS = 64
    LEVELS = 11             # digits of a 63-bit time, so that the lowest slot is one nanosecond and needs no sorting

cdef struct wheel_t:
    int64_t  clock          # every node in `slot` has when >= clock, those in `past` have when < clock
    int64_t  next_due       # nothing is due before this; INT64_MAX: nothing armed
    uint64_t order          # armings ever
    uint64_t fired
    uint32_t armed          # nodes; they belong to flows and stacks, whose bounds are theirs
    uint32_t peak
    uint16_t levels         # bit l: level l has nodes
    uint64_t busy[11]       # bit s of busy[l]: slot s of level l has nodes
    timer_node_t past       # head of the list of nodes armed for a time gone by, sorted
    timer_node_t slot[704]  # LEVELS * SLOTS list heads; in slot s of level l, digit l is s and the clock's is not

cdef class Wheel:
    cdef wheel_t *c
    cdef timer_node_t *nodes    # for tests
    cdef uint32_t n_nodes

cdef void wheel_start(wheel_t *w, int64_t now) noexcept nogil
cdef void wheel_arm(wheel_t *w, timer_node_t *n, int64_t when) noexcept nogil
cdef void wheel_cancel(wheel_t *w, timer_node_t *n) noexcept nogil
cdef timer_node_t *wheel_expire(wheel_t *w, int64_t now) noexcept nogil

cdef inline bint wheel_armed(const timer_node_t *n) noexcept nogil:
    return n.prev != NULL

cdef inline bint wheel_due(const wheel_t *w, int64_t now) noexcept nogil:
    """Is it worth calling wheel_expire? One compare; never wrongly no."""
    return now >= w.next_due
