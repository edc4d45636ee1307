# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The straight way of an expected segment through its flow. `mos.segment` has the way of all the others."""
from libc.stdint cimport int64_t, uint8_t
from mos.behind cimport behind, straight_behind
from mos.caps cimport caps_tell
from mos.core cimport ALTER_STREAM, Core
from mos.events.bus cimport MOS_HOLD
from mos.events.kinds cimport CAP_RETAINED, KIND_OVERLAP_CONFLICT, KIND_STREAM_DATA, KIND_STREAM_GAP
from mos.events.ring cimport AT_SENDER, event_t
from mos.flow.flow cimport CLIENT, FLOW_MIDSTREAM, flow_t, policy_of, reasm_at, reasm_of
from mos.late cimport late, straight_late
from mos.net.packet cimport TCP_ACK, TCP_FIN, TCP_URG, pkt_segs, pkt_t
from mos.notices cimport no_room
from mos.patience cimport moved_on, patience
from mos.pickup cimport pickup
from mos.safe cimport safe_flow, safe_follows, safe_keep, safe_room, safe_trim
from mos.segment cimport FRESH_OPENS, WAY_DONE, WAY_FAILED, abort, apart, drain, segment, tell
from mos.state.blocks cimport slots_commit
from mos.tcp.classify cimport TRUTH_INLINE
from mos.tcp.milestone cimport first_syn, milestone, milestone_sent, milestone_taken
from mos.tcp.predict cimport ordinary, predicted, predicted_sent, predicted_taken
from mos.tcp.queue cimport reasm_t
from mos.tcp.reasm cimport reasm_keep, reasm_probe
from mos.tcp.seq cimport seq_lt
from mos.tcp.track cimport scene_t

cdef enum:
    WANTS_BYTES = (1 << KIND_STREAM_DATA) | (1 << KIND_STREAM_GAP) | (1 << KIND_OVERLAP_CONFLICT)

cdef enum:                  # what a packet is to its flow
    STRAIGHT_NOT = 0
    STRAIGHT_NEXT = 1       # what was to be expected within an open connection
    STRAIGHT_BEHIND = 2     # what goes on behind a hole
    STRAIGHT_LATE = 3       # what its sender had been beyond before
    STRAIGHT_MILESTONE = 4  # plus MILESTONE_*: what was to be expected where it opens or closes
    STRAIGHT_OPENS = 5      # of these MILESTONE_SYN, its first packet

