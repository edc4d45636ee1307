"""What the stages of one stack share, and what flow views, timers and users ask of it. No packet passes through here."""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.pycapsule cimport PyCapsule_New
from cpython.pythread cimport PyThread_get_thread_ident
from mos.events.bus cimport MOS_DROP_FLOW, WANTS_BYTES
from mos.events.kinds cimport CAP_TIMERS
from mos.events.handler cimport MOS_ABI, action_t, mos_api_t
from mos.flow.ages cimport ages_begin, ages_end, ages_next, ages_t
from mos.flow.flow cimport FLOW_DROPPED, FLOW_RESETTING, FLOW_RESET_DUE, alias_t, flow_cold, flow_name_at
from mos.flow.remake cimport make_reply
from mos.flow.rewrite cimport frame_copy, key_make, replace_payload, set_ttl
from mos.flow.slab cimport slab_free, slab_give, slab_init, slab_take
from mos.flow.table cimport table_alias, table_find
from mos.flow.turn cimport turn_learn, turn_set
from mos.flow.view cimport Flow, flow_view
from mos.flow.wheel cimport Wheel, wheel_arm, wheel_cancel
from mos.net.packet cimport IPPROTO_TCP, TCP_SYN, key_t
from mos.tcp.classify cimport TRUTH_INLINE
from mos.tcp.queue cimport budget_close, budget_open
from mos.tcp.reasm cimport plan_free, plan_init
from mos.tcp.seq cimport seq_diff
from mos.tcp.trouble cimport known_trouble, trouble_of, trouble_t

import ipaddress
import os

from mos.errors import MosError, StaleFlow, UsageError, VerdictError
from mos.tcp.policies import POLICIES, index
from mos.events.spec import CAPS, LEAVES, ORPHAN_CAUSES, REASONS, REFUSALS

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef enum:
    MAX_SECONDS = 1 << 30   # of a timer: 34 years, and times in ns stay below 2**63
    DOUBTS = 64             # doubtful segments a direction: more than 64 KB of full ones, few enough to look through
    MAX_TIMERS = 1 << 20    # armed user timers, some 250 bytes each: 250 MB at the worst
    FLOW_TIMERS = 4096      # of one flow: it shall not use up those of all others


