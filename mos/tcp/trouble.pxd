# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What only troubled flows need: rare counters, and evidence that is not settled yet. Made on first need, one per flow."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from mos.flow.flow cimport flow_more, flow_t, more_t

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **p, size_t alignment, size_t size)

cdef enum:                  # trouble_t.claims: an ACK of what was never seen to be sent
    CLAIM_MADE = 1          # believed if it is repeated, or once the peer has sent so much
    CLAIM_QUESTIONED = 2    # the peer has sent something below it since: only the latter

cdef struct side_trouble_t:     # about what this end sent; first what each segment sent again or out of order counts
    uint64_t rexmit_bytes       # bytes below SND.NXT when they were sent
    uint32_t rexmit_packets
    uint32_t out_of_order
    uint32_t dup_run            # duplicate ACKs in a row
    uint32_t dup_acks
    uint64_t conflict_bytes     # bytes that differed from the copy retained, while OverlapConflict had a handler
    uint64_t gap_bytes          # bytes given up
    uint32_t zero_windows
    uint32_t refused            # segments its peer would refuse
    uint32_t claim              # an ACK beyond what was seen, waiting to be confirmed
    uint32_t claim_wnd          # the window it offers from there; 0 unless it stood where its sender's next segment must
    uint32_t rst_seq            # where its RST in doubt stood
    uint32_t[2] rst_max         # SND.NXT of client and server when it was sent
    uint32_t beyond             # end of what it sent beyond the window its peer was seen to offer
    uint32_t fin_seq            # where the FIN of a refused segment stood
    uint8_t  beyond_told        # 1: `beyond` is set
    uint8_t  fin_told           # 1: `fin_seq` is set

cdef struct trouble_t:          # begins a cache line: each further packet of such a flow asks for the first
    uint8_t  rst_side           # who sent a RST in doubt, plus 1; 0: none
    uint8_t  syn_side           # who sent a refused SYN, plus 1; 0: none
    uint8_t  alive              # bit per end that spoke on after a RST that looked exact
    uint8_t[2] rst_told         # by end, 1: its `rst_seq` is set
    uint8_t[2] claims           # by end, CLAIM_*, 0: its `claim` is not set
    side_trouble_t[2] side
    void    *timers             # user timers of this flow (core.user_timer_t)
    void    *resets             # RSTs to be said again (leave.resets_t)
    void    *early              # segments that wait to hear where their stream begins (early.early_t)
    uint32_t early_bytes
    uint32_t ntimers
    int64_t  rst_ns             # the RST in doubt: when
    int64_t  syn_ns             # the refused SYN: when
    uint32_t syn_seq

cdef inline trouble_t *trouble_of(flow_t *f) noexcept nogil:
    """The flow's record, made if there is none; NULL when memory ran out (its counters are then not kept)."""
    cdef more_t *m = flow_more(f)
    cdef void *t = NULL
    if m != NULL and m.trouble == NULL and posix_memalign(&t, 64, sizeof(trouble_t)) == 0:
        memset(t, 0, sizeof(trouble_t))
        m.trouble = t
    return <trouble_t *>m.trouble if m != NULL else NULL

cdef inline trouble_t *known_trouble(const flow_t *f) noexcept nogil:
    """The flow's record; NULL: it has none."""
    return <trouble_t *>f.more.trouble if f.more != NULL else NULL
