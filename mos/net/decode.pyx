from libc.string cimport memset, memcpy, memcmp
from libc.stdint cimport *
from mos.net.packet cimport *
cdef class Decoder:
    def __cinit__(self, **kw): self.c = &self.own
    def counters(self): return {}
    def domain(self, i): return ((), ())
cdef inline uint16_t g16(const uint8_t *p) noexcept nogil: return <uint16_t>(p[0] << 8 | p[1])
cdef inline uint32_t g32(const uint8_t *p) noexcept nogil: return (<uint32_t>g16(p) << 16) | g16(p + 2)
cdef int decode(decoder_t *d, pkt_t *p) noexcept nogil:
    cdef uint32_t o = 12, et, hl, end
    cdef const uint8_t *l4
    cdef int c, i, n, k
    p.status = PKT_OTHER; p.ipver = 0; p.csum = CSUM_UNKNOWN; p.opts = 0; p.nsack = 0; p.reassembled = 0; p.cut=0; p.cause=0
    p.ip = p.l4 = p.payload = NULL; p.payload_len = p.payload_cap = 0; p.tcp_flags = 0; p.from_hi = 0
    if p.linktype != 1: return PKT_OTHER
    while True:
        if o + 2 > p.caplen: return PKT_OTHER
        et = g16(p.frame + o); o += 2
        if et != 0x8100: break
        o += 2
    memset(&p.key, 0, sizeof(key_t))
    if et == 0x800:
        if o + 20 > p.caplen: return PKT_OTHER
        p.ip = p.frame + o; hl = (p.ip[0] & 15) * 4; p.ip_len = g16(p.ip + 2); p.proto = p.ip[9]; p.ipver = 4
        if g16(p.ip + 6) & 0x1fff: return PKT_OTHER
    elif et == 0x86dd:
        if o + 40 > p.caplen: return PKT_OTHER
        p.ip = p.frame + o; hl = 40; p.ip_len = g16(p.ip + 4) + 40; p.proto = p.ip[6]; p.ipver = 6
    else: return PKT_OTHER
    l4 = p.l4 = p.ip + hl
    end = o + p.ip_len
    if p.proto == 6:
        if o + hl + 20 > p.caplen: return PKT_OTHER
        n = (l4[12] >> 4) * 4
        if n < 20 or o + hl + n > p.caplen or hl + n > p.ip_len: return PKT_OTHER
        p.sport = g16(l4); p.dport = g16(l4 + 2); p.seq = g32(l4 + 4); p.ack = g32(l4 + 8); p.tcp_flags = l4[13]; p.wnd = g16(l4 + 14); p.urg = g16(l4 + 18)
        i = 20
        while i < n:
            k = l4[i]
            if k == 0: break
            if k == 1: i += 1; continue
            if i + 1 >= n or l4[i + 1] < 2 or i + l4[i + 1] > n: break
            if k == 2: p.mss = g16(l4 + i + 2); p.opts |= OPT_MSS
            if k == 3: p.wscale = l4[i + 2]; p.opts |= OPT_WSCALE
            if k == 4: p.opts |= OPT_SACK_OK
            if k == 8: p.tsval = g32(l4 + i + 2); p.opts |= OPT_TS
            if k == 5:
                c = 0
                while c < 4 and 2 + 8 * c + 8 <= l4[i + 1]:
                    p.sack[2 * c] = g32(l4 + i + 2 + 8 * c); p.sack[2 * c + 1] = g32(l4 + i + 6 + 8 * c); c += 1
                p.nsack = c
            i += l4[i + 1]
        hl += n
    elif p.proto == 17:
        if o + hl + 8 > p.caplen: return PKT_OTHER
        p.sport = g16(l4); p.dport = g16(l4 + 2); hl += 8
    else: return PKT_OTHER
    p.payload = p.ip + hl; p.payload_len = p.ip_len - hl
    p.payload_cap = min(p.payload_len, p.caplen - o - hl)
    n = 4 if p.ipver == 4 else 16
    cdef const uint8_t *s = p.ip + (12 if p.ipver == 4 else 8)
    c = memcmp(s, s + n, n)
    p.from_hi = c > 0 or (c == 0 and p.sport > p.dport)
    memcpy(&p.key.hi_addr[0] if p.from_hi else &p.key.lo_addr[0], s, n); memcpy(&p.key.lo_addr[0] if p.from_hi else &p.key.hi_addr[0], s + n, n)
    p.key.lo_port = p.dport if p.from_hi else p.sport; p.key.hi_port = p.sport if p.from_hi else p.dport
    p.key.proto = p.proto; p.key.ipver = p.ipver
    p.status = PKT_FLOW
    return PKT_FLOW
