"""Dispatch: from an event to the handlers that want it, in walking order, and from their answers to one verdict.

A handler set is an interned, immutable table of rows (moment, kind, direction); a flow holds just its number. Attaching
and detaching move the flow along cached transitions between sets, so memory grows with distinct sets, not with flows.
"""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from mos.events.filtervm cimport Filter, filter_run
from mos.events.kinds cimport NKINDS, KIND_TCP_STATE_CHANGE
from mos.events.ring cimport AT_RECEIVER, AT_SENDER
from mos.events.views cimport Event, view_bind, view_held, view_new, view_release, view_stamp

from mos.errors import ChainError, HandlerError, MosError, VerdictError
from mos.events.user import UserEvent
from mos.events.verdict import Verdict

cdef extern from "Python.h":
    void *PyEval_SaveThread() nogil
    void PyEval_RestoreThread(void *) nogil
    void *PyCapsule_GetPointer(object, const char *) except NULL
    void *PyCapsule_GetContext(object)

cdef enum:
    MOMENTS = 3
    ROWS = MOMENTS * 19 * 2
    MAX_SETS = 65536        # distinct attachment patterns; a set costs about 0.5 KB, so 32 MB at the worst
    MAX_HANDLERS = 4096     # a row entry is 16 bits; a chain of hundreds of boxes fits
    MAX_DEPTH = 16          # user events that publish user events: deeper is a loop

assert ROWS == MOMENTS * NKINDS * 2

ctypedef int (*python_fn)(Bus b, handler_t *h, event_t *e, answer_t *a) noexcept nogil


cdef void answer_reset(answer_t *a) noexcept nogil:
    """No answer yet. Needs no GIL: `answer_clear` has released what the last one owned."""
    a.verdict, a.stopped, a.position, a.handler, a.rank = MOS_PASS, 0, 0, 0, -1
    a.reason = NULL
    a.why = NULL
    a.edits = NULL


cdef void answer_clear(Bus b, answer_t *a) noexcept nogil:
    """Release what an answer owns (takes the GIL if it owns anything) and reset it."""
    if a.reason != NULL or a.edits != NULL:
        bus_take_gil(b)
        (<void (*)(answer_t *) noexcept nogil>release_answer)(a)
    answer_reset(a)


cdef void note_reason(answer_t *a, verdict, int strongest) noexcept:
    """The reason of a verdict that is stronger than those before it takes the place of theirs."""
    if verdict.reason is not None and strongest < verdict.code < MOS_BYPASS:
        Py_INCREF(verdict.reason)
        Py_XDECREF(a.reason)
        a.reason = <PyObject *>verdict.reason


cdef void release_answer(answer_t *a) noexcept:
    Py_XDECREF(a.reason)
    Py_XDECREF(a.edits)


cdef void release_reason(answer_t *a) noexcept:
    Py_XDECREF(a.reason)
    a.reason = NULL


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


cdef bint node_holds(Bus b, int32_t index, event_t *e) noexcept nogil:
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


cdef bint ask_predicate(Bus b, int32_t index, event_t *e) noexcept:
    cdef Event view = view_new(e.kind)
    view.engine = b.engine
    view_bind(view, e)
    try:
        return bool((<object>b.nodes[index].predicate)(view))
    except BaseException as exc:
        b.fail(f"predicate {getattr(<object>b.nodes[index].predicate, '__name__', '?')}", view, exc, "raise")
        return False
    finally:
        view_release(view)


