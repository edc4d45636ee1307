# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A sorted index of objects by offset: short leaves under one array, so that a search touches a few lines of memory.

Without it whoever sends every second byte of a stream, in any order, makes each further segment walk through all the others.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from mos.net.packet cimport prefetch, prefetch_lines
from mos.tcp.pool cimport pool_cost, pool_give, pool_take, pool_t

cdef enum:
    LEAF = 15               # entries of 16 bytes: four cache lines, fetched at once, of which an insertion moves half
    FEW = 4                 # leaves that are listed in the index itself: no further line to fetch for what most queues have
    LINE = 64
    FETCH = 8 * LINE        # of an object that may come twice: the rest is read in a row
    NO_ENTRY = 0xffffffff   # behind a leaf's last: all are looked at
    BELOW = 1 << 20

cdef struct leaf_t:
    uint32_t off[LEAF + 1]  # ascending, counted from `base`: queues are shorter than the 4 GB of sequence numbers
    uint32_t end[LEAF]      # where each object ends: what lies in a gap is told without a look at the objects
    uint32_t n
    uint64_t base
    void    *at[LEAF]

cdef struct index_t:        # two cache lines; of the second few have need who only look
    leaf_t  **leaves        # `few` or, of more, from malloc
    uint64_t *first         # off[0] of each leaf
    uint64_t  few_first[FEW]
    uint32_t n              # leaves
    uint32_t room
    uint32_t hint           # where leaf_for had to search last
    uint32_t leaf           # index_seek's last answer, if `sought`
    leaf_t   *few[FEW]
    uint64_t sought_off
    uint32_t upto
    uint8_t  sought
    uint64_t bytes          # of leaves and their list
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

cdef inline uint64_t leaf_base(uint64_t off) noexcept nogil:
    """Where a leaf begins to count: below its first entry, as the next may come below that."""
    return off - min(off, <uint64_t>BELOW)

cdef inline uint64_t leaf_off(const leaf_t *leaf, uint32_t i) noexcept nogil:
    return leaf.base + leaf.off[i]

cdef inline uint64_t leaf_end(const leaf_t *leaf, uint32_t i) noexcept nogil:
    return leaf.base + leaf.end[i]

cdef inline uint32_t upto(const leaf_t *leaf, uint64_t off) noexcept nogil:
    """How many entries of the leaf lie at or below `off`. All are looked at: halving would guess two branches wrong."""
    cdef uint32_t i, k = 0, far
    if off < leaf.base:
        return 0
    far = <uint32_t>min(off - leaf.base, <uint64_t>NO_ENTRY - 1)
    for i in range(LEAF + 1):
        k += leaf.off[i] <= far
    return k

cdef inline void leaf_fetch(const leaf_t *leaf, bint objects) noexcept nogil:
    """What says where its entries lie is on its way, or where their `objects` are; line by line each would be waited for."""
    prefetch(<const char *>leaf + (2 * LINE if objects else 0))
    prefetch(<const char *>leaf + (3 * LINE if objects else LINE))

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

cdef inline const leaf_t *index_reach(const index_t *x, uint64_t off, uint64_t end, uint32_t *at) noexcept nogil:
    """The leaf where the first object that reaches into [off, end) is listed, and `at` which place; NULL: none does, and the
    neighbours are fetched: what comes to lie between them is linked to both. The index is not empty. No object is looked at:
    many are cold."""
    cdef uint32_t i = 0, k = 0
    cdef leaf_t *leaf = index_seek(x, off, &i, &k)
    if k and leaf_end(leaf, k - 1) > off:
        at[0] = k - 1
        return leaf
    at[0] = k
    if k < leaf.n and leaf_off(leaf, k) < end:
        return leaf
    if k == leaf.n and i + 1 < x.n and x.first[i + 1] < end:
        at[0] = 0
        return x.leaves[i + 1]
    if k:
        prefetch(leaf.at[k - 1])
    if k < leaf.n:
        prefetch(leaf.at[k])
    return NULL

cdef inline void *index_first(const index_t *x, uint64_t off, uint64_t end) noexcept nogil:
    """The object itself; NULL: none reaches there."""
    cdef uint32_t at = 0
    cdef const leaf_t *leaf = index_reach(x, off, end, &at)
    return leaf.at[at] if leaf != NULL else NULL

cdef inline bint index_fetch(const index_t *index, uint64_t off, bint object, bint whole) noexcept nogil:
    """What is at `off` will be sought soon: fetch the leaf for it or, once that is there, the rest of the leaf, which one that
    is entered needs. There is an object at `off`: True, and it is fetched if its bytes will be looked at, as `whole` says."""
    cdef index_t *x = <index_t *>index
    cdef leaf_t *leaf
    cdef uint32_t i = 0, k = 0
    if x.n == 0:
        return False
    if not object:
        leaf_fetch(x.leaves[leaf_for(x, off)], False)
        return False
    leaf = index_seek(x, off, &i, &k)
    if not k or leaf_end(leaf, k - 1) <= off:
        leaf_fetch(leaf, True)
        return False
    if whole:
        prefetch_lines(<const char *>leaf.at[k - 1], FETCH)
    return True

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

