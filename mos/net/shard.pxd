# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Which worker a flow belongs to: the same for both directions, whatever the order or the number of its packets.

Another function than the flow table's, whose secret no other program has to know: this one takes 32-bit words as they are on
the wire, and adds, multiplies, shifts and xors them, which a classic BPF program on a fanout socket can do as well. Who picks
the addresses of his flows can aim them all at one worker; results do not depend on who takes what.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from mos.net.bytes cimport be16, be32
from mos.net.ip cimport (
    IP4_FRAGMENT, IPPROTO_AH, IPPROTO_DSTOPTS, IPPROTO_FRAGMENT, IPPROTO_HOPOPTS, IPPROTO_ROUTING)
from mos.net.link cimport ETHERTYPE_IP4, ETHERTYPE_IP6, ETHERTYPE_PPPOE, LINKTYPE_ETHERNET, is_vlan
from mos.net.packet cimport IPPROTO_TCP, IPPROTO_UDP, PKT_FLOW, key_t, pkt_t

cdef enum:              # as mos.io.fanout has them
    SHARD_TAGS = 2
    SHARD_EXTENSIONS = 4

cdef enum:
    SHARD_UNKNOWN = -1      # shard_plain: the packet has to be decoded to tell
    SHARD_LOOSE = 0         # the worker that takes what belongs to no flow, and each fragment but a datagram's last

cdef inline uint32_t shard_mix(uint32_t total, uint32_t differ, uint32_t a_port, uint32_t b_port, uint32_t workers) noexcept nogil:
    """`total`, `differ`: sum and xor of the words of both addresses. Finaliser: MurmurHash3, A. Appleby."""
    cdef uint32_t x = total * <uint32_t>0x9e3779b1 ^ differ
    x ^= ((a_port + b_port) << 16) ^ (a_port ^ b_port)
    x ^= x >> 16
    x *= <uint32_t>0x85ebca6b
    x ^= x >> 13
    x *= <uint32_t>0xc2b2ae35
    x ^= x >> 16
    return ((x >> 16) * workers) >> 16

cdef inline int shard_key(const key_t *k, uint32_t workers) noexcept nogil:
    """The worker, from 0, of the flow with this key."""
    cdef uint32_t total = 0, differ = 0, a, b
    cdef int i
    for i in range(0, 16, 4):
        a = be32(&k.lo_addr[i])
        b = be32(&k.hi_addr[i])
        total += a + b
        differ ^= a ^ b
    return <int>shard_mix(total, differ, k.lo_port, k.hi_port, workers)

cdef inline bint tunnel_port(uint16_t port) noexcept nogil:
    """As mos.io.fanout.TUNNEL_PORTS: what is in UDP with this port, either of the two, goes by its outer addresses."""
    return (port == 4789 or port == 8472 or port == 4790 or port == 6081 or port == 2152 or port == 3544 or port == 5072)

cdef inline int shard_plain(const pkt_t *p, uint32_t workers) noexcept nogil:
    """The same from an undecoded frame, if it is plain TCP or UDP over IP over Ethernet: a few loads. Else SHARD_UNKNOWN.

    What mos.net.plain and mos.net.usual decode is such a frame.
    """
    cdef const uint8_t *ip = p.frame + 14
    cdef uint32_t total = 0, differ = 0, word
    cdef const uint8_t *ports
    cdef uint8_t proto
    cdef int i
    if p.linktype != LINKTYPE_ETHERNET or p.caplen < 34:
        return SHARD_UNKNOWN
    if be16(p.frame + 12) == ETHERTYPE_IP4:
        if ip[0] >> 4 != 4 or ip[0] & 15 < 5 or be16(ip + 6) & 0x3fff:
            return SHARD_UNKNOWN
        proto = ip[9]
        ports = ip + (ip[0] & 15) * 4
        total, differ = be32(ip + 12) + be32(ip + 16), be32(ip + 12) ^ be32(ip + 16)
    elif be16(p.frame + 12) == ETHERTYPE_IP6:
        if ip[0] >> 4 != 6 or p.caplen < 54:
            return SHARD_UNKNOWN
        proto = ip[6]
        ports = ip + 40
        for i in range(8, 40, 4):
            word = be32(ip + i)
            total += word
            differ ^= word
    else:
        return SHARD_UNKNOWN
    if ports + 4 > p.frame + p.caplen or (proto != IPPROTO_TCP and proto != IPPROTO_UDP):
        return SHARD_UNKNOWN
    if proto == IPPROTO_UDP and (tunnel_port(be16(ports)) or tunnel_port(be16(ports + 2))):
        return SHARD_UNKNOWN
    return <int>shard_mix(total, differ, be16(ports), be16(ports + 2), workers)

