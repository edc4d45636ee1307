# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The segment that was to be expected: next in order, within an open connection, nothing in doubt.

Most segments are. One look says so, and what classify, track and reassembly would come to follows at once (header prediction,
Van Jacobson 1990; RFC 1323 section 4.1). Whatever is not sure here takes the long way, which for these segments says the same.
What the other end has sent may have holes: an ACK that says again where the first one is was to be expected, too.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from mos.events.kinds cimport STATE_ESTABLISHED
from mos.events.ring cimport ring_t
from mos.flow.flow cimport (
    END_ACKED, END_FIN_SENT, END_SEEN, END_TS, FLOW_CLOSED, FLOW_EMBRYONIC, FLOW_ESTABLISHED, FLOW_MIDSTREAM, end_t, flow_t,
    more_t)
from mos.net.packet cimport OPT_TS, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, pkt_t
from mos.tcp.queue cimport reasm_t
from mos.tcp.seq cimport seq_ge, seq_gt, seq_le, seq_lt
from mos.tcp.track cimport HIST_ACK, HIST_DATA, history_add, note_repeated, rtt_heard, rtt_sent, scale_of
from mos.tcp.trouble cimport known_trouble, trouble_t

cdef inline bint untroubled(const trouble_t *t) noexcept nogil:
    """No RST and no ACK waits to be confirmed or refuted."""
    return t == NULL or not (t.rst_side | t.rst_told[0] | t.rst_told[1] | t.claims[0] | t.claims[1])

cdef inline bint quiet(const reasm_t *r, const end_t *e) noexcept nogil:
    """Nothing of this end's stream is queued, parked, or was offered and then dropped."""
    return r == NULL or (r.head == NULL and r.doubts == 0 and r.waits == 0 and r.hole_ns == 0 and r.acked_ns == 0
                         and r.offered <= e.offset)

cdef inline bint settled(const flow_t *f) noexcept nogil:
    """No question is open. Of most flows one look says so."""
    cdef const more_t *m = f.more
    return m == NULL or (quiet(<const reasm_t *>m.reasm[0], &f.end[0]) and quiet(<const reasm_t *>m.reasm[1], &f.end[1])
                         and untroubled(<const trouble_t *>m.trouble))

cdef inline bint hears_nothing_new(const reasm_t *r) noexcept nogil:
    """Nothing waits for the word of an ACK that acknowledges just what was delivered."""
    return r == NULL or r.doubts | r.waits == 0

cdef inline bint ordinary(const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Both ends of an open connection live on, and of `p`, sent by `s`, all but its place in the stream is as it was to be."""
    cdef const end_t *S = &f.end[s]
    cdef const end_t *R = &f.end[1 - s]
    if p.tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK) != TCP_ACK \
            or S.state != STATE_ESTABLISHED or R.state != STATE_ESTABLISHED \
            or f.flags & (FLOW_CLOSED | FLOW_EMBRYONIC) or not f.flags & (FLOW_ESTABLISHED | FLOW_MIDSTREAM):
        return False
    if S.flags & (END_SEEN | END_ACKED | END_FIN_SENT) != END_SEEN | END_ACKED \
            or R.flags & (END_SEEN | END_ACKED | END_FIN_SENT) != END_SEEN | END_ACKED:
        return False
    if seq_gt(R.last_ack, p.seq) or seq_ge(p.seq, R.rcv_edge) or p.wnd == 0 or p.payload_cap != p.payload_len:
        return False
    if seq_lt(p.ack, S.last_ack) or seq_lt(p.ack, R.snd_una) or seq_gt(p.ack, R.nxt):
        return False
    return not p.opts & OPT_TS or (R.flags & END_TS and seq_ge(p.tsval, R.ts_recent))

cdef inline bint predicted(const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Does `p`, which is ordinary, go on just where its sender, end `s`, was?"""
    cdef const end_t *S = &f.end[s]
    cdef const more_t *m = f.more
    if p.seq != S.snd_max or p.seq != S.nxt:
        return False
    return m == NULL or (quiet(<const reasm_t *>m.reasm[s], S) and hears_nothing_new(<const reasm_t *>m.reasm[1 - s])
                         and untroubled(<const trouble_t *>m.trouble))

cdef inline void ordinary_said(ring_t *ring, flow_t *f, const pkt_t *p, int s, int64_t now) noexcept nogil:
    """The sending end after what an ordinary segment says of the other end's bytes; as track_sender has it."""
    cdef end_t *S = &f.end[s]
    cdef end_t *R = &f.end[1 - s]
    cdef uint32_t wnd = <uint32_t>p.wnd << scale_of(f, s)
    if p.payload_len == 0 and p.ack == S.last_ack:
        note_repeated(ring, f.mask, f, p, s, wnd, now)
    elif known_trouble(f) != NULL:
        known_trouble(f).side[s].dup_run = 0
    S.last_ack, S.wnd = p.ack, wnd
    if seq_gt(p.ack + wnd, S.rcv_edge):
        S.rcv_edge = p.ack + wnd
    rtt_heard(R, p.ack, now)

cdef inline void predicted_sent(ring_t *ring, flow_t *f, const pkt_t *p, int s, int64_t now) noexcept nogil:
    """The sending end as it is after a predicted segment, whatever becomes of it; as track_sender has it."""
    cdef end_t *S = &f.end[s]
    cdef int letter = HIST_DATA if p.payload_len else HIST_ACK
    if not S.hist >> letter & 1:
        history_add(f, s, letter)
    ordinary_said(ring, f, p, s, now)
    if p.payload_len:
        S.snd_max = p.seq + p.payload_len
        rtt_sent(S, S.snd_max, now)

cdef inline void predicted_taken(flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Both ends once a predicted segment is forwarded; as commit and track_receiver have it."""
    f.end[s].nxt += p.payload_len
    f.end[s].offset += p.payload_len
    ordinary_heard(f, p, s)

cdef inline void ordinary_heard(flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """The receiving end once an ordinary segment is forwarded to it; as track_receiver has it."""
    cdef end_t *R = &f.end[1 - s]
    R.snd_una = p.ack
    if p.opts & OPT_TS and seq_le(p.seq, R.last_ack):
        R.ts_recent = p.tsval
