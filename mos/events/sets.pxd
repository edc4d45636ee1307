# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Handler sets as tables of rows, and one made out of another: what an attack may cause as often as it sends a packet."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from mos.events.kinds cimport NKINDS

cdef extern from *:
    """
    #define mos_lowest(x) ((unsigned)__builtin_ctzll(x))
    """
    uint32_t lowest "mos_lowest" (uint64_t x) nogil     # number of the lowest bit that is set; there is one

cdef enum:
    MOMENTS = 3
    ROWS = MOMENTS * 19 * 2

cdef struct set_t:          # an interned set of attached handlers, in walking order per kind and direction: a cache line
    uint64_t mask           # kinds with a handler, at any moment
    uint64_t rows[2]        # bit per row (at, kind, direction) that has handlers
    uint32_t *apart         # where each of these rows ends, then the handlers of all of them; NULL: they are in `packed`
    uint8_t  packed[32]     # the same in bytes, and the handlers at an even place

cdef struct row_t:          # handlers in walking order
    const uint16_t *order
    uint32_t n

cdef struct place_t:        # where a handler stands
    uint32_t rank[2]        # in a row to the client, to the server
    uint64_t rows[2]        # bit per row that it is in
    uint16_t position       # of its NF

cdef struct draft_t:        # a set that is being made, row by row
    uint32_t ends[ROWS]
    uint32_t nrows
    uint32_t n
    uint16_t *order         # room for every handler in every row that it is in

cdef inline uint32_t ones(uint64_t x) noexcept nogil:
    x -= x >> 1 & <uint64_t>0x5555555555555555
    x = (x & <uint64_t>0x3333333333333333) + (x >> 2 & <uint64_t>0x3333333333333333)
    return <uint32_t>(((x + (x >> 4)) & <uint64_t>0x0f0f0f0f0f0f0f0f) * <uint64_t>0x0101010101010101 >> 56)

cdef inline uint32_t rows_in(const uint64_t *rows) noexcept nogil:
    return ones(rows[0]) + ones(rows[1])

cdef inline bint in_row(const uint64_t *rows, uint32_t row) noexcept nogil:
    return rows[row >> 6] >> (row & 63) & 1

cdef inline const uint16_t *set_order(const set_t *s) noexcept nogil:
    """The handlers of all rows, one after the other."""
    cdef uint32_t n = rows_in(s.rows)
    return <const uint16_t *>(s.apart + n) if s.apart != NULL else <const uint16_t *>(s.packed + (n + 1 & ~<uint32_t>1))

cdef inline const uint16_t *set_row(const set_t *s, uint32_t row, uint32_t *n) noexcept nogil:
    """The `n` handlers of a row, in walking order."""
    cdef uint32_t before, first
    n[0] = 0
    if not in_row(s.rows, row):
        return NULL
    before = ones(s.rows[row >> 6] & ((<uint64_t>1 << (row & 63)) - 1))
    if row >= 64:
        before += ones(s.rows[0])
    if s.apart != NULL:
        first = s.apart[before - 1] if before else 0
        n[0] = s.apart[before] - first
    else:
        first = s.packed[before - 1] if before else 0
        n[0] = s.packed[before] - first
    return set_order(s) + first

cdef inline void set_spread(const set_t *s, row_t *rows) noexcept nogil:
    """All rows of a set by number, for the one that most flows have: set_row counts bits to save memory in all others."""
    cdef uint32_t row
    for row in range(ROWS):
        rows[row].order = set_row(s, row, &rows[row].n)

cdef inline void draft_end(draft_t *d, set_t *to, uint32_t row) noexcept nogil:
    """The row is complete; if it has handlers, `to` has it."""
    if d.n == (d.ends[d.nrows - 1] if d.nrows else 0):
        return
    d.ends[d.nrows] = d.n
    d.nrows += 1
    to.rows[row >> 6] |= <uint64_t>1 << (row & 63)
    to.mask |= <uint64_t>1 << (row // 2 % NKINDS)

cdef inline int draft_done(const draft_t *d, set_t *to) noexcept nogil:
    """Store all rows, in the set's own line if they fit: flows with many different sets then miss the cache once an event, not
    three times. -1: out of memory."""
    cdef uint32_t k, head = d.nrows + 1 & ~<uint32_t>1
    to.apart = NULL
    if head + d.n * sizeof(uint16_t) <= sizeof(to.packed):
        for k in range(d.nrows):
            to.packed[k] = <uint8_t>d.ends[k]
        memcpy(to.packed + head, d.order, d.n * sizeof(uint16_t))
        return 0
    to.apart = <uint32_t *>malloc(d.nrows * sizeof(uint32_t) + d.n * sizeof(uint16_t))
    if to.apart == NULL:
        return -1
    memcpy(to.apart, d.ends, d.nrows * sizeof(uint32_t))
    memcpy(to.apart + d.nrows, d.order, d.n * sizeof(uint16_t))
    return 0

cdef inline bint goes(const place_t *places, uint32_t index, int what) noexcept nogil:
    """Is `index` the handler `what`, or, for -1 - p, one of the NF at position p?"""
    return <int>index == what if what >= 0 else places[index].position == -1 - what

cdef inline void draft_row(draft_t *d, const uint16_t *old, uint32_t had, const place_t *places, int what, bint on, bint due,
                           uint32_t way) noexcept nogil:
    """One row of set_change. `due`: `what` comes into it; `way`: which of the ranks counts."""
    cdef uint32_t i
    for i in range(had):
        if due and places[old[i]].rank[way] > places[what].rank[way]:
            d.order[d.n] = <uint16_t>what
            d.n, due = d.n + 1, False
        if on or not goes(places, old[i], what):
            d.order[d.n] = old[i]
            d.n += 1
    if due:
        d.order[d.n] = <uint16_t>what
        d.n += 1

cdef inline int set_change(set_t *to, const set_t *s, draft_t *d, const place_t *places, int what, bint on) noexcept nogil:
    """Make `to` out of `s`: with the handler `what`, or without it, or without all of an NF (-1 - its position).

    -1: out of memory.
    """
    cdef uint32_t row, k = 0, first = 0, end, w
    cdef uint64_t rows, bit
    cdef const uint16_t *order = set_order(s)
    cdef bint due
    to.mask = to.rows[0] = to.rows[1] = 0
    d.nrows = d.n = 0
    for w in range(2):
        rows = s.rows[w] | places[what].rows[w] if on else s.rows[w]
        while rows:
            bit = rows & -rows
            row = 64 * w + lowest(rows)
            rows ^= bit
            end = first
            if s.rows[w] & bit:
                end = s.apart[k] if s.apart != NULL else s.packed[k]
                k += 1
            due = on and places[what].rows[w] & bit
            if due or not on:
                draft_row(d, order + first, end - first, places, what, on, due, row & 1)
            else:
                memcpy(d.order + d.n, order + first, (end - first) * sizeof(uint16_t))
                d.n += end - first
            draft_end(d, to, row)
            first = end
    return draft_done(d, to)

cdef inline void set_free(set_t *s) noexcept nogil:
    free(s.apart)
