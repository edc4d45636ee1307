# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Segments made anew from one that came: part of its bytes, or others, or none; and an ACK in its receiver's name."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from mos.flow.flow cimport END_ACKED, END_SACK_OK, END_SEEN, END_SYN, END_TS, end_t, flow_t
from mos.flow.rewrite cimport l4_checksum, mend, plain_link, put16, put32, turn_round
from mos.net.checksum cimport csum_fold, csum_pseudo, csum_range
from mos.net.packet cimport IPPROTO_TCP, IPPROTO_UDP, OPT_TS, PKT_FLOW, TCP_ACK, TCP_SYN, TCP_URG, pkt_t

cdef enum:
    LONGEST_IP = 65535      # a super-packet may be longer: its length field is 0 then
    NO_SCALE = 255
    MAX_BLOCKS = 4          # SACK blocks that fit the options; with timestamps 3 (RFC 2018 section 3)
    NOP_NOP_TS = 0x0101080a
    NOP_NOP_SACK = 0x01010500

cdef inline int remake_link(const pkt_t *p) noexcept nogil:
    """Bytes before the IP header of a frame that others can be made from; -1: in a tunnel, in fragments or cut short."""
    return plain_link(p) if p.ip != NULL and not p.reassembled and not p.cut else -1

cdef inline uint32_t remake_seal(uint8_t *out, const pkt_t *p, uint32_t link, uint32_t length, bint partial) noexcept nogil:
    """Lengths and checksums of a frame with `length` bytes of TCP behind the link and IP headers of `p`; the frame's length.

    `partial`: the TCP checksum is left unfinished, as that of `p` was.
    """
    cdef uint32_t header = <uint32_t>(p.l4 - p.ip), total
    cdef uint8_t *ip = out + link
    cdef uint8_t *tcp = ip + header
    cdef uint64_t sum
    if p.ipver == 4:
        total = header + length
        put16(ip + 2, total if total <= LONGEST_IP else 0)
        put16(ip + 10, 0)
        put16(ip + 10, ~csum_fold(csum_range(ip, header)) & 0xffff)
        sum = csum_pseudo(ip + 12, ip + 16, 4, IPPROTO_TCP, length)
    else:
        total = header - 40 + length
        put16(ip + 4, total if total <= LONGEST_IP else 0)
        sum = csum_pseudo(ip + 8, ip + 24, 6, IPPROTO_TCP, length)
    put16(tcp + 16, 0)
    put16(tcp + 16, csum_fold(sum) if partial else ~csum_fold(sum + csum_range(tcp, length)) & 0xffff)
    return link + header + length

cdef inline uint32_t remake_head(uint8_t *out, const pkt_t *p, uint32_t link, uint32_t seq, uint8_t flags,
                                 bint all_options) noexcept nogil:
    """The headers of `p` with another sequence number and flags, no urgent pointer, and all its options or just timestamps.

    Returns where the payload goes; `remake_seal` follows.
    """
    cdef uint32_t header = <uint32_t>(p.l4 - p.ip), size = <uint32_t>(p.payload - p.l4)
    cdef uint8_t *tcp = out + link + header
    if not all_options:
        size = 20
    memcpy(out, p.frame, link + header + size)
    if not all_options and p.opts & OPT_TS:
        put32(tcp + 20, NOP_NOP_TS)
        put32(tcp + 24, p.tsval)
        put32(tcp + 28, p.tsecr)
        size = 32
    put32(tcp + 4, seq)
    tcp[12] = <uint8_t>(size << 2)
    tcp[13] = flags
    put16(tcp + 18, 0)
    return link + header + size

cdef inline uint32_t remake_bare(uint8_t *out, const pkt_t *p, uint32_t seq, uint8_t flags) noexcept nogil:
    """`p` without payload; 0: it cannot be made."""
    cdef int link = remake_link(p)
    cdef uint32_t at
    if link < 0:
        return 0
    at = remake_head(out, p, <uint32_t>link, seq, flags, 1)
    return remake_seal(out, p, <uint32_t>link, at - <uint32_t>link - <uint32_t>(p.l4 - p.ip), p.csum_partial)

cdef inline void remake_not_urgent(uint8_t *out, const pkt_t *p) noexcept nogil:
    """Clear URG and the urgent pointer of the copied frame."""
    cdef uint8_t *tcp = out + (p.l4 - p.frame)
    cdef uint8_t *csum = l4_checksum(out, p)
    cdef uint8_t[4] new
    new[0], new[1], new[2], new[3] = tcp[12], tcp[13] & <uint8_t>~TCP_URG, 0, 0
    if csum != NULL and not p.csum_partial:
        mend(csum, tcp + 12, new, 2)
        mend(csum, tcp + 18, new + 2, 2)
    tcp[13] = new[1]
    put16(tcp + 18, 0)

