"""Structs filled from Python, so that views can be tested without the stack. Built by test_views.py's fixture."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from mos.events.ring cimport event_t
from mos.events.views cimport Event, view_bind, view_held, view_new, view_release, view_stamp
from mos.flow.flow cimport alias_t, flow_alone, flow_alone_free, flow_cold, flow_more, flow_t
from mos.flow.view cimport flow_view, flow_view_end
from mos.net.packet cimport key_t, pkt_t
from mos.tcp.track cimport history_add


cdef void fill(key_t *k, bytes lo, int lo_port, bytes hi, int hi_port, int proto, int domain=0):
    memset(k, 0, sizeof(key_t))
    memcpy(k.lo_addr, <const uint8_t *>lo, len(lo))
    memcpy(k.hi_addr, <const uint8_t *>hi, len(hi))
    k.lo_port, k.hi_port, k.proto, k.domain = lo_port, hi_port, proto, domain
    k.ipver = 4 if len(lo) == 4 else 6


cdef class Rig:
    """One flow, one packet and one event, and the view of that event."""
    cdef flow_t *f
    cdef alias_t a
    cdef pkt_t p
    cdef event_t e
    cdef public object engine
    cdef object held

    def __cinit__(self):
        self.f = flow_alone()

    def __init__(self, engine=None):
        self.engine = engine
        self.held = []

    def __dealloc__(self):
        flow_view_end(self.f)
        free(self.f.more)
        flow_alone_free(self.f)

    def flow(self, int proto, bytes lo, int lo_port, bytes hi, int hi_port, bint client_hi=False, uint64_t id=1, domain=0):
        fill(&self.f.key, lo, lo_port, hi, hi_port, proto, domain)
        self.f.client_hi, flow_cold(self.f).id = client_hi, id
        self.e.flow = self.f

    def alias(self, bytes lo, int lo_port, bytes hi, int hi_port, bint client_hi, int position):
        fill(&self.a.key, lo, lo_port, hi, hi_port, self.f.key.proto)
        self.a.client_hi, self.a.position = client_hi, position
        flow_more(self.f).alias = &self.a

    def counters(self, int flags=0, int end_reason=0, int rtt_us=0, bytes hist=b"", first_ns=0, last_ns=0):
        self.f.flags, self.f.end_reason, self.f.rtt_us = flags, end_reason, rtt_us
        flow_cold(self.f).first_ns, self.f.last_ns = first_ns, last_ns
        for i, letter in enumerate(hist):
            history_add(self.f, chr(letter).islower(), b"SHADFRCGTWI".index(bytes([letter]).upper()))

    def end(self, int side, int packets=0, wire=0, payload=0, offset=0, int state=0, int mss=0, int wscale=255,
            int flags=0, int window=0, iss=0):
        self.f.end[side].packets, self.f.end[side].bytes, self.f.end[side].payload = packets, wire, payload
        self.f.end[side].offset, self.f.end[side].state, self.f.end[side].mss = offset, state, mss
        self.f.end[side].wscale, self.f.end[side].flags, self.f.end[side].wnd = wscale, flags, window
        self.f.end[side].nxt = (iss + 1 + offset) & 0xffffffff

    def packet(self, bytes frame, int status=0, int ipver=4, int proto=6, ip=None, l4=None, payload=None, bint from_hi=False,
               key_of_alias=False, bytes datagram=None, **fields):
        """`ip`, `l4`, `payload`: offsets into `datagram` if there is one (it is the reassembled one), else into `frame`."""
        cdef bytes base = frame if datagram is None else datagram
        cdef const uint8_t *start = base
        self.held += [frame, base]
        self.p.frame, self.p.caplen, self.p.wirelen = frame, len(frame), fields.pop("wirelen", len(frame))
        self.p.status, self.p.ipver, self.p.proto, self.p.from_hi = status, ipver, proto, from_hi
        self.p.reassembled = datagram is not None
        self.p.ip = start + <int>ip if ip is not None else NULL
        self.p.l4 = start + <int>l4 if l4 is not None else NULL
        if payload is not None:
            self.p.payload = start + <int>payload
            self.p.payload_cap = len(base) - <int>payload
            self.p.payload_len = fields.pop("payload_len", self.p.payload_cap)
        self.p.key = self.a.key if key_of_alias else self.f.key
        self.p.number, self.p.ts = fields.pop("number", 1), fields.pop("ts", 0)
        self.p.tcp_flags, self.p.wnd = fields.pop("tcp_flags", 0), fields.pop("wnd", 0)
        self.p.seq, self.p.ack = fields.pop("seq", 0), fields.pop("ack", 0)
        assert not fields, fields
        self.e.pkt = &self.p

    def view(self, int kind, bytes data=None, bytes old_data=None, obj=None, view=None, **fields):
        """A view of a new event, bound until `release`."""
        cdef Event v = view_new(kind) if view is None else view
        v.engine = self.engine
        self.held += [data, old_data, obj]
        self.e.kind = kind
        self.e.size = sizeof(event_t)
        self.e.data = self.e.old_data = NULL
        if data is not None:
            self.e.data = data
        if old_data is not None:
            self.e.old_data = old_data
        self.e.obj = <void *>obj if obj is not None else NULL
        self.e.length = fields.pop("length", len(data) if data is not None else 0)
        self.e.offset, self.e.now, self.e.arg = fields.pop("offset", 0), fields.pop("now", 0), 0
        self.e.to_server, self.e.side = fields.pop("to_server", 0), fields.pop("side", 0)
        self.e.cause, self.e.flags = fields.pop("cause", 0), fields.pop("flags", 0)
        self.e.old, self.e.new = fields.pop("old", 0), fields.pop("new", 0)
        self.e.position = fields.pop("position", 0)
        assert not fields, fields
        view_bind(v, &self.e)
        return v

    def stamp(self, Event v):
        view_stamp(v, &self.e, self.engine)

    def get_flow(self):
        return flow_view(self.f, self.engine)

    def end_flow(self):
        flow_view_end(self.f)

    def scribble(self):
        """What a stack does after a packet: other contents at the same addresses."""
        memset(&self.p, 0xee, sizeof(pkt_t))
        memset(&self.e, 0xee, sizeof(event_t))
        self.p.frame = self.p.ip = self.p.l4 = self.p.payload = NULL
        self.held = []


def release(Event v):
    view_release(v)


def held_elsewhere():
    """What view_held says of a fresh view, and after a handler has stored it."""
    cdef Event v = view_new(0)
    alone = view_held(v, 1)
    stored = [v]
    return alone, view_held(v, 1), len(stored)


def bind_release(Rig rig, Event v, int n):
    """A loop for measurements."""
    cdef int i
    for i in range(n):
        view_bind(v, &rig.e)
        view_release(v)
