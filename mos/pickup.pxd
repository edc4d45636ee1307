# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Inline, a connection that was under way when the chain came to stand in it: where its streams begin.

What had left before is in flight, some of it lost, and nobody here has seen it. What its receiver acknowledges it has, so a
stream begins at its receiver's ACK: in safe mode not before one is known, and a segment asks for it (mos.early).
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from mos.core cimport ALTER_BARE, Core
from mos.early cimport EARLY_GO, EARLY_HOLD, early_waits
from mos.events.kinds cimport GAP_ACKED, KIND_STREAM_GAP
from mos.events.ring cimport event_t, ring_add
from mos.flow.flow cimport CLIENT, END_ACKED, END_FIN_SENT, END_PEER_ONLY, END_SEEN, end_t, flow_cold, flow_t, reasm_of
from mos.net.packet cimport TCP_ACK, TCP_RST, TCP_SYN, pkt_t
from mos.safe cimport safe_flow
from mos.tcp.queue cimport reasm_t
from mos.tcp.reasm cimport reasm_skip
from mos.tcp.seq cimport seq_diff, seq_gt

cdef enum:
    SETTLING_S = 60         # a flow picked up so long ago has nothing in flight from before: half a minute is a long RTO
    NEAR_BY = 1 << 20       # an ACK whose own number is further from what its sender has sent is somebody else's

cdef inline bint pickup_settling(Core k, const flow_t *f) noexcept nogil:
    return k.now - flow_cold(f).first_ns < SETTLING_S * <int64_t>1000000000

cdef inline void pickup_acked(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """End `s` acknowledges bytes that have passed before us, or that came behind such: it has them, so the stream goes on there."""
    cdef end_t *e = &f.end[1 - s]
    cdef const end_t *by = &f.end[s]
    cdef int64_t ahead
    cdef event_t *gap
    if by.flags & END_SEEN and not -NEAR_BY < seq_diff(p.seq, by.snd_max) < NEAR_BY:
        return
    if not e.flags & END_SEEN:
        if k.safe:
            e.nxt = e.snd_max = e.snd_una = p.ack
            e.flags |= END_SEEN | END_PEER_ONLY
        return
    ahead = seq_diff(p.ack, e.nxt)
    if ahead <= 0 or e.flags & END_FIN_SENT:
        return
    if seq_gt(p.ack, e.snd_max):
        e.snd_max = p.ack
    elif not k.safe:
        return
    e.nxt += <uint32_t>ahead
    if e.offset:
        gap = ring_add(&k.ring, f.mask, KIND_STREAM_GAP, f, p, k.now, 1 - s, s != CLIENT)
        if gap != NULL:
            gap.offset, gap.length, gap.cause = e.offset, <uint64_t>ahead, GAP_ACKED
        e.offset += <uint64_t>ahead
    if reasm_of(f, 1 - s) != NULL:
        reasm_skip(<reasm_t *>reasm_of(f, 1 - s), &k.budget, <uint64_t>-1)     # what waits is sent again, from there on

cdef inline bint pickup(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """A segment of a flow without a SYN. True: where its bytes belong is not known yet, so it leaves without them."""
    if p.tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK) != TCP_ACK or not pickup_settling(k, f):
        return False
    pickup_acked(k, f, p, s)
    if early_waits(f, s):
        k.early = EARLY_GO
    if not k.safe or not p.payload_len or f.end[1 - s].flags & END_ACKED or not safe_flow(k, f, s):
        return False
    k.alter, k.early = ALTER_BARE, EARLY_HOLD
    return True
