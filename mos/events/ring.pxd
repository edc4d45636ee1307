# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What happened while one packet was handled: a fixed ring of plain structs, filled by tracking, drained by the bus."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from mos.net.packet cimport pkt_segs, pkt_t
from mos.flow.flow cimport flow_t

cdef enum:
    AT_SENDER = 0       # before the packet is forwarded; an answer may change its fate
    AT_RECEIVER = 1     # after commit; observe only
    AT_ACKED = 2        # bytes the receiver has acknowledged; observe only

cdef enum:              # event_t.flags
    EV_REDELIVERED = 1  # offered before, in a packet that was dropped
    EV_DOUBTFUL = 2     # taken on the evidence of the receiver's ACK alone
    EV_MIDSTREAM = 4    # FlowStart of a flow picked up without its SYN
    EV_UNSENT = 16      # safe mode: its bytes have not left, whichever packet brought them, and can still be changed
    EV_KEPT = 8         # `data` is owned by a kept copy of the event

cdef struct event_t:
    uint32_t size       # sizeof(event_t) of the core that filled it: append-only struct
    uint8_t  kind       # events.kinds KIND_*
    uint8_t  at         # AT_*
    uint8_t  to_server  # direction of the packet, or of the bytes of a stream event
    uint8_t  cause      # the kind's enum field: reason, cause, rexmit kind …
    uint8_t  flags      # EV_*
    uint8_t  side       # CLIENT or SERVER, whose state or stream it is about
    uint8_t  old        # TcpStateChange: states before and after
    uint8_t  new
    uint16_t position   # chain position of the NF that is being asked
    uint16_t segs       # wire segments in the packet (GSO), 1 normally
    flow_t  *flow       # NULL: no flow
    const pkt_t *pkt    # NULL: no packet (timers, idle end)
    int64_t  now        # packet time, ns
    uint64_t offset     # stream offset of the first byte
    uint64_t length     # bytes
    const uint8_t *data
    const uint8_t *old_data   # OverlapConflict: the copy retained
    int64_t  arg        # kind's integer payload
    void    *obj        # kind's Python payload (borrowed)

cdef enum:
    RING_CAP = 64       # one packet raises a dozen at most: both ends' changes, three FlowEnd's, gaps are drained one by one

cdef struct ring_t:
    uint32_t n
    uint32_t lost       # events that found the ring full: a bug if ever not 0, reported in the counters
    event_t  ev[RING_CAP]

cdef inline void event_set(event_t *e, int kind, flow_t *f, const pkt_t *p, int64_t now, int side, int to_server) noexcept nogil:
    """Every field of a new event. One by one: clearing the struct whole takes longer."""
    e.size = sizeof(event_t)
    e.kind = <uint8_t>kind
    e.at = AT_SENDER
    e.to_server = <uint8_t>to_server
    e.cause = e.flags = e.old = e.new = 0
    e.side = <uint8_t>side
    e.position = 0
    e.segs = pkt_segs(p)
    e.flow = f
    e.pkt = p
    e.now = now
    e.offset = e.length = 0
    e.data = e.old_data = NULL
    e.arg = 0
    e.obj = NULL

cdef inline event_t *ring_add(ring_t *r, uint64_t want, int kind, flow_t *f, const pkt_t *p, int64_t now, int side,
                              int to_server) noexcept nogil:
    """A new event at the end of the ring for the caller to fill in, or NULL: nobody wants this kind."""
    if not (want >> kind) & 1:
        return NULL
    if r.n == RING_CAP:
        r.lost += 1
        return NULL
    cdef event_t *e = &r.ev[r.n]
    r.n += 1
    event_set(e, kind, f, p, now, side, to_server)
    return e
