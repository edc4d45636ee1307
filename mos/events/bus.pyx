"""Who is asked: the handlers of a chain, which of them a flow has, and what becomes of their answers.

A handler set is an interned, immutable table of rows (moment, kind, direction); a flow holds just its number. Attaching
and detaching move the flow from set to set, so memory grows with distinct sets, not with flows.
"""
from libc.stdlib cimport calloc, free
from posix.stdlib cimport posix_memalign
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from mos.events.filtervm cimport Filter, filter_run
from mos.events.kinds cimport KIND_PACKET_IN, NKINDS
from mos.events.ring cimport AT_RECEIVER, AT_SENDER
from mos.events.members cimport (
    has_member, members_add, members_copy, members_find, members_free, members_init, name_switch, name_t)
from mos.events.sets cimport (
    MOMENTS, ROWS, draft_done, draft_end, goes, place_t, set_change, set_free, set_spread, set_t)
from mos.events.views cimport Event, view_bind, view_held, view_new, view_release, view_stamp

from collections.abc import Hashable

from mos.errors import ChainError, HandlerError, MosError, VerdictError
from mos.events.order import in_order, listeners, walk
from mos.events.spec import BITS, LEAVES
from mos.events.user import UserEvent
from mos.events.verdict import answered

cdef extern from "Python.h":
    void *PyEval_SaveThread() nogil
    void PyEval_RestoreThread(void *) nogil
    void *PyCapsule_GetPointer(object, const char *) except NULL
    void *PyCapsule_GetContext(object)
    object taken "Py_XNewRef"(PyObject *)   # NULL: what has been raised goes on being raised
    bint PyFunction_Check(PyObject *)
    bint PyMethod_Check(PyObject *)
    PyObject *PyMethod_GET_FUNCTION(PyObject *)
    PyObject *PyMethod_GET_SELF(PyObject *)
    vectorcall_t PyVectorcall_Function(PyObject *)
    PyObject *PyObject_Vectorcall(PyObject *, PyObject *const *, size_t, PyObject *) noexcept

cdef enum:
    MAX_HANDLERS = 4096     # a row entry is 16 bits; a chain of hundreds of boxes fits
    MAX_DEPTH = 16          # user events that publish user events: deeper is a loop
    MAX_PUBLISHED = 65536   # user events of one built-in event: more is a handler that never stops yielding

assert ROWS == MOMENTS * NKINDS * 2


cdef void answer_clear(Bus b, answer_t *a) noexcept nogil:
    """Release what an answer owns (takes the GIL if it owns anything) and reset it."""
    if a.reason != NULL or a.edits != NULL:
        bus_take_gil(b)
        (<void (*)(answer_t *) noexcept nogil>release_answer)(a)
    answer_reset(a)


cdef void set_reason(answer_t *a, reason) noexcept:
    """The reason of the verdict that is the strongest so far; that of the one before goes with it."""
    Py_XDECREF(a.reason)
    a.reason = NULL
    if reason is not None:
        Py_INCREF(reason)
        a.reason = <PyObject *>reason


cdef void release_answer(answer_t *a) noexcept:
    Py_XDECREF(a.reason)
    Py_XDECREF(a.edits)


cdef void bus_take_gil(Bus b) noexcept nogil:
    """Hold the GIL from now to the end of the batch."""
    if not b.holding:
        PyEval_RestoreThread(b.saved)
        b.holding = 1
        b.gil_takes += 1


cdef void bus_drop_gil(Bus b) noexcept nogil:
    if b.holding:
        b.saved = PyEval_SaveThread()
        b.holding = 0


cdef bint ask_predicate(Bus b, int32_t index, event_t *e) noexcept:
    cdef Event view = view_new(e.kind)
    view.engine = b.engine
    view_bind(view, e)
    try:
        return bool((<object>b.nodes[index].predicate)(view))
    except BaseException as exc:
        b.fail(b.asking, e, NULL, type(view).__name__, exc)
        return False
    finally:
        view_release(view)


cdef void leave_flow(Bus b, handler_t *h, flow_t *f, int verdict) noexcept nogil:
    b.change(f, <int>h.index if verdict == MOS_DETACH else -1 - <int>h.position, False)


cdef int hand_out(Bus b, handler_t *h, event_t *e, answer_t *a) noexcept:
    """Hand out what a handler in C has published; a verdict code."""
    cdef Event view = None
    try:
        view = b.view_for(h.index * NKINDS + e.kind, e)
        view_bind(view, e)
        return b.deliver(e, a, view)
    except BaseException as exc:
        return b.fail(h.index, e, a, LEAVES[e.kind].name, exc)
    finally:
        if view is not None:
            view_release(view)
            if view_held(view, 2):      # the list's reference and ours
                b.forget_view(h.index * NKINDS + e.kind)


