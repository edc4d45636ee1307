# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Tunnels: what stands between an outer IP or UDP header and the packet inside.

A parser finds the tunnel's header at `p`, moves behind it and returns what comes next. One that is told by a UDP port
alone answers STEP_NOT_IT, without having moved, unless what is inside looks right too: anybody may use that port.
`id` is what sets apart tunnels between the same two addresses, equal in both directions; has_id 0: nothing does.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from mos.net.bytes cimport be16, be24, be32, be64, put64
from mos.net.checksum cimport csum_right20
from mos.net.ip cimport IP4_FRAGMENT
from mos.net.link cimport ETHERTYPE_IP4, looks_ether, looks_ip
from mos.net.packet cimport CSUM_BAD_IP, pkt_t
from mos.net.siphash cimport sip_load, sip_store
from mos.net.verify cimport CHECKSUM_VERIFY
from mos.net.walk cimport (BAD_TUNNEL, MAX_STEPS, PATH_MAX, STEP_ETHER, STEP_IP, STEP_IP4, STEP_IP6,
                           STEP_MPLS, STEP_NOT_IT, STEP_OTHER, STEP_PPP, STEP_TYPE, bad, path_mix, short_of, skip, trim, walk_t)

cdef enum:              # row_t.via
    VIA_PROTO = 0       # IP protocol number
    VIA_PORT = 1        # UDP destination port
    VIA_EITHER = 2      # UDP source or destination port

cdef enum:
    MAX_OPTIONS = 16    # GTP-U extension headers in a row: three are defined for user data

cdef struct tunnel_t:
    uint32_t id
    uint8_t  has_id

ctypedef int (*tunnel_fn)(walk_t *w, tunnel_t *t) noexcept nogil

cdef struct row_t:
    const char *name    # as `Decoder(tunnels=...)` and the texts of domains know it
    tunnel_fn parse
    uint16_t  value     # of what `via` says
    uint8_t   via

cdef enum:
    GRE_CHECKSUM = 0x8000
    GRE_ROUTING = 0x4000
    GRE_KEY = 0x2000
    GRE_SEQUENCE = 0x1000
    GRE_ACK = 0x0080
    GRE_VERSION = 0x0007
    ETHERTYPE_ERSPAN2 = 0x88be
    ETHERTYPE_ERSPAN3 = 0x22eb
    ETHERTYPE_WCCP = 0x883e
    IPPROTO_IPIP = 4
    IPPROTO_GRE = 47

cdef inline int ipip4(walk_t *w, tunnel_t *t) noexcept nogil:
    """RFC 2003, RFC 2473."""
    return STEP_IP4

cdef inline int ipip6(walk_t *w, tunnel_t *t) noexcept nogil:
    """RFC 4213, RFC 2473."""
    return STEP_IP6

cdef inline int mpls_in_ip(walk_t *w, tunnel_t *t) noexcept nogil:
    """RFC 4023 3."""
    return STEP_MPLS

cdef inline int etherip(walk_t *w, tunnel_t *t) noexcept nogil:
    """RFC 3378."""
    if w.cap < 2:
        return short_of(w, 2, BAD_TUNNEL)
    if be16(w.p) != 0x3000:
        return bad(w, BAD_TUNNEL)
    skip(w, 2)
    return STEP_ETHER

cdef inline int pptp(walk_t *w) noexcept nogil:
    """Enhanced GRE (RFC 2637 4.1). Its call ids differ by direction; packets without a payload only acknowledge."""
    cdef uint16_t bits = be16(w.p)
    cdef uint32_t n = 8 + (4 if bits & GRE_SEQUENCE else 0) + (4 if bits & GRE_ACK else 0)
    if be16(w.p + 2) != 0x880b or not bits & GRE_KEY:
        return bad(w, BAD_TUNNEL)
    if w.cap < n:
        return short_of(w, n, BAD_TUNNEL)
    cdef uint32_t length = be16(w.p + 4)
    if not bits & GRE_SEQUENCE or length == 0:
        return STEP_OTHER
    if length > w.len - n:
        return bad(w, BAD_TUNNEL)
    skip(w, n)
    trim(w, length)
    return STEP_PPP

