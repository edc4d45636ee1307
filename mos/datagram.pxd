# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""UDP, ICMP and, where flows are only counted, whatever else: no order to keep, each payload is delivered as it comes."""
from libc.stdint cimport uint8_t
from libc.string cimport memset
from mos.core cimport Core
from mos.events.bus cimport MOS_HOLD
from mos.events.kinds cimport KIND_STREAM_DATA
from mos.events.ring cimport event_t
from mos.flow.flow cimport CLIENT, FLOW_CLOSED, flow_t
from mos.lifetime cimport note_close
from mos.net.packet cimport IPPROTO_TCP, TCP_FIN, TCP_RST, pkt_segs, pkt_t
from mos.notices cimport datagram_at_receiver
from mos.segment cimport WAY_DONE, WAY_FAILED, abort, drain, tell
from mos.state.blocks cimport slots_commit
from mos.tcp.track cimport scene_t

cdef inline int datagram_data(Core k, flow_t *f, const pkt_t *p, int s, const uint8_t **shown) noexcept nogil:
    """Deliver its payload; `shown`: as the handlers leave it."""
    cdef event_t e
    memset(&e, 0, sizeof(e))
    e.size, e.kind, e.side, e.segs, e.to_server = sizeof(e), KIND_STREAM_DATA, <uint8_t>s, pkt_segs(p), s == CLIENT
    e.flow, e.pkt, e.now = f, p, k.now
    e.offset, e.length, e.data = f.end[s].offset, p.payload_cap, p.payload
    if tell(k, &e) < 0:
        return WAY_FAILED
    shown[0] = e.data
    return 0

cdef inline int datagram(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """One through its flow. WAY_*."""
    cdef const uint8_t *shown = p.payload
    cdef scene_t c
    if k.ring.n and drain(k) < 0:
        return WAY_FAILED
    if f.mask >> KIND_STREAM_DATA & 1 and p.payload_cap and datagram_data(k, f, p, s, &shown) < 0:
        return WAY_FAILED
    if k.answer.verdict >= MOS_HOLD:
        c.flow, c.pkt, c.s = f, p, s
        abort(k, &c)
        return WAY_DONE
    if k.bus.want_receiver:
        datagram_at_receiver(k, f, p, s, shown)
        if drain(k) < 0:
            return WAY_FAILED
    f.end[s].offset += p.payload_cap
    if k.flat and p.proto == IPPROTO_TCP and (p.tcp_flags & (TCP_FIN | TCP_RST) or f.flags & FLOW_CLOSED):
        note_close(k, f, p, s)
    slots_commit(k.undo)
    return WAY_DONE
