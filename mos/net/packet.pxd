# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One packet on its way through the stack: what the reader says of it, then what decode found."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    /* The empty statement is an effect: GCC takes a function that only prefetches for one without any, and drops its calls. */
    static inline void mos_prefetch(const void *p) { __builtin_prefetch(p); __asm__ volatile("" : : "r"(p)); }
    """
    void prefetch "mos_prefetch"(const void *p) nogil

cdef enum:
    PKT_FLOW = 0        # parsed to TCP, UDP or ICMP: `key` and the transport fields are valid
    PKT_OTHER = 1       # no flow kept for it (ARP, STP, other IP protocols): forwarded as it is
    PKT_MALFORMED = 2   # could not be parsed: forwarded, counted under `cause`
    PKT_FRAGMENT = 3    # a fragment whose datagram is not complete yet

cdef enum:              # pkt_t.ahead
    AHEAD_NOT = 0       # not looked at yet
    AHEAD_FLOW = 1      # decoded with its batch: PKT_FLOW, and `hash` is its key's
    AHEAD_DECODED = 2   # decoded to see whose it is
    AHEAD_ELSEWHERE = 3 # another worker takes it

cdef enum:
    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_RST = 0x04
    TCP_PSH = 0x08
    TCP_ACK = 0x10
    TCP_URG = 0x20
    TCP_ECE = 0x40
    TCP_CWR = 0x80

cdef enum:
    OPT_MSS = 1
    OPT_WSCALE = 2
    OPT_SACK_OK = 4
    OPT_SACK = 8
    OPT_TS = 16
    OPT_TFO = 32
    OPT_MPTCP = 64
    OPT_MD5 = 128

cdef enum:
    CSUM_BAD_IP = 1     # IPv4 header checksum (outermost to innermost: any) is wrong
    CSUM_BAD_L4 = 2     # TCP, UDP or ICMP checksum is wrong
    CSUM_PARTIAL = 4    # holds just the pseudo-header sum: left to an offloading NIC
    CSUM_UNKNOWN = 8    # not checked, or the frame is cut so that it cannot be

cdef enum:
    IPPROTO_ICMP = 1
    IPPROTO_TCP = 6
    IPPROTO_UDP = 17
    IPPROTO_ICMPV6 = 58

# A flow's name, independent of direction. The half (lo_addr, lo_port) is the smaller as bytes; IPv4 sits in the
# first 4 bytes of an address and the rest is zero. Hashed and compared as 44 bytes: no padding anywhere.
cdef struct key_t:
    uint8_t  lo_addr[16]
    uint8_t  hi_addr[16]
    uint16_t lo_port     # host order; ICMP echo: identifier in both, other ICMP: type in lo, code in hi
    uint16_t hi_port
    uint8_t  proto       # IPPROTO_*
    uint8_t  ipver       # 4 or 6
    uint16_t zero
    uint32_t domain      # interned (VLAN stack, tunnel path); 0: neither

cdef struct pkt_t:
    const uint8_t *frame    # the link-layer frame as captured
    uint32_t caplen         # bytes of it that are here
    uint32_t wirelen        # bytes it had on the wire
    int64_t  ts             # ns since 1970, from the capture
    uint64_t number         # 1-based ordinal in the input
    uint16_t linktype       # LINKTYPE_* of its interface
    uint16_t iface          # ordinal of its interface (pcapng), 0 otherwise
    # Offload state, as a port with virtio_net_hdr tells it; 0 from captures. A sender gets it with the frame, changed or not.
    uint16_t gso_size       # payload bytes of each wire segment of a super-packet, the last may have fewer; 0: an ordinary frame
    uint8_t  gso_type       # VIRTIO_NET_HDR_GSO_* of it, kept as it came; 0 with gso_size 0
    # 1: the transport checksum field holds the pseudo header's sum, folded and not complemented; NIC or peer adds the rest
    # (VIRTIO_NET_HDR_F_NEEDS_CSUM). Never compared; of a rewriting only addresses and lengths touch it, ports and payload do not.
    uint8_t  csum_partial
    uint8_t  ahead          # AHEAD_*
    uint64_t hash
    void    *guess          # with AHEAD_FLOW: the flow that was fetched for it, NULL: none was found
    uint8_t  status         # PKT_*
    uint8_t  cause          # malformed cause (decode.pxd), 0 if none
    uint8_t  ipver          # of the innermost IP header, 0: none
    uint8_t  proto          # innermost transport protocol
    uint8_t  csum           # CSUM_* bits
    uint8_t  from_hi        # 1: sent by the (hi_addr, hi_port) half of the key
    uint8_t  tcp_flags
    uint8_t  opts           # OPT_* bits that were present and well-formed
    uint8_t  reassembled    # 1: ip points into a defragmented datagram, not into frame
    uint8_t  cut            # 1: the capture holds fewer payload bytes than the headers promise (snaplen)
    uint8_t  wscale         # raw shift, valid with OPT_WSCALE
    uint8_t  nsack          # SACK blocks in `sack`, at most 4
    uint16_t mss
    uint16_t wnd            # raw window
    uint16_t urg            # urgent pointer
    uint16_t sport          # host order
    uint16_t dport
    uint32_t seq
    uint32_t ack
    uint32_t tsval
    uint32_t tsecr
    uint32_t sack[8]        # left, right, left, right …
    const uint8_t *ip       # innermost IP header, NULL if none
    const uint8_t *l4       # transport header
    const uint8_t *payload
    uint32_t ip_len         # bytes from `ip` to the datagram's end by its own header
    uint32_t payload_len    # payload bytes by the headers
    uint32_t payload_cap    # payload bytes present, at most payload_len
    key_t    key

cdef inline void prefetch_lines(const char *p, size_t n) noexcept nogil:
    cdef size_t at = 0
    while at < n:
        prefetch(p + at)
        at += 64

cdef inline uint16_t pkt_segs(const pkt_t *p) noexcept nogil:
    """Wire segments in the packet: more than 1 only for a super-packet."""
    if p == NULL or p.gso_size == 0 or p.payload_len <= p.gso_size:
        return 1
    return <uint16_t>((p.payload_len + p.gso_size - 1) // p.gso_size)

cdef inline bint pkt_is_tcp(const pkt_t *p) noexcept nogil:
    return p.status == PKT_FLOW and p.proto == IPPROTO_TCP