cdef inline int erspan(walk_t *w, tunnel_t *t, uint16_t type, bint sequence) noexcept nogil:
    """draft-foschiano-erspan-03: type I has no header, II has 8 bytes, III 12 and 8 more if its O bit is set."""
    cdef uint32_t n = 8
    if type == ETHERTYPE_ERSPAN2 and not sequence:
        return STEP_ETHER
    if type == ETHERTYPE_ERSPAN3:
        n = 12
        if w.cap >= 12 and w.p[11] & 1:
            n = 20
    if w.cap < n:
        return short_of(w, n, BAD_TUNNEL)
    if w.p[0] >> 4 != (1 if type == ETHERTYPE_ERSPAN2 else 2):
        return bad(w, BAD_TUNNEL)
    t.id, t.has_id = be16(w.p + 2) & 0x3ff, 1
    skip(w, n)
    return STEP_ETHER

cdef inline int gre(walk_t *w, tunnel_t *t) noexcept nogil:
    """RFC 2784, RFC 2890. Source routing (RFC 1701) is long out of use and not followed."""
    if w.cap < 4:
        return short_of(w, 4, BAD_TUNNEL)
    cdef uint16_t bits = be16(w.p)
    cdef uint16_t type = be16(w.p + 2)
    cdef uint32_t key = 4 + (4 if bits & GRE_CHECKSUM else 0)
    cdef uint32_t n = key + (4 if bits & GRE_KEY else 0) + (4 if bits & GRE_SEQUENCE else 0)
    if bits & GRE_VERSION == 1:
        return pptp(w) if w.cap >= 8 else short_of(w, 8, BAD_TUNNEL)
    if bits & GRE_VERSION or bits & GRE_ROUTING:
        return STEP_OTHER
    if w.cap < n:
        return short_of(w, n, BAD_TUNNEL)
    if bits & GRE_KEY:
        t.id, t.has_id = be32(w.p + key), 1
    skip(w, n)
    if type == ETHERTYPE_ERSPAN2 or type == ETHERTYPE_ERSPAN3:
        return erspan(w, t, type, bits & GRE_SEQUENCE != 0)
    if type == ETHERTYPE_WCCP:      # version 2 puts a redirect header of 4 bytes before the packet
        if w.cap >= 4 and w.p[0] >> 4 != 4:
            skip(w, 4)
        return STEP_IP4
    w.type = type
    return STEP_TYPE if type > 1500 else STEP_OTHER

cdef inline int vxlan(walk_t *w, tunnel_t *t) noexcept nogil:
    """RFC 7348 5."""
    if w.cap < 8 or w.p[0] != 0x08 or not looks_ether(w.p + 8, w.cap - 8, w.len - 8):
        return STEP_NOT_IT
    t.id, t.has_id = be24(w.p + 4), 1
    skip(w, 8)
    return STEP_ETHER

cdef inline int vxlan_gpe(walk_t *w, tunnel_t *t) noexcept nogil:
    """draft-ietf-nvo3-vxlan-gpe-13 3: I and P bits, a next protocol."""
    if w.cap < 8 or w.p[0] & 0xfc != 0x0c:
        return STEP_NOT_IT
    cdef bint ethernet = w.p[3] == 3
    if not (looks_ether(w.p + 8, w.cap - 8, w.len - 8) if ethernet
            else 1 <= w.p[3] <= 2 and looks_ip(w.p + 8, w.cap - 8, w.len - 8)):
        return STEP_NOT_IT
    t.id, t.has_id = be24(w.p + 4), 1
    skip(w, 8)
    return STEP_ETHER if ethernet else STEP_IP

cdef inline int geneve(walk_t *w, tunnel_t *t) noexcept nogil:
    """RFC 8926 3.4."""
    if w.cap < 8 or w.p[0] >> 6:
        return STEP_NOT_IT
    cdef uint32_t n = 8 + (w.p[0] & 0x3f) * 4
    cdef uint16_t type = be16(w.p + 2)
    if w.cap < n or w.p[7]:
        return STEP_NOT_IT
    cdef uint32_t id = be24(w.p + 4)
    if type == 0x6558 and looks_ether(w.p + n, w.cap - n, w.len - n):
        skip(w, n)
        t.id, t.has_id = id, 1
        return STEP_ETHER
    if (type == 0x0800 or type == 0x86dd) and looks_ip(w.p + n, w.cap - n, w.len - n):
        skip(w, n)
        t.id, t.has_id = id, 1
        return STEP_IP4 if type == 0x0800 else STEP_IP6
    return STEP_NOT_IT

