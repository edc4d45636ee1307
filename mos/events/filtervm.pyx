"""The filter machine: verifies a program once, then runs it on events without the GIL.

A field that is absent (no flow, no packet, not TCP) makes its test false, whatever the test is, and `not` of it true.
"""
from collections import namedtuple

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from mos.events.ring cimport EV_DOUBTFUL, EV_MIDSTREAM, EV_REDELIVERED, event_t
from mos.events.views cimport Event
from mos.flow.flow cimport (
    CLIENT, FLOW_ESTABLISHED, SERVER, alias_t, flow_alone, flow_alone_free, flow_cold, flow_cold_t, flow_name_at, flow_names,
    flow_t, more_t)
from mos.net.packet cimport (IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, PKT_FLOW, TCP_ACK, TCP_FIN, TCP_RST,
                             TCP_SYN, key_t, pkt_is_tcp, pkt_t)

from mos.errors import FilterError, StaleEvent, UsageError

Insn = namedtuple("Insn", "op src type invert arg src2 type2 offset offset2 jt jf a b c d")
Source = namedtuple("Source", "src type offset op a b", defaults=(None, 0, 0))

RANGE, BITS, BITMAP, RANGES, FIELD, NET, SAME = OP_RANGE, OP_BITS, OP_BITMAP, OP_RANGES, OP_FIELD, OP_NET, OP_SAME
EQ, LT, LE = CMP_EQ, CMP_LT, CMP_LE
EVENT, FLOW, PACKET, PARSED, TCP, PROTO, RECORD = SRC_EVENT, SRC_FLOW, SRC_PACKET, SRC_PARSED, SRC_TCP, SRC_PROTO, SRC_RECORD
CLIENT_END, SERVER_END, SENDER, RECEIVER = SRC_CLIENT, SRC_SERVER, SRC_SENDER, SRC_RECEIVER
U8, U16, U32, I64, F64, PORT, IP = T_U8, T_U16, T_U32, T_I64, T_F64, T_PORT, T_IP
WIDTH = {U8: 1, U16: 2, U32: 4, I64: 8, F64: 8, IP: 17}
LIMITS = (MAX_INSNS, MAX_POOL)

cdef struct addr_t:
    uint64_t w0         # memory order, as in key_t
    uint64_t w1
    uint8_t  ipver

cdef struct name_t:     # the two ends of a flow or packet
    const key_t *key
    uint8_t first_hi    # 1: client, or sender, is the key's hi half


cdef inline bint packet_name(const event_t *ev, name_t *out) noexcept nogil:
    """Key and sender of a parsed packet. One that belongs to the event's flow is named as the NF at `position` knows it."""
    cdef const pkt_t *p = ev.pkt
    cdef const alias_t *a
    cdef uint8_t client_hi
    cdef bint found
    if p == NULL or p.status != PKT_FLOW:
        return False
    out.key = &p.key
    out.first_hi = p.from_hi
    if ev.flow == NULL:
        return True
    client_hi = ev.flow.client_hi
    found = memcmp(&p.key, &ev.flow.key, sizeof(key_t)) == 0
    a = flow_names(ev.flow)
    while a != NULL and not found:
        found = memcmp(&p.key, &a.key, sizeof(key_t)) == 0
        client_hi = a.client_hi
        a = a.next
    if found:       # else a stranger: an evicted flow's last event comes with the packet that took its place
        out.first_hi = p.from_hi ^ client_hi
        out.key = flow_name_at(ev.flow, ev.position, &client_hi)
        out.first_hi ^= client_hi
    return True


cdef inline bint end_of(const event_t *ev, uint8_t src, name_t *name, uint8_t *hi) noexcept nogil:
    """The half of a key that `src` stands for; false: there is no such key."""
    if src == SRC_CLIENT or src == SRC_SERVER:
        if ev.flow == NULL:
            return False
        name.key = flow_name_at(ev.flow, ev.position, &name.first_hi)
        hi[0] = name.first_hi ^ (src == SRC_SERVER)
        return True
    if not packet_name(ev, name):
        return False
    hi[0] = name.first_hi ^ (src == SRC_RECEIVER)
    return True


