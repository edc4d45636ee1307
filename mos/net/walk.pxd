# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The cursor that goes through a frame header by header. Every parser takes it, checks what is there, and moves it.

`len` is what the headers so far promise, `cap` what the capture holds of that: cap <= len always. A header that does not
fit in `len` is malformed; one that fits in `len` but not in `cap` was cut off by the capture ("truncated").
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from mos.net.bytes cimport put16

cdef extern from *:
    """
    #ifdef __SIZEOF_INT128__
    static inline uint64_t mos_fold(uint64_t a, uint64_t b)
    {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    #else
    static inline uint64_t mos_fold(uint64_t a, uint64_t b) { return a * (b | 1) ^ (a >> 32) * (b >> 32); }
    #endif
    """
    uint64_t path_mix "mos_fold"(uint64_t a, uint64_t b) nogil

cdef enum:              # what comes next
    STEP_ETHER = 0      # an Ethernet header
    STEP_TYPE = 1       # what the EtherType `type` says
    STEP_LLC = 2        # an 802.2 LLC header
    STEP_PPP = 3        # a PPP frame, address and control present or not
    STEP_PPPOE = 4      # a PPPoE session header
    STEP_HDLC = 5       # a Cisco HDLC header
    STEP_WLAN = 6       # an 802.11 header
    STEP_MPLS = 7       # an MPLS label stack
    STEP_IP = 8         # an IP header, its version says which
    STEP_IP4 = 9
    STEP_IP6 = 10
    STEP_L4 = 11        # what the IP protocol number `proto` says
    STEP_DEFRAG = 12    # the payload of the fragment that `frag` describes
    STEP_END = 13       # nothing: from here on how the walk ended
    STEP_FLOW = 13
    STEP_OTHER = 14
    STEP_BAD = 15       # `cause` says why
    STEP_FRAGMENT = 16
    STEP_NO_LINK = 17   # a link type that is not known
    STEP_NOT_IT = 18    # not this tunnel after all: the UDP datagram is a flow's own

cdef enum:              # causes, in the order of events.spec.MALFORMED
    BAD_NONE = 0
    BAD_LINK = 1
    BAD_TRUNCATED = 2
    BAD_IP_VERSION = 3
    BAD_IP_HEADER = 4
    BAD_IP_LENGTH = 5
    BAD_IP_OPTIONS = 6
    BAD_EXTENSION = 7
    BAD_TCP_HEADER = 8
    BAD_UDP_HEADER = 9
    BAD_ICMP_HEADER = 10
    BAD_TUNNEL = 11
    BAD_DEPTH = 12
    BAD_FRAGMENT_OVERLAP = 13
    BAD_FRAGMENT_CAP = 14
    BAD_FRAGMENT_TIMEOUT = 15
    BAD_FRAGMENT_LENGTH = 16
    BAD_CAUSES = 17

cdef enum:
    MAX_STEPS = 40      # headers a frame: the deepest tunnel stack below with VLANs and labels in each layer
    MAX_TUNNELS = 8     # the most that may be asked for (limits.tunnels): a path stays within PATH_MAX
    MAX_LABELS = 16     # MPLS labels in a row; segment routing pushes about ten
    MAX_TAGS = 8        # VLAN tags in a row; 802.1ad uses two, carriers have been seen with four
    PATH_MAX = 400      # MAX_TUNNELS entries of at most 38 bytes, and 32 VLAN tags
    PATH_VLAN = 0xff    # first byte of a VLAN's entry; a tunnel's is its row

cdef struct frag_t:         # one fragment, as its headers describe it
    uint32_t id
    uint32_t offset         # of its first byte in the fragmentable part
    uint32_t header         # bytes before it that belong to the datagram's headers
    uint32_t next_at        # IPv6: where in these the type of the fragmentable part is written
    uint8_t  more           # 1: not the last

cdef struct walk_t:
    const uint8_t *p
    uint32_t cap
    uint32_t len
    const uint8_t *src  # addresses of the innermost IP header; dst is the final one of a routing header
    const uint8_t *dst
    uint16_t type       # EtherType
    uint8_t  proto      # IP protocol
    uint8_t  cause      # BAD_*
    uint8_t  steps
    uint8_t  tunnels
    uint8_t  rows[MAX_TUNNELS + 1]      # of the tunnel table, by tunnel
    frag_t   frag
    uint64_t hash       # of the path so far; path_hash makes it what it is looked for by
    uint64_t secret
    uint16_t npath
    uint8_t  path[PATH_MAX]     # what sets this packet's addresses apart: VLANs and tunnels, outermost first

cdef inline void walk_begin(walk_t *w, const uint8_t *p, uint32_t cap, uint32_t length) noexcept nogil:
    w.p, w.cap, w.len = p, cap, length
    w.steps = w.tunnels = w.proto = 0

cdef inline void skip(walk_t *w, uint32_t n) noexcept nogil:
    w.p += n
    w.cap -= n
    w.len -= n

cdef inline void trim(walk_t *w, uint32_t n) noexcept nogil:
    """What comes next is n bytes long; the rest is padding."""
    if n < w.len:
        w.len = n
        if n < w.cap:
            w.cap = n

cdef inline int bad(walk_t *w, uint8_t cause) noexcept nogil:
    w.cause = cause
    return STEP_BAD

cdef inline int short_of(walk_t *w, uint32_t n, uint8_t cause) noexcept nogil:
    """A header of n bytes is not there: whose fault it is."""
    return bad(w, BAD_TRUNCATED if w.len >= n else cause)

cdef inline void path_begin(walk_t *w, uint64_t k0, uint64_t k1) noexcept nogil:
    """The empty path. (k0, k1): secret, so that nobody can choose paths whose hashes collide.

    Two words are hashed by one multiplication, and while they are in hand. SipHash of the whole took a tenth of such a packet.
    """
    w.npath = 0
    w.hash, w.secret = k0 ^ <uint64_t>0x243f6a8885a308d3, k1 ^ <uint64_t>0x13198a2e03707344     # digits of pi: no key is weak

cdef inline uint32_t path_hash(const walk_t *w) noexcept nogil:
    """The path's hash. Mixed once more: paths that differ in one word alone, by one each, else lie in a row."""
    return <uint32_t>path_mix(w.hash, w.secret)

cdef inline bint path_vlan(walk_t *w, uint16_t vid) noexcept nogil:
    """Note a VLAN. False if the path is full. VLAN 0 is a priority tag and sets nothing apart (802.1Q)."""
    cdef uint8_t *at
    if vid == 0:
        return True
    if w.npath + 3 > PATH_MAX:
        return False
    at = w.path + w.npath
    at[0] = PATH_VLAN
    put16(at + 1, vid)
    w.npath += 3
    w.hash = path_mix(w.hash ^ (PATH_VLAN | <uint32_t>vid << 8), w.secret)
    return True
