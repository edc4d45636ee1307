# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One reading of a capture for several workers, who take turns at it: whoever finds too little read ahead reads the next slot.

A slot is a piece of the capture, where its records are and of what time, and which worker takes each. It is in memory that all
of them share, so most files are not mapped into each, and of what others take a worker looks at some numbers in a row. Slots are
used again once every worker is through with them, so nobody gets further ahead of the slowest than there are slots.

Whoever waits has told its parent where it is (Source.waits). So the parent, who puts in order what they tell, never needs a word
of one that waits before it has taken all that those behind it have to tell: they do not wait for each other in a circle, and one
that died is noticed.
"""
from libc.errno cimport EINTR, errno
from libc.stdint cimport INT64_MIN, UINT64_MAX, int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from mos.io.aside cimport OWN, aside_next, aside_t
from mos.io.pages cimport pages_ahead, pages_t
from mos.io.parse cimport LENGTHS_PLAIN, WHY_CUT, WHY_ERRNO, WHY_NOT, damage, parse_classic, rd32, reader_t
from mos.io.scout cimport call_ahead
from mos.net.packet cimport AHEAD_NOT, pkt_t, prefetch
from mos.net.shard cimport SHARD_UNKNOWN, shard_plain
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap

cdef extern from *:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <stdint.h>
    #include <time.h>
    #include <unistd.h>
    static inline uint64_t mos_see(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void mos_show(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    /* A lock that the kernel takes from a process that dies. */
    static inline int mos_lock_start(pthread_mutex_t *m) {
        pthread_mutexattr_t a;
        return pthread_mutexattr_init(&a) || pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED)
            || pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST) || pthread_mutex_init(m, &a);
    }
    static inline void mos_nap(void) { struct timespec t = {0, 50000}; nanosleep(&t, NULL); }
    static inline void mos_breathe(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #endif
    }
    """
    ctypedef struct lock_t "pthread_mutex_t":
        pass
    int EOWNERDEAD
    uint64_t see "mos_see"(const uint64_t *p) noexcept nogil
    void show "mos_show"(uint64_t *p, uint64_t v) noexcept nogil
    int lock_start "mos_lock_start"(lock_t *m) noexcept nogil
    int lock_try "pthread_mutex_trylock"(lock_t *m) noexcept nogil
    int lock_mend "pthread_mutex_consistent"(lock_t *m) noexcept nogil
    int lock_leave "pthread_mutex_unlock"(lock_t *m) noexcept nogil
    void nap "mos_nap"() noexcept nogil
    void breathe "mos_breathe"() noexcept nogil
    ssize_t pread(int fd, void *p, size_t n, int64_t at) noexcept nogil

cdef enum:
    SLOT = 1 << 18          # bytes of the capture: they stay in the second-level cache between their reading and their use
    RECORDS = 4096          # in a slot: there are about as many frames of 60 bytes
    SLOTS = 32              # 11 MB, if all are in use; 80,000 small packets, six milliseconds of two workers' time
    LONG = 512              # records longer than that on average are not copied, but mapped by each: workers do so side by side
    LEAD = 2                # slots to be read ahead of everybody, so that nobody waits for who is reading
    READERS = 64            # workers: MOST of mos.workers
    EVERYONE = 255          # slot_t.who: it takes decoding to tell
    SPIN = 400              # looks before going to sleep: some 20 us, less than it takes to be woken
    NAPS = 2000             # of at least 50 us: a tenth of a second
    WAITING = -1            # turns_take: what comes next is not read yet

cdef struct slot_t:
    uint64_t start          # the byte of the capture where its first record begins
    uint64_t first          # packets before it
    uint32_t n
    bint     last           # nothing comes behind it
    bint     mapped         # its records are long, and in the mapped file
    bint     ordered        # by time
    int64_t  top            # the latest of their times
    int      why            # what is damaged behind the records, as in reader_t
    int      saved_errno
    uint64_t at
    uint64_t got
    uint64_t limit
    uint32_t place[4097]    # RECORDS: where each record begins, from `start` on; then where the last one ends
    uint32_t wirelen[4096]
    int64_t  ts[4096]
    uint8_t  who[4096]
    uint8_t  data[262144]   # SLOT

cdef struct turns_t:        # shared by all workers
    lock_t   reading        # held by who reads the next slot
    uint64_t ready          # slots ever read
    uint64_t through[64][8]     # READERS, in cache lines of their own: slots that each is through with
    uint64_t until[32]      # SLOTS: free for the next once everybody is through with so many
    uint8_t  where[32]      # SLOTS: where the n-th that was read is, n modulo SLOTS
    slot_t   slot[32]       # SLOTS

cdef struct turn_t:         # where one worker is
    turns_t *all
    int      worker
    uint32_t workers
    uint64_t seq            # the slot in hand
    uint32_t at             # its next record
    bint     over

