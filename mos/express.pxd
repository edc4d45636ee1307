# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The whole way of most packets in one go: decoded ahead, looked up, predicted, told, sent on.

`mos.stack` has the way of all the others. Nothing is done here that the long way does not do; what is
left out are the questions whose answers are known beforehand.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from mos.caps cimport caps_met
from mos.core cimport Core
from mos.datagram cimport datagram
from mos.events.kinds cimport KIND_OVERLAP_CONFLICT, KIND_PACKET_IN
from mos.flow.flow cimport (
    CLIENT, END_FIN_SENT, FLOW_CLOSED, FLOW_DROPPED, FLOW_RESETTING, SERVER, flow_cold, flow_names, flow_side, flow_t, reasm_of)
from mos.flow.hashes cimport LANES, hash_ahead
from mos.flow.table cimport table_fetch, table_guess, table_known, table_peek, table_prefetch, table_touch
from mos.flow.wheel cimport wheel_due
from mos.io.aside cimport aside_before, aside_t
from mos.io.port cimport SEND_ON
from mos.io.scout cimport scout_on, scout_t
from mos.leave cimport leave
from mos.lifetime cimport LEAP_S, note_close, opened, opens, pass_time, time_goes
from mos.net.decode cimport decode_ahead
from mos.net.domain cimport DOMAIN_OVERFLOW
from mos.net.dressed cimport decode_dressed
from mos.net.packet cimport (
    AHEAD_ELSEWHERE, AHEAD_FLOW, AHEAD_NOT, CSUM_BAD_IP, CSUM_BAD_L4, IPPROTO_TCP, IPPROTO_UDP, TCP_FIN, TCP_RST, pkt_segs, pkt_t,
    prefetch, prefetch_lines)
from mos.net.shard cimport SHARD_UNKNOWN, shard_plain
from mos.segment cimport FRESH_OPENS, WAY_FAILED, apart
from mos.state.blocks cimport undo_begin
from mos.straight cimport STRAIGHT_NEXT, STRAIGHT_NOT, STRAIGHT_OPENS, goes_straight, straight_on
from mos.tcp.index cimport index_fetch
from mos.tcp.queue cimport REASM_HOT, reasm_t
from mos.tcp.reasm cimport excess
from mos.tcp.seq cimport seq_diff
from mos.tcp.trouble cimport known_trouble

cdef enum:
    FEW_SETS = 1024         # so many sets of handlers, 64 KB, stay in a cache by themselves
    MUCH_QUEUED = 1 << 20   # bytes of reassembly that stay in a cache by themselves
    SOON = 8                # and what it leads to, once it is there
    REST = 12               # the other lines of a flow are fetched so many packets ahead: 2 us, ten memory latencies
    NEAR = 16               # its first line so many, at the least,
    FAR = 32                # and where the index lists it: not all of a batch at once, that would be waited for
    TOGETHER = 8            # of so many at once: a fetch waits until its page is found, and several pages are found at a time

cdef enum:              # how an express way ended
    EXPRESS_FAILED = -1     # a handler raised and the run is to stop
    EXPRESS_DONE = 0        # the packet has left
    EXPRESS_ANSWERED = 1    # its flow has had it, or none could be made; it is not yet decided what leaves
    EXPRESS_NOT = 2         # it is not for here: nothing has happened

cdef inline bint time_goes_on(Core k, int64_t ts) noexcept nogil:
    """`ts` is no leap, nor what comes after one."""
    return not k.leap and k.now and ts - k.now < <int64_t>LEAP_S * 1000000000

cdef inline bint time_stands(Core k, int64_t ts) noexcept nogil:
    """Nor does anything come due by then: the clock may just be set."""
    cdef int64_t now = max(ts, k.now)
    return time_goes_on(k, ts) and not wheel_due(k.idle, now) and not wheel_due(k.timers, now)

cdef inline void look_up_first(Core k, pkt_t *batch, int n) noexcept nogil:
    """Call for where the flows of a batch's first packets are listed, of n that are hashed."""
    cdef int i
    hash_ahead(batch, n, k.table.k0, k.table.k1, k.table.hash_mask)
    for i in range(min(n, <int>FAR)):
        if batch[i].ahead == AHEAD_FLOW:
            table_prefetch(k.table, batch[i].hash)

