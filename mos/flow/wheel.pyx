"""A hierarchical timing wheel over nanoseconds (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", 1987).

A level is a base-64 digit of absolute time. A node waits at the highest digit in which its time differs from the
clock's, in the slot of its own digit. So the earliest node is in the first busy slot of the lowest busy level; the clock
jumps there over any distance at once, and the slot's nodes move down. Nodes of equal time are always in one list: they
stay in arming order.

Beside it are queues for the most frequent of all time-outs, of flows that have closed and of new ones: each kind waits equally
long, so they come due as they were armed. Their nodes lie in memory that has gone cold meanwhile; a list through them would be
followed a cache miss after the other, entries in a row can be looked at ahead of time. Who is disarmed there touches no other.
"""
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from mos.flow.flow cimport FLOW_BYTES, timer_node_t
from mos.flow.slab cimport slab_at, slab_free, slab_init, slab_take
from mos.net.packet cimport prefetch_lines

cdef extern from *:
    int __builtin_clzll(unsigned long long x) nogil
    int __builtin_ctzll(unsigned long long x) nogil


cdef enum:
    QUEUE_FIRST = 1024      # entries of 16 bytes; doubles as it fills
    FIRST_QUEUED = 1 << 17  # new flows; beyond, the wheel serves: an idle one shall not take 16 bytes more for its first time-out


cdef inline timer_node_t *node_at(wheel_t *w, uint32_t number) noexcept nogil:
    return &w.slot[number & ~<uint32_t>HEAD] if number & HEAD else wheel_node(w, number - 1)


cdef void append(wheel_t *w, uint32_t before, uint32_t number) noexcept nogil:
    """Link the node `number` in before another, or before a head: as the last of its list."""
    cdef timer_node_t *at = node_at(w, before)
    cdef timer_node_t *n = node_at(w, number)
    n.next = before
    n.prev = at.prev
    node_at(w, at.prev).next = number
    at.prev = number


cdef void place(wheel_t *w, uint32_t number) noexcept nogil:
    """Put a node where it belongs by its time and the clock."""
    cdef int64_t when = node_at(w, number).when
    cdef uint32_t at = HEAD | PAST
    cdef int level
    cdef uint64_t digit
    if when < w.clock:      # few: of flows those due soonest, else what one handler arms for a time gone by
        while node_at(w, at).prev != <uint32_t>(HEAD | PAST) and node_at(w, node_at(w, at).prev).when > when:
            at = node_at(w, at).prev
        append(w, at, number)
        return
    level = (63 - __builtin_clzll(<uint64_t>(when ^ w.clock) | 1)) // DIGIT_BITS
    digit = (<uint64_t>when >> (DIGIT_BITS * level)) & (SLOTS - 1)
    w.levels |= 1 << level
    w.busy[level] |= <uint64_t>1 << digit
    append(w, HEAD | <uint32_t>(level * SLOTS + digit), number)


