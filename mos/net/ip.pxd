# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers, with what hosts refuse of them refused here."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from mos.net.bytes cimport be16, be32
from mos.net.packet cimport pkt_t
from mos.net.walk cimport (BAD_EXTENSION, BAD_FRAGMENT_LENGTH, BAD_IP_HEADER, BAD_IP_LENGTH, BAD_IP_OPTIONS,
                           BAD_IP_VERSION, STEP_DEFRAG, STEP_IP4, STEP_IP6, STEP_L4, bad, short_of, skip, trim, walk_t)

cdef enum:
    IPPROTO_HOPOPTS = 0
    IPPROTO_ROUTING = 43
    IPPROTO_FRAGMENT = 44
    IPPROTO_AH = 51
    IPPROTO_NONE = 59
    IPPROTO_DSTOPTS = 60
    MAX_EXTENSIONS = 16     # real stacks have at most four; hosts refuse long chains too (RFC 8504 5.3)
    IP4_FRAGMENT = 0x3fff   # more-fragments bit and offset
    IP4_MORE = 0x2000
    IP4_OFFSET = 0x1fff
    OPTION_JUMBO = 0xc2     # RFC 2675

cdef inline bint ip4_options_fit(const uint8_t *o, uint32_t n) noexcept nogil:
    """Every option ends within the n bytes (RFC 791 3.1)."""
    cdef uint32_t i = 0
    while i < n and o[i] != 0:
        if o[i] == 1:
            i += 1
        elif i + 1 >= n or o[i + 1] < 2 or o[i + 1] > n - i:
            return False
        else:
            i += o[i + 1]
    return True

cdef inline int ip4_fragment(walk_t *w, const uint8_t *h, uint32_t header) noexcept nogil:
    cdef uint16_t bits = be16(h + 6)
    w.frag.id = be16(h + 4)
    w.frag.offset = (bits & IP4_OFFSET) * 8
    w.frag.more = bits & IP4_MORE != 0
    w.frag.header = header
    w.frag.next_at = 0
    if w.len == 0 or (w.frag.more and w.len & 7):
        return bad(w, BAD_FRAGMENT_LENGTH)
    return STEP_DEFRAG

cdef inline int ip4(walk_t *w, pkt_t *p) noexcept nogil:
    cdef const uint8_t *h = w.p
    if w.cap < 20:
        return short_of(w, 20, BAD_IP_HEADER)
    cdef uint32_t header = (h[0] & 15) * 4
    cdef uint32_t total = be16(h + 2)
    if h[0] >> 4 != 4:
        return bad(w, BAD_IP_VERSION)
    if header < 20:
        return bad(w, BAD_IP_HEADER)
    if total == 0:          # segmentation offload: too long for the field, or left to the NIC
        total = w.len
    if total < header or total > w.len:
        return bad(w, BAD_IP_LENGTH)
    if w.cap < header:
        return short_of(w, header, BAD_IP_HEADER)
    p.ip, p.ipver, p.ip_len = h, 4, total
    w.src, w.dst, w.proto = h + 12, h + 16, h[9]
    trim(w, total)
    skip(w, header)
    if header > 20 and not ip4_options_fit(h + 20, header - 20):
        return bad(w, BAD_IP_OPTIONS)
    if be16(h + 6) & IP4_FRAGMENT:
        return ip4_fragment(w, h, header)
    return STEP_L4

cdef inline uint32_t jumbo_length(const walk_t *w) noexcept nogil:
    """The jumbo payload option of the hop-by-hop header at `p`, 0 if it has none (RFC 2675 2)."""
    if w.cap < 8:
        return 0
    cdef uint32_t n = (<uint32_t>w.p[1] + 1) * 8
    cdef uint32_t i = 2
    if n > w.cap:
        return 0
    while i + 1 < n:
        if w.p[i] == 0:
            i += 1
        elif w.p[i] == OPTION_JUMBO:
            return be32(w.p + i + 2) if w.p[i + 1] == 4 and i + 6 <= n else 0
        else:
            i += 2 + w.p[i + 1]
    return 0

