# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Parsing pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng) from bytes in memory: record and block
headers, walked in place. No length is believed before it was checked."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset
from mos.io.aside cimport ASIDE, aside_read, aside_stays, aside_t
from mos.io.scout cimport call_ahead, trail_t
from mos.net.packet cimport pkt_t, prefetch

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint16_t mos_rd16(const uint8_t *p, int swap) {
        uint16_t v; memcpy(&v, p, 2); return swap ? __builtin_bswap16(v) : v;
    }
    static inline uint32_t mos_rd32(const uint8_t *p, int swap) {
        uint32_t v; memcpy(&v, p, 4); return swap ? __builtin_bswap32(v) : v;
    }
    static inline uint64_t mos_rd64(const uint8_t *p, int swap) {
        uint64_t v; memcpy(&v, p, 8); return swap ? __builtin_bswap64(v) : v;
    }
    /* (ts * mul / div) >> shift nanoseconds, moved by `offset` seconds: exact, then clamped to 2**62 (the year 2116),
       so that a damaged time plus any interval still fits. */
    static inline int64_t mos_to_ns(uint64_t ts, uint64_t mul, uint64_t div, int shift, int64_t offset) {
        unsigned __int128 v = (unsigned __int128)(div == 1 ? ts : ts / div) * mul >> shift;
        __int128 t = (__int128)v + (__int128)offset * 1000000000;
        const int64_t most = INT64_C(1) << 62;
        return t > most ? most : t < -most ? -most : (int64_t)t;
    }
    """
    uint16_t rd16 "mos_rd16"(const uint8_t *p, bint swap) noexcept nogil
    uint32_t rd32 "mos_rd32"(const uint8_t *p, bint swap) noexcept nogil
    uint64_t rd64 "mos_rd64"(const uint8_t *p, bint swap) noexcept nogil
    int64_t to_ns "mos_to_ns"(uint64_t ts, uint64_t mul, uint64_t div, int shift, int64_t offset) noexcept nogil

# libpcap's and Wireshark's bound on one packet; a longer claim is damage. D-Bus messages, USB transfers and EBHSCR
# records have no such frame and may be 128 MiB.
cdef enum:
    MAX_CAPLEN = 262144
    MAX_CAPLEN_BIG = 134217728

cdef inline uint32_t max_caplen(uint16_t linktype) noexcept nogil:
    if linktype == 231 or linktype == 249 or linktype == 279:
        return MAX_CAPLEN_BIG
    return MAX_CAPLEN

cdef enum:                  # what is wrong: reader_t.why; the texts are in pcap.pyx
    WHY_NOT = 0
    WHY_CUT, WHY_TOO_LONG, WHY_BLOCK, WHY_TRAILER, WHY_OPTION, WHY_IFACE, WHY_BYTE_ORDER, WHY_VERSION
    WHY_TSRESOL, WHY_MANY, WHY_MEMORY, WHY_ERRNO, WHY_FAILURE

# One capture interface. A classic pcap has one, made from its file header.
cdef struct iface_t:
    uint16_t linktype
    uint8_t  tsresol        # if_tsresol as written
    uint32_t section        # ordinal of its section, from 0
    uint32_t snaplen        # 0: unlimited
    uint32_t max_caplen
    uint64_t mul            # time: see to_ns
    uint64_t div
    int      shift
    int64_t  offset         # if_tsoffset, seconds
    char     name[64]       # if_name, cut to fit, NUL-terminated

# What is parsed: bytes [cur, end) of an input whose byte `start` is base[0].
cdef struct reader_t:
    const uint8_t *base
    const uint8_t *cur
    const uint8_t *end
    uint64_t start
    uint64_t packets        # delivered so far
    aside_t *aside          # where what other workers take goes; NULL: there are none
    uint64_t need           # bytes from `cur` on, without which parsing cannot go on
    bint     swap           # the input's byte order is not ours
    trail_t  trail
    # classic pcap
    uint32_t header         # bytes of a record header: 16, or 24 in Kuznetzov's variant
    uint32_t fraction       # ns in one unit of the sub-second field
    uint16_t minor
    uint16_t lengths        # LENGTHS_*
    # pcapng
    iface_t *ifaces         # of all sections
    uint32_t nifaces
    uint32_t first_iface    # of the present section
    uint32_t room
    uint32_t sections
    char     writer[32]     # shb_userappl of the present section, cut to fit
    int64_t  last_ts
    uint32_t offloads       # packets with an offload state
    uint32_t of             # epb_queue of the packet in hand
    uint32_t queue          # whose packets and ticks are wanted
    uint32_t queues         # of so many; 0: all are
    # damage: WHY_*, the byte it was found at, and two numbers for the text
    int      why
    uint64_t at
    uint64_t got
    uint64_t limit

ctypedef int (*parse_t)(reader_t *r, pkt_t *pkts, int n) noexcept nogil

cdef enum:
    PCAP_US = 0xa1b2c3d4
    PCAP_NS = 0xa1b23c4d
    PCAP_KUZNETZOV = 0xa1b2cd34

cdef enum:                  # block types
    SECTION = 0x0a0d0d0a
    INTERFACE = 1
    PACKET = 2              # obsolete
    SIMPLE = 3
    STATISTICS = 5
    ENHANCED = 6
    CUSTOM = 0xbad
    BYTE_ORDER = 0x1a2b3c4d

# What our recordings of live runs hold beyond packets. The enterprise number is the one for examples (RFC 5612).
cdef enum:
    ENTERPRISE = 32473
    TICK_BLOCK = 1          # custom block: enterprise, this, the time in ns as two words, the upper first, and whose it is
    COPY_BLOCK = 2          # enterprise, this, and the block of a fragment that another worker than the first had a copy of
    OPTION_QUEUE = 6        # epb_queue of a packet: which worker took it
    OPTION_CUSTOM = 2989    # of a packet: enterprise, gso_size (16 bits), gso_type, csum_partial

cdef enum:                  # which of a record's two lengths is the captured one
    LENGTHS_PLAIN           # the first (version 2.4)
    LENGTHS_SWAPPED         # the second (before 2.3, and DG/UX's 543.0)
    LENGTHS_SMALLER         # 2.3: written both ways, so the smaller

cdef enum:
    # Wireshark's bound on one block: the longest packet and 128 KiB of options.
    MAX_BLOCK = 32 + MAX_CAPLEN_BIG + 131072
    # pkt_t.iface has 16 bits.
    MAX_IFACES = 65536

cdef inline uint32_t pad4(uint32_t n) noexcept nogil:
    """n rounded up to a multiple of 4; 0 where that does not fit."""
    return (n + 3) & ~<uint32_t>3

cdef inline int damage(reader_t *r, int why, uint64_t got, uint64_t limit) noexcept nogil:
    r.why, r.got, r.limit = why, got, limit
    r.at = r.start + <uint64_t>(r.cur - r.base)
    return -1

cdef inline iface_t *new_iface(reader_t *r) noexcept nogil:
    cdef uint32_t room
    cdef void *p
    if r.nifaces == r.room:
        room = r.room * 2 if r.room else 4
        p = realloc(r.ifaces, room * sizeof(iface_t))
        if p == NULL:
            return NULL
        r.ifaces, r.room = <iface_t *>p, room
    memset(&r.ifaces[r.nifaces], 0, sizeof(iface_t))
    return &r.ifaces[r.nifaces]

cdef inline int open_classic(reader_t *r) noexcept nogil:
    """The 24 bytes at `cur`: 0, or -1 with `why`."""
    cdef const uint8_t *p = r.cur
    cdef uint32_t magic = rd32(p, False)
    cdef iface_t *iface
    cdef uint16_t major
    r.swap = magic != PCAP_US and magic != PCAP_NS and magic != PCAP_KUZNETZOV
    magic = rd32(p, r.swap)
    major, r.minor = rd16(p + 4, r.swap), rd16(p + 6, r.swap)
    if major != 2 and major != 543:
        return damage(r, WHY_VERSION, major, r.minor)
    r.lengths = LENGTHS_PLAIN
    if major == 543 or r.minor < 3:
        r.lengths = LENGTHS_SWAPPED
    elif r.minor == 3:
        r.lengths = LENGTHS_SMALLER
    iface = new_iface(r)
    if iface == NULL:
        return damage(r, WHY_MEMORY, sizeof(iface_t), 0)
    r.header = 24 if magic == PCAP_KUZNETZOV else 16
    r.fraction = 1 if magic == PCAP_NS else 1000
    # The upper half holds the length of a trailing FCS, not a type.
    iface.linktype = <uint16_t>rd32(p + 20, r.swap)
    iface.snaplen = rd32(p + 16, r.swap)
    iface.tsresol = 9 if magic == PCAP_NS else 6
    iface.max_caplen = max_caplen(iface.linktype)
    r.nifaces = 1
    r.cur += 24
    return 0

cdef inline bint usual(const reader_t *r) noexcept nogil:
    """A pcap as most are: lengths as they should be, in our byte order, and all packets are ours."""
    return r.aside == NULL and not r.swap and r.lengths == LENGTHS_PLAIN

cdef inline int parse_usual(reader_t *r, pkt_t *pkts, int n) noexcept nogil:
    """Up to n packets, in a loop that such captures never leave while records are whole. Their lines were called for (scout_on)."""
    cdef int i = 0
    cdef uint32_t cap, most = r.ifaces.max_caplen, header = r.header, fraction = r.fraction
    cdef uint16_t linktype = r.ifaces.linktype
    cdef uint64_t number = r.packets
    cdef const uint8_t *p = r.cur
    cdef const uint8_t *end = r.end
    cdef pkt_t *k = pkts
    while i < n and end - p >= header:
        cap = rd32(p + 8, False)
        if cap > most or end - p - header < <int64_t>cap:
            break
        number += 1
        k.ts = <int64_t>rd32(p, False) * 1000000000 + <int64_t>rd32(p + 4, False) * fraction
        k.frame, k.caplen, k.wirelen, k.number = p + header, cap, rd32(p + 12, False), number
        k.linktype, k.iface = linktype, 0
        p += header + cap
        k += 1
        i += 1
    r.cur, r.packets = p, number
    return i

cdef inline int parse_classic(reader_t *r, pkt_t *pkts, int n) noexcept nogil:
    """Up to n packets. Fewer: it takes `need` bytes to go on, or `why` says what is damaged, or there is no more room aside."""
    cdef int i = parse_usual(r, pkts, n) if usual(r) else 0
    cdef uint32_t cap, wire, most = r.ifaces.max_caplen, header = r.header
    cdef uint16_t linktype = r.ifaces.linktype
    cdef bint swap = r.swap
    cdef const uint8_t *p = r.cur
    cdef const uint8_t *end = r.end
    cdef pkt_t *k
    while i < n and (r.aside == NULL or r.aside.n < ASIDE):
        r.cur = p
        if end - p < header:
            r.need = header
            return i
        cap, wire = rd32(p + 8, swap), rd32(p + 12, swap)
        if r.lengths == LENGTHS_SWAPPED or (r.lengths == LENGTHS_SMALLER and cap > wire):
            cap, wire = wire, cap
        if cap > most:
            damage(r, WHY_TOO_LONG, cap, most)
            return i
        if end - p - header < <int64_t>cap:
            r.need = header + cap
            return i
        # Decoding starts with the first two cache lines of the frame; the first came with the header.
        prefetch(p + 64)
        call_ahead(&r.trail, p, p + header + cap)
        k = &pkts[i]
        k.ts = <int64_t>rd32(p, swap) * 1000000000 + <int64_t>rd32(p + 4, swap) * r.fraction
        p += header
        k.frame = p
        k.caplen = cap
        k.wirelen = wire
        r.packets += 1
        k.number = r.packets
        k.linktype = linktype
        k.iface = 0
        p += cap
        i += r.aside == NULL or aside_stays(r.aside, k, i)
    r.cur = p
    return i

cdef inline bint options_fit(const uint8_t *p, uint32_t n, bint swap) noexcept nogil:
    """Whether each option lies within its n bytes, up to opt_endofopt."""
    cdef uint32_t length
    while n:
        if n < 4:
            return False
        length = pad4(rd16(p + 2, swap))
        if length > n - 4:
            return False
        if rd16(p, swap) == 0:
            return True
        p += 4 + length
        n -= 4 + length
    return True

cdef inline int set_resolution(iface_t *iface, uint8_t tsresol) noexcept nogil:
    """if_tsresol: a power of 10, or of 2 with the top bit set. -1: too fine for 64 bits."""
    cdef int e = tsresol & 0x7f
    cdef int _
    iface.tsresol = tsresol
    iface.mul, iface.div, iface.shift = 1, 1, 0
    if tsresol & 0x80:
        iface.mul, iface.shift = 1000000000, e
        return 0 if e <= 63 else -1
    for _ in range(e, 9):
        iface.mul *= 10
    if e > 19:
        return -1
    for _ in range(9, e):
        iface.div *= 10
    return 0

cdef inline int read_interface(reader_t *r, uint32_t length) noexcept nogil:
    cdef const uint8_t *p = r.cur
    cdef uint32_t n = length - 20, size, k
    cdef iface_t *iface
    if length < 20:
        return damage(r, WHY_BLOCK, length, 0)
    if not options_fit(p + 16, n, r.swap):
        return damage(r, WHY_OPTION, 0, 0)
    if r.nifaces == MAX_IFACES:
        return damage(r, WHY_MANY, 0, MAX_IFACES)
    iface = new_iface(r)
    if iface == NULL:
        return damage(r, WHY_MEMORY, r.room * sizeof(iface_t), 0)
    iface.linktype = rd16(p + 8, r.swap)
    iface.snaplen = rd32(p + 12, r.swap)
    iface.max_caplen = max_caplen(iface.linktype)
    iface.section = r.sections - 1
    set_resolution(iface, 6)
    p += 16
    while n >= 4 and rd16(p, r.swap) != 0:
        size = rd16(p + 2, r.swap)
        k = rd16(p, r.swap)
        if k == 9 and size == 1 and set_resolution(iface, p[4]) < 0:
            return damage(r, WHY_TSRESOL, p[4] & 0x7f, 2 if p[4] & 0x80 else 10)
        if k == 14 and size == 8:
            iface.offset = <int64_t>rd64(p + 4, r.swap)
        if k == 2:
            memcpy(iface.name, p + 4, min(size, sizeof(iface.name) - 1))
        size = 4 + pad4(size)
        p += size
        n -= size
    r.nifaces += 1
    return 0

cdef inline void read_writer(reader_t *r, const uint8_t *p, uint32_t n) noexcept nogil:
    """The program that wrote a section (shb_userappl), among its options, which fit."""
    cdef uint32_t length
    while n >= 4 and rd16(p, r.swap) != 0:
        length = rd16(p + 2, r.swap)
        if rd16(p, r.swap) == 4:
            memset(r.writer, 0, sizeof(r.writer))
            memcpy(r.writer, p + 4, min(length, sizeof(r.writer) - 1))
        length = 4 + pad4(length)
        p += length
        n -= length

cdef inline int read_section(reader_t *r) noexcept nogil:
    """A Section Header Block, whose length can be read only once its byte order is known. 1: done, 0: `need`."""
    cdef uint32_t magic = rd32(r.cur + 8, False)
    cdef bint swap = magic != BYTE_ORDER
    cdef uint32_t length = pad4(rd32(r.cur + 4, swap))
    cdef uint16_t major, minor
    if rd32(r.cur + 8, swap) != BYTE_ORDER:
        return damage(r, WHY_BYTE_ORDER, magic, 0)
    if length < 28 or length > MAX_BLOCK:
        return damage(r, WHY_BLOCK, length, 0)
    if r.end - r.cur < length:
        r.need = length
        return 0
    major, minor = rd16(r.cur + 12, swap), rd16(r.cur + 14, swap)
    # 1.2 is 1.0 with more block types (draft-ietf-opsawg-pcapng section 4.1).
    if major != 1 or (minor != 0 and minor != 2):
        return damage(r, WHY_VERSION, major, minor)
    if not options_fit(r.cur + 24, length - 28, swap):
        return damage(r, WHY_OPTION, 0, 0)
    if pad4(rd32(r.cur + length - 4, swap)) != length:
        return damage(r, WHY_TRAILER, length, rd32(r.cur + length - 4, swap))
    r.swap = swap
    read_writer(r, r.cur + 24, length - 28)
    r.first_iface = r.nifaces
    r.sections += 1
    r.cur += length
    return 1

cdef inline void read_options(reader_t *r, const uint8_t *p, uint32_t n, pkt_t *k) noexcept nogil:
    """Offload state and worker among a packet's options, which fit."""
    cdef uint32_t length
    while n >= 4 and rd16(p, r.swap) != 0:
        length = rd16(p + 2, r.swap)
        if rd16(p, r.swap) == OPTION_CUSTOM and length == 8 and rd32(p + 4, r.swap) == ENTERPRISE:
            k.gso_size, k.gso_type, k.csum_partial = rd16(p + 8, r.swap), p[10], p[11] != 0
            r.offloads += 1
        elif rd16(p, r.swap) == OPTION_QUEUE and length == 4:
            r.of = rd32(p + 4, r.swap)
        length = 4 + pad4(length)
        p += length
        n -= length