cdef inline const uint8_t *outer_ip(const pkt_t *p) noexcept nogil:
    """The outermost IP header as the program of mos.io.fanout finds it; NULL: it finds none."""
    cdef const uint8_t *h = p.frame + 12
    cdef const uint8_t *end = p.frame + p.caplen
    cdef uint16_t type
    cdef int tags = 0
    if p.linktype != LINKTYPE_ETHERNET or p.caplen < 34:
        return NULL
    type = be16(h)
    h += 2
    while is_vlan(type) and tags <= SHARD_TAGS and end - h >= 4:      # one of them is told beside the frame
        type = be16(h + 2)
        h += 4
        tags += 1
    if type == ETHERTYPE_PPPOE and end - h >= 8 and be16(h) == 0x1100:
        type = ETHERTYPE_IP4 if be16(h + 6) == 0x0021 else ETHERTYPE_IP6 if be16(h + 6) == 0x0057 else 0
        h += 8
    if type == ETHERTYPE_IP4 and end - h >= 20 and h[0] >> 4 == 4:
        return h
    return h if type == ETHERTYPE_IP6 and end - h >= 40 and h[0] >> 4 == 6 else NULL

cdef inline const uint8_t *outer_fragment(const pkt_t *p) noexcept nogil:
    """The IP header of a fragment that each worker has got a copy of; NULL: the frame is none, and is ours."""
    cdef const uint8_t *ip = outer_ip(p)
    cdef const uint8_t *end = p.frame + p.caplen
    cdef const uint8_t *h
    cdef uint8_t proto
    cdef int _
    if ip == NULL or ip[0] >> 4 == 4:
        return ip if ip != NULL and be16(ip + 6) & IP4_FRAGMENT else NULL
    proto, h = ip[6], ip + 40
    for _ in range(SHARD_EXTENSIONS):
        if end - h < 8:
            return NULL
        if proto == IPPROTO_FRAGMENT:
            if be16(h + 2) & 0xfff9:
                return ip
            proto, h = h[0], h + 8
        elif proto == IPPROTO_AH:
            proto, h = h[0], h + (<uint32_t>h[1] + 2) * 4
        elif proto == IPPROTO_HOPOPTS or proto == IPPROTO_ROUTING or proto == IPPROTO_DSTOPTS:
            proto, h = h[0], h + (<uint32_t>h[1] + 1) * 8
        else:
            return NULL
    return NULL

cdef inline int shard_whole(const pkt_t *p, const uint8_t *ip, bint tunnelled, uint32_t workers) noexcept nogil:
    """The worker of a datagram whose last fragment `p`, with the header `ip`, was. It is the worker of those that come whole.

    Addresses of fragments are those of the header: what a routing header says is not looked for.
    """
    cdef uint32_t total = 0, differ = 0
    cdef int i, first = 12 if ip[0] >> 4 == 4 else 8
    if p.status != PKT_FLOW:
        return SHARD_LOOSE
    if not tunnelled and not (p.proto == IPPROTO_UDP and (tunnel_port(p.sport) or tunnel_port(p.dport))):
        return shard_key(&p.key, workers)
    for i in range(first, 20 if first == 12 else 40, 4):
        total += be32(ip + i)
        differ ^= be32(ip + i)
    return <int>shard_mix(total, differ, 0, 0, workers)