cdef inline void routed(walk_t *w, uint32_t n) noexcept nogil:
    """A routing header with segments left names the final destination, which is the checksum's (RFC 8200 8.1)."""
    cdef uint8_t type = w.p[2]
    if w.p[3] == 0 or n < 24:
        return
    if type == 0 or type == 2:
        w.dst = w.p + n - 16
    elif type == 4:         # SRv6: the list is in reverse (RFC 8754 2)
        w.dst = w.p + 8

cdef inline int ip6_fragment(walk_t *w, const pkt_t *p, uint32_t next_at) noexcept nogil:
    cdef uint16_t bits = be16(w.p + 2)
    w.frag.id = be32(w.p + 4)
    w.frag.offset = bits & 0xfff8
    w.frag.more = bits & 1
    w.frag.header = <uint32_t>(w.p - p.ip)
    w.frag.next_at = next_at
    w.proto = w.p[0]
    skip(w, 8)
    if w.len == 0 or (w.frag.more and w.len & 7):
        return bad(w, BAD_FRAGMENT_LENGTH)
    return STEP_DEFRAG

cdef inline int extensions(walk_t *w, const pkt_t *p) noexcept nogil:
    """Behind the extension headers (RFC 8200 4). A fragment header that stands alone is skipped (RFC 6946)."""
    cdef int left = MAX_EXTENSIONS
    cdef uint32_t next_at = 6
    cdef uint32_t n
    cdef uint8_t proto = w.proto
    while (proto == IPPROTO_HOPOPTS or proto == IPPROTO_ROUTING or proto == IPPROTO_DSTOPTS or proto == IPPROTO_AH
           or proto == IPPROTO_FRAGMENT):
        if w.cap < 8:
            return short_of(w, 8, BAD_EXTENSION)
        left -= 1
        if left < 0 or (proto == IPPROTO_HOPOPTS and next_at != 6):
            return bad(w, BAD_EXTENSION)
        if proto == IPPROTO_FRAGMENT and be16(w.p + 2) & 0xfff9:
            return ip6_fragment(w, p, next_at)
        n = 8
        if proto == IPPROTO_AH:
            n = (<uint32_t>w.p[1] + 2) * 4
        elif proto != IPPROTO_FRAGMENT:
            n = (<uint32_t>w.p[1] + 1) * 8
        if w.cap < n:
            return short_of(w, n, BAD_EXTENSION)
        if proto == IPPROTO_ROUTING:
            routed(w, n)
        next_at = <uint32_t>(w.p - p.ip)
        proto = w.p[0]
        skip(w, n)
    w.proto = proto
    return STEP_L4

cdef inline int ip6(walk_t *w, pkt_t *p) noexcept nogil:
    cdef const uint8_t *h = w.p
    if w.cap >= 1 and h[0] >> 4 != 6:
        return bad(w, BAD_IP_VERSION)
    if w.cap < 40:
        return short_of(w, 40, BAD_IP_HEADER)
    cdef uint32_t payload = be16(h + 4)
    p.ip, p.ipver = h, 6
    w.src, w.dst, w.proto = h + 8, h + 24, h[6]
    skip(w, 40)
    if payload == 0:
        if w.proto == IPPROTO_HOPOPTS:
            payload = jumbo_length(w)
            if payload <= 0xffff:
                return bad(w, BAD_IP_LENGTH)
        elif w.proto != IPPROTO_NONE:
            payload = w.len     # segmentation offload
    if payload > w.len:
        return bad(w, BAD_IP_LENGTH)
    trim(w, payload)
    p.ip_len = payload + 40
    return extensions(w, p)

cdef inline int ip_any(walk_t *w) noexcept nogil:
    if w.cap < 1:
        return short_of(w, 1, BAD_IP_HEADER)
    if w.p[0] >> 4 == 4:
        return STEP_IP4
    if w.p[0] >> 4 == 6:
        return STEP_IP6
    return bad(w, BAD_IP_VERSION)

cdef inline int ah(walk_t *w) noexcept nogil:
    """An authentication header under IPv4 (RFC 4302 2): what follows is in clear."""
    if w.cap < 12:
        return short_of(w, 12, BAD_EXTENSION)
    cdef uint32_t n = (<uint32_t>w.p[1] + 2) * 4
    if w.cap < n:
        return short_of(w, n, BAD_EXTENSION)
    w.proto = w.p[0]
    skip(w, n)
    return STEP_L4
