# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The filter machine's program: a decision graph of fused load-and-test instructions, run without the GIL."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from mos.events.ring cimport event_t
from mos.flow.flow cimport flow_t
from mos.net.packet cimport IPPROTO_TCP, IPPROTO_UDP

cdef enum:
    MAX_INSNS = 4096    # a run is at most this many tests: some 8 us, the longest a filter may hold up a packet
    MAX_POOL = 131072   # words of set ranges: 1 MB, all ports one by one

cdef enum:              # insn_t.op: what is asked of the loaded value
    OP_RANGE = 0        # a <= v <= a + b
    OP_BITS = 1         # v & a
    OP_BITMAP = 2       # v - a below 64 and bit v - a of b set
    OP_RANGES = 3       # v is in one of b sorted pairs (first, last) at pool[a]
    OP_FIELD = 4        # v compared with the second field: arg is CMP_*
    OP_NET = 5          # address & (c, d) == (a, b), IP version == arg
    OP_SAME = 6         # address == the second field
    OP_COUNT = 7

cdef enum:
    CMP_EQ = 0
    CMP_LT = 1
    CMP_LE = 2
    CMP_COUNT = 3

cdef enum:              # where a field is; a pointer that is NULL there makes the field absent
    SRC_EVENT = 0
    SRC_FLOW = 1
    SRC_PACKET = 2
    SRC_PARSED = 3      # the packet, if it is of a flow's protocol
    SRC_TCP = 4         # the packet, if it is TCP
    SRC_PROTO = 5       # protocol of the flow, without one of the packet
    SRC_CLIENT = 6      # a flow's ends as the NF at event_t.position knows them
    SRC_SERVER = 7
    SRC_SENDER = 8      # the packet's ends, likewise
    SRC_RECEIVER = 9
    SRC_RECORD = 10     # the record of a user-defined event at event_t.obj
    SRC_COLD = 11       # the flow's cold part
    SRC_COUNT = 12

cdef enum:              # how the field is stored; every number is compared as a signed 64-bit one
    T_U8 = 0
    T_U16 = 1
    T_U32 = 2
    T_I64 = 3           # uint64_t counters too: none reaches 2**63
    T_F64 = 4           # mapped to an integer of the same order; NaN is absent
    T_PORT = 5          # of an end; 0 unless TCP or UDP
    T_IP = 6            # in a record: 16 bytes as in key_t, then the IP version; anything else in that byte is absent
    T_COUNT = 7

cdef struct insn_t:
    uint8_t  op
    uint8_t  src
    uint8_t  type
    uint8_t  invert     # the opposite of the test; an absent field is false all the same
    uint8_t  arg
    uint8_t  src2
    uint8_t  type2
    uint8_t  spare
    uint16_t offset
    uint16_t offset2
    uint16_t jt         # next instruction if true, if false: n rejects, n + 1 accepts
    uint16_t jf
    uint64_t a
    uint64_t b
    uint64_t c
    uint64_t d

cdef enum:              # gate_t.end
    GATE_NONE = 0
    GATE_CLIENT = 1
    GATE_SERVER = 2
    GATE_EVENT = 3      # no port: a 64-bit number of the event

cdef struct gate_t:     # what a filter begins with, if that is one of these: it rejects unless the number is in a range
    uint8_t  end        # whose port, GATE_*
    uint16_t at         # where the event has its number
    uint64_t first
    uint64_t more       # numbers in the range after the first

cdef struct program_t:
    uint32_t n
    uint32_t entry      # 0, or for a program of no instructions the verdict
    gate_t   gate
    insn_t  *insn
    int64_t *pool

cdef inline bint gate_refuses(const gate_t *g, const event_t *e) noexcept nogil:
    """What most filters begin with and most events fail, asked without running the program. False: it must be run."""
    cdef const flow_t *fl = e.flow
    if g.end == GATE_EVENT:
        return (<const uint64_t *>(<const char *>e + g.at))[0] - g.first > g.more
    if not g.end or fl == NULL or fl.more != NULL or (fl.key.proto != IPPROTO_TCP and fl.key.proto != IPPROTO_UDP):
        return False
    return <uint16_t>((fl.key.hi_port if fl.client_hi ^ (g.end == GATE_SERVER) else fl.key.lo_port) - <uint16_t>g.first) > g.more

cdef bint filter_run(const program_t *f, const event_t *ev) noexcept nogil

cdef class Filter:
    cdef program_t *c           # verified, never NULL, lives as long as the Filter
    cdef program_t own
    cdef readonly str text
    cdef readonly str kind
    cdef readonly tuple program
    cdef readonly tuple pool
    cdef readonly uint32_t record_size
    cdef readonly uint32_t entry

    cdef int find_gate(self, first) except -1
