"""Reading captures from a mapped file, a descriptor or a Python object."""
from libc.stdint cimport int64_t, uint8_t
from mos.io.pages cimport pages_t
from mos.io.parse cimport parse_t, reader_t
from mos.io.port cimport Port
from mos.io.turns cimport turn_t, turns_t
from mos.net.packet cimport pkt_t

cdef class Source(Port):
    cdef reader_t r
    cdef parse_t parse
    cdef int fd             # read(2) from here, or -1
    cdef bint owns_fd
    cdef bint whole         # nothing comes after r.end
    cdef uint8_t *buf       # streaming buffer, or NULL
    cdef size_t room
    cdef pages_t pages      # of the mapped file, which is r.base then
    cdef int saved_errno
    cdef turn_t turn        # where this worker is in what all of them read
    cdef turns_t *turns     # that, or NULL
    cdef public object waits    # called before this worker sleeps until others have got further; None: nobody
    cdef object reader      # has readinto(), or None
    cdef object failure     # what it raised
    cdef object inode       # (device, inode) of the mapped file, or None
    cdef object __weakref__
    cdef readonly bint reading  # waiting for bytes, so that a signal handler knows that raising loses no packet
    cdef readonly str name
    cdef readonly str format

    cdef bint map_file(self) except -1
    cdef bint read_exactly(self, size_t size) except -1
    cdef int start_buffer(self, bytes head, size_t room) except -1
    cdef int start(self) except -1
    cdef void cut(self) noexcept nogil
    cdef int take_turns(self, pkt_t *pkts, int n) noexcept nogil
    cdef bint tell_waiting(self) noexcept with gil
    cdef bint refill(self) noexcept nogil
    cdef int64_t read_some(self, uint8_t *p, size_t n) noexcept nogil
    cdef int64_t read_fd(self, uint8_t *p, size_t n) noexcept nogil
    cdef int64_t read_object(self, uint8_t *p, size_t n) noexcept with gil
    cdef bint interrupted(self) noexcept with gil
