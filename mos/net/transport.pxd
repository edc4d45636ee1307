# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""TCP, UDP and ICMP headers, and the name of the flow they belong to."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from mos.net.bytes cimport be16, be32, be64
from mos.net.packet cimport (IPPROTO_ICMPV6, OPT_MD5, OPT_MPTCP, OPT_MSS, OPT_SACK, OPT_SACK_OK, OPT_TFO, OPT_TS,
                             OPT_WSCALE, key_t, pkt_t)
from mos.net.walk cimport (BAD_ICMP_HEADER, BAD_TCP_HEADER, BAD_UDP_HEADER, STEP_FLOW, bad, short_of, trim, walk_t)

cdef enum:              # TCP option kinds (IANA)
    KIND_END = 0
    KIND_NOP = 1
    KIND_MSS = 2
    KIND_WSCALE = 3
    KIND_SACK_OK = 4
    KIND_SACK = 5
    KIND_TS = 8
    KIND_MD5 = 19
    KIND_MPTCP = 30
    KIND_TFO = 34
    KIND_EXPERIMENT = 254
    TFO_MAGIC = 0xf989  # RFC 7413 appendix A
    NOP_NOP_TS = 0x0101080a
    MSS_4 = 0x0204       # with the two below: the 20 bytes of most SYNs, MSS, SACK permitted, timestamps and window scale
    SACK_OK_TS = 0x0402080a
    NOP_WSCALE = 0x010303

