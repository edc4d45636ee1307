# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The flow table: from key to flow in one or two cache misses, and whom to evict.

Flows stand in a queue from which the first is evicted. One that was used since it came there goes to the end once instead
("second chance"): so a packet marks its flow and touches no other, where a list kept in order would touch three.
"""
from libc.stdint cimport INT64_MIN, uint8_t, uint16_t, uint32_t, uint64_t
from mos.flow.flow cimport FLOW_BYTES, FLOW_EMBRYONIC, QUEUE_OTHERS, QUEUE_USED, alias_t, flow_cold, flow_cold_t, flow_t
from mos.flow.key cimport key_equal, key_hash
from mos.flow.slab cimport slab_at, slab_holds, slab_t
from mos.net.packet cimport key_t, prefetch, prefetch_lines

cdef enum:
    NIL = 0xffffffff        # no slot
    GLANCE = 16             # entries further on a flow is looked for ahead of time: in a half-full index all but a few in 10,000
    ASIDE = 16              # flows further on one is fetched when all are gone through
    ALIAS_REF = 0x80000000  # this bit in entry_t.ref: a slot of `names`, not of `flows`

cdef struct entry_t:
    uint32_t tag            # low half of the key's hash; `tag & mask` is where it would like to be
    uint32_t ref            # slot, NIL: empty

cdef struct name_t:         # what an alias_t is part of
    alias_t  alias          # first: flow_t.alias and its `next` point here
    flow_t  *flow
    uint32_t slot

cdef struct known_hash_t:
    uint32_t slot           # NIL: of no flow
    uint64_t hash

cdef struct table_t:
    entry_t *index          # linear probing; deletion shifts back, so there are no tombstones
    uint32_t mask           # entries - 1
    uint32_t used
    uint64_t k0             # hash key
    uint64_t k1
    uint64_t hash_mask      # all ones but in tests
    slab_t   flows
    slab_t   names
    uint32_t oldest[2]      # LRU lists by slot: [0] embryonic, [1] the others; lru_next leads to younger flows
    uint32_t youngest[2]
    uint32_t n_flows
    uint32_t n_aliases
    uint32_t peak           # most flows at a time
    uint32_t max_flows
    uint64_t created        # flows ever; the last one's id, until its stack gives it another
    uint64_t names_refused  # a name beyond ALIAS_MAX
    known_hash_t expected[2]    # by slot % 2: flows that are likely to be removed next
    bint     full           # why table_create gave NULL: 1 max_flows reached, 0 out of memory

cdef class FlowTable:
    cdef table_t *c

# `hash` is table_hash(t, k) and `via[0]` becomes the alias that matched, NULL for the flow's own key.
cdef flow_t *table_find_hashed(table_t *t, const key_t *k, uint64_t hash, const alias_t **via) noexcept nogil
cdef flow_t *table_find(table_t *t, const key_t *k, const alias_t **via) noexcept nogil
cdef flow_t *table_create_hashed(table_t *t, const key_t *k, uint64_t hash, bint embryonic) noexcept nogil
cdef flow_t *table_create(table_t *t, const key_t *k, bint embryonic) noexcept nogil
cdef void table_remove(table_t *t, flow_t *f) noexcept nogil
cdef int table_alias(table_t *t, flow_t *f, const key_t *k, uint8_t client_hi, uint16_t position) noexcept nogil
cdef int table_reserve(table_t *t, uint32_t flows) noexcept nogil

cdef inline flow_t *table_at(const table_t *t, uint32_t slot) noexcept nogil:
    """The flow in `slot`, which must be in use."""
    return <flow_t *>slab_at(&t.flows, slot)

cdef inline uint32_t table_slot(const table_t *t, const flow_t *f) noexcept nogil:
    """Where table_at finds `f`."""
    return (<const uint32_t *>f - 1)[0] if t.flows.exact else <uint32_t>((<const char *>f - t.flows.base) // FLOW_BYTES)

cdef inline uint64_t table_hash(const table_t *t, const key_t *k) noexcept nogil:
    return key_hash(k, t.k0, t.k1) & t.hash_mask

cdef inline void table_prefetch(const table_t *t, uint64_t hash) noexcept nogil:
    """Start to load the index line that `hash` will need; worth it some packets ahead."""
    prefetch(&t.index[<uint32_t>hash & t.mask])

cdef inline const entry_t *glance_at(const table_t *t, uint64_t hash) noexcept nogil:
    """The first entry with this hash's tag, near where it should be, or the empty one that says there is none; NULL: neither."""
    cdef uint32_t tag = <uint32_t>hash
    cdef const entry_t *e = &t.index[tag & t.mask]
    cdef const entry_t *last = NULL
    if e.tag != tag:
        last = &t.index[min((tag & t.mask) + GLANCE, t.mask)]
    while e.tag != tag and e.ref != NIL:
        if e == last:
            return NULL
        e += 1
    return e