cdef void intern(Bus b, uint32_t number, int what, const name_t *name) noexcept nogil:
    """Enter the next set, whose rows are made: this one with `what` if it had it not, or without."""
    cdef set_t *made = &b.sets[b.nsets]
    cdef uint64_t *bits = members_copy(&b.members, b.nsets, number)
    cdef uint32_t i
    for i in range(b.nhandlers if what < 0 else 0):
        if goes(b.places, i, what):
            bits[i >> 6] &= ~(<uint64_t>1 << (i & 63))
    if what >= 0:
        bits[what >> 6] ^= <uint64_t>1 << (what & 63)
    number_set(b, made, name)


cdef void number_set(Bus b, set_t *made, const name_t *name) noexcept nogil:
    if made.mask:   # what a handler attaches is asked about the next event: others' kinds are raised for this flow too
        made.mask |= b.any_mask & ~<uint64_t>WANTS_BYTES
    members_add(&b.members, b.nsets, name)
    b.nsets += 1


cdef int64_t find_set(Bus b, uint32_t number, int what, bint on) noexcept nogil:
    """The set that comes of this one, made if it has not been met; -1: there are as many as there may be, or no memory for it."""
    cdef name_t name = b.members.names[number]
    cdef uint32_t i
    cdef int64_t found
    if what >= 0:
        if has_member(&b.members, number, what) == on:
            return number
        name_switch(&b.members, &name, what)
    else:
        for i in range(b.nhandlers):
            if goes(b.places, i, what) and has_member(&b.members, number, i):
                name_switch(&b.members, &name, i)
    found = members_find(&b.members, &name)
    if found >= 0:
        return found
    if b.nsets == b.sets_cap or set_change(&b.sets[b.nsets], &b.sets[number], &b.draft, b.places, what, on) < 0:
        return -1
    intern(b, number, what, &name)
    return b.nsets - 1


