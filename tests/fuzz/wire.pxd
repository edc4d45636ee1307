# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Bytes to frames without Python: the language of grammar.py, so that both know each other's inputs.

A record is one byte, kind << 5 | side << 4 | shape, and what that needs. Kinds 0 to 3: a TCP segment of that flow. 4: a TCP
segment with options. 5: a datagram. 6: something about the next frame, or time passes. 7: a frame as it is.
"""
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove, memset
from mos.net.bytes cimport put16, put32
from mos.net.checksum cimport csum_fold, csum_range
from mos.net.packet cimport TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN
from quick cimport input_t, take

cdef enum:
    ROOM = 2048             # bytes of a frame
    TALKS = 4
    PIECES = 40             # fragments of one datagram
    STEP = 1000000          # ns between frames

cdef struct talk_t:         # what a sane pair of ends would send next
    uint32_t next[2]
    uint32_t clock
    uint16_t ports[2]
    uint8_t  sent_syn[2]
    uint8_t  number         # 1: IPv6; 2: in a VLAN

ctypedef void (*send_fn)(void *to, const uint8_t *frame, uint32_t caplen, uint32_t wirelen, int64_t now) noexcept nogil

cdef struct wire_t:
    talk_t   talks[TALKS]
    send_fn  send
    void    *to
    int64_t  now
    uint32_t frames
    uint32_t most           # frames of an input
    uint32_t last_len
    uint32_t cut            # of the next frame: bytes that the capture lacks,
    uint32_t fragment       # bytes of a fragment, 0: whole,
    uint16_t ident
    uint8_t  backwards
    uint8_t  bad            # a wrong checksum
    uint8_t[ROOM] last
    uint8_t[ROOM] l4
    uint8_t[ROOM] frame

cdef extern from *:
    """
    #define S 2
    #define A 16
    #define P 24
    static const uint8_t wire_flags[16] = {S, S | A, A, P, 1 | A, 1 | P, 4, 4 | A, P, P, P, P, A, A, A, P};
    #undef S
    #undef A
    #undef P
    static const int64_t wire_waits[8] = {1000000000, 3000000000, 12000000000, 130000000000, 301000000000, 7441000000000, -5000000000, 1};
    /* Length of an option's start, then the start. */
    static const uint8_t wire_options[16][7] = {
        {4, 2, 4, 5, 0xb4}, {3, 3, 3, 7}, {3, 3, 3, 15}, {2, 4, 2}, {4, 1, 1, 8, 10}, {2, 5, 10}, {2, 5, 34}, {4, 8, 10}, {2, 2, 4},
        {2, 34, 2}, {2}, {2, 3}, {2, 0xfd, 0xff}, {2, 19, 18}, {4, 2, 4}, {2, 5, 18}};
    """
    const uint8_t[16] FLAGS "wire_flags"
    const int64_t[8] WAITS "wire_waits"
    const uint8_t[16][7] OPTIONS "wire_options"

cdef inline void wire_start(wire_t *w, send_fn send, void *to, int64_t now, uint32_t most) noexcept nogil:
    cdef int i
    memset(w, 0, sizeof(wire_t) - 3 * ROOM)
    w.send, w.to, w.now, w.most = send, to, now, most
    for i in range(TALKS):
        w.talks[i].number = <uint8_t>i
        w.talks[i].ports[0], w.talks[i].ports[1] = <uint16_t>(40000 + i), 80
        talk_restart(&w.talks[i])

cdef inline void talk_restart(talk_t *t) noexcept nogil:
    t.next[0], t.next[1] = <uint32_t>-20, 1000      # the client's wraps soon
    t.sent_syn[0] = t.sent_syn[1] = 0
    t.clock = 100

cdef inline void put(wire_t *w, uint32_t n) noexcept nogil:
    """Send what is in `frame`."""
    cdef uint32_t kept = n - min(n, w.cut)
    if w.frames == w.most:
        return
    w.frames += 1
    w.now += STEP
    w.cut = 0
    memcpy(w.last, w.frame, n)
    w.last_len = n
    w.send(w.to, w.frame, kept, n, w.now)

cdef inline void datagram(wire_t *w, const talk_t *t, int side, uint8_t proto, uint32_t at, uint32_t n, int more) noexcept nogil:
    """`n` bytes of `l4` from `at` on as a packet; more: -1 it is whole, else as a fragment says."""
    cdef uint8_t *h = w.frame + 12
    cdef int i
    memset(w.frame, 0, 14)
    if t.number == 2:
        put32(h, 0x81000123)
        h += 4
    put16(h, 0x86dd if t.number == 1 else 0x0800)
    h += 2
    if t.number == 1:
        memset(h, 0, 48)
        put32(h, 6 << 28)
        put16(h + 4, n + (8 if more >= 0 else 0))
        h[6], h[7] = 44 if more >= 0 else proto, 64
        for i in range(2):
            h[8 + 16 * i], h[20 + 16 * i], h[21 + 16 * i], h[23 + 16 * i] = 0xfd, 10, t.number, <uint8_t>(1 + (side ^ i))
        h += 40
        if more >= 0:
            h[0] = proto
            put16(h + 2, at | more)
            put32(h + 4, w.ident)
            h += 8
    else:
        memset(h, 0, 20)
        h[0], h[8], h[9] = 0x45, 64, proto
        put16(h + 2, 20 + n)
        put16(h + 4, w.ident)
        put16(h + 6, at >> 3 | (more > 0) << 13)
        for i in range(2):
            h[12 + 4 * i], h[13 + 4 * i], h[15 + 4 * i] = 10, t.number, <uint8_t>(1 + (side ^ i))
        put16(h + 10, <uint16_t>~csum_fold(csum_range(h, 20)))
        h += 20
    memcpy(h, w.l4 + at, n)
    put(w, <uint32_t>(h - w.frame) + n)

cdef inline void packet(wire_t *w, const talk_t *t, int side, uint8_t proto, uint32_t n) noexcept nogil:
    """`n` bytes of `l4`, in fragments if that was said before."""
    cdef uint32_t size = w.fragment, count, i, at
    cdef uint32_t sum_at = 16 if proto == 6 else 6 if proto == 17 else 2
    if w.bad and n >= sum_at + 2:
        put16(w.l4 + sum_at, 0x1234)
    w.bad = 0
    w.fragment = 0
    if size == 0:
        datagram(w, t, side, proto, 0, n, -1)
        return
    w.ident += 1
    count = min((n + size - 1) // size, PIECES)
    for i in range(count):
        at = (count - 1 - i if w.backwards else i) * size
        datagram(w, t, side, proto, at, min(size, n - at), at + size < n)

cdef inline void content(uint8_t *to, uint32_t seq, uint32_t n, uint8_t salt) noexcept nogil:
    """The same byte at the same sequence number, unless salted."""
    cdef uint32_t i
    for i in range(n):
        to[i] = <uint8_t>((seq + i) * 7 + ((seq + i) >> 8) + salt)

cdef inline void segment(wire_t *w, talk_t *t, int side, int shape, input_t *r, const uint8_t *options, uint32_t noptions) noexcept nogil:
    """One TCP segment of the given shape; the model moves on with it."""
    cdef uint8_t flags = FLAGS[shape], salt = 0
    cdef uint32_t seq, ack, window = 0xffff, n = 0, header, end
    if shape == 0 and t.sent_syn[side]:
        t.ports[0] += take(r, 1) & 1        # again, or the next connection
        talk_restart(t)
    seq, ack = t.next[side], t.next[1 - side]
    if shape == 3 or shape == 5:
        n = take(r, 1)
    elif shape == 8:
        n = 1460
    elif shape == 9 or shape == 10:
        seq -= take(r, 1)
        salt = <uint8_t>(shape - 9)
        n = take(r, 1)
    elif shape == 11:
        seq += take(r, 1)
        n = take(r, 1)
    elif shape == 12:
        seq -= 1
        n = take(r, 1) & 1
    elif shape == 13:
        ack += take(r, 1)
    elif shape == 14:
        flags = <uint8_t>take(r, 1)
        seq += <uint32_t><int16_t>take(r, 2)
        ack += <uint32_t><int16_t>take(r, 2)
        window = take(r, 2)
        n = take(r, 1)
    elif shape == 15:
        seq += take(r, 4)
        n = take(r, 1)
    if flags & TCP_SYN:
        t.sent_syn[side] = 1
    header = 20 + (noptions + 3) // 4 * 4
    memset(w.l4, 0, header)
    put16(w.l4, t.ports[side])
    put16(w.l4 + 2, t.ports[1 - side])
    put32(w.l4 + 4, seq)
    put32(w.l4 + 8, ack if flags & TCP_ACK else 0)
    w.l4[12], w.l4[13] = <uint8_t>(header // 4 << 4), flags
    put16(w.l4 + 14, window)
    if noptions:
        memcpy(w.l4 + 20, options, noptions)
    content(w.l4 + header, seq, n, salt)
    packet(w, t, side, 6, header + n)
    end = seq + n + (flags & TCP_SYN != 0) + (flags & TCP_FIN != 0)
    if shape != 10 and shape != 14 and shape != 15 and not flags & TCP_RST and <int32_t>(end - t.next[side]) > 0:
        t.next[side] = end

cdef inline void with_options(wire_t *w, talk_t *t, int side, int shape, input_t *r) noexcept nogil:
    """Up to three options out of the table, filled with what follows; or time stamps that move on."""
    cdef uint8_t[128] found
    cdef const uint8_t *start
    cdef uint32_t n = take(r, 1), at = 0, want, i, k
    if n & 0x80:
        t.clock += n & 0x7f
        put32(found, 0x0101080a)
        put32(found + 4, t.clock)
        put32(found + 8, 0)
        segment(w, t, side, shape, r, found, 12)
        return
    for i in range(n & 3):
        start = OPTIONS[take(r, 1) & 15]
        want = start[2] if start[0] > 1 and 2 <= start[2] <= 34 else start[0]
        for k in range(max(want, 2)):
            found[at] = start[1 + k] if k < start[0] else <uint8_t>take(r, 1)
            at += 1
    segment(w, t, side, shape, r, found, min(at, 40))

cdef inline void other(wire_t *w, talk_t *t, int side, int shape, input_t *r) noexcept nogil:
    """UDP, ICMP, or a tunnel around the last frame."""
    cdef uint16_t[6] ports = [80, 53, 4789, 6081, 2152, 3544]
    cdef uint8_t[6] protos = [4, 41, 47, 97, 50, 51]
    cdef uint32_t n = take(r, 1), size = 8, inner = min(w.last_len, 1400), i
    cdef uint8_t proto = 17
    memset(w.l4, 0, 16)
    if shape < 6:
        put16(w.l4, 41000 if side == 0 else ports[shape])
        put16(w.l4 + 2, ports[shape] if side == 0 else 41000)
        if shape == 2:
            w.l4[8], w.l4[14] = 8, 7
            memcpy(w.l4 + 16, w.last, inner)
            size = 16 + inner
        put16(w.l4 + 4, size + (n & 31 if shape != 2 else 0))
        n = n & 31 if shape != 2 else 0
    elif shape < 10:
        proto = 58 if t.number == 1 else 1
        w.l4[0] = <uint8_t>take(r, 1) if shape >= 8 else (<uint8_t>(128 + side) if t.number == 1 else 8 * (1 - side))
        put16(w.l4 + 4, n)
        put16(w.l4 + 6, 1)
        n &= 63
    else:
        proto = protos[shape - 10]
        n = 0
        inner = min(w.last_len - min(w.last_len, 14), 1400)
        size = inner
        if proto == 47:
            put32(w.l4, 0x0800)
            memcpy(w.l4 + 4, w.last + 14, inner)
            size += 4
        elif proto == 97:
            put16(w.l4, 0x3000)
            size = 2 + min(w.last_len, 1400)
            memcpy(w.l4 + 2, w.last, size - 2)
        else:
            memcpy(w.l4, w.last + 14, inner)
    for i in range(n):
        w.l4[size + i] = <uint8_t>take(r, 1)
    packet(w, t, side, proto, size + n)

cdef inline void about(wire_t *w, int side, int shape, input_t *r) noexcept nogil:
    cdef int i
    if shape < 8:
        w.now += WAITS[shape]
    elif shape < 10:
        w.fragment, w.backwards = 8 * (1 + take(r, 1) % 64), shape == 9
    elif shape == 10:
        w.cut = take(r, 1)
    elif shape == 11:
        w.bad = 1
    elif w.last_len:
        for i in range(1 + side):
            memcpy(w.frame, w.last, w.last_len)
            put(w, w.last_len)

cdef inline void wire_run(wire_t *w, input_t *r) noexcept nogil:
    """Send all frames that the input describes."""
    cdef uint32_t op, n, last = 0
    cdef int kind, side, shape
    while r.left and w.frames < w.most:
        op = take(r, 1)
        kind, side, shape = op >> 5, op >> 4 & 1, op & 15
        if kind < 4:
            last = kind
            segment(w, &w.talks[kind], side, shape, r, NULL, 0)
        elif kind == 4:
            with_options(w, &w.talks[last], side, shape, r)
        elif kind == 5:
            other(w, &w.talks[last], side, shape, r)
        elif kind == 6:
            about(w, side, shape, r)
        else:
            n = take(r, 1) if shape < 8 else 54
            n = min(n, <uint32_t>r.left)
            memmove(w.frame, r.p, n)
            r.p += n
            r.left -= n
            put(w, n)
