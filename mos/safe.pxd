# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Safe mode: no byte of a stream reaches its receiver but as the chain let it pass.

What has left is retained until its receiver acknowledges it, and every segment that says those bytes again leaves with the
copy's, edits included. What is acknowledged leaves no more: a bare segment just below asks the receiver to say so again, and
so does one that it would refuse. Bytes behind a hole do not leave before the chain has seen them, which is when the hole is
filled; meanwhile their sender is told what the receiver would have told it. The urgent pointer is cleared: whoever reads an
urgent byte apart reads another stream than the chain (RFC 6093 section 5).
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from mos.core cimport (
    ALTER_BARE, ALTER_GONE, ALTER_HELD, ALTER_NONE, ALTER_STREAM, DROPPED_UNSAFE, SAFE_ALL, SAFE_BARE, SAFE_HELD,
    SAFE_REWRITTEN, SAFE_URGENT, Core)
from mos.events.bus cimport WANTS_BYTES
from mos.flow.flow cimport (
    END_ACKED, END_FIN_SENT, END_SEEN, END_SYN, FLOW_MIDSTREAM, end_t, flow_cold, flow_names, flow_t, reasm_at, reasm_of)
from mos.flow.remake cimport (
    MAX_BLOCKS, remake_ack, remake_bare, remake_head, remake_link, remake_not_urgent, remake_seal)
from mos.flow.rewrite cimport frame_copy, replace_payload, rewrite_flow
from mos.io.port cimport SEND_BACK, SEND_ON, SEND_OURS
from mos.leave cimport leave
from mos.net.packet cimport OPT_TS, TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN, TCP_URG, pkt_t
from mos.tcp.queue cimport reasm_open, reasm_t, seg_data, seg_drop, seg_end, seg_new, seg_t, sent_add
from mos.tcp.reasm cimport reasm_offered
from mos.tcp.seq cimport seq_diff, seq_ge, seq_gt
from mos.tcp.track cimport scene_t

cdef enum:
    LONG_AGO = 1 << 30      # below any window (RFC 7323 section 2.3): whoever gets it says in an ACK what it expects
    LEAST_MSS = 536         # RFC 9293 section 3.7.1

cdef inline bint safe_follows(Core k, const flow_t *f) noexcept nogil:
    """The flow's bytes pass through the chain before they leave."""
    return f.mask & WANTS_BYTES != 0 or k.safe == SAFE_ALL

cdef inline bint safe_flow(Core k, const flow_t *f, int side) noexcept nogil:
    """What `side` sends is looked after: followed, or still retained from when it was."""
    cdef const reasm_t *r = <const reasm_t *>reasm_of(f, side)
    return k.safe and (safe_follows(k, f) or (r != NULL and r.sent != NULL))

cdef inline uint64_t safe_acked(const flow_t *f, int side) noexcept nogil:
    """Stream offset up to which the receiver has acknowledged what `side` sent."""
    cdef const end_t *S = &f.end[side]
    cdef const end_t *R = &f.end[1 - side]
    cdef int64_t at
    if not R.flags & END_ACKED or not S.flags & END_SEEN:
        return 0
    at = <int64_t>S.offset + seq_diff(R.last_ack, S.nxt)
    return 0 if at < 0 else min(<uint64_t>at, S.offset)

cdef inline void safe_trim(Core k, flow_t *f, int side) noexcept nogil:
    """Let go what the receiver has acknowledged."""
    cdef reasm_t *r = <reasm_t *>reasm_of(f, side)
    cdef seg_t *s
    cdef uint64_t to
    if r == NULL or r.sent == NULL:
        return
    to = safe_acked(f, side)
    while r.sent != NULL and seg_end(r.sent) <= to:
        s = r.sent
        r.sent = s.next
        r.sent_bytes -= s.len
        r.sents -= 1
        seg_drop(&k.budget, s)

cdef inline void safe_forget(Core k) noexcept nogil:
    """The packet in hand does not leave: nor is anything of it retained."""
    cdef seg_t *s
    while k.copy != NULL:
        s = k.copy
        k.copy = s.next
        seg_drop(&k.budget, s)