cdef bint header_addr(const pkt_t *p, bint receiver, addr_t *out) noexcept nogil:
    """An address out of the IP header of a packet without a key (a fragment, SCTP …), if all of it is in the frame."""
    cdef size_t at
    if p == NULL or p.ip == NULL or p.reassembled or p.frame == NULL or p.ip < p.frame:
        return False
    at = p.ip - p.frame
    out.ipver = p.ipver
    out.w0 = out.w1 = 0
    if p.ipver == 4 and at + 20 <= p.caplen:
        memcpy(&out.w0, p.ip + (16 if receiver else 12), 4)
        return True
    if p.ipver == 6 and at + 40 <= p.caplen:
        memcpy(&out.w0, p.ip + (24 if receiver else 8), 8)
        memcpy(&out.w1, p.ip + (32 if receiver else 16), 8)
        return True
    return False


cdef inline bint load_addr(const event_t *ev, uint8_t src, uint16_t offset, addr_t *out) noexcept nogil:
    cdef name_t name
    cdef uint8_t hi = 0
    cdef const uint8_t *p
    if src == SRC_RECORD:
        if ev.obj == NULL:
            return False
        p = <const uint8_t *>ev.obj + offset
        out.ipver = p[16]
        if out.ipver != 4 and out.ipver != 6:
            return False
    elif end_of(ev, src, &name, &hi):
        p = <const uint8_t *>name.key + 16 * hi     # lo_addr, then hi_addr: key_t begins with them
        out.ipver = name.key.ipver
    else:
        return (src == SRC_SENDER or src == SRC_RECEIVER) and header_addr(ev.pkt, src == SRC_RECEIVER, out)
    memcpy(&out.w0, p, 8)
    memcpy(&out.w1, p + 8, 8)
    return True


cdef inline bint load_port(const event_t *ev, uint8_t src, int64_t *out) noexcept nogil:
    cdef name_t name
    cdef uint8_t hi = 0
    out[0] = 0
    if not end_of(ev, src, &name, &hi):
        return ev.pkt != NULL and (src == SRC_SENDER or src == SRC_RECEIVER)
    if name.key.proto == IPPROTO_TCP or name.key.proto == IPPROTO_UDP:
        out[0] = name.key.hi_port if hi else name.key.lo_port
    return True


cdef inline const uint8_t *base_of(const event_t *ev, uint8_t src) noexcept nogil:
    if src == SRC_EVENT:
        return <const uint8_t *>ev
    if src == SRC_FLOW:
        return <const uint8_t *>ev.flow
    if src == SRC_COLD:
        return <const uint8_t *>flow_cold(ev.flow) if ev.flow != NULL else NULL
    if src == SRC_RECORD:
        return <const uint8_t *>ev.obj
    if src == SRC_PROTO:
        if ev.flow != NULL:
            return &ev.flow.key.proto
        return &ev.pkt.proto if ev.pkt != NULL else NULL
    if ev.pkt == NULL or src == SRC_PARSED and ev.pkt.status != PKT_FLOW or src == SRC_TCP and not pkt_is_tcp(ev.pkt):
        return NULL
    return <const uint8_t *>ev.pkt


cdef inline bint ordered(double x, int64_t *out) noexcept nogil:
    """A double as an integer of the same order, both zeros alike; false for NaN."""
    if x != x:
        return False
    x += 0.0
    memcpy(out, &x, 8)
    if out[0] < 0:
        out[0] ^= INT64_MAX
    return True


cdef inline bint load(const event_t *ev, uint8_t src, uint8_t type, uint16_t offset, int64_t *out) noexcept nogil:
    cdef const uint8_t *p
    cdef uint16_t u16
    cdef uint32_t u32
    cdef double x
    if type == T_PORT:
        return load_port(ev, src, out)
    p = base_of(ev, src)
    if p == NULL:
        return False
    p += offset
    if type == T_U8:
        out[0] = p[0]
    elif type == T_U16:
        memcpy(&u16, p, 2)
        out[0] = u16
    elif type == T_U32:
        memcpy(&u32, p, 4)
        out[0] = u32
    elif type == T_I64:
        memcpy(out, p, 8)
    else:
        memcpy(&x, p, 8)
        return ordered(x, out)
    return True


