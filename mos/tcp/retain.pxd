# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The copy of bytes already delivered: a ring that ends at offset `to`, so that what is sent again can be compared."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy

cdef struct retain_t:
    uint8_t *ring       # NULL until something is retained
    uint64_t to         # offset behind the last byte; byte i is at ring[i % cap]
    uint32_t len
    uint32_t cap

cdef inline int retain_open(retain_t *k, uint32_t cap) noexcept nogil:
    """Get the ring. -1: out of memory."""
    k.ring = <uint8_t *>malloc(cap)
    k.cap = cap if k.ring != NULL else 0
    return 0 if k.ring != NULL else -1

cdef inline void retain(retain_t *k, const uint8_t *data, uint32_t len, uint64_t end) noexcept nogil:
    """Add bytes that end at offset `end`; bytes that do not follow on replace what was there."""
    cdef uint32_t skip = len - k.cap if len > k.cap else 0
    cdef uint64_t start = end - len + skip
    cdef uint32_t i = <uint32_t>(start % k.cap)
    cdef uint32_t first = min(len - skip, k.cap - i)
    if k.len and k.to != end - len:
        k.len = 0
    memcpy(k.ring + i, data + skip, first)
    memcpy(k.ring, data + skip + first, len - skip - first)
    k.to = end
    k.len = min(k.cap, k.len + len)
