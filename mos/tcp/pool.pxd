# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Memory of reassembly: objects of up to 2 KB in huge pages, side by side with others of their size, last given back first taken.

Whoever makes many directions queue much at random makes each segment touch cold memory; in small pages it would miss the TLB at
each object, too, and fault at each page. Memory comes in spans, each of objects of one size; one that is empty serves any size,
so that no order of sizes makes the pool need more than its objects, but for what is left in spans that others still use: what
that may come to is bounded by the spans that there are. Without a mapping, as in tests and for sanitizers, it is malloc.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap, munmap

cdef extern from "<sys/mman.h>" nogil:
    int MADV_HUGEPAGE

cdef enum:
    GRAIN = 64              # objects begin at cache lines, and their sizes are multiples of one
    SIZES = 32              # so many sizes; longer ones are malloc's
    SPAN_BITS = 15          # a span is 32 KB: 21 full segments, a hundred leaves, 512 single bytes
    HUGE_BITS = 21
    NO_SPAN = 0xffffffff

cdef struct span_t:
    uint32_t next           # with the same size and room left, or empty
    uint32_t prev
    uint16_t live           # objects in use
    uint16_t fresh          # objects that were ever in use
    uint16_t spare          # the object given back last, and 1: it names the one before; 0: none
    uint16_t size           # in grains, 0: empty

cdef struct pool_t:
    char    *base           # NULL: malloc serves
    void    *map
    size_t   mapped
    span_t  *spans
    uint32_t n              # spans
    uint32_t used           # spans that were ever in use
    uint32_t empty          # list of those that are not now
    uint32_t open[SIZES + 1]    # by size: list of spans with room

cdef inline int pool_init(pool_t *p, uint64_t bytes) noexcept nogil:
    """For objects of so many bytes together, and an eighth more. -1: out of memory; malloc serves."""
    cdef uint64_t n = (bytes + bytes // 8 >> SPAN_BITS) + 2 * SIZES
    memset(p, 0, sizeof(pool_t))
    p.empty = NO_SPAN
    memset(p.open, 0xff, sizeof(p.open))
    if n >> (40 - SPAN_BITS):
        return -1
    p.mapped = (<size_t>n << SPAN_BITS) + (1 << HUGE_BITS)
    p.spans = <span_t *>calloc(n, sizeof(span_t))
    p.map = mmap(NULL, p.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p.map == MAP_FAILED or p.spans == NULL:
        return -1
    p.n = <uint32_t>n
    p.base = <char *>(<uintptr_t>p.map + (1 << HUGE_BITS) - 1 & ~<uintptr_t>((1 << HUGE_BITS) - 1))
    madvise(p.base, <size_t>n << SPAN_BITS, MADV_HUGEPAGE)      # a wish: without it pages are small
    return 0

cdef inline void pool_free(pool_t *p) noexcept nogil:
    """All of it, objects that are in use too."""
    if p.map != NULL and p.map != MAP_FAILED:
        munmap(p.map, p.mapped)
    free(p.spans)
    memset(p, 0, sizeof(pool_t))

cdef inline void span_leave(pool_t *p, uint32_t number) noexcept nogil:
    """Take the span out of the list for its size."""
    cdef span_t *s = &p.spans[number]
    if s.prev == NO_SPAN:
        p.open[s.size] = s.next
    else:
        p.spans[s.prev].next = s.next
    if s.next != NO_SPAN:
        p.spans[s.next].prev = s.prev

cdef inline void span_open(pool_t *p, uint32_t number) noexcept nogil:
    """It is the first to be taken from."""
    cdef span_t *s = &p.spans[number]
    s.prev, s.next = NO_SPAN, p.open[s.size]
    if s.next != NO_SPAN:
        p.spans[s.next].prev = number
    p.open[s.size] = number

cdef inline uint32_t span_new(pool_t *p, uint32_t size) noexcept nogil:
    cdef uint32_t number = p.empty
    if number != NO_SPAN:
        p.empty = p.spans[number].next
    elif p.used < p.n:
        number = p.used
        p.used += 1
    else:
        return NO_SPAN
    p.spans[number].live = p.spans[number].fresh = p.spans[number].spare = 0
    p.spans[number].size = <uint16_t>size
    span_open(p, number)
    return number

cdef inline void *pool_take(pool_t *p, size_t bytes) noexcept nogil:
    """An object of at least so many bytes, whatever is in it. NULL: out of memory."""
    cdef uint32_t size = <uint32_t>((bytes + GRAIN - 1) // GRAIN), number
    cdef span_t *s
    cdef char *at
    if p == NULL or p.base == NULL or bytes == 0 or bytes > SIZES * GRAIN:
        return malloc(bytes)
    number = p.open[size]
    if number == NO_SPAN:
        number = span_new(p, size)
        if number == NO_SPAN:
            return NULL
    s = &p.spans[number]
    at = p.base + (<size_t>number << SPAN_BITS)
    if s.spare:
        at += <size_t>(s.spare - 1) * size * GRAIN
        s.spare = (<uint16_t *>at)[0]
    else:
        at += <size_t>s.fresh * size * GRAIN
        s.fresh += 1
    s.live += 1
    if not s.spare and (s.fresh + 1) * size * GRAIN > 1 << SPAN_BITS:
        span_leave(p, number)
    return at

cdef inline void pool_give(pool_t *p, void *object) noexcept nogil:
    cdef size_t at
    cdef uint32_t number
    cdef span_t *s
    if p == NULL or p.base == NULL or <char *>object < p.base or <char *>object >= p.base + (<size_t>p.n << SPAN_BITS):
        free(object)
        return
    at = <size_t>(<char *>object - p.base)
    number = <uint32_t>(at >> SPAN_BITS)
    s = &p.spans[number]
    if not s.spare and (s.fresh + 1) * s.size * GRAIN > 1 << SPAN_BITS:     # it was full
        span_open(p, number)
    (<uint16_t *>object)[0] = s.spare
    s.spare = <uint16_t>((at & (1 << SPAN_BITS) - 1) // (s.size * GRAIN) + 1)
    s.live -= 1
    if s.live == 0:
        span_leave(p, number)
        s.next, p.empty = p.empty, number

cdef inline uint32_t pool_objects(const pool_t *p) noexcept nogil:
    """How many are in use. For tests."""
    cdef uint32_t i, n = 0
    for i in range(p.used):
        n += p.spans[i].live
    return n

cdef inline uint64_t pool_cost(uint64_t bytes) noexcept nogil:
    """Bytes that an object takes, of whoever serves."""
    return (bytes + GRAIN - 1) & ~<uint64_t>(GRAIN - 1)
