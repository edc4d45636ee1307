# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Link layers: from the first byte of a frame to its network header. Each returns the next STEP_*."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from mos.net.bytes cimport be16, be32, le32
from mos.net.walk cimport (BAD_DEPTH, BAD_LINK, MAX_LABELS, MAX_TAGS, STEP_ETHER, STEP_HDLC, STEP_IP, STEP_IP4, STEP_IP6,
                           STEP_LLC, STEP_MPLS, STEP_OTHER, STEP_PPP, STEP_PPPOE, STEP_TYPE, bad, path_vlan, short_of,
                           skip, trim, walk_t)

cdef enum:              # https://www.tcpdump.org/linktypes.html
    LINKTYPE_NULL = 0
    LINKTYPE_ETHERNET = 1
    LINKTYPE_PPP = 9
    LINKTYPE_PPP_HDLC = 50
    LINKTYPE_PPP_ETHER = 51
    LINKTYPE_RAW = 101
    LINKTYPE_C_HDLC = 104
    LINKTYPE_80211 = 105
    LINKTYPE_LOOP = 108
    LINKTYPE_SLL = 113
    LINKTYPE_PRISM = 119
    LINKTYPE_RADIOTAP = 127
    LINKTYPE_AVS = 163
    LINKTYPE_PPP_WITH_DIR = 204
    LINKTYPE_IPV4 = 228
    LINKTYPE_IPV6 = 229
    LINKTYPE_SLL2 = 276

cdef enum:
    ETHERTYPE_LENGTH_MAX = 1500     # at most this: an 802.3 length, LLC follows
    ETHERTYPE_IP4 = 0x0800
    ETHERTYPE_ARP = 0x0806
    ETHERTYPE_TEB = 0x6558          # transparent Ethernet bridging
    ETHERTYPE_VLAN = 0x8100
    ETHERTYPE_IP6 = 0x86dd
    ETHERTYPE_PPP = 0x880b
    ETHERTYPE_MPLS = 0x8847
    ETHERTYPE_MPLS_MC = 0x8848
    ETHERTYPE_PPPOE = 0x8864
    ETHERTYPE_QINQ = 0x88a8
    ETHERTYPE_QINQ_OLD = 0x9100

cdef inline bint is_vlan(uint16_t type) noexcept nogil:
    return type == ETHERTYPE_VLAN or type == ETHERTYPE_QINQ or type == ETHERTYPE_QINQ_OLD

cdef inline int by_type(walk_t *w) noexcept nogil:
    """Behind an EtherType; VLAN tags are read here (IEEE 802.1Q 9.6)."""
    cdef uint16_t type = w.type
    cdef int tags = 0
    while is_vlan(type):
        if w.cap < 4:
            return short_of(w, 4, BAD_LINK)
        tags += 1
        if tags > MAX_TAGS or not path_vlan(w, be16(w.p) & 0x0fff):
            return bad(w, BAD_DEPTH)
        type = be16(w.p + 2)
        skip(w, 4)
    w.type = type
    if type == ETHERTYPE_IP4:
        return STEP_IP4
    if type == ETHERTYPE_IP6:
        return STEP_IP6
    if type <= ETHERTYPE_LENGTH_MAX:
        trim(w, type)
        return STEP_LLC
    if type == ETHERTYPE_MPLS or type == ETHERTYPE_MPLS_MC:
        return STEP_MPLS
    if type == ETHERTYPE_PPPOE:
        return STEP_PPPOE
    if type == ETHERTYPE_TEB:
        return STEP_ETHER
    if type == ETHERTYPE_PPP:
        return STEP_PPP
    return STEP_OTHER

cdef inline int ether(walk_t *w) noexcept nogil:
    if w.cap < 14:
        return short_of(w, 14, BAD_LINK)
    w.type = be16(w.p + 12)
    skip(w, 14)
    return by_type(w)

cdef inline int llc(walk_t *w) noexcept nogil:
    """802.2 with SNAP (RFC 1042), or the reserved SAP of IP."""
    if w.cap < 3:
        return short_of(w, 3, BAD_LINK)
    if w.p[0] == 0x06 and w.p[1] == 0x06 and w.p[2] == 0x03:
        skip(w, 3)
        return STEP_IP4
    if w.p[0] != 0xaa or w.p[1] != 0xaa or w.p[2] != 0x03:
        return STEP_OTHER
    if w.cap < 8:
        return short_of(w, 8, BAD_LINK)
    cdef uint32_t oui = be32(w.p + 2) & 0xffffff
    if oui != 0 and oui != 0x0000f8:    # RFC 1042; 802.1H bridge-tunnel
        return STEP_OTHER
    w.type = be16(w.p + 6)
    skip(w, 8)
    return STEP_TYPE if w.type > ETHERTYPE_LENGTH_MAX else STEP_OTHER

cdef inline int ppp(walk_t *w) noexcept nogil:
    """PPP, with or without HDLC address and control, protocol field compressed or not (RFC 1661 2, RFC 1662 3.1)."""
    if w.cap >= 2 and w.p[0] == 0xff and w.p[1] == 0x03:
        skip(w, 2)
    if w.cap < 1:
        return short_of(w, 1, BAD_LINK)
    cdef uint16_t proto = w.p[0]
    if proto & 1:
        skip(w, 1)
    else:
        if w.cap < 2:
            return short_of(w, 2, BAD_LINK)
        proto = be16(w.p)
        skip(w, 2)
    if proto == 0x0021:
        return STEP_IP4
    if proto == 0x0057:
        return STEP_IP6
    if proto == 0x0281 or proto == 0x0283:
        return STEP_MPLS
    return STEP_OTHER

