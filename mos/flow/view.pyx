"""What `ev.flow` gives: names that stay valid for ever, counters that can be read until the flow has ended."""
import ipaddress

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from mos.flow.flow cimport (
    CLIENT, END_FIN_SENT, END_SACK_OK, END_SEEN, END_SYN, END_TS_OK, FLOW_BYPASSED, FLOW_CLOSED, FLOW_DROPPED,
    FLOW_ESTABLISHED, FLOW_MIDSTREAM, FLOW_RESETTING, FLOW_RESET_DUE, SERVER, end_t, flow_cold, flow_more, flow_t, iss_of,
    more_t)
from mos.net.packet cimport IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

from mos.errors import StaleFlow

cdef extern from "arpa/inet.h" nogil:
    int AF_INET6
    const char *inet_ntop(int family, const void *src, char *dst, unsigned int size)

# In the order of events.spec, which is further up and cannot be imported here; a test compares them.
STATES = ("CLOSED", "LISTEN", "SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT",
          "CLOSING", "LAST_ACK", "TIME_WAIT")
REASONS = ("none", "fin", "rst_client", "rst_server", "idle", "evicted", "reused", "stopped", "shutdown")

# Of a history, by HIST_* and side.
cdef str LETTERS = "SsHhAaDdFfRrCcGgTtWwIi"

cdef tuple _states = STATES
cdef tuple _reasons = REASONS


cdef str ip_text(const uint8_t *addr, int ipver):
    """An address as text: dotted quad, or RFC 5952 form for IPv6."""
    cdef char text[64]
    cdef int n = 0, i
    cdef uint8_t b
    if ipver == 6:
        inet_ntop(AF_INET6, addr, text, 64)
        while text[n] != 0:
            n += 1
        return PyUnicode_DecodeASCII(text, n, NULL)
    for i in range(4):
        b = addr[i]
        if b >= 100:
            text[n] = 48 + b // 100
            n += 1
        if b >= 10:
            text[n] = 48 + b // 10 % 10
            n += 1
        text[n] = 48 + b % 10
        text[n + 1] = b"."
        n += 2
    return PyUnicode_DecodeASCII(text, n - 1, NULL)


cdef Flow flow_view_make(flow_t *f, object owner):
    cdef more_t *m = flow_more(f)
    cdef Flow v = Flow.__new__(Flow)
    if m == NULL:
        raise MemoryError("no memory for the view of a flow")
    v.f = v.at = f
    v.id = flow_cold(f).id
    v.first_ns_ = flow_cold(f).first_ns
    v.owner = owner
    v.key = f.key
    v.client_hi = f.client_hi
    Py_INCREF(v)
    m.view = <void *>v
    return v


cdef void flow_view_end(flow_t *f) noexcept:
    """The flow has ended: its Flow keeps id and addresses, everything else raises StaleFlow from now on."""
    if f.more == NULL or f.more.view == NULL:
        return
    cdef Flow v = <Flow>f.more.view
    v.f = v.at = NULL
    f.more.view = NULL
    Py_DECREF(v)


cdef Flow flow_keep(Flow v):
    """A copy of `v` with its last words: what it says of itself now it says for ever. Nothing can be asked of the flow by it."""
    cdef Flow c = Flow.__new__(Flow)
    c.id, c.owner, c.key, c.client_hi, c._client, c._server = v.id, v.owner, v.key, v.client_hi, v._client, v._server
    c.first_ns_, c.later = v.first_ns_, v.later
    if v.at == NULL:
        return c
    c.at = c.own = <flow_t *>malloc(sizeof(flow_t))
    if c.own == NULL:
        raise MemoryError("no memory for the copy of a flow")
    c.own[0] = v.at[0]
    if v.f != NULL and v.f.more != NULL:
        c.later = v.f.more.hist
    return c


cdef str letters(uint64_t word):
    text = ""
    while word:
        text += LETTERS[(word & 31) - 1]
        word >>= 5
    return text


