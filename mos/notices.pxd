# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What happens to a TCP segment's bytes besides delivery: out of order, in conflict, at their receiver, beyond a cap."""
from libc.stdint cimport uint32_t, uint64_t
from mos.core cimport DROPPED_CAP, Core
from mos.events.bus cimport MOS_DROP
from mos.events.kinds cimport KIND_OUT_OF_ORDER, KIND_OVERLAP_CONFLICT, KIND_PACKET_IN
from mos.events.ring cimport AT_RECEIVER, event_t, ring_add
from mos.tcp.track cimport scene_t
from mos.tcp.trouble cimport known_trouble, trouble_of, trouble_t

cdef inline void out_of_order(Core k, scene_t *c, uint64_t off, uint64_t n) noexcept nogil:
    cdef event_t *e
    if trouble_of(c.flow) != NULL:
        known_trouble(c.flow).side[c.s].out_of_order += 1
    e = ring_add(&k.ring, c.flow.mask, KIND_OUT_OF_ORDER, c.flow, c.pkt, k.now, c.s, c.to_server)
    if e != NULL:
        e.offset, e.length = off, n

cdef inline void conflicts(Core k, scene_t *c) noexcept nogil:
    cdef uint32_t i
    cdef event_t *e
    if trouble_of(c.flow) != NULL:
        known_trouble(c.flow).side[c.s].conflict_bytes += k.plan.conflicts.bytes
    for i in range(k.plan.conflicts.n):
        e = ring_add(&k.ring, c.flow.mask, KIND_OVERLAP_CONFLICT, c.flow, c.pkt, k.now, c.s, c.to_server)
        if e != NULL:
            e.offset, e.length = k.plan.conflicts.at[i].off, k.plan.conflicts.at[i].len
            e.old_data, e.data = k.plan.conflicts.at[i].old, k.plan.conflicts.at[i].new

cdef inline void packet_at_receiver(Core k, scene_t *c) noexcept nogil:
    cdef event_t *e = ring_add(&k.ring, c.flow.mask, KIND_PACKET_IN, c.flow, c.pkt, k.now, c.s, c.to_server)
    if e != NULL:
        e.at = AT_RECEIVER

cdef inline int no_room(Core k) noexcept nogil:
    """Inline, beyond a cap: the segment is dropped, so that TCP sends it again."""
    if k.answer.verdict < MOS_DROP:
        k.answer.verdict, k.answer.stopped, k.answer.position = MOS_DROP, 1, 65535
        k.n.dropped[DROPPED_CAP] += 1
    return 0
