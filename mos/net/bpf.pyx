"""Packet filters in libpcap's language (pcap-filter(7)), compiled by it for each link type a capture has.

The machine is that of McCanne and Jacobson, "The BSD Packet Filter" (1993), with libpcap's MOD and XOR.
"""
import struct

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from mos.errors import FilterError, UsageError

cdef enum:              # instruction classes, sizes, modes, operations of bpf_insn_t.code
    LD = 0x00
    LDX = 0x01
    ST = 0x02
    STX = 0x03
    ALU = 0x04
    JMP = 0x05
    RET = 0x06
    MISC = 0x07
    W = 0x00
    H = 0x08
    B = 0x10
    IMM = 0x00
    ABS = 0x20
    IND = 0x40
    MEM = 0x60
    LEN = 0x80
    MSH = 0xa0
    ADD = 0x00
    SUB = 0x10
    MUL = 0x20
    DIV = 0x30
    OR = 0x40
    AND = 0x50
    LSH = 0x60
    RSH = 0x70
    NEG = 0x80
    MOD = 0x90
    XOR = 0xa0
    JA = 0x00
    JEQ = 0x10
    JGT = 0x20
    JGE = 0x30
    JSET = 0x40
    K = 0x00
    X = 0x08
    A = 0x10
    TAX = 0x00
    TXA = 0x80
    MEMWORDS = 16

MAX_INSNS = BPF_MAXINSNS
SNAPLEN = 262144            # what a filter returns for a match: more than any frame has

NEGATIVE = "loads from a negative offset, which only a kernel understands: count from the start of a header"
BACKWARD = "needs a loop, which no packet may cause: write `ip6 proto` for `ip6 protochain`"


cdef inline bint fetch(const uint8_t *p, uint32_t caplen, uint64_t at, uint16_t size, uint32_t *out) noexcept nogil:
    """Big-endian W, H or B at offset `at`; false beyond the capture."""
    if size == W:
        if at + 4 > caplen:
            return False
        out[0] = <uint32_t>p[at] << 24 | <uint32_t>p[at + 1] << 16 | <uint32_t>p[at + 2] << 8 | p[at + 3]
    elif size == H:
        if at + 2 > caplen:
            return False
        out[0] = <uint32_t>p[at] << 8 | p[at + 1]
    else:
        if at + 1 > caplen:
            return False
        out[0] = p[at]
    return True


cdef inline bint compute(uint16_t op, uint32_t *acc, uint32_t v) noexcept nogil:
    """One ALU operation; false: division by zero, which rejects the packet."""
    if op == ADD:
        acc[0] += v
    elif op == SUB:
        acc[0] -= v
    elif op == MUL:
        acc[0] *= v
    elif op == OR:
        acc[0] |= v
    elif op == AND:
        acc[0] &= v
    elif op == XOR:
        acc[0] ^= v
    elif op == LSH:
        acc[0] = acc[0] << v if v < 32 else 0
    elif op == RSH:
        acc[0] = acc[0] >> v if v < 32 else 0
    elif op == NEG:
        acc[0] = 0 - acc[0]
    elif v == 0:
        return False
    elif op == DIV:
        acc[0] //= v
    else:
        acc[0] %= v
    return True


cdef inline bint holds(uint16_t op, uint32_t acc, uint32_t v) noexcept nogil:
    if op == JEQ:
        return acc == v
    if op == JGT:
        return acc > v
    if op == JGE:
        return acc >= v
    return acc & v != 0