cdef inline void safe_withdraw(Core k, flow_t *f, int side, uint32_t ack) noexcept nogil:
    """Inline: data of the SYN that the SYN-ACK does not cover was not taken (RFC 7413 section 4.2.1): it is delivered again."""
    cdef end_t *S = &f.end[side]
    cdef reasm_t *r
    cdef seg_t **at
    cdef seg_t *s
    if S.flags & (END_SEEN | END_SYN) != END_SEEN | END_SYN or seq_ge(ack, S.nxt):
        return              # of a flow picked up in its middle a SYN-ACK is an old one
    r = reasm_offered(<reasm_t **>reasm_at(f, side), &k.budget, S.offset)
    S.offset -= S.nxt - ack
    S.nxt = ack
    if r == NULL:
        return
    at = &r.sent
    r.sent_tail = NULL
    while at[0] != NULL:
        s = at[0]
        if seg_end(s) <= S.offset:
            r.sent_tail = s
            at = &s.next
        else:
            at[0] = s.next
            r.sent_bytes -= s.len
            r.sents -= 1
            seg_drop(&k.budget, s)

cdef inline bint safe_room(Core k, scene_t *c) noexcept nogil:
    """Set aside what the packet in hand would add to the copy. False: no room, so it is dropped and TCP sends it again.

    One packet's bytes always have room when nothing else is retained, so a stream never stands still for good.
    """
    cdef reasm_t *r = reasm_open(<reasm_t **>reasm_at(c.flow, c.s), &k.budget)
    cdef seg_t **at = &k.copy
    cdef uint32_t i
    safe_forget(k)
    if r != NULL and (r.sent == NULL or r.sent_bytes + (k.plan.to - k.plan.next) <= k.limits.sent):
        for i in range(k.plan.n):
            at[0] = seg_new(&k.budget, k.plan.pieces[i].off, k.plan.pieces[i].data, k.plan.pieces[i].len, 0)
            if at[0] == NULL:
                break
            at = &at[0].next
        else:
            return True
    safe_forget(k)
    k.plan.n = k.plan.len = 0
    k.plan.to = k.plan.next
    return False

cdef inline void safe_keep(Core k, scene_t *c) noexcept nogil:
    """The packet in hand leaves with what the plan shows: retain that."""
    cdef reasm_t *r = <reasm_t *>reasm_of(c.flow, c.s)
    cdef const pkt_t *p = c.pkt
    cdef seg_t *s = k.copy
    cdef seg_t *following
    cdef uint32_t i
    if s == NULL:
        return
    k.copy = NULL
    for i in range(k.plan.n):
        if k.plan.pieces[i].shown != k.plan.pieces[i].data:
            memcpy(seg_data(s), k.plan.pieces[i].shown, s.len)
        following = s.next
        sent_add(r, &k.budget, s)
        s = following
    if k.plan.n == 1 and k.plan.pieces[0].is_new and k.plan.pieces[0].shown == p.payload and k.plan.pieces[0].len == p.payload_len \
            and not p.tcp_flags & (TCP_URG | TCP_FIN):
        k.alter = ALTER_NONE

cdef inline void safe_hear(Core k, scene_t *c) noexcept nogil:
    """An acceptable segment: its ACK frees copies, and what it brings will have to be looked at before it leaves."""
    cdef const pkt_t *p = c.pkt
    if p.tcp_flags & TCP_ACK:
        safe_trim(k, c.flow, 1 - c.s)
    if (p.payload_len or p.tcp_flags & (TCP_FIN | TCP_URG)) and safe_flow(k, c.flow, c.s):
        k.alter = ALTER_STREAM

