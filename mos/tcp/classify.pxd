# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Would the receiving host take this segment? Reads the flow, changes nothing."""
from libc.stdint cimport uint8_t, uint32_t
from mos.flow.flow cimport flow_t, end_t
from mos.net.packet cimport pkt_t

cdef enum:              # whose truth the flow's state is
    TRUTH_TAP = 0       # segments may be lost before or after us: ACKs and SACKs are evidence
    TRUTH_INLINE = 1    # we decide what passes: the checks are authority

cdef enum:              # judged_t.what
    SEG_TAKEN = 0       # acceptable: track it
    SEG_REFUSED = 1     # an end host would refuse it: changes nothing, `cause` tells the check
    SEG_REOPENS = 2     # a SYN of the next connection with the same ends
    SEG_DUPLICATE_SYN = 3   # a SYN or SYN-ACK sent again
    SEG_ANSWERS_OTHER = 4   # a SYN-ACK that answers the refused SYN remembered in `trouble`: that connection is real

cdef struct judged_t:
    uint8_t what        # SEG_*
    uint8_t cause       # REFUSED_* with SEG_REFUSED
    uint8_t park        # its bytes may still prove to be taken: keep them as doubtful
    uint8_t in_doubt    # a RST in the window but not exact: silence will tell

cdef judged_t classify(const flow_t *f, const pkt_t *p, int s, int truth) noexcept nogil

cdef inline uint32_t rcv_nxt(const end_t *sender) noexcept nogil:
    """RCV.NXT of the peer of `sender`: the next sequence number it expects, the FIN counted once it was reached."""
    return sender.nxt + (1 if sender.flags & 8 else 0)   # END_FIN_DONE