cdef int bus_event(Bus b, event_t *e, answer_t *a) noexcept nogil:
    """Ask every handler of `e` and merge into `a`. -1: a handler raised and the run is to stop."""
    cdef set_t *s = &b.sets[e.flow.set_id if e.flow != NULL else 0]
    cdef uint32_t row = (e.at * NKINDS + e.kind) * 2 + e.to_server
    cdef uint32_t i = s.start[row], end = s.start[row + 1]
    cdef handler_t *h
    cdef action_t act
    cdef int rank, verdict
    if i == end:
        return 0
    b.serial += 1
    while i < end:
        h = &b.handlers[s.order[i]]
        i += 1
        rank = h.position if e.to_server or not b.reverse else b.positions - 1 - h.position
        if a.stopped and rank > a.rank and not h.observe:
            continue
        e.position = h.position
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
                settle(b, h, e, a, verdict, rank, act.why)
            if act.published:
                bus_take_gil(b)
                verdict = (<python_fn>call_python)(b, h, e, a)
                if verdict:
                    settle(b, h, e, a, verdict, rank, NULL)
        else:
            bus_take_gil(b)
            verdict = (<python_fn>call_python)(b, h, e, a)
            if verdict:
                settle(b, h, e, a, verdict, rank, NULL)
        if b.failed:
            return -1
    return 0


cdef bint allowed(Bus b, handler_t *h, const event_t *e, int verdict) noexcept nogil:
    """A C handler's answer is one it may give to this event, as `understand` demands of Python; else it counts as PASS."""
    cdef bint may = h.answers and not h.observe and (e.at == AT_SENDER or verdict != MOS_DROP)
    if verdict == MOS_BYPASS or verdict == MOS_DETACH or (may and MOS_DROP <= verdict <= MOS_RESET):
        return True
    b.misanswers += 1
    return False


cdef void settle(Bus b, handler_t *h, event_t *e, answer_t *a, int verdict, int rank, const char *why) noexcept nogil:
    """Merge one answer. BYPASS and DETACH take effect for the flow's next event; the strongest verdict stands."""
    if verdict >= MOS_BYPASS:
        if e.flow != NULL:
            bus_take_gil(b)
            (<void (*)(Bus, handler_t *, flow_t *, int) noexcept nogil>leave_flow)(b, h, e.flow, verdict)
        return
    if h.observe or not h.answers or e.pkt == NULL:     # a flow's last bytes: their packets are gone
        return
    if verdict > a.verdict:
        a.verdict = <uint8_t>verdict
        a.position = h.position
        a.handler = h.index
        a.why = why
        if h.fn != NULL and a.reason != NULL:
            bus_take_gil(b)
            (<void (*)(answer_t *) noexcept nogil>release_reason)(a)
    if verdict >= MOS_HOLD and (not a.stopped or rank < a.rank):
        a.stopped = 1
        a.rank = rank


cdef void leave_flow(Bus b, handler_t *h, flow_t *f, int verdict) noexcept:
    cdef uint32_t i
    if verdict == MOS_DETACH:
        b.change(f, h.index, False)
        return
    for i in range(b.nhandlers):
        if b.handlers[i].position == h.position:
            b.change(f, i, False)


cdef int call_python(Bus b, handler_t *h, event_t *e, answer_t *a) noexcept:
    """Call a Python handler with its reusable view, or hand out what one in C has published; a verdict code.

    Whatever is raised is settled here.
    """
    cdef uint32_t slot = h.index * NKINDS + e.kind
    cdef Event view = <Event>b.views[slot]
    if view is None:
        view = view_new(e.kind)
        view.engine = b.engine
        b.views[slot] = view
    view_bind(view, e)
    try:
        if h.fn != NULL:
            return b.deliver(a, view)
        result = b.functions[h.index](view)
        if result is None:
            return MOS_PASS if not b.queue else b.deliver(a, view)
        return b.understand(h, e, a, view, result)
    except BaseException as exc:
        return b.fail(b.names[h.index], view, exc, b.policies[h.index])
    finally:
        view_release(view)
        if view_held(view, 2):      # the list's reference and ours
            b.views[slot] = None


