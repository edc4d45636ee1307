# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sequence-number arithmetic modulo 2**32 (RFC 9293 section 3.4). Nowhere else compares raw sequence numbers."""
from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef inline int32_t seq_diff(uint32_t a, uint32_t b) noexcept nogil:
    """a - b as the signed distance that is shorter round the ring."""
    return <int32_t>(a - b)

cdef inline bint seq_lt(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t>(a - b) < 0

cdef inline bint seq_le(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t>(a - b) <= 0

cdef inline bint seq_gt(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t>(a - b) > 0

cdef inline bint seq_ge(uint32_t a, uint32_t b) noexcept nogil:
    return <int32_t>(a - b) >= 0

cdef inline uint32_t seq_max(uint32_t a, uint32_t b) noexcept nogil:
    return a if seq_gt(a, b) else b

cdef inline bint seq_between(uint32_t lo, uint32_t x, uint32_t hi) noexcept nogil:
    """lo <= x <= hi, both ends included."""
    return <uint32_t>(x - lo) <= <uint32_t>(hi - lo)
