# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Handler sets as tables of rows, and one made out of another: what an attack may cause as often as it sends a packet."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from mos.events.kinds cimport NKINDS

cdef enum:
    MOMENTS = 3
    ROWS = MOMENTS * 19 * 2
    MOVE_BITS = 17          # transitions remembered: two for each set there may be; one that has lost its place is made again
    MOVES = 1 << MOVE_BITS

cdef struct set_t:          # an interned set of attached handlers, in walking order per kind and direction: a cache line
    uint64_t mask           # kinds with a handler, at any moment
    uint64_t rows[2]        # bit per row (at, kind, direction) that has handlers
    uint32_t *start         # CSR: a row's handlers are order_of(s)[start[row]:start[row + 1]]; NULL: they are packed
    uint8_t  packed[32]     # where each row that has handlers ends, then, at an even place, the handlers of all rows

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

cdef inline uint16_t *order_of(const set_t *s) noexcept nogil:
    """The handlers of a set that is not packed, in the memory of `start`."""
    return <uint16_t *>(s.start + ROWS + 1)

cdef inline uint32_t ones(uint64_t x) noexcept nogil:
    x -= x >> 1 & <uint64_t>0x5555555555555555
    x = (x & <uint64_t>0x3333333333333333) + (x >> 2 & <uint64_t>0x3333333333333333)
    return <uint32_t>(((x + (x >> 4)) & <uint64_t>0x0f0f0f0f0f0f0f0f) * <uint64_t>0x0101010101010101 >> 56)

cdef inline uint32_t rows_in(const set_t *s) noexcept nogil:
    """Rows that have handlers."""
    return ones(s.rows[0]) + ones(s.rows[1])

cdef inline const uint16_t *set_row(const set_t *s, uint32_t row, uint32_t *n) noexcept nogil:
    """The `n` handlers of a row, in walking order."""
    cdef uint32_t before, first
    if s.start != NULL:
        n[0] = s.start[row + 1] - s.start[row]
        return order_of(s) + s.start[row]
    n[0] = 0
    if not s.rows[row >> 6] >> (row & 63) & 1:
        return NULL
    before = ones(s.rows[row >> 6] & ((<uint64_t>1 << (row & 63)) - 1))
    if row >= 64:
        before += ones(s.rows[0])
    first = s.packed[before - 1] if before else 0
    n[0] = s.packed[before] - first
    return <const uint16_t *>(s.packed + (rows_in(s) + 1 & ~<uint32_t>1)) + first

cdef inline int set_open(set_t *s, uint32_t entries) noexcept nogil:
    """Memory for so many entries in all rows. -1: out of memory."""
    s.mask = s.rows[0] = s.rows[1] = 0
    s.start = <uint32_t *>malloc((ROWS + 1) * sizeof(uint32_t) + entries * sizeof(uint16_t))
    return -1 if s.start == NULL else 0

cdef inline void set_mark(set_t *s, uint32_t row) noexcept nogil:
    """The row has handlers."""
    s.rows[row >> 6] |= <uint64_t>1 << (row & 63)
    s.mask |= <uint64_t>1 << (row // 2 % NKINDS)

cdef inline void set_pack(set_t *s) noexcept nogil:
    """Into its own line, if it fits: flows with many different sets then miss the cache once an event, not three times."""
    cdef uint32_t row, k = 0, n = rows_in(s), head = n + 1 & ~<uint32_t>1
    if head + s.start[ROWS] * sizeof(uint16_t) > sizeof(s.packed):
        return
    memcpy(s.packed + head, order_of(s), s.start[ROWS] * sizeof(uint16_t))
    for row in range(ROWS):
        if s.start[row + 1] > s.start[row]:
            s.packed[k] = <uint8_t>s.start[row + 1]
            k += 1
    free(s.start)
    s.start = NULL

cdef inline bint goes(const place_t *places, uint32_t index, int what) noexcept nogil:
    """Is `index` the handler `what`, or, for -1 - p, one of the NF at position p?"""
    return <int>index == what if what >= 0 else places[index].position == -1 - what

cdef inline int set_change(set_t *to, const set_t *s, const place_t *places, int what, bint on) noexcept nogil:
    """Make `to` out of `s`: with the handler `what`, or without it, or without all of an NF (-1 - its position).

    -1: out of memory.
    """
    cdef uint32_t row, had, i, n = 0, room = ROWS if on else 0
    cdef const uint16_t *old
    cdef uint16_t *order
    cdef bint due
    for row in range(ROWS):
        set_row(s, row, &had)
        room += had
    if set_open(to, room) < 0:
        return -1
    order = order_of(to)
    for row in range(ROWS):
        to.start[row] = n
        old = set_row(s, row, &had)
        due = on and in_row(&places[what], row)
        for i in range(had):
            if due and places[old[i]].rank[row & 1] > places[what].rank[row & 1]:
                order[n] = <uint16_t>what
                n, due = n + 1, False
            if on or not goes(places, old[i], what):
                order[n] = old[i]
                n += 1
        if due:
            order[n] = <uint16_t>what
            n += 1
        if n > to.start[row]:
            set_mark(to, row)
    to.start[ROWS] = n
    set_pack(to)
    return 0

cdef inline void set_free(set_t *s) noexcept nogil:
    free(s.start)
