# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What one direction holds: segments queued out of order, in a list with an index over it, and those that wait for a word.

The memory of all directions of a stack is counted in one `budget_t`, with what is rounded up: single bytes cost 64.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset
from mos.tcp.index cimport (
    index_add, index_first, index_floor, index_free, index_reach, index_remove, index_t, leaf_end, leaf_off, leaf_t)
from mos.tcp.overlap cimport kept_t, relation
from mos.tcp.pool cimport pool_cost, pool_free, pool_give, pool_init, pool_t, pool_take

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    /* As memcpy, but what is written goes past the caches: it will not be read before they have forgotten it. */
    static inline void mos_copy_away(uint8_t *to, const uint8_t *from, size_t n)
    {
    #ifdef __SSE2__
        size_t head = -(uintptr_t)to & 63;
        if (n >= 256) {
            memcpy(to, from, head);
            for (to += head, from += head, n -= head; n >= 64; to += 64, from += 64, n -= 64)
                for (int i = 0; i < 64; i += 16)
                    _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
        }
    #endif
        memcpy(to, from, n);
    }
    """
    void mos_copy_away(uint8_t *to, const uint8_t *source, size_t n) nogil

cdef enum:
    INDEX_FROM = 4          # queued segments: fewer are walked through as fast as found
    GATHER = 16             # segments retained one by one; more are gathered in ever larger ones, to be few to look through
    GATHER_LEAST = 4096     # bytes of such a one, and
    GATHER_MOST = 1 << 18
    SMALL = 1024            # bytes: each KB queued is room for one segment more, up to the bound; so none of a transfer's is small
    SMALL_SHARE = 2         # of all segments so many may be small: 2,048; half as many lost bytes that real kernels took
    SMALL_LEAST = 64        # with small bounds too
    MUCH_QUEUED = 1 << 22   # bytes of all directions: they, and what comes by meanwhile, leave the caches anyway
    SWALLOW = 16            # queued segments that one may touch and leave as they are; more become one with it

cdef struct seg_t:          # queued bytes [off, off + len)
    seg_t   *next
    uint8_t *data           # they follow the struct, or stay where they came, only to be read
    uint64_t off
    uint32_t len
    uint32_t room           # bytes there is place for; 0: they stay where they came
    uint8_t  doubtful

cdef struct budget_t:       # memory of all reassembly of one stack
    uint64_t used
    uint64_t peak
    uint64_t cap
    uint64_t refused        # segments that found it exhausted
    pool_t   pool           # what it is taken from

cdef enum:
    REASM_HOT = 192         # bytes of a record that a queued segment needs

cdef struct reasm_t:
    seg_t   *head           # queue: sorted, disjoint, all above the delivered offset
    seg_t   *tail
    uint64_t bytes          # in the queue
    uint64_t offered        # highest offset ever offered to handlers: below it is redelivery
    int64_t  hole_ns        # when the present hole appeared, 0: none
    int64_t  acked_ns       # when the receiver first acknowledged past it, 0: not yet
    uint32_t segs
    uint32_t doubts         # parked
    uint32_t waits          # delivered, not yet acknowledged: only for at="acked"
    uint32_t sents
    index_t  index          # of the queue, once it has INDEX_FROM segments
    seg_t   *doubt          # parked: arrival order, may overlap
    seg_t   *doubt_tail
    uint64_t doubt_bytes
    uint64_t doubt_ends     # no parked segment ends at or below it
    seg_t   *waiting
    seg_t   *waiting_tail
    uint64_t waiting_bytes
    seg_t   *sent           # safe mode: forwarded, not yet acknowledged; in order, may have holes
    seg_t   *sent_tail
    uint64_t sent_bytes
    kept_t   kept
    uint8_t  fin_held       # safe mode: the FIN came with bytes that wait in the queue

cdef inline uint8_t *seg_data(const seg_t *s) noexcept nogil:
    return s.data

cdef inline uint64_t seg_end(const seg_t *s) noexcept nogil:
    return s.off + s.len

cdef inline uint64_t seg_cost(uint64_t n) noexcept nogil:
    """Bytes that a segment of n takes."""
    return pool_cost(sizeof(seg_t) + n)

cdef inline void budget_take(budget_t *b, uint64_t n) noexcept nogil:
    b.used += n
    if b.used > b.peak:
        b.peak = b.used

cdef inline seg_t *seg_new(budget_t *b, uint64_t off, const uint8_t *data, uint32_t n, uint8_t doubtful) noexcept nogil:
    """A copy of n bytes, or zeros if `data` is NULL. NULL: no memory, which is counted."""
    cdef uint64_t size = seg_cost(n)
    cdef seg_t *s = NULL
    if b.used + size <= b.cap:
        s = <seg_t *>pool_take(&b.pool, sizeof(seg_t) + n)
    if s == NULL:
        b.refused += 1
        return NULL
    budget_take(b, size)
    s.next = NULL
    s.data = <uint8_t *>s + sizeof(seg_t)
    s.off, s.len, s.room, s.doubtful = off, n, n, doubtful
    if data != NULL and b.used > MUCH_QUEUED:
        mos_copy_away(seg_data(s), data, n)
    elif data != NULL:
        memcpy(seg_data(s), data, n)
    return s

cdef inline seg_t *seg_queued(budget_t *b, uint64_t off, const uint8_t *data, uint32_t n, uint8_t doubtful,
                              bint lent) noexcept nogil:
    """The same for the queue. `lent`: no copy, the bytes stay where they are for as long as anybody may ask for them."""
    cdef seg_t *s
    if not lent:
        return seg_new(b, off, data, n, doubtful)
    s = seg_new(b, off, NULL, 0, doubtful)
    if s != NULL:
        s.data, s.len = <uint8_t *>data, n
    return s

cdef inline void seg_drop(budget_t *b, seg_t *s) noexcept nogil:
    b.used -= seg_cost(s.room)
    pool_give(&b.pool, s)

cdef inline void seg_curtail(budget_t *b, seg_t *s, uint32_t n) noexcept nogil:
    """Leave its first n bytes only."""
    b.used -= seg_cost(s.room) - seg_cost(n)
    s.len = s.room = n

cdef inline void seg_behead(budget_t *b, seg_t *s, uint32_t n) noexcept nogil:
    """Take the first n bytes off; some must be left."""
    b.used -= seg_cost(s.room) - seg_cost(s.len - n)
    memmove(seg_data(s), seg_data(s) + n, s.len - n)
    s.off += n
    s.len -= n
    s.room = s.len

cdef inline void budget_open(budget_t *b, uint64_t cap, bint pooled) noexcept nogil:
    """Set the bound. Not `pooled`: each object is malloc's."""
    b.cap = cap
    if pooled:
        pool_init(&b.pool, cap)

