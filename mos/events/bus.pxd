# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Who listens to what, for which flow, in which order; and what they answered. Knows handlers, not TCP."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cpython.object cimport PyObject
from mos.events.filtervm cimport Filter, gate_t, program_t
from mos.events.handler cimport (
    MOS_BYPASS, MOS_DETACH, MOS_DROP, MOS_DROP_FLOW, MOS_EDIT, MOS_HOLD, MOS_PASS, MOS_RESET, action_t, handler_fn)
from mos.events.kinds cimport KIND_OVERLAP_CONFLICT, KIND_STREAM_DATA, KIND_STREAM_GAP
from mos.events.ring cimport EV_UNSENT, event_t
from mos.events.members cimport members_t
from mos.events.sets cimport ROWS, draft_t, place_t, row_t, set_t
from mos.events.views cimport Event
from mos.flow.flow cimport FLOW_MIDSTREAM, flow_t
from mos.net.packet cimport IPPROTO_TCP

cdef enum:
    WANTS_BYTES = 1 << KIND_STREAM_DATA | 1 << KIND_STREAM_GAP | 1 << KIND_OVERLAP_CONFLICT

ctypedef PyObject *(*vectorcall_t "vectorcallfunc")(PyObject *, PyObject *const *, size_t, PyObject *) noexcept

cdef struct handler_t:
    handler_fn fn           # NULL: a Python callable
    void   *ctx
    const program_t *filter # NULL: everything
    int32_t  node            # narrowed event it listens to, -1: none
    uint32_t index
    uint16_t position       # of its NF in the chain
    uint8_t  observe        # is asked also after a drop before it, and cannot answer
    uint8_t  edits          # 0 none, 1 header, 2 same_length
    uint8_t  attached       # for every flow from its start
    uint8_t  answers        # a verdict is allowed (the kind's contract)
    gate_t   gate           # of its filter, or of the event it listens to
    uint64_t calls
    vectorcall_t call       # of a Python handler: as PyObject_Vectorcall; looked up once
    PyObject *function      # borrowed, a method's function
    PyObject *self          # borrowed, a method's object; else NULL

cdef struct node_t:         # an event narrowed by a predicate
    int32_t  parent
    const program_t *filter # NULL: `predicate` is a Python callable
    PyObject *predicate
    uint64_t stamp          # event serial for which `holds` was computed
    uint8_t  holds

cdef struct answer_t:       # merged over one packet's walk
    uint8_t  verdict
    uint8_t  stopped        # a drop stopped the walk at `rank`
    uint16_t position       # who answered
    uint32_t handler
    int      rank           # walking rank of that position
    PyObject *reason        # owned str, or NULL
    const char *why
    PyObject *edits         # owned list of (position, kind, payload …), or NULL

cdef inline void answer_reset(answer_t *a) noexcept nogil:
    """No answer yet. Needs no GIL: `answer_clear` has released what the last one owned."""
    a.verdict, a.stopped, a.position, a.handler, a.rank = MOS_PASS, 0, 0, 0, -1
    a.reason = NULL
    a.why = NULL
    a.edits = NULL

cdef inline bint in_packet(const event_t *e) noexcept nogil:
    """The event's bytes lie in the frame of its packet, or have not left for another reason: they can still be changed."""
    return e.flags & EV_UNSENT or e.pkt != NULL and not e.pkt.reassembled and e.pkt.payload <= e.data \
        and e.data + e.length <= e.pkt.payload + e.pkt.payload_cap