cdef inline int pppoe(walk_t *w) noexcept nogil:
    """A PPPoE session (RFC 2516 4): its length cuts off the Ethernet padding."""
    if w.cap < 6:
        return short_of(w, 6, BAD_LINK)
    cdef uint32_t length = be16(w.p + 4)
    if w.p[0] != 0x11 or length > w.len - 6:
        return bad(w, BAD_LINK)
    if w.p[1] != 0:                     # discovery
        return STEP_OTHER
    skip(w, 6)
    trim(w, length)
    return STEP_PPP

cdef inline int hdlc(walk_t *w) noexcept nogil:
    """Cisco HDLC: address, control, EtherType."""
    if w.cap < 4:
        return short_of(w, 4, BAD_LINK)
    w.type = be16(w.p + 2)
    skip(w, 4)
    return STEP_TYPE if w.type > ETHERTYPE_LENGTH_MAX else STEP_OTHER

cdef inline int serial(walk_t *w) noexcept nogil:
    """LINKTYPE_PPP_HDLC: PPP, or Cisco HDLC by its unicast and broadcast addresses."""
    if w.cap >= 1 and (w.p[0] == 0x0f or w.p[0] == 0x8f):
        return STEP_HDLC
    return STEP_PPP

cdef inline int with_direction(walk_t *w) noexcept nogil:
    """LINKTYPE_PPP_WITH_DIR: one byte says who sent it."""
    if w.cap < 1:
        return short_of(w, 1, BAD_LINK)
    skip(w, 1)
    return STEP_PPP

cdef inline bint looks_ip(const uint8_t *p, uint32_t cap, uint32_t length) noexcept nogil:
    """Here can be an IP header with its whole datagram. For what has no type field, or one that proves little."""
    if cap >= 20 and p[0] >> 4 == 4:
        return p[0] & 15 >= 5 and be16(p + 2) >= 20 and be16(p + 2) <= length
    return cap >= 40 and p[0] >> 4 == 6 and <uint32_t>be16(p + 4) + 40 <= length

cdef inline bint looks_ether(const uint8_t *p, uint32_t cap, uint32_t length) noexcept nogil:
    """Here can be an Ethernet frame: no group address as its source, a known type, IP that looks right."""
    if cap < 17 or p[6] & 1:
        return False
    cdef uint16_t type = be16(p + 12)
    if type == ETHERTYPE_IP4 or type == ETHERTYPE_IP6:
        return p[14] >> 4 == (4 if type == ETHERTYPE_IP4 else 6) and looks_ip(p + 14, cap - 14, length - 14)
    if type <= ETHERTYPE_LENGTH_MAX:
        return type <= length - 14 and p[16] == 0x03    # LLC's unnumbered information
    return (type == ETHERTYPE_ARP or is_vlan(type) or type == ETHERTYPE_MPLS or type == ETHERTYPE_PPPOE)

cdef inline int mpls(walk_t *w) noexcept nogil:
    """A label stack (RFC 3032). Its end does not say what follows: IP by its looks, else an Ethernet pseudo-wire with or
    without its control word (RFC 4448 4.6)."""
    cdef int labels = 0
    cdef bint bottom = False
    while not bottom:
        labels += 1
        if labels > MAX_LABELS:
            return bad(w, BAD_DEPTH)
        if w.cap < 4:
            return short_of(w, 4, BAD_LINK)
        bottom = w.p[2] & 1
        skip(w, 4)
    if looks_ip(w.p, w.cap, w.len):
        return STEP_IP
    if looks_ether(w.p, w.cap, w.len):
        return STEP_ETHER
    if w.cap >= 4 and w.p[0] >> 4 == 0 and looks_ether(w.p + 4, w.cap - 4, w.len - 4):
        skip(w, 4)
        return STEP_ETHER
    return STEP_IP if w.cap >= 1 and (w.p[0] >> 4 == 4 or w.p[0] >> 4 == 6) else STEP_OTHER

cdef inline int loopback(walk_t *w) noexcept nogil:
    """LINKTYPE_NULL and LOOP: an address family in the byte order of whoever captured."""
    if w.cap < 4:
        return short_of(w, 4, BAD_LINK)
    cdef uint32_t family = be32(w.p)
    if family >> 16:
        family = le32(w.p)
    skip(w, 4)
    if family == 2:
        return STEP_IP4
    # AF_INET6 of Linux, Windows, NetBSD and OpenBSD, FreeBSD, macOS
    if family == 10 or family == 23 or family == 24 or family == 28 or family == 30:
        return STEP_IP6
    return STEP_OTHER

cdef inline int cooked_type(walk_t *w, uint16_t arphrd) noexcept nogil:
    """The protocol field of a Linux cooked header."""
    if arphrd == 824:           # netlink: the field is a netlink family
        return STEP_OTHER
    if w.type == 0x0004:        # an 802.2 header follows
        return STEP_LLC
    return STEP_TYPE if w.type > ETHERTYPE_LENGTH_MAX else STEP_OTHER

cdef inline int sll(walk_t *w) noexcept nogil:
    if w.cap < 16:
        return short_of(w, 16, BAD_LINK)
    cdef uint16_t arphrd = be16(w.p + 2)
    w.type = be16(w.p + 14)
    skip(w, 16)
    return cooked_type(w, arphrd)

cdef inline int sll2(walk_t *w) noexcept nogil:
    if w.cap < 20:
        return short_of(w, 20, BAD_LINK)
    cdef uint16_t arphrd = be16(w.p + 8)
    w.type = be16(w.p)
    skip(w, 20)
    return cooked_type(w, arphrd)
