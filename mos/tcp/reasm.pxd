# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One direction's bytes: what is queued out of order, parked as doubtful, retained. Numbers and pointers in, a plan out.

`probe` says what a segment would deliver and changes nothing; `commit` makes it so. Dropping a packet is not committing.
Offsets are 64-bit stream offsets; the caller converts sequence numbers. Nothing here knows flows or events.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from mos.tcp.overlap cimport conflicts_t
from mos.tcp.pool cimport GRAIN, pool_cost
from mos.tcp.queue cimport (
    SMALL, SMALL_LEAST, SMALL_SHARE, budget_t, queue_before, queue_floor, queue_growth, queue_link, reasm_open, reasm_t, seg_cost,
    seg_queued, seg_t)

cdef struct limits_t:       # per direction
    uint64_t bytes          # queued out of order
    uint32_t segs           # queued segments
    uint32_t doubt_bytes    # parked as doubtful
    uint32_t doubts         # segments of them
    uint32_t keep           # delivered bytes retained for comparison, 0: none
    uint64_t sent           # safe mode: forwarded bytes retained until they are acknowledged

cdef struct piece_t:        # bytes to deliver, contiguous with the piece before
    uint64_t off
    const uint8_t *data
    const uint8_t *shown    # what the receiver gets: other bytes, if a handler has replaced them
    uint32_t len
    uint8_t  doubtful
    uint8_t  is_new         # out of the segment at hand, not the queue

cdef enum:
    RELATION_COUNT = 9      # how a segment may lie to another (tcp.overlap)

cdef uint8_t[16 * RELATION_COUNT] new_wins      # by policy and relation: is it the later one's bytes that count?

cdef enum:                  # plan_t.over: which bound the segment would break
    OVER_BYTES = 1          # the direction's bytes
    OVER_SEGS = 2           # its segments
    OVER_BUDGET = 3         # the memory of all directions together

cdef struct plan_t:
    uint64_t next           # delivered offset before
    uint64_t to             # delivered offset after commit
    uint64_t off            # the segment, trimmed to what lies at or above `next`
    uint32_t len
    const uint8_t *data
    uint32_t dup            # bytes of the whole segment that were delivered or queued before
    uint32_t touched        # queued segments that it overlaps
    uint8_t  policy
    uint8_t  over           # OVER_*: it would not fit, commit refuses it
    uint8_t  doubtful
    uint8_t  lent           # `data` stays where it is: what is queued of it is no copy
    uint8_t  compare        # 1: tell where bytes differ from what was there; set before the probe
    uint32_t n
    uint32_t cap
    piece_t *pieces
    conflicts_t conflicts

cdef inline int excess(const reasm_t *r, const limits_t *lim, const budget_t *b, uint64_t fresh, uint64_t runs) noexcept nogil:
    """Which bound would `fresh` bytes in `runs` new queue segments break? OVER_*, 0: none."""
    cdef uint64_t need = fresh + runs * seg_cost(GRAIN - 1) + (queue_growth(r, runs) if r != NULL else pool_cost(sizeof(reasm_t)))
    if runs == 0:
        return 0
    if fresh > lim.bytes or (r != NULL and r.bytes + fresh > lim.bytes):
        return OVER_BYTES
    if r != NULL and (r.segs + runs > lim.segs
                      or r.segs + runs > max(lim.segs // SMALL_SHARE, SMALL_LEAST) + (r.bytes + fresh) // SMALL):
        return OVER_SEGS
    return OVER_BUDGET if b.used + need > b.cap else 0

cdef inline int reasm_add(reasm_t **r, budget_t *b, uint64_t off, const uint8_t *data, uint32_t len, bint lent,
                          bint last, int64_t now) noexcept nogil:
    """Queue a segment that overlaps no other, for which `excess` found room: what a probe and commit of it come to. `last`:
    behind all others. -1: no memory."""
    cdef reasm_t *q = reasm_open(r, b)
    cdef seg_t *prev
    cdef seg_t *s
    if q == NULL:
        return -1
    if q.head == NULL:
        q.hole_ns = now
    s = seg_queued(b, off, data, len, 0, lent)
    if s == NULL:
        return -1
    prev = q.tail if last else queue_floor(q, off) if q.index.n else queue_before(q, off)     # of many, the one before is cold
    return queue_link(q, b, prev, s)

cdef reasm_t *reasm_offered(reasm_t **r, budget_t *b, uint64_t to) noexcept nogil
cdef void plan_init(plan_t *p) noexcept nogil
cdef void plan_free(plan_t *p) noexcept nogil
cdef void reasm_probe(const reasm_t *r, plan_t *p, const limits_t *lim, const budget_t *b, uint64_t next, uint64_t off,
                      const uint8_t *data, uint32_t len, uint8_t policy) noexcept nogil
cdef void reasm_probe_again(const reasm_t *r, plan_t *p, const limits_t *lim, const budget_t *b, uint64_t next, uint64_t off,
                            const uint8_t *data, uint32_t len, uint8_t policy) noexcept nogil
cdef int reasm_commit(reasm_t **r, plan_t *p, budget_t *b, int64_t now) noexcept nogil
cdef void reasm_ready(const reasm_t *r, plan_t *p, uint64_t next) noexcept nogil
cdef int reasm_park(reasm_t **r, const limits_t *lim, budget_t *b, uint64_t off, const uint8_t *data, uint32_t len) noexcept nogil
cdef bint reasm_parked(const reasm_t *r, uint64_t to) noexcept nogil
cdef int reasm_adopt(reasm_t *r, const limits_t *lim, budget_t *b, uint64_t next, uint64_t lo, uint64_t hi) noexcept nogil
cdef uint64_t reasm_hole(const reasm_t *r, uint64_t next) noexcept nogil
cdef int reasm_keep(reasm_t **r, const limits_t *lim, budget_t *b, const uint8_t *data, uint32_t len, uint64_t end) noexcept nogil
cdef void reasm_skip(reasm_t *r, budget_t *b, uint64_t next) noexcept nogil
cdef void reasm_free(reasm_t **r, budget_t *b) noexcept nogil
cdef bint reasm_invariants(const reasm_t *r, uint64_t next) noexcept nogil
