# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Decoding frames one after the other: what is found lies within the frame and is the same by the short way and
the long one, whatever was in the packet before; memory is bounded.

An input is one of the target `decode`.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memset
from mos.net.decode cimport Decoder, decode, decoder_t
from mos.net.domain cimport domains_free
from mos.net.frag cimport frag_clear
from mos.net.packet cimport (IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, OPT_SACK, PKT_FLOW, PKT_FRAGMENT, PKT_MALFORMED,
                             key_t, pkt_t)
from mos.net.walk cimport BAD_CAUSES, BAD_FRAGMENT_OVERLAP
from quick cimport held, input_t, must, piece, take, touch

from mos.net.decode import CHECKSUMS, OVERLAPS, TUNNELS

DECODERS = [Decoder(tunnels=tunnels, checksum=checksum, overlap=overlap, max_datagrams=4, max_fragments=8, max_fragment_bytes=1 << 17)
            for tunnels in ((), TUNNELS) for checksum in CHECKSUMS for overlap in OVERLAPS]
cdef decoder_t *decoders[18]
cdef decoder_t pristine[18]
for _i, _decoder in enumerate(DECODERS):
    decoders[_i] = (<Decoder>_decoder).c
    pristine[_i] = decoders[_i][0]
cdef uint16_t[21] LINKTYPES = [1, 1, 1, 101, 228, 229, 0, 108, 113, 276, 9, 50, 51, 104, 105, 127, 119, 163, 204, 12, 147]


cdef void key_is_a_name(const pkt_t *p) noexcept nogil:
    cdef const key_t *k = &p.key
    cdef int order = memcmp(k.lo_addr, k.hi_addr, 16)
    must(order <= 0 and k.zero == 0 and k.proto == p.proto and k.ipver == p.ipver, "the key's lower address comes first")
    if order == 0 and (p.proto == IPPROTO_TCP or p.proto == IPPROTO_UDP):
        must(k.lo_port <= k.hi_port, "between equal addresses the lower port comes first")
    must(p.ipver == 4 or p.ipver == 6, "a flow's packet has an IP version")
    must(p.proto == IPPROTO_TCP or p.proto == IPPROTO_UDP or p.proto == (IPPROTO_ICMP if p.ipver == 4 else IPPROTO_ICMPV6),
         "a flow's packet has a protocol that has flows")


cdef void flow_is_inside(const pkt_t *p) noexcept nogil:
    cdef const uint8_t *end = p.frame + p.caplen
    must(p.ip <= p.l4 <= p.payload, "headers come in order")
    must(p.payload_cap <= p.payload_len, "no more payload is here than there was")
    if not p.reassembled:
        if not must(p.frame <= p.ip and p.payload <= end and p.payload_cap <= <size_t>(end - p.payload), "what is found is in the frame"):
            return
    touch(p.ip, <size_t>(p.payload - p.ip) + p.payload_cap)
    must(p.nsack <= 4 and (p.nsack > 0) == (p.opts & OPT_SACK != 0), "as many SACK blocks as there can be")
    key_is_a_name(p)


cdef void examine(decoder_t *d, const pkt_t *about) noexcept nogil:
    cdef pkt_t p, again
    cdef size_t at
    p = again = about[0]
    decode(d, &p)
    must(p.status <= PKT_FRAGMENT and (p.cause != 0) == (p.status == PKT_MALFORMED) and p.cause < BAD_CAUSES, "malformed has a cause")
    if p.status == PKT_FLOW:
        flow_is_inside(&p)
    if p.reassembled or p.status == PKT_FRAGMENT or p.cause >= BAD_FRAGMENT_OVERLAP:
        return
    at = <char *>&p.status - <char *>&p
    memset(&again.status, 0xa5, sizeof(pkt_t) - at)
    d.plainly = not d.plainly
    decode(d, &again)
    d.plainly = not d.plainly
    must(memcmp(&p.status, &again.status, sizeof(pkt_t) - at) == 0, "the short way and the long way find the same")


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef input_t r
    cdef pkt_t p
    cdef size_t got
    cdef uint8_t *frame
    cdef uint32_t how, more, which, n = 0
    cdef decoder_t *d
    r.p, r.left = data, size
    how = take(&r, 1)
    which = (9 if how & 1 else 0) + 3 * ((how >> 1 & 1) or (how >> 2 & 2)) + ((how >> 4 & 1) or (how >> 5 & 2))
    d = decoders[which]
    memset(&p, 0, sizeof(p))
    p.linktype = LINKTYPES[how >> 3 & 15 if how & 4 else take(&r, 1) % 21]
    p.ts = 1_000_000_000_000_000_000
    while r.left and n < 64:
        got = take(&r, 2) & 0x7ff
        frame = piece(&r, &got)
        more = take(&r, 1)
        p.ts += <int64_t>more * 250_000_000
        p.frame, p.caplen, p.wirelen = frame, <uint32_t>got, <uint32_t>got + (more & 3) * 100
        examine(d, &p)
        free(frame)
        n += 1
        must(d.frags.n <= 4 and d.frags.bytes <= 1 << 17, "fragments are within their bounds")
    frag_clear(&d.frags)
    must(d.frags.n == 0 and d.frags.bytes == 0, "all memory of fragments is given back")
    domains_free(&d.domains)
    d[0] = pristine[which]
    return 0


def replay(bytes data not None):
    """What of the first line does not hold for this input, or None."""
    return held(one_input, data)
