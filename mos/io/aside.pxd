# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Packets of a capture that other workers take, put aside as they are read: by their raw bytes, before they are anything.

Of each its time is kept, since time goes by with every packet, and how many came before each that stays.
"""
from libc.stdint cimport INT64_MIN, int64_t, uint16_t, uint32_t, uint64_t
from mos.net.packet cimport AHEAD_ELSEWHERE, AHEAD_NOT, pkt_t
from mos.net.shard cimport SHARD_UNKNOWN, shard_plain

cdef enum:
    ASIDE = 1024            # put aside in a batch: enough for 128 of one's own among 8 workers; their times fit the L1 cache
    OWN = 128               # that stay: BATCH of port.pxd

cdef struct aside_t:
    uint32_t workers        # 0: nothing is put aside
    int      worker         # whose packets stay
    uint32_t n              # packets put aside in this batch
    uint64_t bytes          # of them, on the wire
    int64_t  top            # the latest time in this batch so far
    uint16_t upto[OWN + 2]  # place i + 1: how many of them came before the packet that stays at i; the last, in all
    int64_t  high[OWN + 1]  # and the latest time before it
    int64_t  ts[ASIDE]

cdef inline void aside_next(aside_t *a, int i) noexcept nogil:
    """What stays next stays at place `i`."""
    a.upto[i + 1], a.high[i] = <uint16_t>a.n, a.top

cdef inline void aside_begin(aside_t *a) noexcept nogil:
    a.n = a.upto[0] = 0
    a.bytes = 0
    a.top = INT64_MIN
    aside_next(a, 0)

cdef inline uint32_t aside_before(const aside_t *a, int i) noexcept nogil:
    """How many came just before what stays at `i`."""
    return <uint32_t>(a.upto[i + 1] - a.upto[i])

cdef inline bint aside_stays(aside_t *a, pkt_t *p, int i) noexcept nogil:
    """`p`, just read into place `i` of the batch, stays there or may; else it is put aside, and its place is free again. There is
    room. Without a branch on who takes it, which nobody could predict."""
    cdef int worker = shard_plain(p, a.workers)
    cdef bint stays = (worker == a.worker) | (worker == SHARD_UNKNOWN)
    a.ts[a.n] = p.ts
    a.n += not stays
    a.bytes += p.wirelen & -<uint32_t>(not stays)
    a.top = max(a.top, p.ts)
    aside_next(a, i + stays)
    p.ahead = AHEAD_NOT
    return stays

cdef inline int aside_take_back(aside_t *a, pkt_t *last) noexcept nogil:
    """How many are in a batch of which none stays: one, since none is the end. The last that was read is in its place still."""
    if a.n == 0:
        return 0
    last.ahead = AHEAD_ELSEWHERE
    a.n -= 1
    a.bytes -= last.wirelen
    aside_next(a, 0)
    aside_next(a, 1)
    return 1
