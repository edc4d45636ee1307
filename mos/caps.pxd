# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Bounds that were reached: counted where it happens, told as CapReached before the packet in hand is finished."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from mos.core cimport Core
from mos.events.dispatch cimport dispatch
from mos.events.kinds cimport (
    CAP_BYTES, CAP_DOMAINS, CAP_DOUBTFUL, CAP_FRAGMENTS, CAP_GLOBAL_BYTES, CAP_SEGMENTS, CAP_SETS, KIND_CAP_REACHED)
from mos.events.ring cimport event_t
from mos.flow.flow cimport flow_t, reasm_at
from mos.net.packet cimport pkt_t
from mos.net.walk cimport BAD_FRAGMENT_CAP
from mos.tcp.queue cimport reasm_t
from mos.tcp.reasm cimport OVER_BYTES, OVER_SEGS, reasm_park

cdef inline void part_look(Core k, int part, int cause, uint64_t now) noexcept nogil:
    if now != k.caps_parts[part]:
        k.n.caps[cause] += now - k.caps_parts[part] - 1
        k.caps_parts[part] = now
        k.cap_reached(cause)

cdef inline uint64_t caps_refused(Core k) noexcept nogil:
    """What stages that know no events have counted at their bounds."""
    return k.budget.refused + k.dec.frags.refused[BAD_FRAGMENT_CAP] + k.dec.domains.overflow + k.bus.sets_refused

cdef inline void caps_look(Core k) noexcept nogil:
    """Has such a stage met its bound since the last look?"""
    cdef uint64_t seen = caps_refused(k)
    if seen == k.caps_seen:
        return
    k.caps_seen = seen
    part_look(k, 0, CAP_GLOBAL_BYTES, k.budget.refused)
    part_look(k, 1, CAP_FRAGMENTS, k.dec.frags.refused[BAD_FRAGMENT_CAP])
    part_look(k, 2, CAP_DOMAINS, k.dec.domains.overflow)
    part_look(k, 3, CAP_SETS, k.bus.sets_refused)

cdef inline bint caps_met(Core k) noexcept nogil:
    """A bound was met that is still to be told. If nobody asked to be told, it is counted here and that is all."""
    caps_look(k)
    if k.caps and not k.bus.any_mask >> KIND_CAP_REACHED & 1:
        k.caps = 0
    return k.caps != 0

cdef inline void caps_park(Core k, flow_t *f, int side, uint64_t off, const uint8_t *data, uint32_t n) noexcept nogil:
    """Keep a refused segment's bytes until the receiver's ACK tells; those that gave way, and those too long, are a bound's."""
    if reasm_park(<reasm_t **>reasm_at(f, side), &k.limits, &k.budget, off, data, n):
        k.cap_reached(CAP_DOUBTFUL)

cdef inline void caps_over(Core k, int over) noexcept nogil:
    """A segment would break a bound of its direction's queue; OVER_* says which."""
    k.cap_reached(CAP_BYTES if over == OVER_BYTES else CAP_SEGMENTS if over == OVER_SEGS else CAP_GLOBAL_BYTES)

cdef inline int caps_tell(Core k, flow_t *f, const pkt_t *p) noexcept nogil:
    """CapReached for each bound met, once a packet. -1: a handler raised and the run is to stop."""
    cdef event_t e
    cdef int cause = 0
    cdef uint32_t met = k.caps
    k.caps = 0
    if not k.bus.any_mask >> KIND_CAP_REACHED & 1:
        return 0
    while met:
        if met & 1:
            memset(&e, 0, sizeof(e))
            e.size, e.kind, e.segs, e.to_server, e.cause = sizeof(e), KIND_CAP_REACHED, 1, 1, <uint8_t>cause
            e.flow, e.pkt, e.now = f, p, k.now
            k.n.events[KIND_CAP_REACHED] += 1
            if dispatch(k.bus, &e, &k.answer) < 0:
                return -1
        met >>= 1
        cause += 1
    return 0
