# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""SipHash-1-3 of any bytes: with a secret key nobody can choose inputs that collide.

Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), with one and three rounds.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define MOS_LITTLE64(x) (x)
    #else
    #define MOS_LITTLE64(x) __builtin_bswap64(x)
    #endif
    """
    uint64_t little64 "MOS_LITTLE64"(uint64_t x) nogil

cdef inline uint64_t sip_load(const uint8_t *p) noexcept nogil:
    """Eight bytes, little-endian."""
    cdef uint64_t x
    memcpy(&x, p, 8)
    return little64(x)

cdef inline void sip_store(uint8_t *p, uint64_t x) noexcept nogil:
    x = little64(x)
    memcpy(p, &x, 8)

cdef inline uint64_t sip_tail(const uint8_t *p, size_t n) noexcept nogil:
    """The last n % 8 of n bytes, likewise."""
    cdef uint64_t x = 0
    cdef size_t i
    if n >= 8:
        return sip_load(p + n - 8) >> (64 - 8 * (n & 7)) if n & 7 else 0
    for i in range(n):
        x |= <uint64_t>p[i] << (8 * i)
    return x

cdef inline uint64_t sip_rotl(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))

cdef inline void sip_mix(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = sip_rotl(v[1], 13) ^ v[0]
    v[0] = sip_rotl(v[0], 32)
    v[2] += v[3]
    v[3] = sip_rotl(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = sip_rotl(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = sip_rotl(v[1], 17) ^ v[2]
    v[2] = sip_rotl(v[2], 32)

cdef inline uint64_t siphash13(const uint8_t *p, size_t n, uint64_t k0, uint64_t k1) noexcept nogil:
    """Hash of the n bytes at p under the key (k0, k1)."""
    cdef uint64_t v[4]
    cdef uint64_t m
    cdef size_t i
    v[0] = k0 ^ <uint64_t>0x736f6d6570736575
    v[1] = k1 ^ <uint64_t>0x646f72616e646f6d
    v[2] = k0 ^ <uint64_t>0x6c7967656e657261
    v[3] = k1 ^ <uint64_t>0x7465646279746573
    for i in range(n // 8):
        m = sip_load(p + 8 * i)
        v[3] ^= m
        sip_mix(v)
        v[0] ^= m
    m = (<uint64_t>n << 56) | sip_tail(p, n)
    v[3] ^= m
    sip_mix(v)
    v[0] ^= m
    v[2] ^= 0xff
    sip_mix(v)
    sip_mix(v)
    sip_mix(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
