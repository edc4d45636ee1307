"""A TCP segment's way through its flow: classify, track the sender, probe, walk the NFs, commit or abort, track the receiver.

Functions over `Core`, which holds what the stages share; `mos.stack` calls `segment` for every TCP packet of a flow.
"""
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from mos.acked cimport acked_hear, acked_keep, acked_release
from mos.caps cimport caps_over, caps_park, caps_tell
from mos.core cimport ALTER_BARE, ALTER_HELD, ALTER_STREAM, RST_SILENCE_S, Core
from mos.events.dispatch cimport MOS_HOLD, WANTS_BYTES, dispatch
from mos.events.kinds cimport (
    CAP_RETAINED, GAP_ACKED, GAP_AGE, GAP_CAP, GAP_CLOSE, KIND_OUT_OF_WINDOW, KIND_OVERLAP_CONFLICT, KIND_PACKET_IN,
    KIND_STREAM_DATA, KIND_STREAM_GAP, REFUSED_ACK)
from mos.events.ring cimport (
    AT_RECEIVER, AT_SENDER, EV_DOUBTFUL, EV_REDELIVERED, EV_UNSENT, event_set, event_t, ring_add)
from mos.flow.flow cimport (
    CLIENT, END_ACKED, END_FIN, END_FIN_PASSED, END_FIN_SENT, END_SEEN, FLOW_CLOSED, FLOW_EMBRYONIC, end_t, flow_t, policy_of,
    reasm_at, reasm_of)
from mos.flow.table cimport table_slot
from mos.flow.wheel cimport wheel_arm
from mos.lend cimport lent
from mos.net.packet cimport IPPROTO_TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, TCP_URG
from mos.notices cimport (
    conflicts, no_room, offered_enough, out_of_order, packet_at_receiver)
from mos.patience cimport moved_on
from mos.safe cimport safe_flow, safe_follows, safe_forget, safe_hear, safe_hold, safe_keep, safe_room, safe_withdraw
from mos.state.blocks cimport slots_abort, slots_commit
from mos.tcp.classify cimport (
    SEG_ANSWERS_OTHER, SEG_DUPLICATE_SYN, SEG_REFUSED, SEG_TAKEN, TRUTH_INLINE, TRUTH_TAP, classify, judged_t)
from mos.tcp.queue cimport reasm_t
from mos.tcp.reasm cimport (
    plan_t, reasm_adopt, reasm_commit, reasm_hole, reasm_keep, reasm_offered, reasm_probe, reasm_probe_again, reasm_ready,
    reasm_skip)
from mos.tcp.seq cimport seq_diff, seq_ge, seq_gt, seq_le, seq_lt
from mos.tcp.track cimport (
    HIST_GAP, fin_passes, history_add, scale_of, track_duplicate_syn, track_fin, track_overheard, track_receiver, track_revive,
    track_rst, track_rst_refused, track_sender, track_spoke_on, track_vouched)
from mos.tcp.trouble cimport CLAIM_MADE, CLAIM_QUESTIONED, known_trouble, side_trouble_t, trouble_of, trouble_t

cdef int64_t RST_SILENCE_NS = RST_SILENCE_S * <int64_t>1000000000, CLOSED_LINGER_NS = 10_000_000_000   # for segments in flight

cdef int segment(Core k, flow_t *f, const pkt_t *p, int s, int fresh) noexcept nogil:
    """One TCP segment through its flow: would the receiver take it, and what then. WAY_*. `fresh`: FRESH_* if it starts it."""
    cdef scene_t c
    cdef judged_t j
    c.flow, c.pkt, c.ring, c.want, c.now = f, p, &k.ring, f.mask, k.now
    c.s, c.to_server, c.truth = s, s == CLIENT, k.truth
    k.plan.n = k.plan.len = 0
    k.plan.to = k.plan.next = f.end[s].offset
    k.fresh = <uint8_t>fresh
    if fresh == FRESH_OPENS:
        return taken(k, &c)
    j = classify(f, p, s, k.truth)
    if known_trouble(f) != NULL:
        j = weigh(k, &c, j)
    if j.what == SEG_TAKEN:
        return taken(k, &c)
    if j.what == SEG_REFUSED:
        return refuse(k, &c, j)
    if j.what == SEG_DUPLICATE_SYN:
        return again(k, &c)
    return WAY_ANSWERS_OTHER if j.what == SEG_ANSWERS_OTHER else WAY_REOPENS

