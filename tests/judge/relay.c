/* A wire with faults between two interfaces, tapped on both sides of the faults.
 *
 *     relay LEFT RIGHT LEFT.pcap RIGHT.pcap SEED [what=per-mille]...
 *
 * drop, corrupt (one byte, the checksum left wrong), split (one segment as two, overlapping or not), coalesce (two
 * neighbours as one), late (overtaken by up to 40 frames, 5 ms at most), twice, stale (an old frame once more), forge (an old segment that its
 * receiver has acknowledged, with other bytes and a right checksum), reset (a RST beyond all that was sent: its receiver must
 * ask whether it is meant, RFC 5961 section 3.2). Only TCP suffers. No old frame is older than LIVES_NS: later the stack has
 * forgotten a connection that closed, and may take its bytes for those of one whose beginning it missed. Each capture has
 * what its interface received and sent, in the order in which it happened here. Prints "ready", at SIGTERM the counts as JSON.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DROP, CORRUPT, SPLIT, COALESCE, LATE, TWICE, STALE, FORGE, RESET, SEEN, SENT, UNSENT, OVERSIZED, UNSUMMED, NWHAT };
static const char *NAME[NWHAT] = {"drop", "corrupt", "split", "coalesce", "late", "twice", "stale", "forge",
                                  "reset", "seen", "sent", "unsent", "oversized", "unsummed"};
enum { ROOM = 1514, HELD = 64, PLACES = 40, OLD = 256, ACKS = 4096, HOLD_NS = 5000000, PAIR_NS = 1000000 };
#define LIVES_NS 2000000000LL
enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32, CWR = 128 };

typedef struct { uint32_t len; uint8_t b[ROOM]; } frame_t;
typedef struct { uint8_t *ip, *tcp, *data; uint32_t n, seq, ack; int v6, flags; } tcp_t;
typedef struct { int places, overtaken; int64_t due; frame_t f; } held_t;
typedef struct { uint64_t name; uint32_t to, sent; int known; } acked_t;
typedef struct {
    int in, out, paired;
    FILE *tap_in, *tap_out;
    uint64_t rng, count[2][NWHAT];
    int64_t pair_due;
    frame_t pair;               /* waits for its neighbour while `paired` */
    held_t held[HELD];          /* places 0: free */
    frame_t old[OLD];
    int64_t old_ns[OLD];        /* when each came */
    uint32_t nold;
    acked_t acked[ACKS];        /* by connection: up to where we have sent, and the receiver has told that it has it */
} way_t;

static way_t way[2];            /* from the left, from the right */
static int chance[NWHAT];
static volatile sig_atomic_t over;

static void stop(int s) { (void)s; over = 1; }

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static uint32_t draw(way_t *w, uint32_t below)
{
    w->rng ^= w->rng << 13, w->rng ^= w->rng >> 7, w->rng ^= w->rng << 17;
    return (uint32_t)((w->rng * 0x2545F4914F6CDD1DULL) >> 32) % below;
}

static int happens(way_t *w, int what) { return (int)draw(w, 1000) < chance[what]; }

static uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return ntohl(v); }
static void put32(uint8_t *p, uint32_t v) { v = htonl(v); memcpy(p, &v, 4); }
static uint32_t get16(const uint8_t *p) { return (uint32_t)(p[0] << 8 | p[1]); }
static void put16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }

static uint64_t sum(const uint8_t *p, uint32_t n, uint64_t s)
{
    for (; n > 1; p += 2, n -= 2)
        s += get16(p);
    return n ? s + (uint64_t)(p[0] << 8) : s;
}

static uint32_t fold(uint64_t s)
{
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    return (uint32_t)(~s & 0xffff);
}

static uint32_t tcp_sum(const tcp_t *t)
{
    uint32_t n = (uint32_t)(t->data - t->tcp) + t->n;
    uint64_t s = t->v6 ? sum(t->ip + 8, 32, 6 + n) : sum(t->ip + 12, 8, 6 + n);
    return fold(sum(t->tcp, n, s));
}

