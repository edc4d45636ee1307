# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Flows between two ends on the same side of us (a NAT's hairpin): what they send leaves where it came in.

There both ends send to the router beyond us, and hear from it. So a frame goes to the hardware address that the other end
sends from, and comes from the one that it was sent to.
"""
from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from mos.flow.flow cimport SERVER, alias_t, flow_names, flow_t
from mos.net.packet cimport pkt_t

cdef enum:
    ETHERNET = 1            # LINKTYPE_ETHERNET
    MAC = 6

cdef inline alias_t *turn_of(const flow_t *f) noexcept nogil:
    """The name that turns the flow round, NULL: it goes through us."""
    cdef alias_t *a = flow_names(f)
    while a != NULL and not a.turns:
        a = a.next
    return a

cdef inline void turn_set(flow_t *f, int position, const uint8_t *server) noexcept nogil:
    """From now on the flow, which has a name at `position`, turns round; its server sends from this address."""
    cdef alias_t *a = flow_names(f)
    while a != NULL and a.position != position:
        a = a.next
    if a != NULL:
        a.turns = 1
        memcpy(&a.mac[SERVER][0], server, MAC)

cdef inline const alias_t *turn_learn(const flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """turn_of, which now knows where its end `s` sent this packet from."""
    cdef alias_t *a = turn_of(f)
    if a != NULL and p.linktype == ETHERNET:
        memcpy(&a.mac[s][0], p.frame + MAC, MAC)
    return a

cdef inline void turn_frame(const alias_t *a, int to, const pkt_t *p, uint8_t *out) noexcept nogil:
    """The copy of a frame is for the end `to`."""
    if p.linktype == ETHERNET:
        memcpy(out + MAC, out, MAC)
        memcpy(out, &a.mac[to][0], MAC)
