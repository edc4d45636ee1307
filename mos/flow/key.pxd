# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Hash and equality of flow keys. SipHash-1-3: with a secret key nobody can make flows that collide on purpose."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from mos.net.packet cimport key_t

cdef inline uint64_t load64(const void *p) noexcept nogil:
    cdef uint64_t x
    memcpy(&x, p, 8)
    return x

cdef inline uint32_t load32(const void *p) noexcept nogil:
    cdef uint32_t x
    memcpy(&x, p, 4)
    return x

cdef inline uint64_t rotl(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))

cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotl(v[1], 13) ^ v[0]
    v[0] = rotl(v[0], 32)
    v[2] += v[3]
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotl(v[1], 17) ^ v[2]
    v[2] = rotl(v[2], 32)

cdef inline void sip_word(uint64_t *v, uint64_t word) noexcept nogil:
    v[3] ^= word
    sip_round(v)
    v[0] ^= word

cdef inline uint64_t key_hash(const key_t *k, uint64_t k0, uint64_t k1) noexcept nogil:
    """SipHash-1-3 under the key (k0, k1) of the 44 bytes of `k`, of an IPv4 key without the 24 that are always zero: 20 bytes.

    Words are read as on a little-endian machine. The length is part of what is hashed, so the two kinds stay apart.
    Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), with one and three rounds.
    """
    cdef const char *p = <const char *>k
    cdef uint64_t length = 44
    cdef uint64_t v[4]
    v[0] = k0 ^ <uint64_t>0x736f6d6570736575
    v[1] = k1 ^ <uint64_t>0x646f72616e646f6d
    v[2] = k0 ^ <uint64_t>0x6c7967656e657261
    v[3] = k1 ^ <uint64_t>0x7465646279746573
    if k.ipver == 4:
        length = 20
        sip_word(v, load32(p) | <uint64_t>load32(p + 16) << 32)
    else:
        sip_word(v, load64(p))
        sip_word(v, load64(p + 8))
        sip_word(v, load64(p + 16))
        sip_word(v, load64(p + 24))
    sip_word(v, load64(p + 32))
    sip_word(v, (length << 56) | load32(p + 40))
    v[2] ^= 0xff
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]

cdef inline bint key_equal(const key_t *a, const key_t *b) noexcept nogil:
    cdef const char *p = <const char *>a
    cdef const char *q = <const char *>b
    return ((load64(p) ^ load64(q)) | (load64(p + 8) ^ load64(q + 8)) | (load64(p + 16) ^ load64(q + 16))
            | (load64(p + 24) ^ load64(q + 24)) | (load64(p + 32) ^ load64(q + 32))
            | (load32(p + 40) ^ load32(q + 40))) == 0
