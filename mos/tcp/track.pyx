"""Simulation of both TCP ends (RFC 9293 section 3.10; windows and timestamps RFC 7323; round trips RFC 6298)."""
from mos.events.kinds cimport (
    KIND_FLOW_ESTABLISHED, KIND_RETRANSMISSION, KIND_TCP_STATE_CHANGE, KIND_ZERO_WINDOW,
    REFUSED_WINDOW, REXMIT_FIN, REXMIT_FULL, REXMIT_KEEP_ALIVE, REXMIT_PARTIAL, REXMIT_SYN, REXMIT_ZERO_WINDOW_PROBE,
    STATE_CLOSED, STATE_ESTABLISHED, STATE_LISTEN, STATE_SYN_RECEIVED, STATE_SYN_SENT)
from mos.events.ring cimport AT_RECEIVER, AT_SENDER, event_t, ring_add, ring_t
from mos.flow.flow cimport (
    CLIENT, END_ACKED, END_FIN_DONE, END_FIN_PASSED, END_FIN_SENT, END_PEER_ONLY, END_RST_CLIENT, END_RST_SERVER, END_SACK_OK,
    END_SEEN, END_SYN, END_TS, END_TS_OK, FLOW_CLOSED, FLOW_ESTABLISHED, FLOW_MIDSTREAM, SERVER, iss_of, reasm_of)
from mos.net.packet cimport (
    OPT_MSS, OPT_SACK_OK, OPT_TS, OPT_WSCALE, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, pkt_t)
from mos.tcp.queue cimport queue_before, reasm_t, seg_end, seg_t
from mos.tcp.seq cimport seq_diff, seq_ge, seq_gt, seq_le
from mos.tcp.trouble cimport known_trouble, side_trouble_t, trouble_of, trouble_t

from mos.tcp import states

for _i, _s in enumerate(states.matrix()):
    transition[_i] = _s


cdef void tell_step(scene_t *c, int side, int new, int at) noexcept nogil:
    """TcpStateChange, and the change."""
    cdef end_t *end = &c.flow.end[side]
    cdef event_t *e = ring_add(c.ring, c.want, KIND_TCP_STATE_CHANGE, c.flow, c.pkt, c.now, side, c.to_server)
    if e != NULL:
        e.at = <uint8_t>at
        e.old = end.state
        e.new = <uint8_t>new
    end.state = <uint8_t>new


