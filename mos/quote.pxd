# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""ICMP errors about flows that have other names behind us: translated with the packet that they quote (RFC 5508 section 4).

Such an error belongs to the flow it is about, and to no flow of its own; it refreshes nothing. It is named by where it comes
from: the names in the quoted packet are those of that side.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy
from mos.core cimport Core
from mos.flow.flow cimport CLIENT, SERVER, alias_t, flow_name_at, flow_names, flow_t
from mos.flow.rewrite cimport LAST_POSITION, get16, key_make, l4_checksum, mend, put16, set_address
from mos.flow.table cimport table_find
from mos.net.packet cimport (
    CSUM_BAD_IP, CSUM_BAD_L4, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, key_t, pkt_t)

cdef struct quoted_t:       # the packet in an ICMP error, by its distance from the start of the frame
    uint32_t ip
    uint32_t source         # addresses
    uint32_t l4
    uint32_t ports          # two, or an echo's identifier
    uint32_t sum            # transport checksum, 0: it is not in the quotation, or there is none
    uint8_t proto
    uint8_t size            # of an address

cdef inline const uint8_t *name_addr(const key_t *k, uint8_t client_hi, bint client) noexcept nogil:
    return &k.hi_addr[0] if client_hi == client else &k.lo_addr[0]

cdef inline uint16_t name_port(const key_t *k, uint8_t client_hi, bint client) noexcept nogil:
    return k.hi_port if client_hi == client else k.lo_port

cdef inline bint quote_is_error(const pkt_t *p) noexcept nogil:
    """Destination unreachable, packet too big or source quench, time exceeded, parameter problem."""
    if p.proto == IPPROTO_ICMP:
        return p.l4[0] in (3, 4, 11, 12)
    return p.proto == IPPROTO_ICMPV6 and 1 <= p.l4[0] <= 4

cdef inline bint quote_parse(const pkt_t *p, quoted_t *q) noexcept nogil:
    """The first fragment's header and eight bytes behind it must be there (RFC 792)."""
    cdef const uint8_t *ip = p.payload
    cdef uint32_t header, sum_at
    q.ip = <uint32_t>(ip - p.frame)
    if p.proto == IPPROTO_ICMP:
        header = (ip[0] & 15) * 4 if p.payload_cap >= 28 else 0
        if header < 20 or ip[0] >> 4 != 4 or p.payload_cap < header + 8 or get16(ip + 6) & 0x1fff:
            return False
        q.proto, q.size, q.source = ip[9], 4, q.ip + 12
    else:
        header = 40
        if p.payload_cap < 48 or ip[0] >> 4 != 6:
            return False
        q.proto, q.size, q.source = ip[6], 16, q.ip + 8
    q.l4 = q.ports = q.ip + header
    if q.proto == IPPROTO_TCP or q.proto == IPPROTO_UDP:
        sum_at = 16 if q.proto == IPPROTO_TCP else 6
    elif q.proto == p.proto and ip[header] in (0, 8, 128, 129):
        sum_at = 2
        q.ports += 4
    else:
        return False
    q.sum = q.l4 + sum_at if p.payload_cap >= header + sum_at + 2 else 0
    if q.proto == IPPROTO_UDP and q.size == 4 and get16(ip + header + 6) == 0:
        q.sum = 0
    return True

cdef inline flow_t *quote_flow(Core k, const pkt_t *p, int *s) noexcept nogil:
    """The flow with other names that an ICMP error is about, NULL if there is none; `s`: whose side the error comes from."""
    cdef quoted_t q
    cdef key_t key
    cdef uint8_t[32] ends
    cdef const alias_t *via = NULL
    cdef flow_t *f
    cdef uint32_t i
    cdef uint16_t source, target
    if p.csum & (CSUM_BAD_IP | CSUM_BAD_L4) or not quote_is_error(p) or not quote_parse(p, &q):
        return NULL
    for i in range(32):
        ends[i] = 0
    memcpy(ends, p.frame + q.source, q.size)
    memcpy(ends + 16, p.frame + q.source + q.size, q.size)
    source = target = get16(p.frame + q.ports)
    if q.proto == IPPROTO_TCP or q.proto == IPPROTO_UDP:
        target = get16(p.frame + q.ports + 2)
    key_make(&key, &p.key, ends, source, ends + 16, target)
    key.proto = q.proto
    f = table_find(k.table, &key, &via)
    if f == NULL or flow_names(f) == NULL:
        return NULL
    s[0] = CLIENT if via == NULL else SERVER
    return f

cdef inline void quote_patch(uint8_t *csum, uint8_t *at, const uint8_t *new, uint32_t n) noexcept nogil:
    """Other bytes in the quotation: the error's own checksum covers them."""
    mend(csum, at, new, n)
    memcpy(at, new, n)

cdef inline void quote_put(uint8_t *out, const pkt_t *p, const quoted_t *q, uint32_t at, const uint8_t *new, uint32_t n,
                           bint address) noexcept nogil:
    """One name in the quoted packet, and the checksums there that cover it."""
    cdef uint8_t *csum = l4_checksum(out, p)
    cdef uint8_t[2] inner
    if memcmp(out + at, new, n) == 0:
        return
    if address and q.size == 4:
        memcpy(inner, out + q.ip + 10, 2)
        mend(inner, out + at, new, n)
        quote_patch(csum, out + q.ip + 10, inner, 2)
    if q.sum and not (address and q.proto == IPPROTO_ICMP):
        memcpy(inner, out + q.sum, 2)
        mend(inner, out + at, new, n)
        quote_patch(csum, out + q.sum, inner, 2)
    quote_patch(csum, out + at, new, n)

cdef inline void quote_rewrite(uint8_t *out, const pkt_t *p, const flow_t *f, int s) noexcept nogil:
    """Name the ends as the side that the error goes to knows them, in the error and in what it quotes.

    Who reports is renamed if it is the quoted packet's receiver, or stands behind the same name as it.
    """
    cdef uint8_t near_hi = 0, far_hi = 0
    cdef const key_t *near = flow_name_at(f, 0 if s == CLIENT else LAST_POSITION, &near_hi)
    cdef const key_t *far = flow_name_at(f, LAST_POSITION if s == CLIENT else 0, &far_hi)
    cdef quoted_t q
    cdef uint8_t[2] port
    cdef int client = s == CLIENT       # the quoted packet went to the client
    cdef const uint8_t *source = name_addr(far, far_hi, not client)
    cdef const uint8_t *target = name_addr(far, far_hi, client)
    if not quote_parse(p, &q):
        return
    set_address(out, p, 0, source)
    if client or memcmp(p.ip + (12 if q.size == 4 else 8), name_addr(near, near_hi, client), q.size) == 0:
        set_address(out, p, 1, target)
    quote_put(out, p, &q, q.source, source, q.size, 1)
    quote_put(out, p, &q, q.source + q.size, target, q.size, 1)
    put16(port, name_port(far, far_hi, not client))
    quote_put(out, p, &q, q.ports, port, 2, 0)
    if q.proto == IPPROTO_TCP or q.proto == IPPROTO_UDP:
        put16(port, name_port(far, far_hi, client))
        quote_put(out, p, &q, q.ports + 2, port, 2, 0)
