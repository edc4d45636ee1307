# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The run loop over `Core`. One Stack per thread; nothing is shared between two."""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from mos.events.ring cimport event_t
from mos.flow.flow cimport flow_t
from mos.io.port cimport Port
from mos.net.packet cimport pkt_t
from mos.core cimport Core

cdef class Stack(Core):
    cdef int loop(self, Port source) noexcept nogil
    cdef int one_batch(self, Port source, pkt_t *batch) noexcept nogil
    cdef int64_t ticked         # packet time of the last tick
    cdef bint exact             # each packet in a malloc of its own, for AddressSanitizer: a buffer of many hides overruns
    cdef int packet(self, pkt_t *p) noexcept nogil
    cdef int whole_batch(self, Port source, pkt_t *batch, int n) noexcept nogil
    cdef bint selected(self, const pkt_t *p) noexcept nogil
    cdef int flow_packet(self, pkt_t *p, int fresh) noexcept nogil
    cdef int drop_on(self, pkt_t *p, flow_t *f, int s, int answered) noexcept nogil
    cdef int quoting(self, pkt_t *p, flow_t *f, int s) noexcept nogil
    cdef int bad_checksum(self, pkt_t *p, flow_t *f, int s) noexcept nogil
    cdef int reopen(self, flow_t *f, pkt_t *p, int s, int answers_other) noexcept nogil
    cdef int finish(self, pkt_t *p, flow_t *f, int s) noexcept nogil