cdef inline int gtpu(walk_t *w, tunnel_t *t) noexcept nogil:
    """A user packet in GTP-U version 1 (3GPP TS 29.281 5). TEIDs name one direction each and set nothing apart."""
    if w.cap < 8 or w.p[0] & 0xf0 != 0x30 or w.p[1] != 255 or be16(w.p + 2) > w.len - 8:
        return STEP_NOT_IT
    cdef uint32_t n = 8
    cdef uint32_t end = 8 + be16(w.p + 2)
    cdef int left = MAX_OPTIONS
    cdef uint8_t next = 0
    if end > w.cap:
        end = w.cap
    if w.p[0] & 7:              # sequence number, N-PDU number, next extension header: all there if any is
        n = 12
        if end < n:
            return STEP_NOT_IT
        next = w.p[11] if w.p[0] & 4 else 0
    while next:
        left -= 1
        if left < 0 or n + 4 > end or w.p[n] == 0 or <uint32_t>w.p[n] * 4 > end - n:
            return STEP_NOT_IT
        n += <uint32_t>w.p[n] * 4
        next = w.p[n - 1]
    if not looks_ip(w.p + n, w.cap - n, 8 + be16(w.p + 2) - n):
        return STEP_NOT_IT
    end = 8 + be16(w.p + 2)
    trim(w, end)
    skip(w, n)
    return STEP_IP

cdef inline int teredo(walk_t *w, tunnel_t *t) noexcept nogil:
    """RFC 4380 5.1.1: authentication and origin indications, then IPv6 that fills the datagram (RFC 6081 trailers may
    follow where an address is a Teredo one)."""
    cdef uint32_t n = 0
    cdef uint32_t total
    if w.cap >= 13 and be16(w.p) == 0x0001:
        n = 13 + <uint32_t>w.p[2] + w.p[3]
    if w.cap >= n + 8 and be16(w.p + n) == 0:
        n += 8
    if w.cap < n + 40 or w.p[n] >> 4 != 6:
        return STEP_NOT_IT
    total = n + 40 + be16(w.p + n + 4)
    if total > w.len or (total < w.len and be32(w.p + n + 8) != 0x20010000 and be32(w.p + n + 24) != 0x20010000):
        return STEP_NOT_IT
    skip(w, n)
    return STEP_IP6

cdef inline int ayiya(walk_t *w, tunnel_t *t) noexcept nogil:
    """draft-massar-v6ops-ayiya-02: an identity and a signature of stated lengths, then IP."""
    if w.cap < 8 or w.p[2] & 15 != 1:       # operation: forward
        return STEP_NOT_IT
    cdef uint32_t n = 8 + (<uint32_t>1 << (w.p[0] >> 4)) + (w.p[1] >> 4) * 4
    if n >= w.cap or (w.p[3] != 41 and w.p[3] != 4) or not looks_ip(w.p + n, w.cap - n, w.len - n):
        return STEP_NOT_IT
    skip(w, n)
    return STEP_IP

cdef inline uint64_t tunnel_head(uint8_t row, uint32_t id, uint8_t has_id, uint8_t ipver) noexcept nogil:
    """The first seven bytes of a tunnel's entry in a path, the first of them lowest."""
    return row | <uint32_t>has_id << 8 | <uint32_t>ipver << 16 | <uint64_t>id << 24

cdef inline uint64_t tunnel_entry4(uint8_t *to, uint64_t head, const uint8_t *ends) noexcept nogil:
    """Write an entry between the two IPv4 addresses at `ends`, the smaller first; these two."""
    cdef uint64_t a = be64(ends)
    cdef uint64_t x = min(a, a << 32 | a >> 32)
    sip_store(to, head)
    put64(to + 7, x)
    return x