cdef inline bint in_ranges(const int64_t *pair, uint64_t n, int64_t v) noexcept nogil:
    """`v` in one of `n` pairs (first, last), sorted and disjoint."""
    cdef uint64_t lo = 0, hi = n, mid
    while lo < hi:
        mid = (lo + hi) >> 1
        if pair[2 * mid + 1] < v:
            lo = mid + 1
        else:
            hi = mid
    return lo < n and pair[2 * lo] <= v


cdef inline bint test_number(const program_t *f, const insn_t *i, const event_t *ev) noexcept nogil:
    cdef int64_t v = 0, w = 0
    cdef uint64_t u
    cdef bint r
    if not load(ev, i.src, i.type, i.offset, &v):
        return False
    u = <uint64_t>v
    if i.op == OP_RANGE:
        r = u - i.a <= i.b
    elif i.op == OP_BITS:
        r = u & i.a != 0
    elif i.op == OP_BITMAP:
        u -= i.a
        r = u < 64 and i.b >> u & 1
    elif i.op == OP_RANGES:
        r = in_ranges(f.pool + i.a, i.b, v)
    else:
        if not load(ev, i.src2, i.type2, i.offset2, &w):
            return False
        r = v == w if i.arg == CMP_EQ else v < w if i.arg == CMP_LT else v <= w
    return r ^ i.invert


cdef inline bint test_addr(const insn_t *i, const event_t *ev) noexcept nogil:
    cdef addr_t v, w
    cdef bint r
    if not load_addr(ev, i.src, i.offset, &v):
        return False
    if i.op == OP_NET:
        r = v.ipver == i.arg and v.w0 & i.c == i.a and v.w1 & i.d == i.b
    else:
        if not load_addr(ev, i.src2, i.offset2, &w):
            return False
        r = v.ipver == w.ipver and v.w0 == w.w0 and v.w1 == w.w1
    return r ^ i.invert


cdef bint filter_run(const program_t *f, const event_t *ev) noexcept nogil:
    """Whether `ev` passes. Jumps only lead forward, so at most `f.n` tests are made."""
    cdef const insn_t *i
    cdef uint32_t pc = f.entry
    while pc < f.n:
        i = f.insn + pc
        if i.op < OP_NET:
            pc = i.jt if test_number(f, i, ev) else i.jf
        else:
            pc = i.jt if test_addr(i, ev) else i.jf
    return pc - f.n