cdef inline void budget_close(budget_t *b, seg_t *s) noexcept nogil:
    """Release the list that begins with `s`, and all that was taken from the pool."""
    cdef seg_t *following
    while s != NULL:
        following = s.next
        seg_drop(b, s)
        s = following
    pool_free(&b.pool)

cdef inline reasm_t *reasm_open(reasm_t **r, budget_t *b) noexcept nogil:
    """The direction's record, made if there is none. NULL: no memory, which is counted."""
    if r == NULL:
        return NULL
    if r[0] == NULL:
        if b.used + pool_cost(sizeof(reasm_t)) > b.cap:
            b.refused += 1
            return NULL
        r[0] = <reasm_t *>pool_take(&b.pool, sizeof(reasm_t))
        if r[0] != NULL:
            memset(r[0], 0, sizeof(reasm_t))
            r[0].index.pool = &b.pool
            budget_take(b, pool_cost(sizeof(reasm_t)))
    return r[0]

cdef inline seg_t *seg_room(budget_t *b, const seg_t *s, uint32_t room) noexcept nogil:
    """A copy of `s` with room for so many bytes. NULL: no memory, or `s` is longer."""
    cdef seg_t *more
    if s.len > room or b.used + seg_cost(room) > b.cap:
        return NULL
    more = seg_new(b, s.off, NULL, room, s.doubtful)
    if more != NULL:
        memcpy(seg_data(more), seg_data(s), s.len)
        more.len = s.len
    return more

