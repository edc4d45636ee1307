// What tracking flows costs at the least: one pass over a mapped capture, nothing checked, nothing ordered, nobody told.
//
//     floor LEVEL FILE FLOWS
//
// LEVEL 3   parse the headers, look the flow up, count its packets and bytes
// LEVEL 4   and copy the payload that is in order into a ring per direction, kept while the flow is open
//
// FLOWS is room in the table: the capture's number of flows. One line of JSON: what was counted, `cpu` of the pass alone in s.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RING = 4096, SLAB = 256 };       // bytes of a ring; rings that are allocated together

struct half {
    uint64_t packets, bytes, copied;
    uint8_t *ring;
    uint32_t next, at;                  // sequence number expected, place in the ring
    uint8_t open, fin;
};

struct flow {
    uint32_t lo, hi, ports;
    struct half half[2];
};

struct segment {
    uint32_t from, to, seq;
    uint16_t from_port, to_port;
    uint8_t flags;
    int32_t length;
    const uint8_t *data;
};

static struct flow *flows;
static uint32_t *slots, mask, used, room;       // slots hold 1 + index in flows
static uint8_t *spare, *slab;                   // rings to use again, linked through their first bytes
static uint32_t slab_left;
static uint64_t packets, tcp, payload, copied, holes;

static inline uint16_t be16(const uint8_t *p)
{
    uint16_t x;
    memcpy(&x, p, 2);
    return __builtin_bswap16(x);
}

static inline uint32_t raw32(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

static inline int parse(const uint8_t *p, const uint8_t *end, struct segment *s)
{
    const uint8_t *ip = p + 14, *t;
    uint16_t type;
    if (end - p < 54)
        return 0;
    for (type = be16(p + 12); type == 0x8100; ip += 4)
        type = be16(ip + 2);
    if (type != 0x0800 || ip[0] >> 4 != 4 || ip[9] != 6 || be16(ip + 6) & 0x1fff)
        return 0;
    t = ip + (ip[0] & 15) * 4;
    if (t + 20 > end)
        return 0;
    s->data = t + (t[12] >> 4) * 4;
    s->length = (int32_t)(be16(ip + 2) - (s->data - ip));
    if (s->length < 0 || s->data + s->length > end)
        return 0;
    s->from = raw32(ip + 12);
    s->to = raw32(ip + 16);
    s->from_port = be16(t);
    s->to_port = be16(t + 2);
    s->seq = __builtin_bswap32(raw32(t + 4));
    s->flags = t[13];
    return 1;
}

static inline struct flow *find(const struct segment *s, int way)
{
    uint32_t lo = way ? s->to : s->from, hi = way ? s->from : s->to;
    uint32_t ports = way ? (uint32_t)s->to_port << 16 | s->from_port : (uint32_t)s->from_port << 16 | s->to_port;
    uint64_t hash = ((uint64_t)hi << 32 | lo) * 0xff51afd7ed558ccdull ^ ports * 0xc4ceb9fe1a85ec53ull;
    hash = (hash ^ hash >> 32) * 0xff51afd7ed558ccdull;
    for (uint32_t i = (uint32_t)(hash >> 32) & mask;; i = (i + 1) & mask) {
        struct flow *f;
        if (slots[i] == 0) {
            if (used == room) {
                fprintf(stderr, "floor: more than %u flows\n", room);
                exit(1);
            }
            f = &flows[used];
            slots[i] = ++used;
            memset(f, 0, sizeof *f);
            f->lo = lo;
            f->hi = hi;
            f->ports = ports;
            return f;
        }
        f = &flows[slots[i] - 1];
        if (f->lo == lo && f->hi == hi && f->ports == ports)
            return f;
    }
}

static uint8_t *ring_take(void)
{
    uint8_t *ring = spare;
    if (ring != NULL) {
        memcpy(&spare, ring, sizeof spare);
        return ring;
    }
    if (slab_left == 0) {
        slab = malloc(RING * SLAB);
        slab_left = SLAB;
    }
    return slab + RING * --slab_left;
}

static void ring_give(struct half *h)
{
    if (h->ring != NULL) {
        memcpy(h->ring, &spare, sizeof spare);
        spare = h->ring;
        h->ring = NULL;
        h->at = 0;
    }
}

static inline void copy(struct half *h, const uint8_t *data, uint32_t n)
{
    if (h->ring == NULL)
        h->ring = ring_take();
    h->copied += n;
    copied += n;
    while (n) {
        uint32_t part = RING - h->at < n ? RING - h->at : n;
        memcpy(h->ring + h->at, data, part);
        data += part;
        n -= part;
        h->at = (h->at + part) & (RING - 1);
    }
}

static inline void deliver(struct flow *f, const struct segment *s, int way)
{
    struct half *h = &f->half[way];
    int32_t old, n = s->length;
    if (s->flags & 2) {
        h->next = s->seq + 1;
        h->open = 1;
        return;
    }
    if (n) {
        if (!h->open)
            h->next = s->seq;
        h->open = 1;
        old = (int32_t)(h->next - s->seq);
        if (old < 0) {                  // a hole: go on behind it
            holes++;
            old = 0;
            h->next = s->seq;
        }
        if (old < n) {
            copy(h, s->data + old, n - old);
            h->next += n - old;
        }
    }
    if (s->flags & 5) {
        h->fin = 1;
        if (f->half[!way].fin || s->flags & 4) {
            ring_give(&f->half[0]);
            ring_give(&f->half[1]);
        }
    }
}

static void walk(const uint8_t *p, const uint8_t *end, int level)
{
    struct segment s;
    while (p + 16 <= end) {
        const uint8_t *frame = p + 16;
        p = frame + raw32(p + 8);
        if (p > end)
            break;
        __builtin_prefetch(p + 64);
        packets++;
        if (!parse(frame, p, &s))
            continue;
        int way = s.from > s.to || (s.from == s.to && s.from_port > s.to_port);
        struct flow *f = find(&s, way);
        tcp++;
        payload += s.length;
        f->half[way].packets++;
        f->half[way].bytes += s.length;
        if (level > 3)
            deliver(f, &s, way);
    }
}

static double cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    struct stat st;
    int fd = argc == 4 ? open(argv[2], O_RDONLY) : -1;
    if (fd < 0 || fstat(fd, &st)) {
        fprintf(stderr, "usage: floor 3|4 FILE FLOWS\n");
        return 2;
    }
    const uint8_t *m = mmap(0, st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (m == MAP_FAILED) {
        perror("floor");
        return 1;
    }
    double start = cpu();
    room = atoi(argv[3]);
    for (mask = 1; mask < 2 * room; mask <<= 1)
        ;
    slots = calloc(mask--, sizeof *slots);
    flows = malloc((size_t)room * sizeof *flows);
    walk(m + 24, m + st.st_size, atoi(argv[1]));
    printf("{\"packets\": %lu, \"tcp\": %lu, \"flows\": %u, \"payload\": %lu, \"copied\": %lu, \"holes\": %lu, \"cpu\": %.6f}\n",
           packets, tcp, used, payload, copied, holes, cpu() - start);
}
