"""Writing captures. Call write() without the GIL; what went wrong is raised by flush() or close()."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from mos.io.parts cimport part_t
from mos.net.packet cimport pkt_t

# One Interface Description Block of the file: an interface of the input, with one of its link types.
cdef struct idb_t:
    uint16_t iface
    uint16_t linktype

cdef class Writer:
    cdef int fd
    cdef bint owns_fd
    cdef bint blocks            # pcapng, else pcap
    cdef bint started           # the file header is written
    cdef int why                # FAILED_*
    cdef int saved_errno
    cdef object failure         # what a signal handler raised
    cdef bint reported
    cdef uint32_t fraction      # ns in one unit of a pcap record's sub-second field
    cdef uint16_t linktype      # of a pcap file
    cdef uint8_t *buf
    cdef size_t used
    cdef idb_t *idbs
    cdef uint32_t nidbs
    cdef uint32_t room
    cdef uint32_t *newest       # by iface: number + 1 of its newest block, 0 for none
    cdef part_t *parts          # of workers, to be merged into this; NULL: there are none
    cdef int nparts
    cdef object held            # their files
    cdef bint parted            # this is a worker's, and writes its part
    cdef int queue              # of a recording with parts: whose packet comes next, or came, else -1
    cdef int64_t key[4]         # of a part: the place of what is written next
    cdef readonly uint64_t packets
    cdef readonly str name
    cdef readonly str format

    cdef int write(self, const pkt_t *p, const uint8_t *data, uint32_t caplen, uint32_t wirelen) noexcept nogil
    cdef int record(self, const pkt_t *p) noexcept nogil
    cdef int put_part(self, const pkt_t *p, const uint8_t *data, uint32_t caplen, uint32_t wirelen) noexcept nogil
    cdef void put_options(self, const pkt_t *p, bint partly) noexcept nogil
    cdef void put_custom(self, uint32_t kind, uint32_t size) noexcept nogil
    cdef int put_tick(self, int64_t ts) noexcept nogil
    cdef bint merge(self, bint rest) noexcept nogil
    cdef int register(self, uint16_t iface, uint16_t linktype) noexcept nogil
    cdef int flush_buffer(self) noexcept nogil
    cdef void start(self) noexcept nogil
    cdef uint32_t find_idb(self, uint16_t iface, uint16_t linktype) noexcept nogil
    cdef uint32_t add_idb(self, uint16_t iface, uint16_t linktype) noexcept nogil
    cdef void put_record(self, int64_t ts, uint32_t caplen, uint32_t wirelen) noexcept nogil
    cdef void put_block(self, int64_t ts, uint32_t idb, uint32_t caplen, uint32_t pad, uint32_t wirelen) noexcept nogil
    cdef int put_trailer(self, uint32_t pad, uint32_t length) noexcept nogil
    cdef int put(self, const uint8_t *data, uint32_t n) noexcept nogil
    cdef bint interrupted(self) noexcept with gil
    cdef int check(self) except -1
