# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""`at="acked"`: delivered bytes once more, when their receiver has acknowledged them. Copies wait only if somebody asks."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from mos.caps cimport caps_over
from mos.core cimport Core
from mos.events.dispatch cimport dispatch
from mos.events.kinds cimport KIND_STREAM_DATA
from mos.events.ring cimport AT_ACKED, EV_DOUBTFUL, event_t
from mos.flow.flow cimport CLIENT, END_SEEN, end_t, flow_t, reasm_at, reasm_of
from mos.net.packet cimport TCP_ACK, pkt_t
from mos.tcp.queue cimport reasm_t, seg_behead, seg_data, seg_drop, seg_end, seg_new, seg_t
from mos.tcp.reasm cimport OVER_BYTES, OVER_SEGS, plan_t, reasm_offered
from mos.tcp.seq cimport seq_diff

cdef inline bint acked_wanted(Core k, const flow_t *f) noexcept nogil:
    return k.bus.want_acked >> KIND_STREAM_DATA & 1 and f.mask >> KIND_STREAM_DATA & 1

cdef inline int acked_tell(Core k, flow_t *f, int side, seg_t *s, uint32_t n) noexcept nogil:
    cdef event_t e
    memset(&e, 0, sizeof(e))
    e.size, e.kind, e.at, e.side, e.segs = sizeof(event_t), KIND_STREAM_DATA, AT_ACKED, <uint8_t>side, 1
    e.to_server, e.flow, e.now = side == CLIENT, f, k.now
    e.flags = EV_DOUBTFUL if s.doubtful else 0
    e.offset, e.length, e.data = s.off, n, seg_data(s)
    return dispatch(k.bus, &e, &k.answer)

cdef inline int acked_release(Core k, flow_t *f, int side, uint64_t to) noexcept nogil:
    """Hand out what waits below offset `to`, in order."""
    cdef reasm_t *r = <reasm_t *>reasm_of(f, side)
    cdef seg_t *s
    cdef uint32_t n
    while r != NULL and r.waiting != NULL and r.waiting.off < to:
        s = r.waiting
        n = <uint32_t>min(<uint64_t>s.len, to - s.off)
        if acked_tell(k, f, side, s, n) < 0:
            return -1
        r.waiting_bytes -= n
        if n == s.len:
            r.waiting = s.next
            r.waits -= 1
            seg_drop(&k.budget, s)
        else:
            seg_behead(&k.budget, s, n)
    return 0

cdef inline int acked_hear(Core k, flow_t *f, int s, const pkt_t *p) noexcept nogil:
    """The ACK of a forwarded packet from end `s`: what it covers of the other end's bytes is confirmed."""
    cdef end_t *e = &f.end[1 - s]
    if not acked_wanted(k, f) or not p.tcp_flags & TCP_ACK or not e.flags & END_SEEN:
        return 0
    return acked_release(k, f, 1 - s, e.offset + <uint64_t><int64_t>seq_diff(p.ack, e.nxt))

cdef inline int acked_keep(Core k, flow_t *f, int side, const plan_t *plan) noexcept nogil:
    """Copy delivered bytes to wait for their ACK. Beyond the direction's bounds the oldest are handed out unconfirmed."""
    cdef reasm_t *r
    cdef seg_t *s
    cdef uint32_t i
    if not acked_wanted(k, f):
        return 0
    r = reasm_offered(<reasm_t **>reasm_at(f, side), &k.budget, 0)
    if r == NULL:
        return 0
    for i in range(plan.n):
        s = seg_new(&k.budget, plan.pieces[i].off, plan.pieces[i].shown, plan.pieces[i].len, plan.pieces[i].doubtful)
        if s == NULL:
            return 0
        if r.waiting == NULL:
            r.waiting = s
        else:
            r.waiting_tail.next = s
        r.waiting_tail = s
        r.waiting_bytes += s.len
        r.waits += 1
    while r.waiting_bytes > k.limits.bytes or r.waits > k.limits.segs:
        caps_over(k, OVER_BYTES if r.waiting_bytes > k.limits.bytes else OVER_SEGS)
        r.waiting.doubtful = 1
        if acked_release(k, f, side, seg_end(r.waiting)) < 0:
            return -1
    return 0
