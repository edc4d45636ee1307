# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Classic BPF: libpcap's filters, compiled by it, verified and run by us on frames of any source."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    BPF_MAXINSNS = 4096     # the kernel's bound: what runs here could be attached to a socket too
    MAX_LINKTYPES = 16      # of one filter; a pcapng file rarely mixes more than two

cdef struct bpf_insn_t:     # struct bpf_insn
    uint16_t code
    uint8_t  jt
    uint8_t  jf
    uint32_t k

cdef struct bpf_t:
    int linktype
    uint32_t n
    bpf_insn_t *insn

cdef uint32_t bpf_run(const bpf_t *b, const uint8_t *p, uint32_t caplen, uint32_t wirelen) noexcept nogil

cdef class PacketFilter:
    cdef readonly str expr
    cdef object pcapy           # the module
    cdef int count
    cdef bpf_t[MAX_LINKTYPES] programs
    cdef bpf_t *find(self, int linktype) noexcept nogil
    cdef bpf_t *program(self, int linktype) except NULL
