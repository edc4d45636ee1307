"""Bytes to packets: link layer, tunnels, IP, fragments, transport, checksums, and the name of the flow."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_FromStringAndSize
from mos.net.bytes cimport be16, le32
from mos.net.checksum cimport csum_fold, csum_range, csum_update16, csum_update32
from mos.net.domain cimport DOMAIN_OVERFLOW, domain_of, domain_path, domains_free
from mos.net.frag cimport (FRAG_COMPLETE, FRAG_DROP, FRAG_FIRST, FRAG_LAST, FRAG_WAITING, MAX_DATAGRAMS, MAX_FRAGMENT_BYTES,
                           MAX_FRAGMENTS, frag_add, frag_clear, frag_release, fragment_t, held_t)
from mos.net.ip cimport IPPROTO_AH, ah, ip4, ip6, ip_any
from mos.net.link cimport (
    LINKTYPE_80211, LINKTYPE_AVS, LINKTYPE_C_HDLC, LINKTYPE_ETHERNET, LINKTYPE_IPV4, LINKTYPE_IPV6, LINKTYPE_LOOP, LINKTYPE_NULL,
    LINKTYPE_PPP, LINKTYPE_PPP_ETHER, LINKTYPE_PPP_HDLC, LINKTYPE_PPP_WITH_DIR, LINKTYPE_PRISM, LINKTYPE_RADIOTAP, LINKTYPE_RAW,
    LINKTYPE_SLL, LINKTYPE_SLL2, by_type, ether, hdlc, llc, loopback, mpls, ppp, pppoe, serial, sll, sll2, with_direction)
from mos.net.packet cimport (
    AHEAD_ELSEWHERE, CSUM_BAD_IP, CSUM_BAD_L4, CSUM_PARTIAL, CSUM_UNKNOWN, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP,
    PKT_FLOW, PKT_FRAGMENT, PKT_MALFORMED, PKT_OTHER, pkt_t)
from mos.net.plain cimport pkt_clear, plain, plain_inside
from mos.net.siphash cimport siphash13
from mos.net.transport cimport icmp, name_flow, tcp, udp
from mos.net.tunnel cimport (VIA_EITHER, VIA_PORT, VIA_PROTO, ayiya, etherip, geneve, gre, gtpu, ip4_tunnels, ipip4, ipip6,
                             mpls_in_ip, path_tunnel, row_t, teredo, tunnel_fn, tunnel_t, vxlan, vxlan_gpe)
from mos.net.usual cimport may_be_usual, usual
from mos.net.verify cimport CHECKSUM_VERIFY, verify_bare, verify_ip4, verify_plain, verify_refused, verify_transport
from mos.net.walk cimport (
    BAD_CAUSES, BAD_DEPTH, BAD_FRAGMENT_OVERLAP, MAX_STEPS, MAX_TUNNELS, PATH_VLAN, STEP_BAD, STEP_DEFRAG, STEP_END, STEP_ETHER,
    STEP_FLOW, STEP_FRAGMENT, STEP_HDLC, STEP_IP4, STEP_IP6, STEP_L4, STEP_LLC, STEP_IP, STEP_MPLS, STEP_NO_LINK, STEP_NOT_IT,
    STEP_OTHER, STEP_PPP, STEP_PPPOE, STEP_TYPE, STEP_WLAN, bad, path_begin, skip, walk_begin, walk_t)
from mos.net.wireless cimport avs, prism, radiotap, wlan

import ipaddress

from mos.errors import UsageError

cdef row_t[MAX_ROWS] ROWS
cdef int NROWS = 0


cdef int add_row(const char *name, uint8_t via, uint16_t value, tunnel_fn parse) except -1:
    global NROWS
    assert NROWS < MAX_ROWS
    ROWS[NROWS].name, ROWS[NROWS].via, ROWS[NROWS].value, ROWS[NROWS].parse = name, via, value, parse
    NROWS += 1
    return 0


add_row("ipip", VIA_PROTO, 4, ipip4)
add_row("ipip", VIA_PROTO, 41, ipip6)
add_row("gre", VIA_PROTO, 47, gre)
add_row("etherip", VIA_PROTO, 97, etherip)
add_row("mpls", VIA_PROTO, 137, mpls_in_ip)
add_row("vxlan", VIA_PORT, 4789, vxlan)
add_row("vxlan", VIA_PORT, 8472, vxlan)         # Linux's default from before the assignment
add_row("vxlan-gpe", VIA_PORT, 4790, vxlan_gpe)
add_row("geneve", VIA_PORT, 6081, geneve)
add_row("gtp-u", VIA_EITHER, 2152, gtpu)
add_row("teredo", VIA_EITHER, 3544, teredo)
add_row("ayiya", VIA_EITHER, 5072, ayiya)

TUNNELS = tuple(dict.fromkeys((<bytes>ROWS[i].name).decode() for i in range(NROWS)))
CHECKSUMS = ("off", "verify", "auto")
OVERLAPS = ("first", "last", "drop")
STATUS = ("flow", "other", "malformed", "fragment")
CAUSES = ("none", "link", "truncated", "ip_version", "ip_header", "ip_length", "ip_options", "extension", "tcp_header",
          "udp_header", "icmp_header", "tunnel", "depth", "fragment_overlap", "fragment_cap", "fragment_timeout",
          "fragment_length")        # by BAD_*; events.spec, which is above us, publishes the same list


cdef int first(walk_t *w, uint16_t linktype) noexcept nogil:
    """The first header of a frame that is not Ethernet."""
    if linktype == LINKTYPE_NULL or linktype == LINKTYPE_LOOP:
        return loopback(w)
    if linktype == LINKTYPE_RAW or linktype == 12 or linktype == 14:    # DLT_RAW of some systems, written as it was
        return STEP_IP
    if linktype == LINKTYPE_IPV4:
        return STEP_IP4
    if linktype == LINKTYPE_IPV6:
        return STEP_IP6
    if linktype == LINKTYPE_SLL:
        return sll(w)
    if linktype == LINKTYPE_SLL2:
        return sll2(w)
    if linktype == LINKTYPE_PPP:
        return STEP_PPP
    if linktype == LINKTYPE_PPP_HDLC:
        return serial(w)
    if linktype == LINKTYPE_PPP_WITH_DIR:
        return with_direction(w)
    if linktype == LINKTYPE_PPP_ETHER:
        return STEP_PPPOE
    if linktype == LINKTYPE_C_HDLC:
        return STEP_HDLC
    if linktype == LINKTYPE_80211:
        return STEP_WLAN
    if linktype == LINKTYPE_RADIOTAP:
        return radiotap(w)
    if linktype == LINKTYPE_PRISM:
        return prism(w)
    if linktype == LINKTYPE_AVS:
        return avs(w)
    return STEP_NO_LINK


cdef int behind_link(walk_t *w, int step) noexcept nogil:
    if step == STEP_ETHER:
        return ether(w)
    if step == STEP_TYPE:
        return by_type(w)
    if step == STEP_LLC:
        return llc(w)
    if step == STEP_PPP:
        return ppp(w)
    if step == STEP_PPPOE:
        return pppoe(w)
    if step == STEP_HDLC:
        return hdlc(w)
    if step == STEP_WLAN:
        return wlan(w, False)
    if step == STEP_MPLS:
        return mpls(w)
    return ip_any(w)


cdef int defrag(decoder_t *d, walk_t *w, pkt_t *p) noexcept nogil:
    """Take in a fragment; the whole datagram comes next when it was the last one missing."""
    cdef fragment_t x
    cdef const uint8_t *whole = NULL
    cdef uint32_t n = 0
    cdef int how
    p.proto = w.proto
    if not d.defrag:
        return STEP_FRAGMENT
    if w.cap < w.len:
        d.cut_fragments += 1
        return STEP_FRAGMENT
    if p.csum & CSUM_BAD_IP:
        d.bad_fragments += 1
        return STEP_FRAGMENT
    x.src, x.dst, x.header, x.data = w.src, w.dst, p.ip, w.p
    x.header_len, x.next_at, x.length, x.offset = w.frag.header, w.frag.next_at, w.len, w.frag.offset
    x.id, x.more, x.ipver, x.proto, x.ts = w.frag.id, w.frag.more, p.ipver, w.proto, p.ts
    x.domain = domain_of(&d.domains, w)
    how = frag_add(&d.frags, &x, &whole, &n)
    if how == FRAG_WAITING:
        return STEP_FRAGMENT
    if how != FRAG_COMPLETE:
        return bad(w, <uint8_t>-how)
    p.reassembled = 1
    w.p, w.cap, w.len = whole, n, n
    return STEP_IP4 if p.ipver == 4 else STEP_IP6


cdef int enter(decoder_t *d, walk_t *w, const pkt_t *p, uint8_t row) noexcept nogil:
    """Behind the tunnel header at w.p."""
    cdef tunnel_t t
    t.id, t.has_id = 0, 0
    cdef int step = ROWS[row].parse(w, &t)
    if step >= STEP_END:
        return step
    w.rows[w.tunnels] = row
    w.tunnels += 1
    if w.tunnels > d.max_tunnels:
        return bad(w, BAD_DEPTH)
    if not path_tunnel(w, row, &t, p, w.src, w.dst):
        return bad(w, BAD_DEPTH)
    return step


cdef int enter_udp(decoder_t *d, walk_t *w, pkt_t *p) noexcept nogil:
    """Behind the UDP datagram at w.p if it is a tunnel; else it is what the flow is about."""
    cdef int i
    cdef int step
    for i in range(d.nports):
        if d.ports[i] == p.dport or (d.either[i] and d.ports[i] == p.sport):
            skip(w, 8)
            step = enter(d, w, p, d.port_rows[i])
            if step != STEP_NOT_IT:
                p.l4 = p.payload = NULL
                p.sport = p.dport = p.cut = 0
                p.payload_len = p.payload_cap = 0
                return step
            w.p -= 8
            w.cap += 8
            w.len += 8
    return STEP_FLOW


cdef inline int transport(decoder_t *d, walk_t *w, pkt_t *p) noexcept nogil:
    cdef int step
    p.proto = w.proto
    if w.proto == IPPROTO_TCP:
        return tcp(w, p, &d.broken_options)
    if w.proto == IPPROTO_UDP:
        step = udp(w, p)
        return enter_udp(d, w, p) if step == STEP_FLOW else step
    if w.proto == (IPPROTO_ICMP if p.ipver == 4 else IPPROTO_ICMPV6):
        return icmp(w, p)
    if w.proto == IPPROTO_AH and p.ipver == 4:
        return ah(w)
    if d.by_proto[w.proto]:
        return enter(d, w, p, d.by_proto[w.proto] - 1)
    return STEP_OTHER


cdef void count_checksums(decoder_t *d, const pkt_t *p) noexcept nogil:
    d.bad_ip += p.csum & CSUM_BAD_IP != 0
    d.bad_l4 += p.csum & CSUM_BAD_L4 != 0
    d.partial += p.csum & CSUM_PARTIAL != 0


cdef void without_flow(decoder_t *d, walk_t *w, pkt_t *p, int step) noexcept nogil:
    if step == STEP_BAD:
        if d.checksum == CHECKSUM_VERIFY:
            verify_refused(d.checksum, w, p)
        p.status, p.cause = PKT_MALFORMED, w.cause
        d.by_cause[w.cause] += 1
    elif step == STEP_FRAGMENT:
        p.status = PKT_FRAGMENT
    else:
        p.status = PKT_OTHER
        d.no_link += step == STEP_NO_LINK


cdef inline bint decode_plain(decoder_t *d, pkt_t *p) noexcept nogil:
    """Decode `p` if it is one of the simple packets that most are."""
    if not plain(p, &d.broken_options) and not (may_be_usual(p) and usual(p, &d.broken_options)):
        return False
    if d.checksum:
        verify_plain(d.checksum, p)
        count_checksums(d, p)
    d.by_status[PKT_FLOW] += 1
    return True


cdef int decode_ahead(decoder_t *d, pkt_t *pkts, int n) noexcept nogil:
    """Of a batch, decode what depends on no packet before it: `ahead` says which were. Not what another worker takes.

    How many it leaves for others.
    """
    cdef int i, left = 0
    for i in range(n):
        if pkts[i].ahead != AHEAD_ELSEWHERE:
            pkts[i].ahead = d.plainly and decode_plain(d, &pkts[i])
            left += not pkts[i].ahead
    return left


cdef int decode(decoder_t *d, pkt_t *p) noexcept nogil:
    """Fill every field of `p` from `status` on out of those before it, which the reader has set. Returns p.status.

    What p points to is valid while the frame is and, with `reassembled`, until the next call with this decoder.
    """
    cdef walk_t w
    cdef int step
    if d.plainly and decode_plain(d, p):
        return p.status
    if d.frags.held != NULL:
        frag_release(&d.frags)
    step = decode_walk(d, p, &w, True)
    if step == STEP_FLOW:
        p.key.domain = domain_of(&d.domains, &w)
    return p.status


cdef inline void decode_end(decoder_t *d, pkt_t *p, walk_t *w, int step) noexcept nogil:
    """Fill what is known when the walk has ended, but for the domain, and count."""
    cdef int i
    if step == STEP_FLOW:
        if not p.key.proto:         # plain_inside has not
            name_flow(w, p, p.proto == IPPROTO_TCP or p.proto == IPPROTO_UDP)
        if d.checksum and w.cap == w.len and not verify_bare(w.src, w.dst, w.len, p):
            verify_transport(d.checksum, w.src, w.dst, w.len, p)
    else:
        without_flow(d, w, p, step)
    if d.checksum:
        count_checksums(d, p)
    for i in range(w.tunnels):
        d.by_row[w.rows[i]] += 1
    d.by_status[p.status] += 1


cdef int decode_walk(decoder_t *d, pkt_t *p, walk_t *w, bint whole) noexcept nogil:
    """From header to header; how it ended. All is filled but the domain. `whole` False: it ends before a fragment is taken in."""
    cdef int step
    pkt_clear(p)
    p.csum = CSUM_PARTIAL if p.csum_partial else CSUM_UNKNOWN
    walk_begin(w, p.frame, p.caplen, max(p.caplen, p.wirelen))
    path_begin(w, d.domains.k0, d.domains.k1)
    step = ether(w) if p.linktype == LINKTYPE_ETHERNET else first(w, p.linktype)
    while step < STEP_END:
        w.steps += 1
        if w.steps > MAX_STEPS:
            step = bad(w, BAD_DEPTH)
        elif step == STEP_IP4:
            if d.plainly:
                ip4_tunnels(w, p, d.by_proto, d.max_tunnels, d.checksum)
            step = STEP_FLOW if d.plainly and plain_inside(w, p, &d.broken_options) else ip4(w, p)
            if d.checksum and step <= STEP_FLOW:
                verify_ip4(d.checksum, p)
        elif step == STEP_L4:
            step = transport(d, w, p)
        elif step == STEP_IP6:
            step = ip6(w, p)
        elif step == STEP_DEFRAG and whole:
            step = defrag(d, w, p)
        elif step == STEP_DEFRAG:
            return step
        else:
            step = behind_link(w, step)
    decode_end(d, p, w, step)
    return step


cdef str address_text(const uint8_t *at, int n):
    return str(ipaddress.ip_address(PyBytes_FromStringAndSize(<const char *>at, n)))


cdef dict fields_of(const pkt_t *p):
    """Every decode field as Python sees it: addresses in the packet's own direction, offsets into its bytes."""
    cdef int n = 4 if p.ipver == 4 else 16
    r = {"status": STATUS[p.status], "cause": p.cause, "ipver": p.ipver, "proto": p.proto, "csum": p.csum,
         "reassembled": bool(p.reassembled), "ip": None, "ip_len": p.ip_len, "sport": p.sport, "dport": p.dport,
         "payload_len": p.payload_len}
    if p.ip != NULL:
        r["ip"] = p.ip - p.frame if not p.reassembled else 0
    if p.status != PKT_FLOW:
        return r
    ends = [address_text(p.key.lo_addr, n), address_text(p.key.hi_addr, n)]
    r.update(
        src=ends[p.from_hi], dst=ends[not p.from_hi], from_hi=p.from_hi,
        key=PyBytes_FromStringAndSize(<const char *>&p.key, sizeof(p.key)), domain=p.key.domain, cut=bool(p.cut),
        l4=p.l4 - p.ip, payload=PyBytes_FromStringAndSize(<const char *>p.payload, p.payload_cap),
        payload_at=p.payload - p.ip)
    if p.proto == IPPROTO_TCP:
        r.update(seq=p.seq, ack=p.ack, tcp_flags=p.tcp_flags, wnd=p.wnd, urg=p.urg, opts=p.opts, mss=p.mss,
                 wscale=p.wscale, tsval=p.tsval, tsecr=p.tsecr,
                 sack=[(p.sack[2 * i], p.sack[2 * i + 1]) for i in range(p.nsack)])
    return r


