# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Objects of one size, side by side in memory that never moves, numbered by slot, recycled last in, first out.

They may have second parts that lie apart from them: of every `group` slots the first `head` are their place, and hold no objects.
"""
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from mos.net.packet cimport prefetch_lines
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap, munmap

cdef extern from "<sys/mman.h>" nogil:
    int MADV_HUGEPAGE

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **p, size_t alignment, size_t size)

cdef enum:
    STEP = 1024             # objects that get memory at a time: small when idle, and touching it stalls a packet for 0.1-1 ms
    PAGE = 4096
    HUGE = 1 << 21          # random access to many flows misses the TLB less, and 2 MB are touched for the price of a few pages

cdef struct slab_t:
    char    *base           # room for `limit` objects; pages come with their first use
    void    *map            # the mapping it lies in, a huge page longer to align it
    char   **each           # with `exact`, instead of `base`: object by slot
    uint32_t spare          # the slot returned last, which is used again first: its memory is the hottest; names the one before it
    uint32_t n_spare
    uint32_t fresh          # slots below it have been handed out before
    uint32_t ready          # slots below it have memory
    uint32_t limit          # slots
    uint32_t size           # bytes of an object
    uint32_t stride         # the same, rounded up to whole cache lines
    uint32_t group          # slots, a power of two; 1: there are no second parts
    uint32_t head           # 0 then
    bint     exact          # each object its own malloc, for AddressSanitizer: one block of many hides overruns and late uses
    uint64_t bytes          # in use, by the pages touched

cdef inline void *slab_at(const slab_t *s, uint32_t slot) noexcept nogil:
    return s.each[slot] if s.exact else s.base + <size_t>slot * s.stride

cdef inline size_t slab_mapped(const slab_t *s) noexcept nogil:
    return <size_t>s.limit * s.stride + HUGE

cdef inline int slab_init(slab_t *s, uint32_t size, uint32_t limit, uint32_t group, uint32_t head, bint exact) noexcept nogil:
    """-1: out of memory. `limit` is the greatest number of objects; there are less than 2**31 slots for them."""
    memset(s, 0, sizeof(slab_t))
    s.size = size
    s.stride = (size + 63) & ~<uint32_t>63
    s.group, s.head = group, head
    s.limit = (limit + group - head - 1) // (group - head) * group
    s.exact = exact
    if exact:
        s.each = <char **>calloc(s.limit, sizeof(char *))
        return -1 if s.each == NULL else 0
    s.map = mmap(NULL, slab_mapped(s), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if s.map == MAP_FAILED:
        s.map = NULL
        return -1
    s.base = <char *>((<uintptr_t>s.map + HUGE - 1) & ~<uintptr_t>(HUGE - 1))
    madvise(s.base, slab_mapped(s) - (s.base - <char *>s.map), MADV_HUGEPAGE)       # a wish: without it pages are small
    return 0

cdef inline uint32_t slab_objects(const slab_t *s, uint32_t slots) noexcept nogil:
    """How many objects the first so many slots hold."""
    cdef uint32_t rest = slots & (s.group - 1)
    return slots // s.group * (s.group - s.head) + (rest - s.head if rest > s.head else 0)

cdef inline uint32_t slab_used(const slab_t *s) noexcept nogil:
    return slab_objects(s, s.fresh) - s.n_spare

cdef inline bint slab_holds(const slab_t *s, uint32_t slot) noexcept nogil:
    """With `exact`: is the slot in use? What a returned one says is odd."""
    return s.each[slot] != NULL and not <uintptr_t>s.each[slot] & 1

cdef inline char *slab_block(const slab_t *s, uint32_t slot) noexcept nogil:
    """With `exact`: what malloc gave for the object in `slot`, room for a second part before it."""
    return s.each[slot] - <size_t>s.head * s.stride

cdef inline char *slab_single(const slab_t *s, uint32_t slot) noexcept nogil:
    """With `exact`: memory of its own for an object. Its slot stands before it if it has a second part."""
    cdef void *p = NULL
    cdef size_t before = <size_t>s.head * s.stride
    if not s.head:
        return <char *>malloc(s.size)
    if posix_memalign(&p, <size_t>s.group * s.stride, before + s.size):
        return NULL
    p = <char *>p + before
    (<uint32_t *>p - 1)[0] = slot
    return <char *>p

cdef inline void slab_free(slab_t *s) noexcept nogil:
    cdef uint32_t i
    if s.each != NULL:
        for i in range(s.fresh):
            if slab_holds(s, i):
                free(slab_block(s, i))
    free(s.each)
    if s.map != NULL:
        munmap(s.map, slab_mapped(s))
    memset(s, 0, sizeof(slab_t))

cdef inline int slab_grow(slab_t *s) noexcept nogil:
    """Memory for more slots, touched now: page faults come here and not in the middle of a packet."""
    cdef uint32_t n = min(<uint32_t>STEP, s.limit - s.ready)
    cdef size_t at = <size_t>s.ready * s.stride, to = at + <size_t>n * s.stride
    if not s.exact:
        s.bytes += to - at
        while at < to:
            s.base[at] = 0
            at += PAGE
    s.ready += n
    return 0

cdef inline void *slab_take(slab_t *s, uint32_t *slot) noexcept nogil:
    """An object with whatever its last user left in it, but for its first bytes. NULL: limit reached or out of memory."""
    cdef char *p
    cdef uint32_t before = 0
    if s.n_spare:
        slot[0] = s.spare
        before = <uint32_t>(<uintptr_t>s.each[s.spare] >> 1) if s.exact else (<uint32_t *>slab_at(s, s.spare))[0]
    elif s.fresh == s.limit or (s.fresh == s.ready and slab_grow(s) < 0):
        return NULL
    else:
        if not s.fresh & (s.group - 1):
            s.fresh += s.head
        slot[0] = s.fresh
    if s.exact:
        p = slab_single(s, slot[0])
        if p == NULL:
            return NULL
        s.each[slot[0]] = p
        s.bytes += s.size
    if s.n_spare:
        s.n_spare -= 1
        s.spare = before
    else:
        s.fresh += 1
    return slab_at(s, slot[0])

cdef inline void slab_expect(const slab_t *s) noexcept nogil:
    """Call for the memory that slab_take will hand out next."""
    if not s.exact:
        prefetch_lines(<const char *>slab_at(s, s.spare if s.n_spare else s.fresh), s.stride)

cdef inline void slab_give(slab_t *s, uint32_t slot) noexcept nogil:
    if s.exact:
        free(slab_block(s, slot))
        s.each[slot] = <char *>(<uintptr_t>s.spare << 1 | 1)
        s.bytes -= s.size
    else:
        (<uint32_t *>slab_at(s, slot))[0] = s.spare
    s.spare = slot
    s.n_spare += 1
