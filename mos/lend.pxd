# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Frames that stay where they are: what waits behind a hole need not be copied out of a capture that is mapped."""
from mos.core cimport Core
from mos.io.port cimport Port
from mos.net.packet cimport pkt_t

cdef inline int lend(Core k, Port source) except -1:
    """From now on what waits of this source's frames stays where it is, if they do. None: nothing waits any more."""
    if source is None:
        k.lent_from, k.lent_to, k.lenders = NULL, NULL, []
    elif not source.lends:
        k.lent_from, k.lent_to = NULL, NULL
    elif k.lent_from != source.stays_from:
        k.lent_from, k.lent_to = source.stays_from, source.stays_to
        if source not in k.lenders:
            source.lent = True
            k.lenders.append(source)
    return 0

cdef inline bint lent(Core k, const pkt_t *p) noexcept nogil:
    """The packet's payload lies in such a frame: not in a copy, nor in a datagram that was put together."""
    return k.lent_from <= p.payload and p.payload + p.payload_cap <= k.lent_to
