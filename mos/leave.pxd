# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What leaves: the packet in hand, as it came or changed, and frames of our own. There is no other way out."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset
from mos.core cimport OUT_CAP, RESETTING_S, Core, place_of
from mos.events.bus cimport MOS_RESET
from mos.flow.flow cimport FLOW_DROPPED, FLOW_RESET_DUE, FLOW_RESETTING, flow_t
from mos.flow.rewrite cimport make_reset
from mos.flow.table cimport table_slot
from mos.flow.turn cimport turn_frame
from mos.flow.wheel cimport wheel_arm
from mos.io.port cimport SEND_BACK, SEND_ON, SEND_OURS
from mos.net.packet cimport IPPROTO_TCP, TCP_RST, pkt_t
from mos.tcp.classify cimport TRUTH_INLINE
from mos.tcp.trouble cimport known_trouble, trouble_of, trouble_t

cdef enum:
    RST_SIZE = 128          # of a frame that is kept to be sent again: two VLAN tags, IPv6 and its common options fit
    AGAIN_MS = 100          # after a RST it is said again: a short round trip, then twice as long each time, 1.5 s in all
    AGAIN_STEPS = 4         # one packet in a hundred is lost: five are, once in ten thousand million times
    AGAIN_MOST = 24         # of one flow, whatever comes
    UNPROVEN = 1000         # flows a second that only one end was heard of: of a flood of invented SYNs no more are answered twice

cdef struct resets_t:       # by side whom they go to
    uint8_t[2][RST_SIZE] frame
    uint8_t[2] size         # 0: none
    uint8_t[2] how          # SEND_*, with the interface beside it
    uint16_t[2] iface
    uint16_t linktype
    uint8_t step
    uint8_t sent

cdef inline void leave(Core k, const pkt_t *p, const uint8_t *data, uint32_t n, uint32_t wirelen, int how) noexcept nogil:
    """Send `n` bytes with the time and interface of `p`, the packet in hand. `how`: SEND_*."""
    k.n.packets_out += 1
    if k.turn != NULL:
        if not how & SEND_BACK and k.out <= data < k.out + OUT_CAP:     # a handler's own frame stays as it is
            turn_frame(k.turn, 1 - k.turn_side, p, <uint8_t *>data)
        how |= SEND_BACK
    if k.writer is not None:
        if k.writer.parted:
            place_of(k, k.writer.key)
        k.writer.write(p, data, n, wirelen)
    if k.port is not None:
        k.port.send(p, data, n, how)

cdef inline void leave_own(Core k, const pkt_t *p, const uint8_t *data, uint32_t n, int how) noexcept nogil:
    """A frame that a handler made. `how`: 0 the way of `p`, 1 where it came from, 2 and 3 out of the first or second interface."""
    cdef pkt_t at
    if p == NULL:
        memset(&at, 0, sizeof(at))
        at.linktype, at.ts = 1, k.now
    else:
        at = p[0]
    if how >= 2:
        at.iface = <uint16_t>(3 - how)      # as if it had come in on the other one
    k.n.injected += 1
    leave(k, &at, data, n, n, SEND_OURS | (SEND_BACK if how == 1 else SEND_ON))

cdef inline void leave_reset(Core k, const pkt_t *p, flow_t *f, int s, int way) noexcept nogil:
    """A RST to the receiver of `p` (way 0) or back to its sender, side `s` (way 1), if one can be made."""
    cdef uint32_t n = make_reset(k.out, p, f, s, way)
    cdef int how = SEND_OURS | (SEND_BACK if way or k.turn != NULL else SEND_ON)
    if n:
        k.n.injected += 1
        leave(k, p, k.out, n, n, SEND_OURS | (SEND_BACK if way else SEND_ON))
        leave_remember(k, p, f, s if way else 1 - s, n, how)

cdef inline void leave_remember(Core k, const pkt_t *p, flow_t *f, int to, uint32_t n, int how) noexcept nogil:
    """Inline a RST may be lost, and an end that has nothing to send would stay open: have it said again."""
    cdef trouble_t *t
    cdef resets_t *r
    if k.truth != TRUTH_INLINE or n > RST_SIZE:
        return
    if not f.end[0].packets or not f.end[1].packets:
        if k.now - k.unproven_from >= 1000000000:
            k.unproven_from, k.unproven = k.now, 0
        k.unproven += 1
        if k.unproven > UNPROVEN:
            return
    t = trouble_of(f)
    if t == NULL:
        return
    if t.resets == NULL:
        t.resets = calloc(1, sizeof(resets_t))
        if t.resets == NULL:
            return
    r = <resets_t *>t.resets
    memcpy(&r.frame[to][0], k.out, n)
    r.size[to], r.how[to], r.iface[to], r.linktype = <uint8_t>n, <uint8_t>how, <uint16_t>p.iface, <uint16_t>p.linktype
    r.step = 0
    if r.sent < AGAIN_MOST:
        wheel_arm(k.idle, table_slot(k.table, f), k.now + AGAIN_MS * <int64_t>1000000)

cdef inline bint leave_again(Core k, flow_t *f) noexcept nogil:
    """The RSTs of a reset flow once more, if they are due; False: they were said often enough."""
    cdef resets_t *r = <resets_t *>known_trouble(f).resets
    cdef pkt_t p
    cdef int to
    if r.step == AGAIN_STEPS or r.sent >= AGAIN_MOST:
        return False
    memset(&p, 0, sizeof(p))
    p.ts, p.linktype = k.now, r.linktype
    for to in range(2):
        if r.size[to]:
            p.frame, p.caplen, p.wirelen, p.iface = &r.frame[to][0], r.size[to], r.size[to], r.iface[to]
            k.n.injected += 1
            r.sent += 1
            leave(k, &p, p.frame, p.caplen, p.wirelen, r.how[to])
    r.step += 1
    wheel_arm(k.idle, table_slot(k.table, f), k.now + (AGAIN_MS * <int64_t>1000000 << r.step))
    return True

cdef inline void leave_resets(Core k, const pkt_t *p, flow_t *f, int s) noexcept nogil:
    """RESET: both ends are told. Later segments: their sender has missed our RST, or its challenge ACK asks for one.

    A RST is never answered. The flow is forgotten when nobody has spoken for RESETTING_S.
    """
    if not f.flags & FLOW_RESETTING:
        f.flags = <uint8_t>((f.flags | FLOW_RESETTING) & ~FLOW_RESET_DUE)
        wheel_arm(k.idle, table_slot(k.table, f), k.now + RESETTING_S * <int64_t>1000000000)
        leave_reset(k, p, f, s, 0)
    if not p.tcp_flags & TCP_RST:
        leave_reset(k, p, f, s, 1)

cdef inline void sentence(Core k, const pkt_t *p, flow_t *f, int s) noexcept nogil:
    """DROP_FLOW and RESET hold for the rest of the flow; answered after the commit, from its next packet on."""
    f.spare = <uint8_t>k.answer.position
    f.flags |= FLOW_DROPPED
    if k.answer.verdict == MOS_RESET and p.proto == IPPROTO_TCP:
        leave_resets(k, p, f, s)
