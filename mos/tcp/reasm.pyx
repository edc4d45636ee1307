"""Reassembly of one direction (contract in reasm.pxd; RFC 9293 section 3.10.7.4, overlaps by mos.tcp.policies)."""
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from mos.net.packet cimport prefetch
from mos.tcp.index cimport index_fetch_least, index_free
from mos.tcp.overlap cimport compare_kept, note_conflict, relation
from mos.tcp.pool cimport pool_cost, pool_give, pool_objects
from mos.tcp.queue cimport (
    SWALLOW, budget_close, budget_open, budget_take, queue_floor, queue_from, queue_growth, queue_invariants, queue_leave,
    queue_link, queue_own, queue_swallow, queue_unlink, reasm_open, seg_cost, seg_curtail, seg_data, seg_drop, seg_end, seg_new,
    seg_queued, seg_t)

from mos.tcp import policies

for _i, _wins in enumerate(policies.table()):
    new_wins[_i] = _wins


cdef reasm_t *reasm_offered(reasm_t **r, budget_t *b, uint64_t to) noexcept nogil:
    """Remember that bytes below `to` were offered to handlers; NULL when there is no memory for it."""
    cdef reasm_t *q = reasm_open(r, b)
    if q != NULL and to > q.offered:
        q.offered = to
    return q


cdef void plan_init(plan_t *p) noexcept nogil:
    p.n = p.cap = p.lent = p.compare = 0
    p.pieces = NULL


cdef void plan_free(plan_t *p) noexcept nogil:
    free(p.pieces)
    p.pieces = NULL
    p.cap = 0


cdef int plan_add(plan_t *p, uint64_t off, const uint8_t *data, uint64_t n, uint8_t doubtful, uint8_t is_new) noexcept nogil:
    cdef uint32_t cap
    cdef piece_t *bigger
    if n == 0:
        return 0
    if p.n == p.cap:
        cap = p.cap * 2 if p.cap else 16
        bigger = <piece_t *>realloc(p.pieces, cap * sizeof(piece_t))
        if bigger == NULL:
            return -1
        p.pieces = bigger
        p.cap = cap
    cdef piece_t *piece = &p.pieces[p.n]
    piece.off, piece.len, piece.data, piece.shown = off, <uint32_t>n, data, data
    piece.doubtful, piece.is_new = doubtful, is_new
    p.n += 1
    p.to = off + n
    return 0


cdef void plan_pieces(const reasm_t *r, plan_t *p, const uint8_t *wins) noexcept nogil:
    """The winners from `next` on: the segment and queued bytes by policy, then whatever the queue continues with."""
    cdef uint64_t a = p.off, b = p.off + p.len, pos = p.off, hi
    cdef seg_t *s = r.head if r != NULL else NULL
    while s != NULL and s.off < b:
        if s.off > pos:
            plan_add(p, pos, p.data + (pos - a), s.off - pos, p.doubtful, 1)
            pos = s.off
        hi = min(seg_end(s), b)
        if wins[relation(a, b, s.off, seg_end(s))]:
            plan_add(p, pos, p.data + (pos - a), hi - pos, p.doubtful, 1)
        else:
            plan_add(p, pos, seg_data(s) + (pos - s.off), hi - pos, s.doubtful, 0)
        pos = hi
        if seg_end(s) > b:
            plan_add(p, b, seg_data(s) + (b - s.off), seg_end(s) - b, s.doubtful, 0)
            pos = seg_end(s)
        s = s.next
    if pos < b:
        plan_add(p, pos, p.data + (pos - a), b - pos, p.doubtful, 1)
        pos = b
    while s != NULL and s.off == pos:
        plan_add(p, pos, seg_data(s), s.len, s.doubtful, 0)
        pos = seg_end(s)
        s = s.next


