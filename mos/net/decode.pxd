# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from mos.net.packet cimport pkt_t
cdef struct decoder_t:
    int x
cdef class Decoder:
    cdef decoder_t *c
    cdef decoder_t own
cdef int decode(decoder_t *d, pkt_t *p) noexcept nogil