cdef inline bint safe_hold(Core k, scene_t *c) noexcept nogil:
    """The packet in hand is committed; does anything of it reach its receiver? Behind a hole only an ACK that is news does."""
    cdef const pkt_t *p = c.pkt
    if k.plan.to > k.plan.next or k.plan.len == 0 or not safe_follows(k, c.flow):
        return True
    k.alter = ALTER_HELD
    k.news = seq_gt(p.ack, c.flow.end[1 - c.s].snd_una)
    if p.tcp_flags & TCP_FIN and reasm_of(c.flow, c.s) != NULL:
        (<reasm_t *>reasm_of(c.flow, c.s)).fin_held = 1
    return k.news

cdef inline bint safe_same(const reasm_t *r, const pkt_t *p, int64_t first, int64_t lo, int64_t hi) noexcept nogil:
    """The packet's bytes [lo, hi) are those retained, where any are. `first`: the offset of its first."""
    cdef seg_t *s = r.sent if r != NULL else NULL
    cdef int64_t a, b
    while s != NULL and <int64_t>s.off < hi:
        a, b = max(<int64_t>s.off, lo), min(<int64_t>seg_end(s), hi)
        if a < b and memcmp(seg_data(s) + (a - s.off), p.payload + (a - first), b - a):
            return False
        s = s.next
    return True

cdef inline void safe_overlay(const reasm_t *r, uint8_t *out, const pkt_t *p, int64_t first, int64_t hi) noexcept nogil:
    """The retained bytes in place of the packet's, in its copy."""
    cdef seg_t *s = r.sent if r != NULL else NULL
    cdef int64_t a, b
    while s != NULL and <int64_t>s.off < hi:
        a, b = max(<int64_t>s.off, first), min(<int64_t>seg_end(s), hi)
        if a < b:
            replace_payload(out, p, <uint32_t>(a - first), seg_data(s) + (a - s.off), <uint32_t>(b - a))
        s = s.next

cdef inline void safe_copy(const reasm_t *r, uint8_t *to, int64_t lo, int64_t hi) noexcept nogil:
    """The retained bytes [lo, hi), all of which are there."""
    cdef seg_t *s = r.sent if r != NULL else NULL
    cdef int64_t a, b
    while s != NULL and <int64_t>s.off < hi:
        a, b = max(<int64_t>s.off, lo), min(<int64_t>seg_end(s), hi)
        if a < b:
            memcpy(to + (a - lo), seg_data(s) + (a - s.off), b - a)
        s = s.next

cdef inline void safe_run(const reasm_t *r, int64_t *lo, int64_t *hi) noexcept nogil:
    """Narrow [lo, hi) to the first run of it that is retained; lo == hi: nothing of it is."""
    cdef seg_t *s = r.sent if r != NULL else NULL
    cdef int64_t end
    while s != NULL and <int64_t>seg_end(s) <= lo[0]:
        s = s.next
    if s == NULL or <int64_t>s.off >= hi[0]:
        hi[0] = lo[0]
        return
    lo[0] = max(lo[0], <int64_t>s.off)
    end = seg_end(s)
    while s.next != NULL and <int64_t>s.next.off == end:
        s = s.next
        end = seg_end(s)
    hi[0] = min(hi[0], end)

cdef inline int safe_out(Core k, uint32_t n, int counter) noexcept nogil:
    """`out` holds `n` bytes that leave in place of the packet in hand; 0: they cannot be made, so nothing leaves."""
    if n == 0:
        k.n.dropped[DROPPED_UNSAFE] += 1
        return ALTER_GONE
    k.out_len, k.edited = n, 1
    k.n.safe[counter] += 1
    return ALTER_BARE if counter == SAFE_BARE else ALTER_STREAM

cdef inline int safe_bare(Core k, const pkt_t *p, const flow_t *f, int s) noexcept nogil:
    """Without payload and FIN, where the receiver does not expect it: it answers with its ACK, as it would have anyway."""
    cdef const end_t *R = &f.end[1 - s]
    if p.tcp_flags & (TCP_SYN | TCP_RST):
        return safe_out(k, remake_bare(k.out, p, p.seq, p.tcp_flags & <uint8_t>~TCP_URG), SAFE_BARE)
    return safe_out(k, remake_bare(k.out, p, R.last_ack - 1 if R.flags & END_ACKED else p.seq - LONG_AGO,
                                   p.tcp_flags & <uint8_t>~(TCP_FIN | TCP_PSH | TCP_URG)), SAFE_BARE)