cdef dict make_sources():
    """Every field a program may load: spec's name for it -> Source. Places are measured on structs of this very build."""
    cdef event_t e
    cdef flow_t f
    cdef flow_cold_t cold
    cdef pkt_t p
    cdef char *e0 = <char *>&e
    cdef char *f0 = <char *>&f
    cdef char *p0 = <char *>&p
    flags = <char *>&e.flags - e0
    s = {
        "event.now": Source(EVENT, I64, <char *>&e.now - e0),
        "event.to_server": Source(EVENT, U8, <char *>&e.to_server - e0, BITS, 255),
        "event.cause": Source(EVENT, U8, <char *>&e.cause - e0),
        "event.side": Source(EVENT, U8, <char *>&e.side - e0),
        "event.old": Source(EVENT, U8, <char *>&e.old - e0),
        "event.new": Source(EVENT, U8, <char *>&e.new - e0),
        "event.offset": Source(EVENT, I64, <char *>&e.offset - e0),
        "event.length": Source(EVENT, I64, <char *>&e.length - e0),
        "EV_MIDSTREAM": Source(EVENT, U8, flags, BITS, EV_MIDSTREAM),
        "EV_REDELIVERED": Source(EVENT, U8, flags, BITS, EV_REDELIVERED),
        "EV_DOUBTFUL": Source(EVENT, U8, flags, BITS, EV_DOUBTFUL),
        "flow_id": Source(SRC_COLD, I64, <char *>&cold.id - <char *>&cold),
        "established": Source(FLOW, U8, <char *>&f.flags - f0, BITS, FLOW_ESTABLISHED),
        "client_bytes": Source(FLOW, I64, <char *>&f.end[CLIENT].payload - f0),
        "server_bytes": Source(FLOW, I64, <char *>&f.end[SERVER].payload - f0),
        "client_packets": Source(FLOW, U32, <char *>&f.end[CLIENT].packets - f0),
        "server_packets": Source(FLOW, U32, <char *>&f.end[SERVER].packets - f0),
        "tcp": Source(PROTO, U8, 0, RANGE, IPPROTO_TCP),
        "udp": Source(PROTO, U8, 0, RANGE, IPPROTO_UDP),
        "icmp": Source(PROTO, U8, 0, BITMAP, IPPROTO_ICMP,
                       1 | <uint64_t>1 << (IPPROTO_ICMPV6 - IPPROTO_ICMP)),
        "packet_number": Source(PACKET, I64, <char *>&p.number - p0),
        "packet_length": Source(PACKET, U32, <char *>&p.wirelen - p0),
        "payload_length": Source(PARSED, U32, <char *>&p.payload_len - p0),
        "ip_version": Source(PACKET, U8, <char *>&p.ipver - p0),
        "protocol": Source(PACKET, U8, <char *>&p.proto - p0),
        "window": Source(TCP, U16, <char *>&p.wnd - p0),
    }
    flags = <char *>&p.tcp_flags - p0
    for name, bit in (("syn", TCP_SYN), ("ack", TCP_ACK), ("fin", TCP_FIN), ("rst", TCP_RST)):
        s[name] = Source(TCP, U8, flags, BITS, bit)
    for name, src in (("client", CLIENT_END), ("server", SERVER_END), ("src", SENDER), ("dst", RECEIVER)):
        s[name] = Source(src, IP, 0)
        s[name + "_port"] = Source(src, PORT, 0)
    return s


FIELD_SOURCES = make_sources()
_ALLOWED = frozenset(s[:3] for s in FIELD_SOURCES.values())


def _field_ok(src, type, offset, record_size):
    if src == SRC_RECORD:
        return type in WIDTH and 0 <= offset <= record_size - WIDTH[type]
    return (src, type, offset) in _ALLOWED


def verify(program, pool, entry, record_size):
    """Raise FilterError unless running `program` reads only known fields and `pool`, and ends."""
    n = len(program)
    if n > MAX_INSNS or len(pool) > MAX_POOL:
        raise FilterError(f"the filter is too long ({n} tests, {len(pool)} words; at most {MAX_INSNS}, {MAX_POOL}): "
                          "use a Table")
    if entry != 0 if n else entry not in (0, 1):
        raise FilterError(f"filter program: bad entry {entry}")
    for pc, i in enumerate(program):
        ok = pc < i.jt <= n + 1 and pc < i.jf <= n + 1 and 0 <= i.op < OP_COUNT and i.invert in (0, 1)
        ok = ok and 0 <= min(i[:9]) and max(i[:7]) < 2**8 and max(i.offset, i.offset2) < 2**16     # as insn_t stores them
        ok = ok and _field_ok(i.src, i.type, i.offset, record_size) and (i.type == T_IP) == (i.op >= OP_NET)
        if i.op == OP_FIELD or i.op == OP_SAME:
            ok = ok and _field_ok(i.src2, i.type2, i.offset2, record_size) and (i.type == T_IP) == (i.type2 == T_IP)
            ok = ok and 0 <= i.arg < CMP_COUNT
        if i.op == OP_RANGES:
            ok = ok and i.a >= 0 and i.b >= 0 and i.a + 2 * i.b <= len(pool)
        if not ok:
            raise FilterError(f"filter program: bad instruction {pc}: {i}")