/* The TCP segment in a frame; 0: something else, or a fragment. */
static int parse(frame_t *f, tcp_t *t)
{
    uint32_t type = get16(f->b + 12), total;
    t->ip = f->b + 14;
    if (type == 0x0800 && f->len >= 54 && t->ip[9] == 6 && !(get16(t->ip + 6) & 0x3fff)) {
        t->v6 = 0;
        t->tcp = t->ip + (t->ip[0] & 15) * 4;
        total = get16(t->ip + 2);
    } else if (type == 0x86dd && f->len >= 74 && t->ip[6] == 6) {
        t->v6 = 1;
        t->tcp = t->ip + 40;
        total = get16(t->ip + 4) + 40;
    } else
        return 0;
    t->data = t->tcp + (t->tcp[12] >> 4) * 4;
    if (total + 14 > f->len || t->data > t->ip + total)
        return 0;
    f->len = total + 14;
    t->n = (uint32_t)(t->ip + total - t->data);
    t->seq = get32(t->tcp + 4), t->ack = get32(t->tcp + 8), t->flags = t->tcp[13];
    return 1;
}

/* Give the segment this sequence number, payload length and flags; sums and lengths follow. The payload is in place. */
static void rebuild(frame_t *f, tcp_t *t, uint32_t seq, uint32_t n, int flags)
{
    uint32_t total = (uint32_t)(t->data - t->ip) + n;
    t->n = n, t->seq = seq, t->flags = flags;
    f->len = 14 + total;
    put32(t->tcp + 4, seq);
    t->tcp[13] = (uint8_t)flags;
    if (t->v6)
        put16(t->ip + 4, total - 40);
    else {
        put16(t->ip + 2, total);
        put16(t->ip + 10, 0);
        put16(t->ip + 10, fold(sum(t->ip, (uint32_t)(t->tcp - t->ip), 0)));
    }
    put16(t->tcp + 16, 0);
    put16(t->tcp + 16, tcp_sum(t));
}

/* Where the connection's ACKs of this direction are kept. One connection at a place may push another one out. */
static acked_t *acked_of(way_t *w, const tcp_t *t)
{
    uint32_t a = get16(t->tcp), b = get16(t->tcp + 2);
    uint64_t name = (uint64_t)t->v6 << 32 | (a < b ? a << 16 | b : b << 16 | a);
    acked_t *at = &w->acked[name % 4093];
    if (at->name != name)
        *at = (acked_t){name, 0, 0, 0};
    return at;
}

static void tap(FILE *to, const frame_t *f)
{
    int64_t t = now_ns(CLOCK_REALTIME);
    uint32_t head[4] = {(uint32_t)(t / 1000000000), (uint32_t)(t % 1000000000), f->len, f->len};
    fwrite(head, sizeof head, 1, to);
    fwrite(f->b, f->len, 1, to);
}

static void count(way_t *w, const tcp_t *t, int what) { w->count[t->v6][what]++; }

static void send_frame(way_t *w, const frame_t *f)
{
    ssize_t sent;
    int v6 = get16(f->b + 12) == 0x86dd;
    tap(w->tap_out, f);
    while ((sent = send(w->out, f->b, f->len, 0)) < 0 && errno == EINTR)
        ;
    w->count[v6][sent < 0 ? UNSENT : SENT]++;
    for (int i = 0; i < HELD; i++)
        if (w->held[i].places)
            w->held[i].overtaken = 1;
}

static void release(way_t *w, int64_t now, int passed)
{
    for (int i = 0; i < HELD; i++) {
        held_t *h = &w->held[i];
        if (!h->places)
            continue;
        if (passed && h->places > 1)
            h->places--;
        if (h->places == 1 || h->due <= now) {
            h->places = 0;
            w->count[get16(h->f.b + 12) == 0x86dd][LATE] += (uint64_t)h->overtaken;
            send_frame(w, &h->f);
        }
    }
}

static void hold(way_t *w, const frame_t *f, int64_t now)
{
    for (int i = 0; i < HELD; i++)
        if (!w->held[i].places) {
            w->held[i] = (held_t){2 + (int)draw(w, draw(w, 4) ? 4 : PLACES), 0, now + HOLD_NS, *f};
            return;
        }
    send_frame(w, f);
}

static void remember(way_t *w, const frame_t *f, int64_t now)
{
    w->old[w->nold % OLD] = *f;
    w->old_ns[w->nold++ % OLD] = now;
}

