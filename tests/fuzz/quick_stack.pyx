# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""From frames to verdicts: both balances hold after every packet, a flow starts and ends once, its bytes and gaps come by offset,
each once unless their packet was dropped, queues are sound and within their bounds, and nothing is left at the end."""
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from mos cimport action_t, event_t, mos_capsule
from mos.core cimport NDROPPED, Core, counters_t
from mos.early cimport EARLY_ALL, EARLY_NOT
from mos.events.handler cimport MOS_BYPASS, MOS_DETACH, MOS_DROP, MOS_DROP_FLOW, MOS_PASS, MOS_RESET
from mos.events.kinds cimport KIND_FLOW_END, KIND_FLOW_START, KIND_PACKET_IN, KIND_STREAM_DATA, KIND_STREAM_GAP
from mos.events.ring cimport AT_SENDER, EV_REDELIVERED
from mos.flow.flow cimport END_SHUTDOWN, end_t, flow_cold, flow_t, reasm_of
from mos.flow.table cimport table_first, table_next
from mos.io.port cimport Port
from mos.lifetime cimport end_flow
from mos.net.domain cimport domains_free, domains_t
from mos.net.frag cimport frag_clear
from mos.net.packet cimport IPPROTO_TCP, TCP_ACK, TCP_SYN, pkt_t
from mos.stack cimport Stack
from mos.tcp.classify cimport TRUTH_INLINE
from mos.tcp.reasm cimport reasm_invariants
from mos.tcp.queue cimport reasm_t
from quick cimport held, input_t, must, take, touch
from wire cimport wire_run, wire_start, wire_t

from mos.events import Event, FlowEvent, FlowStart, StreamData, TcpEvent, on
from mos.events.verdict import Replace, Rewrite
from mos.nf import NF, Chain, Native
from mos.run import Engine

cdef enum:
    MOST = 48               # frames of an input, so that it takes some hundred microseconds
    START = 1700000000      # s

cdef struct side_t:         # bytes of one direction, as watch.py has them
    uint64_t due            # offset that comes next,
    uint64_t floor          # how far a drop lets it go back,
    uint64_t begin          # where the packet began that came last,
    uint64_t packet         # its number, and
    uint64_t early          # that of the early segment which it let go last, or the same

cdef struct watch_t:        # a flow by the number of its first packet
    uint8_t open
    side_t  side[2]

cdef watch_t[MOST + 2] watched
cdef input_t choices
cdef uint64_t number         # of the packet in hand
cdef int started, ended
cdef list engines = []
cdef Stack stack
cdef Port nowhere = Port()
cdef bint batches


cdef int watch(void *ctx, const event_t *e, action_t *a) noexcept nogil:
    """Sees every event, and answers none."""
    global started, ended
    cdef watch_t *w
    if e.flow == NULL:
        return MOS_PASS
    if not must(0 < flow_cold(e.flow).id <= MOST, "a flow's id is the number of a packet"):
        return MOS_PASS
    w = &watched[flow_cold(e.flow).id]
    if e.kind == KIND_FLOW_START:
        must(not w.open, "a flow starts once")
        w.open = 1
        started += 1
    elif e.kind == KIND_FLOW_END:
        must(w.open, "a flow ends once, after its start")
        w.open = 0
        ended += 1
    elif e.kind == KIND_PACKET_IN and e.pkt.tcp_flags & TCP_SYN and e.pkt.tcp_flags & TCP_ACK and stack.truth == TRUTH_INLINE:
        withdraw(&w.side[1 - e.side], &e.flow.end[1 - e.side], e.pkt.ack)
    elif e.at == AT_SENDER and (e.kind == KIND_STREAM_DATA or e.kind == KIND_STREAM_GAP):
        must(w.open and e.length > 0, "bytes belong to an open flow")
        if e.kind == KIND_STREAM_DATA:
            touch(e.data, e.length)
        advance(&w.side[e.side], e)
    return MOS_PASS


cdef void withdraw(side_t *d, const end_t *other, uint32_t ack) noexcept nogil:
    """Of what came before the SYN-ACK, with the SYN or after, it may not cover the last bytes: those come again."""
    cdef uint32_t beyond = other.nxt - ack
    if 0 < beyond <= other.offset:
        d.floor = min(d.floor, other.offset - beyond)


cdef void advance(side_t *d, const event_t *e) noexcept nogil:
    if d.packet == number and e.pkt != NULL and e.pkt.number != d.early:
        d.floor = min(d.floor, d.begin)         # the one before may have been dropped
    must(d.floor <= e.offset <= d.due, "bytes and gaps come by offset, each once")
    must(e.offset == d.due or e.kind == KIND_STREAM_GAP or e.flags & EV_REDELIVERED or e.flow.key.proto != IPPROTO_TCP,
         "what comes again says so")
    if d.packet != number or e.pkt == NULL:
        d.packet, d.begin = number, e.offset
    d.early = e.pkt.number if e.pkt != NULL else number
    d.due = d.floor = e.offset + e.length


cdef int choose(void *ctx, const event_t *e, action_t *a) noexcept nogil:
    """One byte per question."""
    cdef uint32_t c = take(&choices, 1)
    if c == 0 or c >= 48:
        return MOS_PASS
    c %= 5
    return MOS_DROP if c == 0 else MOS_DROP_FLOW if c == 1 else MOS_RESET if c == 2 else MOS_BYPASS if c == 3 else MOS_DETACH


class Box(NF):
    """Verdicts in C. delivered: also behind the commit."""
    on_error = "fail_open"

    def __init__(self, name, delivered=False):
        super().__init__()
        self.name, self.delivered = name, delivered

    def handlers(self):
        found = [Native(FlowEvent, mos_capsule(choose, NULL), name="any"), Native(TcpEvent, mos_capsule(choose, NULL), name="tcp")]
        if self.delivered:
            found.append(Native(StreamData, mos_capsule(choose, NULL), name="delivered", at="receiver"))
        return found + list(super().handlers())


class Editor(Box):
    """And new bytes and names, by way of Python."""

    @on(StreamData, edits="same_length")
    def replace(self, ev):
        c = take(&choices, 1)
        return Replace(bytes([b ^ c for b in ev.data])) if c & 1 else None

    @on(FlowStart, edits="header")
    def rename(self, ev):
        c = take(&choices, 1)
        if not c & 1:
            return None
        six = ":" in str(ev.flow.client)
        return Rewrite(**{"client" if c & 2 else "server": ("fd99::1" if six else "192.0.2.9", 50000 + c)})


class Watch(NF):
    name = "watch"
    observe = True

    def handlers(self):
        return [Native(Event, mos_capsule(watch, NULL), name="all")]


TIGHT = {"bytes": 3000, "segments": 6, "doubtful": 1500, "keep": 700, "global": 20000}


def make(truth, *boxes, **settings):
    """An engine that is used for all inputs whose first byte names it."""
    engines.append(Engine(Chain(*boxes, Watch()), truth=truth, raise_errors=False, hash_key=bytes(16), **settings))


make("tap", max_flows=64)
make("tap", Box("one", True), max_flows=64, checksum="off", limits=TIGHT)
make("tap", max_flows=2, pickup="state", checksum="verify", overlap="linux")
make("tap", Box("one"), max_flows=64, pickup="off", overlap="last", checksum="off")
make("inline", Box("one"), max_flows=64, checksum="off", safe="off")
make("inline", Box("one"), Box("two", True), max_flows=64, checksum="off", limits=TIGHT)
make("inline", Editor("one"), max_flows=64, checksum="off")
make("inline", Editor("one"), Box("two"), max_flows=3, checksum="off", limits=TIGHT, holes="skip")


cdef int pass_through(Stack k, pkt_t *p) noexcept nogil:
    """As `feed` has it, or as a batch of its own: that goes express where it may."""
    cdef uint8_t *copy
    cdef int rc
    if not batches:
        return k.packet(p)
    copy = <uint8_t *>malloc(p.caplen)
    memcpy(copy, p.frame, p.caplen)
    p.frame = copy
    rc = k.whole_batch(nowhere, p, 1)
    free(copy)
    return rc


cdef void send(void *to, const uint8_t *frame, uint32_t caplen, uint32_t wirelen, int64_t now) noexcept with gil:
    """One frame through the stack, and what must hold behind it."""
    global number
    cdef Stack k = stack
    cdef pkt_t p
    cdef uint64_t before = k.n.forwarded, waited = k.n.held
    cdef flow_t *f
    cdef int side
    memset(&p, 0, sizeof(p))
    p.frame, p.caplen, p.wirelen, p.ts, p.number, p.linktype = frame, caplen, wirelen, now, k.n.packets_in + 1, 1
    number = p.number
    must(pass_through(k, &p) >= 0 or not must(k.bus.failed, "only a handler ends a run"), "no handler ends a run")
    must(k.ring.n == 0 and k.ring.lost == 0, "the ring is empty between packets")
    must(k.early == EARLY_NOT and k.early_bytes <= EARLY_ALL, "segments wait in bounds, and of none in hand")
    balance(k)
    must(k.budget.used <= k.budget.cap and k.table.n_flows <= k.table.max_flows, "memory and flows stay within their bounds")
    f = table_first(k.table)
    while f != NULL:
        for side in range(2):
            must(reasm_invariants(<const reasm_t *>reasm_of(f, side), f.end[side].offset), "queues are sound")
            # Or early segments left, which are counted, too: whether this one did cannot be told.
            if (before == k.n.forwarded or k.n.held < waited) and watched[flow_cold(f).id].side[side].packet == number:
                watched[flow_cold(f).id].side[side].floor = watched[flow_cold(f).id].side[side].begin
        f = table_next(k.table, f)


cdef void balance(Core k) noexcept nogil:
    cdef uint64_t dropped = k.dec.frags.parked_dropped
    cdef int i
    for i in range(NDROPPED):
        dropped += k.n.dropped[i]
    for i in range(k.bus.positions):
        dropped += k.dropped_by[i]
    must(k.n.packets_in == k.n.forwarded + dropped + k.n.held + k.dec.frags.parked + k.n.consumed, "in is forwarded + dropped + held + consumed")
    must(k.n.packets_out == k.n.forwarded + k.n.injected + k.n.split, "sent is forwarded + injected + split")


cdef void close() noexcept with gil:
    """End all flows, see that nothing is left, and make the stack as new."""
    global number
    cdef Stack k = stack
    cdef flow_t *f = table_first(k.table)
    cdef domains_t *d = &k.dec.domains
    number = 0
    while f != NULL:
        end_flow(k, f, END_SHUTDOWN)
        f = table_first(k.table)
    must(started == ended, "each flow has ended")
    must(k.budget.used == 0 and k.table.n_flows == 0 and k.table.n_aliases == 0 and k.table.used == 0, "all memory is given back")
    must(k.early_bytes == 0 and k.n.held == 0, "no segment waits for its receiver")
    must(k.idle.armed == 0 and k.timers.armed == 0, "no timer is left")
    frag_clear(&k.dec.frags)
    must(k.dec.frags.n == 0 and k.dec.frags.bytes == 0 and k.dec.frags.parked == 0, "no fragment is left")
    k.dec.frags.parked_dropped = 0
    domains_free(d)
    d.index, d.ends, d.bytes, d.map = NULL, NULL, NULL, NULL
    d.n = d.room = d.slots = d.bytes_room = d.last = 0
    memset(&k.n, 0, sizeof(counters_t))
    memset(k.dropped_by, 0, k.bus.positions * sizeof(uint64_t))
    k.now = k.leap = k.slots.now = k.dec.frags.now = 0
    k.idle.clock = k.timers.clock = k.idle.seen = k.timers.seen = 0
    k.idle.next_due = k.timers.next_due = INT64_MAX
    k.unproven_from = k.unproven = 0


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef wire_t wire
    cdef input_t r
    cdef size_t answers
    if size < 2:
        return 0
    use(data[0], data[1] >> 1 & 1)
    answers = (size - 2) // 4 if data[1] & 1 else 0
    choices.p, choices.left = data + size - answers, answers
    r.p, r.left = data + 2, size - 2 - answers
    wire_start(&wire, send, NULL, START * <int64_t>1000000000, MOST)
    wire_run(&wire, &r)
    close()
    return 0


cdef void use(uint32_t which, bint by_batch) noexcept with gil:
    global stack, started, ended, batches
    batches = by_batch
    stack = (<Stack>engines[which % len(engines)].stack)
    stack.bus.holding = 1
    started = ended = 0
    memset(&watched, 0, sizeof(watched))


def replay(bytes data not None):
    """What of the first lines does not hold for this input, or None."""
    return held(one_input, data)
