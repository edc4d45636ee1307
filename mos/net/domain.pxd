# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Domains: paths of VLANs and tunnels (walk_t.path) interned as small numbers, so that a flow key can hold one."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy
from mos.net.packet cimport prefetch
from mos.net.walk cimport PATH_MAX, path_hash, walk_t
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, madvise, mmap, munmap

cdef extern from *:
    """
    #include <sys/mman.h>
    #if defined(__has_feature)
    #if __has_feature(address_sanitizer)
    #define MOS_ONE_BY_ONE 1
    #endif
    #endif
    #if defined(__SANITIZE_ADDRESS__)
    #define MOS_ONE_BY_ONE 1
    #elif !defined(MOS_ONE_BY_ONE)
    #define MOS_ONE_BY_ONE 0
    #endif
    """
    bint ONE_BY_ONE "MOS_ONE_BY_ONE"        # AddressSanitizer sees overruns of what malloc gave
    int MADV_HUGEPAGE

cdef enum:
    MANY_DOMAINS = 2048         # of more their memory is taken as a whole, from huge pages: found at random, they miss the TLB less
    ALL_SLOTS = 1 << 18         # of the index then: a quarter full at the most, and one huge page
    HUGE = 1 << 21
    MAX_DOMAINS = 65536         # VLAN ids times a few; at some 40 bytes a path 4 MB, and 30 MB if all are the longest
    DOMAIN_OVERFLOW = 65537     # shared by all that came later: their flows may be taken for each other's

cdef struct domains_t:
    uint32_t n                  # ids 1 .. n are given
    uint32_t room               # entries allocated
    uint32_t slots              # of the hash index, a power of two
    uint64_t overflow           # packets that got DOMAIN_OVERFLOW
    uint64_t k0
    uint64_t k1
    uint64_t *index             # the path's hash above its id, 0: free; the bytes are looked at only where hashes agree
    uint32_t *ends              # ends[id] is where its path ends in `bytes`, ends[id - 1] where it starts
    uint8_t *bytes
    uint32_t bytes_room
    uint32_t last               # the id given last, and its path's hash: packets come in runs
    uint32_t last_hash
    void    *map                # what all of these lie in; NULL: each is malloc's
    size_t   mapped

cdef inline const uint8_t *domain_path(const domains_t *t, uint32_t id, uint32_t *n) noexcept nogil:
    n[0] = t.ends[id] - t.ends[id - 1]
    return t.bytes + t.ends[id - 1]

cdef inline bint domain_is(const domains_t *t, uint32_t id, const uint8_t *path, uint32_t n) noexcept nogil:
    cdef uint32_t have = 0
    cdef const uint8_t *p = domain_path(t, id, &have)
    return have == n and memcmp(p, path, n) == 0

cdef inline void domain_enter(uint64_t *index, uint32_t slots, uint64_t entry) noexcept nogil:
    cdef uint32_t at = <uint32_t>(entry >> 32) & (slots - 1)
    while index[at]:
        at = (at + 1) & (slots - 1)
    index[at] = entry

cdef inline bint domains_reindex(domains_t *t, uint32_t slots) noexcept nogil:
    """Make the hash index `slots` wide. False: no memory, nothing has changed."""
    cdef uint64_t *index = <uint64_t *>calloc(slots, sizeof(uint64_t))
    cdef uint32_t at
    if index == NULL:
        return False
    for at in range(t.slots):
        if t.index[at]:
            domain_enter(index, slots, t.index[at])
    free(t.index)
    t.index, t.slots = index, slots
    return True

cdef inline void domains_free(domains_t *t) noexcept nogil:
    if t.map != NULL:
        munmap(t.map, t.mapped)
        return
    free(t.index)
    free(t.ends)
    free(t.bytes)