cdef inline void sent_add(reasm_t *r, budget_t *b, seg_t *s) noexcept nogil:
    """Retain `s` behind what is retained. Behind many it goes into the last one, or into a new one with room for an eighth
    of all: otherwise whoever sends single bytes that nobody acknowledges makes each look-up walk through thousands."""
    cdef seg_t *t = r.sent_tail if r.sent != NULL else NULL
    cdef seg_t *gathering = NULL
    r.sent_bytes += s.len
    if r.sents >= GATHER:
        if seg_end(t) == s.off and t.room - t.len >= s.len:
            memcpy(seg_data(t) + t.len, seg_data(s), s.len)
            t.len += s.len
            seg_drop(b, s)
            return
        gathering = seg_room(b, s, <uint32_t>min(max(r.sent_bytes // 8, GATHER_LEAST), GATHER_MOST))
    if gathering != NULL:
        seg_drop(b, s)
        s = gathering
    s.next = NULL
    if t == NULL:
        r.sent = s
    else:
        t.next = s
    r.sent_tail = s
    r.sents += 1

cdef inline uint64_t queue_growth(const reasm_t *r, uint64_t more) noexcept nogil:
    """The most that the index can grow by when `more` segments come."""
    return 0 if r.segs + more < INDEX_FROM else (1 + more) * pool_cost(sizeof(leaf_t)) + (r.index.n + more + 4) * 32

cdef inline seg_t *queue_floor(const reasm_t *r, uint64_t off) noexcept nogil:
    """A queued segment that begins at or below `off`, the last one if there is an index; NULL: begin with the head."""
    return <seg_t *>index_floor(&r.index, off) if r.index.n else NULL

cdef inline seg_t *queue_from(const reasm_t *r, uint64_t off, uint64_t end) noexcept nogil:
    """Where to look for what [off, end) overlaps; NULL: nothing does."""
    if r.index.n:
        return <seg_t *>index_first(&r.index, off, end)
    return NULL if r.tail == NULL or seg_end(r.tail) <= off else r.head

cdef inline bint queue_reach(const reasm_t *r, uint64_t off, uint64_t end, uint64_t *lo, uint64_t *hi) noexcept nogil:
    """Does something queued overlap [off, end)? `lo` and `hi`: where the first that does so begins and ends."""
    cdef uint32_t at = 0
    cdef const leaf_t *leaf
    cdef const seg_t *s = r.head
    if r.index.n:
        leaf = index_reach(&r.index, off, end, &at)
        if leaf != NULL:
            lo[0], hi[0] = leaf_off(leaf, at), leaf_end(leaf, at)
        return leaf != NULL
    if s == NULL or seg_end(r.tail) <= off:
        return False
    while seg_end(s) <= off:
        s = s.next
    lo[0], hi[0] = s.off, seg_end(s)
    return s.off < end

cdef inline seg_t *queue_before(const reasm_t *r, uint64_t off) noexcept nogil:
    """The last queued segment that begins below `off`."""
    cdef seg_t *s = r.head
    cdef seg_t *found = NULL
    if r.index.n:
        return <seg_t *>index_floor(&r.index, off - 1) if off else NULL
    while s != NULL and s.off < off:
        found, s = s, s.next
    return found

cdef inline void queue_index(reasm_t *r, budget_t *b, uint64_t before) noexcept nogil:
    """The index has changed from `before` bytes to what it has now."""
    b.used -= before
    budget_take(b, r.index.bytes)

cdef inline int queue_enter(reasm_t *r, budget_t *b, seg_t *s) noexcept nogil:
    """Enter `s`, which is in the list, into the index; build it when it is due. -1: out of memory."""
    cdef uint64_t before = r.index.bytes
    cdef int rc = 0
    if r.index.n:
        rc = index_add(&r.index, s.off, seg_end(s), s)
    elif r.segs >= INDEX_FROM:
        s = r.head
        while s != NULL and rc == 0:
            rc = index_add(&r.index, s.off, seg_end(s), s)
            s = s.next
        if rc:
            index_free(&r.index)
            rc = 0                      # slower, but right
    queue_index(r, b, before)
    return rc

cdef inline void queue_leave(reasm_t *r, budget_t *b, const seg_t *s) noexcept nogil:
    """Take `s` out of the index."""
    cdef uint64_t before = r.index.bytes
    if r.index.n:
        index_remove(&r.index, s.off)
        if r.index.n == 0:
            index_free(&r.index)
        queue_index(r, b, before)

cdef inline void queue_unlink(reasm_t *r, budget_t *b, seg_t *prev, seg_t *s) noexcept nogil:
    """Free `s`, which stands behind `prev` and is in no index any more."""
    if prev == NULL:
        r.head = s.next
    else:
        prev.next = s.next
    if r.tail == s:
        r.tail = prev
    r.bytes -= s.len
    r.segs -= 1
    seg_drop(b, s)

cdef inline int queue_link(reasm_t *r, budget_t *b, seg_t *prev, seg_t *s) noexcept nogil:
    """Put `s` behind `prev` (NULL: first). -1: out of memory, and `s` is gone."""
    s.next = r.head if prev == NULL else prev.next
    if prev == NULL:
        r.head = s
    else:
        prev.next = s
    if s.next == NULL:
        r.tail = s
    r.bytes += s.len
    r.segs += 1
    if queue_enter(r, b, s) == 0:
        return 0
    queue_unlink(r, b, prev, s)
    b.refused += 1
    return -1

cdef inline seg_t *queue_own(reasm_t *r, budget_t *b, seg_t *s) noexcept nogil:
    """A copy in place of `s`, to be written to. NULL: no memory."""
    cdef seg_t *own = seg_new(b, s.off, s.data, s.len, s.doubtful)
    cdef seg_t *prev = queue_before(r, s.off)
    if own == NULL:
        return NULL
    queue_leave(r, b, s)
    queue_unlink(r, b, prev, s)
    return own if queue_link(r, b, prev, own) == 0 else NULL

cdef inline int queue_swallow(reasm_t *r, budget_t *b, uint64_t off, const uint8_t *data, uint32_t len, uint8_t doubtful,
                              const uint8_t *wins) noexcept nogil:
    """[off, off + len) and all queued segments that it touches become one, each byte its winner's. -1: no memory.

    Otherwise whoever queues single bytes and then covers them again and again makes each cover walk through all of them.
    """
    cdef uint64_t end = off + len, lo = off, hi = end, a, z
    cdef seg_t *prev = queue_before(r, off + 1)
    cdef seg_t *one
    cdef seg_t *s
    if prev != NULL and seg_end(prev) > off:        # it reaches into the segment: the one before it is wanted
        lo = prev.off
        prev = queue_before(r, lo)
    s = r.head if prev == NULL else prev.next
    while s != NULL and s.off < end:
        hi = max(hi, seg_end(s))
        s = s.next
    one = seg_new(b, lo, NULL, <uint32_t>(hi - lo), doubtful)
    if one == NULL:
        return -1
    memcpy(seg_data(one) + (off - lo), data, len)
    s = r.head if prev == NULL else prev.next
    while s != NULL and s.off < end:
        a, z = s.off, seg_end(s)
        if wins[relation(off, end, a, z)]:
            if a < off:
                memcpy(seg_data(one), seg_data(s), off - a)
            if z > end:
                memcpy(seg_data(one) + (end - lo), seg_data(s) + (end - a), z - end)
        else:
            memcpy(seg_data(one) + (a - lo), seg_data(s), s.len)
        one.doubtful |= s.doubtful
        queue_leave(r, b, s)
        queue_unlink(r, b, prev, s)
        s = r.head if prev == NULL else prev.next
    return queue_link(r, b, prev, one)

cdef inline bint queue_invariants(const reasm_t *r, uint64_t next) noexcept nogil:
    cdef const seg_t *s = r.head
    cdef const seg_t *last = NULL
    cdef uint64_t total = 0, at = next
    cdef uint32_t n = 0, entries = 0, i
    while s != NULL:
        if s.len == 0 or s.off < at or (n == 0 and s.off <= next) or (r.index.n and index_floor(&r.index, s.off) != s):
            return False
        at = seg_end(s)
        total += s.len
        n += 1
        last = s
        s = s.next
    for i in range(r.index.n):
        entries += r.index.leaves[i].n
    return total == r.bytes and n == r.segs and last == r.tail and (entries == n or r.index.n == 0)
