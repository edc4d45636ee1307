# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The segment behind a hole: it goes on where its sender was, and waits until what was lost or late has come.

After one lost segment a window full of these follows. One look says that it only has to be queued, last of all; `mos.segment`
has the way of the others, which for these says the same.
"""
from libc.stdint cimport int32_t, uint64_t
from mos.core cimport Core
from mos.events.bus cimport MOS_HOLD, WANTS_BYTES
from mos.flow.flow cimport CLIENT, end_t, flow_t, more_t, reasm_at, reasm_of
from mos.lend cimport lent
from mos.net.packet cimport pkt_t
from mos.notices cimport out_of_order
from mos.segment cimport WAY_DONE, WAY_FAILED, abort, drain, hopeless
from mos.state.blocks cimport slots_commit
from mos.tcp.classify cimport FAR_BACK
from mos.tcp.predict cimport hears_nothing_new, ordinary_heard, predicted_sent, untroubled
from mos.tcp.queue cimport reasm_t, seg_end
from mos.tcp.reasm cimport excess, reasm_add
from mos.tcp.seq cimport seq_diff, seq_ge
from mos.tcp.track cimport scene_t
from mos.tcp.trouble cimport trouble_t

cdef inline uint64_t behind_at(const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Offset of the segment's first byte in the stream of `s`."""
    return f.end[s].offset + <uint64_t><int32_t>seq_diff(p.seq, f.end[s].nxt)

cdef inline bint behind(Core k, const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Is `p`, which is ordinary and has payload, all new, behind a hole, behind all that is queued, and is there room for it?

    The stack's time may still be that of the packet before.
    """
    cdef const end_t *S = &f.end[s]
    cdef const more_t *m = f.more
    cdef const reasm_t *r = <const reasm_t *>reasm_of(f, s)
    if k.safe or not f.mask & WANTS_BYTES or not seq_ge(p.seq, S.snd_max) or not 0 < seq_diff(p.seq, S.nxt) < FAR_BACK:
        return False
    if m != NULL and not (hears_nothing_new(<const reasm_t *>m.reasm[1 - s]) and untroubled(<const trouble_t *>m.trouble)):
        return False
    if r != NULL and r.head != NULL and (seg_end(r.tail) > behind_at(f, p, s) or hopeless(r, max(k.now, p.ts))):
        return False
    return not excess(r, &k.limits, &k.budget, p.payload_len, 1)

cdef inline int straight_behind(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """Sender, handlers, queue, receiver. WAY_DONE: the answer tells whether it is forwarded; WAY_FAILED."""
    cdef scene_t c
    cdef uint64_t at = behind_at(f, p, s)
    c.flow, c.pkt, c.s, c.to_server = f, p, s, s == CLIENT
    k.n.predicted += 1
    k.n.reassembled += 1
    predicted_sent(&k.ring, f, p, s, k.now)
    out_of_order(k, &c, at, p.payload_len)
    if k.ring.n and drain(k) < 0:
        return WAY_FAILED
    if k.answer.verdict >= MOS_HOLD:
        k.plan.to = k.plan.next
        abort(k, &c)
        return WAY_DONE
    k.committed = 1
    reasm_add(<reasm_t **>reasm_at(f, s), &k.budget, at, p.payload, p.payload_len, lent(k, p), True, k.now)
    ordinary_heard(f, p, s)
    slots_commit(k.undo)
    return WAY_DONE
