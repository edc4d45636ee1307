# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The segments that open and close a connection, each as it was to be expected and without payload.

What `predict` is for the segments in between: one look says that all is well, and then what classify, track and reassembly
would come to follows at once. Whatever is not sure here takes the long way, which for these segments says the same.
"""
from libc.stdint cimport uint32_t
from mos.events.kinds cimport STATE_CLOSE_WAIT, STATE_ESTABLISHED, STATE_SYN_RECEIVED, STATE_SYN_SENT
from mos.events.ring cimport AT_RECEIVER, AT_SENDER
from mos.flow.flow cimport (
    CLIENT, END_ACKED, END_FIN_DONE, END_FIN_SENT, END_SEEN, END_SYN, END_TS, FLOW_CLOSED, FLOW_ESTABLISHED, FLOW_MIDSTREAM, SERVER,
    end_t, flow_t, iss_of, reasm_of)
from mos.net.packet cimport OPT_TS, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, pkt_t
from mos.tcp.predict cimport settled
from mos.tcp.seq cimport seq_gt, seq_le, seq_lt
from mos.tcp.track cimport (
    HIST_ACK, HIST_FIN, HIST_SYN, HIST_SYN_ACK, RCV_ACK_OF_FIN, RCV_ACK_OF_SYN, RCV_FIN, RCV_SYN, RCV_SYN_ACK, SND_FIN, SND_SYN,
    history_add, rtt_heard, scale_of, scene_t, track_established, track_step, track_syn)
from mos.tcp.trouble cimport known_trouble

cdef enum:                  # what a segment is to its flow
    MILESTONE_NOT = 0
    MILESTONE_SYN = 1       # the flow's first packet
    MILESTONE_SYN_ACK = 2   # the first answer to it
    MILESTONE_TURN = 3      # the ACK that ends the handshake, a FIN, an ACK while the connection closes

cdef inline bint first_syn(const pkt_t *p) noexcept nogil:
    return p.tcp_flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST) == TCP_SYN and p.payload_len == 0

cdef inline bint first_syn_ack(const flow_t *f, const pkt_t *p) noexcept nogil:
    """Sent by the server; the client has sent its SYN and nothing since, the server nothing at all."""
    cdef const end_t *S = &f.end[SERVER]
    cdef const end_t *R = &f.end[CLIENT]
    return p.tcp_flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST) == TCP_SYN | TCP_ACK and p.payload_len == 0 and p.wnd \
        and not S.flags & END_SEEN and S.state == STATE_SYN_RECEIVED and R.state == STATE_SYN_SENT and R.flags & END_SYN \
        and p.ack == R.snd_max and p.ack == R.nxt and p.ack == iss_of(R) + 1 \
        and known_trouble(f) == NULL and reasm_of(f, CLIENT) == NULL \
        and not f.flags & (FLOW_CLOSED | FLOW_ESTABLISHED | FLOW_MIDSTREAM)

cdef inline bint turn(const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Both ends have sent something; the segment has no payload and continues exactly where its end was."""
    cdef const end_t *S = &f.end[s]
    cdef const end_t *R = &f.end[1 - s]
    cdef bint opens = R.state == STATE_SYN_RECEIVED
    if p.tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK) != TCP_ACK or p.payload_len or p.wnd == 0 or f.flags & FLOW_CLOSED \
            or S.state < STATE_ESTABLISHED or R.state < STATE_SYN_RECEIVED or not S.flags & R.flags & END_SEEN \
            or not R.flags & END_ACKED or not (S.flags & END_ACKED or opens):
        return False
    if opens and (s != CLIENT or p.tcp_flags & TCP_FIN or S.flags & END_ACKED or f.flags & (FLOW_ESTABLISHED | FLOW_MIDSTREAM)) \
            or not opens and not f.flags & (FLOW_ESTABLISHED | FLOW_MIDSTREAM):
        return False
    if p.seq != S.snd_max or p.seq != S.nxt + (S.flags & END_FIN_DONE != 0) \
            or seq_gt(R.last_ack, p.seq) or seq_gt(p.seq, R.rcv_edge):
        return False
    if S.flags & END_ACKED and seq_le(p.ack, S.last_ack) and not (p.tcp_flags & TCP_FIN and p.ack == S.last_ack):
        return False
    if seq_lt(p.ack, R.snd_una) or seq_gt(p.ack, R.nxt + (R.flags & END_FIN_DONE != 0)):
        return False
    if p.tcp_flags & TCP_FIN and (S.flags & END_FIN_SENT or S.state != STATE_ESTABLISHED and S.state != STATE_CLOSE_WAIT):
        return False
    if p.opts & OPT_TS and (not R.flags & END_TS or seq_lt(p.tsval, R.ts_recent)):
        return False
    return settled(f)