cdef inline int goes_straight(Core k, const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """STRAIGHT_* of a packet that is not its flow's first. `k.straight`: nobody asks for moments after the forwarding.

    Safe mode leaves such a packet as it is, unless it has an urgent pointer, or belongs to a flow that is followed no more.
    """
    cdef int what
    if p.payload_len and seq_lt(p.seq, f.end[s].snd_max):       # sent again, or late
        return STRAIGHT_LATE if ordinary(f, p, s) and late(k, f, p, s) else STRAIGHT_NOT
    if k.safe and (p.tcp_flags & TCP_URG or (p.payload_len or p.tcp_flags & TCP_FIN) and not safe_follows(k, f)
                   and safe_flow(k, f, s)):
        return STRAIGHT_NOT
    if ordinary(f, p, s):
        if predicted(f, p, s):
            return STRAIGHT_NEXT
        if p.payload_len:
            return STRAIGHT_BEHIND if behind(k, f, p, s) else STRAIGHT_NOT
    what = milestone(f, p, s)
    return STRAIGHT_MILESTONE + what if what else STRAIGHT_NOT

cdef inline int straight_data(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    cdef event_t e              # each field by itself: clearing it whole is a call, and takes longer
    e.size, e.kind, e.at, e.to_server, e.cause, e.flags = sizeof(event_t), KIND_STREAM_DATA, AT_SENDER, s == CLIENT, 0, 0
    e.side, e.old, e.new, e.position, e.segs = <unsigned char>s, 0, 0, 0, pkt_segs(p)
    e.flow, e.pkt, e.now = f, p, k.now
    e.offset, e.length, e.data, e.old_data = f.end[s].offset, p.payload_len, p.payload, NULL
    e.arg, e.obj = 0, NULL
    if tell(k, &e) < 0:
        return WAY_FAILED
    if k.copy != NULL:
        k.plan.pieces[0].shown = e.data
    return 0

cdef inline int straight_kept(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Safe mode: its bytes are retained when it has left, as the handlers let them pass."""
    cdef scene_t c
    c.flow, c.pkt, c.s = f, p, s
    k.alter = ALTER_STREAM
    reasm_probe(<reasm_t *>reasm_of(f, s), &k.plan, &k.limits, &k.budget, f.end[s].offset, f.end[s].offset, p.payload,
                p.payload_len, policy_of(f, s))
    if safe_room(k, &c):
        return straight_data(k, f, p, s) if f.mask >> KIND_STREAM_DATA & 1 else 0
    k.cap_reached(CAP_RETAINED)
    return WAY_FAILED if caps_tell(k, f, p) < 0 else no_room(k)

cdef inline void straight_keep(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    cdef scene_t c
    c.flow, c.pkt, c.s = f, p, s
    safe_keep(k, &c)

cdef inline int straight_abort(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    cdef scene_t c
    c.flow, c.pkt, c.s = f, p, s
    k.plan.next = k.plan.to = f.end[s].offset
    if f.mask & WANTS_BYTES or (k.safe and safe_follows(k, f)):
        k.plan.to += p.payload_len
    abort(k, &c)
    return WAY_DONE

cdef inline int straight(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Sender, handlers, receiver. WAY_DONE: the answer tells whether it is forwarded; WAY_FAILED."""
    k.n.predicted += 1
    predicted_sent(&k.ring, f, p, s, k.now)
    if k.safe:
        safe_trim(k, f, 1 - s)
    if k.ring.n and drain(k) < 0:
        return WAY_FAILED
    if p.payload_len:
        if k.safe and safe_follows(k, f):
            k.n.reassembled += 1
            if apart(straight_kept)(k, f, p, s) < 0:
                return WAY_FAILED
        else:
            k.n.reassembled += f.mask & WANTS_BYTES != 0
            if f.mask >> KIND_STREAM_DATA & 1 and straight_data(k, f, p, s) < 0:
                return WAY_FAILED
    if k.answer.verdict >= MOS_HOLD:
        return apart(straight_abort)(k, f, p, s)
    k.committed = 1
    if k.copy != NULL:
        straight_keep(k, f, p, s)
    if f.mask >> KIND_OVERLAP_CONFLICT & 1 and k.limits.keep and p.payload_len:
        reasm_keep(<reasm_t **>reasm_at(f, s), &k.limits, &k.budget, p.payload, p.payload_len, f.end[s].offset + p.payload_len)
    predicted_taken(f, p, s)
    slots_commit(k.undo)
    return WAY_DONE

cdef inline int straight_milestone(Core k, flow_t *f, const pkt_t *p, int s, int what) noexcept nogil:
    """The same for what opens and closes a connection. `what`: MILESTONE_*."""
    cdef scene_t c
    c.flow, c.pkt, c.ring, c.want, c.now = f, p, &k.ring, f.mask, k.now
    c.s, c.to_server, c.truth = s, s == CLIENT, k.truth
    cdef int64_t before = patience(k, f)
    k.n.predicted += 1
    milestone_sent(&c, what)
    if k.safe and p.tcp_flags & TCP_ACK:
        safe_trim(k, f, 1 - s)
    if k.ring.n and drain(k) < 0:
        return WAY_FAILED
    if k.answer.verdict >= MOS_HOLD:
        return apart(straight_abort)(k, f, p, s)
    k.committed = 1
    milestone_taken(&c, what)
    if k.ring.n and drain(k) < 0:
        return WAY_FAILED
    slots_commit(k.undo)
    moved_on(k, f, p, before)
    return WAY_DONE

cdef inline int straight_on(Core k, flow_t *f, const pkt_t *p, int s, int how) noexcept nogil:
    """`how`: STRAIGHT_*, as goes_straight had it."""
    if how == STRAIGHT_NEXT:
        return straight(k, f, p, s)
    if how == STRAIGHT_LATE:
        return apart(straight_late)(k, f, p, s)
    if how == STRAIGHT_BEHIND:
        return apart(straight_behind)(k, f, p, s)
    return straight_milestone(k, f, p, s, how - STRAIGHT_MILESTONE)

cdef inline int through(Core k, flow_t *f, const pkt_t *p, int s, int fresh) noexcept nogil:
    """WAY_* of a TCP segment through its flow, straight or the long way. `fresh`: FRESH_*."""
    cdef int how = STRAIGHT_NOT
    if f.flags & FLOW_MIDSTREAM and k.truth == TRUTH_INLINE and pickup(k, f, p, s):
        k.plan.n = k.plan.len = 0
        k.plan.to = k.plan.next = f.end[s].offset
        if drain(k) < 0:
            return WAY_FAILED
        slots_commit(k.undo)
        return WAY_DONE
    if k.straight:
        if not fresh:
            how = goes_straight(k, f, p, s)
        elif fresh == FRESH_OPENS and first_syn(p) and not (k.safe and p.tcp_flags & TCP_URG):
            how = STRAIGHT_OPENS
    if how == STRAIGHT_NOT:
        return segment(k, f, p, s, fresh)
    k.fresh = <uint8_t>fresh
    return straight_on(k, f, p, s, how)