cdef inline bint domains_whole(domains_t *t) noexcept nogil:
    """Move all into memory for as many as there may ever be; pages of it are taken by use. False: nothing has changed."""
    cdef size_t ends_at = ALL_SLOTS * sizeof(uint64_t), bytes_at = ends_at + (MAX_DOMAINS + 2) * sizeof(uint32_t)
    cdef size_t mapped = bytes_at + <size_t>MAX_DOMAINS * PATH_MAX + HUGE
    cdef void *map = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    cdef char *base
    cdef uint32_t at
    if map == MAP_FAILED:
        return False
    base = <char *>(<uintptr_t>map + HUGE - 1 & ~<uintptr_t>(HUGE - 1))
    madvise(base, mapped - HUGE, MADV_HUGEPAGE)         # a wish: without it pages are small
    memcpy(base + ends_at, t.ends, (t.n + 1) * sizeof(uint32_t))
    memcpy(base + bytes_at, t.bytes, t.ends[t.n])
    for at in range(t.slots):
        if t.index[at]:
            domain_enter(<uint64_t *>base, ALL_SLOTS, t.index[at])
    domains_free(t)
    t.map, t.mapped = map, mapped
    t.index, t.ends, t.bytes = <uint64_t *>base, <uint32_t *>(base + ends_at), <uint8_t *>(base + bytes_at)
    t.slots, t.room, t.bytes_room = ALL_SLOTS, MAX_DOMAINS + 2, MAX_DOMAINS * PATH_MAX
    return True

cdef inline bint domains_grow(domains_t *t, uint32_t n) noexcept nogil:
    """Room for one more path of n bytes. False: no memory."""
    cdef void *p
    if t.map != NULL or (t.n == MANY_DOMAINS and not ONE_BY_ONE and domains_whole(t)):
        return True
    if t.n + 2 > t.room:
        p = realloc(t.ends, 2 * (t.room + 32) * sizeof(uint32_t))
        if p == NULL:
            return False
        t.ends, t.room = <uint32_t *>p, 2 * (t.room + 32)
        t.ends[0] = 0
    if t.ends[t.n] + n > t.bytes_room:
        p = realloc(t.bytes, 2 * (t.bytes_room + 1024))
        if p == NULL:
            return False
        t.bytes, t.bytes_room = <uint8_t *>p, 2 * (t.bytes_room + 1024)
    return 2 * (t.n + 1) <= t.slots or domains_reindex(t, 2 * t.slots if t.slots else 64)

cdef inline uint32_t domain_again(const domains_t *t, const walk_t *w) noexcept nogil:
    """The id of this path if it is the one that was asked for last; 0: it is not."""
    return t.last if t.last and t.last_hash == path_hash(w) and domain_is(t, t.last, w.path, w.npath) else 0

cdef inline void domain_fetch(const domains_t *t, const walk_t *w) noexcept nogil:
    """Call for where a path is listed that is soon to be interned."""
    if t.slots:
        prefetch(&t.index[path_hash(w) & (t.slots - 1)])

cdef inline uint32_t domain_intern(domains_t *t, const walk_t *w) noexcept nogil:
    """The id of this path, given on first sight; DOMAIN_OVERFLOW, which the caller counts, if there is no room for it."""
    cdef const uint8_t *path = w.path
    cdef uint64_t hash = path_hash(w)
    cdef uint32_t at = 0, n = w.npath
    if t.slots:
        at = <uint32_t>hash & (t.slots - 1)
        while t.index[at]:
            if t.index[at] >> 32 == hash and domain_is(t, <uint32_t>t.index[at], path, n):
                t.last, t.last_hash = <uint32_t>t.index[at], <uint32_t>hash
                return t.last
            at = (at + 1) & (t.slots - 1)
    if t.n == MAX_DOMAINS or not domains_grow(t, n):
        return DOMAIN_OVERFLOW
    memcpy(t.bytes + t.ends[t.n], path, n)
    t.n += 1
    t.ends[t.n] = t.ends[t.n - 1] + n
    domain_enter(t.index, t.slots, hash << 32 | t.n)
    t.last, t.last_hash = t.n, <uint32_t>hash
    return t.n

cdef inline uint32_t domain_of(domains_t *t, const walk_t *w) noexcept nogil:
    """The id of this path, 0 for the empty one; an overflow is counted."""
    cdef uint32_t id = domain_again(t, w) if w.npath else 0
    if w.npath == 0 or id:
        return id
    id = domain_intern(t, w)
    t.overflow += id == DOMAIN_OVERFLOW
    return id
