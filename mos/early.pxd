# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Safe mode, a connection that was under way: segments that come before anybody knows where their stream begins.

Each leaves without its bytes at first, and asks its receiver. They are kept meanwhile, and go their way when its ACK has been
heard, as if the wire had delayed them so long. What does not fit is left to TCP, which sends it again.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from mos.core cimport DROPPED_UNSAFE, Core
from mos.events.kinds cimport KIND_PACKET_IN
from mos.flow.flow cimport END_ACKED, flow_t
from mos.net.packet cimport pkt_segs, pkt_t
from mos.tcp.seq cimport seq_le
from mos.tcp.trouble cimport known_trouble, trouble_of, trouble_t

cdef enum:
    EARLY_FLOW = 1 << 17    # bytes of frames of one flow that wait: an unscaled window, or a super-packet and what follows it
    EARLY_MOST = 128        # segments of one flow that wait, twice an unscaled window of full ones: all are looked at for the next
    EARLY_ALL = 1 << 24     # bytes of frames that wait, in all: as of fragments

cdef enum:                  # Core.early
    EARLY_NOT = 0
    EARLY_HOLD = 1          # the packet in hand is one; what leaves is the question
    EARLY_GO = 2            # it is the answer

cdef struct early_t:
    early_t *next
    uint8_t  side           # who sent it
    pkt_t    p              # its frame follows the struct

cdef inline bint early_waits(const flow_t *f, int s) noexcept nogil:
    """Segments of the other end wait for a word of end `s`."""
    cdef const trouble_t *t = known_trouble(f)
    return t != NULL and t.early != NULL and (<early_t *>t.early).side != s

cdef inline void early_let(Core k, trouble_t *t, early_t *e) noexcept nogil:
    """It waits no longer."""
    t.early_bytes -= e.p.caplen
    k.early_bytes -= e.p.caplen
    k.n.held -= 1

cdef inline void early_free(Core k, trouble_t *t) noexcept nogil:
    """The flow ends; its sender was not answered."""
    cdef early_t *e
    while t.early != NULL:
        e = <early_t *>t.early
        t.early = e.next
        early_let(k, t, e)
        k.n.dropped[DROPPED_UNSAFE] += 1
        free(e)

cdef inline void early_keep(Core k, const pkt_t *p, flow_t *f, int s) noexcept nogil:
    """The packet in hand has asked, in a frame that is ours. One that repeats what waits is not needed."""
    cdef trouble_t *t = trouble_of(f)
    cdef early_t **at
    cdef early_t *e
    cdef uint8_t *frame
    cdef int n = 0
    if t == NULL or p.reassembled or t.early_bytes + p.caplen > EARLY_FLOW or k.early_bytes + p.caplen > EARLY_ALL:
        return
    at = <early_t **>&t.early
    while at[0] != NULL:
        n += 1
        if n == EARLY_MOST or seq_le(p.seq + p.payload_len, at[0].p.seq + at[0].p.payload_len):
            return
        at = &at[0].next
    e = <early_t *>malloc(sizeof(early_t) + p.caplen)
    if e == NULL:
        return
    frame = <uint8_t *>e + sizeof(early_t)
    memcpy(frame, p.frame, p.caplen)
    e.next, e.side, e.p = NULL, <uint8_t>s, p[0]
    e.p.frame, e.p.ip, e.p.l4 = frame, frame + (p.ip - p.frame), frame + (p.l4 - p.frame)
    e.p.payload = frame + (p.payload - p.frame)
    at[0] = e
    t.early_bytes += p.caplen
    k.early_bytes += p.caplen
    k.n.forwarded -= 1
    k.n.injected += 1
    k.n.held += 1

cdef inline int early_go(Core k, flow_t *f) noexcept nogil:
    """What waits goes its way, oldest first; it was counted when it came. -1: a handler raised, and the run is to stop."""
    cdef trouble_t *t = known_trouble(f)
    cdef early_t *e = <early_t *>t.early
    cdef early_t *following
    cdef uint64_t told
    cdef int rc = 0
    t.early = NULL
    while e != NULL:
        following = e.next
        early_let(k, t, e)
        if rc == 0:
            f.end[e.side].packets -= 1
            f.end[e.side].bytes -= e.p.wirelen
            f.end[e.side].payload -= e.p.payload_len
            k.n.more_segments -= pkt_segs(&e.p) - 1 if e.p.gso_size else 0
            k.n.tracked -= 1
            told = f.mask & <uint64_t>1 << KIND_PACKET_IN       # handlers were told of it as a packet
            f.mask &= ~told
            k.fresh = k.committed = k.edited = k.quote = 0          # it is the packet in hand now
            rc = k.flow_packet(&e.p, 0)
            f.mask |= told
        free(e)
        e = following
    return rc

cdef inline int early_finish(Core k, pkt_t *p, flow_t *f, int s) noexcept nogil:
    """`finish` for a packet that `pickup` has marked."""
    cdef uint64_t before = k.n.forwarded
    cdef bint asks = k.early == EARLY_HOLD
    k.early = EARLY_NOT
    if k.finish(p, f, s) < 0:
        return -1
    if asks:
        if k.n.forwarded > before:
            early_keep(k, p, f, s)
        return 0
    return early_go(k, f) if f.end[s].flags & END_ACKED else 0
