// Writes a seeded capture of TCP traffic, and what is in it as one line of JSON on standard output.
//
//     generate KIND FLOWS ALIVE TURNS SEED FILE
//
// KIND   what a flow is
// small  20 packets, TURNS requests and answers of 1 to 64 bytes (4: the 20)
// churn  10 packets, one request of 60 to 399 bytes, one answer of 100 to 1447
// many   handshake, TURNS requests and answers of 1 to 64 bytes, never closed
// bulk   one request, TURNS answers of 1448 bytes, an ACK for every second one
// messy  as bulk; of the segments 2 % come late by a few places, 1 % twice, 0.5 % are sent again from their middle on, 0.5 %
//        are lost and come again 20 to 60 places later
//
// ALIVE flows are open at a time and take turns at random; with ALIVE = FLOWS all shake hands before anyone goes on. The same
// arguments give the same bytes.
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIN = 1, SYN = 2, PSH = 8, ACK = 16 };
enum { CLIENT, SERVER };
enum { MSS = 1448, HALF = MSS / 2, POOL = 1 << 20, SNAPLEN = 262144 };

// A flow's packets by letter: opening, then `turn` TURNS times, then `last` and the closing.
// s SYN, y SYN-ACK, a b an ACK of the client, of the server, q r data of the client, of the server, D a full segment of the
// server, m the next of a shuffled list, f g FIN of the client, of the server
struct kind {
    const char *name, *turn, *last, *close;
    int low[2], high[2];        // bytes of q and r
    int burst;                  // packets a flow sends in one go, on average
};
static const struct kind kinds[] = {
    {"small", "qbra", "qr", "fga", {1, 1}, {64, 64}, 1},
    {"churn", "qbra", "", "fga", {60, 100}, {399, 1447}, 1},
    {"many", "qr", "", "", {1, 1}, {64, 64}, 1},
    {"bulk", "DDa", "", "fga", {200, MSS}, {399, MSS}, 6},
    {"messy", "m", "", "fga", {200, MSS}, {399, MSS}, 6},
};

struct segment {
    uint32_t place;             // segments are sent in the order of their places
    uint32_t half;              // first byte / HALF
};

struct flow {
    uint32_t id, step;
    uint32_t next[2];           // stream offset of the next new byte
    uint8_t fin[2];
    struct segment *list;       // messy: what to send, in order
    uint32_t n, sent;
    uint8_t *arrived;           // messy: halves the client has
    uint32_t got;               // of those, how many without a hole
    uint8_t owes;               // segments not acknowledged yet
};

static const struct kind *kind;
static uint32_t turns;
static FILE *out;
static uint8_t *pool;
static uint64_t packets, wire, stamp = 1600000000000000ull;     // us
static uint64_t unique[2];

// xorshift64*, Vigna 2016
static uint64_t seed;
static uint32_t below(uint32_t n)
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return (uint32_t)((seed * 2685821657736338717ull >> 32) * n >> 32);
}

static uint32_t mixed(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352d;
    x = (x ^ x >> 15) * 0x846ca68b;
    return x ^ x >> 16;
}

static uint64_t sum16(const uint8_t *p, uint32_t n, uint64_t sum)
{
    uint32_t word;
    uint16_t half;
    for (; n >= 4; p += 4, n -= 4) {
        memcpy(&word, p, 4);
        sum += word;
    }
    if (n & 2) {
        memcpy(&half, p, 2);
        sum += half;
        p += 2;
    }
    return n & 1 ? sum + *p : sum;
}