cdef inline const entry_t *glance(const table_t *t, uint64_t hash) noexcept nogil:
    """The same if it is of a flow's own key; else NULL."""
    cdef const entry_t *e = glance_at(t, hash)
    return e if e != NULL and not e.ref & ALIAS_REF else NULL       # NIL has that bit, too

cdef inline flow_t *table_guess(const table_t *t, uint64_t hash, bint cold) noexcept nogil:
    """Whose packet that will be, once table_prefetch has had its time: its flow's first line is fetched, with its `cold` part or
    without. table_fetch has the others.

    NULL: not there at a glance. Look with table_known before it is believed: another flow may have the same tag, and until the
    packet's turn it may go.
    """
    cdef const entry_t *e = glance(t, hash)
    cdef flow_t *f
    if e == NULL or t.flows.exact:
        return NULL
    f = table_at(t, e.ref)
    prefetch(f)
    prefetch(<const void *>flow_cold(f) if cold else f)     # no branch: who can tell which packet comes next
    return f

cdef inline void table_fetch(const flow_t *guess) noexcept nogil:
    """Fetch what is behind the first line of what table_guess gave, some packets later."""
    if guess != NULL:
        prefetch_lines(<const char *>guess + 64, FLOW_BYTES - 64)

cdef inline bint table_known(const flow_t *f, const key_t *k) noexcept nogil:
    """Is what was guessed the flow with this key of its own, and still there?"""
    return f != NULL and key_equal(&f.key, k) and f.last_ns != INT64_MIN

cdef inline flow_t *table_peek(const table_t *t, const key_t *k, uint64_t hash, bint *none) noexcept nogil:
    """The flow with this key of its own, where that takes no more than a glance; NULL: table_find_hashed knows, and need not be
    asked if `none` says that no flow is called so."""
    cdef const entry_t *e = glance_at(t, hash)
    cdef flow_t *f
    none[0] = e != NULL and e.ref == NIL
    if e == NULL or e.ref & ALIAS_REF:
        return NULL
    f = table_at(t, e.ref)
    return f if key_equal(&f.key, k) else NULL

cdef inline void lru_unlink(table_t *t, flow_t *f, int which) noexcept nogil:
    cdef flow_cold_t *c = flow_cold(f)
    if c.lru_prev == NIL:
        t.oldest[which] = c.lru_next
    else:
        flow_cold(table_at(t, c.lru_prev)).lru_next = c.lru_next
    if c.lru_next == NIL:
        t.youngest[which] = c.lru_prev
    else:
        flow_cold(table_at(t, c.lru_next)).lru_prev = c.lru_prev

cdef inline void lru_append(table_t *t, flow_t *f, int which) noexcept nogil:
    cdef flow_cold_t *c = flow_cold(f)
    cdef uint32_t slot = table_slot(t, f)
    c.lru_next = NIL
    c.lru_prev = t.youngest[which]
    if c.lru_prev == NIL:
        t.oldest[which] = slot
    else:
        flow_cold(table_at(t, c.lru_prev)).lru_next = slot
    t.youngest[which] = slot