cdef class Bus:
    cdef handler_t *handlers
    cdef node_t *nodes
    cdef place_t *places        # by handler
    cdef set_t *sets
    cdef row_t everyone[ROWS]   # of the set that flows begin with
    cdef members_t members
    cdef draft_t draft
    cdef uint32_t nhandlers, nnodes, nsets, sets_cap
    cdef uint16_t positions
    cdef uint64_t serial        # of events dispatched
    cdef uint64_t answerable    # kinds that may be answered
    cdef uint64_t any_mask      # kinds that some handler of any set wants
    cdef uint64_t want_receiver, want_acked     # kinds wanted at those moments
    cdef uint8_t flat           # TCP flows have no streams
    cdef uint64_t spared        # kinds that nobody can want of a TCP flow's packets
    cdef uint64_t withheld      # kinds that a flow picked up without its SYN never has
    cdef uint8_t reverse        # server→client walks the chain backwards
    cdef uint8_t failed         # a handler raised and the policy is to stop
    cdef uint8_t python         # some handler is Python
    cdef uint8_t holding        # this thread holds the GIL
    cdef void *saved            # its thread state while it does not
    cdef uint64_t sets_refused
    cdef uint64_t gil_takes
    cdef uint64_t misanswers            # answers of C handlers that their event does not allow
    cdef readonly object error          # the HandlerError that stopped the run
    cdef readonly dict errors           # handler name -> count
    cdef readonly list functions        # Python callables by handler index, None for C
    cdef readonly list names            # "nf.handler" by index
    cdef list views                     # reusable Event per handler and kind, None: not made yet, or somebody kept it
    cdef PyObject **slots               # the same, borrowed; NULL for None
    cdef list owners                    # what keeps filters and C contexts alive
    cdef list policies                  # per handler: raise, fail_open, fail_closed, detach
    cdef dict indices                   # callable -> [handler index]
    cdef dict user_rows                 # user event class -> [handler index] in order
    cdef list queue                     # (depth, user event) awaiting delivery
    cdef int32_t asking                 # handler that is being asked, -1: none
    cdef readonly object engine
    cdef dict published                 # user event class name -> count
    cdef list subscriptions

    cdef int add(self, s, dict known) except -1
    cdef int node_for(self, s, dict known) except -2
    cdef int spare(self) except -1
    cdef int lay_out(self) except -1
    cdef bint change(self, flow_t *f, int what, bint on) noexcept nogil
    cdef bint attach_flow(self, flow_t *f, fn, bint on) except -1
    cdef PyObject *new_view(self, handler_t *h, event_t *e, answer_t *a, int *verdict) noexcept
    cdef int settle_call(self, handler_t *h, event_t *e, answer_t *a, Event view, PyObject *result) noexcept
    cdef Event view_for(self, uint32_t slot, const event_t *e)
    cdef void forget_view(self, uint32_t slot) noexcept
    cdef int understand(self, handler_t *h, event_t *e, answer_t *a, Event view, result) except -1
    cdef int note_edit(self, handler_t *h, event_t *e, answer_t *a, payload) except -1
    cdef int publish(self, users, int depth, const event_t *e) except -1
    cdef int publish_for(self, const event_t *e, user, int depth) except -1
    cdef int deliver(self, event_t *e, answer_t *a, Event view) except -1
    cdef int ask_user(self, uint32_t index, user, int depth, event_t *e, answer_t *a, Event view) except -1
    cdef bint holds_for(self, Filter f, user, event_t *cause) except -1
    cdef int fail(self, int32_t index, event_t *e, answer_t *a, str what, exc) except -1

cdef void bus_take_gil(Bus b) noexcept nogil
cdef void bus_drop_gil(Bus b) noexcept nogil
cdef void answer_clear(Bus b, answer_t *a) noexcept nogil
cdef void set_reason(answer_t *a, reason) noexcept
cdef bint ask_predicate(Bus b, int32_t index, event_t *e) noexcept
cdef void leave_flow(Bus b, handler_t *h, flow_t *f, int verdict) noexcept nogil
cdef int hand_out(Bus b, handler_t *h, event_t *e, answer_t *a) noexcept

cdef inline void use_set(Bus b, flow_t *f, uint32_t number) noexcept nogil:
    """From now on the handlers of this set are asked about the flow."""
    f.set_id = number
    f.mask = b.sets[number].mask
    if f.flags & FLOW_MIDSTREAM:
        f.mask &= ~b.withheld
    if f.key.proto == IPPROTO_TCP:
        f.mask &= ~(b.spared | (<uint64_t>WANTS_BYTES if b.flat else 0))

cdef inline int rank_of(Bus b, const handler_t *h, const event_t *e) noexcept nogil:
    """How far down the walk of this direction the handler's box stands."""
    return h.position if e.to_server or not b.reverse else b.positions - 1 - h.position

cdef inline void settle(Bus b, handler_t *h, event_t *e, answer_t *a, int verdict, int rank, const char *why) noexcept nogil:
    """Merge one answer. BYPASS and DETACH take effect for the flow's next event; the strongest verdict stands."""
    if verdict >= MOS_BYPASS:
        if e.flow != NULL:
            leave_flow(b, h, e.flow, verdict)
        return
    if h.observe or not h.answers or not b.answerable >> e.kind & 1 or e.pkt == NULL:   # no packet: a flow's last bytes
        return
    if verdict == MOS_EDIT:
        b.serial += 1               # other bytes from here on, so predicates are asked again
    if verdict > a.verdict:
        a.verdict, a.position, a.handler, a.why = <uint8_t>verdict, h.position, h.index, why
        if h.fn != NULL and a.reason != NULL:
            bus_take_gil(b)
            (<void (*)(answer_t *, object) noexcept nogil>set_reason)(a, None)
    if verdict >= MOS_HOLD and (not a.stopped or rank < a.rank):
        a.stopped = 1
        a.rank = rank