cdef void track_established(scene_t *c) noexcept nogil:
    cdef flow_t *f = c.flow
    if f.flags & (FLOW_ESTABLISHED | FLOW_MIDSTREAM):
        return
    f.flags |= FLOW_ESTABLISHED
    f.rtt_us = <uint32_t>(<uint64_t>c.now // 1000) - f.rtt_us
    ring_add(c.ring, c.want, KIND_FLOW_ESTABLISHED, f, c.pkt, c.now, c.s, c.to_server)


cdef void set_base(end_t *e, uint32_t first) noexcept nogil:
    """The end's stream begins at sequence number `first`."""
    e.nxt = e.snd_max = e.snd_una = first
    e.offset = 0
    e.flags |= END_SEEN


cdef void track_open(flow_t *f, const pkt_t *p, int midstream) noexcept nogil:
    """States of a new flow before its first packet is tracked."""
    f.end[CLIENT].wscale = f.end[SERVER].wscale = NO_SCALE
    if not midstream:
        f.end[CLIENT].state = STATE_CLOSED
        f.end[SERVER].state = STATE_LISTEN
    elif p.tcp_flags & TCP_SYN:
        f.end[CLIENT].state = STATE_SYN_SENT
        f.end[SERVER].state = STATE_SYN_RECEIVED
        set_base(&f.end[CLIENT], p.ack)
        f.end[CLIENT].flags |= END_PEER_ONLY
    else:
        f.end[CLIENT].state = f.end[SERVER].state = STATE_ESTABLISHED


cdef void track_syn(end_t *S, const pkt_t *p) noexcept nogil:
    """What a SYN tells about the end that sends it."""
    if not S.flags & END_SEEN:
        set_base(S, p.seq + 1)
    S.flags |= END_SYN
    S.flags &= ~END_PEER_ONLY
    S.wscale = p.wscale if p.opts & OPT_WSCALE else NO_SCALE
    if p.opts & OPT_MSS:
        S.mss = p.mss
    if p.opts & OPT_SACK_OK:
        S.flags |= END_SACK_OK
    if p.opts & OPT_TS:
        S.flags |= END_TS_OK


cdef void infer_handshake(scene_t *c) noexcept nogil:
    """A segment past the handshake from an end whose handshake was not seen to finish: it did, the tap missed it."""
    cdef flow_t *f = c.flow
    cdef end_t *R = &f.end[1 - c.s]
    if f.end[c.s].state == STATE_SYN_SENT:
        if not R.flags & END_SEEN:
            set_base(R, c.pkt.ack)
            R.flags |= END_PEER_ONLY
        track_step(c, c.s, RCV_SYN_ACK, AT_SENDER)
    elif f.end[c.s].state == STATE_LISTEN or f.end[c.s].state == STATE_SYN_RECEIVED:
        if c.truth == 0 and c.s == SERVER and c.pkt.payload_len:
            track_step(c, c.s, RCV_SYN, AT_SENDER)
            track_step(c, c.s, RCV_ACK_OF_SYN, AT_SENDER)
            if f.end[CLIENT].state == STATE_SYN_SENT:
                track_step(c, CLIENT, RCV_SYN_ACK, AT_SENDER)


cdef void note_retransmission(ring_t *ring, uint64_t want, flow_t *f, const pkt_t *p, int s, int64_t now) noexcept nogil:
    """Raise Retransmission if the segment begins below SND.NXT (before it is raised by this very segment)."""
    cdef end_t *S = &f.end[s]
    cdef end_t *R = &f.end[1 - s]
    cdef int has_fin = p.tcp_flags & TCP_FIN
    cdef uint32_t length = p.payload_len
    cdef uint32_t again
    cdef int64_t offset
    cdef int kind
    cdef side_trouble_t *t
    cdef event_t *e
    if seq_ge(p.seq, S.snd_max):
        return
    if length == 0:
        if has_fin and S.flags & END_FIN_SENT:
            kind = REXMIT_FIN
        elif p.seq == S.snd_max - 1 and not has_fin and not S.flags & END_FIN_SENT and R.flags & END_ACKED:
            kind = REXMIT_KEEP_ALIVE
        else:
            return
        again = 0
    else:
        again = min(length, S.snd_max - p.seq)
        kind = REXMIT_FULL if again == length else REXMIT_PARTIAL
        if length == 1 and again == 1:
            if R.wnd == 0 and R.flags & END_ACKED:
                kind = REXMIT_ZERO_WINDOW_PROBE
            elif p.seq == S.snd_max - 1 and S.snd_una == S.snd_max:
                kind = REXMIT_KEEP_ALIVE
    S.rtt_start_us = 0
    if trouble_of(f) != NULL:
        t = &known_trouble(f).side[s]
        t.rexmit_packets += 1
        t.rexmit_bytes += again
    if length:
        history_add(f, s, HIST_REXMIT)
    e = ring_add(ring, want, KIND_RETRANSMISSION, f, p, now, s, s == CLIENT)
    if e != NULL:
        e.cause = <uint8_t>kind
        offset = <int64_t>S.offset + seq_diff(p.seq, S.nxt)
        e.offset = <uint64_t>max(offset, 0)
        e.length = again
        e.data = p.payload if p.payload_cap >= again else NULL


cdef void track_duplicate_syn(scene_t *c) noexcept nogil:
    """A SYN or SYN-ACK seen before: nothing changes but the counters."""
    cdef event_t *e
    if trouble_of(c.flow) != NULL:
        known_trouble(c.flow).side[c.s].rexmit_packets += 1
    e = ring_add(c.ring, c.want, KIND_RETRANSMISSION, c.flow, c.pkt, c.now, c.s, c.to_server)
    if e != NULL:
        e.cause = REXMIT_SYN
        e.length = 1


cdef void note_acknowledgement(scene_t *c, int pure) noexcept nogil:
    """What the ACK and window of the segment tell about its sender."""
    cdef flow_t *f = c.flow
    cdef end_t *S = &f.end[c.s]
    cdef end_t *R = &f.end[1 - c.s]
    cdef const pkt_t *p = c.pkt
    cdef uint32_t wnd = p.wnd
    cdef uint32_t before = S.wnd
    cdef int known = S.flags & END_ACKED
    if not p.tcp_flags & TCP_SYN:
        wnd = wnd << scale_of(f, c.s)
    if known and pure and p.ack == S.last_ack:
        note_repeated(c.ring, c.want, f, p, c.s, wnd, c.now)
    elif known_trouble(f) != NULL:
        known_trouble(f).side[c.s].dup_run = 0
    if wnd == 0 and (not known or before):
        if trouble_of(f) != NULL:
            known_trouble(f).side[c.s].zero_windows += 1
        history_add(f, c.s, HIST_ZERO_WINDOW)
        ring_add(c.ring, c.want, KIND_ZERO_WINDOW, f, p, c.now, c.s, c.to_server)
    if not known or seq_ge(p.ack, S.last_ack):
        S.last_ack = p.ack
        S.wnd = wnd
    if not known or seq_gt(p.ack + wnd, S.rcv_edge):
        S.rcv_edge = p.ack + wnd
    S.flags |= END_ACKED
    rtt_heard(R, p.ack, c.now)


cdef void track_sender(scene_t *c) noexcept nogil:
    """The sending end as it is after sending this acceptable segment. Holds even if the segment is dropped."""
    cdef flow_t *f = c.flow
    cdef end_t *S = &f.end[c.s]
    cdef const pkt_t *p = c.pkt
    cdef int flags = p.tcp_flags
    cdef uint32_t length = p.payload_len
    cdef int has_fin = flags & TCP_FIN
    cdef uint32_t end = p.seq + length + (1 if has_fin else 0)
    if flags & TCP_SYN:
        track_syn(S, p)
        track_step(c, c.s, SND_SYN_ACK if flags & TCP_ACK else SND_SYN, AT_SENDER)
        history_add(f, c.s, HIST_SYN_ACK if flags & TCP_ACK else HIST_SYN)
        end += 1
    else:
        if f.end[c.s].state != STATE_ESTABLISHED:
            infer_handshake(c)
        if not S.flags & END_SEEN:
            set_base(S, p.seq)
        history_add(f, c.s, HIST_DATA if length else HIST_FIN if has_fin else HIST_ACK)
        if length or has_fin or p.seq != S.snd_max:
            note_retransmission(c.ring, c.want, f, p, c.s, c.now)
    if flags & TCP_ACK:
        note_acknowledgement(c, length == 0 and not flags & (TCP_SYN | TCP_FIN | TCP_RST))
        if f.end[1 - c.s].state == STATE_SYN_RECEIVED and seq_gt(p.ack, iss_of(&f.end[1 - c.s])) and S.state >= STATE_ESTABLISHED:
            track_established(c)
    if has_fin:
        if length:
            history_add(f, c.s, HIST_FIN)
        # Inline, one below what has been forwarded is no end of anything: its receiver has more.
        if not S.flags & END_FIN_SENT and (c.truth == 0 or seq_ge(end - 1, S.nxt)):
            S.flags |= END_FIN_SENT
            S.fin_seq = end - 1
            track_step(c, c.s, SND_FIN, AT_SENDER)
    if seq_gt(end, S.snd_max):
        if length:
            rtt_sent(S, end, c.now)
        S.snd_max = end


cdef void track_receiver(scene_t *c) noexcept nogil:
    """The receiving end as it is once the segment has been forwarded to it."""
    cdef flow_t *f = c.flow
    cdef end_t *R = &f.end[1 - c.s]
    cdef const end_t *S = &f.end[c.s]
    cdef const pkt_t *p = c.pkt
    cdef int flags = p.tcp_flags
    if flags & TCP_SYN:
        track_step(c, 1 - c.s, RCV_SYN_ACK if flags & TCP_ACK else RCV_SYN, AT_RECEIVER)
    if flags & TCP_ACK and R.flags & END_SEEN and (R.state >= STATE_ESTABLISHED or seq_gt(p.ack, iss_of(R))):
        track_step(c, 1 - c.s, RCV_ACK_OF_SYN, AT_RECEIVER)
        if seq_gt(p.ack, R.snd_una) and seq_le(p.ack, R.snd_max):
            R.snd_una = p.ack
        if R.flags & END_FIN_SENT and seq_gt(p.ack, R.fin_seq):
            track_step(c, 1 - c.s, RCV_ACK_OF_FIN, AT_RECEIVER)
    if R.state == STATE_ESTABLISHED and S.state == STATE_ESTABLISHED:
        track_established(c)
    if p.opts & OPT_TS and (flags & TCP_SYN or seq_le(p.seq, R.last_ack if R.flags & END_ACKED else p.seq)):
        if not R.flags & END_TS or seq_ge(p.tsval, R.ts_recent):
            R.ts_recent = p.tsval
            R.flags |= END_TS


cdef void track_fin(scene_t *c, int side) noexcept nogil:
    """All bytes before the FIN of `side` were delivered: the FIN takes effect at its peer (RFC 9293 3.10.7.4, eighth).

    Unless it was dropped: then it must come again.
    """
    cdef end_t *e = &c.flow.end[side]
    if e.flags & (END_FIN_SENT | END_FIN_PASSED | END_FIN_DONE) != END_FIN_SENT | END_FIN_PASSED or e.nxt != e.fin_seq:
        return
    e.flags |= END_FIN_DONE
    track_step(c, 1 - side, RCV_FIN, AT_RECEIVER)


cdef bint ends_in_doubt(const scene_t *c, int side) noexcept nogil:
    """Was a RST in doubt the last word of `side`?"""
    cdef const trouble_t *t = known_trouble(c.flow)
    return t != NULL and t.rst_told[side] and seq_le(c.flow.end[side].snd_max, t.side[side].rst_seq)


cdef int reset_by(const scene_t *c) noexcept nogil:
    """Who ended the connection that this RST ends.

    A RST without ACK is what a host without the connection answers (RFC 9293 3.10.7.1). If the other end's last word was a RST
    in doubt, that one was taken after all: Linux does so at the edge of what it has SACKed, where RFC 5961 has a challenge ACK.
    """
    return 1 - c.s if not c.pkt.tcp_flags & TCP_ACK and ends_in_doubt(c, 1 - c.s) else c.s


cdef int track_rst_refused(scene_t *c, int in_doubt) noexcept nogil:
    """Note a RST that its receiver may not have taken. If silence follows: whose RST ended the connection, plus 1; 0: nobody's.

    An older RST without ACK bears out the one in doubt, from either end: there is no connection where it came from.
    """
    cdef trouble_t *t = trouble_of(c.flow)
    cdef int who = reset_by(c)
    cdef bint borne_out = not c.pkt.tcp_flags & TCP_ACK and ends_in_doubt(c, who)
    if t == NULL or not c.pkt.tcp_flags & TCP_RST or c.flow.flags & FLOW_CLOSED:
        return 0
    if in_doubt:
        t.rst_told[c.s], t.side[c.s].rst_seq = 1, c.pkt.seq
        t.side[c.s].rst_max[CLIENT], t.side[c.s].rst_max[SERVER] = c.flow.end[CLIENT].snd_max, c.flow.end[SERVER].snd_max
    return who + 1 if in_doubt or borne_out else 0


cdef void track_spoke_on(scene_t *c) noexcept nogil:
    """An acceptable segment after a RST in doubt: silence has not followed.

    It may be one that the RST overtook. Once it acknowledges bytes sent after the RST, both ends live: no answer counts then.
    """
    cdef trouble_t *t = known_trouble(c.flow)
    cdef int side
    t.rst_side = 0
    for side in range(2):
        if t.rst_told[side] and c.pkt.tcp_flags & TCP_ACK and seq_gt(c.pkt.ack, t.side[side].rst_max[1 - c.s]):
            t.rst_told[side] = 0


cdef bint parked_to(const flow_t *f, int side, uint32_t seq) noexcept nogil:
    """Do bytes of this side, parked or queued on the word of a SACK, reach up to `seq` or across it?"""
    cdef const end_t *e = &f.end[side]
    cdef const reasm_t *r = <const reasm_t *>reasm_of(f, side)
    cdef const seg_t *s
    cdef uint64_t to = e.offset + <uint64_t><int64_t>seq_diff(seq, e.nxt)
    if r == NULL:
        return False
    s = queue_before(r, to)
    if s != NULL and to <= seg_end(s):
        return True
    s = r.doubt
    while s != NULL:
        if s.off < to <= seg_end(s):
            return True
        s = s.next
    return False


cdef bint track_vouched(scene_t *c, int side) noexcept nogil:
    """An ACK beyond SND.NXT of `side` that parked bytes or a refused FIN account for: they were sent after all. Raises SND.NXT."""
    cdef end_t *e = &c.flow.end[side]
    cdef uint32_t ack = c.pkt.ack
    cdef trouble_t *t = known_trouble(c.flow)
    if not e.flags & END_SEEN:
        return False
    if parked_to(c.flow, side, ack):
        e.snd_max = ack
        return True
    if t == NULL or not t.side[side].fin_told or ack != t.side[side].fin_seq + 1 or e.flags & END_FIN_SENT:
        return False
    if e.snd_max != ack - 1 and not parked_to(c.flow, side, ack - 1):
        return False
    e.snd_max, e.fin_seq = ack, ack - 1
    e.flags |= END_FIN_SENT
    track_step(c, side, SND_FIN, AT_SENDER)
    return True


cdef bint track_overheard(scene_t *c, int cause) noexcept nogil:
    """A refused segment beyond its receiver's window: do its own ACK and window count all the same?

    A tap that missed one ACK may know each end's window too small, and then would refuse for ever what both say. Believed is
    who continues what it sent before, within an unscaled window: as hard to guess as a segment that is acceptable.
    """
    cdef end_t *S = &c.flow.end[c.s]
    cdef end_t *R = &c.flow.end[1 - c.s]
    cdef const pkt_t *p = c.pkt
    cdef trouble_t *t = known_trouble(c.flow)
    cdef uint32_t end = p.seq + p.payload_len, wnd = p.wnd << scale_of(c.flow, c.s)
    cdef uint32_t so_far = S.snd_max
    if t == NULL or cause != REFUSED_WINDOW or not S.flags & END_SEEN:
        return False
    if t.side[c.s].beyond_told and seq_gt(t.side[c.s].beyond, so_far):
        so_far = t.side[c.s].beyond
    if seq_diff(p.seq, so_far) > 65535 or seq_diff(p.seq, so_far) < -65535:
        return False
    if seq_gt(end, so_far):
        t.side[c.s].beyond, t.side[c.s].beyond_told = end, 1
    if p.tcp_flags & TCP_FIN:
        t.side[c.s].fin_seq, t.side[c.s].fin_told = end, 1
    if not R.flags & END_SEEN or (seq_gt(p.ack, R.snd_max) and not track_vouched(c, 1 - c.s)):
        return False
    if not S.flags & END_ACKED or seq_ge(p.ack, S.last_ack):
        S.last_ack, S.wnd = p.ack, wnd
    if not S.flags & END_ACKED or seq_gt(p.ack + wnd, S.rcv_edge):
        S.rcv_edge = p.ack + wnd
    S.flags |= END_ACKED
    return True


cdef void track_rst(scene_t *c) noexcept nogil:
    """An acceptable RST: both ends are closed."""
    cdef flow_t *f = c.flow
    history_add(f, c.s, HIST_RST)
    track_step(c, c.s, SND_RST, AT_SENDER)
    track_step(c, 1 - c.s, RCV_RST, AT_RECEIVER)
    f.end[c.s].state = f.end[1 - c.s].state = STATE_CLOSED
    if not f.end_reason:
        f.end_reason = END_RST_CLIENT if reset_by(c) == CLIENT else END_RST_SERVER
    f.flags |= FLOW_CLOSED


cdef void track_revive(scene_t *c) noexcept nogil:
    """Both ends spoke on after a RST: whoever sent it, its receiver did not take it. Only a tap can find this out."""
    cdef flow_t *f = c.flow
    cdef event_t *e
    cdef int side
    for side in range(2):
        e = ring_add(c.ring, c.want, KIND_TCP_STATE_CHANGE, f, c.pkt, c.now, side, c.to_server)
        if e != NULL:
            e.old = f.end[side].state
            e.new = STATE_ESTABLISHED
        f.end[side].state = STATE_ESTABLISHED
    f.end_reason = 0
    f.flags &= ~FLOW_CLOSED


cdef void track_time_out(scene_t *c) noexcept nogil:
    """2MSL have passed (RFC 9293 3.6.1)."""
    track_step(c, CLIENT, TIMEOUT, AT_SENDER)
    track_step(c, SERVER, TIMEOUT, AT_SENDER)
