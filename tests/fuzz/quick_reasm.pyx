# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Segments of one direction in any order: each byte is delivered once and in order, is one that was sent for its place, and
the very one where all copies agree; bounds hold, the sums of memory are true, and probing changes nothing."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from mos.tcp.overlap cimport MAX_CONFLICTS
from mos.tcp.queue cimport budget_t, reasm_t
from mos.tcp.reasm cimport (limits_t, plan_free, plan_init, plan_t, reasm_adopt, reasm_commit, reasm_free, reasm_hole, reasm_invariants,
                            reasm_keep, reasm_park, reasm_parked, reasm_probe, reasm_ready, reasm_skip)
from quick cimport held, input_t, must, take

from mos.tcp.policies import POLICIES

cdef int NPOLICIES = len(POLICIES)

cdef struct side_t:         # one direction, and how to judge it
    reasm_t *r
    plan_t   plan
    limits_t limits
    budget_t budget
    uint64_t next
    uint64_t base           # offsets start here
    uint8_t  policy
    bint     honest         # every copy of a byte so far was the same


cdef inline uint8_t content(uint64_t off) noexcept nogil:
    return <uint8_t>(off * 7 + (off >> 8))


cdef uint8_t *segment(uint64_t off, uint32_t n, uint8_t salt) noexcept nogil:
    cdef uint8_t *data = <uint8_t *>malloc(n)
    cdef uint32_t i
    for i in range(n):
        data[i] = content(off + i) ^ salt
    return data


cdef void delivers(const side_t *s) noexcept nogil:
    """The plan's pieces: contiguous from `next` to `to`, of bytes that were sent."""
    cdef uint64_t at = s.plan.next
    cdef uint32_t i, k
    cdef uint8_t differs
    for i in range(s.plan.n):
        if not must(s.plan.pieces[i].off == at and s.plan.pieces[i].len > 0, "pieces follow each other"):
            return
        for k in range(s.plan.pieces[i].len):
            differs = s.plan.pieces[i].data[k] ^ content(at + k)
            must(differs == 0 or (not s.honest and differs & 0x0f == 0), "a byte is one that was sent for its place")
        at += s.plan.pieces[i].len
    must(at == s.plan.to, "the plan goes as far as its pieces")
    must(s.plan.conflicts.n <= MAX_CONFLICTS and (s.plan.conflicts.n == 0 or not s.honest), "equal copies make no conflict")


cdef void write(side_t *s, uint64_t off, uint32_t n, uint8_t salt, bint commit) noexcept nogil:
    cdef uint8_t *data = segment(off, n, salt)
    cdef uint64_t used = s.budget.used, before = s.next
    cdef int rc
    reasm_probe(s.r, &s.plan, &s.limits, &s.budget, s.next, off, data, n, s.policy)
    must(s.budget.used == used, "probing takes no memory")
    must(s.plan.next == before and s.plan.dup <= n and s.plan.to >= before, "a plan starts where delivery stands")
    must((s.plan.to > before) == (off <= before < off + n), "a segment at the next byte delivers, no other does")
    delivers(s)
    if commit:
        rc = reasm_commit(&s.r, &s.plan, &s.budget, 1)
        must(rc == 0 or s.plan.to == before, "what delivers fits")
        if rc == 0 and s.plan.to > before and s.limits.keep:
            keep(s)
        s.next = s.plan.to
    free(data)


cdef void keep(side_t *s) noexcept nogil:
    cdef uint32_t n = <uint32_t>(s.plan.to - s.plan.next)
    cdef uint8_t *data = segment(s.plan.next, n, 0)
    if s.honest:
        reasm_keep(&s.r, &s.limits, &s.budget, data, n, s.plan.to)
    free(data)


cdef void deliver_queue(side_t *s) noexcept nogil:
    reasm_ready(s.r, &s.plan, s.next)
    delivers(s)
    must(reasm_commit(&s.r, &s.plan, &s.budget, 1) == 0, "the queue's own bytes fit")
    s.next = s.plan.to


cdef void act(side_t *s, input_t *r) noexcept nogil:
    cdef uint32_t what = take(r, 1), n
    cdef uint64_t off, to
    cdef uint8_t salt = 0
    cdef uint8_t *data
    n = 1 + (take(r, 1) & 0x3f)
    off = s.next + take(r, 1) if what & 0x80 else s.base + take(r, 2) % 1024
    if what & 0x40 and what & 0x20:
        salt = <uint8_t>(what << 4 & 0xf0)
        s.honest = s.honest and salt == 0
    what &= 7
    if what < 4:
        write(s, off, n, salt, what > 0)
    elif what == 4:
        data = segment(off, n, salt)
        reasm_park(&s.r, &s.limits, &s.budget, off, data, n)
        free(data)
    elif what == 5 and s.r != NULL:
        to = off + n
        reasm_parked(s.r, to)
        reasm_adopt(s.r, &s.limits, &s.budget, s.next, off, to)
        deliver_queue(s)
    elif what == 6 and s.r != NULL:
        to = reasm_hole(s.r, s.next)
        s.next += to
        reasm_skip(s.r, &s.budget, s.next)
        deliver_queue(s)
    else:
        write(s, s.next, n, salt, True)


cdef void all_is_sound(const side_t *s) noexcept nogil:
    must(reasm_invariants(s.r, s.next), "the queue is sorted, disjoint, counted and above what was delivered")
    must(s.budget.used <= s.budget.cap and s.budget.peak <= s.budget.cap, "memory stays within its bound")
    if s.r != NULL:
        must(s.r.doubt_bytes <= s.limits.doubt_bytes and s.r.doubts <= s.limits.doubts, "parked bytes stay within their bounds")
        must(s.r.bytes <= s.limits.bytes + s.limits.doubt_bytes, "queued bytes stay within their bound")


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef side_t s
    cdef input_t r
    cdef uint32_t how, n = 0
    r.p, r.left = data, size
    memset(&s, 0, sizeof(s))
    plan_init(&s.plan)
    how = take(&r, 1)
    s.policy = <uint8_t>(how % NPOLICIES)
    how = take(&r, 1)
    s.base = s.next = (<uint64_t>1 << 32) - 100 if how & 1 else 0
    s.limits.bytes, s.limits.segs = 400 if how & 2 else 100000, 6 if how & 4 else 4096
    s.limits.doubts = 5
    s.limits.doubt_bytes, s.limits.keep = 150, 17 * (1 + (how >> 4 & 7)) if how & 8 else 0
    s.budget.cap = 1500 if how & 0x80 else 1 << 30
    s.honest = True
    while r.left and n < 60:
        n += 1
        act(&s, &r)
        all_is_sound(&s)
    reasm_free(&s.r, &s.budget)
    plan_free(&s.plan)
    must(s.budget.used == 0, "all memory is given back")
    return 0


def replay(bytes data not None):
    """What of the first lines does not hold for this input, or None."""
    return held(one_input, data)