cdef inline int read_tick(reader_t *r, uint32_t length, pkt_t *k) noexcept nogil:
    """1: a custom block says how late it was when nothing came. 0: it is something else, or another worker's."""
    cdef const uint8_t *p = r.cur
    if length < 28 or rd32(p + 8, r.swap) != ENTERPRISE or rd32(p + 12, r.swap) != TICK_BLOCK:
        return 0
    if r.queues and length >= 32 and rd32(p + 24, r.swap) != r.queue:
        return 0
    memset(k, 0, sizeof(pkt_t))
    k.ts = to_ns(<uint64_t>rd32(p + 16, r.swap) << 32 | rd32(p + 20, r.swap), 1, 1, 0, 0)
    return 1

cdef inline int read_packet(reader_t *r, uint32_t kind, uint32_t length, pkt_t *k) noexcept nogil:
    """An Enhanced, Simple or obsolete Packet Block: 1 and k is filled, or as `damage`."""
    cdef const uint8_t *p = r.cur
    cdef bint swap = r.swap
    cdef uint32_t iface = 0, cap, head = 12 if kind == SIMPLE else 28
    cdef iface_t *f
    if length < head + 4:
        return damage(r, WHY_BLOCK, length, 0)
    if kind == ENHANCED:
        iface = rd32(p + 8, swap)
    elif kind == PACKET:
        iface = rd16(p + 8, swap)
    if iface >= r.nifaces - r.first_iface:
        return damage(r, WHY_IFACE, iface, r.nifaces - r.first_iface)
    iface += r.first_iface
    f = &r.ifaces[iface]
    if kind == SIMPLE:
        k.wirelen = rd32(p + 8, swap)
        cap = k.wirelen if f.snaplen == 0 else min(k.wirelen, f.snaplen)
    else:
        cap, k.wirelen = rd32(p + 20, swap), rd32(p + 24, swap)
        r.last_ts = to_ns(<uint64_t>rd32(p + 12, swap) << 32 | rd32(p + 16, swap), f.mul, f.div, f.shift, f.offset)
    if cap > f.max_caplen:
        return damage(r, WHY_TOO_LONG, cap, f.max_caplen)
    length -= head + 4
    if pad4(cap) > length:
        return damage(r, WHY_TOO_LONG, cap, length)
    length -= pad4(cap)
    if length and kind != SIMPLE and not options_fit(p + head + pad4(cap), length, swap):
        return damage(r, WHY_OPTION, 0, 0)
    k.gso_size = k.gso_type = k.csum_partial = 0
    r.of = 0
    if length and kind == ENHANCED:
        read_options(r, p + head + pad4(cap), length, k)
    prefetch(p + 64)
    k.frame = p + head
    k.caplen = cap
    # A Simple Packet Block has no time: no packet goes back to 1970 for it.
    k.ts = r.last_ts
    r.packets += 1
    k.number = r.packets
    k.linktype = f.linktype
    k.iface = <uint16_t>iface
    return 1