static uint16_t folded(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void put16(uint8_t *p, uint32_t x)
{
    p[0] = x >> 8;
    p[1] = x;
}

static void put32(uint8_t *p, uint32_t x)
{
    put16(p, x >> 16);
    put16(p + 2, x);
}

static void put_ip(uint8_t *ip, const struct flow *f, int from, uint32_t total)
{
    memset(ip, 0, 20);
    ip[0] = 0x45;
    put16(ip + 2, total);
    put16(ip + 4, (uint16_t)packets);
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = 6;
    put32(ip + (from == CLIENT ? 12 : 16), 0x0a000001 + (f->id >> 3));
    put32(ip + (from == CLIENT ? 16 : 12), 0xac100001 + mixed(f->id) % 4096);
    uint16_t check = folded(sum16(ip, 20, 0));
    memcpy(ip + 10, &check, 2);
}

static uint32_t put_options(uint8_t *p, int flags)
{
    uint8_t *at = p;
    if (flags & SYN) {
        memcpy(at, "\x02\x04\x05\xb4\x04\x02", 6);      // MSS 1460, SACK permitted
        at += 6;
    } else {
        memcpy(at, "\x01\x01", 2);
        at += 2;
    }
    at[0] = 8;
    at[1] = 10;
    put32(at + 2, (uint32_t)(stamp / 1000));
    put32(at + 6, flags & ACK ? (uint32_t)(stamp / 1000) : 0);
    at += 10;
    if (flags & SYN) {
        memcpy(at, "\x01\x03\x03\x07", 4);              // windows are in units of 128
        at += 4;
    }
    return (uint32_t)(at - p);
}

static const uint8_t *stream(const struct flow *f, int from, uint32_t offset)
{
    return pool + ((mixed(f->id * 2 + from) + offset) & (POOL - 1));
}

// One packet. `seq` and `ack` count from 0 at the SYN.
static void emit(const struct flow *f, int from, int flags, uint32_t seq, uint32_t ack, uint32_t length)
{
    static uint8_t record[16 + 14 + 20 + 60 + MSS];
    static const uint8_t mac[2][14] = {{2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 2, 2, 8, 0}, {2, 0, 0, 0, 2, 2, 2, 0, 0, 0, 1, 1, 8, 0}};
    uint8_t *ip = record + 30, *tcp = ip + 20;
    uint32_t ports[2] = {16384 + mixed(f->id ^ 0x5bd1e995) % 49000, 8000 + (f->id & 7)};
    uint32_t header = 20 + put_options(tcp + 20, flags), total = 20 + header + length;
    memcpy(record + 16, mac[from], 14);
    put_ip(ip, f, from, total);
    put16(tcp, ports[from]);
    put16(tcp + 2, ports[!from]);
    put32(tcp + 4, mixed(f->id * 2 + from + 77) + seq);
    put32(tcp + 8, flags & ACK ? mixed(f->id * 2 + !from + 77) + ack : 0);
    tcp[12] = header << 2;
    tcp[13] = flags;
    put16(tcp + 14, 65535);
    put32(tcp + 16, 0);
    if (length)
        memcpy(tcp + header, stream(f, from, seq - 1), length);
    uint16_t check = folded(sum16(ip + 12, 8, sum16(tcp, header + length, htons(6) + htons(header + length))));
    memcpy(tcp + 16, &check, 2);
    uint32_t head[4] = {(uint32_t)(stamp / 1000000), (uint32_t)(stamp % 1000000), 14 + total, 14 + total};
    memcpy(record, head, 16);
    if (fwrite(record, 1, 30 + total, out) != 30 + total) {
        perror("generate");
        exit(1);
    }
    packets++;
    wire += 14 + total;
    stamp += 5;
}

static void send_data(struct flow *f, int from, uint32_t length, int flags)
{
    emit(f, from, flags | ACK, 1 + f->next[from], 1 + f->next[!from] + f->fin[!from], length);
    f->next[from] += length;
    unique[from] += length;
}

static void send_bare(struct flow *f, int from, int flags)
{
    emit(f, from, flags | ACK, 1 + f->next[from] + f->fin[from], 1 + f->next[!from] + f->fin[!from], 0);
    if (flags & FIN)
        f->fin[from] = 1;
}

static int by_place(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    return x->place != y->place ? (x->place < y->place ? -1 : 1) : x->half < y->half ? -1 : x->half > y->half;
}

// What the server of a messy flow sends: places are 8 apart, so that something can come in between.
static void shuffle(struct flow *f)
{
    f->list = malloc(sizeof(struct segment) * 2 * turns);
    f->arrived = calloc(2 * turns + 2, 1);
    for (uint32_t i = 0; i < turns; i++) {
        uint32_t place = 8 * i, luck = below(1000), place_now = place;
        if (luck < 20)
            place_now = place + 8 * (1 + below(5)) + 3;
        else if (luck < 30)
            f->list[f->n++] = (struct segment){place + 8 * (1 + below(20)) + 5, 2 * i};
        else if (luck < 35 && i + 1 < turns)
            f->list[f->n++] = (struct segment){place + (below(2) ? 2 : 26), 2 * i + 1};
        else if (luck >= 35 && luck < 40)
            place_now = place + 8 * (20 + below(40)) + 1;
        f->list[f->n++] = (struct segment){place_now, 2 * i};
    }
    qsort(f->list, f->n, sizeof(struct segment), by_place);
}

static void send_messy(struct flow *f)
{
    if (f->owes == 2 || f->sent == f->n) {
        f->owes = 0;
        emit(f, CLIENT, ACK, 1 + f->next[CLIENT], 1 + f->got * HALF, 0);
        if (f->sent == f->n) {
            f->next[SERVER] = turns * MSS;
            unique[SERVER] += turns * MSS;
            f->step++;
        }
        return;
    }
    uint32_t half = f->list[f->sent++].half;
    emit(f, SERVER, ACK, 1 + half * HALF, 1 + f->next[CLIENT], MSS);
    f->arrived[half] = f->arrived[half + 1] = 1;
    while (f->got < 2 * turns && f->arrived[f->got])
        f->got++;
    f->owes++;
}

// The letter of a flow's next packet, 0 if there is none.
static char letter(const struct flow *f)
{
    int full = kind->burst > 1;     // bulk and messy begin with one request
    uint32_t step = f->step, body, size = strlen(kind->turn);
    if (step < 3)
        return "sya"[step];
    step -= 3;
    if (full && step-- == 0)
        return 'q';
    if (full)
        body = kind->turn[0] == 'm' ? 1 : turns / 2 * 3;
    else
        body = (*kind->last ? turns - 1 : turns) * size;
    if (step < body)
        return kind->turn[step % size];
    step -= body;
    if (step < strlen(kind->last))
        return kind->last[step];
    step -= strlen(kind->last);
    return step < strlen(kind->close) ? kind->close[step] : 0;
}

static void advance(struct flow *f)
{
    char what = letter(f);
    if (what == 'm') {
        if (f->list == NULL)
            shuffle(f);
        send_messy(f);
        return;
    }
    f->step++;
    switch (what) {
    case 's': emit(f, CLIENT, SYN, 0, 0, 0); break;
    case 'y': emit(f, SERVER, SYN | ACK, 0, 1, 0); break;
    case 'a': send_bare(f, CLIENT, 0); break;
    case 'b': send_bare(f, SERVER, 0); break;
    case 'f': send_bare(f, CLIENT, FIN); break;
    case 'g': send_bare(f, SERVER, FIN); break;
    case 'q': send_data(f, CLIENT, kind->low[0] + below(kind->high[0] - kind->low[0] + 1), PSH); break;
    case 'r': send_data(f, SERVER, kind->low[1] + below(kind->high[1] - kind->low[1] + 1), PSH); break;
    case 'D': send_data(f, SERVER, MSS, 0); break;
    }
}

static void shake_hands(struct flow *flows, uint32_t *open, uint32_t n)
{
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = n - 1; i > 0; i--) {
            uint32_t j = below(i + 1), other = open[i];
            open[i] = open[j];
            open[j] = other;
        }
        for (uint32_t i = 0; i < n; i++)
            advance(&flows[open[i]]);
    }
}