cdef uint32_t bpf_run(const bpf_t *b, const uint8_t *p, uint32_t caplen, uint32_t wirelen) noexcept nogil:
    """0: rejected. `b` is verified: it ends, and touches nothing but `p`[0:caplen] and its own scratch words."""
    cdef uint32_t acc = 0, x = 0, v = 0
    cdef uint32_t[MEMWORDS] mem
    cdef uint32_t pc = 0
    cdef const bpf_insn_t *i
    cdef uint16_t group, mode
    for pc in range(MEMWORDS):
        mem[pc] = 0
    pc = 0
    while True:
        i = b.insn + pc
        pc += 1
        group = i.code & 7
        mode = i.code & 0xe0
        if group == JMP:
            if i.code & 0xf0 == JA:
                pc += i.k
            else:
                pc += i.jt if holds(i.code & 0xf0, acc, x if i.code & X else i.k) else i.jf
        elif group == LD or group == LDX:
            if mode == ABS or mode == IND:
                if not fetch(p, caplen, <uint64_t>i.k + (x if mode == IND else 0), i.code & 0x18, &v):
                    return 0
            elif mode == MSH:
                if not fetch(p, caplen, i.k, B, &v):
                    return 0
                v = (v & 15) << 2
            else:
                v = mem[i.k] if mode == MEM else wirelen if mode == LEN else i.k
            if group == LD:
                acc = v
            else:
                x = v
        elif group == ALU:
            if not compute(i.code & 0xf0, &acc, x if i.code & X else i.k):
                return 0
        elif group == RET:
            return acc if i.code & 0x18 == A else i.k
        elif group == ST:
            mem[i.k] = acc
        elif group == STX:
            mem[i.k] = x
        elif i.code & 0xf8 == TXA:
            acc = x
        else:
            x = acc


_LOADS = frozenset([LD | size | mode for size in (W, H, B) for mode in (ABS, IND)]
                   + [LD | IMM, LD | MEM, LD | LEN, LDX | IMM, LDX | MEM, LDX | LEN, LDX | MSH | B])
_ALU = frozenset([ALU | op | src for op in range(ADD, XOR + 1, 0x10) for src in (K, X)])
_JUMPS = frozenset([JMP | JA] + [JMP | op | src for op in (JEQ, JGT, JGE, JSET) for src in (K, X)])
_OTHERS = frozenset([RET | K, RET | A, ST, STX, MISC | TAX, MISC | TXA])


def verify(program):
    """Raise FilterError, saying what is wrong, unless `program`, a list of (code, jt, jf, k), is safe to run."""
    n = len(program)
    if not 0 < n <= BPF_MAXINSNS:
        raise FilterError(f"has {n} instructions, at most {BPF_MAXINSNS}: split it, or use a Table")
    for at, (code, jt, jf, k) in enumerate(program):
        if not (code in _LOADS or code in _ALU or code in _JUMPS or code in _OTHERS):
            raise FilterError(f"has an unknown opcode {code:#x} at {at}")
        if code in _LOADS and code & 0xe0 in (ABS, IND, MSH) and k >> 31:
            raise FilterError(NEGATIVE)
        if (code & 0xe7 in (LD | MEM, LDX | MEM) or code in (ST, STX)) and k >= MEMWORDS:
            raise FilterError(f"uses scratch word {k} at {at}: there are {MEMWORDS}")
        if code in (ALU | DIV | K, ALU | MOD | K) and k == 0:
            raise FilterError(f"divides by zero at {at}")
        if code == JMP | JA and k >> 31:
            raise FilterError(BACKWARD)
        steps = (k,) if code == JMP | JA else (jt, jf) if code in _JUMPS else () if code & 7 == RET else (0,)
        if any(at + 1 + step >= n for step in steps):
            raise FilterError(f"runs past its end at {at}")


cdef int store(bpf_t *b, list code) except -1:
    """A verified program in `b`, whose `insn` the caller frees with PyMem_Free."""
    cdef int n
    b.n = len(code)
    b.insn = <bpf_insn_t *>PyMem_Calloc(b.n, sizeof(bpf_insn_t))
    if b.insn == NULL:
        raise MemoryError
    for n in range(len(code)):
        b.insn[n].code, b.insn[n].jt, b.insn[n].jf, b.insn[n].k = code[n]
    return 0


def run_code(list code, const uint8_t[::1] frame not None, uint32_t wirelen):
    """What a program, a list of (code, jt, jf, k), returns for a frame: 0 rejects. Raises FilterError unless it verifies."""
    cdef bpf_t b
    verify(code)
    store(&b, code)
    try:
        return bpf_run(&b, &frame[0] if frame.shape[0] else NULL, frame.shape[0], wirelen)
    finally:
        PyMem_Free(b.insn)


