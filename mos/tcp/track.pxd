# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Both ends of a TCP connection, moved by the segments that pass. Knows the ring, not the bus; numbers, not bytes."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from mos.events.kinds cimport KIND_DUPLICATE_ACK, KIND_TCP_STATE_CHANGE, KIND_WINDOW_UPDATE
from mos.events.ring cimport event_t, ring_add, ring_t
from mos.flow.flow cimport CLIENT, END_FIN_PASSED, END_FIN_SENT, END_SEEN, END_SYN, HIST_LEN, end_t, flow_more, flow_t
from mos.net.packet cimport TCP_FIN, TCP_SYN, pkt_t
from mos.tcp.seq cimport seq_diff, seq_ge, seq_gt
from mos.tcp.trouble cimport known_trouble, side_trouble_t, trouble_of

cdef struct scene_t:        # what every step needs: the packet on its way and where to tell of it
    flow_t *flow
    const pkt_t *pkt
    ring_t *ring
    uint64_t want           # kinds somebody wants of this flow
    int64_t now
    int     s               # end that sent the packet
    int     to_server
    int     truth

cdef enum:                  # rows of the transition table; order of states.INPUTS
    SND_SYN = 0
    SND_SYN_ACK = 1
    SND_FIN = 2
    SND_RST = 3
    RCV_SYN = 4
    RCV_SYN_ACK = 5
    RCV_ACK_OF_SYN = 6
    RCV_FIN = 7
    RCV_ACK_OF_FIN = 8
    RCV_RST = 9
    TIMEOUT = 10
    NINPUTS = 11
    NSTATES = 11

cdef extern from *:
    int __builtin_clzll(unsigned long long x) nogil

cdef inline int letters(uint64_t word) noexcept nogil:
    """How many are in a word of a history; none is 0."""
    return (63 - __builtin_clzll(word)) // 5 + 1 if word else 0

cdef inline void history_add(flow_t *f, int side, int letter) noexcept nogil:
    """Write a letter of Zeek's connection history once per side; the client's in capitals."""
    cdef uint64_t code = 1 + 2 * letter + side
    cdef int n
    if f.end[side].hist >> letter & 1:
        return
    n = letters(f.hist)
    f.end[side].hist |= 1 << letter
    if n < HIST_LEN:
        f.hist |= code << 5 * n
    elif flow_more(f) != NULL:
        f.more.hist |= code << 5 * letters(f.more.hist)

cdef inline void track_step(scene_t *c, int side, int cause, int at) noexcept nogil:
    """One input to one end's state machine."""
    cdef end_t *end = &c.flow.end[side]
    cdef uint8_t new = transition[end.state * NINPUTS + cause]
    if new != end.state:
        if c.want >> KIND_TCP_STATE_CHANGE & 1:
            tell_step(c, side, new, at)
        else:
            end.state = new

cdef inline void fin_passes(end_t *S, const pkt_t *p) noexcept nogil:
    """`p` is forwarded: if it has the FIN of its sender, that may take effect."""
    if p.tcp_flags & TCP_FIN and S.flags & END_FIN_SENT and S.fin_seq == p.seq + p.payload_len + (p.tcp_flags & TCP_SYN != 0):
        S.flags |= END_FIN_PASSED

cdef uint8_t transition[121]        # NSTATES * NINPUTS: to which state, by state and input

cdef void tell_step(scene_t *c, int side, int new, int at) noexcept nogil
cdef void track_established(scene_t *c) noexcept nogil
cdef void track_syn(end_t *S, const pkt_t *p) noexcept nogil
cdef void track_open(flow_t *f, const pkt_t *p, int midstream) noexcept nogil
cdef void track_sender(scene_t *c) noexcept nogil
cdef void track_receiver(scene_t *c) noexcept nogil
cdef void track_fin(scene_t *c, int side) noexcept nogil
cdef void track_rst(scene_t *c) noexcept nogil
cdef int track_rst_refused(scene_t *c, int in_doubt) noexcept nogil
cdef void track_spoke_on(scene_t *c) noexcept nogil
cdef bint track_vouched(scene_t *c, int side) noexcept nogil
cdef bint track_overheard(scene_t *c, int cause) noexcept nogil
cdef void track_revive(scene_t *c) noexcept nogil
cdef void note_retransmission(ring_t *ring, uint64_t want, flow_t *f, const pkt_t *p, int s, int64_t now) noexcept nogil
cdef void track_duplicate_syn(scene_t *c) noexcept nogil
cdef void track_time_out(scene_t *c) noexcept nogil