cdef int again(Core k, scene_t *c) noexcept nogil:
    """A SYN or SYN-ACK sent again: it may be the first that is not dropped."""
    track_duplicate_syn(c)
    if k.safe and c.pkt.payload_len and safe_flow(k, c.flow, c.s):
        k.alter = ALTER_STREAM
    if drain(k) < 0:
        return WAY_FAILED
    if k.answer.verdict >= MOS_HOLD:
        abort(k, c)
        return WAY_DONE
    return commit(k, c)

cdef judged_t weigh(Core k, scene_t *c, judged_t j) noexcept nogil:
    """Hold open questions of a troubled flow against this segment: is a RST refuted, an impossible ACK confirmed?"""
    cdef trouble_t *t = known_trouble(c.flow)
    if c.truth == TRUTH_TAP and j.what == SEG_REFUSED and second_thoughts(k, c, t, j.cause):
        j = classify(c.flow, c.pkt, c.s, c.truth)
    if j.what == SEG_TAKEN and not c.pkt.tcp_flags & TCP_RST:
        track_spoke_on(c)
        if t.claims[1 - c.s] and seq_lt(c.pkt.seq + c.pkt.payload_len, t.side[1 - c.s].claim):
            t.claims[1 - c.s] = CLAIM_QUESTIONED
    return j

cdef bint second_thoughts(Core k, scene_t *c, trouble_t *t, int cause) noexcept nogil:
    """Does the segment itself prove that what we refused it for is not so? Then the flow is mended."""
    cdef end_t *R = &c.flow.end[1 - c.s]
    if c.flow.flags & FLOW_CLOSED and c.flow.end_reason != END_FIN and not c.pkt.tcp_flags & (TCP_SYN | TCP_RST):
        t.alive |= 1 << c.s
        if t.alive != 3:
            return False
        t.alive = 0
        track_revive(c)
        return True
    if cause != REFUSED_ACK or not seq_gt(c.pkt.ack, R.snd_max):
        return False
    if track_vouched(c, 1 - c.s):
        return True
    if t.claims[c.s] == CLAIM_MADE and seq_ge(c.pkt.ack, t.side[c.s].claim):
        t.claims[c.s] = 0
        R.snd_max = c.pkt.ack
        adopt_all(k, c, c.s)
        return True
    return False

cdef void adopt_all(Core k, scene_t *c, int side) noexcept nogil:
    """What was parked because of an ACK that has been confirmed was good."""
    cdef end_t *e = &c.flow.end[side]
    cdef reasm_t *r = <reasm_t *>reasm_of(c.flow, side)
    if r != NULL and r.doubts:
        reasm_adopt(r, &k.limits, &k.budget, e.offset, e.offset, e.offset + (1 << 20))
        free_late(k, c, side)

cdef int claimed(Core k, scene_t *c) noexcept nogil:
    """The sender has reached an ACK that seemed impossible: it was seen before its data, as captures of several queues have it."""
    cdef trouble_t *t = known_trouble(c.flow)
    cdef const side_trouble_t *by = &t.side[1 - c.s]
    cdef end_t *R = &c.flow.end[1 - c.s]
    if not t.claims[1 - c.s] or seq_gt(by.claim, c.flow.end[c.s].snd_max):
        return 0
    t.claims[1 - c.s] = 0
    if seq_gt(by.claim + by.claim_wnd, R.rcv_edge):
        R.rcv_edge = by.claim + by.claim_wnd
    return evidence(k, c, c.s, by.claim)