cdef inline bint wanted(reader_t *r, pkt_t *k) noexcept nogil:
    """The packet is that worker's, and gets the number it had there; else it is as if it were not in the file."""
    if r.of != r.queue:
        r.packets -= 1
        return False
    k.number = r.queue + r.packets * r.queues
    return True

cdef inline int read_copy(reader_t *r, uint32_t length, pkt_t *k) noexcept nogil:
    """1: a custom block has a fragment of which the worker wanted had a copy. 0: it is something else, -1: damaged."""
    cdef int got
    if length < 20 or rd32(r.cur + 8, r.swap) != ENTERPRISE or rd32(r.cur + 12, r.swap) != COPY_BLOCK or not r.queues:
        return 0
    r.cur += 16
    got = read_packet(r, ENHANCED, length - 20, k)
    r.cur -= 16
    return wanted(r, k) if got > 0 else got

cdef inline int parse_blocks(reader_t *r, pkt_t *pkts, int n) noexcept nogil:
    """As parse_classic. With n 0 it reads on to the first packet or tick: which interfaces there are."""
    cdef int i = 0, got
    cdef uint32_t kind, length
    while (i < n and (r.aside == NULL or r.aside.n < ASIDE)) or n == 0:
        r.need = 12
        if r.end - r.cur < 12:
            break
        kind = rd32(r.cur, r.swap)
        if kind == SECTION:
            if read_section(r) != 1:
                break
            continue
        # Some writers leave the padding out of both lengths.
        length = pad4(rd32(r.cur + 4, r.swap))
        if length < 12 or length > MAX_BLOCK:
            damage(r, WHY_BLOCK, rd32(r.cur + 4, r.swap), 0)
            break
        if r.end - r.cur < length:
            r.need = length
            break
        if pad4(rd32(r.cur + length - 4, r.swap)) != length:
            damage(r, WHY_TRAILER, length, rd32(r.cur + length - 4, r.swap))
            break
        if kind == ENHANCED or kind == SIMPLE or kind == PACKET:
            if n == 0 or read_packet(r, kind, length, &pkts[i]) < 0:
                break
            call_ahead(&r.trail, r.cur, r.cur + length)
            if r.queues:
                i += wanted(r, &pkts[i])
            else:
                i += r.aside == NULL or aside_stays(r.aside, &pkts[i], i)
        elif kind == CUSTOM and length >= 16 and rd32(r.cur + 8, r.swap) == ENTERPRISE:
            if n == 0:
                break
            got = read_tick(r, length, &pkts[i])
            if got and r.aside != NULL:
                aside_read(r.aside, pkts[i].ts, i + 1)
            elif not got:
                got = read_copy(r, length, &pkts[i])
            if got < 0:
                break
            i += got
        elif kind == INTERFACE:
            if read_interface(r, length) < 0:
                break
        elif kind == STATISTICS and (length < 24 or not options_fit(r.cur + 20, length - 24, r.swap)):
            damage(r, WHY_OPTION, 0, 0)
            break
        r.cur += length
    return i
