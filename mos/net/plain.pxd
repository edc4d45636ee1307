# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Most packets in one step: whole TCP segments in IPv4 without options, straight on Ethernet. Depends on nothing but the frame.

Fills what the walk of mos.net.decode would fill, so that it may be done for a batch ahead of time.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from mos.net.bytes cimport be16, be32
from mos.net.link cimport ETHERTYPE_IP4, LINKTYPE_ETHERNET
from mos.net.ip cimport IP4_FRAGMENT
from mos.net.packet cimport CSUM_PARTIAL, CSUM_UNKNOWN, IPPROTO_TCP, OPT_TS, PKT_FLOW, key_t, pkt_t
from mos.net.transport cimport NOP_NOP_TS, tcp_options
from mos.net.walk cimport MAX_STEPS, walk_t

cdef extern from *:
    """
    #define MOS_ROTL64(x, n) ((x) << ((n) & 63) | (x) >> (-(n) & 63))
    #define MOS_ROTL32(x, n) ((x) << ((n) & 31) | (x) >> (-(n) & 31))
    """
    uint64_t rotl64 "MOS_ROTL64"(uint64_t x, uint32_t n) nogil
    uint32_t rotl32 "MOS_ROTL32"(uint32_t x, uint32_t n) nogil

cdef enum:
    ETHERNET = 14           # bytes of its header
    HEADERS = 54            # Ethernet, IPv4 and TCP without options
    VERSION_4_NO_OPTIONS = 0x45

cdef inline void pkt_clear(pkt_t *p) noexcept nogil:
    """Zero what decoding fills. In pieces that become plain stores: as one memset it becomes `rep stos`, 10 ns."""
    cdef char *at = <char *>&p.status
    memset(at, 0, 64)
    memset(at + 64, 0, 64)
    memset(<char *>&p[1] - 64, 0, 64)       # the rest, and some of it twice

cdef inline uint32_t plain_header(const pkt_t *p) noexcept nogil:
    """Bytes of the TCP header of such a packet; 0: it is none."""
    cdef const uint8_t *h = p.frame
    cdef uint32_t header
    if p.linktype != LINKTYPE_ETHERNET or p.caplen < HEADERS \
            or be32(h + 12) >> 8 != (ETHERTYPE_IP4 << 8 | VERSION_4_NO_OPTIONS) \
            or be32(h + 20) & (IP4_FRAGMENT << 16 | 0xff) != IPPROTO_TCP:
        return 0
    header = h[ETHERNET + 32] >> 2 & 0x3c
    return header if header >= 20 and 20 + header <= be16(h + ETHERNET + 2) <= p.caplen - ETHERNET else 0

cdef inline bint plain(pkt_t *p, uint64_t *broken_options) noexcept nogil:
    """Decode `p` if it is such a packet. False: nothing was written."""
    cdef uint32_t header = plain_header(p)
    if not header:
        return False
    pkt_clear(p)
    p.csum = CSUM_PARTIAL if p.csum_partial else CSUM_UNKNOWN
    plain_fill(p, p.frame + ETHERNET, header, broken_options)
    return True

cdef inline bint plain_inside(walk_t *w, pkt_t *p, uint64_t *broken_options) noexcept nogil:
    """Decode the rest of `p` if such a segment, all of it there, is what comes next on the walk. False: nothing was written."""
    cdef const uint8_t *h = w.p
    cdef uint32_t header
    if w.cap < 40 or w.cap != w.len or h[0] != VERSION_4_NO_OPTIONS or be32(h + 6) & (IP4_FRAGMENT << 16 | 0xff) != IPPROTO_TCP \
            or w.steps == MAX_STEPS:
        return False
    header = h[32] >> 2 & 0x3c
    if header < 20 or not 20 + header <= be16(h + 2) <= w.len:
        return False
    plain_fill(p, h, header, broken_options)
    w.src, w.dst, w.proto, w.p = h + 12, h + 16, IPPROTO_TCP, p.l4
    w.cap = w.len = p.ip_len - 20
    return True

cdef inline void plain_fill(pkt_t *p, const uint8_t *h, uint32_t header, uint64_t *broken_options) noexcept nogil:
    """All but checksums, from the IP header at `h` on; that of TCP has `header` bytes."""
    cdef const uint8_t *t = h + 20
    cdef key_t *k = &p.key
    cdef uint32_t total = be16(h + 2), address
    cdef uint64_t lo, hi, swap
    p.status, p.ipver, p.proto = PKT_FLOW, 4, IPPROTO_TCP
    p.ip, p.ip_len, p.l4 = h, total, t
    p.sport, p.dport = be16(t), be16(t + 2)
    p.seq, p.ack = be32(t + 4), be32(t + 8)
    p.tcp_flags = t[13]
    p.wnd, p.urg = be16(t + 14), be16(t + 18)
    p.payload = t + header
    p.payload_len = p.payload_cap = total - 20 - header
    if header == 32 and be32(t + 20) == NOP_NOP_TS:
        p.tsval, p.tsecr = be32(t + 24), be32(t + 28)
        p.opts = OPT_TS
    elif header > 20 and not tcp_options(t + 20, header - 20, p):
        broken_options[0] += 1
    # Which end is the smaller is as good as random: worked out without a branch that would be guessed wrong half of the time.
    lo, hi = <uint64_t>be32(h + 12) << 16 | be16(t), <uint64_t>be32(h + 16) << 16 | be16(t + 2)
    p.from_hi = lo > hi
    swap = (lo ^ hi) & -<uint64_t>(lo > hi)
    lo ^= swap
    hi ^= swap
    address = <uint32_t>(lo >> 16)
    address = be32(<const uint8_t *>&address)
    memcpy(k.lo_addr, &address, 4)
    address = <uint32_t>(hi >> 16)
    address = be32(<const uint8_t *>&address)
    memcpy(k.hi_addr, &address, 4)
    k.lo_port, k.hi_port = <uint16_t>lo, <uint16_t>hi
    k.proto, k.ipver = IPPROTO_TCP, 4

cdef struct glimpse_t:      # what is read of such a packet where only packets are counted
    uint64_t addresses      # the words of its key (flow.key), the lower end's first,
    uint64_t ports          # with protocol and version
    uint32_t payload        # bytes
    uint8_t  flags          # TCP_*
    uint8_t  from_hi

cdef inline bint glimpse(const pkt_t *p, glimpse_t *g, uint64_t *broken_options) noexcept nogil:
    """The same as `plain` says, and no more than that. False: it is no such packet."""
    cdef uint32_t header = plain_header(p), src, dst, ports
    cdef const uint8_t *h = p.frame + ETHERNET
    cdef const uint8_t *t = h + 20
    if not header:
        return False
    g.payload = be16(h + 2) - 20 - header
    if header != 20 and not (header == 32 and be32(t + 20) == NOP_NOP_TS) and not tcp_options(t + 20, header - 20, NULL):
        broken_options[0] += 1
    g.flags = t[13]
    memcpy(&g.addresses, h + 12, 8)
    src, dst, ports = be32(h + 12), be32(h + 16), be32(t)
    g.from_hi = src > dst if src != dst else ports >> 16 > (ports & 0xffff)
    g.addresses = rotl64(g.addresses, g.from_hi * 32)       # without a branch, as in plain
    g.ports = rotl32(ports, 16 - g.from_hi * 16) | <uint64_t>(4 << 8 | IPPROTO_TCP) << 32
    return True
