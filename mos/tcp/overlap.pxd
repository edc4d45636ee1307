# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How a segment lies to one that came before (columns of mos.tcp.policies), and where their bytes differ."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef struct conflict_t:
    uint64_t off
    uint32_t len
    const uint8_t *old
    const uint8_t *new

cdef enum:
    MAX_CONFLICTS = 8       # ranges told apart per segment; further ones only count as bytes

cdef enum:
    STRETCH = 128           # bytes whose differences a byte can count

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

cdef inline uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t n) noexcept nogil:
    cdef uint64_t i = 0
    while i + 8 <= n and memcmp(a + i, b + i, 8) == 0:      # by words: most of what comes twice comes unchanged
        i += 8
    while i < n and a[i] == b[i]:
        i += 1
    return i

cdef inline uint64_t after_last_difference(const uint8_t *a, const uint8_t *b, uint64_t n) noexcept nogil:
    while n and a[n - 1] == b[n - 1]:
        n -= 1
    return n

cdef inline uint32_t differences(const uint8_t *a, const uint8_t *b, uint64_t n) noexcept nogil:
    cdef uint32_t count = 0
    cdef uint64_t i = 0, j
    cdef uint8_t few
    while i + STRETCH <= n:
        few = 0
        for j in range(i, i + STRETCH):     # counted in bytes, sixteen of them to a vector
            few += a[j] != b[j]
        count += few
        i += STRETCH
    while i < n:
        count += a[i] != b[i]
        i += 1
    return count

cdef inline void note_conflict(conflicts_t *c, uint64_t off, const uint8_t *old, const uint8_t *new, uint64_t n) noexcept nogil:
    """Remember the range in which `old` and `new` differ, from its first to its last differing byte."""
    cdef uint64_t i, end
    if memcmp(old, new, n) == 0:
        return
    i, end = first_difference(old, new, n), after_last_difference(old, new, n)
    c.bytes += differences(old + i, new + i, end - i)
    add_conflict(c, off + i, old + i, new + i, end - i)

cdef inline void compare_kept(const kept_t *kept, conflicts_t *c, uint64_t off, const uint8_t *data, uint32_t n) noexcept nogil:
    """Compare bytes that were delivered before with the copy retained, as far as it reaches."""
    cdef uint64_t lo, hi, first, end = 0, k, count
    cdef const uint8_t *a
    cdef const uint8_t *b
    if kept.len == 0:
        return
    lo = max(off, kept.to - kept.len)
    hi = first = min(off + n, kept.to)
    while lo < hi:              # twice at most: the ring may wrap
        k = min(hi - lo, kept.cap - lo % kept.cap)
        a, b = kept.data + lo % kept.cap, data + (lo - off)
        if memcmp(a, b, k):
            c.bytes += differences(a, b, k)
            first = min(first, lo + first_difference(a, b, k))
            end = lo + after_last_difference(a, b, k)
        lo += k
    if end == 0:
        return
    count = min(end - first, <uint64_t>sizeof(c.old_copy))
    k = min(count, kept.cap - first % kept.cap)
    memcpy(c.old_copy, kept.data + first % kept.cap, k)
    memcpy(c.old_copy + k, kept.data, count - k)
    add_conflict(c, first, c.old_copy, data + (first - off), count)
