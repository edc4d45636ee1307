# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Would the receiving host take this segment? Reads the flow, changes nothing.

Segment acceptance (RFC 9293 section 3.10.7, RFC 5961 sections 3 to 5, RFC 7323 section 5).

`S` is the sending end, `R` the receiving one: R's window and timestamp judge the segment, S's history places it.
"""
from libc.stdint cimport uint8_t, uint32_t
from mos.events.kinds cimport (
    REFUSED_ACK, REFUSED_AFTER_FIN, REFUSED_CLOSED, REFUSED_FLAGS, REFUSED_NO_ACK, REFUSED_RST, REFUSED_SYN,
    REFUSED_TIMESTAMP, REFUSED_WINDOW, STATE_CLOSED, STATE_LISTEN, STATE_SYN_RECEIVED, STATE_SYN_SENT, STATE_TIME_WAIT)
from mos.flow.flow cimport (
    END_ACKED, END_FIN_SENT, END_RST_CLIENT, END_RST_SERVER, END_SEEN, END_SYN, END_TS, FLOW_CLOSED,
    FLOW_MIDSTREAM, end_t, flow_t, iss_of)
from mos.net.packet cimport OPT_TS, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, pkt_t
from mos.tcp.seq cimport seq_between, seq_diff, seq_ge, seq_gt, seq_le, seq_lt, seq_max
from mos.tcp.trouble cimport known_trouble, trouble_t

cdef enum:              # whose truth the flow's state is
    TRUTH_TAP = 0       # segments may be lost before or after us: ACKs and SACKs are evidence
    TRUTH_INLINE = 1    # we decide what passes: the checks are authority

cdef enum:              # judged_t.what
    SEG_TAKEN = 0       # acceptable: track it
    SEG_REFUSED = 1     # an end host would refuse it: changes nothing, `cause` tells the check
    SEG_REOPENS = 2     # a SYN of the next connection with the same ends
    SEG_DUPLICATE_SYN = 3   # a SYN or SYN-ACK sent again
    SEG_ANSWERS_OTHER = 4   # a SYN-ACK that answers the refused SYN remembered in `trouble`: that connection is real

cdef struct judged_t:
    uint8_t what        # SEG_*
    uint8_t cause       # REFUSED_* with SEG_REFUSED
    uint8_t park        # its bytes may still prove to be taken: keep them as doubtful
    uint8_t in_doubt    # a RST in the window but not exact: silence will tell

cdef enum:
    # An ACK or segment further back than this is not a late duplicate but another connection's. RFC 5961 section 5.2 says
    # MAX.SND.WND; without having seen every window advertised, the largest window TCP can express stands in.
    FAR_BACK = 1 << 30
    OLD_ACK = 1 << 20       # a window of a megabyte covers the late ACKs that real hosts still take
    # RFC 7323 section 5.2 refuses a timestamp below TS.Recent, Linux (TCP_PAWS_WINDOW) only one more than a tick below. Refusing
    # what a host takes would lose bytes that it reads.
    PAWS_TICKS = 1

cdef inline uint32_t rcv_nxt(const end_t *sender) noexcept nogil:
    """RCV.NXT of the peer of `sender`: the next sequence number it expects, the FIN counted once it was reached."""
    return sender.nxt + (1 if sender.flags & 8 else 0)   # END_FIN_DONE

cdef inline judged_t taken() noexcept nogil:
    cdef judged_t j
    j.what = SEG_TAKEN
    j.cause = j.park = j.in_doubt = 0
    return j

cdef inline judged_t refused(int cause, int park) noexcept nogil:
    cdef judged_t j
    j.what = SEG_REFUSED
    j.cause = <uint8_t>cause
    j.park = <uint8_t>park
    j.in_doubt = 0
    return j

cdef inline judged_t other(int what) noexcept nogil:
    cdef judged_t j
    j.what = <uint8_t>what
    j.cause = j.park = j.in_doubt = 0
    return j

cdef inline judged_t judge_closed(const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """The connection is over: late copies of what was sent before are harmless, anything new is refused."""
    cdef const end_t *S = &f.end[s]
    cdef uint32_t end = p.seq + p.payload_len + (1 if p.tcp_flags & TCP_FIN else 0)
    if S.flags & END_SEEN and seq_le(end, S.snd_max) and seq_diff(S.snd_max, p.seq) < FAR_BACK:
        return taken()
    return refused(REFUSED_CLOSED, f.end_reason == END_RST_CLIENT or f.end_reason == END_RST_SERVER)

cdef inline bint both_over(const flow_t *f) noexcept nogil:
    return (f.flags & FLOW_CLOSED) or (f.end[0].flags & END_FIN_SENT and f.end[1].flags & END_FIN_SENT)

cdef inline judged_t judge_syn(const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """A SYN without ACK (RFC 5961 section 4): a copy of ours, the peer's of a simultaneous open, the next connection's."""
    cdef const end_t *S = &f.end[s]
    cdef const end_t *R = &f.end[1 - s]
    if S.flags & END_SYN and p.seq == iss_of(S):
        return other(SEG_DUPLICATE_SYN)
    if both_over(f):
        return other(SEG_REOPENS)
    if p.tcp_flags & TCP_FIN:
        return refused(REFUSED_FLAGS, 0)
    if not S.flags & END_SEEN and R.flags & END_SYN and R.state == STATE_SYN_SENT:
        return taken()
    if S.flags & END_SEEN and not S.flags & END_SYN and p.seq == iss_of(S):
        return taken()
    if S.state == STATE_SYN_SENT and not R.flags & END_SEEN:
        return other(SEG_REOPENS)
    return refused(REFUSED_SYN, 0)

cdef inline judged_t judge_syn_ack(const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """A SYN-ACK: must acknowledge the peer's SYN (RFC 9293 section 3.10.7.3); the first one counts."""
    cdef const end_t *S = &f.end[s]
    cdef const end_t *R = &f.end[1 - s]
    cdef const trouble_t *t = known_trouble(f)
    if t != NULL and t.syn_side == 2 - s and p.ack == t.syn_seq + 1:
        return other(SEG_ANSWERS_OTHER)
    if S.flags & END_SYN and p.seq == iss_of(S) and S.flags & END_ACKED:
        return other(SEG_DUPLICATE_SYN)
    if both_over(f):
        return refused(REFUSED_CLOSED, 0)
    if R.flags & END_SYN and (seq_le(p.ack, iss_of(R)) or seq_gt(p.ack, R.snd_max)):
        return refused(REFUSED_ACK, 0)
    if S.flags & END_SEEN and p.seq != iss_of(S):
        return refused(REFUSED_SYN, 0)
    return taken()

