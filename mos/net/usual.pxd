# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What `mos.net.plain` leaves of the ordinary: UDP in IPv4, UDP and TCP in IPv6, whole and straight on Ethernet.

As there, what the walk of mos.net.decode would fill is filled out of nothing but the frame.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from mos.net.bytes cimport be16, be32
from mos.net.ip cimport IP4_FRAGMENT
from mos.net.link cimport ETHERTYPE_IP4, ETHERTYPE_IP6, LINKTYPE_ETHERNET
from mos.net.packet cimport CSUM_PARTIAL, CSUM_UNKNOWN, IPPROTO_TCP, IPPROTO_UDP, PKT_FLOW, pkt_t
from mos.net.plain cimport ETHERNET, VERSION_4_NO_OPTIONS, pkt_clear
from mos.net.shard cimport tunnel_port
from mos.net.transport cimport name_flow, tcp, udp
from mos.net.walk cimport STEP_FLOW, walk_t

cdef enum:
    HEADER4 = 20
    HEADER6 = 40

cdef inline bint usual_udp4(const pkt_t *p, walk_t *w) noexcept nogil:
    cdef const uint8_t *ip = p.frame + ETHERNET
    if ip[0] != VERSION_4_NO_OPTIONS or be32(ip + 6) & (IP4_FRAGMENT << 16 | 0xff) != IPPROTO_UDP \
            or be16(ip + 2) < HEADER4:
        return False
    w.src, w.dst, w.proto, w.p, w.len = ip + 12, ip + 16, IPPROTO_UDP, ip + HEADER4, be16(ip + 2) - <uint32_t>HEADER4
    return True

cdef inline bint usual_ip6(const pkt_t *p, walk_t *w) noexcept nogil:
    cdef const uint8_t *ip = p.frame + ETHERNET
    if p.caplen < ETHERNET + HEADER6 or ip[0] >> 4 != 6 or (ip[6] != IPPROTO_TCP and ip[6] != IPPROTO_UDP):
        return False
    w.src, w.dst, w.proto, w.p, w.len = ip + 8, ip + 24, ip[6], ip + HEADER6, be16(ip + 4)
    return w.len != 0           # segmentation offload, or a jumbogram

cdef inline bint may_be_usual(const pkt_t *p) noexcept nogil:
    """As far as a glance tells; `usual` expects it. Apart from it, as that is one piece with whoever calls it."""
    return p.linktype == LINKTYPE_ETHERNET and p.caplen >= ETHERNET + HEADER4 \
        and (be16(p.frame + 12) == ETHERTYPE_IP4 or be16(p.frame + 12) == ETHERTYPE_IP6)

cdef inline bint usual(pkt_t *p, uint64_t *broken_options) noexcept nogil:
    """Decode `p` if it is such a packet. False: it is to be decoded in another way, from the beginning."""
    cdef walk_t w               # only of what the transport's header asks
    cdef uint16_t type = be16(p.frame + 12)
    if not (usual_udp4(p, &w) if type == ETHERTYPE_IP4 else usual_ip6(p, &w)):
        return False
    if w.p + w.len > p.frame + p.caplen or w.len < 8 or (w.proto == IPPROTO_UDP and be16(w.p + 4) != w.len):
        return False
    w.cap = w.len
    pkt_clear(p)
    p.ip, p.ip_len = p.frame + ETHERNET, <uint32_t>(w.p - p.frame) - ETHERNET + w.len
    p.status, p.proto, p.csum = PKT_FLOW, w.proto, CSUM_PARTIAL if p.csum_partial else CSUM_UNKNOWN
    p.ipver = 4 if type == ETHERTYPE_IP4 else 6
    if w.proto == IPPROTO_TCP:
        if tcp(&w, p, broken_options) != STEP_FLOW:
            return False
    elif udp(&w, p) != STEP_FLOW or tunnel_port(p.sport) or tunnel_port(p.dport):
        return False
    name_flow(&w, p, True)
    return True
