# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Which worker a flow belongs to: the same for both directions, whatever the order or the number of its packets.

Another function than the flow table's, whose secret no other program has to know: this one takes 32-bit words as they are on
the wire, and adds, multiplies, shifts and xors them, which a classic BPF program on a fanout socket can do as well. Who picks
the addresses of his flows can aim them all at one worker; results do not depend on who takes what.
"""
from libc.stdint cimport uint8_t, uint32_t
from mos.net.bytes cimport be16, be32
from mos.net.link cimport ETHERTYPE_IP4, ETHERTYPE_IP6, LINKTYPE_ETHERNET
from mos.net.packet cimport IPPROTO_TCP, key_t, pkt_t

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

cdef inline int shard_plain(const pkt_t *p, uint32_t workers) noexcept nogil:
    """The same from an undecoded frame, if it is plain TCP over IP over Ethernet: a few loads. Else SHARD_UNKNOWN."""
    cdef const uint8_t *ip = p.frame + 14
    cdef const uint8_t *ports
    cdef uint32_t total = 0, differ = 0, word
    cdef int i, addresses
    if p.linktype != LINKTYPE_ETHERNET or p.caplen < 54:
        return SHARD_UNKNOWN
    if be16(p.frame + 12) == ETHERTYPE_IP4:
        if ip[0] >> 4 != 4 or ip[0] & 15 < 5 or ip[9] != IPPROTO_TCP or be16(ip + 6) & 0x3fff:
            return SHARD_UNKNOWN
        addresses, ports = 12, ip + (ip[0] & 15) * 4
    elif be16(p.frame + 12) == ETHERTYPE_IP6:
        if ip[0] >> 4 != 6 or ip[6] != IPPROTO_TCP:
            return SHARD_UNKNOWN
        addresses, ports = 8, ip + 40
    else:
        return SHARD_UNKNOWN
    if ports + 4 > p.frame + p.caplen:
        return SHARD_UNKNOWN
    for i in range(addresses, 20 if addresses == 12 else 40, 4):
        word = be32(ip + i)
        total += word
        differ ^= word
    return <int>shard_mix(total, differ, be16(ports), be16(ports + 2), workers)
