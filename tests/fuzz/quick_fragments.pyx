# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Fragments of a few datagrams in any order and any overlap: what is stored and what is reassembled are the bytes that the
policy says, sorted and disjoint; datagrams and memory stay within their bounds, and the sums of memory are true.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memset
from mos.net.checksum cimport csum_fold, csum_range
from mos.net.frag cimport (FRAG_COMPLETE, FRAG_LAST, FRAG_WAITING, datagram_t, frag_add, frag_clear,
                           frag_release, fragment_t, frags_t, piece_t)
from quick cimport exact, held, input_t, must, take

cdef enum:
    SIZE = 512              # of a datagram: short, so that an input takes microseconds
    IDENTS = 4
    MOST = 40               # fragments of an input

cdef uint8_t[SIZE] original
for _i in range(SIZE):
    original[_i] = _i * 7 & 255 ^ _i >> 8
cdef uint8_t[16] SRC = [10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
cdef uint8_t[16] DST = [10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]
cdef uint8_t[40] HEADER4 = [0x45, 0, 0, 0, 0, 7, 0x20, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2] + [0] * 20
cdef uint8_t[40] HEADER6 = [0x60, 0, 0, 0, 0, 0, 44, 64] + [0] * 32

cdef struct model_t:        # of one datagram: its bytes as the policy has them
    uint32_t n
    uint8_t here[SIZE]
    uint8_t byte[SIZE]

cdef model_t[IDENTS] models


cdef void forget(model_t *m) noexcept nogil:
    if m.n:
        memset(m.here, 0, SIZE)
    m.n = 0


cdef void lay(model_t *m, const fragment_t *x, bint replace) noexcept nogil:
    cdef uint8_t *here = m.here + x.offset
    cdef uint8_t *byte = m.byte + x.offset
    cdef uint32_t i
    for i in range(x.length):
        if not here[i] or replace:
            m.n += not here[i]
            here[i], byte[i] = 1, x.data[i]


cdef datagram_t *find(const frags_t *f, uint32_t id, bint six) noexcept nogil:
    cdef datagram_t *d = f.oldest[six]
    while d != NULL and d.key.id != id:
        d = d.newer
    return d


cdef void datagram_is_sound(const frags_t *f, const datagram_t *d) noexcept nogil:
    cdef const piece_t *p = d.pieces
    cdef const piece_t *last = NULL
    cdef uint32_t n = 0, have = 0, cost = sizeof(datagram_t), at = 0
    while p != NULL:
        must(p.start >= at and p.end > p.start, "pieces are sorted and disjoint")
        at = p.end
        have += p.end - p.start
        cost += sizeof(piece_t) + p.end - p.start
        n += 1
        last, p = p, p.next
    if d.header != NULL:
        cost += d.header_len
    must(cost == d.cost, "a datagram's cost is what it holds")
    must(last == d.tail, "the tail is the last piece")
    if d.dead:
        must(n == 0 and d.header == NULL, "of a refused datagram the name is left")
    else:
        must(have == d.have and n == d.npieces, "bytes and pieces are counted")
        must(not d.end or at <= d.end, "nothing lies behind the end")


cdef void all_is_sound(const frags_t *f) noexcept nogil:
    cdef uint32_t n = 0, bytes = 0
    cdef int v
    cdef const datagram_t *d
    for v in range(2):
        d = f.oldest[v]
        while d != NULL:
            datagram_is_sound(f, d)
            must(d.newer == NULL or d.newer.born >= d.born, "oldest first")
            n += 1
            bytes += d.cost
            d = d.newer
    must(n == f.n and bytes == f.bytes, "datagrams and their bytes are counted")
    must(n <= f.max_datagrams and bytes <= f.max_bytes, "all fragments are within their bounds")


cdef bint starts_anew(const datagram_t *d, const fragment_t *x) noexcept nogil:
    """Only x is there: an older datagram of this name was dropped before."""
    return d.npieces == 1 and d.pieces.start == x.offset and d.have == x.length and memcmp(d.pieces + 1, x.data, x.length) == 0


cdef void waits(const frags_t *f, model_t *m, const fragment_t *x) noexcept nogil:
    cdef const datagram_t *d = find(f, x.id, x.ipver == 6)
    cdef const piece_t *p
    cdef bint same
    if not must(d != NULL and not d.dead, "what waits is kept"):
        return
    same = d.have == m.n
    p = d.pieces
    while p != NULL:
        same = same and memcmp(p + 1, m.byte + p.start, p.end - p.start) == 0
        p = p.next
    if same:
        return
    must(starts_anew(d, x), "what is stored is what the policy says")
    forget(m)
    lay(m, x, True)


cdef void complete(const model_t *m, const fragment_t *x, const uint8_t *whole, uint32_t n) noexcept nogil:
    cdef uint32_t head = x.header_len
    cdef uint16_t field
    if not must(n > head and n - head == m.n, "a datagram is complete when all its bytes are there"):
        return
    must(memcmp(whole + head, m.byte, n - head) == 0, "what is reassembled is what the policy says")
    field = <uint16_t>(whole[2 if head == 20 else 4] << 8 | whole[3 if head == 20 else 5])
    must(field == (n if head == 20 else n - 40), "its header has its length")
    must(head == 40 or (csum_fold(csum_range(whole, 20)) == 0xffff and whole[6] == 0 and whole[7] == 0), "and is no fragment's")
    must(whole[9 if head == 20 else 6] == 17, "and says what it holds")


cdef void step(frags_t *f, fragment_t *x) noexcept nogil:
    cdef model_t *m = &models[x.id]
    cdef const uint8_t *whole = NULL
    cdef uint32_t n = 0
    cdef int how
    how = frag_add(f, x, &whole, &n)
    if how < 0:
        forget(m)
    else:
        lay(m, x, f.policy == FRAG_LAST and x.ipver == 4)
        if how == FRAG_COMPLETE:
            complete(m, x, whole, n)
            forget(m)
        else:
            must(how == FRAG_WAITING, "a fragment completes, waits, or is refused")
            waits(f, m, x)
    all_is_sound(f)
    frag_release(f)


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef input_t r
    cdef frags_t f
    cdef fragment_t x
    cdef uint8_t *copy
    cdef uint8_t *header
    cdef uint32_t how, at, length, flags, n = 0, i
    r.p, r.left = data, size
    how = take(&r, 1)
    memset(&f, 0, sizeof(f))
    memset(&x, 0, sizeof(x))
    f.policy = (how >> 1 & 1) or (how >> 2 & 2)
    f.max_datagrams, f.max_fragments, f.max_bytes = 1 + (how >> 4 & 3), 12, 1500
    x.ipver, x.header_len, x.next_at, x.proto = 6 if how & 1 else 4, 40 if how & 1 else 20, 6, 17
    header = exact(&HEADER6[0] if how & 1 else &HEADER4[0], x.header_len)
    x.src, x.dst, x.header = SRC, DST, header
    while r.left and n < MOST:
        n += 1
        x.id, at, length, flags = take(&r, 1) & 3, (take(&r, 1) & 63) * 8, take(&r, 1), take(&r, 1)
        length = min(8 * (length & 15) + (0 if flags & 1 else length >> 5), <uint32_t>SIZE - at)
        x.more = flags & 1 if flags & 8 else at + length < SIZE
        if length == 0 or (x.more and length & 7) or (at == 0 and not x.more):      # the header's parser passes none
            continue
        copy = exact(original + at, length)
        if flags & 0x30 == 0x10:
            for i in range(length):
                copy[i] ^= <uint8_t>flags
        x.data, x.offset, x.length = copy, at, length
        x.ts = <int64_t>1_000_000_000 * (1_000_000_000 + (flags >> 6) * 10 * n)
        step(&f, &x)
        free(copy)
    frag_clear(&f)
    must(f.n == 0 and f.bytes == 0, "all memory is given back")
    free(header)
    for i in range(IDENTS):
        forget(&models[i])
    return 0


def replay(bytes data not None):
    """What of the first lines does not hold for this input, or None."""
    return held(one_input, data)
