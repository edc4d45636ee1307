# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What of a stack's packets other workers take.

Of a capture each reads all; on a wire the kernel has shared out all but fragments.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from mos.core cimport Core
from mos.net.decode cimport decode, decoder_t
from mos.net.domain cimport DOMAIN_OVERFLOW, domain_path
from mos.net.frag cimport frag_unpark
from mos.net.packet cimport AHEAD_DECODED, PKT_FLOW, PKT_FRAGMENT, pkt_t
from mos.net.shard cimport SHARD_LOOSE, SHARD_UNKNOWN, outer_fragment, shard_key, shard_plain, shard_whole
from mos.net.walk cimport PATH_VLAN
from mos.park cimport park_fragment

cdef inline bint tunnelled(Core k, uint32_t domain) noexcept nogil:
    """A domain is more than VLANs."""
    cdef uint32_t n = 0
    cdef const uint8_t *at
    if domain == 0 or domain == DOMAIN_OVERFLOW:
        return False
    at = domain_path(&k.dec.domains, domain, &n)
    while n >= 3 and at[0] == PATH_VLAN:
        at += 3
        n -= 3
    return n > 0

cdef inline void not_ours(Core k, const pkt_t *p) noexcept nogil:
    """Inline, a fragment is kept all the same: its flow may be ours. If it is not, whoever has it lets them all go, and counts."""
    cdef uint64_t dropped = k.dec.frags.parked_dropped
    if p.status == PKT_FRAGMENT:
        park_fragment(k, p)
    elif p.reassembled:
        frag_unpark(&k.dec.frags, &k.dec.frags.out)
        k.dec.frags.parked_dropped = dropped

cdef inline bint elsewhere(Core k, pkt_t *p, bint selected) noexcept nogil:
    """Another worker takes the packet, which is decoded if that takes decoding. Not `selected` by the packet filter, it is the
    first one's. Fragments are put together by all of them, but counted by one."""
    cdef decoder_t was
    cdef size_t counted = <char *>&was.frags - <char *>&was.by_status
    cdef const uint8_t *fragment = outer_fragment(p) if k.on_wire else NULL
    cdef int worker = SHARD_LOOSE
    if k.on_wire and fragment == NULL:
        return False
    if selected:
        worker = SHARD_UNKNOWN if k.on_wire else shard_plain(p, k.workers)
        if worker == SHARD_UNKNOWN:
            memcpy(&was.by_status, &k.dec.by_status, counted)
            worker = SHARD_LOOSE
            if decode(k.dec, p) == PKT_FLOW:
                worker = shard_whole(p, fragment, tunnelled(k, p.key.domain), k.workers) if k.on_wire \
                    else shard_key(&p.key, k.workers)
            p.ahead = AHEAD_DECODED
            if worker != k.worker:
                memcpy(&k.dec.by_status, &was.by_status, counted)
                not_ours(k, p)
    return worker != k.worker
