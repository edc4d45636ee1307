# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Both ends of a TCP connection, moved by the segments that pass. Knows the ring, not the bus; numbers, not bytes."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from mos.events.ring cimport ring_t
from mos.flow.flow cimport flow_t, end_t
from mos.net.packet cimport pkt_t

cdef struct scene_t:        # what every step needs: the packet on its way and where to tell of it
    flow_t *flow
    const pkt_t *pkt
    ring_t *ring
    uint64_t want           # kinds somebody wants of this flow
    int64_t now
    int     s               # end that sent the packet
    int     to_server
    int     truth

cdef void track_open(flow_t *f, const pkt_t *p, int midstream) noexcept nogil
cdef void track_sender(scene_t *c) noexcept nogil
cdef void track_receiver(scene_t *c) noexcept nogil
cdef void track_fin(scene_t *c, int side) noexcept nogil
cdef void track_rst(scene_t *c) noexcept nogil
cdef int track_rst_refused(scene_t *c, int in_doubt) noexcept nogil
cdef void track_spoke_on(scene_t *c) noexcept nogil
cdef bint track_vouched(scene_t *c, int side) noexcept nogil
cdef bint track_overheard(scene_t *c, int cause) noexcept nogil
cdef void track_revive(scene_t *c) noexcept nogil
cdef void track_duplicate_syn(scene_t *c) noexcept nogil
cdef void track_time_out(scene_t *c) noexcept nogil
cdef void history_add(flow_t *f, int side, int letter) noexcept nogil

cdef enum:                  # bits of end_t.hist, in the order of HISTORY in track.pyx
    HIST_SYN = 0
    HIST_SYN_ACK = 1
    HIST_ACK = 2
    HIST_DATA = 3
    HIST_FIN = 4
    HIST_RST = 5
    HIST_CHECKSUM = 6
    HIST_GAP = 7
    HIST_REXMIT = 8
    HIST_ZERO_WINDOW = 9
    HIST_INCONSISTENT = 10

cdef inline bint track_over(const flow_t *f) noexcept nogil:
    """Both ends have closed: TIME-WAIT or CLOSED."""
    return (f.end[0].state == 10 or f.end[0].state == 0) and (f.end[1].state == 10 or f.end[1].state == 0)