cdef void reasm_probe(const reasm_t *r, plan_t *p, const limits_t *lim, const budget_t *b, uint64_t next, uint64_t off,
                      const uint8_t *data, uint32_t len, uint8_t policy) noexcept nogil:
    """Fill `p` with what [off, off + len) would deliver when everything below `next` has been. Reads only."""
    cdef uint32_t cut, held = 0, runs = 0
    cdef uint64_t lo, hi, at
    cdef seg_t *s
    p.next = p.to = next
    p.n = p.dup = p.touched = p.conflicts.n = p.conflicts.bytes = 0
    p.policy = policy
    p.over = p.doubtful = 0
    if off < next:
        cut = <uint32_t>min(<uint64_t>len, next - off)
        p.dup = cut
        if r != NULL and p.compare:
            compare_kept(&r.kept, &p.conflicts, off, data, cut)
        off, data, len = off + cut, data + cut, len - cut
    p.off, p.len, p.data = off, len, data
    if len == 0:
        return
    at = off
    s = queue_from(r, off, off + len) if r != NULL else NULL
    while s != NULL and s.off < off + len:
        lo = max(off, s.off)
        hi = min(off + len, seg_end(s))
        if lo < hi:
            p.touched += 1
            held += <uint32_t>(hi - lo)
            runs += lo > at
            at = hi
            if p.compare:
                note_conflict(&p.conflicts, lo, seg_data(s) + (lo - s.off), data + (lo - off), hi - lo)
        s = s.next if at < off + len else NULL
    runs += at < off + len
    p.dup += held
    if off == next:
        plan_pieces(r, p, &new_wins[policy * RELATION_COUNT])
    else:
        p.over = <uint8_t>excess(r, lim, b, len - held, runs if p.touched <= SWALLOW or runs == 0 else 1)


cdef void reasm_probe_again(const reasm_t *r, plan_t *p, const limits_t *lim, const budget_t *b, uint64_t next, uint64_t off,
                            const uint8_t *data, uint32_t len, uint8_t policy) noexcept nogil:
    """reasm_probe once more, when what lies below `next` was given up meanwhile. A segment that touches nothing still does."""
    if p.touched or off <= next or p.off != off or p.len != len:
        reasm_probe(r, p, lim, b, next, off, data, len, policy)
        return
    p.next = p.to = next
    p.over = <uint8_t>excess(r, lim, b, len, 1)


cdef int insert(reasm_t *r, plan_t *p, budget_t *b, bint fits) noexcept nogil:
    """Queue the plan's segment: overwrite where it wins, fill what nobody holds. -1: memory ran out midway. `fits`: `excess`
    found room for it and for what the index grows by."""
    cdef uint64_t lo = p.off, a = p.off, end = p.off + p.len, hi, old_end
    cdef const uint8_t *wins = &new_wins[p.policy * RELATION_COUNT]
    cdef seg_t *prev = NULL
    cdef seg_t *s = NULL
    cdef seg_t *fresh
    if p.touched > SWALLOW:
        return queue_swallow(r, b, p.off, p.data, p.len, p.doubtful, wins)
    if fits and p.touched == 0 and r.index.n:       # between its neighbours, whose lines are only on their way
        fresh = seg_queued(b, lo, p.data, p.len, p.doubtful, p.lent)
        return queue_link(r, b, queue_floor(r, lo), fresh) if fresh != NULL else -1
    if r.index.n == 0 and r.tail != NULL and seg_end(r.tail) <= lo:
        prev = r.tail
    else:
        s = queue_floor(r, lo)
        if s == NULL:
            s = r.head
    while lo < end:
        while s != NULL and seg_end(s) <= lo:
            prev, s = s, s.next
        if s == NULL or s.off > lo:
            hi = end if s == NULL else min(end, s.off)
            if not fits and b.used + seg_cost(hi - lo) + queue_growth(r, 1) > b.cap:
                b.refused += 1
                return -1
            fresh = seg_queued(b, lo, p.data + (lo - a), <uint32_t>(hi - lo), p.doubtful, p.lent)
            if fresh == NULL or queue_link(r, b, prev, fresh) < 0:
                return -1
            prev = fresh
            lo = hi
        else:
            old_end = seg_end(s)
            hi = min(end, old_end)
            if wins[relation(a, end, s.off, old_end)]:
                if not s.room:
                    s = queue_own(r, b, s)
                    if s == NULL:
                        return -1
                memcpy(seg_data(s) + (lo - s.off), p.data + (lo - a), hi - lo)
            lo = hi
            prev, s = s, s.next
    return 0


cdef void drop_below(reasm_t *r, budget_t *b, uint64_t to) noexcept nogil:
    """Free queued segments that end at or below `to` and parked ones likewise; `to` never cuts a queued one."""
    while r.head != NULL and seg_end(r.head) <= to:
        queue_leave(r, b, r.head)
        queue_unlink(r, b, NULL, r.head)
    if r.index.n:
        index_fetch_least(&r.index)     # asked for the length of the next hole, and whether there is one behind it
    elif r.head != NULL:
        prefetch(r.head)
    if r.doubts and to > r.doubt_ends:
        forget_doubts(r, b, to)


