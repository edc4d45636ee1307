# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Inline, fragments wait until their datagram is whole: one verdict for it, then its fragments leave as they came, in that order.

Where the flow has other names behind us, they leave with these: what changes in the whole datagram changes in its pieces.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy
from mos.core cimport DROPPED_FRAGMENT, OUT_CAP, Core
from mos.flow.flow cimport flow_names, flow_t
from mos.flow.rewrite cimport frame_copy, mend, rewrite_flow
from mos.io.port cimport SEND_ON
from mos.leave cimport leave
from mos.net.frag cimport frag_park, frag_unpark, frags_t, parked_t
from mos.net.packet cimport pkt_t

cdef enum:
    PIECE_AT = OUT_CAP // 2     # in Core.out: the whole datagram below, the fragment in hand above; neither is longer than 64 KB

cdef inline bint park_fragment(Core k, const pkt_t *p) noexcept nogil:
    """Keep a fragment back. False: it is none that is put together, and passes as it comes."""
    return k.dec.frags.park and frag_park(&k.dec.frags, p)

cdef inline bint park_can_rename(Core k, const pkt_t *p) noexcept nogil:
    """The datagram is the flow's own, not that of a tunnel round it."""
    return k.dec.frags.park and p.ip == k.dec.frags.whole and p.ip_len <= PIECE_AT

cdef inline void park_piece(Core k, const pkt_t *p, uint32_t ip_at, uint32_t data_at, uint32_t offset, uint32_t length,
                            bint renamed) noexcept nogil:
    """One fragment leaves; `renamed`: with what Core.out holds of the whole datagram."""
    cdef uint8_t *out = k.out + PIECE_AT
    cdef uint8_t *ip = out + ip_at
    k.n.forwarded += 1
    if not renamed or p.caplen > PIECE_AT:
        leave(k, p, p.frame, p.caplen, p.wirelen, SEND_ON)
        return
    memcpy(out, p.frame, p.caplen)
    if ip[0] >> 4 == 4:
        mend(ip + 10, ip + 12, k.out + 12, 8)
        memcpy(ip + 12, k.out + 12, 8)
    else:
        memcpy(ip + 8, k.out + 8, 32)
    memcpy(out + data_at, k.out + k.dec.frags.whole_header + offset, length)
    leave(k, p, out, p.caplen, p.wirelen, SEND_ON)

cdef inline void park_leave(Core k, const pkt_t *p, const flow_t *f, int s) noexcept nogil:
    """The datagram that `p` made whole leaves, in all its fragments."""
    cdef frags_t *g = &k.dec.frags
    cdef parked_t *each
    cdef pkt_t w
    cdef bint renamed = f != NULL and flow_names(f) != NULL
    if renamed:
        w = p[0]
        w.frame, w.caplen, w.reassembled = p.ip, p.ip_len, 0
        frame_copy(k.out, &w)
        rewrite_flow(k.out, &w, f, s)
    while g.out != NULL:
        each = g.out
        g.out = each.next
        park_piece(k, &each.p, each.ip_at, each.data_at, each.offset, each.length, renamed)
        free(each)
        g.parked -= 1
    park_piece(k, p, <uint32_t>(g.x.header - p.frame), <uint32_t>(g.x.data - p.frame), g.x.offset, g.x.length, renamed)

cdef inline void park_forget(Core k) noexcept nogil:
    """The datagram does not leave, so its other fragments do not."""
    cdef uint64_t before = k.dec.frags.parked_dropped
    frag_unpark(&k.dec.frags, &k.dec.frags.out)
    if k.worker:        # of those that never became whole the first worker counts the copies
        k.n.dropped[DROPPED_FRAGMENT] += k.dec.frags.parked_dropped - before