def checksum(bytes data not None):
    """The Internet checksum of some bytes (RFC 1071), as its field holds it."""
    return <uint16_t>~csum_fold(csum_range(<const uint8_t *><const char *>data, <uint32_t>len(data)))


def checksum_update(uint16_t field, uint32_t old, uint32_t new, bint wide=False):
    """A checksum field after a 16-bit word (`wide`: a 32-bit one) became `new` (RFC 1624)."""
    return csum_update32(field, old, new) if wide else csum_update16(field, <uint16_t>old, <uint16_t>new)


cdef int load_key(bytes key, uint64_t *k0, uint64_t *k1) except -1:
    if len(key) != 16:
        raise UsageError(f"hash_key has {len(key)} bytes: give it 16")
    cdef const uint8_t *k = key
    k0[0] = le32(k) | <uint64_t>le32(k + 4) << 32
    k1[0] = le32(k + 8) | <uint64_t>le32(k + 12) << 32
    return 0


def siphash(bytes data not None, bytes key not None):
    """SipHash-1-3 of some bytes under a 16-byte key."""
    cdef uint64_t k0 = 0
    cdef uint64_t k1 = 0
    load_key(key, &k0, &k1)
    return siphash13(<const uint8_t *><const char *>data, len(data), k0, k1)


cdef class Decoder:
    """Settings, tables and counters of the decode stage.

    tunnels: True (all of TUNNELS), False, or names out of it; max_tunnels of them within each other. checksum: "off", "verify",
    or "auto", which forgives sums that were left to a NIC. defrag: reassemble IP fragments; of bytes that IPv4 fragments give
    twice `overlap` keeps the "first" or "last", or refuses the datagram ("drop", as always with IPv6, RFC 5722).
    hash_key: 16 secret bytes. plainly: simple packets take a short way, with the same result.
    """

    def __cinit__(self, *, tunnels=True, checksum="off", bint defrag=True, overlap="first", max_datagrams=MAX_DATAGRAMS,
                  max_fragments=MAX_FRAGMENTS, max_fragment_bytes=MAX_FRAGMENT_BYTES, bytes hash_key not None=bytes(16),
                  bint plainly=True, max_tunnels=MAX_TUNNELS):
        if checksum not in CHECKSUMS:
            raise UsageError(f"checksum={checksum!r}: choose one of {', '.join(CHECKSUMS)}")
        if overlap not in OVERLAPS:
            raise UsageError(f"overlap={overlap!r}: choose one of {', '.join(OVERLAPS)}")
        if not (1 <= max_datagrams <= 1 << 20 and 1 <= max_fragments <= 8192 and 1 << 17 <= max_fragment_bytes <= 1 << 30):
            raise UsageError("fragment bounds: 1 to 2**20 datagrams, 1 to 8192 fragments each, 2**17 to 2**30 bytes")
        if not 1 <= max_tunnels <= MAX_TUNNELS:
            raise UsageError(f"limits.tunnels is {max_tunnels}: choose 1 to {MAX_TUNNELS}, or tunnels=False")
        self.c = <decoder_t *>calloc(1, sizeof(decoder_t))
        if self.c == NULL:
            raise MemoryError
        load_key(hash_key, &self.c.domains.k0, &self.c.domains.k1)
        self.c.frags.k0, self.c.frags.k1 = self.c.domains.k0, self.c.domains.k1
        self.c.checksum, self.c.defrag, self.c.plainly = CHECKSUMS.index(checksum), defrag, plainly
        self.c.frags.policy = (FRAG_FIRST, FRAG_LAST, FRAG_DROP)[OVERLAPS.index(overlap)]
        self.c.frags.max_datagrams, self.c.frags.max_fragments = max_datagrams, max_fragments
        self.c.frags.max_bytes, self.c.max_tunnels = max_fragment_bytes, max_tunnels
        self._open_tunnels(TUNNELS if tunnels is True else tunnels or ())

    def __dealloc__(self):
        if self.c != NULL:
            frag_clear(&self.c.frags)
            domains_free(&self.c.domains)
            free(self.c)

    def _open_tunnels(self, names):
        names = {names} if isinstance(names, str) else set(names)
        unknown = sorted(map(str, names - set(TUNNELS)))
        if unknown:
            raise UsageError(f"unknown tunnel {unknown[0]!r}: choose from {', '.join(TUNNELS)}")
        for i in range(NROWS):
            if (<bytes>ROWS[i].name).decode() not in names:
                continue
            if ROWS[i].via == VIA_PROTO:
                self.c.by_proto[ROWS[i].value] = i + 1
                continue
            self.c.ports[self.c.nports], self.c.port_rows[self.c.nports] = ROWS[i].value, i
            self.c.either[self.c.nports] = ROWS[i].via == VIA_EITHER
            self.c.nports += 1

    def parse(self, bytes frame not None, int linktype=1, int64_t ts=0, wirelen=None):
        """Decode one frame; a dict of what was found. `ts` is in ns since 1970; `wirelen` the bytes it had on the wire."""
        cdef pkt_t p
        cdef size_t n = len(frame)
        cdef uint8_t *copy = <uint8_t *>malloc(n)       # of its exact size: an overrun is an overrun for valgrind too
        if copy == NULL and n:
            raise MemoryError
        try:
            memcpy(copy, <const char *>frame, n)
            p.frame, p.caplen, p.wirelen = copy, n, n if wirelen is None else wirelen
            p.ts, p.linktype, p.csum_partial, p.gso_size = ts, linktype, 0, 0
            with nogil:
                decode(self.c, &p)
            return fields_of(&p)
        finally:
            free(copy)

    def domain(self, uint32_t id):
        """What sets a domain apart: its VLAN ids, outermost first, and its tunnels as text or None.

        ([100], "vxlan:42 10.0.0.1-10.0.0.2"); further tunnels follow outside in, and VLANs inside one as "vlan:7".
        """
        cdef uint32_t n = 0
        cdef const uint8_t *at
        if id == DOMAIN_OVERFLOW:
            return [], "overflow"
        if id > self.c.domains.n:
            raise UsageError(f"no domain {id}: ask with the key's domain of a packet of this decoder")
        if id == 0:
            return [], None
        at = domain_path(&self.c.domains, id, &n)
        return path_text(at, n)

    def counters(self):
        """Counts so far, by name: packets by status, malformed_* by cause, tunnel headers, fragments, checksums, domains."""
        cdef decoder_t *c = self.c
        cdef const held_t *held = c.frags.held
        cdef int nheld = 0
        while held != NULL:
            nheld, held = nheld + 1, held.next
        r = {"packets": sum(c.by_status)}
        r.update((STATUS[i], c.by_status[i]) for i in range(4))
        r.update((f"malformed_{CAUSES[i]}", c.by_cause[i]) for i in range(1, BAD_CAUSES))
        for i in range(NROWS):
            name = f"tunnel_{(<bytes>ROWS[i].name).decode()}"
            r[name] = r.get(name, 0) + c.by_row[i]
        r.update(
            unknown_link_type=c.no_link, broken_tcp_options=c.broken_options, bad_ip_checksum=c.bad_ip,
            bad_transport_checksum=c.bad_l4, partial_checksum=c.partial, fragments=c.frags.fragments,
            fragments_cut=c.cut_fragments, fragments_bad_checksum=c.bad_fragments,
            fragments_duplicate=c.frags.duplicates, fragments_no_memory=c.frags.no_memory,
            datagrams_reassembled=c.frags.completed, datagrams_held=nheld, datagrams_waiting=c.frags.n,
            datagrams_bytes=c.frags.bytes, domains=c.domains.n, domain_overflow=c.domains.overflow)
        r.update((f"datagrams_{CAUSES[i][9:]}", c.frags.refused[i]) for i in range(BAD_FRAGMENT_OVERLAP, BAD_CAUSES))
        return r


cdef str tunnel_text(const uint8_t *at, int n):
    """One tunnel's entry of a path: "name:id lower-higher"."""
    cdef uint32_t id = le32(at + 3)
    number = f":{id}" if at[1] else ""
    return f"{(<bytes>ROWS[at[0]].name).decode()}{number} {address_text(at + 7, n)}-{address_text(at + 7 + n, n)}"


cdef tuple path_text(const uint8_t *at, uint32_t length):
    cdef const uint8_t *end = at + length
    cdef int n
    vlans, tunnels = [], []
    while at < end:
        if at[0] == PATH_VLAN:
            if tunnels:
                tunnels.append(f"vlan:{be16(at + 1)}")
            else:
                vlans.append(be16(at + 1))
            at += 3
        else:
            n = 4 if at[2] == 4 else 16
            tunnels.append(tunnel_text(at, n))
            at += 7 + 2 * n
    return vlans, ", ".join(tunnels) or None