static void run(uint32_t n, uint32_t alive)
{
    struct flow *flows = calloc(n, sizeof *flows);
    uint32_t *open = malloc(n * sizeof *open), count = alive < n ? alive : n, next = count;
    for (uint32_t i = 0; i < n; i++)
        flows[i].id = i;
    for (uint32_t i = 0; i < count; i++)
        open[i] = i;
    if (count == n)
        shake_hands(flows, open, n);
    while (count) {
        uint32_t i = below(count), burst = kind->burst > 1 ? 1 + below(2 * kind->burst - 1) : 1;
        struct flow *f = &flows[open[i]];
        while (burst-- && letter(f))
            advance(f);
        if (letter(f))
            continue;
        free(f->list);
        free(f->arrived);
        open[i] = next < n ? next++ : open[--count];
    }
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: generate KIND FLOWS ALIVE TURNS SEED FILE\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(argv[1], kinds[i].name))
            kind = &kinds[i];
    uint32_t flows = atoi(argv[2]), alive = atoi(argv[3]);
    turns = atoi(argv[4]);
    seed = strtoull(argv[5], NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
    out = fopen(argv[6], "wb");
    if (kind == NULL || !flows || !alive || !turns || out == NULL) {
        fprintf(stderr, "generate: a wrong argument, or %s cannot be written\n", argv[6]);
        return 2;
    }
    setvbuf(out, NULL, _IOFBF, 1 << 20);
    pool = malloc(POOL + MSS);
    for (uint32_t i = 0; i < POOL + MSS; i++)
        pool[i] = i < POOL ? 'a' + below(26) : pool[i - POOL];
    uint32_t head[6] = {0xa1b2c3d4, 0x00040002, 0, 0, SNAPLEN, 1};
    fwrite(head, 1, sizeof head, out);
    run(flows, alive);
    if (fclose(out)) {
        perror("generate");
        return 1;
    }
    printf("{\"packets\": %lu, \"flows\": %u, \"wire_bytes\": %lu, \"to_server\": %lu, \"to_client\": %lu}\n",
           packets, flows, wire, unique[CLIENT], unique[SERVER]);
}
