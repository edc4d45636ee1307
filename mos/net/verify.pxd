# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Are a packet's checksums right? The IPv4 header's (RFC 791) and the transport's, by the decoder's mode."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from mos.net.bytes cimport be16
from mos.net.checksum cimport csum_fold, csum_pseudo, csum_range, csum_right20, csum_right_bare
from mos.net.packet cimport CSUM_BAD_IP, CSUM_BAD_L4, CSUM_PARTIAL, CSUM_UNKNOWN, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, pkt_t
from mos.net.walk cimport BAD_IP_LENGTH, BAD_TCP_HEADER, skip, walk_t

cdef enum:
    CHECKSUM_OFF = 0
    CHECKSUM_VERIFY = 1
    CHECKSUM_AUTO = 2       # a sum left to an offloading NIC is not bad

cdef inline void verify_ip4(uint8_t mode, pkt_t *p) noexcept nogil:
    if not (csum_right20(p.ip) if p.ip[0] & 15 == 5 else csum_fold(csum_range(p.ip, (p.ip[0] & 15) * 4)) == 0xffff):
        if mode == CHECKSUM_VERIFY or be16(p.ip + 10):
            p.csum |= CSUM_BAD_IP

cdef inline bint verify_bare(const uint8_t *src, const uint8_t *dst, uint32_t length, pkt_t *p) noexcept nogil:
    """What verify_transport finds of a TCP header in IPv4 without options and payload that is right: most floods are of these."""
    if length != 20 or p.proto != IPPROTO_TCP or p.ipver != 4 or p.csum_partial or not csum_right_bare(src, dst, p.l4):
        return False
    p.csum &= <uint8_t>~CSUM_UNKNOWN
    return True

cdef inline void verify_transport(uint8_t mode, const uint8_t *src, const uint8_t *dst, uint32_t length, pkt_t *p) noexcept nogil:
    """The checksum of a segment of `length` bytes that is all there."""
    cdef uint64_t pseudo = 0
    cdef uint16_t field, bare
    if p.csum_partial:
        return
    p.csum &= <uint8_t>~CSUM_UNKNOWN
    field = be16(p.l4 + (16 if p.proto == IPPROTO_TCP else 6 if p.proto == IPPROTO_UDP else 2))
    if p.proto == IPPROTO_UDP and field == 0 and p.ipver == 4:      # none was sent (RFC 768)
        return
    if p.proto != IPPROTO_ICMP:
        pseudo = csum_pseudo(src, dst, p.ipver, p.proto, length)
    if csum_fold(pseudo + csum_range(p.l4, length)) == 0xffff and (field or p.proto != IPPROTO_UDP):
        return
    if p.proto == IPPROTO_TCP or p.proto == IPPROTO_UDP:    # what drivers write for the NIC has the length or, for TSO, not
        bare = csum_fold(csum_pseudo(src, dst, p.ipver, p.proto, 0))
        if field == csum_fold(pseudo) or field == bare:
            p.csum |= CSUM_PARTIAL
        elif field == 0 and p.proto == IPPROTO_TCP and mode == CHECKSUM_AUTO:
            p.csum |= CSUM_PARTIAL
    if mode == CHECKSUM_VERIFY or not p.csum & CSUM_PARTIAL:
        p.csum |= CSUM_BAD_L4

cdef inline void verify_plain(uint8_t mode, pkt_t *p) noexcept nogil:
    """Both of a packet that is all there and has its transport right behind the addresses."""
    cdef int size = 4 if p.ipver == 4 else 16
    cdef uint32_t length = p.ip_len - <uint32_t>(p.l4 - p.ip)
    if p.ipver == 4:
        verify_ip4(mode, p)
    if not verify_bare(p.l4 - 2 * size, p.l4 - size, length, p):
        verify_transport(mode, p.l4 - 2 * size, p.l4 - size, length, p)

cdef inline void verify_refused(uint8_t mode, walk_t *w, pkt_t *p) noexcept nogil:
    """The checksum of a TCP segment that is refused for its lengths: it tells damage on the way from a sender's mistake."""
    cdef uint32_t header = 0
    if w.cause == BAD_IP_LENGTH and w.cap >= 20 and w.p[0] >> 4 == 4 and w.p[9] == IPPROTO_TCP:
        header = (<uint32_t>w.p[0] & 15) * 4
        w.src, w.dst, w.proto, p.ipver = w.p + 12, w.p + 16, w.p[9], 4
        if header < 20 or header > w.len:
            return
        skip(w, header)
    elif w.cause != BAD_TCP_HEADER or w.cap < 20 or w.p[12] >> 4 < 5:
        return
    if 20 <= w.len == w.cap:
        p.l4, p.proto = w.p, IPPROTO_TCP
        verify_transport(mode, w.src, w.dst, w.len, p)