cdef inline int scale_known(const end_t *R, const end_t *S) noexcept nogil:
    """The shift of R's windows; -1: its handshake was not seen."""
    if not R.flags & S.flags & END_SYN:
        return -1
    return 0 if R.wscale == NO_SCALE or S.wscale == NO_SCALE else R.wscale

cdef inline uint32_t remake_ack(uint8_t *out, const pkt_t *p, const flow_t *f, int s, const uint32_t *blocks, int n) noexcept nogil:
    """What the receiver of `p`, sent by end `s`, would say if it had got `p` and the `n` `blocks` (pairs of sequence numbers): its
    last ACK once more, with SACK if that was agreed (RFC 2018 section 4). 0: it cannot be told."""
    cdef const end_t *S = &f.end[s]
    cdef const end_t *R = &f.end[1 - s]
    cdef int link = remake_link(p), scale = scale_known(R, S), i
    cdef uint32_t header = <uint32_t>(p.l4 - p.ip), size = 20
    cdef uint8_t *ip = out + link
    cdef uint8_t *tcp = ip + header
    if link < 0 or scale < 0 or not R.flags & END_ACKED or not R.flags & END_SEEN:
        return 0
    memcpy(out, p.frame, link + header)
    turn_round(out, p, <uint32_t>link)
    if p.ipver == 4:
        put16(ip + 4, 0)
        put16(ip + 6, 0x4000)
    ip[8 if p.ipver == 4 else 7] = 64
    memset(tcp, 0, 20)
    memcpy(tcp, p.l4 + 2, 2)
    memcpy(tcp + 2, p.l4, 2)
    put32(tcp + 4, R.snd_max)
    put32(tcp + 8, R.last_ack)
    tcp[13] = TCP_ACK
    put16(tcp + 14, R.wnd >> scale)
    if p.opts & OPT_TS and S.flags & R.flags & END_TS:
        put32(tcp + 20, NOP_NOP_TS)
        put32(tcp + 24, S.ts_recent)
        put32(tcp + 28, R.ts_recent)
        size = 32
    n = min(n, MAX_BLOCKS - (size == 32))
    if n and S.flags & R.flags & END_SACK_OK:
        put32(tcp + size, NOP_NOP_SACK | <uint32_t>(2 + 8 * n))
        for i in range(2 * n):
            put32(tcp + size + 4 + 4 * i, blocks[i])
        size += 4 + 8 * <uint32_t>n
    tcp[12] = <uint8_t>(size << 2)
    return remake_seal(out, p, <uint32_t>link, size, 0)

cdef inline uint32_t make_reply(uint8_t *out, const pkt_t *p, const uint8_t *data, uint32_t n) noexcept nogil:
    """A UDP datagram with these bytes back to the sender of `p`; the frame's length, 0: it cannot be made."""
    cdef int link = remake_link(p) if p.status == PKT_FLOW and p.proto == IPPROTO_UDP else -1
    cdef uint32_t header, length = 8 + n, total
    cdef uint8_t *ip = out + link
    cdef uint8_t *udp
    cdef uint64_t sum
    if link < 0:
        return 0
    header = <uint32_t>(p.l4 - p.ip)
    memcpy(out, p.frame, <uint32_t>link + header)
    turn_round(out, p, <uint32_t>link)
    udp = ip + header
    memcpy(udp, p.l4 + 2, 2)
    memcpy(udp + 2, p.l4, 2)
    put16(udp + 4, length)
    put16(udp + 6, 0)
    memcpy(udp + 8, data, n)
    if p.ipver == 4:
        put16(ip + 2, header + length)
        put32(ip + 4, 0)
        ip[8] = 64
        put16(ip + 10, 0)
        put16(ip + 10, ~csum_fold(csum_range(ip, header)) & 0xffff)
        sum = csum_pseudo(ip + 12, ip + 16, 4, IPPROTO_UDP, length)
    else:
        put16(ip + 4, header - 40 + length)
        ip[7] = 64
        sum = csum_pseudo(ip + 8, ip + 24, 6, IPPROTO_UDP, length)
    total = ~csum_fold(sum + csum_range(udp, length)) & 0xffff
    put16(udp + 6, total if total else 0xffff)
    return <uint32_t>link + header + length