cdef int refuse(Core k, scene_t *c, judged_t j) noexcept nogil:
    """A segment that its receiver would refuse: an Anomaly, and no end or stream changes."""
    cdef const pkt_t *p = c.pkt
    cdef flow_t *f = c.flow
    cdef trouble_t *t = trouble_of(f)
    cdef end_t *S = &f.end[c.s]
    cdef event_t *e
    cdef int64_t off
    cdef int doubt
    k.n.refused[j.cause] += 1
    if k.safe and (p.payload_len or p.tcp_flags & (TCP_FIN | TCP_URG)) and safe_flow(k, f, c.s):
        k.alter = ALTER_BARE
    off = <int64_t>S.offset + seq_diff(p.seq, S.nxt) if S.flags & END_SEEN else 0
    if t != NULL:
        t.side[c.s].refused += 1
        doubt = track_rst_refused(c, j.in_doubt)
        if doubt and k.truth == TRUTH_TAP:
            t.rst_side, t.rst_ns = <uint8_t>doubt, k.now
            wheel_arm(k.idle, table_slot(k.table, f), k.now + RST_SILENCE_NS)
        elif p.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN:
            t.syn_side, t.syn_seq, t.syn_ns = <uint8_t>(c.s + 1), p.seq, k.now
        elif j.cause == REFUSED_ACK and seq_gt(p.ack, f.end[1 - c.s].snd_max):
            t.claims[c.s], t.side[c.s].claim = CLAIM_MADE, p.ack
            t.side[c.s].claim_wnd = p.wnd << scale_of(f, c.s) if S.flags & END_SEEN and p.seq == S.snd_max else 0
    e = ring_add(&k.ring, f.mask, KIND_OUT_OF_WINDOW, f, p, k.now, c.s, c.to_server)
    if e != NULL:
        e.cause, e.offset, e.length = j.cause, <uint64_t>max(off, 0), p.payload_len
    if drain(k) < 0:
        return -1
    if j.park and k.truth == TRUTH_TAP and track_overheard(c, j.cause) and evidence(k, c, 1 - c.s, p.ack) < 0:
        return -1
    if j.park and k.truth == TRUTH_TAP and f.mask & WANTS_BYTES and p.payload_cap and S.flags & END_SEEN and off >= 0 \
            and k.answer.verdict < MOS_HOLD:
        caps_park(k, f, c.s, <uint64_t>off, p.payload, p.payload_cap)
    slots_commit(k.undo)
    return WAY_DONE

cdef int taken(Core k, scene_t *c) noexcept nogil:
    """An acceptable segment, all the way."""
    cdef flow_t *f = c.flow
    cdef const pkt_t *p = c.pkt
    if p.tcp_flags & TCP_RST:
        return reset_seen(k, c)
    track_sender(c)
    if k.safe:
        safe_hear(k, c)
    if drain(k) < 0:
        return -1
    if k.truth == TRUTH_TAP and p.tcp_flags & TCP_ACK and evidence(k, c, 1 - c.s, p.ack) < 0:
        return -1
    if k.truth == TRUTH_INLINE and p.tcp_flags & TCP_SYN and p.tcp_flags & TCP_ACK:
        safe_withdraw(k, f, 1 - c.s, p.ack)
    if p.payload_len and stream(k, c) < 0:
        return -1
    if k.answer.verdict >= MOS_HOLD:
        abort(k, c)
        return WAY_DONE
    return commit(k, c)