cdef inline judged_t judge_rst(const flow_t *f, const pkt_t *p, int s, int truth) noexcept nogil:
    """A RST (RFC 5961 section 3): exact ends the flow, in the window is in doubt, else it is refused."""
    cdef const end_t *S = &f.end[s]
    cdef const end_t *R = &f.end[1 - s]
    cdef judged_t j
    cdef uint32_t nxt
    if f.flags & FLOW_CLOSED:
        return refused(REFUSED_CLOSED, 0)
    if R.state == STATE_SYN_SENT:
        if p.tcp_flags & TCP_ACK and R.flags & END_SEEN and seq_gt(p.ack, iss_of(R)) and seq_le(p.ack, R.snd_max):
            return taken()
        if not S.flags & END_SEEN:
            return refused(REFUSED_RST, 0)
    nxt = rcv_nxt(S)
    if not S.flags & END_SEEN and not R.flags & END_ACKED:
        return taken() if f.flags & FLOW_MIDSTREAM else refused(REFUSED_RST, 0)
    if S.flags & END_SEEN and p.seq == nxt:
        return taken()
    if R.flags & END_ACKED and p.seq == R.last_ack:
        return taken()
    j = refused(REFUSED_RST, 0)
    if R.flags & END_ACKED:
        j.in_doubt = seq_between(seq_max(nxt, R.last_ack) if S.flags & END_SEEN else R.last_ack, p.seq, R.rcv_edge)
    elif S.flags & END_SEEN:
        j.in_doubt = seq_between(nxt, p.seq, nxt + 65535)
    return j

cdef inline judged_t classify(const flow_t *f, const pkt_t *p, int s, int truth) noexcept nogil:
    """What the receiver of `p`, sent by end `s` of `f`, makes of it."""
    cdef const end_t *S = &f.end[s]
    cdef const end_t *R = &f.end[1 - s]
    cdef uint32_t edge, nxt
    cdef uint32_t length = p.payload_len
    if p.tcp_flags & (TCP_SYN | TCP_RST):
        if p.tcp_flags & TCP_RST:
            return judge_rst(f, p, s, truth)
        return judge_syn_ack(f, p, s) if p.tcp_flags & TCP_ACK else judge_syn(f, p, s)
    if not p.tcp_flags & TCP_ACK:
        return refused(REFUSED_NO_ACK, 1)
    if f.flags & FLOW_CLOSED:
        return judge_closed(f, p, s)
    if R.flags & END_SEEN:
        if seq_gt(p.ack, R.snd_max):
            return refused(REFUSED_ACK, 1)
        if seq_lt(p.ack, R.snd_una - OLD_ACK) and not f.flags & FLOW_MIDSTREAM:
            return refused(REFUSED_ACK, 1)
    if p.opts & OPT_TS and R.flags & END_TS and seq_lt(p.tsval, R.ts_recent - PAWS_TICKS):
        return refused(REFUSED_TIMESTAMP, 1)
    if not S.flags & END_SEEN:
        return taken() if R.state != STATE_SYN_SENT or f.flags & FLOW_MIDSTREAM else refused(REFUSED_SYN, 0)
    nxt = rcv_nxt(S)
    if truth == TRUTH_TAP and R.flags & END_ACKED:
        nxt = seq_max(nxt, R.last_ack)
    if seq_diff(nxt, p.seq) > FAR_BACK or seq_diff(p.seq, nxt) > FAR_BACK:
        return refused(REFUSED_WINDOW, 0)
    if R.flags & END_ACKED:
        edge = seq_max(R.rcv_edge, nxt)
        if seq_gt(p.seq, edge) or (length and p.seq == edge):
            return refused(REFUSED_WINDOW, 1)
    if S.flags & END_FIN_SENT and length and seq_gt(p.seq + length, S.fin_seq):
        if seq_ge(p.seq, S.fin_seq):
            return refused(REFUSED_AFTER_FIN, 0)
    return taken()
