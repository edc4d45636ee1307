# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How flows begin and end, and timers."""
from libc.stdint cimport int64_t
from mos.core cimport Core
from mos.flow.flow cimport flow_t
from mos.net.packet cimport pkt_t

cdef flow_t *admit(Core k, const pkt_t *p) noexcept nogil
cdef int end_flow(Core k, flow_t *f, int reason) noexcept nogil
cdef void release(Core k, flow_t *f) noexcept nogil
cdef int expire(Core k) noexcept nogil
cdef void start_timers(Core k, int64_t ts) noexcept nogil