cdef int reset_seen(Core k, scene_t *c) noexcept nogil:
    """An acceptable RST: once it is forwarded both ends are closed; the flow lingers for what is still in flight."""
    cdef end_t *R = &c.flow.end[1 - c.s]
    if k.safe and c.pkt.payload_len and safe_flow(k, c.flow, c.s):
        k.alter = ALTER_BARE
    if drain(k) < 0:
        return -1
    if k.truth == TRUTH_TAP and c.pkt.tcp_flags & TCP_ACK and (seq_le(c.pkt.ack, R.snd_max) or track_vouched(c, 1 - c.s)) \
            and evidence(k, c, 1 - c.s, c.pkt.ack) < 0:
        return -1
    if k.answer.verdict < MOS_HOLD:
        track_rst(c)
        slots_commit(k.undo)
        wheel_arm(k.idle, table_slot(k.table, c.flow), k.now + CLOSED_LINGER_NS)
        if drain(k) < 0:
            return -1
    else:
        abort(k, c)
    return WAY_DONE

cdef int stream(Core k, scene_t *c) noexcept nogil:
    """Probe the payload and offer what is in order. Nothing is consumed before `commit`."""
    cdef flow_t *f = c.flow
    cdef const pkt_t *p = c.pkt
    cdef end_t *S = &f.end[c.s]
    cdef const uint8_t *data = p.payload
    cdef uint32_t n = p.payload_cap
    cdef uint32_t seq = p.seq + (1 if p.tcp_flags & TCP_SYN else 0)
    cdef int64_t off = <int64_t>S.offset + seq_diff(seq, S.nxt), fin
    cdef uint32_t cut
    cdef reasm_t *r = <reasm_t *>reasm_of(f, c.s)
    if not safe_follows(k, f):
        if off > <int64_t>S.offset:
            out_of_order(k, c, <uint64_t>off, p.payload_len)
        return drain(k)
    k.n.reassembled += 1
    if off < 0:
        cut = <uint32_t>min(<int64_t>n, -off)
        data, n, off = data + cut, n - cut, off + cut
    if S.flags & END_FIN_SENT:
        fin = <int64_t>S.offset + seq_diff(S.fin_seq, S.nxt)
        if off + n > fin:
            n = <uint32_t>(fin - off) if fin > off else 0
    if n == 0 or off < 0:
        return 0
    if offered_enough(k, r, S.offset, <uint64_t>off):
        return no_room(k)
    if p.tcp_flags & TCP_SYN and k.truth == TRUTH_TAP:
        caps_park(k, f, c.s, <uint64_t>off, data, n)
        return 0
    if r != NULL and r.head != NULL and hopeless(r, k.now) and k.truth == TRUTH_TAP:
        if give_up(k, c, c.s, S.offset + reasm_hole(r, S.offset), GAP_ACKED if r.acked_ns else GAP_AGE) < 0:
            return -1
    k.plan.lent = lent(k, p)
    k.plan.compare = f.mask >> KIND_OVERLAP_CONFLICT & 1
    reasm_probe(<reasm_t *>reasm_of(f, c.s), &k.plan, &k.limits, &k.budget, S.offset, <uint64_t>off, data, n, policy_of(f, c.s))
    if k.plan.over and make_room(k, c, <uint64_t>off, data, n) < 0:
        return -1
    if k.plan.conflicts.n:
        conflicts(k, c)
    if k.plan.to == k.plan.next and k.plan.len:
        out_of_order(k, c, k.plan.off, k.plan.len)
    if k.alter and k.plan.to > k.plan.next and not safe_room(k, c):
        k.cap_reached(CAP_RETAINED)
        return -1 if drain(k) < 0 or caps_tell(k, f, p) < 0 else no_room(k)
    if drain(k) < 0:
        return -1
    return offer(k, c, &k.plan, c.s, AT_SENDER)

