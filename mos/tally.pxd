# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A batch where packets are only counted: level "flow", and nobody asks for packets one by one, or changes or keeps any.

What most packets are is read, looked up and counted side by side, and what a run sums up is added once in many. All the
others go as `mos.express` and `mos.stack` have it, in their turn.
"""
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from mos.core cimport Core
from mos.events.kinds cimport KIND_PACKET_IN
from mos.express cimport EXPRESS_ANSWERED, EXPRESS_NOT, FAR, NEAR, TOGETHER, express, time_goes_on, time_stands
from mos.flow.flow cimport CLIENT, FLOW_BYTES, FLOW_CLOSED, FLOW_DROPPED, FLOW_RESETTING, SERVER, end_t, flow_cold, flow_t
from mos.flow.hashes cimport LANES, mos_sip2
from mos.flow.key cimport load32, load64
from mos.flow.table cimport ALIAS_REF, entry_t, glance, table_at, table_hash, table_prefetch, table_touch
from mos.io.port cimport BATCH, Port
from mos.io.scout cimport scout_on
from mos.lifetime cimport LEAP_S, note_close, pass_tick, time_goes
from mos.net.decode cimport decode_ahead
from mos.net.dressed cimport decode_dressed
from mos.net.packet cimport AHEAD_FLOW, AHEAD_NOT, PKT_FLOW, TCP_FIN, TCP_RST, pkt_t, prefetch
from mos.net.plain cimport glimpse, glimpse_t, plain
from mos.state.blocks cimport undo_begin

cdef enum:
    SOON = 8                # what a flow's first line leads to is called for so many packets ahead

cdef enum:                  # tally_t.what
    TALLY_PLAIN = 0         # to be counted, if its flow is there
    TALLY_FLOW = 1          # decoded ahead by others
    TALLY_OTHER = 2

cdef struct tally_t:        # of the packets in a batch
    uint64_t addresses[BATCH]
    uint64_t ports[BATCH]
    uint64_t hash[BATCH]
    flow_t  *guess[BATCH]   # fetched; it may not be the packet's
    uint32_t payload[BATCH]
    uint8_t  from_hi[BATCH]
    uint8_t  flags[BATCH]
    uint8_t  what[BATCH]
    int      called         # for packets before that, what those after them need has been called for
    const entry_t *index    # of the table
    uint32_t mask
    const char *base        # of its flows; NULL: a flow may go, and its memory with it, so none is looked at before its turn

cdef inline bint tallies(Core k, Port source) noexcept nogil:
    """Whether packets are only counted now. What a packet's handlers do may change that."""
    return k.flat and k.straight and not k.dec.checksum and k.dec.plainly and not k.workers and not k.until \
        and not k.table.n_aliases and not k.bus.any_mask >> KIND_PACKET_IN & 1 and source.aside == NULL and not source.live \
        and k.port is None and k.writer is None and k.recorder is None and k.selection is None

cdef inline void tally_read(Core k, pkt_t *batch, int n, tally_t *t) noexcept nogil:
    """Decode and hash, and call for where the first flows are listed."""
    cdef glimpse_t g
    cdef uint64_t k0 = k.table.k0, k1 = k.table.k1, mask = k.table.hash_mask
    cdef int i, plainly = 0, left = 0, at = 0
    for i in range(n):
        if not batch[i].gso_size and glimpse(&batch[i], &g, &k.dec.broken_options):
            t.addresses[i], t.ports[i], t.payload[i], t.from_hi[i], t.flags[i] = g.addresses, g.ports, g.payload, g.from_hi, g.flags
            t.what[i], batch[i].ahead = TALLY_PLAIN, AHEAD_FLOW
            plainly += 1
        else:
            t.what[i], batch[i].ahead = TALLY_OTHER, AHEAD_NOT
        t.guess[i] = NULL
    k.dec.by_status[PKT_FLOW] += plainly
    while at < n:
        mos_sip2(t.addresses + at, t.ports + at, t.hash + at, k0, k1, mask)
        at += LANES
    if plainly < n:
        for i in range(n):
            left += decode_ahead(k.dec, &batch[i], 1) if t.what[i] == TALLY_OTHER else 0
        if left:
            decode_dressed(k.dec, batch, n)
        for i in range(n):
            if t.what[i] == TALLY_OTHER and batch[i].ahead == AHEAD_FLOW:
                t.what[i], t.hash[i] = TALLY_FLOW, table_hash(k.table, &batch[i].key)
    for i in range(min(n, <int>FAR)):
        table_prefetch(k.table, t.hash[i])
    t.called = 0
    tally_table(k, t)
    for i in range(min(n, <int>NEAR) if t.base != NULL else 0):
        tally_guess(k, t, i)

cdef inline void tally_table(Core k, tally_t *t) noexcept nogil:
    """Where flows are: other packets may have moved that."""
    t.index, t.mask = k.table.index, k.table.mask
    t.base = k.table.flows.base if not k.table.flows.exact else NULL

cdef inline void tally_guess(Core k, tally_t *t, int i) noexcept nogil:
    """Fetch the flow whose packet that will be: its first line, which says where the other one is that takes the count."""
    cdef uint32_t tag = <uint32_t>t.hash[i], at = tag & t.mask
    cdef const entry_t *e = &t.index[(at + (t.index[at].tag != tag)) & t.mask]     # most are at the first place or the second:
    cdef flow_t *f
    if e.tag != tag:                                                        # which one is not for a branch to guess
        e = glance(k.table, t.hash[i])
    if e == NULL or e.ref & ALIAS_REF:      # or empty
        t.guess[i] = NULL
        return
    f = t.guess[i] = <flow_t *>(t.base + <size_t>e.ref * FLOW_BYTES) if t.base != NULL else table_at(k.table, e.ref)
    prefetch(f)
    if t.flags[i] & (TCP_FIN | TCP_RST):    # it may set a timer
        prefetch(&f.end[CLIENT].flags)
        prefetch(&f.end[SERVER].flags)
        prefetch(flow_cold(f))

