# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Objects of one size in chunks that never move, numbered by slot, recycled last in, first out."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **p, size_t alignment, size_t size)

cdef enum:
    CHUNK_SHIFT = 10        # 1,024 objects: small when idle, and its first touch stalls a packet for about 0.1-1 ms
    PAGE = 4096

cdef struct slab_t:
    char   **chunks         # directory: slot s is in chunks[s >> shift]
    uint32_t *spare         # stack of returned slots: the hottest memory is used again first
    uint32_t n_spare
    uint32_t room           # entries `spare` has place for, never less than `ready`
    uint32_t fresh          # slots below it have been handed out before
    uint32_t ready          # slots below it have memory
    uint32_t limit
    uint32_t size           # bytes of an object
    uint32_t stride         # the same, rounded up to whole cache lines
    uint32_t shift
    bint     exact          # each object its own malloc, for AddressSanitizer: a chunk hides overruns and late uses
    uint64_t bytes          # taken from malloc

cdef inline void *slab_at(const slab_t *s, uint32_t slot) noexcept nogil:
    return s.chunks[slot >> s.shift] + <size_t>(slot & ((<uint32_t>1 << s.shift) - 1)) * s.stride

cdef inline int slab_init(slab_t *s, uint32_t size, uint32_t limit, bint exact) noexcept nogil:
    """-1: out of memory. `limit` is the greatest number of objects, below 2**31."""
    memset(s, 0, sizeof(slab_t))
    s.size = size
    s.stride = (size + 63) & ~<uint32_t>63
    s.shift = 0 if exact else CHUNK_SHIFT
    s.limit = limit
    s.exact = exact
    cdef size_t n = (<size_t>limit >> s.shift) + 1
    s.chunks = <char **>calloc(n, sizeof(char *))
    s.bytes = n * sizeof(char *)
    return -1 if s.chunks == NULL else 0

cdef inline void slab_free(slab_t *s) noexcept nogil:
    cdef size_t i
    if s.chunks != NULL:
        for i in range((<size_t>s.limit >> s.shift) + 1):
            free(s.chunks[i])
    free(s.chunks)
    free(s.spare)
    memset(s, 0, sizeof(slab_t))

cdef inline int slab_grow(slab_t *s) noexcept nogil:
    """Memory for another chunk of slots, touched now: page faults come here and not in the middle of a packet."""
    cdef uint32_t n = <uint32_t>1 << s.shift, room
    cdef size_t bytes = <size_t>n * s.stride, at = 0
    cdef void *p = NULL
    if s.ready + n > s.room:
        room = 2 * s.room if s.room else 1 << CHUNK_SHIFT
        p = realloc(s.spare, <size_t>room * sizeof(uint32_t))
        if p == NULL:
            return -1
        s.bytes += <uint64_t>(room - s.room) * sizeof(uint32_t)
        s.spare = <uint32_t *>p
        s.room = room
    if not s.exact:
        if posix_memalign(&p, 64, bytes):
            return -1
        while at < bytes:
            (<char *>p)[at] = 0
            at += PAGE
        s.chunks[s.ready >> s.shift] = <char *>p
        s.bytes += bytes
    s.ready += n
    return 0

cdef inline void *slab_take(slab_t *s, uint32_t *slot) noexcept nogil:
    """An object with whatever its last user left in it. NULL: limit reached or out of memory."""
    cdef char *p
    if s.n_spare:
        slot[0] = s.spare[s.n_spare - 1]
    elif s.fresh == s.limit or (s.fresh == s.ready and slab_grow(s) < 0):
        return NULL
    else:
        slot[0] = s.fresh
    if s.exact:
        p = <char *>malloc(s.size)
        if p == NULL:
            return NULL
        s.chunks[slot[0]] = p
        s.bytes += s.size
    if s.n_spare:
        s.n_spare -= 1
    else:
        s.fresh += 1
    return slab_at(s, slot[0])

cdef inline void slab_give(slab_t *s, uint32_t slot) noexcept nogil:
    if s.exact:
        free(s.chunks[slot])
        s.chunks[slot] = NULL
        s.bytes -= s.size
    s.spare[s.n_spare] = slot
    s.n_spare += 1
