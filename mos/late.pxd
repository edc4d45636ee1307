# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The segment of an open connection that says bytes again, or comes late: its sender has been beyond it before.

Mostly it has nothing that is not delivered or queued already, or it has what lies alone between queued segments, and waits as
they do: one look in the index says so. What overlaps, fills the hole, or finds no room goes on in `mos.segment`, which says the
same of the others.
"""
from libc.stdint cimport uint64_t
from mos.core cimport Core
from mos.events.bus cimport MOS_HOLD, WANTS_BYTES
from mos.events.kinds cimport KIND_OVERLAP_CONFLICT
from mos.flow.flow cimport CLIENT, end_t, flow_t, policy_of, reasm_at, reasm_of
from mos.lend cimport lent
from mos.net.packet cimport pkt_t
from mos.notices cimport out_of_order
from mos.segment cimport WAY_DONE, WAY_FAILED, abort, commit, drain, hopeless, stream
from mos.state.blocks cimport slots_commit
from mos.tcp.classify cimport FAR_BACK
from mos.tcp.overlap cimport relation
from mos.tcp.predict cimport hears_nothing_new, ordinary_heard, ordinary_said, untroubled
from mos.tcp.queue cimport queue_reach, reasm_t
from mos.tcp.reasm cimport RELATION_COUNT, excess, new_wins, reasm_add
from mos.tcp.seq cimport seq_diff, seq_gt
from mos.tcp.track cimport HIST_DATA, history_add, note_retransmission, rtt_sent, scene_t
from mos.tcp.trouble cimport trouble_t

cdef enum:                  # where its bytes belong
    LATE_OLD = 0            # all were delivered
    LATE_HELD = 1           # all are queued, and stay as they are
    LATE_ALONE = 2          # none is queued, and there is room
    LATE_OTHER = 3

cdef inline bint late(Core k, const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Is all of `p` but its place in the stream as it was to be? It is ordinary, has payload and begins below SND.NXT."""
    cdef int far = seq_diff(p.seq, f.end[s].nxt)
    if k.safe or not f.mask & WANTS_BYTES or not -FAR_BACK < far < FAR_BACK:
        return False
    return f.more == NULL or (hears_nothing_new(<const reasm_t *>f.more.reasm[1 - s])
                              and untroubled(<const trouble_t *>f.more.trouble))

cdef inline int late_place(Core k, const flow_t *f, int s, uint64_t at, uint64_t end) noexcept nogil:
    """LATE_* of [at, end) in the stream of `s`."""
    cdef const reasm_t *r = <const reasm_t *>reasm_of(f, s)
    cdef uint64_t next = f.end[s].offset, lo = 0, hi = 0
    if f.mask >> KIND_OVERLAP_CONFLICT & 1 or not f.mask & WANTS_BYTES \
            or (r != NULL and (r.offered > next or (r.head != NULL and hopeless(r, k.now)))):
        return LATE_OTHER
    if end <= next:
        return LATE_OLD
    if at <= next:
        return LATE_OTHER
    if r == NULL or not queue_reach(r, at, end, &lo, &hi):
        return LATE_OTHER if excess(r, &k.limits, &k.budget, end - at, 1) else LATE_ALONE
    if lo > at or hi < end or new_wins[policy_of(f, s) * RELATION_COUNT + relation(at, end, lo, hi)]:
        return LATE_OTHER
    return LATE_HELD

cdef inline void late_sent(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """The sending end as it is after the segment, whatever becomes of it; as track_sender has it."""
    cdef end_t *S = &f.end[s]
    if not S.hist >> HIST_DATA & 1:
        history_add(f, s, HIST_DATA)
    note_retransmission(&k.ring, f.mask, f, p, s, k.now)
    ordinary_said(&k.ring, f, p, s, k.now)
    if seq_gt(p.seq + p.payload_len, S.snd_max):
        S.snd_max = p.seq + p.payload_len
        rtt_sent(S, S.snd_max, k.now)

cdef inline int straight_late(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Sender, handlers, queue, receiver. WAY_DONE: the answer tells whether it is forwarded; WAY_FAILED."""
    cdef scene_t c
    cdef uint64_t at = f.end[s].offset + <uint64_t><long long>seq_diff(p.seq, f.end[s].nxt)
    cdef int place
    c.flow, c.pkt, c.ring, c.want, c.now = f, p, &k.ring, f.mask, k.now
    c.s, c.to_server, c.truth = s, s == CLIENT, k.truth
    k.plan.n = k.plan.len = 0
    k.plan.to = k.plan.next = f.end[s].offset
    k.n.predicted += 1
    late_sent(k, f, p, s)
    if k.ring.n and drain(k) < 0:
        return WAY_FAILED
    if at >> 63:                # below the stream's first byte
        place = LATE_OTHER
    else:
        place = late_place(k, f, s, at, at + p.payload_len)
    if place == LATE_OTHER:
        if stream(k, &c) < 0:
            return WAY_FAILED
    else:
        k.n.reassembled += 1
        if place != LATE_OLD:
            out_of_order(k, &c, at, p.payload_len)
            if k.ring.n and drain(k) < 0:
                return WAY_FAILED
    if k.answer.verdict >= MOS_HOLD:
        abort(k, &c)
        return WAY_DONE
    if place == LATE_OTHER:
        return commit(k, &c)
    k.committed = 1
    if place == LATE_ALONE:
        reasm_add(<reasm_t **>reasm_at(f, s), &k.budget, at, p.payload, p.payload_len, lent(k, p), False, k.now)
    ordinary_heard(f, p, s)
    slots_commit(k.undo)
    return WAY_DONE
