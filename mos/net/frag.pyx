"""Reassembly of fragments: a keyed hash of datagrams, each a sorted list of the pieces that are there.

Memory follows what arrived, never what a header claims. When a bound is reached the oldest datagram makes room: real
ones complete within milliseconds, so under a flood of halves they outlive what refusing newcomers would leave.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from mos.net.bytes cimport put16
from mos.net.checksum cimport csum_fold, csum_range
from mos.net.siphash cimport siphash13
from mos.net.walk cimport BAD_FRAGMENT_CAP, BAD_FRAGMENT_LENGTH, BAD_FRAGMENT_OVERLAP, BAD_FRAGMENT_TIMEOUT

cdef enum:
    DISJOINT = 0
    DUPLICATE = 1
    OVERLAP = 2
    LONGEST = 65535     # what a length field can say

cdef int64_t[2] MAX_AGE = [30_000_000_000, 60_000_000_000]     # Linux's for IPv4 (RFC 791 leaves it open); RFC 8200 4.5


cdef void link_newest(frags_t *f, datagram_t *d) noexcept nogil:
    cdef int v = d.ipver == 6
    d.older, d.newer = f.newest[v], NULL
    if d.older != NULL:
        d.older.newer = d
    else:
        f.oldest[v] = d
    f.newest[v] = d
    d.chain = f.buckets[d.bucket]
    f.buckets[d.bucket] = d
    f.n += 1


cdef void unlink(frags_t *f, datagram_t *d) noexcept nogil:
    cdef int v = d.ipver == 6
    cdef datagram_t **at = &f.buckets[d.bucket]
    if d.older != NULL:
        d.older.newer = d.newer
    else:
        f.oldest[v] = d.newer
    if d.newer != NULL:
        d.newer.older = d.older
    else:
        f.newest[v] = d.older
    while at[0] != d:
        at = &at[0].chain
    at[0] = d.chain
    f.n -= 1


cdef void empty(frags_t *f, datagram_t *d) noexcept nogil:
    """Free what was collected of it."""
    cdef piece_t *next
    while d.pieces != NULL:
        next = d.pieces.next
        free(d.pieces)
        d.pieces = next
    free(d.header)
    free(d.marks)
    d.tail, d.header, d.marks = NULL, NULL, NULL
    frag_unpark(f, &d.parked)
    d.parked_last = NULL
    f.bytes -= d.cost - <uint32_t>sizeof(datagram_t)
    d.cost = sizeof(datagram_t)


cdef void drop(frags_t *f, datagram_t *d) noexcept nogil:
    unlink(f, d)
    empty(f, d)
    f.bytes -= d.cost
    free(d)


cdef int refuse(frags_t *f, datagram_t *d, uint8_t cause) noexcept nogil:
    """Keep the name alone until its time is up, so that fragments still to come are refused too (RFC 5722)."""
    empty(f, d)
    d.dead = cause
    f.refused[cause] += 1
    return -<int>cause


cdef void frag_expire(frags_t *f, int64_t now) noexcept nogil:
    """Let datagrams go that are older than their time-out at packet time `now` (ns)."""
    cdef int v
    cdef datagram_t *d
    if now > f.now:
        f.now = now
    for v in range(2):
        d = f.oldest[v]
        while d != NULL and f.now - d.born > MAX_AGE[v]:
            if not d.dead:
                f.refused[BAD_FRAGMENT_TIMEOUT] += 1
            drop(f, d)
            d = f.oldest[v]


cdef void make_room(frags_t *f, uint32_t bytes) noexcept nogil:
    """Drop the oldest until `bytes` more, and one more datagram, are within the bounds."""
    cdef datagram_t *d
    while f.n and (f.n >= f.max_datagrams or f.bytes + bytes > f.max_bytes):
        d = f.oldest[0]
        if d == NULL or (f.oldest[1] != NULL and f.oldest[1].born < d.born):
            d = f.oldest[1]
        if not d.dead:
            f.refused[BAD_FRAGMENT_CAP] += 1
        drop(f, d)


cdef void name(const fragment_t *x, fragkey_t *key) noexcept nogil:
    cdef uint32_t n = 4 if x.ipver == 4 else 16
    memset(key, 0, sizeof(fragkey_t))
    memcpy(key.src, x.src, n)
    memcpy(key.dst, x.dst, n)
    key.id, key.domain = x.id, x.domain
    key.proto = x.proto if x.ipver == 4 else 256


cdef datagram_t *find(frags_t *f, const fragment_t *x) noexcept nogil:
    """The datagram that x belongs to, made if it is the first; NULL: no memory."""
    cdef fragkey_t key
    cdef datagram_t *d
    name(x, &key)
    if f.buckets == NULL:
        f.buckets = <datagram_t **>calloc(FRAG_BUCKETS, sizeof(datagram_t *))
        if f.buckets == NULL:
            return NULL
    cdef uint32_t bucket = siphash13(<const uint8_t *>&key, sizeof(fragkey_t), f.k0, f.k1) & (FRAG_BUCKETS - 1)
    d = f.buckets[bucket]
    while d != NULL and memcmp(&d.key, &key, sizeof(fragkey_t)):
        d = d.chain
    if d != NULL:
        return d
    make_room(f, sizeof(datagram_t))
    d = <datagram_t *>calloc(1, sizeof(datagram_t))
    if d == NULL:
        return NULL
    d.key, d.bucket, d.ipver = key, bucket, x.ipver
    d.born, d.cost = f.now, sizeof(datagram_t)
    f.bytes += d.cost
    link_newest(f, d)
    return d


cdef inline piece_t *begin_at(const datagram_t *d, uint32_t at) noexcept nogil:
    """A piece that begins at or before `at`, not many before the last that does; NULL: the first is to be looked at."""
    cdef int stretch = at >> STRETCH_BITS
    cdef piece_t *p
    if d.marks == NULL:
        return NULL
    p = d.marks[stretch]
    if p != NULL and p.start <= at:
        return p
    while stretch > 0:
        stretch -= 1
        if d.marks[stretch] != NULL:
            return d.marks[stretch]
    return NULL


cdef void mark(frags_t *f, datagram_t *d, piece_t *p) noexcept nogil:
    """`p` is new."""
    cdef uint32_t stretch = p.start >> STRETCH_BITS
    if d.marks != NULL:
        if d.marks[stretch] == NULL or d.marks[stretch].start < p.start:
            d.marks[stretch] = p
        return
    if d.npieces >= MARKED_FROM:
        d.marks = <piece_t **>calloc(STRETCHES, sizeof(piece_t *))
    if d.marks == NULL:
        return
    d.cost += STRETCHES * <uint32_t>sizeof(piece_t *)
    f.bytes += STRETCHES * <uint32_t>sizeof(piece_t *)
    p = d.pieces
    while p != NULL:
        d.marks[p.start >> STRETCH_BITS] = p
        p = p.next


cdef int relation(datagram_t *d, const fragment_t *x) noexcept nogil:
    """How x lies to what is there: beside it, wholly within it with the same bytes, or neither."""
    cdef uint32_t start = x.offset
    cdef uint32_t end = x.offset + x.length
    cdef uint32_t lo, hi
    cdef uint32_t same = 0
    cdef bint touched = False
    cdef const piece_t *p
    if d.tail == NULL or d.tail.end <= start:
        return DISJOINT
    p = begin_at(d, start)
    if p == NULL:
        p = d.pieces
    while p != NULL and p.start < end:
        if p.end > start:
            touched = True
            d.touched += 1
            lo, hi = max(start, p.start), min(end, p.end)
            if memcmp(<const uint8_t *>(p + 1) + (lo - p.start), x.data + (lo - start), hi - lo) == 0:
                same += hi - lo
        p = p.next
    if not touched:
        return DISJOINT
    return DUPLICATE if same == x.length else OVERLAP


cdef piece_t *new_piece(frags_t *f, datagram_t *d, const fragment_t *x, uint32_t start, uint32_t end) noexcept nogil:
    cdef piece_t *p = <piece_t *>malloc(sizeof(piece_t) + end - start)
    if p == NULL:
        f.no_memory += 1
        return NULL
    p.start, p.end = start, end
    memcpy(p + 1, x.data + (start - x.offset), end - start)
    d.have += end - start
    d.npieces += 1
    d.cost += sizeof(piece_t) + end - start
    f.bytes += <uint32_t>(sizeof(piece_t) + end - start)
    return p


cdef bint lay(frags_t *f, datagram_t *d, const fragment_t *x) noexcept nogil:
    """Put x's bytes where none are yet; where some are, replace them if the policy says so. False: no memory."""
    cdef uint32_t at = x.offset
    cdef uint32_t end = x.offset + x.length
    cdef uint32_t stop
    cdef piece_t *p
    cdef piece_t *before = begin_at(d, at)
    cdef piece_t **link = &before if before != NULL else &d.pieces
    if d.tail != NULL and d.tail.end <= at:
        link = &d.tail.next
    while at < end:
        p = link[0]
        if p != NULL and p.start <= at:
            stop = min(end, p.end)
            if at < stop:
                if f.policy == FRAG_LAST:
                    memcpy(<uint8_t *>(p + 1) + (at - p.start), x.data + (at - x.offset), stop - at)
                at = stop
        else:
            stop = end if p == NULL or p.start > end else p.start
            p = new_piece(f, d, x, at, stop)
            if p == NULL:
                return False
            p.next = link[0]
            link[0] = p
            if p.next == NULL:
                d.tail = p
            mark(f, d, p)
            at = stop
        link = &p.next
    return True