cdef int make_room(Core k, scene_t *c, uint64_t off, const uint8_t *data, uint32_t n) noexcept nogil:
    """The queue is full. A tap gives up the hole; inline the segment is dropped, so that TCP sends again."""
    cdef end_t *S = &c.flow.end[c.s]
    cdef reasm_t *r = <reasm_t *>reasm_of(c.flow, c.s)
    caps_over(k, k.plan.over)
    if caps_tell(k, c.flow, c.pkt) < 0:     # before the verdict below ends the walk
        return -1
    if k.truth == TRUTH_INLINE:
        if k.skip_holes and k.alter and give_up(k, c, c.s, S.offset + reasm_hole(r, S.offset) if r != NULL and r.segs else off,
                                                GAP_CAP) < 0:
            return -1
        return no_room(k)
    while k.plan.over:
        r = <reasm_t *>reasm_of(c.flow, c.s)
        if give_up(k, c, c.s, S.offset + reasm_hole(r, S.offset) if r != NULL and r.head != NULL else off, GAP_CAP) < 0:
            return -1
        reasm_probe_again(<reasm_t *>reasm_of(c.flow, c.s), &k.plan, &k.limits, &k.budget, S.offset, off, data, n,
                          policy_of(c.flow, c.s))
    return 0

cdef int offer(Core k, scene_t *c, plan_t *plan, int side, int at) noexcept nogil:
    """One StreamData per piece, in order of offset."""
    cdef event_t e
    cdef uint32_t i
    cdef reasm_t *r = <reasm_t *>reasm_of(c.flow, side)
    if not c.flow.mask >> KIND_STREAM_DATA & 1:
        return 0
    event_set(&e, KIND_STREAM_DATA, c.flow, c.pkt, k.now, side, side == CLIENT)
    e.at = <uint8_t>at
    for i in range(plan.n):
        e.offset, e.length, e.data = plan.pieces[i].off, plan.pieces[i].len, plan.pieces[i].shown
        e.flags = EV_DOUBTFUL if plan.pieces[i].doubtful else 0
        if r != NULL and r.offered > e.offset and at == AT_SENDER:
            e.flags |= EV_REDELIVERED
        if k.alter or (k.safe and c.pkt == NULL):
            e.flags |= EV_UNSENT
        if tell(k, &e) < 0:
            return -1
        plan.pieces[i].shown = e.data
        if k.answer.verdict >= MOS_HOLD and at == AT_SENDER and plan == &k.plan:
            plan.to = e.offset + e.length       # the packet does not let the rest in either: it is not asked about
            return 0
    return 0

cdef void advance(Core k, scene_t *c, plan_t *plan, int side) noexcept nogil:
    """The plan's bytes are delivered: consume them."""
    cdef end_t *e = &c.flow.end[side]
    cdef uint32_t i
    if k.copy != NULL:
        safe_keep(k, c)
    acked_keep(k, c.flow, side, plan)
    if c.flow.mask >> KIND_OVERLAP_CONFLICT & 1 and k.limits.keep:
        for i in range(plan.n):
            reasm_keep(<reasm_t **>reasm_at(c.flow, side), &k.limits, &k.budget, plan.pieces[i].data, plan.pieces[i].len,
                       plan.pieces[i].off + plan.pieces[i].len)
    if reasm_of(c.flow, side) != NULL or (plan.to == plan.next and plan.len):
        reasm_commit(<reasm_t **>reasm_at(c.flow, side), plan, &k.budget, k.now)
    e.nxt += <uint32_t>(plan.to - plan.next)
    e.offset = plan.to