cdef inline void look_ahead(Core k, pkt_t *batch, int n, const aside_t *a) noexcept nogil:
    """Of a batch, what no packet's fate can change: decode the simple ones, and call for where the first flows are listed.

    `a`: what other workers take, which is not in the batch; NULL: it may be.
    """
    cdef int i, first, left
    if a == NULL and k.workers:
        for i in range(n):
            batch[i].ahead = AHEAD_NOT
    if k.selection is not None:
        return
    if k.until and k.until - k.n.packets_in < <uint64_t>n:
        n = <int>(k.until - k.n.packets_in)
    first = min(n, <int>LANES)
    for i in range(n if k.workers and not k.on_wire and a == NULL else 0):
        if shard_plain(&batch[i], k.workers) not in (k.worker, SHARD_UNKNOWN):
            batch[i].ahead = AHEAD_ELSEWHERE
    left = decode_ahead(k.dec, batch, first)
    look_up_first(k, batch, first)
    left += decode_ahead(k.dec, batch + first, n - first)       # meanwhile
    if left and k.dec.plainly and not k.workers:
        decode_dressed(k.dec, batch, n)
        look_up_first(k, batch, first)
    for i in range(min(n, <int>NEAR)):
        guess_flow(k, &batch[i])
    for i in range(min(n, <int>REST)):
        rest_of_flow(&batch[i])
    hash_ahead(batch + first, n - first, k.table.k0, k.table.k1, k.table.hash_mask)     # and meanwhile

cdef inline void guess_flow(Core k, pkt_t *p) noexcept nogil:
    if p.ahead == AHEAD_FLOW:
        p.guess = table_guess(k.table, p.hash, p.tcp_flags & TCP_FIN)

cdef inline void rest_of_flow(const pkt_t *p) noexcept nogil:
    if p.ahead == AHEAD_FLOW:
        table_fetch(<const flow_t *>p.guess)

cdef inline const flow_t *flow_soon(Core k, const pkt_t *batch, int i, int n) noexcept nogil:
    """The flow of the batch's packet `i`, which has been fetched; NULL: there is none, or it is not known."""
    return <const flow_t *>batch[i].guess if i < n and batch[i].ahead == AHEAD_FLOW else NULL