cdef inline bint path_tunnel(walk_t *w, uint8_t row, const tunnel_t *t, const pkt_t *outer, const uint8_t *src,
                             const uint8_t *dst) noexcept nogil:
    """Note a tunnel between these addresses, the smaller first: both directions agree. False: the path is full."""
    cdef uint32_t n = 15 if outer.ipver == 4 else 39
    cdef uint64_t head = tunnel_head(row, t.id, t.has_id, outer.ipver)
    cdef uint8_t *to = w.path + w.npath
    cdef bint swap
    if w.npath + n > PATH_MAX:
        return False
    if outer.ipver == 4:
        w.hash = path_mix(w.hash ^ head, w.secret ^ tunnel_entry4(to, head, src))
    else:
        swap = memcmp(src, dst, 16) > 0
        sip_store(to, head)
        memcpy(to + 7, dst if swap else src, 16)
        memcpy(to + 23, src if swap else dst, 16)
        w.hash = path_mix(w.hash ^ head, w.secret ^ sip_load(to + 7))
        w.hash = path_mix(w.hash ^ sip_load(to + 15), w.secret ^ sip_load(to + 23))
        w.hash = path_mix(w.hash ^ sip_load(to + 31), w.secret)
    w.npath += <uint16_t>n
    return True

cdef inline void ip4_tunnels(walk_t *w, pkt_t *p, const uint8_t *by_proto, uint8_t most, uint8_t checksum) noexcept nogil:
    """Through IPv4 in IPv4 and in GRE in one go, as long as headers are of the simplest kind; at most `most` tunnels in all.

    What `ip4`, `gre` and their like would do with these. The first that asks for more, or is wrong or cut off, is left to them.
    """
    cdef const uint8_t *h = w.p
    cdef const uint8_t *last = NULL         # the header of the tunnel passed last
    cdef uint8_t *to = w.path + w.npath
    cdef uint32_t left = w.len, tunnels = w.tunnels, total = 0, gre = 0, n
    cdef uint64_t start, head, hash = w.hash, secret = w.secret
    cdef uint8_t proto, row, bad_sum = 0
    if w.cap != left or w.steps + 3 * most > MAX_STEPS or w.npath + 15 * most > PATH_MAX:
        return
    while left >= 28 and tunnels < most:
        start, proto = be64(h), h[9]
        row, n = by_proto[proto], <uint32_t>(start >> 32) & 0xffff
        if start & (<uint64_t>0xff << 56 | IP4_FRAGMENT) != <uint64_t>0x45 << 56 or not row or n < 28 or n > left:
            break
        if proto == IPPROTO_IPIP:
            head, n = tunnel_head(row - 1, 0, 0, 4), 20
        elif proto == IPPROTO_GRE and be32(h + 20) == ETHERTYPE_IP4:
            head, n, gre = tunnel_head(row - 1, 0, 0, 4), 24, gre + 1
        elif proto == IPPROTO_GRE and be32(h + 20) == (GRE_KEY << 16 | ETHERTYPE_IP4):
            head, n, gre = tunnel_head(row - 1, be32(h + 24), 1, 4), 28, gre + 1
        else:
            break
        if checksum and not csum_right20(h) and (checksum == CHECKSUM_VERIFY or be16(h + 10)):
            bad_sum = CSUM_BAD_IP
        hash = path_mix(hash ^ head, secret ^ tunnel_entry4(to, head, h + 12))
        w.rows[tunnels] = row - 1
        last, total = h, <uint32_t>(start >> 32) & 0xffff
        h, left = h + n, total - n
        to, tunnels = to + 15, tunnels + 1
    if last != NULL:
        p.ip, p.ipver, p.ip_len, p.proto = last, 4, total, last[9]
        p.csum |= bad_sum
        w.src, w.dst, w.proto, w.hash, w.npath = last + 12, last + 16, last[9], hash, <uint16_t>(to - w.path)
        w.steps += <uint8_t>(2 * (tunnels - w.tunnels) + gre)
        w.p, w.cap, w.len, w.tunnels = h, left, left, <uint8_t>tunnels
