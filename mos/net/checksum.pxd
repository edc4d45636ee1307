# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The Internet checksum (RFC 1071), pseudo headers (RFC 9293 3.1, RFC 8200 8.1) and incremental updates (RFC 1624).

Sums run over 16-bit words in network order and are kept unfolded in 64 bits; a checksum field holds the complement of
the folded sum. A range that starts at an odd offset of the whole must not be added: split at even offsets.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from mos.net.bytes cimport be32

cdef extern from *:
    """
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define MOS_WIRE16(x) __builtin_bswap16(x)
    #else
    #define MOS_WIRE16(x) (x)
    #endif
    /* Ones' complement addition of 64 bits, of which compilers make an add with carry. */
    static inline uint64_t mos_around(uint64_t a, uint64_t b) { a += b; return a + (a < b); }
    """
    uint16_t wire16 "MOS_WIRE16"(uint16_t x) nogil
    uint64_t around "mos_around"(uint64_t a, uint64_t b) nogil

cdef inline uint16_t csum_fold(uint64_t sum) noexcept nogil:
    """The ones'-complement sum as 16 bits; 0 only if every word was 0."""
    sum = (sum >> 32) + <uint32_t>sum
    sum = (sum >> 32) + <uint32_t>sum
    sum = (sum >> 16) + (sum & 0xffff)
    sum = (sum >> 16) + (sum & 0xffff)
    return <uint16_t>sum

cdef inline uint64_t csum_range(const uint8_t *p, uint32_t n) noexcept nogil:
    """Sum of n bytes; an odd last byte is padded with zero. Sums of words may be taken in any byte order (RFC 1071 2B)."""
    cdef uint64_t sum = 0
    cdef uint64_t tail = 0
    cdef uint32_t word
    cdef uint32_t i
    for i in range(n >> 2):
        memcpy(&word, p + 4 * i, 4)
        sum += word
    if n & 3:
        memcpy(&tail, p + (n & ~<uint32_t>3), n & 3)
        sum += <uint32_t>tail
    return wire16(csum_fold(sum))

cdef inline uint64_t csum_sum20(const uint8_t *p) noexcept nogil:
    """Sum of 20 bytes in the byte order of this machine: 64-bit words add up to the same modulo 0xffff (RFC 1071 2C)."""
    cdef uint64_t a, b
    cdef uint32_t c
    memcpy(&a, p, 8)
    memcpy(&b, p + 8, 8)
    memcpy(&c, p + 16, 4)
    return around(around(a, b), c)

cdef inline bint csum_right(uint64_t sum) noexcept nogil:
    """Whether what has this sum, a checksum in it, adds up to 0xffff: to a multiple of it, in any byte order, and not to 0."""
    return sum % 0xffff == 0 and sum != 0

cdef inline bint csum_right20(const uint8_t *p) noexcept nogil:
    return csum_right(csum_sum20(p))

cdef inline bint csum_right_bare(const uint8_t *src, const uint8_t *dst, const uint8_t *tcp) noexcept nogil:
    """The same of a TCP header between these IPv4 addresses, without options and payload: most of what floods are made of."""
    cdef uint32_t a, b
    memcpy(&a, src, 4)
    memcpy(&b, dst, 4)
    return csum_right(around(csum_sum20(tcp), <uint64_t>a + b + wire16(6 + 20)))        # protocol and length of the pseudo header

cdef inline uint64_t csum_pseudo(const uint8_t *src, const uint8_t *dst, uint8_t ipver, uint8_t proto,
                                 uint32_t length) noexcept nogil:
    """Sum of the pseudo header of `length` transport bytes."""
    cdef uint64_t sum = proto
    cdef int i
    sum += length >> 16
    sum += length & 0xffff
    if ipver == 4:
        return sum + be32(src) + be32(dst)
    for i in range(4):
        sum += <uint64_t>be32(src + 4 * i) + be32(dst + 4 * i)
    return sum

cdef inline uint16_t csum_update16(uint16_t field, uint16_t old, uint16_t new) noexcept nogil:
    """The checksum field after a 16-bit word changed from `old` to `new` (RFC 1624 equation 3)."""
    return <uint16_t>~csum_fold(<uint64_t>(<uint16_t>~field) + <uint16_t>~old + new)

cdef inline uint16_t csum_update32(uint16_t field, uint32_t old, uint32_t new) noexcept nogil:
    """As csum_update16 for two words at an even offset."""
    return <uint16_t>~csum_fold(<uint64_t>(<uint16_t>~field) + <uint32_t>~old + new)