cdef int store(insn_t *o, i) except -1:
    o.op, o.src, o.type, o.invert, o.arg = i.op, i.src, i.type, i.invert, i.arg
    o.src2, o.type2, o.offset, o.offset2 = i.src2, i.type2, i.offset, i.offset2
    o.jt, o.jf = i.jt, i.jf
    o.a, o.b, o.c, o.d = (word & (1 << 64) - 1 for word in (i.a, i.b, i.c, i.d))


cdef class Filter:
    """A verified program. Built by mos.events.filter.compile_filter; run by the bus through `filter_run(f.c, event)`.

    program: tuple of Insn; pool: ints; entry: 0, or without instructions the verdict; record_size: bytes at event_t.obj
    that loads from RECORD may touch (0: none). Raises FilterError for a program that does not verify.
    """

    def __cinit__(self, str text, str kind, program, pool=(), entry=0, record_size=0):
        self.c = &self.own
        self.program, self.pool = tuple(Insn(*i) for i in program), tuple(pool)
        verify(self.program, self.pool, entry, record_size)
        self.text, self.kind, self.record_size, self.entry = text, kind, record_size, entry
        self.own.insn = <insn_t *>PyMem_Calloc(len(self.program) + 1, sizeof(insn_t))
        self.own.pool = <int64_t *>PyMem_Calloc(len(self.pool) + 1, sizeof(int64_t))
        if self.own.insn == NULL or self.own.pool == NULL:
            raise MemoryError
        for n, word in enumerate(self.pool):
            self.own.pool[n] = word
        for n, i in enumerate(self.program):
            store(self.own.insn + <int>n, i)
        self.own.n, self.own.entry = len(self.program), entry
        if self.program:
            self.find_gate(self.program[0])

    cdef int find_gate(self, first) except -1:
        if first.op == OP_RANGE and first.type == T_PORT and not first.invert and first.jf == self.own.n \
                and 0 <= min(first.a, first.b) and max(first.a, first.b) < 2**16 and first.src in (SRC_CLIENT, SRC_SERVER):
            self.own.gate.end = GATE_SERVER if first.src == SRC_SERVER else GATE_CLIENT
            self.own.gate.first, self.own.gate.more = first.a, first.b
        elif first.op == OP_RANGE and first.type == T_I64 and first.src == SRC_EVENT and self.own.n in (first.jt, first.jf) \
                and 0 <= first.b < (1 << 64) - 1:
            self.own.gate.end, self.own.gate.at = GATE_EVENT, first.offset
            self.own.gate.first, self.own.gate.more = first.a & (1 << 64) - 1, first.b
            if first.invert ^ (first.jt == self.own.n):     # what is in the range is rejected
                self.own.gate.first, self.own.gate.more = first.a + first.b + 1 & (1 << 64) - 1, (1 << 64) - 2 - first.b
        return 0

    def __dealloc__(self):
        PyMem_Free(self.own.insn)
        PyMem_Free(self.own.pool)

    def __repr__(self):
        return f"<Filter {self.text!r} on {self.kind}>"

    def matches(self, Event ev not None):
        """The verdict on a built-in event that is being handled. Raises StaleEvent for a stale or kept one."""
        if ev.e == NULL or ev.e == &ev.own:
            raise StaleEvent(f"{self!r}: asked about a {type(ev).__name__} whose packet is gone: ask in its handler")
        if self.record_size:
            raise UsageError(f"{self!r} reads a user-defined event's fields: subscribe with where= instead")
        return filter_run(self.c, ev.e)


cdef int name_key(key_t *k, uint8_t *first_hi, bytes addr, bytes addr2, uint16_t port, uint16_t port2, int proto) except -1:
    cdef uint8_t[32] both
    memset(both, 0, 32)
    memset(k, 0, sizeof(key_t))
    memcpy(both, <const char *>addr, min(len(addr), 16))
    memcpy(both + 16, <const char *>addr2, min(len(addr2), 16))
    first_hi[0] = (addr, port) > (addr2, port2)
    memcpy(k.lo_addr, both + 16 * first_hi[0], 16)
    memcpy(k.hi_addr, both + 16 * (1 - first_hi[0]), 16)
    k.lo_port, k.hi_port = (port2, port) if first_hi[0] else (port, port2)
    k.proto, k.ipver = proto, 4 if len(addr) == 4 else 6