cdef enum:                  # bits of end_t.hist, in the order of LETTERS in flow/view.pyx
    HIST_SYN = 0
    HIST_SYN_ACK = 1
    HIST_ACK = 2
    HIST_DATA = 3
    HIST_FIN = 4
    HIST_RST = 5
    HIST_CHECKSUM = 6
    HIST_GAP = 7
    HIST_REXMIT = 8
    HIST_ZERO_WINDOW = 9
    HIST_INCONSISTENT = 10

cdef enum:
    NO_SCALE = 255
    LOOSE_SCALE = 14        # the largest legal shift (RFC 7323 section 2.3): assumed where no SYN told

cdef inline int scale_of(const flow_t *f, int side) noexcept nogil:
    """Shift of the windows `side` offers: its own if both SYNs asked for scaling, the loosest if its SYN was not seen."""
    cdef const end_t *e = &f.end[side]
    cdef const end_t *peer = &f.end[1 - side]
    if not e.flags & END_SYN:
        return LOOSE_SCALE
    if e.wscale == NO_SCALE or (peer.flags & END_SYN and peer.wscale == NO_SCALE):
        return 0
    return min(e.wscale, LOOSE_SCALE)

cdef inline void rtt_sent(end_t *e, uint32_t end, int64_t now) noexcept nogil:
    """New bytes up to `end` leave `e`: a round trip is measured unless one is already (RFC 6298 section 3)."""
    if not e.rtt_start_us:
        e.rtt_seq = end
        e.rtt_start_us = <uint32_t>(<uint64_t>now // 1000) + 1

cdef inline void rtt_heard(end_t *e, uint32_t ack, int64_t now) noexcept nogil:
    """The peer of `e` acknowledges `ack`: the round trip under way may be over."""
    cdef uint32_t us
    if e.rtt_start_us and seq_ge(ack, e.rtt_seq):
        us = <uint32_t>(<uint64_t>now // 1000) - (e.rtt_start_us - 1)
        e.rtt_start_us = 0
        e.srtt_us = us if e.srtt_us == 0 else <uint32_t>(e.srtt_us + (<int64_t>us - <int64_t>e.srtt_us) // 8)

cdef inline void note_repeated(ring_t *ring, uint64_t want, flow_t *f, const pkt_t *p, int s, uint32_t wnd,
                               int64_t now) noexcept nogil:
    """A pure ACK of what `s` has acknowledged before, with the window `wnd`: a duplicate (RFC 5681 section 2) or an update."""
    cdef end_t *S = &f.end[s]
    cdef end_t *R = &f.end[1 - s]
    cdef side_trouble_t *t
    cdef event_t *e
    if wnd == S.wnd and R.flags & END_SEEN and seq_gt(R.snd_max, p.ack):
        if trouble_of(f) != NULL:
            t = &known_trouble(f).side[s]
            t.dup_acks += 1
            t.dup_run += 1
            e = ring_add(ring, want, KIND_DUPLICATE_ACK, f, p, now, s, s == CLIENT)
            if e != NULL:
                e.offset = R.offset + <uint64_t><int64_t>seq_diff(p.ack, R.nxt)
                e.length = t.dup_run
    elif wnd > S.wnd:
        e = ring_add(ring, want, KIND_WINDOW_UPDATE, f, p, now, s, s == CLIENT)
        if e != NULL:
            e.length = wnd

cdef inline bint track_over(const flow_t *f) noexcept nogil:
    """Both ends have closed: TIME-WAIT or CLOSED."""
    return (f.end[0].state == 10 or f.end[0].state == 0) and (f.end[1].state == 10 or f.end[1].state == 0)
