"""The flow table: a keyed hash index over slabs of flows and aliases, and the LRU lists."""
import os

from libc.stdint cimport INT64_MIN, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from mos.flow.flow cimport (
    FLOW_BYTES, FLOW_EMBRYONIC, FLOW_GROUP, FLOW_HEAD, QUEUE_OTHERS, alias_t, flow_cold, flow_cold_t, flow_more, flow_names,
    flow_t, more_t)
from mos.flow.key cimport key_equal
from mos.flow.slab cimport (
    HUGE, MADV_HUGEPAGE, slab_at, slab_expect, slab_free, slab_give, slab_grow, slab_init, slab_objects, slab_take, slab_used)
from mos.net.packet cimport key_t
from posix.mman cimport madvise

from mos.errors import UsageError

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **p, size_t alignment, size_t size)

cdef enum:
    ALIAS_MAX = 4           # names a flow has besides its own: more translators in one chain are a mistake or a loop
    FIRST_INDEX = 4096      # entries of 8 bytes; doubles as it fills
    # Entries a flow, at least. Half full, nine of ten are found at the first or second look, a search that finds nothing takes two
    # and a half on average, and 1,048,576 flows take 16 bytes of index each.
    HALF_FULL = 2
    QUARTER_FULL = 4        # within ROOMY: such a search takes one and a half, and fewer branches are guessed wrong
    ROOMY = HUGE // 8       # entries: one huge page, half of a second-level cache

MAX_FLOWS = 1 << 20         # about 330 MB: what a small box can spare
FLOW_LIMIT = 1 << 26        # 20 GB; keeps slots of aliases below 2**31 and leaves tag bits beyond the index's


cdef int index_resize(table_t *t, uint32_t entries) noexcept nogil:
    """Move all entries to an index of `entries`, a power of two. Needs no flow: the tag says where an entry goes."""
    cdef size_t size = <size_t>entries * sizeof(entry_t)
    cdef bint huge = size >= HUGE // 2          # half of a huge page is left over once: it is found in without a page table
    cdef void *p = NULL
    cdef entry_t *new
    cdef entry_t *old = t.index
    cdef uint32_t mask = entries - 1, i, at
    if posix_memalign(&p, HUGE if huge else 64, max(size, <size_t>HUGE) if huge else size):
        return -1
    if huge:
        madvise(p, max(size, <size_t>HUGE), MADV_HUGEPAGE)
    new = <entry_t *>p
    memset(new, 0xff, <size_t>entries * sizeof(entry_t))
    if old != NULL:
        for i in range(t.mask + 1):
            if old[i].ref != NIL:
                at = old[i].tag & mask
                while new[at].ref != NIL:
                    at = (at + 1) & mask
                new[at] = old[i]
        free(old)
    t.index = new
    t.mask = mask
    return 0


cdef int index_room(table_t *t, uint64_t more) noexcept nogil:
    """Make sure that `more` entries fit. -1: out of memory."""
    cdef uint64_t entries = <uint64_t>t.mask + 1
    while (t.used + more) * (QUARTER_FULL if entries < ROOMY else HALF_FULL) > entries:
        entries *= 2
    if entries == <uint64_t>t.mask + 1:
        return 0
    return index_resize(t, <uint32_t>entries)


cdef void index_insert(table_t *t, uint64_t hash, uint32_t ref) noexcept nogil:
    cdef uint32_t i = <uint32_t>hash & t.mask
    while t.index[i].ref != NIL:
        i = (i + 1) & t.mask
    t.index[i].tag = <uint32_t>hash
    t.index[i].ref = ref
    t.used += 1


cdef void index_erase(table_t *t, uint64_t hash, uint32_t ref) noexcept nogil:
    """Take out the entry of `ref`, which is there. Those behind it move up unless that passes their home."""
    cdef uint32_t hole = <uint32_t>hash & t.mask, i
    while t.index[hole].ref != ref:
        hole = (hole + 1) & t.mask
    i = hole
    while True:
        i = (i + 1) & t.mask
        if t.index[i].ref == NIL:
            break
        if ((i - t.index[i].tag) & t.mask) >= ((i - hole) & t.mask):
            t.index[hole] = t.index[i]
            hole = i
    t.index[hole].ref = NIL
    t.used -= 1


