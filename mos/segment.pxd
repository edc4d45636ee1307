# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A TCP segment's way through its flow."""
from libc.stdint cimport int64_t
from mos.core cimport Core
from mos.events.ring cimport event_t
from mos.flow.flow cimport flow_t
from mos.net.packet cimport pkt_t
from mos.tcp.queue cimport reasm_t
from mos.tcp.track cimport scene_t

ctypedef int (*way_t)(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil

cdef extern from *:
    """
    #define MOS_APART(f) (__extension__ ({ __typeof__(&(f)) way_ = &(f); __asm__("" : "+r"(way_)); way_; }))
    """
    # The same function, but always called: a compiler puts only so much into one function, and ways that few packets take would
    # use that up, so that the steps of every packet become calls.
    way_t apart "MOS_APART"(way_t way) noexcept nogil

cdef enum:              # how a segment's way ended
    WAY_FAILED = -1         # a handler raised and the run is to stop
    WAY_DONE = 0            # the answer tells whether it is forwarded
    WAY_REOPENS = 1         # it opens the next connection with the same ends
    WAY_ANSWERS_OTHER = 2   # it answers a SYN that this flow refused: that connection is the real one

cdef enum:              # how a segment starts its flow
    FRESH_OPENS = 1         # it is the flow's first packet
    FRESH_ANSWERS = 2       # it answers a SYN that the flow before refused: the first packet of this flow came earlier

cdef enum:
    # An acknowledged hole is given up only after this: a capture from several queues may show an ACK before its data.
    ACKED_GRACE_NS = 1_000_000_000
    HOLE_AGE_S = 300        # a hole nobody acknowledges and nobody fills: more than twice the longest RTO

cdef inline bint hopeless(const reasm_t *r, int64_t now) noexcept nogil:
    """The hole will not be filled any more: its receiver had it long ago, or nobody sends it again."""
    return (r.acked_ns and now - r.acked_ns > ACKED_GRACE_NS) \
        or (r.hole_ns and now - r.hole_ns > HOLE_AGE_S * <int64_t>1000000000)

cdef int segment(Core k, flow_t *f, const pkt_t *p, int s, int fresh) noexcept nogil
cdef int stream(Core k, scene_t *c) noexcept nogil
cdef int commit(Core k, scene_t *c) noexcept nogil
cdef int drain(Core k) noexcept nogil
cdef int tell(Core k, event_t *e) noexcept nogil
cdef int flush(Core k, flow_t *f, int side) noexcept nogil
cdef void abort(Core k, scene_t *c) noexcept nogil
