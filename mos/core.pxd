# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What the stages of one stack share: settings, tables, the ring, the plan, the counters."""
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from cpython.object cimport PyObject
from mos.events.bus cimport Bus, answer_t
from mos.events.ring cimport event_t, ring_t
from mos.flow.flow cimport alias_t, end_t, flow_t, timer_node_t
from mos.flow.slab cimport slab_t
from mos.flow.table cimport FlowTable, table_t
from mos.flow.view cimport Flow
from mos.flow.wheel cimport Wheel, wheel_t
from mos.io.port cimport Port
from mos.io.writer cimport Writer
from mos.net.bpf cimport PacketFilter
from mos.net.decode cimport Decoder, decoder_t
from mos.net.packet cimport pkt_t
from mos.state.blocks cimport layout_t, undo_t
from mos.state.slots cimport SlotSpace
from mos.tcp.queue cimport budget_t, seg_t
from mos.tcp.reasm cimport limits_t, plan_t

cdef enum:              # how flows without a SYN are picked up
    PICKUP_OFF = 0
    PICKUP_STATE = 1
    PICKUP_DATA = 2

cdef enum:
    OUT_CAP = 1 << 18       # bytes of a frame: the largest a capture may hold

cdef enum:              # counters.dropped: causes that are no NF's
    DROPPED_CAP = 0         # inline: a segment beyond the reassembly caps, so that TCP sends it again
    DROPPED_FRAGMENT = 1    # a rewritten flow's datagram came in fragments that cannot be patched
    DROPPED_TABLE = 2       # policy of a full table
    DROPPED_PROGRAM = 3     # `flow.verdict` outside all handlers
    DROPPED_UNSAFE = 4      # safe mode: a segment whose bytes must not leave and that cannot be made anew
    NDROPPED = 5

cdef enum:              # Core.safe
    SAFE_OFF = 0
    SAFE_FLOWS = 1          # flows whose bytes some handler may stop or change
    SAFE_ALL = 2            # every TCP flow

cdef enum:              # Core.alter: how the packet in hand leaves, in safe mode
    ALTER_NONE = 0          # as it came
    ALTER_STREAM = 1        # with the bytes that the chain let pass, no others
    ALTER_BARE = 2          # without its bytes
    ALTER_HELD = 3          # its bytes wait for a hole to fill and leave then; of it goes what else it says
    ALTER_GONE = 4          # not at all

cdef enum:              # counters.safe
    SAFE_REWRITTEN = 0      # segments that left with other bytes, or fewer
    SAFE_BARE = 1           # that left without any of their bytes
    SAFE_HELD = 2           # that were held back behind a hole
    SAFE_URGENT = 3         # whose urgent pointer was cleared
    NSAFE = 4

cdef enum:              # Core.phase, in the order in which they come
    PHASE_IDLE = 0          # flows end by silence, before the packet in hand
    PHASE_TIMERS = 1
    PHASE_PACKET = 2
    PHASE_END = 3           # the run is over: the flows left are ended

cdef enum:
    NCAPS = 16

cdef enum:
    NOBODY = 255            # flow_t.spare: no NF asked for the drop

cdef enum:
    RESETTING_S = 240       # a reset flow nobody spoke on is forgotten: twice Linux's longest time until a segment is sent again
    RST_SILENCE_S = 10      # after a RST in doubt nobody spoke for so long: it was taken

