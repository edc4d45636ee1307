# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A sorted index of objects by offset: short leaves under one array, so that a search touches a few lines of memory.

Without it whoever sends every second byte of a stream, in any order, makes each further segment walk through all the others.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove
from mos.net.packet cimport prefetch, prefetch_lines
from mos.tcp.pool cimport pool_cost, pool_give, pool_take, pool_t

cdef enum:
    LEAF = 16               # entries of 24 bytes: seven cache lines, fetched at once, of which an insertion moves half
    FEW = 4                 # leaves that are listed in the index itself: no further line to fetch for what most queues have
    LINE = 64
    FETCH = 8 * LINE        # of an object that may come twice: the rest is read in a row

cdef struct leaf_t:
    uint64_t n
    uint64_t off[LEAF]      # ascending
    uint64_t end[LEAF]      # where each object ends: what lies in a gap is told without a look at the objects
    void    *at[LEAF]

cdef struct index_t:
    leaf_t  **leaves        # `few` or, of more, from malloc
    uint64_t *first         # off[0] of each leaf
    leaf_t   *few[FEW]
    uint64_t  few_first[FEW]
    uint32_t n              # leaves
    uint32_t room
    uint64_t bytes          # of leaves and their list
    uint64_t sought_off     # index_seek's last answer, if `sought`
    uint32_t leaf
    uint32_t upto
    uint32_t hint           # where leaf_for had to search last
    uint8_t  sought
    pool_t  *pool           # where leaves come from, NULL: malloc

cdef inline uint32_t leaf_for(const index_t *x, uint64_t off) noexcept nogil:
    """The leaf where `off` is or belongs; there is at least one. Most segments belong at one end, or where one was sought last."""
    cdef uint32_t hi = x.n, half
    cdef const uint64_t *lo = x.first
    if x.first[hi - 1] <= off:
        return hi - 1
    if hi > 1 and off < x.first[1]:
        return 0
    if x.hint < hi - 1 and x.first[x.hint] <= off < x.first[x.hint + 1]:
        return x.hint
    while hi > 1:
        half = hi >> 1
        lo += half if lo[half] <= off else 0
        hi -= half
    (<index_t *>x).hint = <uint32_t>(lo - x.first)
    return x.hint

cdef inline uint32_t upto(const leaf_t *leaf, uint64_t off) noexcept nogil:
    """How many entries of the leaf lie at or below `off`. All are looked at: halving would guess two branches wrong."""
    cdef uint32_t i, k = 0
    for i in range(<uint32_t>leaf.n):
        k += leaf.off[i] <= off
    return k

cdef inline void leaf_fetch(const leaf_t *leaf) noexcept nogil:
    """All of its lines are on their way at once; searched one by one each would be waited for."""
    cdef size_t at = 0
    while at < sizeof(leaf_t):
        prefetch(<const char *>leaf + at)
        at += LINE

cdef inline leaf_t *index_seek(const index_t *index, uint64_t off, uint32_t *i, uint32_t *k) noexcept nogil:
    """The leaf for `off`, its number, and how many of its entries lie at or below. A segment is sought several times: the
    last answer is kept until the index changes. The index is not empty."""
    cdef index_t *x = <index_t *>index
    if not x.sought or x.sought_off != off:
        x.sought, x.sought_off = 1, off
        x.leaf = leaf_for(x, off)
        x.upto = upto(x.leaves[x.leaf], off)
    i[0], k[0] = x.leaf, x.upto
    return x.leaves[x.leaf]

cdef inline void *index_floor(const index_t *x, uint64_t off) noexcept nogil:
    """The object with the greatest offset at or below `off`; NULL: there is none."""
    cdef leaf_t *leaf
    cdef uint32_t i = 0, k = 0
    if x.n == 0:
        return NULL
    leaf = index_seek(x, off, &i, &k)
    return leaf.at[k - 1] if k else NULL

cdef inline void *index_first(const index_t *x, uint64_t off, uint64_t end) noexcept nogil:
    """The first object that reaches into [off, end); NULL: none does, and the neighbours are fetched: what comes to lie between
    them is linked to both. The index is not empty. No object is looked at: many are cold."""
    cdef uint32_t i = 0, k = 0
    cdef leaf_t *leaf = index_seek(x, off, &i, &k)
    if k and leaf.end[k - 1] > off:
        return leaf.at[k - 1]
    if k < leaf.n and leaf.off[k] < end:
        return leaf.at[k]
    if k == leaf.n and i + 1 < x.n and x.first[i + 1] < end:
        return x.leaves[i + 1].at[0]
    if k:
        prefetch(leaf.at[k - 1])
    if k < leaf.n:
        prefetch(leaf.at[k])
    return NULL

cdef inline void index_fetch(const index_t *index, uint64_t off, bint object, bint whole) noexcept nogil:
    """What is at `off` will be sought soon: fetch the leaf for it or, once that is there, its object; `whole`: and what it has."""
    cdef index_t *x = <index_t *>index
    cdef leaf_t *leaf
    cdef uint32_t i = 0, k = 0
    if x.n == 0:
        return
    if object:
        leaf = index_seek(x, off, &i, &k)
        prefetch_lines(<const char *>leaf.at[k - 1 if k else 0], FETCH if whole and k and leaf.end[k - 1] > off else LINE)
    else:
        leaf_fetch(x.leaves[leaf_for(x, off)])

