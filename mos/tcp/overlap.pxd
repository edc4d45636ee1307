# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How a segment lies to one that came before (columns of mos.tcp.policies), and where their bytes differ."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

cdef struct conflict_t:
    uint64_t off
    uint32_t len
    const uint8_t *old
    const uint8_t *new

cdef enum:
    MAX_CONFLICTS = 8       # ranges told apart per segment; further ones only count as bytes

cdef struct conflicts_t:    # of one segment
    uint32_t n
    uint32_t bytes          # how many differ
    conflict_t at[MAX_CONFLICTS]
    uint8_t  old_copy[2048] # contiguous copy of retained bytes that conflict (the ring may wrap): as much as an event tells

cdef struct kept_t:         # ring of the last delivered bytes, ending at `to`
    uint8_t *data
    uint64_t to
    uint32_t len
    uint32_t cap

cdef inline int relation(uint64_t a, uint64_t b, uint64_t x, uint64_t y) noexcept nogil:
    """Column of policies.RELATIONS for NEW [a, b) against OLD [x, y)."""
    if a == x:
        return 0 if b == y else 1 if b < y else 2
    if a > x:
        return 3 if b == y else 5 if b < y else 8
    return 4 if b == y else 6 if b > y else 7

cdef inline void add_conflict(conflicts_t *c, uint64_t off, const uint8_t *old, const uint8_t *new, uint64_t n) noexcept nogil:
    if c.n < MAX_CONFLICTS:
        c.at[c.n].off = off
        c.at[c.n].len = <uint32_t>n
        c.at[c.n].old = old
        c.at[c.n].new = new
        c.n += 1

cdef inline void note_conflict(conflicts_t *c, uint64_t off, const uint8_t *old, const uint8_t *new, uint64_t n) noexcept nogil:
    """Remember the range in which `old` and `new` differ, from its first to its last differing byte."""
    cdef uint64_t i = 0, last, k
    if memcmp(old, new, n) == 0:
        return
    while old[i] == new[i]:
        i += 1
    last = n - 1
    while old[last] == new[last]:
        last -= 1
    for k in range(i, last + 1):
        c.bytes += old[k] != new[k]
    add_conflict(c, off + i, old + i, new + i, last + 1 - i)

cdef inline void compare_kept(const kept_t *kept, conflicts_t *c, uint64_t off, const uint8_t *data, uint32_t n) noexcept nogil:
    """Compare bytes that were delivered before with the copy retained, as far as it reaches."""
    cdef uint64_t lo, hi, at, first, last = 0
    cdef uint32_t i, count
    if kept.len == 0:
        return
    lo = max(off, kept.to - kept.len)
    hi = first = min(off + n, kept.to)
    if lo >= hi:
        return
    i = <uint32_t>(lo % kept.cap)
    for at in range(lo, hi):
        if kept.data[i] != data[at - off]:
            c.bytes += 1
            first, last = min(first, at), at
        i = i + 1 if i + 1 < kept.cap else 0
    if first == hi:
        return
    count = <uint32_t>min(last + 1 - first, <uint64_t>sizeof(c.old_copy))
    for i in range(count):
        c.old_copy[i] = kept.data[(first + i) % kept.cap]
    add_conflict(c, first, c.old_copy, data + (first - off), count)
