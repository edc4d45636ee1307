# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Changed frames: other addresses, other bytes, RSTs of our own. Checksums are mended incrementally (RFC 1624)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from mos.flow.flow cimport flow_t
from mos.net.packet cimport key_t, pkt_t

cdef uint32_t frame_copy(uint8_t *out, const pkt_t *p) noexcept nogil
cdef int rewrite_flow(uint8_t *out, const pkt_t *p, const flow_t *f, int s) noexcept nogil
cdef int replace_payload(uint8_t *out, const pkt_t *p, uint32_t at, const uint8_t *data, uint32_t n) noexcept nogil
cdef int set_ttl(uint8_t *out, const pkt_t *p, int ttl) noexcept nogil
cdef uint32_t make_reset(uint8_t *out, const pkt_t *p, const flow_t *f, int way) noexcept nogil
cdef int key_make(key_t *k, const key_t *like, const uint8_t *client, uint16_t client_port, const uint8_t *server,
                  uint16_t server_port) noexcept nogil