cdef inline flow_t *flow_in(const table_t *t, uint32_t slot) noexcept nogil:
    """The flow in a slot that was handed out before; NULL: it is free, or holds none."""
    cdef flow_t *f
    if slot & (t.flows.group - 1) < t.flows.head or (t.flows.exact and not slab_holds(&t.flows, slot)):
        return NULL
    f = table_at(t, slot)
    prefetch(&f[ASIDE].last_ns)
    return f if f.last_ns != INT64_MIN else NULL

cdef inline void table_touch(flow_t *f) noexcept nogil:
    """`f` was used."""
    if not f.queued & QUEUE_USED:       # else its line need not be written
        f.queued |= QUEUE_USED

cdef inline void table_promote(flow_t *f) noexcept nogil:
    """`f` is embryonic no longer. It changes queues when it is its turn to be evicted."""
    f.flags &= ~FLOW_EMBRYONIC

cdef inline flow_t *table_first(const table_t *t) noexcept nogil:
    """First of all flows: the queue of embryonic ones, then that of the others. NULL: none."""
    cdef uint32_t slot = t.oldest[0] if t.oldest[0] != NIL else t.oldest[1]
    return NULL if slot == NIL else table_at(t, slot)

cdef inline flow_t *table_next(const table_t *t, const flow_t *f) noexcept nogil:
    """The flow after `f` in that order, NULL at the end. Ask before `f` is removed or touched."""
    cdef uint32_t slot = flow_cold(f).lru_next
    if slot == NIL and not f.queued & QUEUE_OTHERS:
        slot = t.oldest[1]
    return NULL if slot == NIL else table_at(t, slot)

cdef inline flow_t *table_victim(table_t *t, int which) noexcept nogil:
    """Whom to evict of the embryonic flows (0) or the others (1): the first not used since it was queued. NULL: there is none.

    Ask for the embryonic ones first: it is then that those which no longer are change queues. Each flow that is passed over had
    a packet since, so this costs a step a packet at most, however it is spread.
    """
    cdef flow_t *f
    while t.oldest[which] != NIL:
        f = table_at(t, t.oldest[which])
        if which == 0 and not f.flags & FLOW_EMBRYONIC:
            lru_unlink(t, f, 0)
            lru_append(t, f, 1)
            f.queued |= QUEUE_OTHERS    # with its chance: all who were queued before it may come at the same time
        elif f.queued & QUEUE_USED:
            f.queued &= ~QUEUE_USED
            if flow_cold(f).lru_next != NIL:
                lru_unlink(t, f, which)
                lru_append(t, f, which)
        else:
            return f
    return NULL

cdef inline void table_remember(table_t *t, uint32_t slot, uint64_t hash) noexcept nogil:
    """The flow in `slot`, likely to be removed next, has this hash, or one with the same low half."""
    t.expected[slot & 1].slot, t.expected[slot & 1].hash = slot, hash

cdef inline uint32_t table_behind(const table_t *t, const flow_t *victim) noexcept nogil:
    """The slot of the flow behind one that is evicted now, which most likely is evicted next. NIL: there is none, or no need."""
    return NIL if t.flows.exact else flow_cold(victim).lru_next

cdef inline void table_expect(table_t *t, uint32_t slot, uint64_t hash) noexcept nogil:
    """The flow in `slot` will go soon: call for what that will touch, and for the flow behind it. `hash`: as table_remember's."""
    table_remember(t, slot, hash)
    table_prefetch(t, hash)
    slot = flow_cold(table_at(t, slot)).lru_next
    if slot != NIL:
        prefetch_lines(<const char *>table_at(t, slot), FLOW_BYTES)
        prefetch(flow_cold(table_at(t, slot)))