cdef class Bus:
    """All handlers of one chain. Built once by `Chain`; `engine` is what flow views ask for attach, timer and verdict.

    `sets_cap`: distinct attachment patterns of flows; a set costs about 200 bytes. `hash_key`: 16 secret bytes.
    """

    def __cinit__(self, subscriptions, positions, engine=None, reverse=True, uint32_t sets_cap=65536, bytes hash_key=bytes(16)):
        cdef uint64_t k0 = int.from_bytes(hash_key[:8], "little"), k1 = int.from_bytes(hash_key[8:16], "little")
        self.handlers = <handler_t *>calloc(len(subscriptions) + 1, sizeof(handler_t))
        self.nodes = <node_t *>calloc(sum([len(s.predicates) for s in subscriptions]) + 1, sizeof(node_t))
        self.sets_cap = max(1, sets_cap)
        if posix_memalign(<void **>&self.sets, 64, self.sets_cap * sizeof(set_t)):
            self.sets = NULL
        self.places = <place_t *>calloc(len(subscriptions) + 1, sizeof(place_t))
        self.slots = <PyObject **>calloc((len(subscriptions) + 1) * NKINDS, sizeof(PyObject *))
        if self.handlers == NULL or self.nodes == NULL or self.sets == NULL or self.places == NULL \
                or self.slots == NULL or members_init(&self.members, len(subscriptions), self.sets_cap, k0, k1) < 0:
            raise MemoryError("no memory for the handler tables")

    def __init__(self, subscriptions, positions, engine=None, reverse=True, uint32_t sets_cap=65536, bytes hash_key=bytes(16)):
        if len(subscriptions) > MAX_HANDLERS:
            raise ChainError(f"{len(subscriptions)} handlers are more than {MAX_HANDLERS}: split the chain")
        self.positions, self.reverse, self.engine = max(1, positions), bool(reverse), engine
        self.answerable = sum([1 << BITS[k.name] for k in LEAVES if k.answers])
        self.asking = -1
        self.errors, self.user_rows, self.indices = {}, {}, {}
        self.functions, self.names, self.owners, self.policies = [], [], [], []
        self.queue, self.published = [], {}
        self.subscriptions = subscriptions
        known = {}
        for s in subscriptions:
            self.add(s, known)
        self.views = [None] * (self.nhandlers * NKINDS)
        self.spare()
        self.lay_out()

    def __dealloc__(self):
        cdef uint32_t i
        if self.sets != NULL:
            for i in range(self.nsets):
                set_free(&self.sets[i])
        free(self.sets)
        free(self.places)
        members_free(&self.members)
        free(self.draft.order)
        free(self.slots)
        free(self.handlers)
        free(self.nodes)

    cdef int add(self, s, dict known) except -1:
        """Enter one subscription; `known` shares narrowed events between those that are equal."""
        cdef uint32_t i = self.nhandlers
        cdef handler_t *h = &self.handlers[i]
        h.index, h.position, h.edits = i, s.position, s.edits
        h.observe, h.attached, h.answers = bool(s.observe), bool(s.attached), bool(s.answers)
        h.node = self.node_for(s, known)
        if s.predicates and isinstance(s.compiled[0], Filter):  # the first that is asked
            h.gate = (<Filter>s.compiled[0]).c.gate
        if s.filter is not None:
            h.filter = (<Filter?>s.filter).c
            h.gate = h.filter.gate
            self.owners.append(s.filter)
        if s.capsule is not None:
            h.fn = <handler_fn>PyCapsule_GetPointer(s.capsule, "mos.handler.v1")
            h.ctx = PyCapsule_GetContext(s.capsule)
            self.owners.append(s.capsule)
        else:
            self.python = 1
            h.function = <PyObject *>s.function
            if PyMethod_Check(h.function):
                h.function, h.self = PyMethod_GET_FUNCTION(h.function), PyMethod_GET_SELF(h.function)
            h.call = PyVectorcall_Function(h.function) if PyFunction_Check(h.function) else PyObject_Vectorcall
        self.functions.append(s.function)
        if isinstance(s.function, Hashable):
            self.indices.setdefault(s.function, []).append(i)
        self.names.append(s.name)
        self.policies.append(s.policy)
        for at in s.moments:
            if at == AT_RECEIVER:
                self.want_receiver |= s.kind_mask
            elif at != AT_SENDER:
                self.want_acked |= s.kind_mask
        self.any_mask |= s.kind_mask
        self.nhandlers += 1
        return 0

    cdef int node_for(self, s, dict known) except -2:
        cdef int parent = -1
        for depth in range(len(s.predicates)):
            key = (s.root, s.predicates[:depth + 1])
            if key not in known:
                p = s.compiled[depth]
                self.nodes[self.nnodes].parent = parent
                if isinstance(p, Filter):
                    self.nodes[self.nnodes].filter = (<Filter>p).c
                else:
                    self.nodes[self.nnodes].predicate = <PyObject *>p
                self.owners.append(p)
                known[key] = self.nnodes
                self.nnodes += 1
            parent = known[key]
        return parent

    cdef int spare(self) except -1:
        """Most packets are TCP's: they are not raised, packet by packet, for filters that only want others."""
        mine = [s for s in self.subscriptions if s.kind_mask >> KIND_PACKET_IN & 1]
        if mine and all(s.predicates or s.filter is not None for s in mine):
            from mos.events.filter.facts import spares_tcp  # whoever has filters has loaded it
            self.spared = <uint64_t>spares_tcp(mine, KIND_PACKET_IN) << KIND_PACKET_IN
        return 0

    cdef int lay_out(self) except -1:
        """Where each handler stands, and the set of those that are attached from a flow's start."""
        cdef uint32_t row, i
        cdef set_t *first = self.sets
        cdef name_t name
        name.at = name.rest = 0
        rows = walk(self.subscriptions, range(self.nhandlers), self.reverse)
        self.draft.order = <uint16_t *>calloc(sum([len(r) for r in rows]) + 1, sizeof(uint16_t))
        if self.draft.order == NULL:
            raise MemoryError("no memory for a handler set")
        for to_server, sign in enumerate((-1 if self.reverse else 1, 1)):
            for rank, i in enumerate(in_order(self.subscriptions, range(self.nhandlers), sign)):
                self.places[i].rank[to_server], self.places[i].position = rank, self.handlers[i].position
        first.mask = first.rows[0] = first.rows[1] = 0
        for row in range(ROWS):
            for i in rows[row]:
                self.places[i].rows[row >> 6] |= <uint64_t>1 << (row & 63)
                if self.handlers[i].attached:
                    self.draft.order[self.draft.n] = <uint16_t>i
                    self.draft.n += 1
            draft_end(&self.draft, first, row)
        if draft_done(&self.draft, first) < 0:
            raise MemoryError("no memory for a handler set")
        for i in range(self.nhandlers):
            if self.handlers[i].attached:
                name_switch(&self.members, &name, i)
                self.members.bits[i >> 6] |= <uint64_t>1 << (i & 63)
        number_set(self, first, &name)
        set_spread(first, self.everyone)
        return 0

    cdef bint change(self, flow_t *f, int what, bint on) noexcept nogil:
        """Attach or detach handler `what` (-1 - p: all of the box at p) for a flow; False: the cap on sets refused it."""
        cdef int64_t found = find_set(self, f.set_id, what, on)
        if found < 0:
            self.sets_refused += 1
            return False
        use_set(self, f, <uint32_t>found)
        return True

    cdef bint attach_flow(self, flow_t *f, fn, bint on) except -1:
        """Attach `fn` to the flow, or detach it: `Flow.attach` ends here."""
        cdef bint all_done = True
        try:
            found = self.indices.get(fn)
        except TypeError:       # it has no hash
            found = None
        if found is None:
            raise MosError(f"{getattr(fn, '__name__', fn)!r} is no handler of this chain: mark it with @on(…, attached=False)")
        for i in <list>found:
            if not self.change(f, i, on):
                all_done = False
        return all_done

    cdef Event view_for(self, uint32_t slot, const event_t *e):
        """A view of events of this kind for one handler, to be used again for each of them."""
        cdef Event view = self.views[slot]
        if view is None:
            view = view_new(e.kind)
            view.engine = self.engine
            self.views[slot] = view
            self.slots[slot] = <PyObject *>view
        return view

    cdef void forget_view(self, uint32_t slot) noexcept:
        """Somebody keeps this view: the next event gets another, or a stale one would come alive."""
        self.slots[slot] = NULL
        self.views[slot] = None

    cdef PyObject *new_view(self, handler_t *h, event_t *e, answer_t *a, int *verdict) noexcept:
        """view_for, borrowed; NULL: there is no memory for it, and `verdict` says what comes of that."""
        try:
            self.view_for(h.index * NKINDS + e.kind, e)
            return self.slots[h.index * NKINDS + e.kind]
        except BaseException as exc:
            verdict[0] = self.fail(h.index, e, a, LEAVES[e.kind].name, exc)
            return NULL

    cdef int settle_call(self, handler_t *h, event_t *e, answer_t *a, Event view, PyObject *result) noexcept:
        """The verdict code of a call that gave anything but None. Takes `result` over; NULL: the handler has raised."""
        try:
            answer = taken(result)
            Py_XDECREF(result)
            return self.understand(h, e, a, view, answer)
        except BaseException as exc:
            return self.fail(h.index, e, a, type(view).__name__, exc)

    cdef int understand(self, handler_t *h, event_t *e, answer_t *a, Event view, result) except -1:
        """The verdict code of what a handler returned; remembers reason and edit. Raises VerdictError."""
        if hasattr(result, "__next__"):
            self.publish(result, 1, e)
            return self.deliver(e, a, view)
        code = answered(result, self.names[h.index], type(view).__name__,
                        h.answers and view.answers and not h.observe, e.at != AT_SENDER, h.edits)
        if code == MOS_EDIT:
            self.note_edit(h, e, a, result.payload)
        if a.verdict < code < MOS_BYPASS:
            set_reason(a, result.reason)
        return code

    cdef int note_edit(self, handler_t *h, event_t *e, answer_t *a, payload) except -1:
        """Later NFs of this walk see new bytes and names at once; the frame is changed when it is forwarded."""
        if payload[0] == "rewrite":
            if payload[1:3] != (None, None):
                if e.flow == NULL:
                    raise VerdictError(f"{self.names[h.index]}: Rewrite(client=…, server=…) needs a flow, and the packet has none")
                self.engine.name_flow(<size_t>e.flow, h.position, payload[1], payload[2])
        elif e.data == NULL or len(payload[1]) != <Py_ssize_t>e.length:
            raise VerdictError(f"{self.names[h.index]}: Replace has {len(payload[1])} bytes, the event "
                               f"{e.length if e.data != NULL else 0}")
        elif not in_packet(e) and (a.edits == NULL or not any([o == e.offset and p[0] == "replace" for _, o, p in <list>a.edits])):
            raise VerdictError(f"{self.names[h.index]}: the bytes at stream offset {e.offset} came in an earlier packet, which has "
                               "been forwarded, or in fragments: Replace reaches only the packet at hand")
        if a.edits == NULL:
            edits = []
            Py_INCREF(edits)
            a.edits = <PyObject *>edits
        (<list>a.edits).append((h.position, e.offset, payload))
        if payload[0] == "replace":
            e.data = <const uint8_t *><char *>(<bytes>payload[1])
        return 0

    cdef int publish(self, users, int depth, const event_t *e) except -1:
        """Queue what a handler yields; it is delivered after the handler. One that raises publishes nothing."""
        cdef Py_ssize_t before = len(self.queue)
        try:
            for user in users:
                self.publish_for(e, user, depth)
        except BaseException:
            del self.queue[before:]
            raise
        return 0

    cdef int publish_for(self, const event_t *e, user, int depth) except -1:
        if not isinstance(user, UserEvent):
            raise MosError(f"published {user!r}: only instances of a class derived from UserEvent can be")
        if depth > MAX_DEPTH:
            raise MosError(f"user events published {MAX_DEPTH} deep: a handler publishes what it subscribes to")
        if len(self.queue) == MAX_PUBLISHED:
            raise MosError(f"{MAX_PUBLISHED} user events published for one event: yield fewer")
        view_stamp(user, e, self.engine)
        self.queue.append((depth, user))
        return 0

    cdef int deliver(self, event_t *e, answer_t *a, Event view) except -1:
        """Hand queued user events to their subscribers. Answers count as answers to the event they came from."""
        cdef Py_ssize_t i = 0
        cdef uint32_t number
        try:
            while i < len(self.queue) and not self.failed:
                depth, user = self.queue[i]
                number = e.flow.set_id if e.flow != NULL else 0
                i += 1
                name = type(user).__name__
                self.published[name] = self.published.get(name, 0) + 1
                for index in listeners(self.subscriptions, type(user), self.user_rows):
                    if has_member(&self.members, number, index) and not self.failed:
                        self.ask_user(index, user, depth, e, a, view)
        finally:
            self.queue.clear()
        return MOS_PASS

    cdef int ask_user(self, uint32_t index, user, int depth, event_t *e, answer_t *a, Event view) except -1:
        """One subscriber of a user event, wherever it stands: a drop stops a packet's walk, not what is told about it."""
        cdef handler_t *h = &self.handlers[index]
        cdef int32_t publisher = self.asking
        cdef int code = MOS_PASS
        self.asking = index
        try:
            for p in self.subscriptions[index].compiled:
                if not (self.holds_for(p, user, e) if isinstance(p, Filter) else p(user)):
                    return 0
            h.calls += 1
            result = self.functions[index](user)
            if hasattr(result, "__next__"):
                self.publish(result, depth + 1, e)
            elif result is not None:
                code = answered(result, self.names[index], f"{type(user).__name__} of {type(view).__name__}",
                                not h.observe and type(view).answers, e.at != AT_SENDER, -1)
                if a.verdict < code < MOS_BYPASS:
                    set_reason(a, result.reason)
        except BaseException as exc:
            code = self.fail(index, e, a, type(user).__name__, exc)
        finally:
            self.asking = publisher
        if code:
            settle(self, h, e, a, code, rank_of(self, h, e), NULL)
        return 0

    cdef bint holds_for(self, Filter f, user, event_t *cause) except -1:
        """Run a filter on a user event: on its record, and on the flow and packet of the event it came from."""
        cdef event_t e = cause[0]
        cdef bytes record = user.record()
        e.obj = <void *><char *>record
        return filter_run(f.c, &e)

    cdef int fail(self, int32_t index, event_t *e, answer_t *a, str what, exc) except -1:
        """A handler raised. By policy: stop the run, let the packet pass, drop it, or take the handler off the flow."""
        name, policy = self.names[index], self.policies[index]
        self.errors[name] = self.errors.get(name, 0) + 1
        if policy == "raise" or not isinstance(exc, Exception):
            number = e.pkt.number if e.pkt != NULL else 0
            error = HandlerError(f"{name} raised {type(exc).__name__} at packet {number}, {what}: {exc}", number)
            error.__cause__ = exc
            self.error = exc if not isinstance(exc, Exception) else error
            self.failed = 1
            return MOS_PASS
        if self.errors[name] == 1 and self.engine is not None:
            self.engine.raised_first(name, what, e.pkt.number if e.pkt != NULL else 0, exc)
        if policy != "fail_closed":
            return MOS_DETACH if policy == "detach" else MOS_PASS
        code = MOS_DROP if e.at == AT_SENDER else MOS_DROP_FLOW
        if a != NULL and code > a.verdict and self.handlers[index].answers:
            set_reason(a, f"{what}: {type(exc).__name__}: {exc}")
        return code

    def counters(self):
        """Calls and errors per handler, sets, GIL takes."""
        return {"calls": {self.names[i]: self.handlers[i].calls for i in range(self.nhandlers)}, "errors": dict(self.errors),
                "misanswers": self.misanswers, "sets": self.nsets, "sets_refused": self.sets_refused, "gil_takes": self.gil_takes,
                "published": dict(self.published)}
