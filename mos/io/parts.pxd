# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What several workers write, each to a file of its own, on its way into one: records with their place in the run, merged while
they come. A worker never waits for another: what is ahead waits on the disk, not in memory."""
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from posix.types cimport off_t
from posix.unistd cimport pread
from mos.net.packet cimport pkt_t

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, off_t offset, off_t size)
    int FALLOC_FL_KEEP_SIZE
    int FALLOC_FL_PUNCH_HOLE

cdef enum:
    PART_ROOM = 1 << 20     # bytes of a part that are read at a time; more for a longer record
    PART_GIVE_BACK = 16 << 20   # bytes merged before their blocks are given back to the file system

cdef enum:              # part_head_t.kind
    PART_PACKET, PART_TICK, PART_MARK       # a mark: nothing before this place comes any more

# Before each frame; `size` counts both and is a multiple of 8.
cdef struct part_head_t:
    int64_t key[4]         # its place in the run (mos.core.place_of)
    int64_t  ts
    uint32_t size
    uint32_t caplen
    uint32_t wirelen
    uint16_t linktype
    uint16_t iface
    uint16_t gso_size
    uint8_t  gso_type
    uint8_t  csum_partial
    uint8_t  kind
    uint8_t  spare[3]

cdef struct part_t:
    int fd
    bint dry                # nothing more was there when last looked
    uint8_t *buf
    size_t room
    size_t at               # bytes of buf that were merged
    size_t used
    uint64_t taken          # bytes of the file that were read
    uint64_t freed          # that were given back
    int64_t key[4]         # of the last record merged

cdef inline bint part_before(const int64_t *a, const int64_t *b) noexcept nogil:
    cdef int i
    for i in range(4):
        if a[i] != b[i]:
            return a[i] < b[i]
    return False

cdef inline void part_head(part_head_t *h, const pkt_t *p, const int64_t *key, uint32_t caplen, uint32_t wirelen) noexcept nogil:
    memset(h, 0, sizeof(part_head_t))
    memcpy(&h.key[0], key, sizeof(h.key))
    h.size = <uint32_t>sizeof(part_head_t) + ((caplen + 7) & ~<uint32_t>7)
    h.ts, h.caplen, h.wirelen, h.linktype, h.iface = p.ts, caplen, wirelen, p.linktype, p.iface
    h.gso_size, h.gso_type, h.csum_partial = p.gso_size, p.gso_type, p.csum_partial

cdef inline const uint8_t *part_packet(const part_head_t *h, pkt_t *p) noexcept nogil:
    """The packet of a record, as it was when it was written; its frame."""
    memset(p, 0, sizeof(pkt_t))
    p.frame, p.caplen, p.wirelen, p.ts = <const uint8_t *>h + sizeof(part_head_t), h.caplen, h.wirelen, h.ts
    p.linktype, p.iface, p.number = h.linktype, h.iface, h.kind == PART_PACKET
    p.gso_size, p.gso_type, p.csum_partial = h.gso_size, h.gso_type, h.csum_partial
    return p.frame

cdef inline const part_head_t *part_whole(const part_t *t) noexcept nogil:
    """The next record, if all of it is in memory."""
    cdef const part_head_t *h = <const part_head_t *>(t.buf + t.at)
    cdef size_t left = t.used - t.at
    return h if left >= sizeof(part_head_t) and left >= h.size else NULL

cdef inline const part_head_t *part_next(part_t *t) noexcept nogil:
    """The next record of a part; NULL: it is not there yet, or cut off where its writer died."""
    cdef const part_head_t *h = part_whole(t)
    cdef size_t need
    cdef int64_t got
    cdef void *grown
    while h == NULL and not t.dry:
        memmove(t.buf, t.buf + t.at, t.used - t.at)
        t.used, t.at = t.used - t.at, 0
        need = (<const part_head_t *>t.buf).size if t.used >= sizeof(part_head_t) else 0
        if need > t.room:
            grown = realloc(t.buf, need)
            if grown == NULL:
                t.dry = True
                break
            t.buf, t.room = <uint8_t *>grown, need
        got = pread(t.fd, t.buf + t.used, t.room - t.used, <off_t>t.taken)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            t.dry = True
            break
        t.used += got
        t.taken += got
        h = part_whole(t)
    return h

cdef inline void part_done(part_t *t, const part_head_t *h) noexcept nogil:
    """That record is merged. The disk holds little more than is still to come, where the file system can free a part of a file."""
    cdef uint64_t behind
    memcpy(&t.key[0], &h.key[0], sizeof(t.key))
    t.at += h.size
    behind = (t.taken - (t.used - t.at)) & ~<uint64_t>4095
    if behind - t.freed >= PART_GIVE_BACK:
        fallocate(t.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <off_t>t.freed, <off_t>(behind - t.freed))
        t.freed = behind

cdef inline const part_head_t *parts_first(part_t *parts, int n, bint rest, int *which) noexcept nogil:
    """The earliest record of all parts; of two at one place that of the first. NULL: there is none, or what is not there yet may
    come before it, unless this is the `rest`."""
    cdef const part_head_t *h
    cdef const part_head_t *first = NULL
    cdef int i
    for i in range(n):
        h = part_next(&parts[i])
        if h != NULL and (first == NULL or part_before(&h.key[0], &first.key[0])):
            first, which[0] = h, i
    for i in range(n if first != NULL and not rest else 0):
        if parts[i].dry and part_whole(&parts[i]) == NULL and not part_before(&first.key[0], &parts[i].key[0]):
            return NULL
    return first

cdef inline int part_start(part_t *t, int fd) noexcept nogil:
    memset(t, 0, sizeof(part_t))
    t.buf, t.room, t.fd = <uint8_t *>malloc(PART_ROOM), PART_ROOM, fd
    return 0 if t.buf != NULL else -1

cdef inline void part_end(part_t *t) noexcept nogil:
    free(t.buf)
    t.buf = NULL