cdef inline void tcp_option(const uint8_t *o, uint8_t n, pkt_t *p) noexcept nogil:
    """One option of n bytes. One whose length is not its kind's is passed over, as hosts do."""
    cdef uint8_t kind = o[0]
    cdef int i
    if kind == KIND_TS and n == 10:
        p.tsval, p.tsecr = be32(o + 2), be32(o + 6)
        p.opts |= OPT_TS
    elif kind == KIND_MSS and n == 4:
        p.mss = be16(o + 2)
        p.opts |= OPT_MSS
    elif kind == KIND_WSCALE and n == 3:
        p.wscale = o[2]
        p.opts |= OPT_WSCALE
    elif kind == KIND_SACK_OK and n == 2:
        p.opts |= OPT_SACK_OK
    elif kind == KIND_SACK and n >= 10 and n & 7 == 2:
        p.nsack = <uint8_t>((n - 2) // 8)
        if p.nsack > 4:
            p.nsack = 4
        for i in range(2 * p.nsack):
            p.sack[i] = be32(o + 2 + 4 * i)
        p.opts |= OPT_SACK
    elif kind == KIND_TFO or (kind == KIND_EXPERIMENT and n >= 4 and be16(o + 2) == TFO_MAGIC):
        p.opts |= OPT_TFO
    elif kind == KIND_MPTCP and n >= 3:
        p.opts |= OPT_MPTCP
    elif kind == KIND_MD5 and n == 18:
        p.opts |= OPT_MD5

cdef inline bint tcp_options(const uint8_t *o, uint32_t n, pkt_t *p) noexcept nogil:
    """Read the n bytes of options. False: the list is broken; what stood before the break is kept. `p` NULL: only that is asked."""
    cdef uint32_t i = 0
    if n == 20 and be16(o) == MSS_4 and be32(o + 4) == SACK_OK_TS and be32(o + 16) >> 8 == NOP_WSCALE:
        if p != NULL:
            p.mss, p.tsval, p.tsecr, p.wscale = be16(o + 2), be32(o + 8), be32(o + 12), o[19]
            p.opts |= OPT_MSS | OPT_SACK_OK | OPT_TS | OPT_WSCALE
        return True
    while i < n and o[i] != KIND_END:
        if o[i] == KIND_NOP:
            i += 1
            continue
        if i + 1 >= n or o[i + 1] < 2 or o[i + 1] > n - i:
            return False
        if p != NULL:
            tcp_option(o + i, o[i + 1], p)
        i += o[i + 1]
    return True

cdef inline void set_payload(walk_t *w, pkt_t *p, uint32_t header) noexcept nogil:
    """The payload begins `header` bytes on; the capture may end before."""
    p.payload_len = w.len - header
    p.payload_cap = w.cap - header if w.cap > header else 0
    p.payload = w.p + (header if w.cap > header else w.cap)
    p.cut = w.cap < w.len

cdef inline int tcp(walk_t *w, pkt_t *p, uint64_t *broken_options) noexcept nogil:
    """RFC 9293 3.1. Options that the capture cut off are just not there."""
    cdef const uint8_t *h = w.p
    if w.cap < 20:
        return short_of(w, 20, BAD_TCP_HEADER)
    cdef uint32_t header = (h[12] >> 4) * 4
    if header < 20 or header > w.len:
        return bad(w, BAD_TCP_HEADER)
    p.l4 = h
    p.sport, p.dport = be16(h), be16(h + 2)
    p.seq, p.ack = be32(h + 4), be32(h + 8)
    p.tcp_flags = h[13]
    p.wnd, p.urg = be16(h + 14), be16(h + 18)
    set_payload(w, p, header)
    if header == 32 and w.cap >= 32 and be32(h + 20) == NOP_NOP_TS:
        p.tsval, p.tsecr = be32(h + 24), be32(h + 28)
        p.opts = OPT_TS
    elif header > 20:
        if w.cap < header:
            tcp_options(h + 20, w.cap - 20, p)
        elif not tcp_options(h + 20, header - 20, p):
            broken_options[0] += 1
    return STEP_FLOW

cdef inline int udp(walk_t *w, pkt_t *p) noexcept nogil:
    """RFC 768. Length 0 stands for a jumbogram (RFC 2675 4) or a datagram still to be segmented."""
    cdef const uint8_t *h = w.p
    if w.cap < 8:
        return short_of(w, 8, BAD_UDP_HEADER)
    cdef uint32_t length = be16(h + 4)
    if length == 0 and (w.len > 0xffff or p.ipver == 6):
        length = w.len
    if length < 8 or length > w.len:
        return bad(w, BAD_UDP_HEADER)
    trim(w, length)
    p.l4 = h
    p.sport, p.dport = be16(h), be16(h + 2)
    set_payload(w, p, 8)
    return STEP_FLOW

cdef inline bint icmp_has_id(uint8_t proto, uint8_t type) noexcept nogil:
    """Echo and extended echo (RFC 8335): requests and replies carry an identifier."""
    if proto == IPPROTO_ICMPV6:
        return type == 128 or type == 129 or type == 160 or type == 161
    return type == 0 or type == 8 or type == 42 or type == 43

cdef inline uint8_t icmp_request(uint8_t proto, uint8_t type) noexcept nogil:
    """The type of the request that `type` answers, so that both directions have one name; else `type` itself."""
    if proto == IPPROTO_ICMPV6:     # router and neighbour discovery, node information
        return type - 1 if type == 134 or type == 136 or type == 140 else type
    return type - 1 if type == 14 or type == 16 or type == 18 else type     # timestamp, information, address mask

cdef inline int icmp(walk_t *w, pkt_t *p) noexcept nogil:
    """RFC 792, RFC 4443: sport and dport hold what the key's lo_port and hi_port do."""
    cdef const uint8_t *h = w.p
    if w.cap < 8:
        return short_of(w, 8, BAD_ICMP_HEADER)
    p.l4 = h
    if icmp_has_id(w.proto, h[0]):
        p.sport = p.dport = be16(h + 4)
    else:
        p.sport, p.dport = icmp_request(w.proto, h[0]), h[1]
    set_payload(w, p, 8)
    return STEP_FLOW

cdef inline int compare6(const uint8_t *a, const uint8_t *b) noexcept nogil:
    cdef uint64_t x = be64(a)
    cdef uint64_t y = be64(b)
    if x == y:
        x, y = be64(a + 8), be64(b + 8)
    return (x > y) - (x < y)

cdef inline void name_flow(const walk_t *w, pkt_t *p, bint ports) noexcept nogil:
    """Fill key and from_hi; the key's bytes are zero. `ports` False: they do not belong to the ends (ICMP)."""
    cdef key_t *k = &p.key
    cdef int order
    if p.ipver == 4:
        order = (be32(w.src) > be32(w.dst)) - (be32(w.src) < be32(w.dst))
    else:
        order = compare6(w.src, w.dst)
    if order == 0 and ports:
        order = <int>p.sport - <int>p.dport
    cdef bint hi = order > 0
    cdef const uint8_t *lo_addr = w.dst if hi else w.src
    cdef const uint8_t *hi_addr = w.src if hi else w.dst
    if p.ipver == 4:
        memcpy(k.lo_addr, lo_addr, 4)
        memcpy(k.hi_addr, hi_addr, 4)
    else:
        memcpy(k.lo_addr, lo_addr, 16)
        memcpy(k.hi_addr, hi_addr, 16)
    hi = hi and ports
    k.lo_port = p.dport if hi else p.sport
    k.hi_port = p.sport if hi else p.dport
    k.proto, k.ipver = w.proto, p.ipver
    p.from_hi = order > 0