cdef struct counters_t:
    uint64_t packets_in
    uint64_t bytes_in
    uint64_t elsewhere      # of both: what other workers take
    uint64_t bytes_elsewhere
    uint64_t forwarded
    uint64_t held
    uint64_t consumed
    uint64_t injected
    uint64_t split
    uint64_t packets_out
    uint64_t more_segments  # wire segments that came in super-packets, beyond one each
    uint64_t unselected     # forwarded without a look: the packet filter said no
    uint64_t decoded        # stages: how often each one ran
    uint64_t tracked
    uint64_t reassembled
    uint64_t predicted      # segments that took the straight way
    uint64_t malformed
    uint64_t bad_checksum
    uint64_t fragments
    uint64_t quoted         # ICMP errors about flows with other names behind us
    uint64_t other
    uint64_t orphans[4]     # by cause
    uint64_t refused[16]    # by cause
    uint64_t ended[16]      # by reason
    uint64_t dropped[NDROPPED]
    uint64_t ticks_left_out # of periodic timers, behind a silence
    uint64_t caps[NCAPS]    # by CAP_*: how often a bound's policy was applied
    uint64_t safe[NSAFE]
    uint64_t events[64]     # by kind, as raised

cdef struct user_timer_t:   # one timer of Flow.timer or a global one
    timer_node_t node       # first, where the wheel finds it
    uint32_t slot           # in Core.timer_slab, and on the wheel
    flow_t *flow            # NULL: global
    user_timer_t *next      # of the same flow
    user_timer_t **at       # what leads here in that list
    int64_t start           # ns until it first fires
    int64_t period          # ns, 0: one-shot
    uint64_t handle
    PyObject *value         # owned

cdef struct target_t:       # hosts whose address & mask == net overlap by `policy`
    uint8_t net[16]
    uint8_t mask[16]
    uint8_t ipver
    uint8_t policy

cdef enum:                  # who makes room in a full table
    FULL_EMBRYONIC = 0      # the oldest flow without a handshake, else the oldest not used of late
    FULL_LRU = 1            # the oldest not used of late, with a handshake or without
    FULL_REFUSE = 2         # nobody: the new flow is not tracked, and counted

