# cython: language_level=3, boundscheck=False, wraparound=False
"""A handler in C with a mistake of one byte, for test_sanitize.py: what AddressSanitizer must not miss."""
from libc.stdint cimport uint8_t
from mos cimport MOS_PASS, action_t, event_t, import_mos, mos_capsule
from mos.flow.flow cimport flow_t

from mos import NF, Native

import_mos()

cdef enum:
    NOTHING = 0
    WRITE_BEHIND_FLOW = 1
    READ_BEHIND_FRAME = 2
    READ_ENDED_FLOW = 3

cdef int mistake = NOTHING
cdef volatile uint8_t *first = NULL


cdef int touch(void *ctx, const event_t *e, action_t *a) noexcept nogil:
    """The last byte of the flow and of the frame, and then the mistake."""
    global first
    cdef volatile uint8_t *flow = <volatile uint8_t *>e.flow
    cdef volatile uint8_t *frame = <volatile uint8_t *>e.pkt.frame
    cdef uint8_t last = flow[sizeof(flow_t) - 1] ^ frame[e.pkt.caplen - 1]
    flow[sizeof(flow_t) - 1] ^= last ^ last
    if mistake == WRITE_BEHIND_FLOW:
        flow[sizeof(flow_t)] = last
    elif mistake == READ_BEHIND_FRAME:
        flow[0] ^= frame[e.pkt.caplen] & 0
    elif mistake == READ_ENDED_FLOW and first != NULL:
        flow[0] ^= first[0] & 0
    if first == NULL:
        first = flow
    return MOS_PASS


class Planted(NF):
    """Makes the mistake `what` at every start of a flow."""
    def __init__(self, int what):
        global mistake
        super().__init__()
        mistake = what

    def handlers(self):
        from mos.events import FlowStart
        return [Native(FlowStart, mos_capsule(touch, NULL), name="touch")]