cdef inline void index_fetch_least(const index_t *x) noexcept nogil:
    """The first two objects will be asked for."""
    cdef const leaf_t *leaf = x.leaves[0]
    prefetch(leaf.at[0])
    if leaf.n > 1:
        prefetch(leaf.at[1])
    elif x.n > 1:
        prefetch(x.leaves[1].at[0])

cdef inline int index_grow(index_t *x) noexcept nogil:
    """Room for twice as many leaves. -1: out of memory, nothing has changed."""
    cdef uint32_t room = 2 * x.room
    cdef char *p
    if x.room == 0:
        x.leaves, x.first, x.room = x.few, x.few_first, FEW
        return 0
    p = <char *>malloc(room * (sizeof(leaf_t *) + sizeof(uint64_t)))
    if p == NULL:
        return -1
    memcpy(p, x.leaves, x.n * sizeof(leaf_t *))
    memcpy(p + room * sizeof(leaf_t *), x.first, x.n * sizeof(uint64_t))
    if x.leaves != x.few:
        free(x.leaves)
        x.bytes -= x.room * (sizeof(leaf_t *) + sizeof(uint64_t))
    x.leaves, x.first, x.room = <leaf_t **>p, <uint64_t *>(p + room * sizeof(leaf_t *)), room
    x.bytes += room * (sizeof(leaf_t *) + sizeof(uint64_t))
    return 0

cdef inline leaf_t *leaf_new(index_t *x, uint32_t place) noexcept nogil:
    """An empty leaf at `place`. NULL: out of memory."""
    cdef leaf_t *leaf = <leaf_t *>pool_take(x.pool, sizeof(leaf_t))
    if leaf == NULL:
        return NULL
    if x.n == x.room and index_grow(x) < 0:
        pool_give(x.pool, leaf)
        return NULL
    memmove(x.leaves + place + 1, x.leaves + place, (x.n - place) * sizeof(leaf_t *))
    memmove(x.first + place + 1, x.first + place, (x.n - place) * sizeof(uint64_t))
    leaf.n = 0
    x.leaves[place] = leaf
    x.n += 1
    x.bytes += pool_cost(sizeof(leaf_t))
    return leaf

cdef inline int index_add(index_t *x, uint64_t off, uint64_t end, void *at) noexcept nogil:
    """Enter an object whose offset is not there yet. -1: out of memory."""
    cdef uint32_t i = 0, k = 0, half
    cdef leaf_t *leaf = index_seek(x, off, &i, &k) if x.n else leaf_new(x, 0)
    cdef leaf_t *more
    if leaf == NULL:
        return -1
    x.sought = 0
    if leaf.n == LEAF:
        half = LEAF if k == LEAF and i + 1 == x.n else LEAF // 2    # upwards, as streams go, leaves stay full
        more = leaf_new(x, i + 1)
        if more == NULL:
            return -1
        memmove(&more.off[0], &leaf.off[half], (LEAF - half) * sizeof(uint64_t))
        memmove(&more.end[0], &leaf.end[half], (LEAF - half) * sizeof(uint64_t))
        memmove(&more.at[0], &leaf.at[half], (LEAF - half) * sizeof(void *))
        more.n, leaf.n = LEAF - half, half
        x.first[i + 1] = more.off[0]
        if k >= half:
            leaf, k, i = more, k - half, i + 1
    memmove(&leaf.off[k + 1], &leaf.off[k], (leaf.n - k) * sizeof(uint64_t))
    memmove(&leaf.end[k + 1], &leaf.end[k], (leaf.n - k) * sizeof(uint64_t))
    memmove(&leaf.at[k + 1], &leaf.at[k], (leaf.n - k) * sizeof(void *))
    leaf.off[k], leaf.end[k], leaf.at[k] = off, end, at
    leaf.n += 1
    x.first[i] = leaf.off[0]
    return 0

cdef inline void index_remove(index_t *x, uint64_t off) noexcept nogil:
    """Take out the object at `off`, which is there."""
    cdef uint32_t i = 0, k = 0
    cdef leaf_t *leaf = index_seek(x, off, &i, &k)
    x.sought = 0
    leaf.n -= 1
    memmove(&leaf.off[k - 1], &leaf.off[k], (leaf.n - k + 1) * sizeof(uint64_t))
    memmove(&leaf.end[k - 1], &leaf.end[k], (leaf.n - k + 1) * sizeof(uint64_t))
    memmove(&leaf.at[k - 1], &leaf.at[k], (leaf.n - k + 1) * sizeof(void *))
    if leaf.n:
        x.first[i] = leaf.off[0]
        return
    pool_give(x.pool, leaf)
    x.n -= 1
    x.bytes -= pool_cost(sizeof(leaf_t))
    x.hint -= i < x.hint
    memmove(x.leaves + i, x.leaves + i + 1, (x.n - i) * sizeof(leaf_t *))
    memmove(x.first + i, x.first + i + 1, (x.n - i) * sizeof(uint64_t))

cdef inline void index_free(index_t *x) noexcept nogil:
    """Forget all entries and their memory."""
    cdef uint32_t i
    for i in range(x.n):
        pool_give(x.pool, x.leaves[i])
    if x.leaves != x.few:
        free(x.leaves)
    x.leaves, x.first = NULL, NULL
    x.n = x.room = x.sought = x.hint = 0
    x.bytes = 0
