# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How flows end, and timers."""
from libc.stdint cimport int64_t
from mos.core cimport Core
from mos.flow.flow cimport flow_t

cdef int end_flow(Core k, flow_t *f, int reason) noexcept nogil
cdef void release(Core k, flow_t *f) noexcept nogil
cdef int expire(Core k) noexcept nogil
cdef void start_timers(Core k, int64_t ts) noexcept nogil