cdef inline turns_t *turns_start() noexcept nogil:
    """Memory for those that are forked later on; NULL: there is none. Pages that are never used are never there."""
    cdef void *p = mmap(NULL, sizeof(turns_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
    return NULL if p == MAP_FAILED or lock_start(&(<turns_t *>p).reading) else <turns_t *>p

cdef inline void slot_enter(slot_t *s, uint32_t i, const pkt_t *p, uint32_t place, uint32_t workers) noexcept nogil:
    """The slot's record `i`, and whose it is."""
    cdef int worker = shard_plain(p, workers)
    s.place[i], s.wirelen[i], s.ts[i] = place, p.wirelen, p.ts
    s.ordered &= p.ts >= s.top
    s.top = max(s.top, p.ts)
    s.who[i] = <uint8_t>(EVERYONE if worker == SHARD_UNKNOWN else worker)

cdef inline void slot_usual(slot_t *s, reader_t *r, uint32_t workers) noexcept nogil:
    """Enter what is whole from r.cur on, in a loop that most captures never leave: nothing in it is asked of `r` again."""
    cdef pkt_t k
    cdef const uint8_t *base = r.base
    cdef const uint8_t *p = r.cur
    cdef const uint8_t *end = r.end
    cdef uint32_t cap, most = r.ifaces.max_caplen, header = r.header, fraction = r.fraction, n = s.n
    k.linktype = r.ifaces.linktype
    while n < RECORDS and p - base < SLOT and end - p >= header:
        cap = rd32(p + 8, False)
        if cap > most or end - p - header < <int64_t>cap:
            break
        if s.mapped:        # what was copied is in the cache
            call_ahead(&r.trail, p, p + header + cap)
        k.frame, k.caplen, k.wirelen = p + header, cap, rd32(p + 12, False)
        k.ts = <int64_t>rd32(p, False) * 1000000000 + <int64_t>rd32(p + 4, False) * fraction
        slot_enter(s, n, &k, <uint32_t>(p - base), workers)
        p += header + cap
        n += 1
    r.cur, s.n = p, n

cdef inline void slot_walk(slot_t *s, reader_t *r, uint32_t workers) noexcept nogil:
    """Enter what is whole from r.cur on, up to RECORDS that begin in SLOT bytes. With fewer r.need or r.why says what comes then."""
    cdef pkt_t k
    r.need = 0
    if not r.swap and r.lengths == LENGTHS_PLAIN:
        slot_usual(s, r, workers)
    while s.n < RECORDS and r.cur - r.base < SLOT and parse_classic(r, &k, 1):
        slot_enter(s, s.n, &k, <uint32_t>(k.frame - r.base) - r.header, workers)
        s.n += 1
    s.place[s.n] = <uint32_t>(r.cur - r.base)

cdef inline void slot_map(slot_t *s, const reader_t *whole, reader_t *r, pages_t *pages, uint32_t workers) noexcept nogil:
    """Enter records that stay where they are: they are long, one may be longer than a slot."""
    r.base = r.cur = whole.base + s.start
    r.end = whole.end
    s.mapped = True
    pages_ahead(pages, s.start)
    slot_walk(s, r, workers)
    s.last = r.cur == r.end
    if r.need and not r.why and not s.last:
        damage(r, WHY_CUT, r.end - r.cur, r.need)

cdef inline int64_t slot_fill(slot_t *s, int fd, uint64_t size) noexcept nogil:
    """Read its bytes: how many there are. Fewer than there should be: the file has become shorter, or `saved_errno`."""
    cdef int64_t got = 0, more, wanted = min(<uint64_t>SLOT, size - s.start)
    s.saved_errno = 0
    while got < wanted:
        more = pread(fd, s.data + got, wanted - got, s.start + got)
        if more > 0:
            got += more
        elif more == 0 or errno != EINTR:
            s.saved_errno = errno if more else 0
            break
    return got

cdef inline slot_t *slot_of(turns_t *t, uint64_t seq) noexcept nogil:
    return &t.slot[t.where[seq % SLOTS]]

cdef inline void slot_read(turns_t *t, slot_t *s, const reader_t *whole, pages_t *pages, int fd, uint32_t workers) noexcept nogil:
    """Read what comes after the slot before. `whole`: all of the capture, mapped; `cur` was where its packets begin."""
    cdef reader_t r = whole[0]
    cdef const slot_t *before = slot_of(t, t.ready - 1)
    cdef uint64_t size = whole.end - whole.base
    cdef uint64_t start = before.start + before.place[before.n] if t.ready else <uint64_t>(whole.cur - whole.base)
    cdef bint rest = False, long = t.ready and before.place[before.n] > LONG * before.n
    s.first = before.first + before.n if t.ready else whole.packets
    s.start, s.n, s.mapped, s.ordered, s.top = start, 0, False, True, INT64_MIN
    r.aside, r.start, r.base = NULL, s.start, s.data
    if not long:
        r.cur, r.end = r.base, r.base + slot_fill(s, fd, size)
        rest = r.end - r.base == SLOT and s.start + SLOT < size
        slot_walk(s, &r, workers)
        s.last = not rest and s.n < RECORDS
        if s.last and not r.why and s.start + s.place[s.n] < size:
            damage(&r, WHY_ERRNO if s.saved_errno else WHY_CUT, r.end - r.cur, r.need)
    if long or rest and not r.why and s.n == 0:
        slot_map(s, whole, &r, pages, workers)
    s.why, s.at, s.got, s.limit = r.why, r.at, r.got, r.limit
    s.last |= r.why != WHY_NOT

cdef inline int turns_room(turns_t *t, uint32_t workers) noexcept nogil:
    """A slot that everybody is through with, but the last that was read: the first of them, so that few are used and stay in
    caches. -1: there is none."""
    cdef uint64_t through, least = t.ready
    cdef uint32_t i
    for i in range(workers):
        through = see(&t.through[i][0])
        least = min(least, through)
    for i in range(SLOTS if t.ready - least < SLOTS else 0):
        if t.until[i] <= least and (t.until[i] != t.ready or not t.ready):
            return i
    return -1

cdef inline void turns_read(turn_t *m, const reader_t *whole, pages_t *pages, int fd) noexcept nogil:
    """Read a slot, unless another worker does, or there is no room, or nothing left."""
    cdef turns_t *t = m.all
    cdef int room, rc = lock_try(&t.reading)
    if rc == EOWNERDEAD:        # it read half a slot, which is read again
        rc = lock_mend(&t.reading)
    if rc:
        return
    room = -1 if t.ready and slot_of(t, t.ready - 1).last else turns_room(t, m.workers)
    if room >= 0:
        slot_read(t, &t.slot[room], whole, pages, fd, m.workers)
        t.until[room], t.where[t.ready % SLOTS] = t.ready + 1, <uint8_t>room
        show(&t.ready, t.ready + 1)
    lock_leave(&t.reading)

cdef inline bint turns_next(turn_t *m, const reader_t *whole, pages_t *pages, int fd) noexcept nogil:
    """The slot in hand is read. Looks for a while."""
    cdef int _
    if see(&m.all.ready) < m.seq + LEAD:
        turns_read(m, whole, pages, fd)
    for _ in range(SPIN):
        if see(&m.all.ready) > m.seq:
            break
        breathe()
        turns_read(m, whole, pages, fd)
    return see(&m.all.ready) > m.seq

cdef inline void slot_packet(const slot_t *s, uint32_t j, const reader_t *whole, pkt_t *p) noexcept nogil:
    """The slot's packet j."""
    p.frame = (whole.base + s.start if s.mapped else s.data) + s.place[j] + whole.header
    p.caplen = s.place[j + 1] - s.place[j] - whole.header
    p.wirelen, p.ts, p.number = s.wirelen[j], s.ts[j], s.first + j + 1
    p.linktype, p.iface, p.ahead = whole.ifaces.linktype, 0, AHEAD_NOT
    prefetch(p.frame)
    prefetch(p.frame + 64)

cdef inline int turn_own(turn_t *m, const slot_t *s, const reader_t *whole, pkt_t *pkts, int n, aside_t *a) noexcept nogil:
    """Up to n packets of the slot in hand that the worker takes: how many. Of the others it only looks at whose they are, and
    without a branch, which nobody could predict."""
    cdef uint16_t own[OWN]
    cdef uint32_t j, at = m.at, end = s.n
    cdef int i = 0, worker = m.worker, k
    while at < end and i < n:
        own[i] = <uint16_t>at
        i += (s.who[at] == worker) | (s.who[at] == EVERYONE)
        at += 1
    a.ts, a.n, a.top = s.ts + m.at, at - m.at, s.top
    for k in range(i):
        j = own[k]
        a.place[k + 1], a.high[k] = <int16_t>(j - m.at), s.ts[j - 1] if s.ordered and j else s.top
        slot_packet(s, j, whole, &pkts[k])
    aside_next(a, i)
    if i == 0:
        slot_packet(s, at - 1, whole, pkts)     # for aside_take_back
    m.at = at
    return i

cdef inline int turns_take(turn_t *m, reader_t *r, pages_t *pages, int fd, pkt_t *pkts, int n, aside_t *a) noexcept nogil:
    """Up to n packets of one slot that the worker takes, or WAITING. What the batch before had is let go."""
    cdef const slot_t *s
    cdef int i = 0
    show(&m.all.through[m.worker][0], m.seq)
    while a.n == 0 and not m.over:
        if not turns_next(m, r, pages, fd):
            return WAITING
        s = slot_of(m.all, m.seq)
        if s.mapped:
            pages_ahead(pages, s.start + s.place[m.at])
        if m.at < s.n:
            i = turn_own(m, s, r, pkts, n, a)
        r.packets, r.cur = s.first + m.at, r.base + s.start + s.place[m.at]
        if m.at == s.n:
            m.seq, m.at, m.over = m.seq + 1, 0, s.last
    return i

cdef inline int turns_end(const turn_t *m, reader_t *r) noexcept nogil:
    """All packets are taken: what is damaged behind them goes into `r`; the errno of reading it."""
    cdef const slot_t *s = slot_of(m.all, m.seq - 1)
    r.why, r.at, r.got, r.limit = s.why, s.at, s.got, s.limit
    return s.saved_errno

cdef inline void turns_leave(turn_t *m) noexcept nogil:
    """The worker takes nothing more: nobody waits for it."""
    m.over = True
    show(&m.all.through[m.worker][0], UINT64_MAX)