cdef inline void tally_call(Core k, tally_t *t, int i, int n) noexcept nogil:
    """What packets soon after `i` will need, of several at once (mos.express)."""
    cdef int j
    t.called = i + TOGETHER
    for j in range(i + FAR, min(i + FAR + TOGETHER, n)):
        table_prefetch(k.table, t.hash[j])
    for j in range(i + NEAR, min(i + NEAR + TOGETHER, n)):
        tally_guess(k, t, j)

cdef inline void tally_fetch(tally_t *t, int i) noexcept nogil:
    cdef flow_t *f = t.guess[i]
    if f != NULL:
        prefetch(&f.end[t.from_hi[i] ^ f.client_hi])
        prefetch(<const void *>flow_cold(f) if f.flags & FLOW_CLOSED else f)    # no branch, as in table_guess

cdef inline bint tally_known(const flow_t *f, const tally_t *t, int i) noexcept nogil:
    """Is what was guessed the packet's flow, still there, and does it let packets pass?"""
    cdef const char *key = <const char *>&f.key
    return (<uint64_t>(load32(key) ^ <uint32_t>t.addresses[i]) | (load32(key + 16) ^ <uint32_t>(t.addresses[i] >> 32))
            | (load64(key + 32) ^ t.ports[i]) | f.key.domain | (f.flags & (FLOW_DROPPED | FLOW_RESETTING))) == 0 \
        and f.last_ns != INT64_MIN

cdef inline int64_t tally_until(Core k) noexcept nogil:
    """From then on time does not just pass."""
    if k.leap or not k.now:
        return INT64_MIN
    return min(k.idle.next_due, k.timers.next_due, k.now + LEAP_S * <int64_t>1000000000)

cdef inline int tally_some(Core k, Port source, pkt_t *batch, int i, int n, tally_t *t) noexcept nogil:
    """Count packets from `i` on; the number of the first that has to go another way."""
    cdef int first = i
    cdef int64_t now = k.now, ts, until = tally_until(k)
    cdef uint64_t wire = 0
    cdef flow_t *f
    cdef end_t *e
    tally_table(k, t)
    while i < n:
        scout_on(&source.scout)
        if t.base == NULL:
            tally_guess(k, t, i)
        elif i >= t.called:
            tally_call(k, t, i, n)
        if i + SOON < n:
            tally_fetch(t, i + SOON)
        f, ts = t.guess[i], max(batch[i].ts, now)
        if f == NULL or t.what[i] != TALLY_PLAIN or ts >= until or not tally_known(f, t, i):
            break
        now = f.last_ns = ts
        e = &f.end[t.from_hi[i] ^ f.client_hi]
        e.packets += 1
        e.bytes += batch[i].wirelen
        e.payload += t.payload[i]
        e.offset += t.payload[i]
        wire += batch[i].wirelen
        table_touch(f)
        if t.flags[i] & (TCP_FIN | TCP_RST) or f.flags & FLOW_CLOSED:
            k.now, batch[i].tcp_flags, batch[i].hash = now, t.flags[i], t.hash[i]
            note_close(k, f, &batch[i], t.from_hi[i] ^ f.client_hi)
            until = tally_until(k)
        i += 1
    if i > first:
        tally_sum(k, i - first, wire, now)
    return i

cdef inline void tally_sum(Core k, int n, uint64_t wire, int64_t now) noexcept nogil:
    k.n.packets_in += n
    k.n.bytes_in += wire
    k.n.decoded += n
    k.n.tracked += n
    k.n.forwarded += n
    k.n.packets_out += n
    k.now = k.slots.now = now
    k.fresh = k.committed = k.edited = 0
    undo_begin(k.undo, NULL)

cdef inline int tally(Core k, Port source, pkt_t *batch, int n) noexcept nogil:
    """Take a batch to completion; -1: a handler raised and the run is to stop."""
    cdef tally_t t
    cdef bint on = True
    cdef int i = 0, gone = -1, rc       # gone: for that packet what had come due has happened
    cdef uint64_t none = 0
    cdef flow_t *f
    tally_read(k, batch, n, &t)
    while True:
        if on:
            i = tally_some(k, source, batch, i, n, &t)
        if i == n:
            return 0
        if t.what[i] == TALLY_PLAIN and t.guess[i] == NULL and on:
            tally_table(k, &t)
            tally_guess(k, &t, i)       # a packet just before may have been its flow's first
            if t.guess[i] != NULL:
                continue
        if on and gone < i and batch[i].number and not time_stands(k, batch[i].ts) and time_goes_on(k, batch[i].ts):
            gone = i
            if time_goes(k, &batch[i]) < 0:
                return -1
            if t.what[i] == TALLY_PLAIN and not k.stop and tallies(k, source):
                continue            # it may only have to be counted now
        if t.what[i] == TALLY_PLAIN:
            plain(&batch[i], &none)
        batch[i].hash, batch[i].guess = t.hash[i], NULL if k.table.flows.exact else t.guess[i]     # time may go by first
        rc = express(k, &batch[i], &f, 0)
        if rc == EXPRESS_NOT:
            rc = k.take(&batch[i]) if batch[i].number else pass_tick(k, batch[i].ts)
        elif rc == EXPRESS_ANSWERED:    # there is no flow for it
            rc = k.finish(&batch[i], NULL, CLIENT)
        if rc < 0 or k.stop:
            return rc
        i += 1
        on = tallies(k, source)
