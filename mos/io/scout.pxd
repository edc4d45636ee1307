# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Records of a capture called for before they are read. Each tells only where the next one is, and waiting for memory record by
record is most of what reading costs.

A guess that the next three are as long together as the last three were, and six as six, is right often enough: full segments and
their ACKs come in turns. A wrong one costs loads nobody needed.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from mos.net.packet cimport prefetch

cdef extern from *:
    """
    static inline void mos_touch(const unsigned char *p) { (void)*(const volatile unsigned char *)p; }
    """
    void touch "mos_touch"(const uint8_t *p) nogil

cdef enum:
    LEAST = 64              # bytes before the end of what is at hand, within which nobody looks ahead
    SHORT = 256             # bytes of a record with headers and little else, on average

cdef struct trail_t:
    const uint8_t *past[8]  # where the last records began: only compared, never read
    uint32_t turn           # records so far

cdef struct scout_t:        # goes a batch ahead of whoever reads plain pcap records
    const uint8_t *at       # a record's header; NULL: it is not known where there is one
    const uint8_t *end      # what is at hand ends here
    uint32_t header         # bytes of one
    uint32_t step           # 0, or they are so short that all memory is called for: bytes for a packet
    trail_t  trail

cdef inline void call_ahead(trail_t *t, const uint8_t *p, const uint8_t *next) noexcept nogil:
    """Start to load records that will be read soon. `p` is in hand, `next` comes after it."""
    cdef const uint8_t *near = next + (p - t.past[(t.turn - 3) & 7])
    cdef const uint8_t *far = next + (p - t.past[(t.turn - 6) & 7])
    t.past[t.turn & 7] = p
    t.turn += 1
    prefetch(next)
    prefetch(near)
    prefetch(near + 64)
    prefetch(far)
    prefetch(far + 64)

cdef inline void scout_start(scout_t *s, const uint8_t *at, const uint8_t *end, uint32_t header, size_t taken,
                             int n) noexcept nogil:
    """The next record is at `at`; the `n` before it took so many bytes."""
    s.at, s.end, s.header = at, end, header
    s.step = <uint32_t>(taken // n) + 1 if taken < <size_t>n * SHORT and taken < <size_t>(end - at) else 0
    if s.step:
        touch(at + taken)       # have its page there: what is called for where none is does not come

cdef inline void scout_on(scout_t *s) noexcept nogil:
    """One record further. Done once for each packet of a batch in hand, the next batch is there when that is."""
    cdef const uint8_t *p = s.at
    cdef uint32_t length
    if s.step:
        s.at = p + s.step
        prefetch(p)
        prefetch(p + 64)
        if s.step > 128:
            prefetch(p + 128)
            prefetch(p + 192)
        return
    if p == NULL or s.end - p < LEAST:
        return
    memcpy(&length, p + 8, 4)
    s.at = p + s.header + length
    prefetch(p + 64)
    call_ahead(&s.trail, p, s.at)
