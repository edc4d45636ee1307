# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Handler sets as tables of rows, and one made out of another: what an attack may cause as often as it sends a packet."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from mos.events.kinds cimport NKINDS

cdef enum:
    MOMENTS = 3
    ROWS = MOMENTS * 19 * 2
    MOVE_BITS = 17          # transitions remembered: two for each set there may be; one that has lost its place is made again
    MOVES = 1 << MOVE_BITS

cdef struct set_t:          # an interned set of attached handlers, in walking order per kind and direction
    uint64_t mask           # kinds with a handler, at any moment
    uint32_t *start         # CSR: handlers of row (at, kind, direction) are order[start[row]:start[row + 1]]
    uint16_t *order         # in the memory of `start`

cdef struct place_t:        # where a handler stands
    uint32_t rank[2]        # in a row to the client, to the server
    uint64_t rows[2]        # bit per row that it is in
    uint16_t position       # of its NF

cdef struct move_t:         # a transition that was made before: the set `to` comes of another by attaching or detaching
    uint64_t key            # 0: none
    uint32_t to

cdef inline uint64_t move_key(uint32_t from_set, int what, bint on) noexcept nogil:
    """Names a transition: `what` is a handler, or -1 - p for all of the box at p."""
    return <uint64_t>1 << 63 | <uint64_t>from_set << 20 | <uint64_t>(what + 256) << 1 | on

cdef inline move_t *move_at(move_t *moves, uint64_t key) noexcept nogil:
    """Where this transition is, or another that was made later and falls on the same place."""
    return &moves[key * <uint64_t>0x9e3779b97f4a7c15 >> (64 - MOVE_BITS)]

cdef inline bint in_row(const place_t *p, uint32_t row) noexcept nogil:
    return p.rows[row >> 6] >> (row & 63) & 1

cdef inline int set_open(set_t *s, uint32_t entries) noexcept nogil:
    """Memory for so many entries in all rows. -1: out of memory."""
    s.mask = 0
    s.start = <uint32_t *>malloc((ROWS + 1) * sizeof(uint32_t) + entries * sizeof(uint16_t))
    if s.start == NULL:
        return -1
    s.order = <uint16_t *>(s.start + ROWS + 1)
    return 0

cdef inline bint goes(const place_t *places, uint32_t index, int what) noexcept nogil:
    """Is `index` the handler `what`, or, for -1 - p, one of the NF at position p?"""
    return <int>index == what if what >= 0 else places[index].position == -1 - what

cdef inline int set_change(set_t *to, const set_t *s, const place_t *places, int what, bint on) noexcept nogil:
    """Make `to` out of `s`: with the handler `what`, or without it, or without all of an NF (-1 - its position).

    -1: out of memory.
    """
    cdef uint32_t row, i, end, n = 0
    cdef bint due
    if set_open(to, s.start[ROWS] + (ROWS if on else 0)) < 0:
        return -1
    for row in range(ROWS):
        to.start[row] = n
        i, end = s.start[row], s.start[row + 1]
        due = on and in_row(&places[what], row)
        while i < end:
            if due and places[s.order[i]].rank[row & 1] > places[what].rank[row & 1]:
                to.order[n] = <uint16_t>what
                n, due = n + 1, False
            if on or not goes(places, s.order[i], what):
                to.order[n] = s.order[i]
                n += 1
            i += 1
        if due:
            to.order[n] = <uint16_t>what
            n += 1
        if n > to.start[row]:
            to.mask |= <uint64_t>1 << (row // 2 % NKINDS)
    to.start[ROWS] = n
    return 0

cdef inline void set_free(set_t *s) noexcept nogil:
    free(s.start)
