# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Numbers in network byte order, at any alignment. Callers have checked that the bytes are there."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef inline uint16_t be16(const uint8_t *p) noexcept nogil:
    return <uint16_t>((<uint32_t>p[0] << 8) | p[1])

cdef inline uint32_t be24(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 16) | (<uint32_t>p[1] << 8) | p[2]

cdef inline uint32_t be32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]

cdef inline uint64_t be64(const uint8_t *p) noexcept nogil:
    return (<uint64_t>be32(p) << 32) | be32(p + 4)

cdef inline uint16_t le16(const uint8_t *p) noexcept nogil:
    return <uint16_t>((<uint32_t>p[1] << 8) | p[0])

cdef inline uint32_t le32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[3] << 24) | (<uint32_t>p[2] << 16) | (<uint32_t>p[1] << 8) | p[0]

cdef inline void put16(uint8_t *p, uint32_t x) noexcept nogil:
    p[0] = <uint8_t>(x >> 8)
    p[1] = <uint8_t>x

cdef inline void put32(uint8_t *p, uint32_t x) noexcept nogil:
    put16(p, x >> 16)
    put16(p + 2, x)

cdef inline void put64(uint8_t *p, uint64_t x) noexcept nogil:
    put32(p, <uint32_t>(x >> 32))
    put32(p + 4, <uint32_t>x)
