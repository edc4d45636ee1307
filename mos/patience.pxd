# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How long a flow may be silent until it is taken for over."""
from libc.stdint cimport int64_t
from mos.core cimport Core
from mos.events.kinds cimport STATE_TIME_WAIT
from mos.flow.flow cimport FLOW_CLOSED, flow_cold, flow_t
from mos.flow.table cimport table_slot
from mos.flow.wheel cimport wheel_arm, wheel_armed, wheel_queue
from mos.net.packet cimport IPPROTO_TCP

cdef inline int64_t patience(Core k, const flow_t *f) noexcept nogil:
    """ns: the longer time-out of both ends' states counts."""
    if f.key.proto != IPPROTO_TCP or k.flat:
        return k.idle_ns[STATE_TIME_WAIT if f.flags & FLOW_CLOSED else 11]
    return max(k.idle_ns[f.end[0].state], k.idle_ns[f.end[1].state])

cdef inline void arm(Core k, flow_t *f) noexcept nogil:
    """(Re)start the idle timer. One due earlier stays, it asks again then."""
    cdef int64_t when = f.last_ns + patience(k, f)
    if wheel_armed(&flow_cold(f).timer) and flow_cold(f).timer.when <= when:
        return
    if f.flags & FLOW_CLOSED:
        wheel_queue(k.idle, table_slot(k.table, f), when)
    else:
        wheel_arm(k.idle, table_slot(k.table, f), when)