cdef flow_t *table_find_hashed(table_t *t, const key_t *k, uint64_t hash, const alias_t **via) noexcept nogil:
    cdef uint32_t tag = <uint32_t>hash, i = tag & t.mask
    cdef entry_t e
    cdef flow_t *f
    cdef name_t *name
    via[0] = NULL
    while True:
        e = t.index[i]
        if e.ref == NIL:
            return NULL
        if e.tag == tag:
            if e.ref & ALIAS_REF:
                name = <name_t *>slab_at(&t.names, e.ref & ~<uint32_t>ALIAS_REF)
                if key_equal(&name.alias.key, k):
                    via[0] = &name.alias
                    return name.flow
            else:
                f = table_at(t, e.ref)
                if key_equal(&f.key, k):
                    return f
        i = (i + 1) & t.mask


cdef flow_t *table_find(table_t *t, const key_t *k, const alias_t **via) noexcept nogil:
    """Whose packet is it that carries `k`? NULL: nobody's."""
    return table_find_hashed(t, k, table_hash(t, k), via)


cdef flow_t *table_create_hashed(table_t *t, const key_t *k, uint64_t hash, bint embryonic) noexcept nogil:
    cdef uint32_t slot
    cdef flow_t *f
    t.full = t.n_flows == t.max_flows
    if t.full or index_room(t, 1) < 0:
        return NULL
    f = <flow_t *>slab_take(&t.flows, &slot)
    if f == NULL:
        return NULL
    slab_expect(&t.flows)
    memset(f, 0, sizeof(flow_t))
    memset(flow_cold(f), 0, sizeof(flow_cold_t))
    memcpy(&f.key, k, sizeof(key_t))
    t.created += 1
    flow_cold(f).id = t.created
    f.flags = FLOW_EMBRYONIC if embryonic else 0
    f.queued = 0 if embryonic else QUEUE_OTHERS
    lru_append(t, f, 0 if embryonic else 1)
    index_insert(t, hash, slot)
    t.n_flows += 1
    if t.n_flows > t.peak:
        t.peak = t.n_flows
    return f


cdef flow_t *table_create(table_t *t, const key_t *k, bint embryonic) noexcept nogil:
    """A zeroed flow with the next id, the youngest of its list. Look first: `k` must not be in the table.

    NULL: `t.full` tells whether max_flows is reached or memory is out.
    """
    return table_create_hashed(t, k, table_hash(t, k), embryonic)


cdef void name_unindex(table_t *t, name_t *name) noexcept nogil:
    if name.alias.in_table:
        index_erase(t, table_hash(t, &name.alias.key), ALIAS_REF | name.slot)
        name.alias.in_table = 0


cdef void table_remove(table_t *t, flow_t *f) noexcept nogil:
    """Forget `f`, its names and its memory. The caller has cancelled its timer and released what its pointers own."""
    cdef name_t *name = <name_t *>flow_names(f)
    cdef name_t *after
    cdef uint32_t slot = table_slot(t, f)
    cdef known_hash_t *known = &t.expected[slot & 1]
    while name != NULL:
        after = <name_t *>name.alias.next
        name_unindex(t, name)
        slab_give(&t.names, name.slot)
        t.n_aliases -= 1
        name = after
    index_erase(t, known.hash if known.slot == slot else table_hash(t, &f.key), slot)
    if known.slot == slot:
        known.slot = NIL
    lru_unlink(t, f, 1 if f.queued & QUEUE_OTHERS else 0)
    if f.more != NULL:
        free(f.more)
        f.more = NULL
    f.last_ns = INT64_MIN
    t.n_flows -= 1
    slab_give(&t.flows, slot)


cdef name_t *name_at_position(table_t *t, flow_t *f, uint16_t position) noexcept nogil:
    """The name of `f` at `position`, made and linked in order if there is none. NULL: ALIAS_MAX or out of memory."""
    cdef more_t *m = flow_more(f)
    cdef alias_t **link = <alias_t **>&m.alias
    cdef alias_t *a
    cdef int n = 0
    cdef uint32_t slot
    cdef name_t *name
    if m == NULL:
        return NULL
    a = link[0]
    while a != NULL:
        if a.position == position:
            return <name_t *>a
        if a.position < position:
            link = &a.next
        n += 1
        a = a.next
    if n == ALIAS_MAX:
        t.names_refused += 1
        return NULL
    name = <name_t *>slab_take(&t.names, &slot)
    if name == NULL:
        return NULL
    memset(name, 0, sizeof(name_t))
    name.flow = f
    name.slot = slot
    name.alias.position = position
    name.alias.next = link[0]
    link[0] = &name.alias
    t.n_aliases += 1
    return name