def run_on(Filter f not None, flow=None, packet=None, aliases=(), bytes record=None, uint64_t repeat=1, **event):
    """The verdict of `f` on an event made of Python values; no `flow`, `packet`, `record`: the event has none.

    flow: client, server (packed addresses), client_port, server_port, proto, id, flags, client_bytes, server_bytes,
    client_packets, server_packets. packet: src, dst (packed), src_port, dst_port, proto, status, number, wirelen,
    payload_len, ipver, tcp_flags, wnd, header (bytes of an IP header, for one without key). aliases: up to 4 of (position,
    client, client_port, server, server_port) in order. event: now, to_server, cause, flags, side, old, new, position,
    offset, length. What is not given is 0. `repeat` runs it that often without the GIL, to be timed from outside.
    """
    cdef event_t e
    cdef flow_t *fl = NULL
    cdef pkt_t p
    cdef alias_t[4] al
    cdef more_t more
    cdef uint64_t _
    cdef bint verdict = False
    memset(&e, 0, sizeof(e))
    memset(&more, 0, sizeof(more))
    memset(&p, 0, sizeof(p))
    e.size = sizeof(e)
    get = event.get
    e.now, e.to_server, e.cause, e.flags = get("now", 0), get("to_server", 0), get("cause", 0), get("flags", 0)
    e.side, e.old, e.new, e.position = get("side", 0), get("old", 0), get("new", 0), get("position", 0)
    e.offset, e.length = get("offset", 0), get("length", 0)
    if flow is not None:
        fl = flow_alone()
        if fl == NULL:
            raise MemoryError
        _fill_flow(fl, flow.get)
        e.flow = fl
        for i, (position, *name) in enumerate(aliases[:4]):
            name_key(&al[<int>i].key, &al[<int>i].client_hi, name[0], name[2], name[1], name[3], fl.key.proto)
            al[<int>i].position, al[<int>i].next = position, NULL
            if i:
                al[<int>i - 1].next = &al[<int>i]
            else:
                more.alias = &al[0]
                fl.more = &more
    if packet is not None:
        header = packet.get("header")
        _fill_packet(&p, packet.get, header)
        e.pkt = &p
    if record is not None:
        if len(record) < f.record_size:
            raise UsageError(f"the record has {len(record)} bytes, the filter reads {f.record_size}: give all of it")
        e.obj = <void *><const char *>record
    with nogil:
        for _ in range(repeat):
            verdict = not gate_refuses(&f.c.gate, &e) and filter_run(f.c, &e)
        flow_alone_free(fl)
    return verdict


cdef int _fill_flow(flow_t *fl, get) except -1:
    name_key(&fl.key, &fl.client_hi, get("client", b"\0\0\0\0"), get("server", b"\0\0\0\0"), get("client_port", 0),
             get("server_port", 0), get("proto", IPPROTO_TCP))
    flow_cold(fl).id, fl.flags = get("id", 0), get("flags", 0)
    fl.end[CLIENT].payload, fl.end[SERVER].payload = get("client_bytes", 0), get("server_bytes", 0)
    fl.end[CLIENT].packets, fl.end[SERVER].packets = get("client_packets", 0), get("server_packets", 0)


cdef int _fill_packet(pkt_t *p, get, header) except -1:
    p.status, p.proto = get("status", PKT_FLOW), get("proto", IPPROTO_TCP)
    p.ipver = get("ipver", 4)
    p.number, p.wirelen, p.payload_len = get("number", 0), get("wirelen", 0), get("payload_len", 0)
    p.tcp_flags, p.wnd = get("tcp_flags", 0), get("wnd", 0)
    if p.status == PKT_FLOW:
        name_key(&p.key, &p.from_hi, get("src", b"\0\0\0\0"), get("dst", b"\0\0\0\0"), get("src_port", 0),
                 get("dst_port", 0), p.proto)
    if header is not None:
        p.frame = p.ip = <const uint8_t *><const char *>header
        p.caplen = len(header)