cdef class Core:
    """What the stages share. `mos.run.Engine` turns a user's settings into these arguments."""

    def __cinit__(self, *args, **kwargs):
        cdef bint exact = bool(os.environ.get("MOS_SANITIZE"))
        self.out = <uint8_t *>malloc(OUT_CAP)
        self.dropped_by = <uint64_t *>calloc(65536, sizeof(uint64_t))
        if self.out == NULL or self.dropped_by == NULL \
                or slab_init(&self.timer_slab, sizeof(user_timer_t), MAX_TIMERS, 1, 0, exact) < 0:
            raise MemoryError("no memory for the stack's buffers")
        plan_init(&self.plan)
        plan_init(&self.late)

    def __init__(self, Bus bus, Decoder decoder, FlowTable flows, SlotSpace slots, *, truth=0, pickup=2, verify=0, policy=0,
                 targets=(), full=0, straight=True, flat=False, timeouts=(), safe=0, skip_holes=0, limits=None,
                 selection=None, writer=None, recorder=None, on_verdict=None, on_tick=None):
        self.bus, self.decoder, self.flows, self.slots = bus, decoder, flows, slots
        self.dec, self.table = decoder.c, flows.c
        self.dec.frags.park = truth == TRUTH_INLINE
        bus.engine = self
        bus.withheld = WANTS_BYTES if pickup == PICKUP_STATE else 0
        self.idle_wheel, self.user_wheel = Wheel(), Wheel()
        self.idle, self.timers = self.idle_wheel.c, self.user_wheel.c
        self.idle.of, self.idle.flows, self.idle.sorts, self.timers.of = &self.table.flows, 1, 1, &self.timer_slab
        self.layout = slots.c
        self.undo = slots.u
        self.truth, self.pickup, self.verify, self.policy = truth, pickup, verify, policy
        self.selection, self.writer, self.recorder, self.on_verdict, self.on_tick = selection, writer, recorder, on_verdict, on_tick
        self.timer_table, self.lenders = {}, []
        self.full_policy, self.safe, self.skip_holes = full, safe, skip_holes
        self.straight = straight and not bus.want_receiver and not bus.want_acked
        self.flat = bus.flat = flat
        self.phase = PHASE_PACKET
        self.set_targets(targets)
        for i, seconds in enumerate(timeouts):
            self.idle_ns[i] = int(seconds * 1e9)
        self.limits.bytes, self.limits.segs = limits["bytes"], limits["segments"]
        self.limits.doubt_bytes, self.limits.keep = limits["doubtful"], limits["keep"]
        self.limits.doubts, self.limits.sent = DOUBTS, limits["retained"]
        budget_open(&self.budget, limits["global"], not self.timer_slab.exact)

    def __dealloc__(self):
        budget_close(&self.budget, self.copy)
        free(self.out)
        free(self.dropped_by)
        free(self.targets)
        slab_free(&self.timer_slab)
        plan_free(&self.plan)
        plan_free(&self.late)

    def stop_after(self, uint64_t packet):
        """Take no packet after this one, counted from 1; 0: take all."""
        self.until = packet

    @property
    def failed(self):
        """A handler raised, so the run stopped."""
        return bool(self.bus.failed)

    def halt(self):
        """Stop after the packet in hand."""
        self.stop = 1

    @property
    def halted(self):
        """The run is to stop, or has."""
        return bool(self.stop)

    @property
    def due(self):
        """When a timer fires next, ns since 1970; 2**63 - 1: none is set."""
        return min(self.idle.next_due, self.timers.next_due)

    cpdef int outside(self) except -1:
        """Raise MosError if a handler is being asked: the packet in hand comes first."""
        if self.bus.asking >= 0:
            raise MosError(f"{self.bus.names[self.bus.asking]} is being asked: packets are fed and flows ended "
                           "when it has returned")
        self.thread = PyThread_get_thread_ident()
        return 0

    cdef flow_t *alive(self, Flow flow) except NULL:
        """The record of a live flow, for the thread that runs the stack: it changes flows without the GIL."""
        self.here()
        if flow.f == NULL:
            raise StaleFlow(f"flow {flow.id} has ended: only its id and addresses are left")
        return flow.f

    cdef int here(self) except -1:
        if self.thread and self.thread != PyThread_get_thread_ident():
            raise MosError("the stack runs in another thread: `await box.call(function)` runs a function there")
        return 0

    def raised_first(self, name, what, packet, exc):
        """A handler has raised for the first time, and the run goes on: tell whoever wants to know."""
        if self.on_error is not None:
            self.on_error(name, what, packet, exc)

    def flow_attach(self, Flow flow, fn):
        """Attach a handler marked `attached=False` to one flow, from its next event on; False: there are too many sets."""
        return self.bus.attach_flow(self.alive(flow), fn, True)

    def flow_detach(self, Flow flow, fn):
        """Take a handler off one flow, from its next event on; False: there are too many sets."""
        return self.bus.attach_flow(self.alive(flow), fn, False)

    def flow_timer(self, Flow flow, seconds, value=None, every=False):
        """Set a timer for a flow (None: for no flow), in packet time; its handle, or None if there are too many."""
        cdef user_timer_t *t
        cdef flow_t *f = self.alive(flow) if flow is not None else NULL
        cdef int64_t ns = int(seconds * 1e9) if 0 <= seconds < MAX_SECONDS else -1
        cdef trouble_t *home
        cdef uint32_t slot
        if ns < 0 or (every and ns == 0):
            raise UsageError(f"a timer of {seconds} s: give a positive number of seconds")
        home = trouble_of(f) if f != NULL else NULL
        if self.timers_live >= MAX_TIMERS or (home != NULL and home.ntimers >= FLOW_TIMERS):
            self.cap_reached(CAP_TIMERS)
            return None
        t = NULL
        if f == NULL or home != NULL:
            t = <user_timer_t *>slab_take(&self.timer_slab, &slot)
        if t == NULL:
            raise MemoryError("no memory for a timer")
        memset(t, 0, sizeof(user_timer_t))
        t.slot = slot
        self.timer_handles += 1
        self.timers_live += 1
        t.handle, t.flow, t.period = self.timer_handles, f, ns if every else 0
        Py_INCREF(value)
        t.value = <PyObject *>value
        if f != NULL:
            t.next, t.at = <user_timer_t *>home.timers, <user_timer_t **>&home.timers
            if t.next != NULL:
                t.next.at = &t.next
            home.timers = t
            home.ntimers += 1
        self.timer_table[t.handle] = <size_t>t
        t.start = max(ns, 1)        # not before a later packet, or a handler that sets it again would never end
        wheel_arm(self.timers, t.slot, self.now + t.start)
        return t.handle

    def cancel_timer(self, handle):
        """Cancel a timer; True if it was still set."""
        self.here()
        address = self.timer_table.get(handle)
        if address is None:
            return False
        self.drop_timer(<user_timer_t *><size_t>address)
        return True

    cdef void cap_reached(self, int cause) noexcept nogil:
        """A bound's policy was applied; CAP_* says which. Told as CapReached before the packet in hand is finished."""
        self.n.caps[cause] += 1
        self.caps |= <uint32_t>1 << cause

    cdef void drop_timer(self, user_timer_t *t) noexcept:
        wheel_cancel(self.timers, t.slot)
        if t.flow != NULL:
            known_trouble(t.flow).ntimers -= 1
            t.at[0] = t.next
            if t.next != NULL:
                t.next.at = t.at
        self.timer_table.pop(t.handle, None)
        self.timers_live -= 1
        Py_XDECREF(t.value)
        slab_give(&self.timer_slab, t.slot)

    def flow_verdict(self, Flow flow, verdict):
        """DROP_FLOW or RESET outside a handler's answer: holds from the flow's next packet on."""
        cdef flow_t *f = self.alive(flow)
        if verdict.name not in ("DROP_FLOW", "RESET"):
            raise UsageError(f"{verdict!r} cannot be given to a flow: DROP_FLOW or RESET can")
        f.spare = <uint8_t>self.bus.handlers[self.bus.asking].position if self.bus.asking >= 0 else NOBODY
        f.flags |= FLOW_DROPPED | (FLOW_RESET_DUE if verdict.name == "RESET" and not f.flags & FLOW_RESETTING else 0)

    def flow_domain(self, domain):
        """(VLAN ids outermost first, tunnel text or None) of a flow's domain number."""
        return self.decoder.domain(domain)

    cdef int set_targets(self, targets) except -1:
        """`targets`: [(ipaddress network, policy number)], the first that holds counts."""
        cdef target_t *t
        self.targets = <target_t *>calloc(len(targets) + 1, sizeof(target_t))
        if self.targets == NULL:
            raise MemoryError("no memory for the overlap policies")
        for net, policy in targets:
            t = &self.targets[self.ntargets]
            t.ipver, t.policy = net.version, policy
            put_address(t.net, net.network_address, net.version)
            put_address(t.mask, net.netmask, net.version)
            self.ntargets += 1
        return 0

    def flow_overlap(self, Flow flow, name):
        """Another overlap policy for both directions of a flow; only before its first byte."""
        cdef flow_t *f = self.alive(flow)
        cdef int number = index(name)
        if f.end[0].offset or f.end[1].offset:
            raise UsageError(f"{flow}: bytes were delivered already; set the overlap policy in FlowStart")
        f.policy = <uint8_t>(number | number << 4)

    def flow_policy(self, number):
        """Name of an overlap policy."""
        return POLICIES[number & 15]

    def flow_trouble(self, Flow flow, int side):
        """Rare counters of what one end sent, as a dict."""
        cdef flow_t *f = self.alive(flow)
        cdef trouble_t *t = known_trouble(f)
        names = ("retransmitted_packets", "retransmitted_bytes", "conflict_bytes", "gap_bytes", "out_of_order",
                 "duplicate_acks", "zero_windows", "refused")
        if t == NULL:
            return dict.fromkeys(names, 0)
        return dict(zip(names, (t.side[side].rexmit_packets, t.side[side].rexmit_bytes, t.side[side].conflict_bytes,
                                t.side[side].gap_bytes, t.side[side].out_of_order, t.side[side].dup_acks,
                                t.side[side].zero_windows, t.side[side].refused)))

    def find_flow(self, proto, a, a_port, b, b_port):
        """The live `Flow` between two ends outside VLANs and tunnels, whichever of them is the client; None: there is none.

        ICMP echo: the identifier stands in both ports.
        """
        cdef key_t like, k
        cdef uint8_t[32] addr
        cdef const alias_t *via = NULL
        cdef flow_t *f
        self.here()
        ends = [ipaddress.ip_address(x) for x in (a, b)]
        memset(&like, 0, sizeof(like))
        like.ipver = ends[0].version
        like.proto = {"tcp": 6, "udp": 17, "icmp": 1 if like.ipver == 4 else 58}[proto]
        put_address(addr, ends[0], like.ipver)
        put_address(addr + 16, ends[1], like.ipver)
        key_make(&k, &like, addr, a_port, addr + 16, b_port)
        f = table_find(self.table, &k, &via)
        return flow_view(f, self) if f != NULL else None

    def live_flows(self):
        """A `Flow` for each flow in the table, the one idle for longest first."""
        cdef ages_t ages
        cdef uint32_t n = 1, i
        self.here()
        found = []
        try:
            if ages_begin(&ages, self.table) < 0:
                raise MemoryError("no memory for a list of all flows")
            while n:
                n = ages_next(&ages, self.table)
                for i in range(n):
                    found.append(flow_view(ages.flows[i].flow, self))
        finally:
            ages_end(&ages)
        return found

    @property
    def clock(self):
        """Packet time, ns since 1970."""
        return self.now

    def share(self, int worker, int workers, bint on_wire=False):
        """From now on take one worker's part of the flows, and of what belongs to none all (worker 0) or nothing.

        `on_wire`: nothing else comes than that, but fragments, as the program of `mos.io.fanout` has it.
        """
        self.worker, self.workers, self.on_wire = worker, workers, on_wire

    @property
    def shared(self):
        """Other stacks take a part of the traffic."""
        return self.workers > 0

    @property
    def packets(self):
        """Packets so far, those that other workers take included: the ordinal of the one in hand."""
        return self.n.packets_in

    @property
    def place(self):
        """Where the run is, as a tuple (`place_of`)."""
        cdef int64_t key[4]
        place_of(self, key)
        return key[0], key[1], key[2], key[3]

    def counters(self):
        """Every counter, as a plain dict. `packets_in` = forwarded + dropped + held + consumed."""
        cdef int i
        cdef bint first = self.worker == 0      # it counts the fragments of which each worker has a copy
        n = self.n
        dropped = {i: self.dropped_by[i] for i in range(self.bus.positions) if self.dropped_by[i]}
        return {
            "packets_in": n.packets_in - n.elsewhere, "packets_out": n.packets_out, "forwarded": n.forwarded, "dropped_by": dropped,
            "dropped_core": {"cap": n.dropped[0], "fragment": n.dropped[1] + first * self.dec.frags.parked_dropped,
                             "table_full": n.dropped[2], "program": n.dropped[3], "unsafe": n.dropped[4]},
            "held": n.held + first * self.dec.frags.parked, "consumed": n.consumed, "injected": n.injected, "split": n.split,
            "bytes_in": n.bytes_in - n.bytes_elsewhere, "segments_in": n.packets_in - n.elsewhere + n.more_segments,
            "flows": self.flows.counters(), "events": {k.name: n.events[i] for i, k in enumerate(LEAVES) if n.events[i]},
            "stages": {"unselected": n.unselected, "decoded": n.decoded, "tracked": n.tracked, "reassembled": n.reassembled,
                       "predicted": n.predicted, "other": n.other, "malformed": n.malformed, "fragments": n.fragments,
                       "quoted": n.quoted, "bad_checksum": n.bad_checksum},
            "orphans": {c: n.orphans[i] for i, c in enumerate(ORPHAN_CAUSES) if n.orphans[i]},
            "refused": {c: n.refused[i] for i, c in enumerate(REFUSALS) if n.refused[i]},
            "ended": {r: n.ended[i] for i, r in enumerate(REASONS) if n.ended[i]},
            "decode": self.decoder.counters(), "bus": self.bus.counters(),
            "reassembly": {"bytes": self.budget.used, "peak": self.budget.peak, "refused": self.budget.refused},
            "caps": {c: n.caps[i] for i, c in enumerate(CAPS) if n.caps[i]},
            "safe": {c: n.safe[i] for i, c in enumerate(("rewritten", "bare", "held_back", "not_urgent"))},
            "timers": self.timers_live, "ticks_left_out": n.ticks_left_out, "ring_lost": self.ring.lost,
        }

    cdef int settle_edits(self, pkt_t *p, flow_t *f, int s) noexcept:
        """Apply what handlers answered: other bytes, other addresses for the flow, another TTL."""
        try:
            for position, offset, payload in <list>self.answer.edits:
                if payload[0] == "replace":
                    if self.alter == ALTER_NONE:        # else they have become what is retained, which leaves
                        self.replace(p, f, s, offset, payload[1])
                else:
                    self.rename(p, f, s, position, payload)
            return 0
        except BaseException as exc:
            self.bus.error = exc
            self.bus.failed = 1
            return -1

    cdef int replace(self, pkt_t *p, flow_t *f, int s, uint64_t offset, bytes data) except -1:
        """Other bytes at a stream offset of this packet: only what this packet brings can still be changed."""
        cdef int64_t at = 0
        if f != NULL and p.proto == IPPROTO_TCP:
            at = <int64_t>(offset - f.end[s].offset) - seq_diff(p.seq + (1 if p.tcp_flags & TCP_SYN else 0), f.end[s].nxt)
        if not self.edited:
            self.out_len = frame_copy(self.out, p)
            self.edited = 1
        if at < 0 or replace_payload(self.out, p, <uint32_t>at, <const uint8_t *><char *>data, <uint32_t>len(data)) < 0:
            raise VerdictError(f"packet {p.number}: the bytes at stream offset {offset} are not in it: "
                               "Replace reaches only the packet at hand")
        return 0

    cdef int rename(self, pkt_t *p, flow_t *f, int s, position, payload) except -1:
        """Other names for the rest of the flow, or another TTL for this packet. A flow whose new name is taken is dropped."""
        _, client, server, ttl, back = payload
        if ttl is not None:
            if not self.edited:
                self.out_len = frame_copy(self.out, p)
                self.edited = 1
            set_ttl(self.out, p, ttl)
        if f == NULL or (client is None and server is None):
            return 0
        if self.name_flow(<size_t>f, position, client, server, True) <= 0 and self.answer.verdict < MOS_DROP_FLOW:
            self.answer.verdict, self.answer.position = MOS_DROP_FLOW, position
            self.answer.why = b"another flow has the new name"
        elif back is not None:
            turn_set(f, position, back)
            self.turn, self.turn_side = turn_learn(f, p, s), <uint8_t>s
        return 0

    def name_flow(self, size_t flow, position, client, server, final=False):
        """Behind the NF at `position` the flow at this address is called `client` and `server`; None: as before it.

        1: done. 0: another flow has that name; one that was dropped gives it up if this is `final`, after the walk.
        -1: a flow has at most four names. Raises VerdictError for an address of the other IP version.
        """
        cdef flow_t *f = <flow_t *>flow
        cdef flow_t *other
        cdef key_t k
        cdef uint8_t client_hi = 0
        cdef const key_t *was = flow_name_at(f, position, &client_hi)
        cdef const alias_t *via = NULL
        cdef uint8_t[32] addr
        cdef uint16_t cport, sport
        memcpy(addr, &was.hi_addr[0] if client_hi else &was.lo_addr[0], 16)
        memcpy(addr + 16, &was.lo_addr[0] if client_hi else &was.hi_addr[0], 16)
        cport, sport = was.hi_port if client_hi else was.lo_port, was.lo_port if client_hi else was.hi_port
        if client is not None:
            put_address(addr, client[0], was.ipver)
            cport = client[1]
        if server is not None:
            put_address(addr + 16, server[0], was.ipver)
            sport = server[1]
        client_hi = <uint8_t>key_make(&k, was, addr, cport, addr + 16, sport)
        if final:
            other = table_find(self.table, &k, &via)
            if other != NULL and other != f and other.flags & FLOW_DROPPED:
                self.end_other(other)
        return table_alias(self.table, f, &k, client_hi, position)

    cdef void send_own(self, const pkt_t *p, const uint8_t *data, uint32_t n, int how) noexcept:
        """A frame of a handler leaves. The stack sends it."""

    def inject(self, size_t packet, bytes data not None, int how):
        """`Event.inject`, with -1 for `how` `Event.reply`; 0 for `packet`: there is none. Raises VerdictError."""
        cdef const pkt_t *p = <const pkt_t *>packet
        cdef uint32_t n = <uint32_t>len(data)
        self.here()
        if (p == NULL and how < 2) or (self.bus.asking >= 0 and self.bus.handlers[self.bus.asking].observe):
            raise VerdictError("a handler that only observes sends nothing; one that is told of no packet says where: side=0 or 1")
        if how >= 0:
            return self.send_own(p, <const uint8_t *><char *>data, n, how)
        n = make_reply(self.out + OUT_CAP // 2, p, <const uint8_t *><char *>data, n)
        if n == 0:
            raise VerdictError(f"packet {p.number} is no whole UDP datagram on Ethernet or bare IP: reply() cannot answer it")
        self.send_own(p, self.out + OUT_CAP // 2, n, 1)

    cdef int take(self, pkt_t *p) noexcept nogil: return -1      # the stack's, as are those that follow
    cdef int flow_packet(self, pkt_t *p, int fresh) noexcept nogil: return -1
    cdef int finish(self, pkt_t *p, flow_t *f, int s) noexcept nogil: return -1

    cdef void end_other(self, flow_t *f) noexcept:
        """End a flow while the packet of another one is finished. The stack, which can, does."""

    cdef int tick(self) noexcept:
        """Progress, and Ctrl-C: a signal raises here, between two packets."""
        try:
            PyErr_CheckSignals()
            if self.on_tick is not None:
                self.on_tick(self.n.packets_in)
        except BaseException as exc:
            self.bus.error = exc
            self.bus.failed = 1
        return self.bus.failed

    cdef void report(self, pkt_t *p, flow_t *f) noexcept:
        """Hand the verdict on this packet to the recorder."""
        try:
            reason = <object>self.answer.reason if self.answer.reason != NULL else None
            if reason is None and self.answer.why != NULL:
                reason = self.answer.why.decode("utf-8", "replace")
            self.on_verdict(self.answer.verdict, self.answer.position, reason, p.number, self.now,
                            flow_cold(f).id if f != NULL else None)
        except BaseException as exc:
            self.bus.error = exc
            self.bus.failed = 1


cdef int put_address(uint8_t *to, text, int ipver) except -1:
    """The 16 bytes of key_t for an address given as text."""
    address = ipaddress.ip_address(text)
    if address.version != ipver:
        raise VerdictError(f"{text} is IPv{address.version}, the flow is IPv{ipver}")
    cdef bytes packed = address.packed
    memset(to, 0, 16)
    memcpy(to, <const char *>packed, len(packed))
    return 0


cdef int publish(action_t *a, const event_t *e, PyObject *event) except -1:
    """A user-defined event from a C handler: delivered when that handler has returned. With the GIL."""
    (<Bus>a.bus).publish_for(e, <object>event, 1)
    a.published += 1
    return 0


cdef mos_api_t table = [MOS_ABI, sizeof(event_t), sizeof(flow_t), sizeof(end_t), sizeof(pkt_t), sizeof(action_t), publish]
api = PyCapsule_New(&table, "mos.api.v1", NULL)     # what import_mos() of modules outside looks up and compares
