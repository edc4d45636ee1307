# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A tracked flow: two ends, its name, its place in the table. Two flat structs, recycled by the table's slab."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from mos.net.packet cimport key_t

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **p, size_t alignment, size_t size)

cdef enum:
    CLIENT = 0          # opened the flow; index into flow_t.end
    SERVER = 1

cdef enum:              # flow_t.end_reason; FlowEnd's reason, in the order of events.spec
    END_NONE = 0
    END_FIN = 1
    END_RST_CLIENT = 2
    END_RST_SERVER = 3
    END_IDLE = 4
    END_EVICTED = 5
    END_REUSED = 6
    END_STOPPED = 7
    END_SHUTDOWN = 8

cdef enum:              # flow_t.flags
    FLOW_MIDSTREAM = 1      # picked up without its SYN
    FLOW_ESTABLISHED = 2    # the handshake was seen to complete
    FLOW_DROPPED = 4        # DROP_FLOW: every further packet is dropped
    FLOW_RESETTING = 8      # RESET: every further packet is dropped and answered
    FLOW_CLOSED = 16        # ended by FIN or RST; lingers so that late segments find it
    FLOW_BYPASSED = 32      # no middlebox wants it any more
    FLOW_EMBRYONIC = 64     # no handshake was seen to complete: evicted first
    FLOW_RESET_DUE = 128    # RESET was asked for when no packet was there to tell the ends by

cdef enum:              # flow_t.queued; mos.patience has one more
    QUEUE_OTHERS = 1        # it stands in the queue of flows that are not embryonic
    QUEUE_USED = 2          # it had a packet since it came there

cdef enum:
    FLOW_BYTES = 256        # of a flow_t, all of which its next packet may need
    FLOW_GROUP = 1 << 14    # flows lie in groups so long, each aligned to its length: first the cold parts of its 55 flows,
    FLOW_HEAD = 2304        # which take so much, then the flows themselves

cdef enum:              # end_t.flags
    END_SEEN = 1            # this end has sent something: nxt and snd_max are known
    END_ACKED = 2           # this end has sent an ACK: last_ack and rcv_edge are known
    END_FIN_SENT = 4        # fin_seq is known
    END_FIN_DONE = 8        # its FIN was reached in order
    END_TS = 16             # ts_recent is known
    END_SACK_OK = 32        # sent SACK-permitted on its SYN
    END_TS_OK = 64          # sent timestamps on its SYN
    END_SYN = 128           # its SYN was seen
    END_PEER_ONLY = 256     # base known from the peer's ACK alone
    END_FIN_PASSED = 512    # its FIN was forwarded, or acknowledged: once reached in order it takes effect

# One end of a flow, as seen from the middle. For UDP and ICMP only the counters and `offset` are used.
cdef struct end_t:
    uint64_t bytes          # link-layer bytes on the wire this end sent
    uint64_t payload        # transport payload bytes it sent, retransmissions included
    uint64_t offset         # stream offset of the next byte to deliver from this end
    uint32_t packets        # packets it sent
    uint32_t nxt            # sequence number that belongs to `offset`: RCV.NXT of its peer
    uint32_t snd_max        # SND.NXT: highest sequence number sent + 1
    uint32_t snd_una        # SND.UNA: highest acknowledgement accepted from its peer
    uint32_t last_ack       # SEG.ACK it sent last
    uint32_t rcv_edge       # highest RCV.NXT + RCV.WND it ever offered
    uint32_t wnd            # RCV.WND it offered last, scaled, bytes
    uint32_t fin_seq        # sequence number of its FIN
    uint32_t ts_recent      # TS.Recent it keeps for its peer's segments (RFC 7323)
    uint32_t rtt_seq        # an ACK at or above it ends the RTT sample under way
    uint32_t rtt_start_us   # when that sample began, us (wraps) and 1; 0: none under way
    uint32_t srtt_us        # smoothed round trip from the middle to its peer and back (RFC 6298), 0: none yet
    uint16_t mss            # 0: not seen
    uint8_t  state          # tcp.states
    uint8_t  wscale         # shift of its SYN, 255: none
    uint16_t flags          # END_*
    uint16_t hist           # history letters already written (views.history)

cdef struct timer_node_t:   # a place on the wheel; neighbours by number (flow.wheel), `prev` 0: not armed
    int64_t  when           # ns
    uint32_t next
    uint32_t prev

cdef enum:
    HIST_LEN = 12           # letters of five bits in a word; of the 22 that there are a flow rarely has more

# What few flows need: one with its queues empty, no NAT, no trouble and nobody who looks at it from Python has none.
cdef struct more_t:
    void    *reasm[2]       # tcp.queue reasm_t by sending end, NULL until something is out of order, doubtful or retained
    void    *trouble        # tcp.trouble trouble_t: rare counters, NULL until needed
    void    *alias          # flow.table alias_t list: further keys (NAT), NULL: none
    void    *view           # the Python Flow, NULL until somebody asks (owned reference)
    uint64_t hist           # the letters of its history after the first twelve