cdef class Bus:
    """All handlers of one chain. Built once by `Chain`; `engine` is what flow views ask for attach, timer and verdict."""

    def __cinit__(self, subscriptions, positions, engine=None, reverse=True):
        self.handlers = <handler_t *>calloc(len(subscriptions) + 1, sizeof(handler_t))
        self.nodes = <node_t *>calloc(sum([len(s.predicates) for s in subscriptions]) + 1, sizeof(node_t))
        self.sets = <set_t *>calloc(MAX_SETS, sizeof(set_t))
        if self.handlers == NULL or self.nodes == NULL or self.sets == NULL:
            raise MemoryError("no memory for the handler tables")

    def __init__(self, subscriptions, positions, engine=None, reverse=True):
        if len(subscriptions) > MAX_HANDLERS:
            raise ChainError(f"{len(subscriptions)} handlers are more than {MAX_HANDLERS}: split the chain")
        self.positions, self.reverse, self.engine = max(1, positions), bool(reverse), engine
        self.errors, self.transitions, self.interned, self.user_rows = {}, {}, {}, {}
        self.functions, self.names, self.owners, self.policies = [], [], [], []
        self.members, self.queue, self.published = [], [], {}
        self.subscriptions = subscriptions
        known = {}
        for s in subscriptions:
            self.add(s, known)
        self.views = [None] * (self.nhandlers * NKINDS)
        self.intern(frozenset(i for i in range(self.nhandlers) if self.handlers[i].attached))

    def __dealloc__(self):
        cdef uint32_t i
        if self.sets != NULL:
            for i in range(self.nsets):
                free(self.sets[i].start)
                free(self.sets[i].order)
        free(self.sets)
        free(self.handlers)
        free(self.nodes)

    cdef int add(self, s, dict known) except -1:
        """Enter one subscription; `known` shares narrowed events between those that are equal."""
        cdef uint32_t i = self.nhandlers
        cdef handler_t *h = &self.handlers[i]
        h.index, h.position, h.edits = i, s.position, s.edits
        h.observe, h.attached, h.answers = bool(s.observe), bool(s.attached), bool(s.answers)
        h.node = self.node_for(s, known)
        if s.filter is not None:
            h.filter = (<Filter?>s.filter).c
            self.owners.append(s.filter)
        if s.capsule is not None:
            h.fn = <handler_fn>PyCapsule_GetPointer(s.capsule, "mos.handler.v1")
            h.ctx = PyCapsule_GetContext(s.capsule)
            self.owners.append(s.capsule)
        else:
            self.python = 1
        self.functions.append(s.function)
        self.names.append(s.name)
        self.policies.append(s.policy)
        for at in s.moments:
            if at == AT_RECEIVER:
                self.want_receiver |= s.kind_mask
            elif at != AT_SENDER:
                self.want_acked |= s.kind_mask
        self.any_mask |= s.kind_mask
        if s.user_class is not None:
            self.user_rows.setdefault(s.user_class, []).append(i)
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

    cdef int64_t intern(self, members) except -2:
        """Number of the set with these handlers; -1: the cap is reached."""
        cdef set_t *s
        cdef uint32_t row, n = 0
        if members in self.interned:
            return self.interned[members]
        if self.nsets == MAX_SETS:
            self.sets_refused += 1
            return -1
        rows = self.rows(members)
        s = &self.sets[self.nsets]
        s.start = <uint32_t *>malloc((ROWS + 1) * sizeof(uint32_t))
        s.order = <uint16_t *>malloc((sum([len(r) for r in rows]) + 1) * sizeof(uint16_t))
        if s.start == NULL or s.order == NULL:
            raise MemoryError("no memory for a handler set")
        for row in range(ROWS):
            s.start[row] = n
            for index in rows[row]:
                s.order[n] = index
                n += 1
            if rows[row]:
                s.mask |= <uint64_t>1 << (row // 2 % NKINDS)
        s.start[ROWS] = n
        self.interned[members] = self.nsets
        self.members.append(members)
        self.nsets += 1
        return self.nsets - 1

    def rows(self, members):
        """Handler indices per (moment, kind, direction), in walking order.

        A state change has its own moment: who subscribes to it before the packet is forwarded gets both ends' changes.
        """
        out = []
        for at in range(MOMENTS):
            for kind in range(NKINDS):
                wanted = [at, AT_SENDER] if kind == KIND_TCP_STATE_CHANGE and at == AT_RECEIVER else [at]
                mine = [i for i in sorted(members) if self.subscriptions[i].kind_mask >> kind & 1
                        and any(m in wanted for m in self.subscriptions[i].moments)]
                for to_server in (0, 1):
                    sign = 1 if to_server or not self.reverse else -1
                    out.append(sorted(mine, key=lambda i: (not self.subscriptions[i].first, sign * self.subscriptions[i].position,
                                                           self.subscriptions[i].priority, i)))
        return out

    cdef int change(self, flow_t *f, uint32_t handler, bint on) except -1:
        """Attach or detach one handler for one flow; 0: the cap on distinct sets refused it."""
        cdef int64_t new
        key = (f.set_id, handler, on)
        cached = self.transitions.get(key)
        if cached is None:
            members = self.members[f.set_id]
            cached = self.intern(members | {handler} if on else members - {handler})
            if cached < 0:
                return 0
            self.transitions[key] = cached
        new = cached
        f.set_id = <uint32_t>new
        f.mask = self.sets[new].mask
        return 1

    def attach_flow(self, size_t flow, fn, bint on):
        """Attach (or detach) `fn` for the flow at this address: `Flow.attach` ends here."""
        found = [i for i in range(self.nhandlers) if self.functions[i] == fn]
        if not found:
            raise MosError(f"{getattr(fn, '__name__', fn)!r} is no handler of this chain: mark it with @on(…, attached=False)")
        for i in found:
            if not self.change(<flow_t *>flow, i, on):
                raise MosError(f"{MAX_SETS} distinct handler sets are in use: attach fewer combinations")

    cdef int understand(self, handler_t *h, event_t *e, answer_t *a, Event view, result) except -1:
        """The verdict code of what a handler returned; remembers reason and edit. Raises VerdictError."""
        if not isinstance(result, Verdict):
            if hasattr(result, "__next__"):
                for user in result:
                    self.publish(user, view)
                return self.deliver(a, view)
            raise VerdictError(f"{self.names[h.index]} returned {result!r}: answer None or a verdict "
                               "(PASS, DROP, DROP_FLOW, RESET, BYPASS, DETACH, Replace, Rewrite)")
        code = result.code
        if code == MOS_PASS or code >= MOS_BYPASS:
            return code
        if h.observe or not h.answers:
            raise VerdictError(f"{self.names[h.index]} answered {result!r} to {type(view).__name__}, which may only be observed")
        if e.at != AT_SENDER and code < MOS_DROP_FLOW:
            raise VerdictError(f"{self.names[h.index]} answered {result!r} after the packet was committed: only DROP_FLOW "
                               "and RESET are possible then")
        if code == MOS_EDIT:
            self.note_edit(h, e, a, result)
        note_reason(a, result, a.verdict)
        return code if not self.queue else (self.deliver(a, view) or code)

    cdef int note_edit(self, handler_t *h, event_t *e, answer_t *a, verdict) except -1:
        """Check an edit against what the handler declared; later NFs of this walk see other bytes and names at once."""
        kind = verdict.payload[0]
        needed = 2 if kind == "replace" else 1
        if h.edits != needed:
            raise VerdictError(f"{self.names[h.index]} answered {kind.capitalize()} without declaring it: "
                               f"@on(…, edits={'same_length' if needed == 2 else 'header'!r})")
        if kind == "replace" and (e.data == NULL or len(verdict.payload[1]) != <Py_ssize_t>e.length):
            raise VerdictError(f"{self.names[h.index]}: Replace has {len(verdict.payload[1])} bytes, the event {e.length}")
        if a.edits == NULL:
            edits = []
            Py_INCREF(edits)
            a.edits = <PyObject *>edits
        (<list>a.edits).append((h.position, e.offset, verdict.payload))
        if kind == "rewrite" and e.flow != NULL and verdict.payload[1:3] != (None, None):
            self.engine.name_flow(<size_t>e.flow, h.position, verdict.payload[1], verdict.payload[2])
        if kind == "replace":
            e.data = <const uint8_t *><char *>(<bytes>verdict.payload[1])
        return 0

    def publish(self, user, Event view):
        """Queue a user-defined event; it is delivered after the handler that is running."""
        self.publish_for(view.e, user)

    cdef int publish_for(self, const event_t *e, user) except -1:
        if not isinstance(user, UserEvent):
            raise MosError(f"published {user!r}: only instances of a class derived from UserEvent can be")
        view_stamp(user, e, self.engine)
        self.queue.append(user)
        return 0

    cdef int deliver(self, answer_t *a, Event view) except -1:
        """Hand queued user events to their subscribers. Answers count as answers to the event they came from."""
        cdef int verdict = MOS_PASS
        self.depth += 1
        try:
            if self.depth > MAX_DEPTH:
                self.queue.clear()
                raise MosError(f"user events published {MAX_DEPTH} deep: a handler publishes what it subscribes to")
            while self.queue:
                user = self.queue.pop(0)
                name = type(user).__name__
                self.published[name] = self.published.get(name, 0) + 1
                for index in self.user_handlers(type(user)):
                    verdict = max(verdict, self.ask_user(index, user, a, view, verdict))
        finally:
            self.depth -= 1
        return verdict

    def user_handlers(self, cls):
        """Handlers of a user event class and of its ancestors, in chain order."""
        found = [i for c in cls.__mro__ for i in self.user_rows.get(c, ())]
        return sorted(set(found), key=lambda i: (self.subscriptions[i].position, self.subscriptions[i].priority, i))

    cdef int ask_user(self, uint32_t index, user, answer_t *a, Event view, int so_far) except -1:
        s = self.subscriptions[index]
        for p in s.compiled:
            if not (self.holds_for(p, user, view) if isinstance(p, Filter) else p(user)):
                return MOS_PASS
        self.handlers[index].calls += 1
        result = self.functions[index](user)
        if result is None:
            return MOS_PASS
        if hasattr(result, "__next__"):
            for further in result:
                self.publish(further, view)
            return MOS_PASS
        if not isinstance(result, Verdict) or result.code in (MOS_EDIT, MOS_HOLD):
            raise VerdictError(f"{self.names[index]} answered {result!r} to {type(user).__name__}: PASS, DROP, DROP_FLOW, "
                               "RESET, BYPASS or DETACH are possible")
        note_reason(a, result, max(a.verdict, so_far))
        return result.code

    cdef bint holds_for(self, Filter f, user, Event view) except -1:
        """Run a filter on a user event: on its record, and on the flow and packet of the event it came from."""
        cdef event_t e = view.e[0]
        cdef bytes record = user.record()
        e.obj = <void *><char *>record
        return filter_run(f.c, &e)

    cdef int fail(self, str name, Event view, exc, str policy) except -1:
        """A handler raised. By policy: stop the run, let the packet pass, drop it, or take the handler off the flow."""
        self.errors[name] = self.errors.get(name, 0) + 1
        if policy == "raise" or not isinstance(exc, Exception):
            number = view.e.pkt.number if view.e != NULL and view.e.pkt != NULL else 0
            error = HandlerError(f"{name} raised {type(exc).__name__} at packet {number}, {type(view).__name__}: {exc}", number)
            error.__cause__ = exc
            self.error = exc if not isinstance(exc, Exception) else error
            self.failed = 1
            return MOS_PASS
        return {"fail_closed": MOS_DROP, "detach": MOS_DETACH}.get(policy, MOS_PASS)

    def counters(self):
        """Calls and errors per handler, sets, GIL takes."""
        return {"calls": {self.names[i]: self.handlers[i].calls for i in range(self.nhandlers)}, "errors": dict(self.errors),
                "misanswers": self.misanswers, "sets": self.nsets, "sets_refused": self.sets_refused, "gil_takes": self.gil_takes,
                "published": dict(self.published)}
