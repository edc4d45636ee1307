# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How two segments overlap: the columns of policies.RELATIONS."""
from libc.stdint cimport uint64_t

cdef enum:
    RELATION_COUNT = 9

cdef inline int relation(uint64_t a, uint64_t b, uint64_t x, uint64_t y) noexcept nogil:
    """Column of policies.RELATIONS for NEW [a, b) against OLD [x, y)."""
    if a == x:
        return 0 if b == y else 1 if b < y else 2
    if a > x:
        return 3 if b == y else 5 if b < y else 8
    return 4 if b == y else 6 if b > y else 7
