# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Hashes of a batch of IPv4 keys, worked out side by side in vector registers: 2 ns each where one at a time takes 10."""
from libc.stdint cimport uint64_t
from mos.flow.key cimport key_hash, load32, load64
from mos.net.packet cimport AHEAD_FLOW, pkt_t

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
    #define MOS_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
    #else
    #define MOS_CLONES
    #endif

    #define MOS_ROTL(x, n) ((x) << (n) | (x) >> (64 - (n)))
    #define MOS_ROUND(a, b, c, d) \\
        a += b; b = MOS_ROTL(b, 13) ^ a; a = MOS_ROTL(a, 32); c += d; d = MOS_ROTL(d, 16) ^ c; \\
        a += d; d = MOS_ROTL(d, 21) ^ a; c += b; b = MOS_ROTL(b, 17) ^ c; c = MOS_ROTL(c, 32)
    #define MOS_WORD(a, b, c, d, w) d ^= w; MOS_ROUND(a, b, c, d); a ^= w

    /* Straight-line code in a loop of known length: what the compiler turns into vectors. */
    MOS_CLONES static void mos_sip3(const uint64_t *x, const uint64_t *y, const uint64_t *z, uint64_t *out,
                                    uint64_t k0, uint64_t k1)
    {
        for (int i = 0; i < 64; i++) {
            uint64_t a = k0 ^ 0x736f6d6570736575, b = k1 ^ 0x646f72616e646f6d,
                     c = k0 ^ 0x6c7967656e657261, d = k1 ^ 0x7465646279746573;
            MOS_WORD(a, b, c, d, x[i]);
            MOS_WORD(a, b, c, d, y[i]);
            MOS_WORD(a, b, c, d, z[i]);
            c ^= 0xff;
            MOS_ROUND(a, b, c, d);
            MOS_ROUND(a, b, c, d);
            MOS_ROUND(a, b, c, d);
            out[i] = a ^ b ^ c ^ d;
        }
    }

    /* The same of keys in no domain, of which it changes two words. */
    MOS_CLONES static void mos_sip2(const uint64_t *x, const uint64_t *y, uint64_t *out, uint64_t k0, uint64_t k1, uint64_t mask)
    {
        for (int i = 0; i < 64; i++) {
            uint64_t a = k0 ^ 0x736f6d6570736575, b = k1 ^ 0x646f72616e646f6d,
                     c = k0 ^ 0x6c7967656e657261, d = k1 ^ 0x7465646279746573;
            MOS_WORD(a, b, c, d, x[i]);
            MOS_WORD(a, b, c, d, y[i]);
            MOS_WORD(a, b, c, d, (uint64_t)20 << 56);
            c ^= 0xff;
            MOS_ROUND(a, b, c, d);
            MOS_ROUND(a, b, c, d);
            MOS_ROUND(a, b, c, d);
            out[i] = (a ^ b ^ c ^ d) & mask;
        }
    }
    """
    void mos_sip2(const uint64_t *x, const uint64_t *y, uint64_t *out, uint64_t k0, uint64_t k1, uint64_t mask) nogil
    void mos_sip3(const uint64_t *x, const uint64_t *y, const uint64_t *z, uint64_t *out, uint64_t k0, uint64_t k1) nogil

cdef enum:
    LANES = 64              # keys at a time
    FEW = 12                # so many are as fast one by one

cdef inline void hash_ahead(pkt_t *pkts, int n, uint64_t k0, uint64_t k1, uint64_t mask) noexcept nogil:
    """Set `hash` of those that are decoded ahead: what key_hash says, and `mask`."""
    cdef int at = 0
    while at < n:
        hash_some(pkts + at, min(n - at, <int>LANES), k0, k1, mask)
        at += LANES

cdef inline void hash_some(pkt_t *pkts, int n, uint64_t k0, uint64_t k1, uint64_t mask) noexcept nogil:
    """The same for n <= LANES."""
    cdef uint64_t x[LANES]
    cdef uint64_t y[LANES]
    cdef uint64_t z[LANES]
    cdef uint64_t found[LANES]
    cdef const char *p
    cdef int i
    if n >= FEW:
        for i in range(LANES):
            p = <const char *>&pkts[i if i < n else 0].key
            x[i] = load32(p) | <uint64_t>load32(p + 16) << 32
            y[i] = load64(p + 32)
            z[i] = <uint64_t>20 << 56 | load32(p + 40)
        mos_sip3(x, y, z, found, k0, k1)
    for i in range(n):
        if pkts[i].ahead == AHEAD_FLOW:
            pkts[i].hash = (found[i] if n >= FEW and pkts[i].key.ipver == 4 else key_hash(&pkts[i].key, k0, k1)) & mask
