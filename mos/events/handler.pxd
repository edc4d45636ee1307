"""What a handler written in C is called with and may answer, and the one table through which modules outside find the core."""
from libc.stdint cimport uint32_t, uint64_t
from cpython.object cimport PyObject
from mos.events.ring cimport event_t

cdef enum:
    MOS_ABI = 3             # of everything a handler in C sees: goes up when a struct or a meaning changes (test_capi.py)

cdef enum:              # verdicts, weakest first; a handler returns one
    MOS_PASS = 0
    MOS_EDIT = 1
    MOS_HOLD = 2
    MOS_DROP = 3
    MOS_DROP_FLOW = 4
    MOS_RESET = 5
    MOS_BYPASS = 8      # about the NF or handler, not the packet: applied at once
    MOS_DETACH = 9

cdef struct action_t:   # a C handler may say more than its verdict
    uint32_t size
    uint32_t published  # user events that `publish` took during this call
    const char *why     # static text, NULL: none
    void *bus           # who is asking: for `publish`

ctypedef int (*handler_fn)(void *ctx, const event_t *e, action_t *a) noexcept nogil

# Behind the capsule "mos.api.v1", an attribute of mos.core. A module compiled against other numbers must not run.
cdef struct mos_api_t:
    uint32_t abi            # MOS_ABI
    uint32_t event_size     # sizeof of what handlers read and write
    uint32_t flow_size
    uint32_t end_size
    uint32_t pkt_size
    uint32_t action_size
    int (*publish)(action_t *a, const event_t *e, PyObject *event) except -1
