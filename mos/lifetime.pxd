# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How flows begin and end, and timers."""
from libc.stdint cimport int64_t
from mos.core cimport Core
from mos.flow.flow cimport flow_t
from mos.flow.wheel cimport wheel_due
from mos.net.frag cimport frag_expire
from mos.net.packet cimport pkt_t

cdef flow_t *admit(Core k, const pkt_t *p) noexcept nogil
cdef bint opens(Core k, const pkt_t *p, bint none) noexcept nogil
cdef flow_t *opened(Core k, const pkt_t *p) noexcept nogil
cdef void note_close(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil
cdef int end_flow(Core k, flow_t *f, int reason) noexcept nogil
cdef void release(Core k, flow_t *f) noexcept nogil
cdef int expire(Core k) noexcept nogil
cdef int time_goes(Core k, const pkt_t *p) noexcept nogil
cdef void set_clock(Core k, int64_t ts) noexcept nogil

cdef enum:
    LEAP_S = 3600       # one broken time stamp must not time every flow out: further ahead counts once a second one confirms it

cdef inline int pass_time(Core k, int64_t ts) noexcept nogil:
    """It is `ts` now, and packet time never goes back: what has come due happens. -1: a handler raised."""
    if ts > k.now:
        if k.now and not k.leap and ts - k.now < <int64_t>LEAP_S * 1000000000:
            k.now = k.slots.now = ts
        else:
            set_clock(k, ts)
    if wheel_due(k.idle, k.now) or wheel_due(k.timers, k.now):
        return expire(k)
    return 0

cdef inline int pass_tick(Core k, int64_t ts) noexcept nogil:
    """Nothing came, and it is this late: datagrams whose time is up are let go, and then as pass_time."""
    frag_expire(&k.dec.frags, ts)
    return pass_time(k, ts)
