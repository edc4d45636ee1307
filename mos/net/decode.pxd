# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The decode stage: bytes to pkt_t. One decoder_t per stack; nothing in it is shared between threads."""
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from mos.net.domain cimport domains_t
from mos.net.frag cimport frags_t
from mos.net.packet cimport pkt_t
from mos.net.walk cimport BAD_CAUSES, walk_t

cdef enum:
    MAX_ROWS = 16           # of the tunnel table

cdef struct decoder_t:
    uint8_t  checksum       # CHECKSUM_* (mos.net.verify)
    uint8_t  defrag
    uint8_t  plainly        # simple packets take the short way; the other gives the same
    uint8_t  nports         # tunnels that are told by a UDP port
    uint16_t ports[MAX_ROWS]
    uint8_t  either[MAX_ROWS]       # the port may be the source's as well
    uint8_t  port_rows[MAX_ROWS]
    uint8_t  max_tunnels    # within each other
    uint8_t  by_proto[256]  # IP protocol: tunnel row + 1, 0 if none
    uint64_t by_status[4]   # packets by PKT_*
    uint64_t by_cause[BAD_CAUSES]
    uint64_t by_row[MAX_ROWS]       # tunnel headers taken off
    uint64_t no_link        # frames of an unknown link type
    uint64_t broken_options # TCP option lists that end in the middle of an option
    uint64_t cut_fragments  # fragments that the capture cut, hence not reassembled
    uint64_t bad_fragments  # fragments with a wrong header checksum, hence not reassembled
    uint64_t bad_ip         # packets by CSUM_*
    uint64_t bad_l4
    uint64_t partial
    frags_t  frags
    domains_t domains

cdef int decode(decoder_t *d, pkt_t *p) noexcept nogil
cdef int decode_walk(decoder_t *d, pkt_t *p, walk_t *w, bint whole) noexcept nogil
cdef int decode_ahead(decoder_t *d, pkt_t *pkts, int n) noexcept nogil

cdef class Decoder:
    cdef decoder_t *c