cdef inline void fetch_behind(Core k, const pkt_t *batch, int i, int n) noexcept nogil:
    """Call for what the flow of a packet soon to come leads to."""
    cdef const flow_t *f
    if k.flat:
        return
    f = flow_soon(k, batch, i + SOON, n)
    if f != NULL:
        if f.more != NULL:
            prefetch(f.more)
        if f.end[CLIENT].flags & f.end[SERVER].flags & END_FIN_SENT:
            prefetch(flow_cold(f))      # the ACK that closes it sets a timer
        if k.bus.nsets > FEW_SETS:
            prefetch(&k.bus.sets[f.set_id])
    if k.budget.used > MUCH_QUEUED:
        fetch_queue(k, batch, i, n, SOON // 2)
        fetch_queue(k, batch, i, n, SOON // 4)
        fetch_queue(k, batch, i, n, SOON // 8)

cdef inline void fetch_queue(Core k, const pkt_t *batch, int i, int n, int ahead) noexcept nogil:
    """And, in three steps as they lead to each other, for what is queued where the packet so far `ahead` belongs."""
    cdef const flow_t *f = flow_soon(k, batch, i + ahead, n)
    cdef const pkt_t *p = &batch[i + ahead]
    cdef int s = flow_side(f, p.from_hi) if f != NULL else CLIENT
    cdef const reasm_t *r = <const reasm_t *>reasm_of(f, s) if f != NULL else NULL
    cdef int far
    if r == NULL:
        return
    if ahead == SOON // 2:
        prefetch_lines(<const char *>r, REASM_HOT)
        if f.more.trouble != NULL:
            prefetch(f.more.trouble)
            prefetch(&known_trouble(f).side[s])
        return
    far = seq_diff(p.seq, f.end[s].nxt)
    if far > 0:
        if not index_fetch(&r.index, f.end[s].offset + <uint64_t>far, ahead == SOON // 8, f.mask >> KIND_OVERLAP_CONFLICT & 1) \
                and ahead == SOON // 8 and r.head != NULL and excess(r, &k.limits, &k.budget, p.payload_len, 1):
            prefetch(r.head)        # what lies below it will be given up
    elif r.head != NULL and p.payload_len and far + <int>p.payload_len > 0:     # set free
        prefetch(r.head if ahead == SOON // 4 else r.head.next)

cdef inline void call_for(Core k, pkt_t *batch, int i, int n, scout_t *scout) noexcept nogil:
    """While packet `i` of `n` is in hand: what those after it will need, in steps, each with time to come."""
    cdef int j
    scout_on(scout)
    if i % TOGETHER == 0:
        for j in range(i + FAR, min(i + FAR + TOGETHER, n)):
            if batch[j].ahead == AHEAD_FLOW:
                table_prefetch(k.table, batch[j].hash)
        for j in range(i + NEAR, min(i + NEAR + TOGETHER, n)):
            guess_flow(k, &batch[j])
    if i + REST < n:
        rest_of_flow(&batch[i + REST])
    fetch_behind(k, batch, i, n)

cdef inline int pass_by(Core k, const aside_t *a, int i, int others) noexcept nogil:
    """Time goes by with the last `others` that come before the batch's packet `i`. -1: a handler raised, and the run is to stop."""
    cdef int j
    for j in range(a.place[i + 1] - others if others else 0, a.place[i + 1] if others else 0):
        k.n.packets_in += 1
        k.n.elsewhere += 1
        if pass_time(k, a.ts[j]) < 0:
            return -1
    return 0

cdef inline int go_by(Core k, const aside_t *a, int i, int64_t ts) noexcept nogil:
    """How many packets that other workers take go by with the batch's packet `i`, of time `ts`: those just before it. None, as they
    have gone by already, if one is later than that. -1 as pass_by."""
    cdef int others = aside_before(a, i) if a != NULL else 0
    if a != NULL and a.high[i] > ts:        # first, as nobody could predict whether there are any
        return pass_by(k, a, i, others)
    return others

cdef inline int pass_behind(Core k, const aside_t *a, int n) noexcept nogil:
    """And with those behind all `n` packets of the batch, unless the run stops there."""
    return 0 if a == NULL or n < 1 or k.stop else pass_by(k, a, n, aside_before(a, n))

cdef inline void come_in(Core k, const pkt_t *p, int others) noexcept nogil:
    """It is its turn, and its time."""
    k.n.packets_in += 1 + others
    k.n.elsewhere += others
    k.n.bytes_in += p.wirelen
    k.n.decoded += 1
    if p.ts > k.now:
        k.now = k.slots.now = p.ts
    if p.key.domain == DOMAIN_OVERFLOW:
        k.dec.domains.overflow += 1
    k.committed = k.edited = 0

cdef inline int express(Core k, pkt_t *p, flow_t **flow, int others) noexcept nogil:
    """EXPRESS_*. `p` was decoded ahead; the answer to the packet before it is settled.

    `others`: so many packets just before it, none later than it, go by with it.
    """
    cdef flow_t *f
    cdef bint none = False
    cdef int s = CLIENT, how = STRAIGHT_OPENS
    if p.ahead != AHEAD_FLOW or (p.proto != IPPROTO_TCP and p.proto != IPPROTO_UDP) or p.csum & (CSUM_BAD_IP | CSUM_BAD_L4):
        return EXPRESS_NOT
    if not time_stands(k, p.ts):
        if others or not time_goes_on(k, p.ts):
            return EXPRESS_NOT
        if time_goes(k, p) < 0:
            return EXPRESS_FAILED
    f = <flow_t *>p.guess
    if not table_known(f, &p.key):
        f = table_peek(k.table, &p.key, p.hash, &none)
    if f == NULL:
        if not opens(k, p, none):
            return EXPRESS_NOT
        come_in(k, p, others)
        f = flow[0] = opened(k, p)
        if f == NULL:
            return EXPRESS_FAILED if k.bus.failed else EXPRESS_ANSWERED
        k.fresh = FRESH_OPENS
    else:
        if f.flags & (FLOW_DROPPED | FLOW_RESETTING) or flow_names(f) != NULL or f.mask >> KIND_PACKET_IN & 1:
            return EXPRESS_NOT
        s = flow_side(f, p.from_hi)
        how = STRAIGHT_NEXT if k.flat or p.proto == IPPROTO_UDP else goes_straight(k, f, p, s)
        if how == STRAIGHT_NOT:
            return EXPRESS_NOT
        come_in(k, p, others)
        k.fresh = 0
        table_touch(f)
    k.n.tracked += 1
    if p.gso_size:
        k.n.more_segments += pkt_segs(p) - 1
    f.end[s].packets += 1
    f.end[s].bytes += p.wirelen
    f.end[s].payload += p.payload_len
    f.last_ns = k.now
    undo_begin(k.undo, f)
    flow[0] = f
    if k.flat:          # nobody is told anything, so nobody answers
        f.end[s].offset += p.payload_cap
        if p.tcp_flags & (TCP_FIN | TCP_RST) or f.flags & FLOW_CLOSED:
            note_close(k, f, p, s)
    elif (apart(datagram)(k, f, p, s) if p.proto == IPPROTO_UDP else straight_on(k, f, p, s, how)) == WAY_FAILED:
        return EXPRESS_FAILED
    elif k.answer.verdict or k.answer.edits != NULL or flow_names(f) != NULL or caps_met(k):
        return EXPRESS_ANSWERED
    k.n.forwarded += 1
    leave(k, p, p.frame, p.caplen, p.wirelen, SEND_ON)
    return EXPRESS_DONE
