# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Captures, whatever their bytes: frames lie within the input and within their bounds, numbers go up by one, and the same
bytes that come in pieces give the same packets and the same damage at the same byte.

An input is one of the target `reader`.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset
from mos.io.parse cimport (MAX_CAPLEN_BIG, WHY_CUT, WHY_NOT, damage, open_classic, parse_blocks, parse_classic, parse_t, rd32,
                           reader_t)
from mos.net.packet cimport pkt_t
from quick cimport exact, held, must, touch

cdef enum:
    PCAP_US = 0xa1b2c3d4
    PCAP_NS = 0xa1b23c4d
    PCAP_KUZNETZOV = 0xa1b2cd34
    SECTION = 0x0a0d0d0a

cdef struct read_t:         # a capture that was read, folded into numbers
    uint64_t packets
    uint64_t sum
    uint64_t at
    int      why
    uint32_t ifaces


cdef bint is_classic(const uint8_t *p) noexcept nogil:
    cdef uint32_t a = rd32(p, False), b = rd32(p, True)
    return a == PCAP_US or a == PCAP_NS or a == PCAP_KUZNETZOV or b == PCAP_US or b == PCAP_NS or b == PCAP_KUZNETZOV


cdef void fold(read_t *out, const pkt_t *k, const reader_t *r) noexcept nogil:
    cdef uint64_t place = r.start + <uint64_t>(k.frame - r.base)
    out.packets += 1
    must(k.number == out.packets, "packets are numbered without gaps")
    must(k.iface < r.nifaces, "a packet's interface was described")
    must(k.caplen <= r.ifaces[k.iface].max_caplen <= MAX_CAPLEN_BIG, "no packet is longer than any can be")
    must(k.linktype == r.ifaces[k.iface].linktype, "the link type is the interface's")
    must(-(<int64_t>1 << 62) <= k.ts <= <int64_t>1 << 62, "any interval fits behind a time")
    if must(r.base <= k.frame and k.frame <= r.end and k.caplen <= <size_t>(r.end - k.frame), "a frame is inside the input"):
        touch(k.frame, k.caplen)
    out.sum = (out.sum ^ <uint64_t>k.ts ^ <uint64_t>k.caplen << 32 ^ k.wirelen ^ place << 16 ^ k.iface) * <uint64_t>0x9e3779b97f4a7c15


cdef bint more(reader_t *r, const uint8_t *data, size_t size, size_t chunk, uint8_t **buffer) noexcept nogil:
    """Have r.need bytes from r.cur on, if there are; in a new buffer of exactly what is left and what is needed."""
    cdef size_t done = <size_t>(r.start + <uint64_t>(r.cur - r.base)), had = <size_t>(r.end - r.cur), have
    have = min(size - done, max(<size_t>min(r.need, <uint64_t>size), had + chunk))
    if have == had:
        return False
    free(buffer[0])
    buffer[0] = exact(data + done, have)
    r.start, r.base, r.cur, r.end = done, buffer[0], buffer[0], buffer[0] + have
    return have >= r.need


cdef void read_all(const uint8_t *data, size_t size, size_t chunk, read_t *out) noexcept nogil:
    """`data` in steps of at least `chunk` bytes, as a Source does it."""
    cdef reader_t r
    cdef pkt_t pkts[3]
    cdef uint8_t *buffer = exact(data, min(size, max(chunk, <size_t>24)))
    cdef parse_t parse = parse_blocks
    cdef int got, i
    memset(out, 0, sizeof(read_t))
    memset(&r, 0, sizeof(r))
    r.base = r.cur = buffer
    r.end = buffer + min(size, max(chunk, <size_t>24))
    r.need = 24
    if is_classic(buffer):
        parse = parse_classic
        open_classic(&r)
    while not r.why:
        got = parse(&r, pkts, 3)
        must(0 <= got <= 3, "no more packets than were asked for")
        for i in range(got):
            fold(out, &pkts[i], &r)
        if got:
            r.why = WHY_NOT
        elif not r.why and not more(&r, data, size, chunk, &buffer):
            if r.cur == r.end and r.start + <uint64_t>(r.cur - r.base) == size:
                break
            damage(&r, WHY_CUT, <uint64_t>(r.end - r.cur), r.need)
    must(r.base <= r.cur <= r.end, "reading stops inside the input")
    out.why, out.at, out.ifaces = r.why, r.at, r.nifaces
    free(r.ifaces)
    free(buffer)


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef read_t whole, streamed
    if size < 24 or not (is_classic(data) or rd32(data, False) == SECTION):
        return 0
    read_all(data, size, size, &whole)
    read_all(data, size, 1 + size % 61, &streamed)
    must(whole.packets == streamed.packets and whole.sum == streamed.sum, "a stream gives the same packets")
    must(whole.why == streamed.why and whole.at == streamed.at, "a stream is damaged at the same byte")
    must(whole.ifaces == streamed.ifaces, "a stream has the same interfaces")
    return 0


def replay(bytes data not None):
    """What of the first lines does not hold for this input, or None."""
    return held(one_input, data)
