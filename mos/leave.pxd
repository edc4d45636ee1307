# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What leaves: the packet in hand, as it came or changed, and frames of our own. There is no other way out."""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from mos.core cimport RESETTING_S, Core
from mos.events.bus cimport MOS_RESET
from mos.flow.flow cimport FLOW_DROPPED, FLOW_RESET_DUE, FLOW_RESETTING, flow_t
from mos.flow.rewrite cimport make_reset
from mos.flow.wheel cimport wheel_arm
from mos.io.port cimport SEND_BACK, SEND_ON, SEND_OURS
from mos.net.packet cimport IPPROTO_TCP, TCP_RST, pkt_t

cdef inline void leave(Core k, const pkt_t *p, const uint8_t *data, uint32_t n, uint32_t wirelen, int how) noexcept nogil:
    """Send `n` bytes with the time and interface of `p`, the packet in hand. `how`: SEND_*."""
    k.n.packets_out += 1
    if k.writer is not None:
        k.writer.write(p, data, n, wirelen)
    if k.port is not None:
        k.port.send(p, data, n, how)

cdef inline void leave_reset(Core k, const pkt_t *p, const flow_t *f, int s, int way) noexcept nogil:
    """A RST to the receiver of `p` (way 0) or back to its sender, side `s` (way 1), if one can be made."""
    cdef uint32_t n = make_reset(k.out, p, f, s, way)
    if n:
        k.n.injected += 1
        leave(k, p, k.out, n, n, SEND_OURS | (SEND_BACK if way else SEND_ON))

cdef inline void leave_resets(Core k, const pkt_t *p, flow_t *f, int s) noexcept nogil:
    """RESET: both ends are told. Later segments: their sender has missed our RST, or its challenge ACK asks for one.

    A RST is never answered. The flow is forgotten when nobody has spoken for RESETTING_S.
    """
    if not f.flags & FLOW_RESETTING:
        f.flags = <uint8_t>((f.flags | FLOW_RESETTING) & ~FLOW_RESET_DUE)
        wheel_arm(k.idle, &f.timer, k.now + RESETTING_S * <int64_t>1000000000)
        leave_reset(k, p, f, s, 0)
    if not p.tcp_flags & TCP_RST:
        leave_reset(k, p, f, s, 1)

cdef inline void sentence(Core k, const pkt_t *p, flow_t *f, int s) noexcept nogil:
    """DROP_FLOW and RESET hold for the rest of the flow; answered after the commit, from its next packet on."""
    f.spare = <uint8_t>k.answer.position
    f.flags |= FLOW_DROPPED
    if k.answer.verdict == MOS_RESET and p.proto == IPPROTO_TCP:
        leave_resets(k, p, f, s)