cdef inline leaf_t *leaf_new(index_t *x, uint32_t place, uint64_t off) noexcept nogil:
    """An empty leaf at `place`, for what begins at `off`. NULL: out of memory."""
    cdef leaf_t *leaf = <leaf_t *>pool_take(x.pool, sizeof(leaf_t))
    if leaf == NULL:
        return NULL
    if x.n == x.room and index_grow(x) < 0:
        pool_give(x.pool, leaf)
        return NULL
    memmove(x.leaves + place + 1, x.leaves + place, (x.n - place) * sizeof(leaf_t *))
    memmove(x.first + place + 1, x.first + place, (x.n - place) * sizeof(uint64_t))
    leaf.n = 0
    leaf.base = leaf_base(off)
    memset(leaf.off, 0xff, sizeof(leaf.off))
    x.leaves[place] = leaf
    x.n += 1
    x.bytes += pool_cost(sizeof(leaf_t))
    return leaf

cdef inline bint leaf_spans(leaf_t *leaf, uint64_t off, uint64_t end) noexcept nogil:
    """See to it that [off, end) and all that is listed can be counted from `base`. False: the leaf would be too long."""
    cdef uint64_t first = off, last = end
    cdef uint32_t i, more
    if off >= leaf.base and end - leaf.base < NO_ENTRY:
        return True
    if leaf.n:
        first, last = min(first, leaf_off(leaf, 0)), max(last, leaf_end(leaf, leaf.n - 1))
    first = leaf_base(first)
    if last - first >= NO_ENTRY:
        return False
    more = <uint32_t>(leaf.base - first)        # modulo 2**32, where the new base is above
    for i in range(leaf.n):
        leaf.off[i] += more
        leaf.end[i] += more
    leaf.base = first
    return True

cdef inline void leaf_open(leaf_t *leaf, uint32_t k) noexcept nogil:
    """Move the entries from the k-th on one further."""
    memmove(&leaf.off[k + 1], &leaf.off[k], (leaf.n - k) * sizeof(uint32_t))
    memmove(&leaf.end[k + 1], &leaf.end[k], (leaf.n - k) * sizeof(uint32_t))
    memmove(&leaf.at[k + 1], &leaf.at[k], (leaf.n - k) * sizeof(void *))
    leaf.n += 1

cdef inline int index_add(index_t *x, uint64_t off, uint64_t end, void *at) noexcept nogil:
    """Enter an object whose offset is not there yet. -1: out of memory, or 4 GB from its neighbours."""
    cdef uint32_t i = 0, k = 0, half
    cdef leaf_t *leaf = index_seek(x, off, &i, &k) if x.n else leaf_new(x, 0, off)
    cdef leaf_t *more
    if leaf == NULL:
        return -1
    x.sought = 0
    if leaf.n == LEAF:
        half = LEAF if k == LEAF and i + 1 == x.n else LEAF // 2    # upwards, as streams go, leaves stay full
        more = leaf_new(x, i + 1, off)
        if more == NULL:
            return -1
        if half < LEAF:
            more.base = leaf.base
        memcpy(&more.off[0], &leaf.off[half], (LEAF - half) * sizeof(uint32_t))
        memcpy(&more.end[0], &leaf.end[half], (LEAF - half) * sizeof(uint32_t))
        memcpy(&more.at[0], &leaf.at[half], (LEAF - half) * sizeof(void *))
        memset(&leaf.off[half], 0xff, (LEAF - half) * sizeof(uint32_t))
        more.n, leaf.n = LEAF - half, half
        x.first[i + 1] = leaf_off(more, 0)
        if k >= half:
            leaf, k, i = more, k - half, i + 1
    if not leaf_spans(leaf, off, end):
        return -1
    leaf_open(leaf, k)
    leaf.off[k], leaf.end[k], leaf.at[k] = <uint32_t>(off - leaf.base), <uint32_t>(end - leaf.base), at
    x.first[i] = leaf_off(leaf, 0)
    return 0

cdef inline void index_remove(index_t *x, uint64_t off) noexcept nogil:
    """Take out the object at `off`, which is there."""
    cdef uint32_t i = 0, k = 0
    cdef leaf_t *leaf = index_seek(x, off, &i, &k)
    x.sought = 0
    leaf.n -= 1
    memmove(&leaf.off[k - 1], &leaf.off[k], (leaf.n - k + 2) * sizeof(uint32_t))
    memmove(&leaf.end[k - 1], &leaf.end[k], (leaf.n - k + 1) * sizeof(uint32_t))
    memmove(&leaf.at[k - 1], &leaf.at[k], (leaf.n - k + 1) * sizeof(void *))
    if leaf.n:
        x.first[i] = leaf_off(leaf, 0)
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