static void emit(way_t *w, frame_t *f, int64_t now)
{
    tcp_t t;
    int twice = happens(w, TWICE);
    parse(f, &t);
    remember(w, f, now);
    if (happens(w, LATE))
        hold(w, f, now);
    else
        send_frame(w, f);
    if (twice) {
        count(w, &t, TWICE);
        if (draw(w, 2))
            hold(w, f, now);
        else
            send_frame(w, f);
    }
}

static void split(way_t *w, frame_t *f, tcp_t *t, int64_t now)
{
    frame_t a = *f, b = *f;
    tcp_t u;
    uint32_t cut = 1 + draw(w, t->n - 1), overlap = draw(w, 3) ? 0 : draw(w, cut), from = cut - overlap;
    count(w, t, SPLIT);
    parse(&a, &u);
    rebuild(&a, &u, t->seq, cut, t->flags & ~(FIN | PSH));
    parse(&b, &u);
    memmove(u.data, u.data + from, t->n - from);
    rebuild(&b, &u, t->seq + from, t->n - from, t->flags & ~CWR);
    emit(w, &a, now);
    emit(w, &b, now);
}

/* The pair's first half and `f` as one segment in `f`, with the headers of the second. */
static int merge(way_t *w, frame_t *f, tcp_t *t)
{
    tcp_t a;
    uint32_t n;
    parse(&w->pair, &a);
    n = a.n;
    if (a.v6 != t->v6 || memcmp(a.tcp, t->tcp, 4) || memcmp(a.ip + (a.v6 ? 8 : 12), t->ip + (a.v6 ? 8 : 12), a.v6 ? 32 : 8) ||
        a.seq + n != t->seq || !t->n || t->flags & (SYN | RST | URG) || f->len + n > ROOM || (int32_t)(t->ack - a.ack) < 0)
        return 0;
    memmove(t->data + n, t->data, t->n);
    memcpy(t->data, a.data, n);
    rebuild(f, t, a.seq, t->n + n, t->flags);
    count(w, t, COALESCE);
    return 1;
}

static void unpair(way_t *w, int64_t now)
{
    if (w->paired) {
        w->paired = 0;
        emit(w, &w->pair, now);
    }
}

static void again(way_t *w, int what, int64_t now)
{
    uint32_t which = draw(w, w->nold < OLD ? w->nold : OLD);
    frame_t f = w->old[which];
    tcp_t t;
    acked_t *acked;
    if (now - w->old_ns[which] > LIVES_NS)
        return;
    parse(&f, &t);
    acked = acked_of(w, &t);
    if (what != STALE && (!t.n || t.flags & (SYN | FIN | RST) || !acked->known || (int32_t)(acked->to - (t.seq + t.n)) < 0))
        return;
    if (what == RESET)
        rebuild(&f, &t, acked->sent + 1 + draw(w, 1000), 0, draw(w, 2) ? RST : RST | ACK), remember(w, &f, now);
    else if (what == FORGE) {
        for (uint32_t i = 0; i < t.n; i++)
            t.data[i] = (uint8_t)draw(w, 256);
        rebuild(&f, &t, t.seq, t.n, t.flags);
    }
    count(w, &t, what);
    send_frame(w, &f);
}

static void suffer(way_t *w, frame_t *f, tcp_t *t, int64_t now)
{
    int plain = t->n && !(t->flags & (SYN | FIN | RST | URG));
    if (happens(w, DROP)) {
        count(w, t, DROP);
        return;
    }
    if (happens(w, CORRUPT)) {
        count(w, t, CORRUPT);
        t->tcp[draw(w, (uint32_t)(t->data - t->tcp) + t->n)] ^= (uint8_t)(1 + draw(w, 255));
        send_frame(w, f);
        return;
    }
    if (w->paired && !merge(w, f, t))
        unpair(w, now);
    else if (w->paired)
        w->paired = plain = 0;
    if (plain && f->len < ROOM - 100 && happens(w, COALESCE)) {
        w->pair = *f;
        w->paired = 1;
        w->pair_due = now + PAIR_NS;
    } else if (t->n > 1 && !(t->flags & (SYN | RST | URG)) && happens(w, SPLIT))
        split(w, f, t, now);
    else
        emit(w, f, now);
    if (w->nold && happens(w, STALE))
        again(w, STALE, now);
    if (w->nold && happens(w, FORGE))
        again(w, FORGE, now);
    if (w->nold && happens(w, RESET))
        again(w, RESET, now);
}

