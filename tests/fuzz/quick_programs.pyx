# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Any program of the filter machine that verifies, on any event: it ends, reads no byte of event, flow, packet, record or pool
that is not there, and with accept and reject exchanged it answers the opposite."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from mos.events.filtervm cimport (CMP_COUNT, OP_COUNT, OP_FIELD, OP_NET, OP_RANGES, OP_SAME, SRC_RECORD, T_F64, T_I64, T_IP, T_U8, T_U16,
                                  T_U32, filter_run, insn_t, program_t)
from mos.events.ring cimport event_t
from mos.flow.flow cimport alias_t, flow_alone, flow_alone_free, flow_cold, flow_t, more_t
from mos.net.packet cimport pkt_t
from quick cimport exact, held, input_t, must, piece, take

from mos.events.filtervm import FIELD_SOURCES

cdef enum:
    LONGEST = 20
    RECORD = 40             # bytes of a user-defined event
    WORDS = 12              # of the pool

cdef struct field_t:
    uint8_t  src
    uint8_t  type
    uint16_t offset

NUMBERS = sorted({s[:3] for s in FIELD_SOURCES.values() if s.type != T_IP})
ADDRESSES = sorted({s[:3] for s in FIELD_SOURCES.values() if s.type == T_IP})
cdef field_t[64] numbers
cdef field_t[64] addresses
cdef int nnumbers = len(NUMBERS), naddresses = len(ADDRESSES)
for _i, _source in enumerate(NUMBERS):
    numbers[_i].src, numbers[_i].type, numbers[_i].offset = _source
for _i, _source in enumerate(ADDRESSES):
    addresses[_i].src, addresses[_i].type, addresses[_i].offset = _source
cdef uint8_t[6] RECORD_TYPES = [T_U8, T_U16, T_U32, T_I64, T_F64, T_IP]
cdef uint8_t[6] WIDTHS = [1, 2, 4, 8, 8, 17]


cdef field_t field(input_t *r, bint address) noexcept nogil:
    cdef uint32_t which = take(r, 1), at
    cdef int i
    cdef field_t f
    if which & 0xc0 == 0xc0:
        i = 5 if address else which % 5
        at = take(r, 1) % (RECORD - WIDTHS[i] + 1)
        f.src, f.type, f.offset = SRC_RECORD, RECORD_TYPES[i], <uint16_t>at
        return f
    return addresses[which % naddresses] if address else numbers[which % nnumbers]