cdef int evidence(Core k, scene_t *c, int side, uint32_t ack) noexcept nogil:
    """An ACK tells what its sender has: adopt doubtful bytes below it, and note holes that will never be filled."""
    cdef end_t *e = &c.flow.end[side]
    cdef reasm_t *r = <reasm_t *>reasm_of(c.flow, side)
    cdef int64_t ahead
    cdef uint64_t hi
    cdef uint32_t i
    if not e.flags & END_SEEN:
        return 0
    ahead = seq_diff(ack, e.nxt)
    if e.flags & END_FIN_SENT and seq_gt(ack, e.fin_seq):
        ahead, e.flags = ahead - 1, e.flags | END_FIN_PASSED
    if r != NULL and r.doubts:
        for i in range(c.pkt.nsack if side != c.s else 0):
            reasm_adopt(r, &k.limits, &k.budget, e.offset, e.offset + seq_diff(c.pkt.sack[2 * i], e.nxt),
                        e.offset + seq_diff(c.pkt.sack[2 * i + 1], e.nxt))
    if ahead <= 0:
        return 0
    hi = e.offset + ahead
    if not c.flow.mask & WANTS_BYTES:
        e.nxt += <uint32_t>ahead
        e.offset = hi
        track_fin(c, side)
        return drain(k)
    if r != NULL and r.doubts:
        reasm_adopt(r, &k.limits, &k.budget, e.offset, e.offset, hi)
    if r != NULL and free_late(k, c, side) < 0:
        return -1
    if e.offset < hi:
        return missing(k, c, side, hi)
    return 0

cdef int missing(Core k, scene_t *c, int side, uint64_t hi) noexcept nogil:
    """Bytes below `hi` are acknowledged but unseen: wait a little for a capture out of order, then give them up."""
    cdef end_t *e = &c.flow.end[side]
    cdef reasm_t *r = reasm_offered(<reasm_t **>reasm_at(c.flow, side), &k.budget, 0)
    cdef uint64_t hole, to
    if r == NULL:
        return 0
    if not r.acked_ns:
        r.acked_ns = k.now
    while e.offset < hi and r.acked_ns and k.now - r.acked_ns > ACKED_GRACE_NS:
        hole = reasm_hole(r, e.offset)
        to = min(hi, e.offset + hole) if hole else hi
        if give_up(k, c, side, to, GAP_ACKED) < 0:
            return -1
        r.acked_ns = k.now - ACKED_GRACE_NS - 1 if e.offset < hi else 0
    return 0

cdef int free_late(Core k, scene_t *c, int side) noexcept nogil:
    """Deliver what the queue holds at the delivered offset: the other direction, or a skipped hole, set it free."""
    cdef end_t *e = &c.flow.end[side]
    reasm_ready(<reasm_t *>reasm_of(c.flow, side), &k.late, e.offset)
    if k.late.to > k.late.next:
        if offer(k, c, &k.late, side, AT_SENDER) < 0:
            return -1
        if k.bus.want_receiver >> KIND_STREAM_DATA & 1 and offer(k, c, &k.late, side, AT_RECEIVER) < 0:
            return -1
        advance(k, c, &k.late, side)
    track_fin(c, side)
    return 0

cdef int give_up(Core k, scene_t *c, int side, uint64_t to, int cause) noexcept nogil:
    """StreamGap for everything below `to`, then what lies behind it."""
    cdef end_t *e = &c.flow.end[side]
    cdef event_t gap
    if to <= e.offset:
        return 0
    history_add(c.flow, side, HIST_GAP)
    if trouble_of(c.flow) != NULL:
        known_trouble(c.flow).side[side].gap_bytes += to - e.offset
    if c.flow.mask >> KIND_STREAM_GAP & 1:
        event_set(&gap, KIND_STREAM_GAP, c.flow, c.pkt, k.now, side, side == CLIENT)
        gap.segs, gap.cause = 1, <uint8_t>cause
        gap.offset, gap.length = e.offset, to - e.offset
        if tell(k, &gap) < 0:
            return -1
    e.nxt += <uint32_t>(to - e.offset)
    e.offset = to
    if reasm_of(c.flow, side) == NULL:
        track_fin(c, side)
        return 0
    reasm_skip(<reasm_t *>reasm_of(c.flow, side), &k.budget, to if not k.alter else <uint64_t>-1)
    return free_late(k, c, side)

