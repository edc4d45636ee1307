"""Handlers in C for test_capi.py: one writes down what it sees, one answers what it is told, one publishes, one keeps a slot."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from mos cimport (
    MOS_PASS, action_t, event_t, import_mos, mos_capsule, mos_client, mos_flow_id, mos_ip_version, mos_payload, mos_publish,
    mos_server, mos_slot, mos_to_server, mos_var, mos_var_write)

from mos import NF, FlowVar, Native

import_mos()

cdef struct ctx_t:
    int answer
    uint32_t var
    const char *why
    void *owner


cdef class Context:
    cdef ctx_t c
    cdef readonly list seen, raised
    cdef object make
    cdef bytes why

    def __init__(self, answer=0, why=None, make=None):
        self.seen, self.raised = [], []
        self.make, self.why = make, why
        self.c.answer = answer
        if why is not None:
            self.c.why = <const char *>self.why
        self.c.owner = <void *>self


cdef int note(void *ctx, const event_t *e, action_t *a) noexcept with gil:
    cdef uint64_t n = 0
    cdef uint16_t client_port = 0, server_port = 0
    cdef const uint8_t *client = mos_client(e, &client_port)
    cdef const uint8_t *server = mos_server(e, &server_port)
    cdef const uint8_t *data = mos_payload(e, &n)
    cdef int width = 4 if mos_ip_version(e) == 4 else 16
    (<Context>(<ctx_t *>ctx).owner).seen.append((
        mos_flow_id(e), bool(mos_to_server(e)), None if data == NULL else (<const char *>data)[:n], mos_ip_version(e),
        None if client == NULL else (<const char *>client)[:width], client_port,
        None if server == NULL else (<const char *>server)[:width], server_port))
    return MOS_PASS


cdef int answer(void *ctx, const event_t *e, action_t *a) noexcept nogil:
    a.why = (<ctx_t *>ctx).why
    return (<ctx_t *>ctx).answer


cdef int publish(void *ctx, const event_t *e, action_t *a) noexcept with gil:
    cdef Context c = <Context>(<ctx_t *>ctx).owner
    try:
        mos_publish(e, a, c.make())
    except Exception as exc:
        c.raised.append(exc)
    return c.c.answer


cdef int count(void *ctx, const event_t *e, action_t *a) noexcept nogil:
    cdef int64_t *n = <int64_t *>mos_var_write(e.flow, (<ctx_t *>ctx).var)
    if n != NULL:
        n[0] += 1
    return MOS_PASS


cdef class Sizes:
    """Whether mos_slot at an offset and mos_var by index are the same place, asked inside a handler."""
    cdef uint32_t offset, var
    cdef readonly list same


cdef int compare(void *ctx, const event_t *e, action_t *a) noexcept with gil:
    cdef Sizes s = <Sizes>ctx
    s.same.append(mos_slot(e.flow, s.offset) == mos_var(e.flow, s.var))
    return MOS_PASS


class Note(NF):
    def __init__(self, *events):
        super().__init__()
        self.events, self.context = events, Context()

    def handlers(self):
        cdef Context c = self.context
        return [Native(event, mos_capsule(note, &c.c), name=event.__name__) for event in self.events]


class Answer(NF):
    """Gives `verdict` to every `event`; nobody but the chain knows what it points at."""
    def __init__(self, event, verdict, why=None, observe=False, **how):
        super().__init__()
        self.event, self.verdict, self.why, self.observe, self.how = event, verdict, why, observe, how

    def handlers(self):
        cdef Context c = Context(self.verdict, self.why)
        return [Native(self.event, mos_capsule(answer, &c.c), name="answer", owner=c, **self.how)]


class Publish(NF):
    def __init__(self, event, make, verdict=0, publishes=None):
        super().__init__()
        self.event, self.publishes_class, self.context = event, publishes, Context(verdict, make=make)

    def handlers(self):
        cdef Context c = self.context
        return [Native(self.event, mos_capsule(publish, &c.c), name="publish", publishes=self.publishes_class, owner=c)]


class CountEvents(NF):
    def __init__(self, event):
        super().__init__()
        self.event, self.seen = event, FlowVar(int, name="seen")

    def declarations(self):
        return [self.seen]

    def handlers(self):
        cdef Context c = Context()
        c.c.var = self.seen.index
        return [Native(self.event, mos_capsule(count, &c.c), name="count", owner=c)]


class Compare(CountEvents):
    def start(self, engine):
        cdef Sizes s = self.sizes
        s.offset, s.var, s.same = engine.slots.offset(self.seen), self.seen.index, []

    def handlers(self):
        cdef Sizes s = Sizes()
        self.sizes = s
        return [Native(self.event, mos_capsule(compare, <void *>s), name="compare", owner=s)]


def undeclared():
    """mos_var without a flow, and of a variable in no chain."""
    return mos_var(NULL, 0) == NULL and mos_var_write(NULL, 0) == NULL