cdef void fill(insn_t *i, input_t *r, uint32_t pc, uint32_t n) noexcept nogil:
    """An instruction that verifies at `pc` of `n`."""
    cdef uint32_t how = take(r, 1), to = take(r, 1)
    cdef field_t f
    memset(i, 0, sizeof(insn_t))
    i.op, i.invert, i.arg = <uint8_t>((how & 15) % OP_COUNT), <uint8_t>(how >> 4 & 1), <uint8_t>((how >> 5) % CMP_COUNT)
    f = field(r, i.op >= OP_NET)
    i.src, i.type, i.offset = f.src, f.type, f.offset
    if i.op == OP_FIELD or i.op == OP_SAME:
        f = field(r, i.op >= OP_NET)
        i.src2, i.type2, i.offset2 = f.src, f.type, f.offset
    elif i.op == OP_RANGES:
        i.a = take(r, 1) % (WORDS + 1)
        i.b = take(r, 1) % ((WORDS - i.a) // 2 + 1)
    elif i.op == OP_NET:
        i.arg = 6 if how & 0x80 else 4
        i.c, i.d = <uint64_t>take(r, 1) * <uint64_t>0x0101010101010101, 0
        i.a = <uint64_t>take(r, 1) * <uint64_t>0x0101010101010101 & i.c
    else:
        i.a, i.b = <uint64_t>take(r, 2), <uint64_t>take(r, 1)
        if how & 0x80:
            i.a = 0 - i.a
    i.jt = <uint16_t>(pc + 1 + (to & 15) % (n + 1 - pc))
    i.jf = <uint16_t>(pc + 1 + (to >> 4) % (n + 1 - pc))


cdef void build(program_t *f, input_t *r) noexcept nogil:
    cdef uint32_t i, n = take(r, 1) % (LONGEST + 1)
    cdef int64_t word = -1000
    f.n, f.entry = n, 0 if n else take(r, 1) & 1
    f.insn = <insn_t *>malloc(n * sizeof(insn_t))
    f.pool = <int64_t *>malloc(WORDS * sizeof(int64_t))
    for i in range(WORDS):
        word += 1 + <int64_t>(take(r, 1) << (i & 7))
        f.pool[i] = word
    for i in range(n):
        fill(&f.insn[i], r, i, n)


cdef bint mirrored(const program_t *f, const event_t *e) noexcept nogil:
    """The answer with accept and reject exchanged."""
    cdef program_t g
    cdef uint32_t i
    cdef bint answer
    g = f[0]
    g.entry = f.entry if f.n else not f.entry
    g.insn = <insn_t *>exact(<const uint8_t *>f.insn, f.n * sizeof(insn_t))
    for i in range(f.n):
        if g.insn[i].jt >= f.n:
            g.insn[i].jt = <uint16_t>(2 * f.n + 1 - g.insn[i].jt)
        if g.insn[i].jf >= f.n:
            g.insn[i].jf = <uint16_t>(2 * f.n + 1 - g.insn[i].jf)
    answer = filter_run(&g, e)
    free(g.insn)
    return answer


cdef void *filled(input_t *r, size_t size) noexcept nogil:
    """A struct of bytes out of the input, repeated."""
    cdef uint8_t *p = <uint8_t *>malloc(size)
    cdef size_t n = min(r.left, <size_t>24), at = 0, k
    memset(p, 0, size)
    while n and at < size:
        k = min(n, size - at)
        memcpy(p + at, r.p, k)
        at += k
    r.p += n
    r.left -= n
    return p


cdef flow_t *make_flow(input_t *r, more_t *more, alias_t *aliases) noexcept nogil:
    cdef flow_t *f = flow_alone()
    cdef flow_t *some = <flow_t *>filled(r, sizeof(flow_t))
    cdef uint32_t n = take(r, 1), i
    f[0] = some[0]
    flow_cold(f).id = some.hist
    free(some)
    f.client_hi &= 1
    f.more = more
    more.alias = NULL
    for i in range(n & 3):
        aliases[i].key = f.key
        aliases[i].key.lo_port ^= <uint16_t>n
        aliases[i].position, aliases[i].client_hi = <uint16_t>(i + (n >> 6)), <uint8_t>(n >> 5 & 1)
        aliases[i].next = <alias_t *>more.alias
        more.alias = &aliases[i]
    return f


cdef pkt_t *make_packet(input_t *r, uint8_t *frame, uint32_t caplen, const flow_t *f) noexcept nogil:
    """A packet with an IP header somewhere in its frame, or none; perhaps of this flow."""
    cdef pkt_t *p = <pkt_t *>filled(r, sizeof(pkt_t))
    cdef uint32_t at = take(r, 1)
    p.status &= 3
    p.from_hi &= 1
    p.frame, p.caplen = frame, caplen
    p.ip = NULL if at & 0x80 else frame + min(at & 0x3f, caplen)
    if f != NULL and at & 0x40:
        p.key = f.key
    return p


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef input_t r
    cdef program_t f
    cdef alias_t[3] aliases
    cdef more_t more
    cdef event_t *e
    cdef flow_t *flow = NULL
    cdef pkt_t *packet = NULL
    cdef uint8_t *frame = NULL
    cdef uint8_t *record = NULL
    cdef uint32_t how
    cdef size_t n
    cdef bint answer
    r.p, r.left = data, size
    how = take(&r, 1)
    build(&f, &r)
    memset(aliases, 0, sizeof(aliases))
    e = <event_t *>filled(&r, sizeof(event_t))
    if how & 1:
        flow = make_flow(&r, &more, aliases)
    if how & 2:
        n = how >> 3
        frame = piece(&r, &n)
        packet = make_packet(&r, frame, <uint32_t>n, flow)
    record = <uint8_t *>filled(&r, RECORD)
    e.flow, e.pkt, e.obj, e.data, e.old_data = flow, packet, record if how & 4 else NULL, NULL, NULL
    answer = filter_run(&f, e)
    must(answer == 0 or answer == 1, "an answer is yes or no")
    must(mirrored(&f, e) == (not answer), "the mirrored program answers the opposite")
    free(e)
    flow_alone_free(flow)
    free(packet)
    free(frame)
    free(record)
    free(f.insn)
    free(f.pool)
    return 0


def program(bytes data not None):
    """Instructions, pool, entry and size of the record that an input stands for, as mos.events.filtervm.verify takes them."""
    from mos.events.filtervm import Insn
    cdef input_t r
    cdef program_t f
    cdef insn_t i
    r.p, r.left = <const uint8_t *><const char *>data, len(data)
    take(&r, 1)
    build(&f, &r)
    found = []
    for i in f.insn[:f.n]:
        found.append(Insn(i.op, i.src, i.type, i.invert, i.arg, i.src2, i.type2, i.offset, i.offset2, i.jt, i.jf, i.a, i.b, i.c, i.d))
    pool = [word for word in f.pool[:WORDS]]
    entry = f.entry
    free(f.insn)
    free(f.pool)
    return found, pool, entry, RECORD


def replay(bytes data not None):
    """What of the first lines does not hold for this input, or None."""
    return held(one_input, data)


assert nnumbers <= 64 and naddresses <= 64 and RECORD >= 17