cdef class PacketFilter:
    """A libpcap expression, such as `tcp port 80 and not net 10.0.0.0/8`, over frames of any link type.

    It is compiled when the first frame of a link type comes (or by `check`): what an expression means, and whether it means
    anything, hangs on that. Raises UsageError here without pcapy-ng.
    """

    def __cinit__(self, str expr not None):
        try:
            import pcapy
        except ImportError as error:
            raise UsageError("packet filters in libpcap's language need pcapy-ng: pip install pcapy-ng") from error
        self.expr, self.pcapy, self.count = expr, pcapy, 0

    def __dealloc__(self):
        for n in range(self.count):
            PyMem_Free(self.programs[n].insn)

    def __repr__(self):
        return f"<PacketFilter {self.expr!r}>"

    cdef bpf_t *find(self, int linktype) noexcept nogil:
        """The program for a LINKTYPE_*, NULL if it is not compiled yet."""
        cdef int n
        for n in range(self.count):
            if self.programs[n].linktype == linktype:
                return &self.programs[n]
        return NULL

    cdef bpf_t *program(self, int linktype) except NULL:
        """The same, compiled if need be. Raises FilterError: one line with libpcap's message."""
        cdef bpf_t *b = self.find(linktype)
        if b != NULL:
            return b
        if self.count == MAX_LINKTYPES:
            raise FilterError(f"{self!r}: more than {MAX_LINKTYPES} link types: filter the capture in parts")
        code = self.compiled(linktype)
        b = &self.programs[self.count]
        store(b, code)
        b.linktype = linktype
        self.count += 1
        return b

    def compiled(self, int linktype):
        """The verified program for a LINKTYPE_* as a list of (code, jt, jf, k). Raises FilterError."""
        what = f"packet filter {self.expr!r} on link type {linktype}"
        if "\0" in self.expr:
            raise FilterError(f"{what}: it holds a NUL character: remove it")
        try:
            code = self.pcapy.compile(self.dlt(linktype), SNAPLEN, self.expr, 1, 0).get_bpf()
            verify(code)
        except self.pcapy.PcapError as error:
            raise FilterError(f"{what}: {hint(str(error))}") from None
        except FilterError as error:
            raise FilterError(f"{what}: it {error}") from None
        return code

    def dlt(self, int linktype):
        """libpcap's DLT_* for a LINKTYPE_* (pcap-linktype(7)). Raises PcapError if the expression does not compile for it.

        Tried on an empty capture first, because pcapy-ng 2.1's compile() reads libpcap's message after freeing it.
        """
        if not 0 <= linktype < 2**16:
            raise FilterError("cannot be compiled: link types are 0 to 65535")
        from tempfile import NamedTemporaryFile     # slow to import, needed at build only
        with NamedTemporaryFile(suffix=".pcap") as file:
            file.write(struct.pack("=IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, SNAPLEN, linktype))
            file.flush()
            reader = self.pcapy.open_offline(file.name)
            reader.setfilter(self.expr)
            return reader.datalink()

    def check(self, int linktype=1):
        """Compile now for a LINKTYPE_* (1: Ethernet). Raises FilterError."""
        self.program(linktype)

    def matches(self, const uint8_t[::1] frame not None, int linktype=1, wirelen=None):
        """Whether a frame passes. `wirelen`: bytes it had on the wire, if more than are here. Raises FilterError."""
        cdef uint32_t caplen = frame.shape[0]
        return bpf_run(self.program(linktype), &frame[0] if caplen else NULL, caplen,
                       caplen if wirelen is None else wirelen) != 0


def hint(message):
    """libpcap's message with what to do about it, on one line."""
    message = " ".join(message.split())
    for part, advice in (("data link type", "libpcap cannot filter such frames: leave the packet filter out"),
                         ("link-layer type filtering not implemented", "only offsets such as `link[0] == 1` work here"),
                         ("syntax error", "see pcap-filter(7); fields of events go into where="),
                         ("inbound/outbound", "a frame does not say: filter on to_server, src or the port"),
                         ("unknown host", "the name does not resolve: give the address")):
        if part in message:
            return f"{message}: {advice}"
    return f"{message}: see pcap-filter(7)"
