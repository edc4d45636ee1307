# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Changed frames: other addresses, other bytes, RSTs of our own. Checksums are mended incrementally (RFC 1624)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset
from mos.flow.flow cimport CLIENT, END_FIN_DONE, END_SEEN, end_t, flow_name_at, flow_names, flow_t
from mos.net.packet cimport (
    IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, TCP_ACK, TCP_FIN, TCP_SYN, key_t, pkt_t)

cdef enum:
    RST_ACK = 0x14
    RST_ONLY = 0x04

cdef enum:
    ETHERNET = 1
    LAST_POSITION = 65535

cdef inline uint16_t get16(const uint8_t *p) noexcept nogil:
    return <uint16_t>(p[0] << 8 | p[1])

cdef inline void put16(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>(v >> 8)
    p[1] = <uint8_t>v

cdef inline void put32(uint8_t *p, uint32_t v) noexcept nogil:
    put16(p, v >> 16)
    put16(p + 2, v & 0xffff)

cdef inline void mend(uint8_t *csum, const uint8_t *old, const uint8_t *new, uint32_t n) noexcept nogil:
    """RFC 1624 equation 3 for `n` bytes (even) that change from `old` to `new`."""
    cdef uint32_t total = <uint32_t>(~get16(csum) & 0xffff), i
    for i in range(0, n, 2):
        total += <uint32_t>(~get16(old + i) & 0xffff) + get16(new + i)
        total = (total & 0xffff) + (total >> 16)
    total = (total & 0xffff) + (total >> 16)
    put16(csum, ~total & 0xffff)

cdef inline void never_zero(uint8_t *csum, const pkt_t *p) noexcept nogil:
    """A UDP checksum that comes to zero is sent as ones: zero says that there is none (RFC 768)."""
    if p.proto == IPPROTO_UDP and get16(csum) == 0:
        put16(csum, 0xffff)

cdef inline uint8_t *l4_checksum(uint8_t *out, const pkt_t *p) noexcept nogil:
    """Where the transport checksum of the copied frame is; NULL: there is none, or the capture cuts it off."""
    cdef size_t l4 = p.l4 - p.frame
    cdef size_t at = l4 + (16 if p.proto == IPPROTO_TCP else 6 if p.proto == IPPROTO_UDP else 2)
    if at + 2 > p.caplen:
        return NULL
    if p.proto == IPPROTO_UDP and p.ipver == 4 and get16(out + at) == 0:
        return NULL
    return out + at

cdef inline uint32_t frame_copy(uint8_t *out, const pkt_t *p) noexcept nogil:
    """The frame as it came, in a buffer that may be changed."""
    memcpy(out, p.frame, p.caplen)
    return p.caplen

cdef inline void mend_sum(uint8_t *at, const uint8_t *old, const uint8_t *new, uint32_t n) noexcept nogil:
    """As `mend` for a sum that is not complemented: what stands in the field of a checksum left unfinished."""
    put16(at, ~get16(at) & 0xffff)
    mend(at, old, new, n)
    put16(at, ~get16(at) & 0xffff)

cdef inline void set_address(uint8_t *out, const pkt_t *p, int source, const uint8_t *addr) noexcept nogil:
    cdef uint8_t *ip = out + (p.ip - p.frame)
    cdef uint32_t n = 4 if p.ipver == 4 else 16
    cdef uint8_t *at = ip + ((12 if source else 16) if p.ipver == 4 else (8 if source else 24))
    cdef uint8_t *csum = l4_checksum(out, p)
    if memcmp(at, addr, n) == 0:
        return
    if p.ipver == 4:
        mend(ip + 10, at, addr, n)
    if csum != NULL and p.csum_partial:
        mend_sum(csum, at, addr, n)
    elif csum != NULL and p.proto != IPPROTO_ICMP:
        mend(csum, at, addr, n)
        never_zero(csum, p)
    memcpy(at, addr, n)

cdef inline void set_port(uint8_t *out, const pkt_t *p, int source, uint16_t port) noexcept nogil:
    """A TCP or UDP port; for an ICMP echo the identifier, which stands for both."""
    cdef uint8_t[2] new
    cdef uint8_t *csum = l4_checksum(out, p)
    cdef uint8_t *at = out + (p.l4 - p.frame) + ((0 if source else 2) if p.proto == IPPROTO_TCP or p.proto == IPPROTO_UDP else 4)
    put16(new, port)
    if memcmp(at, new, 2) == 0:
        return
    if csum != NULL and not p.csum_partial:
        mend(csum, at, new, 2)
        never_zero(csum, p)
    memcpy(at, new, 2)

cdef inline int rewrite_flow(uint8_t *out, const pkt_t *p, const flow_t *f, int s) noexcept nogil:
    """Name the ends as the far side of all translating NFs knows them: the last alias to the server, the key to the client."""
    cdef uint8_t client_hi = 0
    cdef const key_t *k = flow_name_at(f, LAST_POSITION if s == CLIENT else 0, &client_hi)
    cdef const uint8_t *client = &k.hi_addr[0] if client_hi else &k.lo_addr[0]
    cdef const uint8_t *server = &k.lo_addr[0] if client_hi else &k.hi_addr[0]
    cdef uint16_t client_port = k.hi_port if client_hi else k.lo_port
    cdef uint16_t server_port = k.lo_port if client_hi else k.hi_port
    if p.ip == NULL or p.reassembled:
        return -1
    set_address(out, p, 1, client if s == CLIENT else server)
    set_address(out, p, 0, server if s == CLIENT else client)
    if p.proto == IPPROTO_TCP or p.proto == IPPROTO_UDP:
        set_port(out, p, 1, client_port if s == CLIENT else server_port)
        set_port(out, p, 0, server_port if s == CLIENT else client_port)
    elif p.l4[0] in (0, 8, 128, 129):
        set_port(out, p, 0, client_port)
    return 0

cdef inline void mend_last(uint8_t *csum, uint8_t old, uint8_t new) noexcept nogil:
    """The high byte of a 16-bit word whose low byte does not change; its value cancels out."""
    cdef uint8_t[2] a
    cdef uint8_t[2] b
    a[0], a[1], b[0], b[1] = old, 0, new, 0
    mend(csum, a, b, 2)

cdef inline int replace_payload(uint8_t *out, const pkt_t *p, uint32_t at, const uint8_t *data, uint32_t n) noexcept nogil:
    """Overwrite `n` payload bytes from `at` on. -1: they are not all in this frame."""
    cdef size_t base
    cdef uint8_t *csum
    cdef uint32_t i = 0, l4
    cdef uint8_t[2] new
    if p.reassembled or at + n > p.payload_cap:
        return -1
    base = (p.payload - p.frame) + at
    csum = l4_checksum(out, p)
    l4 = <uint32_t>(p.l4 - p.frame)
    if csum == NULL or p.csum_partial:
        memcpy(out + base, data, n)
        return 0
    while i < n:
        if (base + i - l4) & 1:
            new[0], new[1] = out[base + i - 1], data[i]
            mend(csum, out + base + i - 1, new, 2)
            out[base + i] = data[i]
            i += 1
        elif i + 1 < n:
            mend(csum, out + base + i, data + i, 2)
            memcpy(out + base + i, data + i, 2)
            i += 2
        else:
            mend_last(csum, out[base + i], data[i])
            out[base + i] = data[i]
            i += 1
    never_zero(csum, p)
    return 0

cdef inline int set_ttl(uint8_t *out, const pkt_t *p, int ttl) noexcept nogil:
    """Another TTL or hop limit. -1: the frame does not hold an IP header in full."""
    cdef uint8_t *ip = out + (p.ip - p.frame)
    cdef uint8_t[2] new
    if p.ip == NULL or p.reassembled or (p.ip - p.frame) + (40 if p.ipver == 6 else 20) > p.caplen:
        return -1
    if p.ipver == 6:
        ip[7] = <uint8_t>ttl
        return 0
    new[0], new[1] = <uint8_t>ttl, ip[9]
    mend(ip + 10, ip + 8, new, 2)
    ip[8] = <uint8_t>ttl
    return 0

cdef inline int plain_link(const pkt_t *p) noexcept nogil:
    """Bytes before the IP header if they are a MAC header with VLAN tags or nothing; -1: a tunnel or another link layer."""
    cdef uint32_t ip = <uint32_t>(p.ip - p.frame), at = 12
    if p.linktype != ETHERNET:
        return 0 if ip == 0 else -1
    while at + 4 <= p.caplen and get16(p.frame + at) in (0x8100, 0x88a8, 0x9100):
        at += 4
    return <int>ip if ip == at + 2 else -1

cdef inline void finish_headers(uint8_t *out, const pkt_t *p, uint32_t link, uint32_t header) noexcept nogil:
    """Lengths and checksums of a bare TCP header of ours behind `header` bytes of IP."""
    cdef uint8_t *ip = out + link
    cdef uint8_t *tcp = ip + header
    cdef uint32_t total = 0, i, n = 8 if p.ipver == 4 else 32
    cdef uint8_t *addresses = ip + (12 if p.ipver == 4 else 8)
    if p.ipver == 4:
        put16(ip + 2, header + 20)
        put16(ip + 4, 0)
        put16(ip + 6, 0x4000)
        ip[8] = 64
        put16(ip + 10, 0)
        for i in range(0, header, 2):
            total += get16(ip + i)
        total = (total & 0xffff) + (total >> 16)
        put16(ip + 10, ~((total & 0xffff) + (total >> 16)) & 0xffff)
    else:
        put16(ip + 4, header - 40 + 20)
        ip[7] = 64
    total = IPPROTO_TCP + 20
    for i in range(0, n, 2):
        total += get16(addresses + i)
    for i in range(0, 20, 2):
        total += get16(tcp + i)
    total = (total & 0xffff) + (total >> 16)
    put16(tcp + 16, ~((total & 0xffff) + (total >> 16)) & 0xffff)

cdef inline void turn_round(uint8_t *out, const pkt_t *p, uint32_t link) noexcept nogil:
    """Swap source and destination of MAC and IP header."""
    cdef uint8_t[16] held
    cdef uint8_t *ip = out + link
    cdef uint32_t n = 4 if p.ipver == 4 else 16
    cdef uint32_t src = 12 if p.ipver == 4 else 8
    if link:
        memcpy(held, out, 6)
        memcpy(out, out + 6, 6)
        memcpy(out + 6, held, 6)
    memcpy(held, ip + src, n)
    memcpy(ip + src, ip + src + n, n)
    memcpy(ip + src + n, held, n)

cdef inline uint32_t make_reset(uint8_t *out, const pkt_t *p, const flow_t *f, int s, int way) noexcept nogil:
    """A RST to the receiver of `p` (way 0) or back to its sender, side `s` (way 1); 0: none is due or it cannot be made.

    Each end gets it under the names of its own wire side. To the receiver it carries the sequence number that it expects, to the
    sender what the sender acknowledged (RFC 9293 section 3.10.7.1), so both pass the exact check of RFC 5961. A receiver that has
    never heard of the connection, its first SYN being dropped, needs none.
    """
    cdef int link = plain_link(p) if p.ip != NULL and not p.reassembled else -1
    cdef uint32_t header
    cdef const end_t *S = &f.end[s]
    cdef uint8_t *tcp
    if link < 0 or (way == 0 and (not S.flags & END_SEEN or (
            p.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN and f.end[0].packets + f.end[1].packets == 1))):
        return 0
    header = <uint32_t>(p.l4 - p.ip)
    memcpy(out, p.frame, link + header)
    tcp = out + link + header
    memset(tcp, 0, 20)
    tcp[12] = 5 << 4
    if way == 0:
        memcpy(tcp, p.l4, 4)
        put32(tcp + 4, S.nxt + (1 if S.flags & END_FIN_DONE else 0))
        if p.tcp_flags & TCP_ACK or f.end[1 - s].flags & END_SEEN:      # one that has sent no more than a SYN takes it by its ACK
            put32(tcp + 8, p.ack if p.tcp_flags & TCP_ACK else f.end[1 - s].snd_max)
            tcp[13] = RST_ACK
        else:
            tcp[13] = RST_ONLY
    else:
        turn_round(out, p, link)
        memcpy(tcp, p.l4 + 2, 2)
        memcpy(tcp + 2, p.l4, 2)
        if p.tcp_flags & TCP_ACK:
            put32(tcp + 4, p.ack)
            tcp[13] = RST_ONLY
        else:
            if f.end[1 - s].flags & END_SEEN:       # simultaneous open: the sender may have got the other SYN meanwhile
                put32(tcp + 4, f.end[1 - s].nxt)
            put32(tcp + 8, p.seq + p.payload_len + (1 if p.tcp_flags & TCP_SYN else 0) + (1 if p.tcp_flags & TCP_FIN else 0))
            tcp[13] = RST_ACK
    finish_headers(out, p, link, header)
    if way == 0 and flow_names(f) != NULL:
        rewrite_flow(out, p, f, s)
    return link + header + 20

cdef inline int key_make(key_t *k, const key_t *like, const uint8_t *client, uint16_t client_port, const uint8_t *server,
                  uint16_t server_port) noexcept nogil:
    """A key for these ends in the domain of `like`; returns client_hi."""
    cdef int order = memcmp(client, server, 16)
    cdef int client_hi = order > 0 or (order == 0 and client_port > server_port)
    memcpy(k, like, sizeof(key_t))
    memcpy(&k.hi_addr[0] if client_hi else &k.lo_addr[0], client, 16)
    memcpy(&k.lo_addr[0] if client_hi else &k.hi_addr[0], server, 16)
    k.lo_port = server_port if client_hi else client_port
    k.hi_port = client_port if client_hi else server_port
    return client_hi