cdef void forget_doubts(reasm_t *r, budget_t *b, uint64_t to) noexcept nogil:
    cdef seg_t *s
    cdef seg_t **at = &r.doubt
    r.doubt_tail, r.doubt_ends = NULL, <uint64_t>-1
    while at[0] != NULL:
        s = at[0]
        if seg_end(s) <= to:
            drop_doubt(r, b, at)
        else:
            r.doubt_tail, r.doubt_ends = s, min(r.doubt_ends, seg_end(s) - 1)
            at = &s.next


cdef void drop_doubt(reasm_t *r, budget_t *b, seg_t **at) noexcept nogil:
    """Take the parked segment that `at` leads to out of the list; the caller sees to `doubt_tail`."""
    cdef seg_t *s = at[0]
    at[0] = s.next
    r.doubt_bytes -= s.len
    r.doubts -= 1
    seg_drop(b, s)


cdef int reasm_commit(reasm_t **r, plan_t *p, budget_t *b, int64_t now) noexcept nogil:
    """Make the plan true: forget what it delivered, or queue its segment. -1: it did not fit, nothing is promised of it."""
    cdef reasm_t *q = r[0] if r != NULL else NULL
    if p.to > p.next:
        if q != NULL:
            drop_below(q, b, p.to)
            q.acked_ns = 0
            q.hole_ns = now if q.head != NULL else 0
        return 0
    if p.len == 0:
        return 0
    if p.over:
        b.refused += p.over == OVER_BUDGET
        return -1
    q = reasm_open(r, b)
    if q == NULL:
        return -1
    if q.head == NULL:
        q.hole_ns = now
    return insert(q, p, b, True)


cdef void reasm_ready(const reasm_t *r, plan_t *p, uint64_t next) noexcept nogil:
    """Fill `p` with what the queue alone can deliver at `next` (after an adoption or a skipped hole)."""
    p.next = p.to = p.off = next
    p.len = p.n = p.dup = p.touched = p.conflicts.n = p.conflicts.bytes = 0
    p.over = p.doubtful = 0
    p.data = NULL
    plan_pieces(r, p, &new_wins[0])


cdef int reasm_park(reasm_t **r, const limits_t *lim, budget_t *b, uint64_t off, const uint8_t *data, uint32_t len) noexcept nogil:
    """Keep a refused segment's bytes until the receiver's ACK tells. 1: the oldest have gone for it. -1: no memory or too long."""
    cdef reasm_t *q = NULL
    cdef int gone = 0
    cdef seg_t *s
    if 0 < len <= lim.doubt_bytes:
        q = reasm_open(r, b)
    if q == NULL:
        return -1
    while q.doubt != NULL and (q.doubt_bytes + len > lim.doubt_bytes or q.doubts >= lim.doubts):
        drop_doubt(q, b, &q.doubt)
        gone = 1
    s = seg_new(b, off, data, len, 1)
    if s == NULL:
        return -1
    park_behind(q, q.doubt_tail if q.doubt != NULL else NULL, s)
    return gone


cdef void park_behind(reasm_t *q, seg_t *at, seg_t *s) noexcept nogil:
    """Enter `s` among the parked, behind `at` (NULL: as the first)."""
    if q.doubt == NULL:
        q.doubt_ends = <uint64_t>-1
    s.next = at.next if at != NULL else q.doubt
    if at != NULL:
        at.next = s
    else:
        q.doubt = s
    if s.next == NULL:
        q.doubt_tail = s
    q.doubt_ends = min(q.doubt_ends, seg_end(s) - 1)
    q.doubt_bytes += s.len
    q.doubts += 1


cdef bint reasm_parked(const reasm_t *r, uint64_t to) noexcept nogil:
    """Does a parked segment reach up to `to`?"""
    cdef seg_t *s = r.doubt if r != NULL else NULL
    while s != NULL:
        if s.off < to <= seg_end(s):
            return True
        s = s.next
    return False