static void note_sent(acked_t *a, const tcp_t *t)
{
    uint32_t end = t->seq + t->n + !!(t->flags & SYN) + !!(t->flags & FIN);
    if (t->flags & SYN || (int32_t)(end - a->sent) > 0)
        a->sent = end;
}

static void carry(way_t *w, frame_t *f, int64_t now)
{
    way_t *back = &way[w == way];
    tcp_t t;
    acked_t *acked;
    tap(w->tap_in, f);
    if (!parse(f, &t)) {
        send_frame(w, f);
        return;
    }
    count(w, &t, SEEN);
    if (tcp_sum(&t))
        count(w, &t, UNSUMMED);
    note_sent(acked_of(w, &t), &t);
    acked = acked_of(back, &t);
    if (t.flags & SYN)
        acked->known = acked_of(w, &t)->known = 0;
    else if (t.flags & ACK && (!acked->known || (int32_t)(t.ack - acked->to) > 0))
        acked->known = 1, acked->to = t.ack;
    suffer(w, f, &t, now);
    release(w, now, 1);
}

static int port(const char *device)
{
    int on = 1, room = 16 << 20, s = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(device)};
    if (s < 0 || !at.sll_ifindex || setsockopt(s, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) ||
        bind(s, (struct sockaddr *)&at, sizeof at)) {
        perror(device);
        exit(1);
    }
    if (setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room))
        setsockopt(s, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    return s;
}

static FILE *capture(const char *path)
{
    uint32_t head[6] = {0xa1b23c4d, 4 << 16 | 2, 0, 0, 65535, 1};
    FILE *f = fopen(path, "wb");
    if (!f) {
        perror(path);
        exit(1);
    }
    fwrite(head, sizeof head, 1, f);
    return f;
}

static void report(void)
{
    printf("{");
    for (int what = 0; what < NWHAT; what++)
        printf("%s\"%s\": [%llu, %llu, %llu, %llu]", what ? ", " : "", NAME[what],
               (unsigned long long)way[0].count[0][what], (unsigned long long)way[1].count[0][what],
               (unsigned long long)way[0].count[1][what], (unsigned long long)way[1].count[1][what]);
    printf("}\n");
}

static void relay(void)
{
    struct pollfd p[2] = {{way[0].in, POLLIN, 0}, {way[1].in, POLLIN, 0}};
    static frame_t f;
    static uint8_t big[65536];
    while (!over) {
        int64_t now;
        int idle = 1;
        for (int i = 0; i < 2; i++) {
            ssize_t n = recv(way[i].in, big, sizeof big, MSG_DONTWAIT);
            now = now_ns(CLOCK_MONOTONIC);
            if (n >= 14) {
                idle = 0;
                if (n > ROOM)
                    way[i].count[0][OVERSIZED]++;
                else {
                    f.len = (uint32_t)n;
                    memcpy(f.b, big, f.len);
                    carry(&way[i], &f, now);
                }
            }
            if (way[i].paired && way[i].pair_due <= now)
                unpair(&way[i], now);
            release(&way[i], now, 0);
        }
        if (idle)
            poll(p, 2, 1);
    }
}

int main(int argc, char **argv)
{
    struct sigaction stopping = {.sa_handler = stop};
    if (argc < 6)
        return 2;
    way[0].in = way[1].out = port(argv[1]);
    way[1].in = way[0].out = port(argv[2]);
    way[0].tap_in = way[1].tap_out = capture(argv[3]);
    way[1].tap_in = way[0].tap_out = capture(argv[4]);
    for (int i = 0; i < 2; i++) {
        way[i].rng = strtoull(argv[5], NULL, 10) * 2 + (uint64_t)i + 0x9E3779B97F4A7C15ULL;
        for (int n = 0; n < 16; n++)
            draw(&way[i], 2);
    }
    for (int a = 6; a < argc; a++)
        for (int what = 0; what < SEEN; what++)
            if (!strncmp(argv[a], NAME[what], strlen(NAME[what])) && argv[a][strlen(NAME[what])] == '=')
                chance[what] = atoi(argv[a] + strlen(NAME[what]) + 1);
    sigaction(SIGTERM, &stopping, NULL);
    puts("ready");
    fflush(stdout);
    relay();
    fclose(way[0].tap_in);
    fclose(way[1].tap_in);
    report();
    return 0;
}