cdef bint keep_header(frags_t *f, datagram_t *d, const fragment_t *x) noexcept nogil:
    """The first fragment at offset 0 gives the datagram its header (RFC 791 3.2, RFC 8200 4.5)."""
    if x.offset or d.header != NULL:
        return True
    d.header = <uint8_t *>malloc(x.header_len)
    if d.header == NULL:
        f.no_memory += 1
        return False
    memcpy(d.header, x.header, x.header_len)
    d.header_len, d.next_at, d.proto = x.header_len, x.next_at, x.proto
    d.cost += x.header_len
    f.bytes += x.header_len
    return True


cdef int finish(frags_t *f, datagram_t *d, const uint8_t **datagram, uint32_t *length) noexcept nogil:
    """Write the whole datagram as if it had never been cut, and forget its pieces."""
    cdef uint32_t n = d.header_len + d.end
    cdef held_t *h
    cdef uint8_t *to
    cdef piece_t *p = d.pieces
    if n - (40 if d.ipver == 6 else 0) > LONGEST:
        return refuse(f, d, BAD_FRAGMENT_LENGTH)
    h = <held_t *>malloc(sizeof(held_t) + n)
    if h == NULL:
        f.no_memory += 1
        return refuse(f, d, BAD_FRAGMENT_CAP)
    to = <uint8_t *>(h + 1)
    memcpy(to, d.header, d.header_len)
    while p != NULL:
        memcpy(to + d.header_len + p.start, p + 1, p.end - p.start)
        p = p.next
    if d.ipver == 4:
        put16(to + 2, n)
        put16(to + 6, 0)
        put16(to + 10, 0)
        put16(to + 10, <uint32_t>~csum_fold(csum_range(to, d.header_len)) & 0xffff)
    else:
        put16(to + 4, n - 40)
        to[d.next_at] = d.proto
    h.next = f.held
    f.held = h
    f.completed += 1
    frag_unpark(f, &f.out)
    f.out, f.whole, f.whole_header = d.parked, to, d.header_len
    d.parked = NULL
    drop(f, d)
    datagram[0], length[0] = to, n
    return FRAG_COMPLETE


