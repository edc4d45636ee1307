# cython: language_level=3
"""Give each flow so many bytes and drop what comes after them: a middlebox whose handler is C."""
from libc.stdint cimport int64_t, uint32_t
from mos cimport MOS_DROP_FLOW, MOS_PASS, action_t, event_t, import_mos, mos_capsule, mos_var_write

from mos import NF, FlowVar, Native, option
from mos.events import StreamData

import_mos()

cdef struct quota_t:
    int64_t limit
    uint32_t used       # FlowVar.index

cdef class Context:     # the memory that the handler's ctx points at, and nothing else
    cdef quota_t c


cdef int count(void *ctx, const event_t *e, action_t *a) noexcept nogil:
    cdef const quota_t *q = <const quota_t *>ctx
    cdef int64_t *used = <int64_t *>mos_var_write(e.flow, q.used)
    if used == NULL:
        return MOS_PASS
    used[0] += <int64_t>e.length
    if used[0] <= q.limit:
        return MOS_PASS
    a.why = "quota used up"
    return MOS_DROP_FLOW


class Quota(NF):
    """Drop a flow as soon as its payload, both directions together, exceeds a limit."""
    limit: int = option(1_000_000, help="bytes of payload a flow may carry")
    used = FlowVar(int)

    def handlers(self):
        cdef Context context = Context()
        context.c.limit = self.limit
        context.c.used = self.used.index
        return [Native(StreamData, mos_capsule(count, &context.c), name="count", owner=context), *super().handlers()]