cdef int reasm_adopt(reasm_t *r, const limits_t *lim, budget_t *b, uint64_t next, uint64_t lo, uint64_t hi) noexcept nogil:
    """Queue the parked bytes within [lo, hi) that nothing queued covers: the receiver has acknowledged them.

    They are parked no longer, so that each byte is taken up once, however often it is acknowledged.
    """
    cdef seg_t **at = &r.doubt
    cdef seg_t *kept = NULL
    cdef seg_t *s
    cdef seg_t *rest
    cdef plan_t p
    cdef uint64_t a, e
    cdef int taken = 0
    lo = max(lo, next)
    p.policy, p.doubtful, p.lent, p.touched = 0, 1, 0, 1       # nobody has looked whether it touches something
    while at[0] != NULL:
        s = at[0]
        a, e = max(s.off, lo), min(seg_end(s), hi)
        if a < e:
            p.off, p.len, p.data = a, <uint32_t>(e - a), seg_data(s) + (a - s.off)
        if a >= e or insert(r, &p, b, False) < 0:
            kept, at = s, &s.next
            continue
        taken += 1
        rest = seg_new(b, e, seg_data(s) + (e - s.off), <uint32_t>(seg_end(s) - e), 1) if e < seg_end(s) else NULL
        if rest != NULL:
            park_behind(r, s, rest)
        if s.off < a and next < a and r.doubts <= lim.doubts:   # else cutting it in two would be one too many
            r.doubt_bytes -= s.len - (a - s.off)
            seg_curtail(b, s, <uint32_t>(a - s.off))
            r.doubt_ends = min(r.doubt_ends, a - 1)
            kept, at = s, &s.next
        else:
            drop_doubt(r, b, at)
    r.doubt_tail = kept
    return taken


cdef uint64_t reasm_hole(const reasm_t *r, uint64_t next) noexcept nogil:
    """Bytes missing between `next` and the first queued byte; 0: nothing is queued."""
    return r.head.off - next if r != NULL and r.head != NULL else 0


cdef int reasm_keep(reasm_t **r, const limits_t *lim, budget_t *b, const uint8_t *data, uint32_t len, uint64_t end) noexcept nogil:
    """Retain delivered bytes that end at offset `end`, so that a retransmission can be compared with them."""
    cdef reasm_t *q = reasm_open(r, b)
    cdef uint32_t skip, i, first
    cdef uint64_t start
    if q == NULL:
        return -1
    if q.kept.data == NULL:
        if b.used + lim.keep > b.cap // 2:      # comparing is a luxury: it leaves room for reassembly
            b.refused += 1
            return -1
        q.kept.data = <uint8_t *>malloc(lim.keep)
        if q.kept.data == NULL:
            return -1
        budget_take(b, lim.keep)
        q.kept.cap = lim.keep
    if q.kept.len and q.kept.to != end - len:
        q.kept.len = 0
    skip = len - q.kept.cap if len > q.kept.cap else 0
    start = end - len + skip
    i = <uint32_t>(start % q.kept.cap)
    first = min(len - skip, q.kept.cap - i)
    memcpy(q.kept.data + i, data + skip, first)
    memcpy(q.kept.data, data + skip + first, len - skip - first)
    q.kept.to = end
    q.kept.len = min(q.kept.cap, q.kept.len + len)
    return 0


cdef void reasm_skip(reasm_t *r, budget_t *b, uint64_t next) noexcept nogil:
    """A hole up to `next` was given up."""
    drop_below(r, b, next)
    r.acked_ns = 0
    if r.head == NULL:
        r.hole_ns = 0


cdef void reasm_free(reasm_t **r, budget_t *b) noexcept nogil:
    """Release everything the direction holds."""
    cdef seg_t *s
    cdef seg_t *following
    cdef seg_t *lists[4]
    cdef int i
    if r[0] == NULL:
        return
    lists[0], lists[1], lists[2], lists[3] = r[0].head, r[0].doubt, r[0].waiting, r[0].sent
    for i in range(4):
        s = lists[i]
        while s != NULL:
            following = s.next
            seg_drop(b, s)
            s = following
    if r[0].kept.data != NULL:
        b.used -= r[0].kept.cap
        free(r[0].kept.data)
    b.used -= pool_cost(sizeof(reasm_t)) + r[0].index.bytes
    index_free(&r[0].index)
    pool_give(&b.pool, r[0])
    r[0] = NULL


