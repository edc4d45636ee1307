# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The Python view of a flow: one `Flow` object per flow, made when somebody first asks and kept in `more_t.view`."""
from libc.stdint cimport uint8_t, uint64_t
from mos.flow.flow cimport flow_t
from mos.net.packet cimport key_t


cdef class Flow:
    cdef flow_t *f          # NULL: the flow has ended
    cdef readonly uint64_t id
    cdef readonly object owner      # the engine that tracks it
    cdef key_t key
    cdef uint8_t client_hi
    cdef str _client
    cdef str _server
    cdef object __weakref__


cdef class Side:
    cdef Flow flow
    cdef int index          # CLIENT or SERVER


cdef str ip_text(const uint8_t *addr, int ipver)
cdef Flow flow_view_make(flow_t *f, object owner)
cdef void flow_view_end(flow_t *f) noexcept


cdef inline Flow flow_view(flow_t *f, object owner):
    """The one Flow of `f`. `owner` is the engine; it counts at the first call only."""
    if f.more != NULL and f.more.view != NULL:
        return <Flow>f.more.view
    return flow_view_make(f, owner)
