# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Pages of a mapped capture: there before they are read, gone soon after. Resident memory stays flat however long the file."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from posix.mman cimport MADV_DONTNEED, madvise

cdef extern from *:
    """
    #ifndef MADV_POPULATE_READ
    #define MADV_POPULATE_READ 22
    #endif
    """
    int MADV_POPULATE_READ

cdef enum:
    # Kept behind the reader: far more than a batch, and few enough system calls to cost nothing.
    WINDOW = 16 << 20
    # And mapped ahead of it in one go: cheaper than faults, 16 pages each, and what is called for before it is read does
    # not come from a page that is not there. Half of them are more than two batches of full frames.
    AHEAD = 1 << 20

cdef struct pages_t:
    uint8_t *map            # the file, or NULL
    size_t   size           # bytes of it
    size_t   dropped        # pages up to here were let go
    size_t   mapped         # and those up to here asked for

cdef inline void pages_behind(pages_t *p, size_t at) noexcept nogil:
    """Nothing before `at` is read any more: unmap it, a window at a time."""
    at &= ~<size_t>4095
    if p.map != NULL and at >= p.dropped + WINDOW:
        madvise(p.map + p.dropped, at - p.dropped, MADV_DONTNEED)
        p.dropped = at

cdef inline void pages_ahead(pages_t *p, size_t at) noexcept nogil:
    """What comes behind `at` is read soon. Where the kernel cannot (Linux before 5.14), it is mapped as it is read."""
    if p.map != NULL and p.mapped < p.size and at + AHEAD // 2 > p.mapped:
        p.mapped = max(p.mapped, at & ~<size_t>4095)
        madvise(p.map + p.mapped, min(<size_t>AHEAD, p.size - p.mapped), MADV_POPULATE_READ)
        p.mapped += AHEAD
