# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Packets in VLANs and tunnels, decoded for a batch ahead of time: they are looked up in two tables, of domains and of flows.

Domains are numbered in the order of their first packets. So it ends at the first packet which may have a domain and is not
decoded here, and that and all behind it are decoded in their turn.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from mos.net.bytes cimport be16
from mos.net.decode cimport decode_walk, decoder_t
from mos.net.domain cimport domain_again, domain_fetch, domain_intern
from mos.net.ip cimport IP4_FRAGMENT
from mos.net.link cimport ETHERTYPE_ARP, ETHERTYPE_IP4, ETHERTYPE_IP6, LINKTYPE_ETHERNET, is_vlan
from mos.net.packet cimport (
    AHEAD_DECODED, AHEAD_FLOW, AHEAD_NOT, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, pkt_t)
from mos.net.walk cimport STEP_DEFRAG, STEP_FLOW, walk_t

cdef enum:
    SOON = 8                # a domain is interned so many packets after its place was called for

cdef enum:                  # what a packet wears, as far as a glance tells
    DRESS_NONE = 0
    DRESS_SOME = 1          # VLANs or tunnels, or what may be a tunnel
    DRESS_UNCLEAR = 2

cdef struct dressed_t:      # a packet whose domain is still to be looked up
    pkt_t *p
    walk_t w

cdef inline int dress(const decoder_t *d, const pkt_t *p) noexcept nogil:
    cdef const uint8_t *h = p.frame + 14
    cdef const uint8_t *ports = h + 40
    cdef uint16_t type
    cdef uint8_t proto
    cdef int i
    if p.linktype != LINKTYPE_ETHERNET or p.caplen < 14 + 60 + 4:       # as long as an IPv4 header with ports may be
        return DRESS_UNCLEAR
    type = be16(h - 2)
    if is_vlan(type):
        return DRESS_SOME
    if type == ETHERTYPE_IP4 and not be16(h + 6) & IP4_FRAGMENT:
        proto, ports = h[9], h + (h[0] & 15) * 4
    elif type == ETHERTYPE_IP6:
        proto = h[6]
    else:
        return DRESS_NONE if type == ETHERTYPE_ARP else DRESS_UNCLEAR
    if d.by_proto[proto]:
        return DRESS_SOME
    if proto == IPPROTO_UDP:
        for i in range(d.nports):
            if d.ports[i] == be16(ports + 2) or (d.either[i] and d.ports[i] == be16(ports)):
                return DRESS_SOME
        return DRESS_NONE
    return DRESS_NONE if proto == IPPROTO_TCP or proto == IPPROTO_ICMP or proto == IPPROTO_ICMPV6 else DRESS_UNCLEAR

cdef inline void decode_dressed(decoder_t *d, pkt_t *pkts, int n) noexcept nogil:
    """Of a batch that decode_ahead has been through: `ahead` says which packets were decoded here, too."""
    cdef dressed_t ring[SOON]
    cdef uint32_t found = 0, done = 0
    cdef dressed_t *x
    cdef int i = 0, step, what
    while i < n or done < found:
        if found - done == SOON or (i == n and done < found):
            x = &ring[done % SOON]
            x.p.key.domain = domain_intern(&d.domains, &x.w)
            done += 1
            continue
        i += 1
        if pkts[i - 1].ahead != AHEAD_NOT:
            continue
        x = &ring[found % SOON]
        x.p = &pkts[i - 1]
        what = dress(d, x.p)
        step = decode_walk(d, x.p, &x.w, False) if what == DRESS_SOME else STEP_DEFRAG
        if what == DRESS_UNCLEAR or (what == DRESS_SOME and step == STEP_DEFRAG):
            n = i           # the end
        elif what == DRESS_SOME:
            x.p.ahead = AHEAD_FLOW if step == STEP_FLOW else AHEAD_DECODED
            if step == STEP_FLOW and x.w.npath:
                x.p.key.domain = domain_again(&d.domains, &x.w)
                if not x.p.key.domain:
                    domain_fetch(&d.domains, &x.w)
                    found += 1