cdef bint contradicts(const datagram_t *d, const fragment_t *x) noexcept nogil:
    """x ends the datagram at another place than what came before, or beyond what a length field can say."""
    cdef uint32_t end = x.offset + x.length
    if end + (20 if x.ipver == 4 else 0) > LONGEST:
        return True
    if d.end and end > d.end:
        return True
    return not x.more and d.tail != NULL and d.tail.end > end       # another last fragment too: its end is there


cdef int frag_add(frags_t *f, const fragment_t *x, const uint8_t **datagram, uint32_t *length) noexcept nogil:
    """Take in one fragment (length > 0, a multiple of 8 unless it is the last; all of it is there).

    FRAG_COMPLETE: the whole datagram is at *datagram until frag_release. FRAG_WAITING: more must come. -BAD_*: it is
    refused, together with all others of its datagram.
    """
    cdef datagram_t *d
    cdef int how
    cdef uint32_t room
    f.fragments += 1
    f.last = NULL
    f.x = x[0]
    frag_expire(f, x.ts)
    room = x.header_len + x.length + <uint32_t>(sizeof(datagram_t) + STRETCHES * sizeof(piece_t *)) \
        + (x.length // 16 + 1) * <uint32_t>sizeof(piece_t)
    if f.bytes + room > f.max_bytes:        # pieces of 8 bytes already there may leave it every other 8
        make_room(f, room)
    d = find(f, x)
    if d == NULL:
        f.no_memory += 1
        return -<int>BAD_FRAGMENT_CAP
    if d.dead:
        return -<int>d.dead
    if contradicts(d, x):
        return refuse(f, d, BAD_FRAGMENT_LENGTH)
    how = relation(d, x)
    if how == OVERLAP and (f.policy == FRAG_DROP or x.ipver == 6):
        return refuse(f, d, BAD_FRAGMENT_OVERLAP)
    if how == OVERLAP:
        f.refused[BAD_FRAGMENT_OVERLAP] += 1
    if d.npieces >= f.max_fragments or d.touched > MAX_TOUCHED:
        return refuse(f, d, BAD_FRAGMENT_CAP)
    if not x.more:
        d.end = x.offset + x.length
    if how == DUPLICATE:
        f.duplicates += 1
    elif not lay(f, d, x):
        return refuse(f, d, BAD_FRAGMENT_CAP)
    if not keep_header(f, d, x):
        return refuse(f, d, BAD_FRAGMENT_CAP)
    if d.end and d.have == d.end and d.header != NULL:
        return finish(f, d, datagram, length)
    f.last = d
    return FRAG_WAITING


cdef bint frag_park(frags_t *f, const pkt_t *p) noexcept nogil:
    """Keep the frame of the fragment that came last, until its datagram is whole or given up. False: it cannot be kept."""
    cdef datagram_t *d = f.last
    cdef parked_t *k
    if d == NULL:
        return False
    f.last = NULL
    k = <parked_t *>malloc(sizeof(parked_t) + p.caplen)
    if k == NULL:
        f.no_memory += 1
        return False
    k.next, k.p = NULL, p[0]
    memcpy(k + 1, p.frame, p.caplen)
    k.p.frame = <const uint8_t *>(k + 1)
    k.ip_at, k.data_at = <uint32_t>(f.x.header - p.frame), <uint32_t>(f.x.data - p.frame)
    k.offset, k.length = f.x.offset, f.x.length
    if d.parked == NULL:
        d.parked = k
    else:
        d.parked_last.next = k
    d.parked_last = k
    d.cost += <uint32_t>sizeof(parked_t) + p.caplen
    f.bytes += <uint32_t>sizeof(parked_t) + p.caplen
    f.parked += 1
    return True


cdef void frag_unpark(frags_t *f, parked_t **list) noexcept nogil:
    """Drop parked frames."""
    cdef parked_t *next
    while list[0] != NULL:
        next = list[0].next
        free(list[0])
        list[0] = next
        f.parked -= 1
        f.parked_dropped += 1


cdef void frag_release(frags_t *f) noexcept nogil:
    """Free the complete datagrams that were given out."""
    cdef held_t *next
    frag_unpark(f, &f.out)
    while f.held != NULL:
        next = f.held.next
        free(f.held)
        f.held = next


cdef void frag_clear(frags_t *f) noexcept nogil:
    """Free everything."""
    cdef int v
    frag_release(f)
    for v in range(2):
        while f.oldest[v] != NULL:
            drop(f, f.oldest[v])
    free(f.buckets)
    f.buckets = NULL