cdef int commit(Core k, scene_t *c) noexcept nogil:
    """The packet is forwarded: its receiver has it from now on."""
    k.committed = 1
    cdef flow_t *f = c.flow
    cdef end_t *S = &f.end[c.s]
    cdef int64_t ahead
    fin_passes(S, c.pkt)
    if k.plan.n or k.plan.len:
        if k.bus.want_receiver >> KIND_STREAM_DATA & 1 and offer(k, c, &k.plan, c.s, AT_RECEIVER) < 0:
            return -1
        advance(k, c, &k.plan, c.s)
    elif c.pkt.payload_len and not safe_follows(k, f):
        ahead = seq_diff(c.pkt.seq + c.pkt.payload_len + (1 if c.pkt.tcp_flags & TCP_SYN else 0), S.nxt)
        if ahead > 0:
            S.nxt += <uint32_t>ahead
            S.offset += ahead
    if not k.alter or safe_hold(k, c):
        track_receiver(c)
    if acked_hear(k, f, c.s, c.pkt) < 0:
        return WAY_FAILED
    if known_trouble(f) != NULL and k.truth == TRUTH_TAP and claimed(k, c) < 0:
        return WAY_FAILED
    track_fin(c, c.s)
    if k.bus.want_receiver >> KIND_PACKET_IN & 1 and k.alter != ALTER_HELD:
        packet_at_receiver(k, c)
    if drain(k) < 0:
        return -1
    slots_commit(k.undo)
    moved_on(k, f, c.pkt, INT64_MAX if S.flags & END_FIN_SENT or f.flags & (FLOW_EMBRYONIC | FLOW_CLOSED) else 0)
    return 0

cdef void abort(Core k, scene_t *c) noexcept nogil:
    """The packet is dropped: the sender's history has it, its receiver and the stream do not, slots go back."""
    if k.copy != NULL:
        safe_forget(k)
    if c.flow.key.proto == IPPROTO_TCP and k.plan.to > k.plan.next:
        reasm_offered(<reasm_t **>reasm_at(c.flow, c.s), &k.budget, k.plan.to)
    if k.fresh:
        slots_commit(k.undo)    # FlowStart will not be raised again: what it set up stays
    else:
        slots_abort(k.undo)

cdef int drain(Core k) noexcept nogil:
    """Hand the ring's events out, oldest first."""
    cdef uint32_t i = 0
    while i < k.ring.n:
        if tell(k, &k.ring.ev[i]) < 0:
            return -1
        i += 1
    k.ring.n = 0
    return 0

cdef int tell(Core k, event_t *e) noexcept nogil:
    k.n.events[e.kind] += 1
    return dispatch(k.bus, e, &k.answer)

cdef int flush(Core k, flow_t *f, int side) noexcept nogil:
    """The flow ends: deliver what waits behind holes, each hole a StreamGap, and tell of bytes acknowledged but unseen."""
    cdef scene_t c
    cdef end_t *e = &f.end[side]
    cdef const end_t *peer = &f.end[1 - side]
    cdef int64_t ahead
    c.flow, c.pkt, c.ring, c.want, c.now = f, NULL, &k.ring, f.mask, k.now
    c.s, c.to_server, c.truth = side, side == CLIENT, k.truth
    if not f.mask & WANTS_BYTES or not e.flags & END_SEEN:
        return 0
    if not peer.flags & END_ACKED and acked_release(k, f, side, e.offset) < 0:
        return WAY_FAILED
    while reasm_hole(<reasm_t *>reasm_of(c.flow, side), e.offset):
        if give_up(k, &c, side, e.offset + reasm_hole(<reasm_t *>reasm_of(c.flow, side), e.offset), GAP_CLOSE) < 0:
            return WAY_FAILED
    if peer.flags & END_ACKED and k.truth == TRUTH_TAP:
        ahead = seq_diff(peer.last_ack, e.nxt)
        if e.flags & END_FIN_SENT and seq_gt(peer.last_ack, e.fin_seq):
            ahead -= 1
        if ahead > 0 and give_up(k, &c, side, e.offset + ahead, GAP_CLOSE) < 0:
            return WAY_FAILED
    return drain(k)
