# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""From an event to the handlers that want it, in walking order, and from their answers to one verdict: the part without Python."""
from libc.stdint cimport int32_t, uint16_t, uint32_t
from mos.events.bus cimport (
    MOS_HOLD, WANTS_BYTES, Bus, answer_t, ask_predicate, bus_take_gil, hand_out, handler_t, node_t, rank_of, settle)
from mos.events.call cimport call_python
from mos.events.filtervm cimport filter_run, gate_refuses
from mos.events.handler cimport MOS_BYPASS, MOS_DETACH, MOS_DROP, MOS_RESET, action_t
from mos.events.kinds cimport NKINDS
from mos.events.ring cimport AT_SENDER, event_t
from mos.events.sets cimport set_row
from mos.flow.flow cimport flow_names

ctypedef int (*python_fn)(Bus b, handler_t *h, event_t *e, answer_t *a) noexcept nogil

cdef inline bint node_holds(Bus b, int32_t index, event_t *e) noexcept nogil:
    """Whether a narrowed event and all it narrows hold for `e`; each is asked once per event."""
    cdef node_t *n = &b.nodes[index]
    if n.stamp == b.serial:
        return n.holds
    n.stamp = b.serial
    n.holds = 0
    if n.parent >= 0 and not node_holds(b, n.parent, e):
        return False
    if n.filter != NULL:
        n.holds = filter_run(n.filter, e)
    else:
        bus_take_gil(b)
        n.holds = (<bint (*)(Bus, int32_t, event_t *) noexcept nogil>ask_predicate)(b, index, e)
    return n.holds

cdef inline bint allowed(Bus b, handler_t *h, event_t *e, int verdict) noexcept nogil:
    """A C handler's answer is one it may give to this event, as `understand` demands of Python; else it counts as PASS."""
    cdef bint may = h.answers and not h.observe and b.answerable >> e.kind & 1 and (e.at == AT_SENDER or verdict != MOS_DROP)
    if verdict == MOS_BYPASS or verdict == MOS_DETACH or (may and MOS_DROP <= verdict <= MOS_RESET):
        return True
    b.misanswers += 1
    return False

cdef inline int dispatch(Bus b, event_t *e, answer_t *a) noexcept nogil:
    """Ask every handler of `e` and merge into `a`. -1: a handler raised and the run is to stop."""
    cdef uint32_t row = (e.at * NKINDS + e.kind) * 2 + e.to_server
    cdef uint32_t i = 0, n = b.everyone[row].n
    cdef const uint16_t *order = b.everyone[row].order
    cdef handler_t *h
    cdef action_t act
    cdef int verdict
    if e.flow != NULL and e.flow.set_id:
        order = set_row(&b.sets[e.flow.set_id], row, &n)
    if n == 0:
        return 0
    b.serial += 1
    while i < n:
        h = &b.handlers[order[i]]
        i += 1
        if gate_refuses(&h.gate, e):
            continue
        if a.stopped and rank_of(b, h, e) > a.rank and not h.observe:
            continue
        if e.position != h.position and e.flow != NULL and flow_names(e.flow) != NULL:
            b.serial += 1           # other names from here on, so predicates are asked again
        e.position = h.position
        b.asking = h.index
        if h.filter != NULL and not filter_run(h.filter, e):
            continue
        if h.node >= 0 and not node_holds(b, h.node, e):
            continue
        h.calls += 1
        if h.fn != NULL:
            act.size = sizeof(action_t)
            act.published = 0
            act.why = NULL
            act.bus = <void *>b
            verdict = h.fn(h.ctx, e, &act)
            if verdict and allowed(b, h, e, verdict):
                settle(b, h, e, a, verdict, rank_of(b, h, e), act.why)
            if not act.published:
                verdict = 0
            else:
                bus_take_gil(b)
                verdict = (<python_fn>hand_out)(b, h, e, a)
        else:
            if not b.holding:
                bus_take_gil(b)
            verdict = (<python_fn>call_python)(b, h, e, a)
        if verdict:
            settle(b, h, e, a, verdict, rank_of(b, h, e), NULL)
        if b.failed:
            break
    b.asking = -1
    return -1 if b.failed else 0