cdef void wheel_cancel(wheel_t *w, uint32_t slot) noexcept nogil:
    """Disarm the node of the object in `slot`; harmless if it is not armed."""
    cdef timer_node_t *n = wheel_node(w, slot)
    cdef uint32_t at = n.next & ~<uint32_t>HEAD
    cdef queue_t *q
    if n.prev == 0:
        return
    w.armed -= 1
    if w.armed == 0:
        w.next_due = w.listed_due = INT64_MAX
    if n.prev & ~<uint32_t>3 == QUEUED:
        q = &w.queues[n.prev & 3]
        q.at[n.next & q.room - 1].slot = NO_TIMER
        q.live -= 1
        n.prev = 0
        n.when = 0
        return
    node_at(w, n.prev).next = n.next
    node_at(w, n.next).prev = n.prev
    if n.next == n.prev and at != PAST:     # alone in its slot
        w.busy[at // SLOTS] &= ~(<uint64_t>1 << (at % SLOTS))
        if not w.busy[at // SLOTS]:
            w.levels &= ~(1 << (at // SLOTS))
    n.next = n.prev = 0
    n.when = 0


cdef inline timer_node_t *rearm(wheel_t *w, uint32_t slot, int64_t when) noexcept nogil:
    cdef timer_node_t *n = wheel_node(w, slot)
    if n.prev:
        wheel_cancel(w, slot)
    n.when = when
    w.order += 1
    w.armed += 1
    if w.armed > w.peak:
        w.peak = w.armed
    if when < w.next_due:
        w.next_due = when
    return n


cdef void wheel_arm(wheel_t *w, uint32_t slot, int64_t when) noexcept nogil:
    """The node of the object in `slot` becomes due at `when` (ns). One that is armed moves. A time gone by is due at the next
    expire."""
    rearm(w, slot, when)
    w.listed_due = min(w.listed_due, when)
    place(w, slot + 1)


cdef inline bint void_entry(const queue_t *q) noexcept nogil:
    """Has whoever the first entry of the queue, which is not empty, is about been disarmed, or armed anew?"""
    return q.at[q.first & q.room - 1].slot == NO_TIMER


cdef void queue_skip(queue_t *q) noexcept nogil:
    """Void entries at the front go: of a flood those before the first that was not evicted."""
    while q.behind != q.first and void_entry(q):
        q.first += 1


cdef void queue_yield(wheel_t *w, queue_t *q) noexcept nogil:
    """Those before the first void entry wait on in the wheel. Of a flood: the few who were there before, and are not evicted."""
    cdef due_t *e
    cdef uint32_t slot
    while not void_entry(q):
        e = &q.at[q.first & q.room - 1]
        slot, e.slot = e.slot, NO_TIMER
        q.first += 1
        q.live -= 1
        w.listed_due = min(w.listed_due, e.when)
        place(w, slot + 1)
    queue_skip(q)


cdef bint queue_room(wheel_t *w, int which) noexcept nogil:
    """Is there room for one more? As many as there are objects have it; more means that most are void."""
    cdef queue_t *q = &w.queues[which]
    cdef uint32_t room = q.room * 2 if q.room else QUEUE_FIRST, i, n
    cdef due_t *p
    if q.behind - q.first < q.room:
        return True
    queue_skip(q)
    if q.behind - q.first < q.room:
        return True
    if q.room >= w.of.limit or (which != QUEUE_CLOSED and q.room >= FIRST_QUEUED):
        if q.live > q.room // 2:
            return False
        queue_yield(w, q)
        return True
    p = <due_t *>realloc(q.at, room * sizeof(due_t))
    if p == NULL:
        return False
    for n in range(q.room):     # all of the ring, which is full, to where it belongs in one twice as long
        i = q.first + n
        p[i & room - 1] = p[i & q.room - 1]
    q.at, q.room = p, room
    return True


cdef void wheel_queue(wheel_t *w, uint32_t slot, int64_t when, uint32_t tag, int which) noexcept nogil:
    """As wheel_arm, for time-outs which come in order. Of several due at one time, those armed so come first.

    `tag` is told when it comes due, if it could be queued. `which`: QUEUE_*, of those who wait as long.
    """
    cdef queue_t *q = &w.queues[which]
    cdef timer_node_t *n
    cdef due_t *e
    if (q.behind != q.first and when < q.last) or when < w.seen or not queue_room(w, which):
        wheel_arm(w, slot, when)
        return
    n = rearm(w, slot, when)
    n.prev, n.next = <uint32_t>(QUEUED + which), q.behind
    e = &q.at[q.behind & q.room - 1]
    e.when, e.slot, e.tag = when, slot, tag
    q.behind += 1
    q.live += 1
    q.last = when


cdef inline int64_t queue_head(const wheel_t *w, queue_t *q) noexcept nogil:
    """When the queue's first is due, INT64_MAX: there is none. Void entries that are due by now go."""
    cdef int64_t when
    while q.first != q.behind:
        when = q.at[q.first & q.room - 1].when
        if when > w.seen or not void_entry(q):
            return when
        q.first += 1
    return INT64_MAX


cdef void wheel_start(wheel_t *w, int64_t now) noexcept nogil:
    """Set the clock before the first timer is armed; spares the first expire some moves, results are the same."""
    if w.armed == 0 and now > w.clock:
        w.clock = w.seen = now


cdef enum:
    SOON = 3                # levels: what is due within 0.3 ms of flows, is called for before it is looked at
    FEW = 16                # so many at most are put in order at once: sorting them costs no more than two levels of moving


cdef bint few(wheel_t *w, uint32_t head) noexcept nogil:
    """Does the list hold no more nodes than can be put in order at once?"""
    cdef uint32_t number = node_at(w, head).next
    cdef int n = 0
    while number != head and n <= FEW:
        n += 1
        prefetch_lines(<const char *>slab_at(w.of, number - 1), FLOW_BYTES)
        number = node_at(w, number).next
    return n <= FEW


cdef bint in_order(wheel_t *w, uint32_t head) noexcept nogil:
    """Is each node of the list due no earlier than the one before?"""
    cdef uint32_t number = node_at(w, head).next
    cdef int64_t before = 0
    while number != head and node_at(w, number).when >= before:
        before = node_at(w, number).when
        number = node_at(w, number).next
    return number == head


cdef void cascade(wheel_t *w, int level, int digit) noexcept nogil:
    """The clock has reached this slot: its nodes move to lower levels.

    With `sorts`, those of a slot that is due as a whole and stands in order (who waits equally long does), or few that are due
    soon, come to stand before the clock at once: memory that nobody has touched for long is touched once and not at each level.
    """
    cdef uint32_t head = HEAD | <uint32_t>(level * SLOTS + digit)
    cdef uint32_t number = node_at(w, head).next
    cdef uint32_t after
    cdef int64_t last = w.clock + (<int64_t>1 << (DIGIT_BITS * level)) - 1     # in the next slot others may wait
    if w.sorts and ((last <= w.seen and in_order(w, head)) or (level <= SOON and few(w, head))):
        w.clock = last
    node_at(w, head).next = node_at(w, head).prev = head
    w.busy[level] &= w.busy[level] - 1
    if not w.busy[level]:
        w.levels &= ~(1 << level)
    while number != head:
        after = node_at(w, number).next
        place(w, number)
        number = after


cdef uint32_t fire(wheel_t *w, uint32_t slot) noexcept nogil:
    cdef int64_t when = wheel_node(w, slot).when
    wheel_cancel(w, slot)
    wheel_node(w, slot).when = when
    w.came = NULL
    w.fired += 1
    return slot


cdef uint32_t fire_queued(wheel_t *w, int which) noexcept nogil:
    """The queue's first, which is armed. It keeps `when`, as `fire` has it."""
    cdef queue_t *q = &w.queues[which]
    cdef const due_t *e = &q.at[q.first & q.room - 1]
    q.first += 1
    q.live -= 1
    w.turn = <uint8_t>which
    w.came = e
    w.fired += 1
    w.armed -= 1
    if w.armed == 0:
        w.listed_due = INT64_MAX
    wheel_node(w, e.slot).prev = 0
    return e.slot


cdef uint32_t fire_listed(wheel_t *w, int64_t now, int64_t queued) noexcept nogil:
    """The first that is not in the queue, if it is due at `now` and before `queued`; NO_TIMER: none is."""
    cdef int level, digit
    cdef int64_t start = INT64_MAX
    cdef uint32_t first = w.slot[PAST].next
    while first == <uint32_t>(HEAD | PAST) and w.levels:
        level = __builtin_ctzll(w.levels)
        digit = __builtin_ctzll(w.busy[level])
        start = ((w.clock >> (DIGIT_BITS * level)) & ~<int64_t>(SLOTS - 1) | digit) << (DIGIT_BITS * level)
        if start > now or start >= queued:
            break
        w.clock = start
        if level == 0:
            return fire(w, w.slot[digit].next - 1)
        cascade(w, level, digit)
        start = INT64_MAX
        first = w.slot[PAST].next
    if first != <uint32_t>(HEAD | PAST):
        start = node_at(w, first).when
        if start <= now and start < queued:
            return fire(w, first - 1)
    elif queued > now:
        w.clock = max(w.clock, now)
    w.listed_due = start
    return NO_TIMER


cdef uint32_t wheel_expire(wheel_t *w, int64_t now) noexcept nogil:
    """The slot of the next object due at `now`, earliest first, then by queue, then in arming order; NO_TIMER: no more.

    The object is disarmed but keeps `when`, so that a period can be added. Call until NO_TIMER. Between calls any node may be
    armed or cancelled; one armed for `now` or before fires in this loop. Nothing is missed if it is called only if wheel_due says
    so. Time going back is ignored.
    """
    cdef int64_t queued = INT64_MAX
    cdef int64_t heads[QUEUES]
    cdef uint32_t slot
    cdef int which = QUEUE_CLOSED, i
    if now < w.seen:
        now = w.seen
    w.seen = now
    for i in range(QUEUES):
        heads[i] = queue_head(w, &w.queues[i])
        if heads[i] < queued:
            queued, which = heads[i], i
    if w.listed_due <= now and w.listed_due < queued:
        slot = fire_listed(w, now, queued)
        if slot != NO_TIMER:
            return slot
    if queued <= now and w.queues[which].first != w.queues[which].behind:
        slot = fire_queued(w, which)
        heads[which] = queue_head(w, &w.queues[which])
        w.next_due = min(w.listed_due, heads[0], heads[1], heads[2])
        return slot
    w.next_due = min(w.listed_due, queued)
    return NO_TIMER


cdef uint32_t known(Wheel wheel, uint32_t handle) except NO_TIMER:
    if handle >= wheel.n_nodes:
        raise IndexError(handle)
    return handle


cdef class Wheel:
    """Timers by packet time. C code works on `c`; Python sees counters and, for tests, `_nodes` timers by number."""

    def __cinit__(self, *, _nodes=0, _sorts=False):
        cdef uint32_t i, slot, _
        self.c = <wheel_t *>calloc(1, sizeof(wheel_t))
        if self.c == NULL or (_nodes and slab_init(&self.nodes, sizeof(timer_node_t), _nodes, 1, 0, 0) < 0):
            raise MemoryError
        for _ in range(_nodes):
            slab_take(&self.nodes, &slot)
        self.n_nodes = _nodes
        self.c.of = &self.nodes
        self.c.sorts = _sorts
        self.c.next_due = self.c.listed_due = INT64_MAX
        for i in range(PAST + 1):
            self.c.slot[i].next = self.c.slot[i].prev = HEAD | i

    def __dealloc__(self):
        cdef int i
        if self.c != NULL:
            for i in range(QUEUES):
                free(self.c.queues[i].at)
        free(self.c)
        slab_free(&self.nodes)

    def counters(self):
        """armed and peak: timers now and most at a time. started: armings ever. fired: expiries ever.
        queue: entries its queues have memory for, 16 bytes each."""
        return {"armed": self.c.armed, "peak": self.c.peak, "started": self.c.order, "fired": self.c.fired,
                "queue": sum([self.c.queues[i].room for i in range(QUEUES)])}

    # For tests: timers are named by number.
    def _start(self, now):
        wheel_start(self.c, now)

    def _arm(self, handle, when):
        wheel_arm(self.c, known(self, handle), when)

    def _queue(self, handle, when, which=0):
        wheel_queue(self.c, known(self, handle), when, handle, which)

    def _tag(self, handle):
        """What it was queued with; None: it is in no queue."""
        cdef uint32_t tag = 0
        return tag if wheel_tag(self.c, known(self, handle), &tag) else None

    def _cancel(self, handle):
        wheel_cancel(self.c, known(self, handle))

    def _armed(self, handle):
        return wheel_armed(wheel_node(self.c, known(self, handle)))

    def _due(self, now):
        return wheel_due(self.c, now)

    def _expire(self, now):
        """Number of the next timer due, or None."""
        cdef uint32_t slot = wheel_expire(self.c, now)
        assert slot == NO_TIMER or self.c.came == NULL or self.c.came.tag == slot
        return None if slot == NO_TIMER else slot
