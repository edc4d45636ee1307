# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""All flows in the order of their last packets, without memory for all at once: a span of time after the other."""
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memset
from mos.flow.flow cimport FLOW_BYTES, flow_cold, flow_t
from mos.flow.table cimport flow_in, table_hash, table_prefetch, table_remember, table_slot, table_t
from mos.net.packet cimport prefetch, prefetch_lines

cdef enum:
    SPANS = 4096
    TOGETHER = 1 << 18      # flows put in order at a time: the end of a run shall not take memory that the run did not
    SOON_GONE = 8           # where one is listed is called for so many ends ahead; a power of two

cdef struct aged_t:
    int64_t last_ns
    flow_t *flow

cdef struct ages_t:         # all flows in the order of their last packets, a span of time after the other
    int64_t first           # the time of the first
    int64_t width           # ns in a span
    uint32_t at             # spans before it are done,
    uint32_t gathered       # those before it are in `slots`
    uint32_t *slots
    uint64_t hashes[8]      # SOON_GONE: of those that end next, by their place modulo that
    aged_t *flows           # those of the span in hand
    uint32_t spans[SPANS]   # flows in each
    uint32_t ends[SPANS]    # where they end in `slots`

cdef inline int older(const void *a, const void *b) noexcept nogil:
    cdef const aged_t *x = <const aged_t *>a
    cdef const aged_t *y = <const aged_t *>b
    if x.last_ns != y.last_ns:
        return 1 if x.last_ns > y.last_ns else -1
    return 1 if flow_cold(x.flow).id > flow_cold(y.flow).id else -1

cdef inline int ages_begin(ages_t *a, const table_t *t) noexcept nogil:
    """Begin to go through all flows, the one idle for longest first. In between flows may go, but none may come or speak.

    -1: no memory. `ages_end` in any case.
    """
    cdef int64_t first = INT64_MAX, last = 0
    cdef uint32_t slot, most = 1, i
    cdef flow_t *f
    memset(a, 0, sizeof(ages_t))
    for slot in range(t.flows.fresh):
        f = flow_in(t, slot)
        if f != NULL:
            first, last = min(first, f.last_ns), max(last, f.last_ns)
    a.first = min(first, last)      # without flows, too, the ends of all spans fit
    a.width = (last - a.first) // SPANS + 1
    for slot in range(t.flows.fresh):
        f = flow_in(t, slot)
        if f != NULL:
            a.spans[(f.last_ns - a.first) // a.width] += 1
    for i in range(SPANS):
        most = max(most, a.spans[i])
    a.slots = <uint32_t *>malloc(<size_t>max(most, <uint32_t>TOGETHER) * sizeof(uint32_t))
    a.flows = <aged_t *>malloc(<size_t>most * sizeof(aged_t))
    return -1 if a.slots == NULL or a.flows == NULL else 0

cdef inline void gather(ages_t *a, const table_t *t) noexcept nogil:
    """Sort the flows of the spans that come next, as many as there is room for, by span."""
    cdef int64_t begin = a.first + a.at * a.width, end
    cdef uint32_t slot, n = 0, span
    cdef flow_t *f
    while a.gathered < SPANS and (n == 0 or n + a.spans[a.gathered] <= TOGETHER):
        a.ends[a.gathered] = n
        n += a.spans[a.gathered]
        a.gathered += 1
    end = a.first + a.gathered * a.width
    for slot in range(t.flows.fresh):
        f = flow_in(t, slot)
        if f != NULL and begin <= f.last_ns < end:
            span = <uint32_t>((f.last_ns - a.first) // a.width)
            a.slots[a.ends[span]] = slot
            a.ends[span] += 1

cdef inline uint32_t ages_next(ages_t *a, const table_t *t) noexcept nogil:
    """How many flows are in `a.flows` now, in order: those of the next span. 0: there are no more."""
    cdef uint32_t i, n = 0
    cdef flow_t *f
    while n == 0 and a.at < SPANS:
        if a.at == a.gathered:
            gather(a, t)
        for i in range(a.ends[a.at] - a.spans[a.at], a.ends[a.at]):
            f = flow_in(t, a.slots[i])
            if f != NULL:
                a.flows[n].last_ns, a.flows[n].flow = f.last_ns, f
                n += 1
        a.at += 1
    qsort(a.flows, n, sizeof(aged_t), older)
    return n

cdef inline void ages_end(ages_t *a) noexcept nogil:
    free(a.slots)
    free(a.flows)

cdef inline void ages_prefetch(ages_t *a, table_t *t, uint32_t i, uint32_t n) noexcept nogil:
    """The flow `i` of n is about to end: start to load what the ends of those after it will need."""
    cdef const flow_t *f
    if i + 2 * SOON_GONE < n:
        f = a.flows[i + 2 * SOON_GONE].flow
        prefetch_lines(<const char *>f, FLOW_BYTES)
        prefetch(flow_cold(f))
    if i >= SOON_GONE:
        table_remember(t, table_slot(t, a.flows[i].flow), a.hashes[i & (SOON_GONE - 1)])
    if i + SOON_GONE < n:
        a.hashes[i & (SOON_GONE - 1)] = table_hash(t, &a.flows[i + SOON_GONE].flow.key)
        table_prefetch(t, a.hashes[i & (SOON_GONE - 1)])
