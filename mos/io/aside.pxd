# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Packets of a capture that other workers take, put aside as they are read: by their raw bytes, before they are anything.

Of each its time is kept, since time goes by with every packet, and where among them those are that stay.
"""
from libc.stdint cimport INT64_MIN, int16_t, int64_t, uint32_t
from mos.net.packet cimport AHEAD_ELSEWHERE, AHEAD_NOT, pkt_t
from mos.net.shard cimport SHARD_UNKNOWN, shard_plain

cdef enum:
    ASIDE = 1024            # read in a batch: enough for 128 of one's own among 8 workers; their times fit the L1 cache
    OWN = 128               # that stay: BATCH of port.pxd

cdef struct aside_t:
    uint32_t workers        # 0: nothing is put aside
    int      worker         # whose packets stay
    uint32_t n              # packets read in this batch
    int64_t  top            # the latest time of them so far
    int16_t  place[OWN + 2]     # i + 1: which of them stays at `i` of the batch; behind the last, how many there are
    int64_t  high[OWN + 1]  # and the latest time before it
    const int64_t *ts       # of all of them
    int64_t  times[ASIDE]   # there, but for what is read in turns

cdef inline void aside_next(aside_t *a, int i) noexcept nogil:
    """What stays next stays at place `i`."""
    a.place[i + 1], a.high[i] = <int16_t>a.n, a.top

cdef inline void aside_begin(aside_t *a) noexcept nogil:
    a.n, a.top, a.ts, a.place[0] = 0, INT64_MIN, a.times, -1
    aside_next(a, 0)

cdef inline uint32_t aside_before(const aside_t *a, int i) noexcept nogil:
    """How many came just before what stays at `i`."""
    return <uint32_t>(a.place[i + 1] - a.place[i] - 1)

cdef inline void aside_read(aside_t *a, int64_t ts, int i) noexcept nogil:
    """One more was read; what stays next stays at place `i`. There is room."""
    a.times[a.n] = ts
    a.n += 1
    a.top = max(a.top, ts)
    aside_next(a, i)

cdef inline bint aside_stays(aside_t *a, pkt_t *p, int i) noexcept nogil:
    """`p`, just read into place `i` of the batch, stays there or may; else it is put aside, and its place is free again. There is
    room. Without a branch on who takes it, which nobody could predict."""
    cdef int worker = shard_plain(p, a.workers)
    cdef bint stays = (worker == a.worker) | (worker == SHARD_UNKNOWN)
    aside_read(a, p.ts, i + stays)
    p.ahead = AHEAD_NOT
    return stays

cdef inline int aside_take_back(aside_t *a, pkt_t *last) noexcept nogil:
    """How many are in a batch of which none stays: one, since none is the end. The last that was read is in its place still."""
    if a.n == 0:
        return 0
    last.ahead = AHEAD_ELSEWHERE
    a.place[1], a.place[2] = <int16_t>(a.n - 1), <int16_t>a.n
    return 1