cdef class Core:
    cdef Bus bus
    cdef readonly Decoder decoder
    cdef decoder_t *dec
    cdef readonly FlowTable flows
    cdef table_t *table
    cdef Wheel idle_wheel, user_wheel
    cdef wheel_t *idle
    cdef wheel_t *timers
    cdef Writer writer          # -w: a copy of what leaves
    cdef Writer recorder        # --record: what came in, so that the run can be repeated
    cdef Port port              # live: where packets leave; else None
    cdef PacketFilter selection
    cdef readonly SlotSpace slots
    cdef layout_t *layout
    cdef undo_t *undo
    cdef ring_t ring
    cdef plan_t plan
    cdef plan_t late            # plan of bytes that an ACK of the other direction set free
    cdef budget_t budget
    cdef limits_t limits
    cdef answer_t answer
    cdef counters_t n
    cdef uint64_t *dropped_by   # by chain position
    cdef int64_t now
    cdef int64_t leap           # a time stamp far ahead, not yet confirmed; 0: none
    cdef int64_t idle_ns[12]    # idle time-out by TCP state, then UDP; ICMP as UDP
    cdef int truth, pickup, verify
    cdef uint8_t policy         # of hosts in no listed network
    cdef target_t *targets      # overlap policies by the receiving host's network
    cdef uint32_t ntargets
    cdef uint8_t full_policy    # FULL_*
    cdef uint8_t safe           # SAFE_*
    cdef uint8_t skip_holes     # inline, at the cap: a hole is given up, and its bytes are dropped ever after
    cdef uint8_t alter          # ALTER_*
    cdef uint8_t news           # ALTER_HELD: its ACK acknowledges more than what went before
    cdef uint64_t rest          # ALTER_STREAM: offset behind the bytes that it leaves with
    cdef const uint8_t *lent_from   # frames between stay where they are for as long as a flow may ask for them (mos.lend)
    cdef const uint8_t *lent_to
    cdef list lenders           # whose they are
    cdef uint32_t offers        # queued segments that may be offered once more,
    cdef uint64_t offers_at     # as of so many packets
    cdef int64_t offers_ns      # and then
    cdef seg_t *copy            # of what the packet in hand brings into order: retained when it is forwarded
    cdef uint32_t workers       # that share the traffic, each with a stack of its own; 0: this is the only one
    cdef int worker             # which one this is, from 0
    cdef bint on_wire           # the kernel shares it out: only what is this one's comes, but fragments
    cdef uint8_t phase          # PHASE_*: what is under way, and for the first two and the last when it was due and whose it is
    cdef int64_t due
    cdef uint64_t due_flow
    cdef uint64_t until         # the number of the last packet to take; 0: all
    cdef uint8_t flat           # TCP flows are counted like any others: no states, no streams
    cdef uint8_t straight       # predicted segments may take the straight way
    cdef uint32_t caps          # bit per CAP_* that was met and is not told yet
    cdef uint64_t caps_seen     # what caps.caps_look saw last
    cdef uint64_t[4] caps_parts
    cdef uint8_t early          # EARLY_*: what the packet in hand is to segments that wait (mos.early)
    cdef uint64_t early_bytes   # that wait, of all flows
    cdef uint8_t committed      # the packet in hand is forwarded, whatever is answered now
    cdef uint8_t fresh          # the packet in hand has started its flow
    cdef int64_t unproven_from  # since when `unproven` flows were reset of which only one end was heard (leave.UNPROVEN)
    cdef uint32_t unproven
    cdef uint8_t stop           # asked to stop: a signal, a limit
    cdef uint8_t quote          # the packet in hand is an ICMP error about its flow
    cdef const alias_t *turn    # its flow leaves where it comes in (flow.turn); NULL: it goes through
    cdef uint8_t turn_side      # whose side it came from
    cdef uint8_t edited         # `out` holds what is to leave instead of the frame
    cdef uint8_t *out
    cdef uint32_t out_len
    cdef uint64_t batches
    cdef uint64_t timer_handles
    cdef uint64_t timers_live
    cdef slab_t timer_slab
    cdef dict timer_table       # handle -> address of user_timer_t
    cdef object on_verdict      # called with each packet's verdict; None: nobody wants to know
    cdef public object on_error # called with a handler's first exception, if the run goes on
    cdef object on_tick         # called now and then with the packets so far
    cdef object __weakref__
    cdef int set_targets(self, targets) except -1
    cdef unsigned long thread   # that runs the stack; 0: none has yet
    cpdef int outside(self) except -1
    cdef flow_t *alive(self, Flow flow) except NULL
    cdef int here(self) except -1
    cdef void cap_reached(self, int cause) noexcept nogil
    cdef void drop_timer(self, user_timer_t *t) noexcept
    cdef int settle_edits(self, pkt_t *p, flow_t *f, int s) noexcept
    cdef int take(self, pkt_t *p) noexcept nogil
    cdef int flow_packet(self, pkt_t *p, int fresh) noexcept nogil
    cdef int finish(self, pkt_t *p, flow_t *f, int s) noexcept nogil
    cdef void end_other(self, flow_t *f) noexcept
    cdef void send_own(self, const pkt_t *p, const uint8_t *data, uint32_t n, int how) noexcept
    cdef int replace(self, pkt_t *p, flow_t *f, int s, uint64_t offset, bytes data) except -1
    cdef int rename(self, pkt_t *p, flow_t *f, int s, position, payload) except -1
    cdef int tick(self) noexcept
    cdef void report(self, pkt_t *p, flow_t *f) noexcept

cdef inline void place_of(Core k, int64_t *key) noexcept nogil:
    """Where the run is: what happens later, in whatever worker, has a greater one. On a wire nobody numbers the packets of all:
    their time counts."""
    cdef bint end = k.phase == PHASE_END
    key[0], key[1], key[2], key[3] = <int64_t>k.n.packets_in, k.phase, 0, 0
    if k.on_wire:
        key[0], key[1] = INT64_MAX if end else k.now, PHASE_END if end else 0
    if end or (k.phase != PHASE_PACKET and not k.on_wire):
        key[2], key[3] = k.due, <int64_t>k.due_flow
