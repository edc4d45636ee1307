# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reassembly of IPv4 (RFC 791 3.2) and IPv6 (RFC 8200 4.5) fragments."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from mos.net.packet cimport pkt_t
from mos.net.walk cimport BAD_CAUSES

cdef enum:              # what becomes of bytes that arrive twice and differ; IPv6 always drops (RFC 5722)
    FRAG_FIRST = 0      # the copy that came first stays
    FRAG_LAST = 1       # the later copy replaces it
    FRAG_DROP = 2       # the whole datagram is refused

cdef enum:
    FRAG_COMPLETE = 0   # answers of frag_add; a BAD_* cause otherwise negated
    FRAG_WAITING = 1
    FRAG_BUCKETS = 4096
    MAX_DATAGRAMS = 4096            # incomplete at a time: real ones complete within milliseconds
    MAX_FRAGMENTS = 256             # of one datagram: they carry 64 KB at the smallest MTU in use, 296
    MAX_TOUCHED = 1024              # pieces of a datagram that fragments lay over: some 256 sent twice or cut anew, then an attack
    MAX_FRAGMENT_BYTES = 16 << 20   # of all that wait: an average of 4 KB for each datagram

cdef struct piece_t:    # bytes start .. end of the fragmentable part, stored right behind it; pieces never overlap
    piece_t *next
    uint32_t start
    uint32_t end

cdef struct parked_t:   # a fragment's frame, which waits for the others: stored right behind it
    parked_t *next
    uint32_t ip_at      # where in it the IP header is, and its piece of the datagram
    uint32_t data_at
    uint32_t offset     # of the piece in the fragmentable part
    uint32_t length
    pkt_t    p

cdef struct fragkey_t:  # compared and hashed as 44 bytes: no padding
    uint8_t  src[16]
    uint8_t  dst[16]
    uint32_t id
    uint32_t domain
    uint32_t proto      # IPv4: the protocol; IPv6: 256, its fragments may name different ones

cdef enum:
    STRETCH_BITS = 13       # a datagram has eight stretches of 8 KB: of 256 pieces some 16 are walked through, not all
    STRETCHES = 8
    MARKED_FROM = 16        # pieces: fewer are walked through as fast

cdef struct datagram_t:
    datagram_t *chain
    datagram_t *older
    datagram_t *newer
    fragkey_t key
    int64_t  born       # when its first fragment came, ns
    piece_t *pieces
    piece_t *tail
    piece_t **marks     # by stretch: the last piece that begins there, NULL: none does; NULL: there are few pieces
    uint8_t *header     # of the fragment at offset 0, NULL until it came
    uint32_t header_len
    uint32_t next_at
    uint32_t bucket
    uint32_t have       # bytes in pieces
    uint32_t end        # length of the fragmentable part, 0 until its last fragment came
    uint32_t npieces
    uint32_t touched    # pieces that later fragments lay over, counted each time
    uint32_t cost       # bytes of memory
    uint8_t  ipver
    uint8_t  proto      # what the fragment at offset 0 says it holds
    uint8_t  dead       # BAD_* cause: refused, and so is all that may still come of it
    parked_t *parked    # frames in the order in which they came
    parked_t *parked_last

cdef struct held_t:     # a complete datagram, stored right behind it
    held_t *next

cdef struct fragment_t: # an arriving fragment
    const uint8_t *src
    const uint8_t *dst
    const uint8_t *header
    const uint8_t *data
    uint32_t header_len
    uint32_t next_at
    uint32_t length
    uint32_t offset
    uint32_t id
    uint32_t domain
    int64_t  ts
    uint8_t  more
    uint8_t  ipver
    uint8_t  proto

cdef struct frags_t:
    uint64_t k0
    uint64_t k1
    uint32_t max_datagrams
    uint32_t max_fragments
    uint32_t max_bytes
    uint32_t policy
    uint32_t n              # datagrams
    uint32_t bytes          # of memory that they cost
    int64_t  now            # latest time seen
    datagram_t **buckets    # NULL until the first fragment
    datagram_t *oldest[2]   # IPv4, IPv6: each by birth, and so by time-out
    datagram_t *newest[2]
    held_t  *held           # complete ones given out, until frag_release
    fragment_t x            # the fragment that came last; its pointers lead into its frame
    datagram_t *last        # whose it is, if that waits for more; else NULL
    parked_t *out           # frames of the datagram that became whole last, but for the one that made it so
    const uint8_t *whole    # that datagram
    uint32_t whole_header   # bytes of its headers
    uint8_t  park           # frames are to be kept: frag_park is called for each that waits
    uint64_t parked         # frames kept now
    uint64_t parked_dropped # that were, and never became whole
    uint64_t fragments
    uint64_t completed
    uint64_t duplicates
    uint64_t no_memory
    uint64_t refused[BAD_CAUSES]    # datagrams by cause

cdef int frag_add(frags_t *f, const fragment_t *x, const uint8_t **datagram, uint32_t *length) noexcept nogil
cdef void frag_expire(frags_t *f, int64_t now) noexcept nogil
cdef bint frag_park(frags_t *f, const pkt_t *p) noexcept nogil
cdef void frag_unpark(frags_t *f, parked_t **list) noexcept nogil
cdef void frag_release(frags_t *f) noexcept nogil
cdef void frag_clear(frags_t *f) noexcept nogil
