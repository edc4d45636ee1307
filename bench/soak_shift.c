/* Moves the records of a classic little-endian nanosecond pcap in time, and its frames to other addresses: `flip` is XORed to
 * the two middle bytes of both IPv4 addresses and to two bytes of both IPv6 ones. Checksums are updated (RFC 1624). */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t get16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }

static void put16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }

static void update(uint8_t *sum, uint32_t was, uint32_t is)
{
    uint32_t s = (~get16(sum) & 0xffff) + (~was & 0xffff) + is;
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    put16(sum, ~s & 0xffff);
}

static void move4(uint8_t *ip, const uint8_t *end, uint32_t flip)
{
    uint8_t *l4 = ip + (ip[0] & 15) * 4, *sum = NULL;
    int whole = (get16(ip + 6) & 0x3fff) == 0;
    if (whole && ip[9] == 6 && l4 + 18 <= end)
        sum = l4 + 16;
    else if (whole && ip[9] == 17 && l4 + 8 <= end && get16(l4 + 6))
        sum = l4 + 6;
    for (int at = 12; at < 20; at += 2) {
        uint32_t was = get16(ip + at), is = was ^ (at & 2 ? (flip & 0xff) << 8 : flip >> 8);
        put16(ip + at, is);
        update(ip + 10, was, is);
        if (sum)
            update(sum, was, is);
    }
}

static void move6(uint8_t *ip, const uint8_t *end, uint32_t flip)
{
    uint8_t *l4 = ip + 40, *sum = NULL;
    if (ip[6] == 6 && l4 + 18 <= end)
        sum = l4 + 16;
    else if (ip[6] == 17 && l4 + 8 <= end)
        sum = l4 + 6;
    for (int at = 8 + 12; at < 40; at += 16) {
        uint32_t was = get16(ip + at), is = was ^ ((flip & 0xff) << 8 | flip >> 8);
        put16(ip + at, is);
        if (sum)
            update(sum, was, is);
    }
}

uint64_t shift(uint8_t *p, uint64_t size, uint64_t ns, uint32_t flip)
{
    uint8_t *end = p + size;
    uint64_t packets = 0;
    while (p < end) {
        uint32_t head[4];
        memcpy(head, p, 16);
        uint64_t t = head[0] * 1000000000ull + head[1] + ns;
        head[0] = (uint32_t)(t / 1000000000ull);
        head[1] = (uint32_t)(t % 1000000000ull);
        memcpy(p, head, 16);
        uint8_t *at = p + 16 + 12, *stop = p + 16 + head[2];
        while (at + 2 < stop && (get16(at) == 0x8100 || get16(at) == 0x88a8))
            at += 4;
        if (get16(at) == 0x0800 && at + 22 <= stop)
            move4(at + 2, stop, flip);
        else if (get16(at) == 0x86dd && at + 42 <= stop)
            move6(at + 2, stop, flip);
        p = stop;
        packets++;
    }
    return packets;
}