cdef inline int milestone(const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """MILESTONE_* of a packet that is not its flow's first."""
    if p.tcp_flags & TCP_SYN:
        return MILESTONE_SYN_ACK if s == SERVER and first_syn_ack(f, p) else MILESTONE_NOT
    return MILESTONE_TURN if turn(f, p, s) else MILESTONE_NOT

cdef inline void milestone_sent(scene_t *c, int what) noexcept nogil:
    """The sending end as it is after the segment, whatever becomes of it; as track_sender has it."""
    cdef flow_t *f = c.flow
    cdef end_t *S = &f.end[c.s]
    cdef end_t *R = &f.end[1 - c.s]
    cdef const pkt_t *p = c.pkt
    cdef uint32_t wnd = p.wnd
    if what == MILESTONE_SYN or what == MILESTONE_SYN_ACK:
        track_syn(S, p)
        history_add(f, c.s, HIST_SYN if what == MILESTONE_SYN else HIST_SYN_ACK)
        if what == MILESTONE_SYN:
            track_step(c, c.s, SND_SYN, AT_SENDER)
            return
    else:
        history_add(f, c.s, HIST_FIN if p.tcp_flags & TCP_FIN else HIST_ACK)
        wnd <<= scale_of(f, c.s)
        if known_trouble(f) != NULL:
            known_trouble(f).side[c.s].dup_run = 0
    S.last_ack, S.wnd = p.ack, wnd
    if not S.flags & END_ACKED or seq_gt(p.ack + wnd, S.rcv_edge):
        S.rcv_edge = p.ack + wnd
    S.flags |= END_ACKED
    rtt_heard(R, p.ack, c.now)
    if what == MILESTONE_TURN and R.state == STATE_SYN_RECEIVED:
        track_established(c)
    if p.tcp_flags & TCP_FIN:
        S.flags |= END_FIN_SENT
        S.fin_seq = p.seq
        track_step(c, c.s, SND_FIN, AT_SENDER)
        S.snd_max = p.seq + 1

cdef inline void milestone_taken(scene_t *c, int what) noexcept nogil:
    """Both ends once the segment is forwarded; as commit and track_receiver have it."""
    cdef flow_t *f = c.flow
    cdef end_t *S = &f.end[c.s]
    cdef end_t *R = &f.end[1 - c.s]
    cdef const pkt_t *p = c.pkt
    if what == MILESTONE_SYN:
        track_step(c, 1 - c.s, RCV_SYN, AT_RECEIVER)
    elif what == MILESTONE_SYN_ACK:
        track_step(c, 1 - c.s, RCV_SYN_ACK, AT_RECEIVER)
    else:
        if R.state == STATE_SYN_RECEIVED:
            track_step(c, 1 - c.s, RCV_ACK_OF_SYN, AT_RECEIVER)
        R.snd_una = p.ack
        if R.flags & END_FIN_SENT and seq_gt(p.ack, R.fin_seq):
            track_step(c, 1 - c.s, RCV_ACK_OF_FIN, AT_RECEIVER)
    if p.opts & OPT_TS and (what != MILESTONE_TURN or seq_le(p.seq, R.last_ack)):
        R.ts_recent = p.tsval
        R.flags |= END_TS
    if p.tcp_flags & TCP_FIN:
        S.flags |= END_FIN_DONE
        track_step(c, 1 - c.s, RCV_FIN, AT_RECEIVER)
