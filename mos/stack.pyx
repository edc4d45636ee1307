"""The run loop: one packet after the other, each to completion, because the next may depend on what was said of it.

    recv_batch > decode > flow table > classify > track sender > probe > walk the NFs > commit or abort
               > track receiver > rewrite > send

TCP's part, from classify to track receiver, is `mos.segment`.
"""
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from mos.events.bus cimport (
    MOS_DROP, MOS_DROP_FLOW, MOS_HOLD, MOS_RESET, answer_clear, answer_reset, answer_t, bus_drop_gil, bus_take_gil, use_set)
from mos.events.kinds cimport (
    KIND_BAD_CHECKSUM, KIND_FLOW_START, KIND_ORPHAN, KIND_PACKET_IN, ORPHAN_STOPPED)
from mos.events.ring cimport EV_MIDSTREAM, event_t, ring_add
from mos.flow.ages cimport ages_begin, ages_end, ages_next, ages_prefetch, ages_t
from mos.flow.flow cimport (
    CLIENT, END_REUSED, END_SHUTDOWN, END_SYN, FLOW_DROPPED, FLOW_MIDSTREAM, FLOW_RESETTING, FLOW_RESET_DUE, SERVER, alias_t,
    flow_cold, flow_names, flow_side)
from mos.flow.table cimport table_find_hashed, table_first, table_hash, table_known, table_touch
from mos.io.port cimport BATCH, SEND_ON, Port
from mos.net.bpf cimport bpf_run, bpf_t
from mos.net.decode cimport decode
from mos.net.domain cimport DOMAIN_OVERFLOW
from mos.net.walk cimport BAD_FRAGMENT_OVERLAP
from mos.net.packet cimport (
    AHEAD_ELSEWHERE, AHEAD_FLOW, CSUM_BAD_IP, CSUM_BAD_L4, IPPROTO_TCP, PKT_FLOW, PKT_FRAGMENT, PKT_MALFORMED, pkt_segs)
from mos.flow.rewrite cimport frame_copy, rewrite_flow
from mos.flow.turn cimport turn_learn, turn_of
from mos.caps cimport caps_look, caps_tell
from mos.core cimport ALTER_GONE, ALTER_NONE, DROPPED_FRAGMENT, DROPPED_PROGRAM, NOBODY, OUT_CAP, PHASE_END, Core
from mos.datagram cimport datagram
from mos.early cimport early_finish
from mos.express cimport EXPRESS_ANSWERED, EXPRESS_NOT, call_for, express, go_by, look_ahead, pass_behind, pass_by
from mos.leave cimport leave, leave_own, sentence
from mos.lend cimport lend
from mos.park cimport park_can_rename, park_forget, park_fragment, park_leave
from mos.quote cimport quote_flow, quote_rewrite
from mos.notices cimport malformed
from mos.lifetime cimport admit, end_flow, pass_tick, pass_time, release
from mos.safe cimport safe_after, safe_alter
from mos.share cimport elsewhere
from mos.segment cimport (
    FRESH_ANSWERS, FRESH_OPENS, WAY_ANSWERS_OTHER, WAY_DONE, WAY_FAILED, drain)
from mos.state.blocks cimport slots_commit, undo_begin
from mos.straight cimport through
from mos.tally cimport tallies, tally
from mos.tcp.track cimport HIST_CHECKSUM, HIST_SYN, history_add
from mos.tcp.trouble cimport known_trouble, trouble_t

import os

from mos.errors import UsageError

cdef extern from "Python.h":
    void *PyEval_SaveThread() nogil

cdef enum:
    TICK_BATCHES = 128      # progress and signals are looked at every 16,384 packets of a capture: some 10 ms
    TICK_NS = 50_000_000    # live, where a batch may be one packet; signals, links and deadlines are seen to as often