# What a packet in the middle of a flow has no need of.
cdef struct flow_cold_t:
    int64_t  first_ns
    uint64_t id             # number of the packet that opened it: no other flow has it
    timer_node_t timer      # idle timer
    uint32_t lru_next       # table: neighbours in its queue for eviction, NIL at the ends
    uint32_t lru_prev

# Four cache lines. Whoever makes one outside a table needs a group for it (flow_alone).
cdef struct flow_t:
    key_t    key            # as the client's wire side names it
    uint16_t set_id         # bus: interned set of attached handlers
    uint8_t  client_hi      # 1: the client is the key's hi half
    uint8_t  policy         # overlap policies (tcp.policies): bits 0-3 of bytes to the server, 4-7 to the client
    int64_t  last_ns        # beside the key: whoever only counts touches two lines, this one and an end's
    uint8_t  end_reason     # END_*; set at close, told at FlowEnd
    uint8_t  flags          # FLOW_*
    uint8_t  queued         # QUEUE_*
    uint8_t  spare          # position of the NF whose verdict stopped it
    uint32_t rtt_us         # SYN to SYN-ACK to ACK, 0: not known; before FLOW_ESTABLISHED: when the SYN came, us (wraps)
    end_t    end[2]         # CLIENT, SERVER
    uint64_t mask           # event kinds somebody wants of this flow
    more_t  *more           # what few flows need, NULL until then
    void    *slots          # per-flow state of the chain (state.slots), NULL: the chain declares none
    uint64_t hist           # its history's first letters, each 1 + 2 * HIST_* + side (tcp.track)

cdef inline flow_cold_t *flow_cold(const flow_t *f) noexcept nogil:
    """The cold part of `f`: as far from the start of their group in 40 bytes as `f` is behind the cold parts in 256."""
    cdef uintptr_t at = <uintptr_t>f & (FLOW_GROUP - 1)
    return <flow_cold_t *>(<uintptr_t>f - at) + (at - FLOW_HEAD) // FLOW_BYTES

cdef inline flow_t *flow_alone() noexcept nogil:
    """A zeroed flow in a group of its own, of which there is memory just up to its end. NULL: out of memory."""
    cdef void *group = NULL
    if posix_memalign(&group, FLOW_GROUP, FLOW_HEAD + FLOW_BYTES):
        return NULL
    memset(group, 0, FLOW_HEAD + FLOW_BYTES)
    return <flow_t *>(<char *>group + FLOW_HEAD)

cdef inline void flow_alone_free(flow_t *f) noexcept nogil:
    if f != NULL:
        free(<char *>f - FLOW_HEAD)

cdef inline more_t *flow_more(flow_t *f) noexcept nogil:
    """What few flows need, made if this one has not. NULL: out of memory."""
    if f.more == NULL:
        f.more = <more_t *>calloc(1, sizeof(more_t))
    return f.more

cdef inline void *reasm_of(const flow_t *f, int side) noexcept nogil:
    """The reasm_t of what `side` sends, NULL: there is none."""
    return f.more.reasm[side] if f.more != NULL else NULL

cdef inline void **reasm_at(flow_t *f, int side) noexcept nogil:
    """What leads to it, so that it can be made. NULL: out of memory."""
    cdef more_t *m = flow_more(f)
    return &m.reasm[side] if m != NULL else NULL

# A further name of a flow: what it is called on the server's side of the NF at `position` (a NAT). Sorted by position.
cdef struct alias_t:
    key_t    key
    alias_t *next
    uint16_t position       # NFs behind it (greater positions) see this name, it and those before it the one before
    uint8_t  client_hi      # 1: the client is this key's hi half
    uint8_t  in_table       # 1: packets are looked up by it
    uint8_t  turns          # 1: both ends are on the same side of us, behind these hardware addresses
    uint8_t[2][6] mac       # by end

cdef inline alias_t *flow_names(const flow_t *f) noexcept nogil:
    """Its further names; NULL: it has none."""
    return <alias_t *>f.more.alias if f.more != NULL else NULL

cdef inline const key_t *flow_name_at(const flow_t *f, uint16_t position, uint8_t *client_hi) noexcept nogil:
    """The name under which the NF at `position` knows the flow, and which half of it is the client."""
    cdef const key_t *k = &f.key
    cdef const alias_t *a = flow_names(f)
    client_hi[0] = f.client_hi
    while a != NULL and a.position < position:
        k = &a.key
        client_hi[0] = a.client_hi
        a = a.next
    return k

cdef inline uint32_t iss_of(const end_t *e) noexcept nogil:
    """Initial send sequence number of an end that was seen (mid-stream: its first byte's number - 1)."""
    return e.nxt - <uint32_t>e.offset - 1

cdef inline uint8_t policy_of(const flow_t *f, int side) noexcept nogil:
    """Overlap policy for the bytes that `side` sends: its receiver's."""
    return f.policy & 15 if side == CLIENT else f.policy >> 4

cdef inline int flow_side(const flow_t *f, uint8_t from_hi) noexcept nogil:
    """CLIENT or SERVER: who of `f` sent a packet with this `from_hi`."""
    return CLIENT if from_hi == f.client_hi else SERVER