cdef int table_alias(table_t *t, flow_t *f, const key_t *k, uint8_t client_hi, uint16_t position) noexcept nogil:
    """On the server's side of the NF at `position` the flow is called `k`; replaces an earlier name at that position.

    Packets are looked up by the flow's own key and by the name of the greatest position: those are on the wires.
    1: done. 0: refused, packets with that key belong to another flow. -1: five names, or out of memory; as before.
    """
    cdef const alias_t *via
    cdef flow_t *owner = table_find(t, k, &via)
    cdef name_t *name
    cdef alias_t *a
    if owner != NULL and owner != f:
        return 0
    if index_room(t, 1) < 0:
        return -1
    name = name_at_position(t, f, position)
    if name == NULL:
        return -1
    a = flow_names(f)
    while a != NULL:
        name_unindex(t, <name_t *>a)
        a = a.next
    memcpy(&name.alias.key, k, sizeof(key_t))
    name.alias.client_hi = client_hi
    name.alias.turns = 0
    a = flow_names(f)
    while a.next != NULL:
        a = a.next
    if not key_equal(&a.key, &f.key):   # translated back: its own entry finds both wires
        index_insert(t, table_hash(t, &a.key), ALIAS_REF | (<name_t *>a).slot)
        a.in_table = 1
    return 1


cdef int table_reserve(table_t *t, uint32_t flows) noexcept nogil:
    """Index and memory for `flows` flows now, so that no packet waits for them. -1: out of memory."""
    if flows > t.max_flows:
        flows = t.max_flows
    if flows > t.n_flows and index_room(t, flows - t.n_flows) < 0:
        return -1
    while slab_objects(&t.flows, t.flows.ready) < flows:
        if slab_grow(&t.flows) < 0:
            return -1
    return 0


cdef int load_key(bytes raw, key_t *k) except -1:
    if len(raw) != sizeof(key_t):
        raise UsageError(f"a flow key has {sizeof(key_t)} bytes, not {len(raw)}")
    memcpy(k, <const char *>raw, sizeof(key_t))
    return 0


cdef flow_t *flow_of(FlowTable table, bytes raw, const alias_t **via) except? NULL:
    cdef key_t k
    load_key(raw, &k)
    return table_find(table.c, &k, via)