@cython.final
cdef class Stack(Core):
    """Decode, track, reassemble, ask, forward."""

    def __cinit__(self, *args, **kwargs):
        self.exact = bool(os.environ.get("MOS_SANITIZE"))

    def run(self, Port source):
        """Take everything from `source`; flows stay open. Raises what a handler raised, if its policy is to stop."""
        cdef int rc
        self.outside()
        lend(self, source)
        self.port = source if source.live else None
        if self.workers and not (self.on_wire or self.until or self.exact) and self.selection is None:
            source.share(self.worker, self.workers)
        self.bus.saved = PyEval_SaveThread()
        self.bus.holding = 0
        rc = self.loop(source)
        bus_take_gil(self.bus)
        if self.bus.failed:
            raise self.bus.error
        return rc

    cdef int loop(self, Port source) noexcept nogil:
        cdef pkt_t batch[BATCH]
        cdef int n
        memset(batch, 0, sizeof(batch))
        while not self.stop:
            n = self.one_batch(source, batch)
            if n <= 0:
                return n
            if self.until and self.n.packets_in >= self.until:
                return 0
            self.batches += 1
            if not batch[n - 1].number or (self.now - self.ticked > TICK_NS if source.live
                                           else self.batches % TICK_BATCHES == 0):
                self.ticked = self.now
                bus_take_gil(self.bus)
                if (<int (*)(Stack) noexcept nogil>tick_of)(self):
                    return -2
            bus_drop_gil(self.bus)
        return 0

    cdef int one_batch(self, Port source, pkt_t *batch) noexcept nogil:
        """Take a batch to completion: how many packets and ticks, 0 at the end, -1 damage, -2 a handler raised."""
        cdef uint8_t *copies[BATCH]
        cdef int n, i, rc
        source.now, source.due = self.now, min(self.idle.next_due, self.timers.next_due)
        n = source.recv_batch(batch, BATCH)
        for i in range(n if self.exact else 0):
            copies[i] = <uint8_t *>malloc(batch[i].caplen)
            if batch[i].caplen:         # a tick has no frame
                memcpy(copies[i], batch[i].frame, batch[i].caplen)
            batch[i].frame = copies[i]
        rc = self.whole_batch(source, batch, n)
        for i in range(n if self.exact else 0):
            free(copies[i])
        return rc

    cdef int whole_batch(self, Port source, pkt_t *batch, int n) noexcept nogil:
        """A live batch is finished when the run is to stop: its packets are on their way. That of a capture is left."""
        cdef int i, rc, others
        cdef flow_t *f = NULL
        if n > 0 and tallies(self, source):
            return n if tally(self, source, batch, n) >= 0 else -2
        look_ahead(self, batch, n, source.aside)
        for i in range(n):
            call_for(self, batch, i, n, &source.scout)
            if self.recorder is not None:
                self.recorder.record(&batch[i])
            others = go_by(self, source.aside, i, batch[i].ts)
            rc = express(self, &batch[i], &f, others) if self.straight and others >= 0 else EXPRESS_NOT
            if rc == EXPRESS_NOT and (others < 0 or pass_by(self, source.aside, i, others) < 0):
                return -2
            if rc == EXPRESS_NOT:
                rc = self.take(&batch[i]) if batch[i].number else pass_tick(self, batch[i].ts)
            elif rc == EXPRESS_ANSWERED:
                rc = self.finish(&batch[i], f, flow_side(f, batch[i].from_hi) if f != NULL else CLIENT)
            if rc < 0:
                return -2
            if (self.stop and not source.live) or (self.until and self.n.packets_in == self.until):
                break
        if pass_behind(self, source.aside, n) < 0:
            return -2
        if source.live:
            source.settle()
        return n

    def run_batch(self, Port source):
        """One batch, for callers that look at events in between, or wait by themselves: how many packets and ticks, 0 at the
        end. Raises like `run`."""
        cdef pkt_t batch[BATCH]
        cdef int n
        self.outside()
        lend(self, source)
        self.port = source if source.live else None
        memset(batch, 0, sizeof(batch))
        self.bus.holding = 1
        n = self.one_batch(source, batch)
        if n == -2:
            raise self.bus.error
        return n

    def feed(self, frame, int64_t ts, linktype=1, csum_partial=False, gso_size=0):
        """One packet from memory; True if it was forwarded. `csum_partial`, `gso_size`: offload state as in pkt_t."""
        cdef pkt_t p
        cdef bytes held = bytes(frame)
        cdef uint64_t before = self.n.forwarded
        self.outside()
        if len(held) > OUT_CAP:
            raise UsageError(f"a frame of {len(held)} bytes: at most {OUT_CAP} are taken, as in a capture")
        if not 0 <= ts <= 1 << 62:
            raise UsageError(f"packet time {ts} is not in ns since 1970")
        memset(&p, 0, sizeof(p))
        p.frame, p.caplen, p.wirelen = <const uint8_t *><char *>held, <uint32_t>len(held), <uint32_t>len(held)
        p.ts, p.number, p.linktype = ts, self.n.packets_in + 1, linktype
        p.csum_partial, p.gso_size = bool(csum_partial), gso_size
        self.bus.holding = 1
        self.packet(&p)
        if self.bus.failed:
            raise self.bus.error
        return self.n.forwarded > before

    def finish_all(self):
        """End every flow, the one idle for longest first, as at the end of a run. Raises like `run`."""
        cdef ages_t ages
        cdef uint32_t n, i
        self.outside()
        self.bus.holding, self.phase = 1, PHASE_END
        n = enough = ages_begin(&ages, self.table) == 0
        while n and not self.bus.failed:
            n = ages_next(&ages, self.table)
            for i in range(n):
                if not self.bus.failed:
                    ages_prefetch(&ages, self.table, i, n)
                    self.due, self.due_flow = ages.flows[i].last_ns, flow_cold(ages.flows[i].flow).id
                    end_flow(self, ages.flows[i].flow, END_SHUTDOWN)
        ages_end(&ages)
        if self.bus.failed or not enough:
            raise self.bus.error if self.bus.failed else MemoryError("no memory to put the flows in order")
        lend(self, None)

    def shut(self):
        """Release every flow without telling anybody: after a failure."""
        cdef flow_t *f = table_first(self.table)
        self.bus.any_mask = 0
        while f != NULL:
            f.mask, f.set_id = 0, 0
            release(self, f)
            f = table_first(self.table)
        lend(self, None)

    cdef int packet(self, pkt_t *p) noexcept nogil:
        """One that comes alone."""
        cdef const uint8_t *frame = p.frame
        cdef uint8_t *copy
        cdef int rc
        if not self.exact:
            return self.take(p)
        copy = <uint8_t *>malloc(p.caplen)
        memcpy(copy, frame, p.caplen)
        p.frame = copy
        rc = self.take(p)
        p.frame = frame
        free(copy)
        return rc

    cdef int take(self, pkt_t *p) noexcept nogil:
        """One packet, to completion. -1: a handler raised and the run is to stop."""
        self.n.packets_in += 1
        self.n.bytes_in += p.wirelen
        if pass_time(self, p.ts) < 0:
            return -1
        if self.workers and (p.ahead == AHEAD_ELSEWHERE if p.ahead
                             else elsewhere(self, p, self.selection is None or self.selected(p))):
            self.n.elsewhere += 1
            self.n.bytes_elsewhere += p.wirelen
            return -1 if self.bus.failed else 0
        answer_reset(&self.answer)
        self.edited = 0
        self.ring.n = 0
        if self.selection is not None and not self.selected(p):
            if self.bus.failed:
                return -1
            self.n.unselected += 1
            return self.finish(p, NULL, 0)
        self.n.decoded += 1
        self.fresh = self.committed = self.quote = 0
        if (p.status if p.ahead else decode(self.dec, p)) == PKT_FLOW:
            if p.ahead != AHEAD_FLOW:
                p.hash = table_hash(self.table, &p.key)
            elif p.key.domain == DOMAIN_OVERFLOW:
                self.dec.domains.overflow += 1      # now that it is its turn
            return self.flow_packet(p, 0)
        self.n.other += 1
        if p.status == PKT_FRAGMENT and park_fragment(self, p):
            self.n.fragments += 1       # other workers park it too and do not count it
            return 0
        ring_add(&self.ring, self.bus.any_mask, KIND_PACKET_IN, NULL, p, self.now, 0, 1)
        if p.status == PKT_MALFORMED:
            malformed(self, p)
        elif p.status == PKT_FRAGMENT:
            self.n.fragments += 1
        if drain(self) < 0:
            return -1
        if self.truth and p.cause >= BAD_FRAGMENT_OVERLAP and self.answer.verdict < MOS_DROP:   # inline: never becomes whole
            self.answer.verdict, self.answer.position = MOS_DROP, 65535
            self.n.dropped[DROPPED_FRAGMENT] += 1
        return self.finish(p, NULL, 0)

    cdef bint selected(self, const pkt_t *p) noexcept nogil:
        """The packet filter's word; it is compiled when a link type is first met."""
        cdef const bpf_t *b = self.selection.find(p.linktype)
        if b == NULL:
            bus_take_gil(self.bus)
            b = (<const bpf_t *(*)(Stack, int) noexcept nogil>compile_selection)(self, p.linktype)
            if b == NULL:
                return False
        return bpf_run(b, p.frame, p.caplen, p.wirelen) != 0

    cdef int flow_packet(self, pkt_t *p, int fresh) noexcept nogil:
        """Find or make the flow, then by transport. `fresh`: FRESH_ANSWERS if `reopen` has made the flow."""
        cdef const alias_t *via = NULL
        cdef flow_t *f
        cdef int s = CLIENT, way
        cdef event_t *e
        if self.table.n_aliases and p.proto != IPPROTO_TCP:
            f = quote_flow(self, p, &s)
            if f != NULL:
                return self.quoting(p, f, s)
        f = <flow_t *>p.guess if p.ahead == AHEAD_FLOW else NULL
        if not table_known(f, &p.key):
            f = table_find_hashed(self.table, &p.key, p.hash, &via)
        s = CLIENT if f == NULL else flow_side(f, p.from_hi) if via == NULL else CLIENT if p.from_hi == via.client_hi else SERVER
        if self.verify and p.csum & (CSUM_BAD_IP | CSUM_BAD_L4):
            return self.bad_checksum(p, f, s)
        if f == NULL:
            f = admit(self, p)
            if f == NULL:
                return -1 if self.bus.failed else self.finish(p, NULL, 0)
            fresh = FRESH_OPENS
            s = flow_side(f, p.from_hi)
        self.turn, self.turn_side = turn_learn(f, p, s), <uint8_t>s
        f.end[s].packets += 1
        f.end[s].bytes += p.wirelen
        f.end[s].payload += p.payload_len
        self.n.more_segments += pkt_segs(p) - 1 if p.gso_size else 0
        f.last_ns = self.leap if self.leap and p.ts == self.leap else self.now
        self.n.tracked += 1
        undo_begin(self.undo, f)
        if not fresh:
            table_touch(f)
        if f.flags & (FLOW_DROPPED | FLOW_RESETTING):
            return self.drop_on(p, f, s, 1)
        e = ring_add(&self.ring, f.mask, KIND_PACKET_IN, f, p, self.now, s, s == CLIENT)
        if fresh or not f.end[1 - s].packets and f.end[s].packets == 1:    # or reopened by the answer to a refused SYN
            e = ring_add(&self.ring, f.mask, KIND_FLOW_START, f, p, self.now, s, s == CLIENT)
            if e != NULL and f.flags & FLOW_MIDSTREAM:
                e.flags = EV_MIDSTREAM
        if p.proto == IPPROTO_TCP and not self.flat:
            way = through(self, f, p, s, fresh)
        else:
            self.fresh = <uint8_t>fresh
            way = datagram(self, f, p, s)
        if way == WAY_DONE:
            return early_finish(self, p, f, s) if self.early else self.finish(p, f, s)
        if way == WAY_FAILED:
            return -1
        return self.reopen(f, p, s, way == WAY_ANSWERS_OTHER)

    cdef int drop_on(self, pkt_t *p, flow_t *f, int s, int answered) noexcept nogil:
        """A further packet of a flow that was dropped, or reset and then `answered` by another RST."""
        self.answer.verdict = MOS_RESET if f.flags & (FLOW_RESETTING | FLOW_RESET_DUE) and answered else MOS_DROP_FLOW
        self.answer.position = f.spare if f.spare != NOBODY else 65535
        cdef event_t *e = ring_add(&self.ring, self.bus.any_mask, KIND_ORPHAN, f, p, self.now, s, s == CLIENT)
        self.n.orphans[ORPHAN_STOPPED] += 1
        if e != NULL:
            e.cause = ORPHAN_STOPPED
            if drain(self) < 0:
                return -1
        return self.finish(p, f, s)

    cdef int quoting(self, pkt_t *p, flow_t *f, int s) noexcept nogil:
        """An ICMP error about a flow with other names behind us, from the side of end `s`."""
        self.quote = 1
        self.n.quoted += 1
        self.turn, self.turn_side = turn_of(f), <uint8_t>s      # an error may come from anybody
        if f.flags & (FLOW_DROPPED | FLOW_RESETTING):
            return self.drop_on(p, f, s, 0)
        undo_begin(self.undo, f)
        ring_add(&self.ring, self.bus.any_mask, KIND_PACKET_IN, f, p, self.now, s, s == CLIENT)
        if drain(self) < 0:
            return -1
        slots_commit(self.undo)
        return self.finish(p, f, s)

    cdef int bad_checksum(self, pkt_t *p, flow_t *f, int s) noexcept nogil:
        """Forwarded as it came: a host will refuse it, so it changes nothing here."""
        cdef event_t *e
        cdef uint64_t want = f.mask if f != NULL else self.bus.any_mask
        self.n.bad_checksum += 1
        if f != NULL:
            history_add(f, s, HIST_CHECKSUM)
            if f.flags & (FLOW_DROPPED | FLOW_RESETTING):
                return self.drop_on(p, f, s, 0)
        ring_add(&self.ring, want, KIND_PACKET_IN, f, p, self.now, s, s == CLIENT)
        e = ring_add(&self.ring, want, KIND_BAD_CHECKSUM, f, p, self.now, s, s == CLIENT)
        if e != NULL:
            e.cause = 0 if p.csum & CSUM_BAD_L4 else 1
        if drain(self) < 0:
            return -1
        return self.finish(p, f, s)

    cdef int reopen(self, flow_t *f, pkt_t *p, int s, int answers_other) noexcept nogil:
        """The next connection between the same ends: end this one, then take the packet as the first of a new one."""
        cdef trouble_t t
        cdef flow_t *g
        f.end[s].packets -= 1
        f.end[s].bytes -= p.wirelen
        f.end[s].payload -= p.payload_len
        self.n.tracked -= 1
        self.ring.n, self.turn = 0, NULL
        if answers_other:
            memcpy(&t, known_trouble(f), sizeof(t))
        if end_flow(self, f, END_REUSED) < 0:
            return -1
        if not answers_other:
            return self.flow_packet(p, 0)
        g = admit(self, p)
        if g == NULL:
            return -1 if self.bus.failed else self.finish(p, NULL, 0)
        g.client_hi = 1 - p.from_hi
        g.flags &= ~FLOW_MIDSTREAM
        use_set(self.bus, g, 0)
        g.end[CLIENT].flags |= END_SYN
        flow_cold(g).first_ns, g.rtt_us = t.syn_ns, <uint32_t>(<uint64_t>t.syn_ns // 1000)
        history_add(g, CLIENT, HIST_SYN)
        return self.flow_packet(p, FRESH_ANSWERS)

    cdef void end_other(self, flow_t *f) noexcept:
        """End another flow than the one whose packet is being finished; the answer to that packet stands."""
        cdef answer_t kept = self.answer
        answer_reset(&self.answer)
        end_flow(self, f, END_REUSED)
        answer_clear(self.bus, &self.answer)
        self.answer = kept

    cdef void send_own(self, const pkt_t *p, const uint8_t *data, uint32_t n, int how) noexcept:
        leave_own(self, p, data, n, how)

    cdef int finish(self, pkt_t *p, flow_t *f, int s) noexcept nogil:
        """Carry the verdict out: forward (rewritten or as it came) or drop; tell whoever records verdicts."""
        cdef int how = ALTER_NONE
        caps_look(self)
        if self.caps and caps_tell(self, f, p) < 0:
            return -1
        if self.alter and (self.answer.verdict < MOS_HOLD or self.committed):
            how = safe_alter(self, p, f, s)
        if not self.answer.verdict and not self.alter and self.answer.edits == NULL and (f == NULL or flow_names(f) == NULL) \
                and not p.reassembled:
            self.n.forwarded += 1
            leave(self, p, p.frame, p.caplen, p.wirelen, SEND_ON)
            self.ring.n = 0
            return -1 if self.bus.failed else 0
        if self.answer.edits != NULL:
            bus_take_gil(self.bus)
            if (<int (*)(Stack, pkt_t *, flow_t *, int) noexcept nogil>settle_edits_of)(self, p, f, s) < 0:
                return -1
        if f != NULL and flow_names(f) != NULL and self.answer.verdict < MOS_HOLD and how != ALTER_GONE:
            if not p.reassembled:
                if not self.edited:
                    self.out_len = frame_copy(self.out, p)
                    self.edited = 1
                if self.quote:
                    quote_rewrite(self.out, p, f, s)
                else:
                    rewrite_flow(self.out, p, f, s)
            elif self.quote or not park_can_rename(self, p):
                self.answer.verdict, self.answer.position, self.committed = MOS_DROP, 65535, 0
                self.n.dropped[DROPPED_FRAGMENT] += 1
        if self.answer.verdict < MOS_DROP or self.committed:
            if p.reassembled and how != ALTER_GONE and self.dec.frags.park:
                park_leave(self, p, f, s)
            elif how != ALTER_GONE:
                self.n.forwarded += 1
                leave(self, p, self.out if self.edited else p.frame, self.out_len if self.edited else p.caplen,
                      self.out_len if how else p.wirelen, SEND_ON)
            if self.alter:
                safe_after(self, p, f, s)
        elif how != ALTER_GONE and self.answer.position != 65535:
            self.dropped_by[self.answer.position] += 1
        elif how != ALTER_GONE and f != NULL and f.flags & FLOW_DROPPED:
            self.n.dropped[DROPPED_PROGRAM] += 1
        self.alter = ALTER_NONE
        if p.reassembled:
            park_forget(self)
        if self.answer.verdict >= MOS_DROP_FLOW and f != NULL:
            sentence(self, p, f, s)
        if self.answer.verdict and self.on_verdict is not None:
            bus_take_gil(self.bus)
            (<void (*)(Stack, pkt_t *, flow_t *) noexcept nogil>report_of)(self, p, f)
        answer_clear(self.bus, &self.answer)
        self.ring.n, self.turn = 0, NULL
        return -1 if self.bus.failed else 0


cdef const bpf_t *compile_selection(Stack s, int linktype) noexcept:
    try:
        return s.selection.program(linktype)
    except BaseException as exc:
        s.bus.error = exc
        s.bus.failed = 1
        return NULL


cdef int tick_of(Stack s) noexcept:
    return s.tick()


cdef int settle_edits_of(Stack stack, pkt_t *p, flow_t *f, int s) noexcept:
    return stack.settle_edits(p, f, s)


cdef void report_of(Stack s, pkt_t *p, flow_t *f) noexcept:
    s.report(p, f)
