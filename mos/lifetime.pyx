"""How flows begin and how they end: by their packets, by silence, by pressure, at shutdown. And the timers that handlers set."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from mos.caps cimport caps_tell
from mos.core cimport (
    DROPPED_TABLE, FULL_LRU, FULL_REFUSE, PHASE_IDLE, PHASE_PACKET, PHASE_TIMERS, PICKUP_OFF, RESETTING_S, RST_SILENCE_S, Core,
    user_timer_t)
from mos.early cimport early_free
from mos.events.bus cimport MOS_DROP, answer_clear, answer_reset, answer_t, bus_take_gil, use_set
from mos.events.kinds cimport (
    CAP_FLOWS, KIND_FLOW_END, KIND_FLOW_START, KIND_ORPHAN, KIND_PACKET_IN, KIND_TCP_STATE_CHANGE, KIND_TIMER, ORPHAN_NO_SYN,
    ORPHAN_TABLE_FULL)
from mos.events.ring cimport event_t, ring_add
from mos.flow.flow cimport (
    CLIENT, END_ACKED, END_EVICTED, END_FIN, END_FIN_DONE, END_FIN_SENT, END_IDLE, END_RST_CLIENT, END_SEEN, END_STOPPED,
    FLOW_BYTES, FLOW_CLOSED, FLOW_MIDSTREAM, FLOW_RESETTING, SERVER, alias_t, end_t, flow_cold, flow_t)
from mos.flow.slab cimport slab_at
from mos.flow.table cimport (
    NIL, table_at, table_behind, table_create_hashed, table_expect, table_find_hashed, table_hash, table_prefetch, table_remember,
    table_remove, table_slot, table_victim)
from mos.flow.view cimport flow_view_end
from mos.flow.wheel cimport NO_TIMER, due_t, wheel_arm, wheel_cancel, wheel_coming, wheel_due, wheel_expire, wheel_tag
from mos.leave cimport leave_again
from mos.net.packet cimport IPPROTO_TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, TCP_URG, pkt_t, prefetch, prefetch_lines
from mos.patience cimport arm, arm_new, patience, put_off
from mos.segment cimport drain, flush, tell
from mos.state.blocks cimport slots_close, slots_open, undo_begin
from mos.tcp.milestone cimport first_syn
from mos.tcp.queue cimport reasm_t
from mos.tcp.reasm cimport reasm_free
from mos.tcp.seq cimport seq_diff, seq_gt
from mos.tcp.track cimport scene_t, track_open, track_time_out
from mos.tcp.trouble cimport known_trouble, trouble_t

cdef int64_t LEAP_NS = LEAP_S * <int64_t>1000000000

cdef uint64_t LAST_WORDS = <uint64_t>1 << KIND_FLOW_END | <uint64_t>1 << KIND_TCP_STATE_CHANGE

cdef enum:
    SOON_ENDED = 8      # closed flows are fetched so many entries ahead, every second void: at ten packets a flow 5 us
    CATCH_UP = 1024     # ticks of a periodic timer that a silence holds back; of more the oldest are left out


cdef flow_t *admit(Core k, const pkt_t *p) noexcept nogil:
    """A new flow for `p`, or NULL: it starts none (an Orphan is raised) or a handler raised while one was evicted."""
    cdef flow_t *f
    cdef int midstream = 0, embryonic = p.proto == IPPROTO_TCP and not k.flat
    cdef int client_hi = p.from_hi
    if p.proto == IPPROTO_TCP and p.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST) != TCP_SYN:
        if k.pickup == PICKUP_OFF or p.tcp_flags & TCP_RST:
            orphan(k, p, ORPHAN_NO_SYN)
            return NULL
        midstream = 1
        if p.tcp_flags & TCP_SYN or p.sport < p.dport:
            client_hi = 1 - client_hi
    f = table_create_hashed(k.table, &p.key, p.hash, embryonic)
    if f == NULL:
        if make_room(k, p) < 0:
            return NULL
        f = table_create_hashed(k.table, &p.key, p.hash, embryonic)
        if f == NULL:
            orphan(k, p, ORPHAN_TABLE_FULL)
            return NULL
    flow_cold(f).id = k.n.packets_in * k.workers + k.worker if k.on_wire else k.n.packets_in
    f.client_hi = <uint8_t>client_hi
    f.policy = policies_for(k, f)
    if midstream:
        f.flags |= FLOW_MIDSTREAM
    use_set(k.bus, f, 0)
    flow_cold(f).first_ns = f.last_ns = k.now
    f.rtt_us = <uint32_t>(<uint64_t>k.now // 1000)
    if slots_open(k.layout, f) < 0:
        table_remove(k.table, f)
        orphan(k, p, ORPHAN_TABLE_FULL)
        return NULL
    if p.proto == IPPROTO_TCP and not k.flat:
        track_open(f, p, midstream)
    arm_new(k, f, p)
    return f


cdef bint opens(Core k, const pkt_t *p, bint none) noexcept nogil:
    """Is `p` the first SYN of a TCP flow that there is not yet, and is nobody asked about each packet? `none`: there is no such."""
    cdef const alias_t *via
    return p.proto == IPPROTO_TCP and first_syn(p) and not p.tcp_flags & TCP_URG \
        and not (k.flat and k.bus.any_mask >> KIND_FLOW_START & 1) and not k.bus.any_mask >> KIND_PACKET_IN & 1 \
        and (none or table_find_hashed(k.table, &p.key, p.hash, &via) == NULL)


cdef flow_t *opened(Core k, const pkt_t *p) noexcept nogil:
    """The flow of such a packet, as admit has it, which starts."""
    cdef flow_t *f = admit(k, p)
    if f != NULL:
        ring_add(&k.ring, f.mask, KIND_FLOW_START, f, p, k.now, CLIENT, 1)
    return f


cdef uint8_t policies_for(Core k, const flow_t *f) noexcept nogil:
    """The overlap policies of both receiving hosts, by network."""
    cdef const uint8_t *client = &f.key.hi_addr[0] if f.client_hi else &f.key.lo_addr[0]
    cdef const uint8_t *server = &f.key.lo_addr[0] if f.client_hi else &f.key.hi_addr[0]
    if k.ntargets == 0:
        return k.policy | k.policy << 4
    return policy_at(k, server, f.key.ipver) | policy_at(k, client, f.key.ipver) << 4


cdef uint8_t policy_at(Core k, const uint8_t *addr, int ipver) noexcept nogil:
    cdef uint32_t i, n
    for i in range(k.ntargets):
        if k.targets[i].ipver == ipver:
            n = 0
            while n < 16 and addr[n] & k.targets[i].mask[n] == k.targets[i].net[n]:
                n += 1
            if n == 16:
                return k.targets[i].policy
    return k.policy


cdef void note_close(Core k, flow_t *f, const pkt_t *p, int s) noexcept nogil:
    """At the level of flows: both ends have sent a FIN, or one a RST, so silence need not be long until the flow is over.

    For packets with FIN or RST, and all of a flow that is closed.
    """
    if p.tcp_flags & TCP_FIN:
        f.end[s].flags |= END_FIN_SENT
    if f.flags & FLOW_CLOSED:
        put_off(k, f, p)
        return
    if not p.tcp_flags & TCP_RST and not f.end[0].flags & f.end[1].flags & END_FIN_SENT:
        return
    f.flags |= FLOW_CLOSED
    f.end_reason = <uint8_t>(END_RST_CLIENT + s if p.tcp_flags & TCP_RST else END_FIN)
    arm(k, f, p)


cdef inline void expect_next(Core k, const flow_t *victim) noexcept nogil:
    cdef uint32_t slot = table_behind(k.table, victim), tag = 0
    if slot != NIL:
        table_expect(k.table, slot,
                     tag if wheel_tag(k.idle, slot, &tag) else table_hash(k.table, &table_at(k.table, slot).key))


cdef int make_room(Core k, const pkt_t *p) noexcept nogil:
    """The table is full: end a flow by the policy, or none. Never in silence."""
    cdef flow_t *victim = table_victim(k.table, 0)
    cdef flow_t *other = NULL
    if victim == NULL or k.full_policy == FULL_LRU:
        other = table_victim(k.table, 1)
    if victim == NULL or (other != NULL and other.last_ns < victim.last_ns):
        victim = other
    k.cap_reached(CAP_FLOWS)
    if caps_tell(k, NULL, p) < 0:
        return -1
    if victim == NULL or k.full_policy == FULL_REFUSE:
        return 0
    expect_next(k, victim)
    return end_flow(k, victim, END_EVICTED)


cdef int orphan(Core k, const pkt_t *p, int cause) noexcept nogil:
    cdef event_t *e
    k.n.orphans[cause] += 1
    ring_add(&k.ring, k.bus.any_mask, KIND_PACKET_IN, NULL, p, k.now, 0, 1)
    e = ring_add(&k.ring, k.bus.any_mask, KIND_ORPHAN, NULL, p, k.now, 0, 1)
    if e != NULL:
        e.cause = <uint8_t>cause
    if k.safe and cause == ORPHAN_TABLE_FULL:       # nothing passes unseen
        k.answer.verdict, k.answer.position = MOS_DROP, 65535
        k.n.dropped[DROPPED_TABLE] += 1
    return drain(k)


cdef inline bint all_delivered(const flow_t *f, int side) noexcept nogil:
    """No byte of this side, of which nothing is queued, was acknowledged that was not delivered."""
    cdef const end_t *e = &f.end[side]
    cdef const end_t *peer = &f.end[1 - side]
    if not e.flags & END_SEEN or not peer.flags & END_ACKED:
        return True
    return seq_diff(peer.last_ack, e.nxt) <= (e.flags & END_FIN_SENT != 0 and seq_gt(peer.last_ack, e.fin_seq))


cdef inline bint unnoticed(const flow_t *f) noexcept nogil:
    """Does nobody learn from its end, nor from what changes then? Of most flows of a chain that counts bytes that is so."""
    return f.more == NULL and not f.mask & LAST_WORDS and all_delivered(f, CLIENT) and all_delivered(f, SERVER)


cdef int end_flow(Core k, flow_t *f, int reason) noexcept nogil:
    """FlowEnd, exactly once and last, then everything the flow holds is released.

    What handlers answer here is about packets that are gone: the packet in hand, another flow's, keeps its own answer.
    """
    if not unnoticed(f):
        return end_noticed(k, f, reason)
    if not f.end_reason:
        f.end_reason = <uint8_t>reason
    if f.end_reason == reason and f.end[0].flags & f.end[1].flags & END_FIN_DONE:
        f.end_reason = END_FIN
    k.n.ended[f.end_reason] += 1
    undo_begin(k.undo, f)
    release(k, f)
    return 0


cdef int end_noticed(Core k, flow_t *f, int reason) noexcept nogil:
    cdef trouble_t *t = known_trouble(f)
    cdef answer_t answer = k.answer
    cdef event_t *e
    cdef int side
    if not f.end_reason:
        f.end_reason = <uint8_t>reason
        if t != NULL and t.rst_side and reason != END_EVICTED:
            f.end_reason = <uint8_t>(END_RST_CLIENT + t.rst_side - 1)
    answer_reset(&k.answer)
    undo_begin(k.undo, f)
    if f.key.proto == IPPROTO_TCP:
        for side in range(2):
            if not (f.more == NULL and all_delivered(f, side)) and flush(k, f, side) < 0:
                return -1
    if f.end_reason == reason and f.end[0].flags & f.end[1].flags & END_FIN_DONE:
        f.end_reason = END_FIN      # the last hole hid a FIN
    k.n.ended[f.end_reason] += 1
    e = ring_add(&k.ring, f.mask, KIND_FLOW_END, f, NULL, k.now, 0, 1)
    if e != NULL:
        e.cause = f.end_reason
        if drain(k) < 0:
            return -1
    answer_clear(k.bus, &k.answer)
    k.answer = answer
    release(k, f)
    return 0


cdef void release(Core k, flow_t *f) noexcept nogil:
    cdef trouble_t *t = known_trouble(f)
    wheel_cancel(k.idle, table_slot(k.table, f))
    if f.more != NULL:
        reasm_free(<reasm_t **>&f.more.reasm[0], &k.budget)
        reasm_free(<reasm_t **>&f.more.reasm[1], &k.budget)
        if f.more.view != NULL or (t != NULL and t.timers != NULL):
            bus_take_gil(k.bus)
            (<void (*)(Core, flow_t *) noexcept nogil>release_objects)(k, f)
    slots_close(k.layout, f)
    if t != NULL:
        early_free(k, t)
        free(t.resets)
        free(t)
        f.more.trouble = NULL
    k.undo.flow = NULL
    table_remove(k.table, f)


cdef void set_clock(Core k, int64_t ts) noexcept nogil:
    """The first time stamp, one far ahead, and the one after such."""
    if k.now == 0:
        start_timers(k, ts)
    if k.now == 0 or ts - k.now < LEAP_NS or (k.leap and ts - k.leap > -LEAP_NS):
        k.now = k.slots.now = ts
        k.leap = 0
    else:
        k.leap = ts


cdef inline void call_for_ends(Core k) noexcept nogil:
    """Have the next flows to end on their way from memory, and where the index lists them: else each line is waited for."""
    cdef const due_t *e = wheel_coming(k.idle, SOON_ENDED)
    while e != NULL:
        prefetch_lines(<const char *>table_at(k.table, e.slot), FLOW_BYTES)
        prefetch(flow_cold(table_at(k.table, e.slot)))
        table_prefetch(k.table, e.tag)
        e = wheel_coming(k.idle, SOON_ENDED)


cdef int expire(Core k) noexcept nogil:
    """Everything that has come due in packet time: idle flows first, then user timers in order."""
    cdef uint32_t slot
    cdef flow_t *f
    cdef user_timer_t *t
    answer_reset(&k.answer)
    k.ring.n = 0
    k.phase = PHASE_IDLE
    while wheel_due(k.idle, k.now):
        slot = wheel_expire(k.idle, k.now)
        if slot == NO_TIMER:
            break
        call_for_ends(k)
        if k.idle.came != NULL:
            table_remember(k.table, slot, k.idle.came.tag)
        f = table_at(k.table, slot)
        k.due, k.due_flow = flow_cold(f).timer.when, flow_cold(f).id
        if idle_out(k, f) < 0:
            return -1
    k.phase = PHASE_TIMERS
    while wheel_due(k.timers, k.now):
        slot = wheel_expire(k.timers, k.now)
        if slot == NO_TIMER:
            break
        t = <user_timer_t *>slab_at(&k.timer_slab, slot)
        k.due, k.due_flow = t.node.when, flow_cold(t.flow).id if t.flow != NULL else 0
        if fire(k, t) < 0:
            return -1
    k.phase = PHASE_PACKET
    answer_clear(k.bus, &k.answer)
    return 0


cdef int time_goes(Core k, const pkt_t *p) noexcept nogil:
    """What has come due by the time of `p` happens, with `p` in hand. -1: a handler raised, and `p` counts as having come."""
    cdef int rc
    k.n.packets_in += 1
    rc = pass_time(k, p.ts)
    if rc == 0:
        k.n.packets_in -= 1
    else:
        k.n.bytes_in += p.wirelen
    return rc


cdef int idle_out(Core k, flow_t *f) noexcept nogil:
    """The idle timer ran out: wait on if the flow spoke meanwhile, else it is over."""
    cdef trouble_t *t = known_trouble(f)
    cdef scene_t c
    if t != NULL and t.rst_side and k.now - t.rst_ns >= RST_SILENCE_S * <int64_t>1000000000:
        return end_flow(k, f, END_IDLE)
    if f.flags & FLOW_RESETTING:
        if k.now - f.last_ns >= RESETTING_S * <int64_t>1000000000:
            return end_flow(k, f, END_STOPPED)
        if t != NULL and t.resets != NULL and leave_again(k, f):
            return 0
        wheel_arm(k.idle, table_slot(k.table, f), f.last_ns + RESETTING_S * <int64_t>1000000000)
        return 0
    if f.flags & FLOW_CLOSED and f.end_reason > 1:
        return end_flow(k, f, END_IDLE)
    if f.last_ns + patience(k, f) > k.now:
        arm(k, f, NULL)
        return 0
    if f.flags & FLOW_CLOSED and not unnoticed(f):
        c.flow = f
        c.pkt = NULL
        c.ring = &k.ring
        c.want = f.mask
        c.now = k.now
        c.s = CLIENT
        c.to_server = 1
        c.truth = k.truth
        track_time_out(&c)
        if drain(k) < 0:
            return -1
    return end_flow(k, f, END_IDLE)


cdef int fire(Core k, user_timer_t *t) noexcept nogil:
    """One user timer: again or gone, and its handlers, which may cancel it."""
    cdef event_t e
    cdef int rc
    cdef int64_t due = t.node.when + t.period
    cdef PyObject *value = t.value      # a handler may cancel the timer that calls it
    memset(&e, 0, sizeof(e))
    e.size, e.kind, e.segs, e.to_server = sizeof(event_t), KIND_TIMER, 1, 1
    e.flow, e.now, e.obj = t.flow, t.node.when, <void *>value
    e.arg = <int64_t>t.handle
    undo_begin(k.undo, NULL)
    bus_take_gil(k.bus)
    (<void (*)(PyObject *) noexcept nogil>hold)(value)
    if t.period:
        if (k.now - due) // t.period > CATCH_UP:
            k.n.ticks_left_out += <uint64_t>((k.now - due) // t.period)
            due = k.now - (k.now - due) % t.period
        wheel_arm(k.timers, t.slot, due)
    else:
        (<void (*)(Core, user_timer_t *) noexcept nogil>drop_timer_of)(k, t)
    rc = tell(k, &e)
    (<void (*)(PyObject *) noexcept nogil>let_go)(value)
    return rc


cdef void start_timers(Core k, int64_t ts) noexcept nogil:
    """The first packet says what time it is: timers set before it count from there."""
    if k.timers_live:
        bus_take_gil(k.bus)
        (<void (*)(Core, int64_t) noexcept nogil>shift_timers)(k, ts)


cdef void shift_timers(Core k, int64_t ts) noexcept:
    cdef user_timer_t *t
    for address in k.timer_table.values():
        t = <user_timer_t *><size_t>address
        wheel_cancel(k.timers, t.slot)
        wheel_arm(k.timers, t.slot, ts + t.start)


cdef void release_objects(Core k, flow_t *f) noexcept:
    """User timers and the Python view of a flow that ends. With the GIL."""
    cdef trouble_t *t = known_trouble(f)
    if t != NULL:
        while t.timers != NULL:
            k.drop_timer(<user_timer_t *>t.timers)
    flow_view_end(f)


cdef void hold(PyObject *value) noexcept:
    Py_INCREF(<object>value)


cdef void let_go(PyObject *value) noexcept:
    Py_XDECREF(value)


cdef void drop_timer_of(Core k, user_timer_t *t) noexcept:
    k.drop_timer(t)