cdef class FlowTable:
    """Flows by key, bounded. C code works on `c`; Python sees counters and test ops.

    max_flows: flows at a time. hash_key: 16 secret bytes, drawn from the system if not given; no result depends on it.
    reserve: flows whose memory is taken and touched at once. Raises UsageError and MemoryError.
    """

    def __cinit__(self, *, max_flows=MAX_FLOWS, hash_key=None, reserve=1, _hash_bits=64):
        if not 1 <= max_flows <= FLOW_LIMIT:
            raise UsageError(f"max_flows must be between 1 and {FLOW_LIMIT}, not {max_flows}")
        if hash_key is None:
            hash_key = os.urandom(16)
        if len(hash_key) != 16:
            raise UsageError(f"hash_key must be 16 bytes, not {len(hash_key)}")
        exact = bool(os.environ.get("MOS_SANITIZE"))
        cdef table_t *t = <table_t *>calloc(1, sizeof(table_t))
        self.c = t
        if t == NULL:
            raise MemoryError
        t.k0 = int.from_bytes(hash_key[:8], "little")
        t.k1 = int.from_bytes(hash_key[8:], "little")
        t.hash_mask = (1 << _hash_bits) - 1
        t.max_flows = max_flows
        t.oldest[0] = t.oldest[1] = t.youngest[0] = t.youngest[1] = t.expected[0].slot = t.expected[1].slot = NIL
        if (slab_init(&t.flows, FLOW_BYTES, max_flows, FLOW_GROUP // FLOW_BYTES, FLOW_HEAD // FLOW_BYTES, exact) < 0
                or slab_init(&t.names, sizeof(name_t), ALIAS_MAX * max_flows, 1, 0, exact) < 0
                or index_resize(t, FIRST_INDEX) < 0 or table_reserve(t, min(max(reserve, 1), max_flows)) < 0):
            raise MemoryError(f"a flow table for {max(reserve, 1)} flows")

    def __dealloc__(self):
        if self.c != NULL:
            slab_free(&self.c.flows)
            slab_free(&self.c.names)
            free(self.c.index)
            free(self.c)

    def __len__(self):
        return self.c.n_flows

    def counters(self):
        """flows and aliases now, peak (most flows at a time), created (flows ever), names_refused (a fifth name), index (entries),
        flow_bytes (what one flow takes in the slab, whatever lies elsewhere for it), memory (bytes of all)."""
        cdef table_t *t = self.c
        index = (<uint64_t>t.mask + 1) * sizeof(entry_t)
        return {"flows": t.n_flows, "aliases": t.n_aliases, "peak": t.peak, "created": t.created,
                "names_refused": t.names_refused, "index": t.mask + 1,
                "flow_bytes": FLOW_GROUP // slab_objects(&t.flows, t.flows.group) + 1,
                "memory": index + t.flows.bytes + t.names.bytes + sizeof(table_t)}

    def invariants(self):
        """Raise AssertionError unless every key finds its flow and lists and counts agree. Slow; for tests."""
        cdef table_t *t = self.c
        cdef flow_t *f = table_first(t)
        cdef const alias_t *via
        cdef alias_t *a
        cdef uint32_t flows = 0, used = 0, names = 0, before = NIL, slot
        while f != NULL:
            flows += 1
            used += 1
            slot, id = table_slot(t, f), flow_cold(f).id
            assert table_at(t, slot) == f and flow_in(t, slot) == f and id, f"flow {id}: slot"
            assert table_find(t, &f.key, &via) == f and via == NULL, f"flow {id}: not found by its key"
            assert flow_cold(f).lru_prev in (before, NIL), f"flow {id}: LRU list"
            before = slot
            a = flow_names(f)
            while a != NULL:
                names += 1
                used += a.in_table
                assert a.next == NULL or a.position < a.next.position and not a.in_table, f"flow {id}: names"
                if a.in_table:
                    assert table_find(t, &a.key, &via) == f and via == a, f"flow {id}: not found by its alias"
                a = a.next
            f = table_next(t, f)
        assert flows == t.n_flows <= t.peak <= t.max_flows and flows == slab_used(&t.flows), "flows"
        assert names == t.n_aliases == slab_used(&t.names), "names"
        assert used == t.used and used * HALF_FULL <= <uint64_t>t.mask + 1, "index"

    # For tests: keys are 44 bytes, flows are named by their key.
    def _hash(self, bytes key):
        cdef key_t k
        load_key(key, &k)
        return table_hash(self.c, &k)

    def _find(self, bytes key):
        """(id, position of the alias that matched or None), or None."""
        cdef const alias_t *via
        cdef key_t k
        load_key(key, &k)
        cdef uint64_t hash = table_hash(self.c, &k)
        table_prefetch(self.c, hash)
        cdef flow_t *guess = table_guess(self.c, hash, True)
        cdef flow_t *f = table_find_hashed(self.c, &k, hash, &via)
        assert not table_known(guess, &k) or guess == f and via == NULL
        return None if f == NULL else (flow_cold(f).id, None if via == NULL else via.position)

    def _victim(self, which):
        """Id of the flow that would be evicted: 0 of the embryonic ones, 1 of the others; or None."""
        cdef flow_t *f = table_victim(self.c, which)
        return None if f == NULL else flow_cold(f).id

    def _create(self, bytes key, embryonic=False):
        cdef key_t k
        load_key(key, &k)
        cdef flow_t *f = table_create(self.c, &k, embryonic)
        return None if f == NULL else flow_cold(f).id

    def _do(self, str op, bytes key):
        cdef const alias_t *via
        cdef uint32_t slot
        cdef flow_t *f = flow_of(self, key, &via)
        assert f != NULL, "no such flow"
        if op == "touch":
            table_touch(f)
        elif op == "promote":
            table_promote(f)
        elif op == "expect":
            slot = table_behind(self.c, f)
            if slot != NIL:
                table_expect(self.c, slot, table_hash(self.c, &table_at(self.c, slot).key))
        else:
            assert op == "remove", op
            table_remove(self.c, f)

    def _alias(self, bytes key, bytes further, position, client_hi=0):
        cdef const alias_t *via
        cdef key_t k
        load_key(further, &k)
        return table_alias(self.c, flow_of(self, key, &via), &k, client_hi, position)

    def _order(self):
        """Ids as they are queued."""
        cdef flow_t *f = table_first(self.c)
        ids = []
        while f != NULL:
            ids.append(flow_cold(f).id)
            f = table_next(self.c, f)
        return ids
