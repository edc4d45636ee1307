# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How long a flow may be silent until it is taken for over, and what else its new states come to."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from mos.core cimport Core
from mos.events.kinds cimport STATE_LISTEN, STATE_SYN_SENT, STATE_TIME_WAIT
from mos.flow.flow cimport END_FIN, FLOW_CLOSED, FLOW_EMBRYONIC, FLOW_ESTABLISHED, FLOW_MIDSTREAM, flow_cold, flow_names, flow_t
from mos.flow.table cimport table_hash, table_promote, table_slot
from mos.flow.wheel cimport QUEUE_CLOSED, QUEUE_DATAGRAMS, QUEUE_HALF_OPEN, wheel_arm, wheel_armed, wheel_queue
from mos.net.packet cimport IPPROTO_TCP, pkt_t
from mos.tcp.track cimport track_over

cdef enum:                  # flow_t.queued, beside QUEUE_OTHERS and QUEUE_USED
    QUEUE_PUT_OFF = 4       # closed at the level of flows, it has spoken since, and its time-out was moved on

cdef inline int64_t patience(Core k, const flow_t *f) noexcept nogil:
    """ns: the longer time-out of both ends' states counts."""
    if f.key.proto != IPPROTO_TCP or k.flat:
        return k.idle_ns[STATE_TIME_WAIT if f.flags & FLOW_CLOSED else 11]
    return max(k.idle_ns[f.end[0].state], k.idle_ns[f.end[1].state])

cdef inline void arm(Core k, flow_t *f, const pkt_t *p) noexcept nogil:
    """(Re)start the idle timer. One due earlier stays, it asks again then. `p`: the flow's packet in hand, NULL: there is none."""
    cdef int64_t when = f.last_ns + patience(k, f)
    if wheel_armed(&flow_cold(f).timer) and flow_cold(f).timer.when <= when:
        return
    if f.flags & FLOW_CLOSED:
        arm_closed(k, f, p, when)
    else:
        wheel_arm(k.idle, table_slot(k.table, f), when)

cdef inline void arm_closed(Core k, flow_t *f, const pkt_t *p, int64_t when) noexcept nogil:
    cdef bint known = p != NULL and (not k.table.n_aliases or flow_names(f) == NULL)    # the name that packets of it come by
    cdef uint64_t hash = p.hash if known else table_hash(k.table, &f.key)
    wheel_queue(k.idle, table_slot(k.table, f), when, <uint32_t>hash, QUEUE_CLOSED)

cdef inline void put_off(Core k, flow_t *f, const pkt_t *p) noexcept nogil:
    """At the level of flows, one closed by its FINs has spoken, as a rule to acknowledge the last. Its time-out moves on: it would
    come due for nothing. Once: whatever speaks on asks again when it is due, and fills no queue."""
    if f.end_reason == END_FIN and not f.queued & QUEUE_PUT_OFF:
        f.queued |= QUEUE_PUT_OFF
        arm_closed(k, f, p, f.last_ns + patience(k, f))

cdef inline void arm_new(Core k, flow_t *f, const pkt_t *p) noexcept nogil:
    """Start the idle timer of a flow whose first packet this is, for what that will make of it: most wait equally long."""
    cdef bint tcp = f.key.proto == IPPROTO_TCP and not k.flat
    cdef int64_t wait = max(k.idle_ns[STATE_SYN_SENT], k.idle_ns[STATE_LISTEN]) if tcp else patience(k, f)
    if f.flags & FLOW_MIDSTREAM:
        arm(k, f, p)
    else:
        wheel_queue(k.idle, table_slot(k.table, f), f.last_ns + wait, <uint32_t>p.hash,
                    QUEUE_HALF_OPEN if tcp else QUEUE_DATAGRAMS)

cdef inline void moved_on(Core k, flow_t *f, const pkt_t *p, int64_t before) noexcept nogil:
    """What the new states mean for the flow: its place among those to evict, its end, its time-out, which was `before`."""
    if f.flags & FLOW_EMBRYONIC and f.flags & (FLOW_ESTABLISHED | FLOW_MIDSTREAM):
        table_promote(f)
    if track_over(f) and not f.flags & FLOW_CLOSED:
        f.end_reason = END_FIN
        f.flags |= FLOW_CLOSED
    if patience(k, f) < before:
        arm(k, f, p)