cdef inline int safe_whole(Core k, const pkt_t *p, const reasm_t *r, int64_t first, int64_t hi) noexcept nogil:
    """All of the packet's bytes may leave, as they are retained."""
    cdef bint urgent = p.tcp_flags & TCP_URG
    if not urgent and (p.cut or safe_same(r, p, first, first, hi)):
        return ALTER_NONE
    if p.reassembled:
        return safe_out(k, 0, 0)
    k.out_len = frame_copy(k.out, p)
    safe_overlay(r, k.out, p, first, hi)
    if urgent:
        remake_not_urgent(k.out, p)
        k.n.safe[SAFE_URGENT] += 1
    return safe_out(k, k.out_len, SAFE_REWRITTEN)

cdef inline int safe_stream(Core k, pkt_t *p, flow_t *f, int s) noexcept nogil:
    """The packet with the bytes retained, as many of its as there are."""
    cdef end_t *S = &f.end[s]
    cdef reasm_t *r = <reasm_t *>reasm_of(f, s)
    cdef uint32_t syn = 1 if p.tcp_flags & TCP_SYN else 0, n
    cdef int64_t first = <int64_t>S.offset + seq_diff(p.seq + syn, S.nxt), end = first + p.payload_len
    cdef int64_t lo = max(first, <int64_t>safe_acked(f, s)), hi = end
    cdef uint8_t flags = p.tcp_flags & <uint8_t>~TCP_URG
    cdef int link
    if not safe_follows(k, f):
        k.rest = <uint64_t>end
        return safe_whole(k, p, r, first, end)
    if lo < end:
        safe_run(r, &lo, &hi)
    else:
        lo = hi = end
    if flags & TCP_FIN and (hi != end or not S.flags & END_FIN_SENT or p.seq + syn + p.payload_len != S.fin_seq):
        flags &= <uint8_t>~TCP_FIN
    if flags & TCP_FIN and f.end[1 - s].flags & END_ACKED and seq_gt(f.end[1 - s].last_ack, S.fin_seq):
        flags &= <uint8_t>~TCP_FIN
    if syn and lo != first:
        lo = hi = first
    k.rest = <uint64_t>hi
    if lo == first and hi == end and not (flags ^ p.tcp_flags) & TCP_FIN:
        return safe_whole(k, p, r, first, hi)
    if lo == hi and not flags & (TCP_FIN | TCP_SYN):
        return safe_bare(k, p, f, s)
    link = remake_link(p)
    if link < 0:
        return safe_out(k, 0, 0)
    n = remake_head(k.out, p, <uint32_t>link, p.seq + <uint32_t>(lo - first), flags, 1)
    safe_copy(r, k.out + n, lo, hi)
    n += <uint32_t>(hi - lo)
    if hi - lo <= p.gso_size:
        p.gso_size = p.gso_type = 0
    return safe_out(k, remake_seal(k.out, p, <uint32_t>link, n - <uint32_t>(p.l4 - p.frame), p.csum_partial), SAFE_REWRITTEN)

cdef inline int safe_held(Core k, const pkt_t *p, const flow_t *f, int s) noexcept nogil:
    """Behind a hole: an ACK that is news goes on alone, and the sender learns that something is missing."""
    cdef uint32_t n = remake_bare(k.out, p, p.seq, TCP_ACK) if k.news else 0
    k.n.safe[SAFE_HELD] += 1
    if n:
        return safe_out(k, n, SAFE_BARE)
    k.n.consumed += 1
    return ALTER_GONE

