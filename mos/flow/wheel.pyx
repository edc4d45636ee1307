"""A hierarchical timing wheel over nanoseconds (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987).

A level is a base-64 digit of absolute time. A node waits at the highest digit in which its time differs from the
clock's, in the slot of its own digit. So the earliest node is in the first busy slot of the lowest busy level; the clock
jumps there over any distance at once, and the slot's nodes move down. Nodes of equal time are always in one list: they
stay in arming order.
"""
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from mos.flow.flow cimport timer_node_t

cdef extern from *:
    int __builtin_clzll(unsigned long long x) nogil
    int __builtin_ctzll(unsigned long long x) nogil


cdef void append(timer_node_t *head, timer_node_t *n) noexcept nogil:
    n.next = head
    n.prev = head.prev
    head.prev.next = n
    head.prev = n


cdef void place(wheel_t *w, timer_node_t *n) noexcept nogil:
    """Put `n` where it belongs by its time and the clock."""
    cdef timer_node_t *at = w.past.prev
    cdef int level
    cdef uint64_t digit
    if n.when < w.clock:    # rare and few: what one handler arms for a time gone by
        while at != &w.past and at.when > n.when:
            at = at.prev
        append(at.next, n)
        return
    level = (63 - __builtin_clzll(<uint64_t>(n.when ^ w.clock) | 1)) // DIGIT_BITS
    digit = (<uint64_t>n.when >> (DIGIT_BITS * level)) & (SLOTS - 1)
    w.levels |= 1 << level
    w.busy[level] |= <uint64_t>1 << digit
    append(&w.slot[level * SLOTS + digit], n)


cdef void wheel_cancel(wheel_t *w, timer_node_t *n) noexcept nogil:
    """Disarm `n`; harmless if it is not armed."""
    cdef timer_node_t *head = n.next
    cdef size_t at
    if n.prev == NULL:
        return
    n.prev.next = n.next
    n.next.prev = n.prev
    if head == n.prev and head != &w.past:      # alone in its slot
        at = head - &w.slot[0]
        w.busy[at // SLOTS] &= ~(<uint64_t>1 << (at % SLOTS))
        if not w.busy[at // SLOTS]:
            w.levels &= ~(1 << (at // SLOTS))
    n.next = n.prev = NULL
    n.when = 0
    w.armed -= 1
    if w.armed == 0:
        w.next_due = INT64_MAX


cdef void wheel_arm(wheel_t *w, timer_node_t *n, int64_t when) noexcept nogil:
    """`n` becomes due at `when` (ns). A node that is armed moves. A time gone by is due at the next expire."""
    wheel_cancel(w, n)
    n.when = when
    w.order += 1
    w.armed += 1
    if w.armed > w.peak:
        w.peak = w.armed
    if when < w.next_due:
        w.next_due = when
    place(w, n)


cdef void wheel_start(wheel_t *w, int64_t now) noexcept nogil:
    """Set the clock before the first timer is armed; spares the first expire some moves, results are the same."""
    if w.armed == 0 and now > w.clock:
        w.clock = now


cdef void cascade(wheel_t *w, int level, int digit) noexcept nogil:
    """The clock has reached this slot: its nodes move to lower levels."""
    cdef timer_node_t *head = &w.slot[level * SLOTS + digit]
    cdef timer_node_t *n = head.next
    cdef timer_node_t *after
    head.next = head.prev = head
    w.busy[level] &= w.busy[level] - 1
    if not w.busy[level]:
        w.levels &= ~(1 << level)
    while n != head:
        after = n.next
        place(w, n)
        n = after


cdef timer_node_t *fire(wheel_t *w, timer_node_t *n) noexcept nogil:
    cdef int64_t when = n.when
    wheel_cancel(w, n)
    n.when = when
    w.fired += 1
    return n


cdef timer_node_t *wheel_expire(wheel_t *w, int64_t now) noexcept nogil:
    """The next node due at `now`, earliest first, then in arming order; NULL: no more. Time going back is ignored.

    It is disarmed but keeps `when`, so that a period can be added. Call until NULL. Between calls any node may be armed
    or cancelled; one armed for `now` or before fires in this loop.
    """
    cdef int level, digit
    cdef int64_t start
    if now < w.clock:
        now = w.clock
    if w.past.next != &w.past:
        return fire(w, w.past.next)
    while w.levels:
        level = __builtin_ctzll(w.levels)
        digit = __builtin_ctzll(w.busy[level])
        start = ((w.clock >> (DIGIT_BITS * level)) & ~<int64_t>(SLOTS - 1) | digit) << (DIGIT_BITS * level)
        if start > now:
            w.next_due = start
            w.clock = now
            return NULL
        w.clock = start
        if level == 0:
            return fire(w, w.slot[digit].next)
        cascade(w, level, digit)
    w.clock = now
    return NULL


cdef timer_node_t *node_of(Wheel wheel, uint32_t handle) except NULL:
    if handle >= wheel.n_nodes:
        raise IndexError(handle)
    return &wheel.nodes[handle]


cdef class Wheel:
    """Timers by packet time. C code works on `c`; Python sees counters and, for tests, `_nodes` timers by number."""

    def __cinit__(self, *, _nodes=0):
        cdef timer_node_t *head
        cdef int i
        self.c = <wheel_t *>calloc(1, sizeof(wheel_t))
        self.nodes = <timer_node_t *>calloc(max(_nodes, 1), sizeof(timer_node_t))
        self.n_nodes = _nodes
        if self.c == NULL or self.nodes == NULL:
            raise MemoryError
        self.c.next_due = INT64_MAX
        self.c.past.next = self.c.past.prev = &self.c.past
        for i in range(LEVELS * SLOTS):
            head = &self.c.slot[i]
            head.next = head.prev = head

    def __dealloc__(self):
        free(self.c)
        free(self.nodes)

    def counters(self):
        """armed and peak: timers now and most at a time. started: armings ever. fired: expiries ever."""
        return {"armed": self.c.armed, "peak": self.c.peak, "started": self.c.order, "fired": self.c.fired}

    # For tests: timers are named by number.
    def _start(self, now):
        wheel_start(self.c, now)

    def _arm(self, handle, when):
        wheel_arm(self.c, node_of(self, handle), when)

    def _cancel(self, handle):
        wheel_cancel(self.c, node_of(self, handle))

    def _armed(self, handle):
        return wheel_armed(node_of(self, handle))

    def _due(self, now):
        return wheel_due(self.c, now)

    def _expire(self, now):
        """Number of the next timer due, or None."""
        cdef timer_node_t *n = wheel_expire(self.c, now)
        return None if n == NULL else n - self.nodes
