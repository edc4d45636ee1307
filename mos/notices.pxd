# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What happens besides delivery: bytes out of order, in conflict, at their receiver, beyond a cap; what cannot be parsed."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from mos.core cimport DROPPED_CAP, Core
from mos.events.bus cimport MOS_DROP
from mos.events.kinds cimport (
    CAP_SEGMENTS, KIND_BAD_CHECKSUM, KIND_MALFORMED, KIND_OUT_OF_ORDER, KIND_OVERLAP_CONFLICT, KIND_PACKET_IN, KIND_STREAM_DATA)
from mos.events.ring cimport AT_RECEIVER, event_t, ring_add
from mos.flow.flow cimport CLIENT, flow_t
from mos.net.packet cimport CSUM_BAD_L4, pkt_t
from mos.tcp.queue cimport reasm_t
from mos.tcp.track cimport scene_t
from mos.tcp.trouble cimport known_trouble, trouble_of, trouble_t

cdef enum:
    OFFERS_FREE = 16        # queued segments offered again whenever the hole is filled; with more, of all flows together
    OFFERS_EARNED = 2       # a packet earns as many, so that the cost of packets that are dropped again and again stays bounded
    OFFERS_NS = 10000       # and so long a time one: who backs off alone on the wire has no other packets; 1 % of a core
    OFFERS_MOST = 1 << 13   # two full queues: who resends after a round trip or a time-out finds them earned

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

cdef inline void malformed(Core k, const pkt_t *p) noexcept nogil:
    cdef event_t *e = ring_add(&k.ring, k.bus.any_mask, KIND_MALFORMED, NULL, p, k.now, 0, 1)
    if e != NULL:
        e.cause = p.cause
    k.n.malformed += 1
    if k.verify and p.csum & CSUM_BAD_L4:
        k.n.bad_checksum += 1
        ring_add(&k.ring, k.bus.any_mask, KIND_BAD_CHECKSUM, NULL, p, k.now, 0, 1)

cdef inline void datagram_at_receiver(Core k, flow_t *f, const pkt_t *p, int s, const uint8_t *data) noexcept nogil:
    """A datagram with this payload is forwarded: tell those who asked for that moment."""
    cdef uint64_t want = f.mask & k.bus.want_receiver
    cdef event_t *e = ring_add(&k.ring, want, KIND_PACKET_IN, f, p, k.now, s, s == CLIENT)
    if e != NULL:
        e.at = AT_RECEIVER
    e = ring_add(&k.ring, want if p.payload_cap else 0, KIND_STREAM_DATA, f, p, k.now, s, s == CLIENT)
    if e != NULL:
        e.at = AT_RECEIVER
        e.offset, e.length, e.data = f.end[s].offset, p.payload_cap, data

cdef inline bint offered_enough(Core k, const reasm_t *r, uint64_t next, uint64_t off) noexcept nogil:
    """Does it fill a hole behind which many segments wait that handlers have refused to let in, too often of late?

    Whoever drops the packet that fills the hole makes all of them be offered again with the next that does.
    """
    cdef uint64_t earned
    cdef uint32_t cost
    if r == NULL or r.segs <= OFFERS_FREE or r.offered <= next or off > next:
        return False
    earned = OFFERS_EARNED * (k.n.packets_in - k.offers_at) + <uint64_t>(k.now - k.offers_ns) // OFFERS_NS if k.offers_at \
        else OFFERS_MOST
    k.offers, k.offers_at, k.offers_ns = <uint32_t>min(k.offers + earned, OFFERS_MOST), k.n.packets_in, k.now
    cost = min(r.segs, <uint32_t>OFFERS_MOST)
    if k.offers < cost:
        k.cap_reached(CAP_SEGMENTS)
        return True
    k.offers -= cost
    return False

cdef inline int no_room(Core k) noexcept nogil:
    """Inline, beyond a cap: the segment is dropped, so that TCP sends it again."""
    if k.answer.verdict < MOS_DROP:
        k.answer.verdict, k.answer.stopped, k.answer.position = MOS_DROP, 1, 65535
        k.n.dropped[DROPPED_CAP] += 1
    return 0
