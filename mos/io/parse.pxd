# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Parsing pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng) from bytes in memory."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from mos.net.packet cimport pkt_t

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
    static inline void mos_prefetch(const void *p) { __builtin_prefetch(p); }
    """
    uint16_t rd16 "mos_rd16"(const uint8_t *p, bint swap) noexcept nogil
    uint32_t rd32 "mos_rd32"(const uint8_t *p, bint swap) noexcept nogil
    uint64_t rd64 "mos_rd64"(const uint8_t *p, bint swap) noexcept nogil
    int64_t to_ns "mos_to_ns"(uint64_t ts, uint64_t mul, uint64_t div, int shift, int64_t offset) noexcept nogil
    void prefetch "mos_prefetch"(const void *p) noexcept nogil

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
    uint64_t need           # bytes from `cur` on, without which parsing cannot go on
    bint     swap           # the input's byte order is not ours
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
    int64_t  last_ts
    # damage: WHY_*, the byte it was found at, and two numbers for the text
    int      why
    uint64_t at
    uint64_t got
    uint64_t limit

ctypedef int (*parse_t)(reader_t *r, pkt_t *pkts, int n) noexcept nogil

cdef int damage(reader_t *r, int why, uint64_t got, uint64_t limit) noexcept nogil
cdef int open_classic(reader_t *r) noexcept nogil
cdef int parse_classic(reader_t *r, pkt_t *pkts, int n) noexcept nogil
cdef int parse_blocks(reader_t *r, pkt_t *pkts, int n) noexcept nogil