cdef bint reasm_invariants(const reasm_t *r, uint64_t next) noexcept nogil:
    """Queue sorted, disjoint, above `next`, all of it in the index; counts true. For tests and debug builds."""
    cdef seg_t *s
    cdef seg_t *last = NULL
    cdef uint64_t total = 0
    cdef uint32_t n = 0
    if r == NULL:
        return True
    if not queue_invariants(r, next):
        return False
    s = r.doubt
    while s != NULL:
        if s.len == 0 or seg_end(s) <= r.doubt_ends:
            return False
        total += s.len
        n += 1
        last = s
        s = s.next
    return total == r.doubt_bytes and n == r.doubts and (n == 0 or last == r.doubt_tail)


cdef class Reassembler:
    """One direction as a Python object: what the model tests drive. `write` probes, and commits unless told not to."""
    cdef reasm_t *r
    cdef plan_t p
    cdef limits_t lim
    cdef budget_t b
    cdef uint64_t next
    cdef uint8_t policy
    cdef readonly list conflicts    # of the last write: [(offset, old, new)]

    def __cinit__(self, policy="first", limit=1 << 20, segments=4096, keep=0, budget=1 << 30, pool=True):
        plan_init(&self.p)
        self.p.compare = 1
        self.lim.bytes, self.lim.segs, self.lim.keep = limit, segments, keep
        self.lim.doubt_bytes, self.lim.doubts = 65536, 64
        self.policy = policies.index(policy)
        budget_open(&self.b, budget, pool)

    def __dealloc__(self):
        reasm_free(&self.r, &self.b)
        budget_close(&self.b, NULL)
        plan_free(&self.p)

    def write(self, uint64_t offset, bytes data, commit=True):
        """The bytes it delivers, or None where it was refused. Raises AssertionError when an invariant breaks."""
        cdef uint32_t i
        cdef int rc = 0
        reasm_probe(self.r, &self.p, &self.lim, &self.b, self.next, offset, data, <uint32_t>len(data), self.policy)
        out = b"".join([self.p.pieces[i].data[:self.p.pieces[i].len] for i in range(self.p.n)])
        self.conflicts = [(self.p.conflicts.at[i].off, self.p.conflicts.at[i].old[:self.p.conflicts.at[i].len],
                           self.p.conflicts.at[i].new[:self.p.conflicts.at[i].len]) for i in range(self.p.conflicts.n)]
        assert self.p.to - self.next == len(out)
        if commit:
            rc = reasm_commit(&self.r, &self.p, &self.b, 1)
            self.next = self.p.to
            if rc == 0 and self.lim.keep and out:
                reasm_keep(&self.r, &self.lim, &self.b, out, <uint32_t>len(out), self.next)
        assert reasm_invariants(self.r, self.next)
        return out if rc == 0 else None

    def park(self, uint64_t offset, bytes data):
        """Park doubtful bytes; True if there was room."""
        return reasm_park(&self.r, &self.lim, &self.b, offset, data, <uint32_t>len(data)) >= 0

    def acked(self, uint64_t to):
        """The receiver acknowledged up to `to`: adopt what is parked, deliver what is whole."""
        cdef uint32_t i
        if self.r == NULL:
            return b""
        reasm_adopt(self.r, &self.lim, &self.b, self.next, self.next, to)
        reasm_ready(self.r, &self.p, self.next)
        out = b"".join([self.p.pieces[i].data[:self.p.pieces[i].len] for i in range(self.p.n)])
        reasm_commit(&self.r, &self.p, &self.b, 1)
        self.next = self.p.to
        assert reasm_invariants(self.r, self.next)
        return out

    def skip(self):
        """Give up the hole before the first queued byte; (its length, what then is delivered)."""
        hole = reasm_hole(self.r, self.next)
        self.next += hole
        return hole, self.acked(self.next)

    @property
    def state(self):
        """Delivered offset, queued bytes and segments, memory in use, objects and spans of the pool."""
        cdef reasm_t none
        cdef reasm_t *r = self.r if self.r != NULL else &none
        memset(&none, 0, sizeof(none))
        return {"next": self.next, "queued": r.bytes, "segments": r.segs, "parked": r.doubts, "duplicate": self.p.dup,
                "used": self.b.used, "leaves": r.index.n, "objects": pool_objects(&self.b.pool), "spans": self.b.pool.used}