cdef inline int safe_alter(Core k, pkt_t *p, flow_t *f, int s) noexcept nogil:
    """What of the forwarded packet in hand may leave: ALTER_NONE: as it came; ALTER_STREAM, ALTER_BARE: what `out` holds;
    ALTER_GONE: nothing, and it is counted."""
    cdef int how = k.alter
    k.rest = 0
    if how == ALTER_STREAM:
        how = safe_stream(k, p, f, s)
    elif how == ALTER_BARE:
        how = safe_bare(k, p, f, s)
    elif how == ALTER_HELD:
        how = safe_held(k, p, f, s)
    return how

cdef inline void safe_rest(Core k, const pkt_t *p, flow_t *f, int s) noexcept nogil:
    """The packet in hand has filled a hole and left: now what waited behind it, as segments made after it.

    Timestamp and ACK are its: those the bytes came with are older, and a receiver would refuse them (RFC 7323 section 5).
    """
    cdef end_t *S = &f.end[s]
    cdef reasm_t *r = <reasm_t *>reasm_of(f, s)
    cdef seg_t *g = r.sent
    cdef uint64_t at = max(k.rest, k.plan.next)
    cdef int link = remake_link(p)
    cdef uint32_t n, head, mss = f.end[1 - s].mss or LEAST_MSS
    cdef uint8_t flags
    mss = p.gso_size if p.gso_size else max(mss, <uint32_t>100) - (12 if p.opts & OPT_TS else 0)
    while link >= 0 and at < S.offset and g != NULL:
        if seg_end(g) <= at:
            g = g.next
            continue
        at = max(at, g.off)
        n = min(<uint32_t>(seg_end(g) - at), mss)
        flags = TCP_ACK | (TCP_PSH if at + n == S.offset else 0)
        if r.fin_held and at + n == S.offset and S.nxt == S.fin_seq:
            flags |= TCP_FIN
            r.fin_held = 0
        head = remake_head(k.out, p, <uint32_t>link, S.nxt - <uint32_t>(S.offset - at), flags, 0)
        memcpy(k.out + head, seg_data(g) + (at - g.off), n)
        n = remake_seal(k.out, p, <uint32_t>link, head + n - <uint32_t>(p.l4 - p.frame), 0)
        if flow_names(f) != NULL:
            rewrite_flow(k.out, p, f, s)
        k.n.split += 1
        leave(k, p, k.out, n, n, SEND_ON | SEND_OURS)
        at += n - head

cdef inline void safe_tell(Core k, const pkt_t *p, const flow_t *f, int s) noexcept nogil:
    """A duplicate ACK with SACK to the sender of a segment that was held back: so it fills the hole at once (RFC 5681)."""
    cdef const end_t *S = &f.end[s]
    cdef const reasm_t *r = <const reasm_t *>reasm_of(f, s)
    cdef seg_t *g = r.head if r != NULL else NULL
    cdef uint32_t[2 * MAX_BLOCKS] blocks
    cdef uint32_t a, b, n
    cdef int count = 1
    blocks[0] = blocks[1] = 0
    while g != NULL:
        a = S.nxt + <uint32_t>(g.off - S.offset)
        while g.next != NULL and g.next.off == seg_end(g):
            g = g.next
        b = S.nxt + <uint32_t>(seg_end(g) - S.offset)
        g = g.next
        if seq_diff(p.seq, a) >= 0 and seq_diff(b, p.seq) > 0:
            blocks[0], blocks[1] = a, b
        elif count < MAX_BLOCKS:
            blocks[2 * count], blocks[2 * count + 1] = a, b
            count += 1
    if blocks[0] == blocks[1]:
        return
    n = remake_ack(k.out, p, f, s, blocks, count)
    if n:
        k.n.injected += 1
        leave(k, p, k.out, n, n, SEND_BACK | SEND_OURS)

cdef inline void safe_after(Core k, const pkt_t *p, flow_t *f, int s) noexcept nogil:
    """The packet in hand was dealt with: what follows from it leaves too."""
    if k.alter == ALTER_HELD:
        safe_tell(k, p, f, s)
    elif k.alter == ALTER_STREAM and k.plan.to > k.plan.next and k.rest < f.end[s].offset:
        safe_rest(k, p, f, s)