cdef inline int live(Flow v, str what) except -1:
    if v.f == NULL:
        raise StaleFlow(f"flow {v.id}: {what} read after the flow ended; read it in FlowEnd at the latest")
    return 0


cdef inline int seen(Flow v, str what) except -1:
    if v.at == NULL:
        live(v, what)
    return 0


cdef inline object optional(uint64_t value):
    return value if value else None


@cython.freelist(8)
cdef class Flow:
    """A flow as its handlers see it.

    `id`, `proto`, `domain`, the addresses and ports and what is computed from them stay valid for ever, and a Flow hashes
    by its id. Everything else is read from the tracker and raises StaleFlow once FlowEnd has been handled; a kept FlowEnd
    (`ev.keep()`, `mos.open`, async handlers) has a copy of its own, which can be read for ever. Addresses are those of the
    client's own wire side; an event's `client` and `server` are what the middlebox at its place sees.
    """

    def __dealloc__(self):
        free(self.own)

    def __hash__(self):
        return <Py_hash_t>self.id

    def __eq__(self, other):
        return self is other or (isinstance(other, Flow) and (<Flow>other).id == self.id and (<Flow>other).owner is self.owner)

    def __str__(self):
        if self.proto not in ("tcp", "udp"):
            return f"{self.proto} {self.client} > {self.server}"
        form = "{} [{}]:{} > [{}]:{}" if self.key.ipver == 6 else "{} {}:{} > {}:{}"
        return form.format(self.proto, self.client, self.client_port, self.server, self.server_port)

    def __repr__(self):
        return f"<Flow {self.id} {self}{' (ended)' if self.f == NULL else ''}>"

    @property
    def proto(self):
        """"tcp", "udp" or "icmp" (ICMPv6 too)."""
        if self.key.proto == IPPROTO_TCP:
            return "tcp"
        return "udp" if self.key.proto == IPPROTO_UDP else "icmp"

    @property
    def tcp(self):
        """True if the flow is TCP."""
        return self.key.proto == IPPROTO_TCP

    @property
    def udp(self):
        """True if the flow is UDP."""
        return self.key.proto == IPPROTO_UDP

    @property
    def icmp(self):
        """True if the flow is ICMP or ICMPv6."""
        return self.key.proto == IPPROTO_ICMP or self.key.proto == IPPROTO_ICMPV6

    @property
    def client(self):
        """The client's address, as text."""
        if self._client is None:
            self._client = ip_text(&self.key.hi_addr[0] if self.client_hi else &self.key.lo_addr[0], self.key.ipver)
        return self._client

    @property
    def server(self):
        """The server's address, as text."""
        if self._server is None:
            self._server = ip_text(&self.key.lo_addr[0] if self.client_hi else &self.key.hi_addr[0], self.key.ipver)
        return self._server

    @property
    def client_port(self):
        """The client's port, 0 for ICMP."""
        return 0 if self.icmp else self.key.hi_port if self.client_hi else self.key.lo_port

    @property
    def server_port(self):
        """The server's port, 0 for ICMP."""
        return 0 if self.icmp else self.key.lo_port if self.client_hi else self.key.hi_port

    @property
    def client_ip(self):
        """The client's address as an `ipaddress` object."""
        return ipaddress.ip_address(self.client)

    @property
    def server_ip(self):
        """The server's address as an `ipaddress` object."""
        return ipaddress.ip_address(self.server)

    @property
    def ip_version(self):
        """4 or 6."""
        return self.key.ipver

    @property
    def domain(self):
        """Number of the flow's VLAN stack and tunnel path, 0 without either."""
        return self.key.domain

    @property
    def vlan(self):
        """VLAN ids from the outermost inwards, () without tags."""
        return self.owner.flow_domain(self.key.domain)[0] if self.key.domain else ()

    @property
    def tunnel(self):
        """Names of the tunnels round the flow from the outermost inwards, () without any."""
        return self.owner.flow_domain(self.key.domain)[1] if self.key.domain else ()

    @property
    def community_id(self):
        """Community ID v1, seed 0: the flow's name as Zeek, Suricata and Wireshark write it.

        An ICMP echo flow is named as if its first packet had been the request.
        """
        from mos.flow.community import community_id, ports     # hashlib loads OpenSSL, for which few have a use
        return community_id(self.key.proto, self.client_ip.packed, self.server_ip.packed,
                            *ports(self.key.proto, self.key.lo_port, self.key.hi_port, self.client_hi))

    @property
    def ended(self):
        """True once FlowEnd has been handled."""
        return self.f == NULL

    @property
    def client_side(self):
        """Counters and TCP state of the client's end."""
        return side_of(self, CLIENT)

    @property
    def server_side(self):
        """Counters and TCP state of the server's end."""
        return side_of(self, SERVER)

    @property
    def client_bytes(self):
        """Payload bytes the client sent so far, retransmissions included."""
        seen(self, "client_bytes")
        return self.at.end[CLIENT].payload

    @property
    def server_bytes(self):
        """Payload bytes the server sent so far, retransmissions included."""
        seen(self, "server_bytes")
        return self.at.end[SERVER].payload

    @property
    def client_packets(self):
        """Packets the client sent so far."""
        seen(self, "client_packets")
        return self.at.end[CLIENT].packets

    @property
    def server_packets(self):
        """Packets the server sent so far."""
        seen(self, "server_packets")
        return self.at.end[SERVER].packets

    @property
    def first_ns(self):
        """Time of the first packet, ns since 1970."""
        seen(self, "first_ns")
        return self.first_ns_

    @property
    def last_ns(self):
        """Time of the latest packet, ns since 1970."""
        seen(self, "last_ns")
        return self.at.last_ns

    @property
    def rtt(self):
        """SYN to SYN-ACK to ACK in seconds, None if the handshake was not seen."""
        seen(self, "rtt")
        return self.at.rtt_us / 1e6 if self.at.rtt_us and self.at.flags & FLOW_ESTABLISHED else None

    @property
    def history(self):
        """What was seen of the flow, one letter each, upper case from the client (as Zeek's conn.log)."""
        seen(self, "history")
        return letters(self.at.hist) + letters(self.at.more.hist if self.f != NULL and self.at.more != NULL else self.later)

    @property
    def established(self):
        """True once the handshake was seen to complete."""
        seen(self, "established")
        return (self.at.flags & FLOW_ESTABLISHED) != 0

    @property
    def midstream(self):
        """True if the flow was picked up without its SYN."""
        seen(self, "midstream")
        return (self.at.flags & FLOW_MIDSTREAM) != 0

    @property
    def closed(self):
        """True once both FINs or a RST ended it."""
        seen(self, "closed")
        return (self.at.flags & FLOW_CLOSED) != 0

    @property
    def dropped(self):
        """True if a handler answered DROP_FLOW."""
        seen(self, "dropped")
        return (self.at.flags & FLOW_DROPPED) != 0

    @property
    def resetting(self):
        """True if a handler answered RESET."""
        seen(self, "resetting")
        return (self.at.flags & (FLOW_RESETTING | FLOW_RESET_DUE)) != 0

    @property
    def bypassed(self):
        """True if no middlebox wants it any more."""
        seen(self, "bypassed")
        return (self.at.flags & FLOW_BYPASSED) != 0

    @property
    def end_reason(self):
        """Why it ended, one of FlowEnd's reasons; "none" as long as it has not."""
        seen(self, "end_reason")
        return _reasons[self.at.end_reason] if self.at.end_reason < len(_reasons) else str(self.at.end_reason)

    @property
    def overlap_policy(self):
        """Name of the policy that decides between overlapping bytes sent to the server."""
        seen(self, "overlap_policy")
        return self.owner.flow_policy(self.at.policy)

    def set_overlap_policy(self, name):
        """Another overlap policy for this flow; in FlowStart, before its first byte. Raises UsageError later."""
        live(self, "set_overlap_policy")
        self.owner.flow_overlap(self, name)

    def attach(self, handler):
        """From the next event on, `handler` (marked `attached=False`) sees this flow. False: refused, and counted, because
        flows have as many combinations of handlers as there may be (`limits.sets`)."""
        live(self, "attach")
        return self.owner.flow_attach(self, handler)

    def detach(self, handler):
        """From the next event on, `handler` sees this flow no more. False: refused, as by attach()."""
        live(self, "detach")
        return self.owner.flow_detach(self, handler)

    def timer(self, seconds, value=None, *, every=False):
        """Fire `Timer` with `value` after `seconds` of packet time, or each time they pass. Returns what cancels it; None: refused,
        and counted, because this flow has 4,096 timers or all flows together 1,048,576."""
        live(self, "timer")
        return self.owner.flow_timer(self, seconds, value, every)

    def cancel(self, timer):
        """Cancel what timer() returned; True if it was still set."""
        live(self, "cancel")
        return self.owner.cancel_timer(timer)

    def verdict(self, verdict):
        """Answer for the flow outside its own events: `verdict` holds from its next packet on."""
        live(self, "verdict")
        self.owner.flow_verdict(self, verdict)


