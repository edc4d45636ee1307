# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""TCP options: nothing beyond the header is read, padding and what comes behind the end change nothing, the shortcut for time
stamps finds what the long way finds, and a capture that cuts the list only takes options away."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from mos.net.packet cimport OPT_MSS, OPT_SACK, OPT_TS, OPT_WSCALE, pkt_t
from mos.net.transport cimport tcp, tcp_options
from mos.net.walk cimport STEP_FLOW, walk_t
from quick cimport exact, held, must

cdef enum:
    LONGEST = 40


cdef bint parse(const uint8_t *options, uint32_t n, pkt_t *p) noexcept nogil:
    cdef uint8_t *copy = exact(options, n)
    cdef bint whole
    memset(p, 0, sizeof(pkt_t))
    whole = tcp_options(copy, n, p)
    free(copy)
    return whole


cdef bint walk(const uint8_t *o, uint32_t n, uint32_t *end) noexcept nogil:
    """Whether the list is well-formed (RFC 9293 3.1), and where it ends."""
    cdef uint32_t i = 0
    while i < n and o[i]:
        end[0] = i
        if o[i] == 1:
            i += 1
        elif n - i < 2 or o[i + 1] < 2 or o[i + 1] > n - i:
            return False
        else:
            i += o[i + 1]
    end[0] = i
    return True


cdef void around(const uint8_t *options, uint32_t n, const pkt_t *p, bint whole) noexcept nogil:
    """The list behind padding, and with other bytes behind its end."""
    cdef uint8_t other[LONGEST + 3]
    cdef pkt_t q
    cdef uint32_t end = 0, i
    memset(other, 1, 3)
    if n:
        memcpy(other + 3, options, n)
    must(parse(other, n + 3, &q) == whole and memcmp(p, &q, sizeof(pkt_t)) == 0, "padding changes nothing")
    must(walk(options, n, &end) == whole, "a list is broken exactly where a length does not fit")
    if whole and end < n:
        for i in range(end + 1, n):
            other[3 + i] ^= 0xff
        must(parse(other + 3, n, &q) and memcmp(p, &q, sizeof(pkt_t)) == 0, "behind the end nothing is read")
    if end < n:
        parse(options, end, &q)
        must(memcmp(p, &q, sizeof(pkt_t)) == 0, "what stood before the break is kept, and no more")


cdef void through(const uint8_t *options, uint32_t n, const pkt_t *p, bint whole, uint32_t cut) noexcept nogil:
    """The same list in a segment of which the capture has all, or all but the last bytes."""
    cdef uint32_t have = 20 + n - min(cut, n)
    cdef uint8_t *h = <uint8_t *>malloc(have)
    cdef uint64_t bad = 0
    cdef walk_t w
    cdef pkt_t q
    memset(h, 0, 20)
    memcpy(h + 20, options, have - 20)
    h[12] = <uint8_t>((5 + n // 4) << 4)
    memset(&q, 0, sizeof(q))
    w.p, w.cap, w.len = h, have, 20 + n
    must(tcp(&w, &q, &bad) == STEP_FLOW, "a header that fits is taken")
    must(q.payload_len == 0 and q.payload_cap == 0 and q.l4 == h, "there is no payload")
    if cut == 0:
        must(bad == (not whole), "a broken list is counted")
        must(q.opts == p.opts and q.mss == p.mss and q.wscale == p.wscale and q.tsval == p.tsval and q.tsecr == p.tsecr
             and q.nsack == p.nsack and memcmp(q.sack, p.sack, sizeof(p.sack)) == 0, "options are found by either way")
    else:
        must(bad == 0 and q.opts & p.opts == q.opts, "a cut takes options away and adds none")
    free(h)


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef uint8_t options[LONGEST]
    cdef uint32_t cut = 0, n
    cdef pkt_t p
    cdef bint whole
    if size:
        cut = data[0] & 0x1f
    n = <uint32_t>min(size - 1, <size_t>LONGEST) if size else 0
    memset(options, 0, sizeof(options))
    if n:
        memcpy(options, data + 1, n)
    n = (n + 3) & ~<uint32_t>3
    whole = parse(options, n, &p)
    must(p.nsack <= 4 and (p.nsack > 0) == (p.opts & OPT_SACK != 0), "as many SACK blocks as there can be")
    must((p.mss == 0 or p.opts & OPT_MSS) and (p.wscale == 0 or p.opts & OPT_WSCALE), "values come with their bits")
    must((p.tsval == 0 and p.tsecr == 0) or p.opts & OPT_TS, "time stamps come with their bit")
    around(options, n, &p, whole)
    through(options, n, &p, whole, 0)
    if cut:
        through(options, n, &p, whole, cut)
    return 0


def replay(bytes data not None):
    """What of the first lines does not hold for this input, or None."""
    return held(one_input, data)