cdef Side side_of(Flow flow, int index):
    cdef Side v = Side.__new__(Side)
    v.flow = flow
    v.index = index
    return v


cdef const end_t *end_of(Side v, str what) except NULL:
    seen(v.flow, what)
    return &v.flow.at.end[v.index]


@cython.freelist(8)
cdef class Side:
    """One end of a flow: what it has sent, and its TCP state as seen from the middle. Raises StaleFlow after FlowEnd."""

    def __repr__(self):
        return f"<Side {'server' if self.index else 'client'} of {self.flow!r}>"

    @property
    def address(self):
        """Its address, as text; valid for ever."""
        return self.flow.server if self.index else self.flow.client

    @property
    def port(self):
        """Its port, 0 for ICMP; valid for ever."""
        return self.flow.server_port if self.index else self.flow.client_port

    @property
    def packets(self):
        """Packets it sent."""
        return end_of(self, "packets").packets

    @property
    def wire_bytes(self):
        """Link-layer bytes it sent."""
        return end_of(self, "wire_bytes").bytes

    @property
    def payload_bytes(self):
        """Transport payload bytes it sent, retransmissions included."""
        return end_of(self, "payload_bytes").payload

    @property
    def stream_bytes(self):
        """Stream offset of the next byte to deliver from it: each byte counted once, gaps included."""
        return end_of(self, "stream_bytes").offset

    @property
    def state(self):
        """Its TCP state, a name of RFC 9293 section 3.3.2."""
        cdef int state = end_of(self, "state").state
        return _states[state] if state < len(_states) else str(state)

    @property
    def window(self):
        """Receive window it offered last, bytes, scaled."""
        return end_of(self, "window").wnd

    @property
    def mss(self):
        """Maximum segment size of its SYN, None if not seen."""
        return optional(end_of(self, "mss").mss)

    @property
    def wscale(self):
        """Window shift of its SYN (RFC 7323), None without the option."""
        cdef int shift = end_of(self, "wscale").wscale
        return None if shift == 255 else shift

    @property
    def sack_permitted(self):
        """True if its SYN permitted SACK (RFC 2018)."""
        return (end_of(self, "sack_permitted").flags & END_SACK_OK) != 0

    @property
    def timestamps(self):
        """True if its SYN carried timestamps (RFC 7323)."""
        return (end_of(self, "timestamps").flags & END_TS_OK) != 0

    @property
    def srtt(self):
        """Smoothed round trip from the middle to the other end and back in seconds (RFC 6298), None before a sample."""
        cdef uint32_t us = end_of(self, "srtt").srtt_us
        return us / 1e6 if us else None

    @property
    def isn(self):
        """Initial send sequence number, None before it has sent anything."""
        cdef const end_t *end = end_of(self, "isn")
        return iss_of(end) if end.flags & END_SEEN else None

    @property
    def syn(self):
        """True if its SYN was seen."""
        return (end_of(self, "syn").flags & END_SYN) != 0

    @property
    def fin(self):
        """True if it has sent a FIN."""
        return (end_of(self, "fin").flags & END_FIN_SENT) != 0
