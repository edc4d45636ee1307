# cython: nonecheck=False
# With it Cython refuses `self.x += 1` without the GIL; self is never None.
"""The capture writer: pcap or pcapng, in the machine's byte order, buffered, straight to a descriptor."""
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, EPIPE, errno
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close, write as write_fd

import os
import stat
import struct
import sys
import tempfile

from mos.errors import MosError, UsageError
from mos.io.parse cimport COPY_BLOCK, CUSTOM, ENTERPRISE, OPTION_CUSTOM, OPTION_QUEUE, TICK_BLOCK, max_caplen
from mos.io.parts cimport (
    PART_MARK, PART_PACKET, PART_TICK, part_done, part_end, part_head, part_head_t, part_packet, part_start, parts_first)
from mos.net.shard cimport outer_fragment
from mos.io.pcap import is_mapped

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout)
    short POLLOUT

cdef enum:
    BUFFER = 1 << 20        # one write(2) per some thousand packets
    HEAD = 32               # room for the fixed fields of any record or block
    STEP = 32 << 20         # bytes merged before signals and workers are looked after: some 30 ms

cdef enum:
    FAILED_NOT, FAILED_ERRNO, FAILED_SIGNAL, FAILED_LINKTYPE, FAILED_MEMORY, FAILED_CLOSED


SECTION, INTERFACE = 0x0A0D0D0A, 1


cdef inline void put16(uint8_t *p, uint16_t v) noexcept nogil:
    memcpy(p, &v, 2)


cdef inline void put32(uint8_t *p, uint32_t v) noexcept nogil:
    memcpy(p, &v, 4)


cdef class Writer:
    """Write packets to `path`, `-` being standard output. A name that ends in .pcapng or .ntar makes a pcapng, any
    other a pcap, with ns time stamps if `nanosecond`, else µs. `linktype` is that of a pcap file without packets.

    A pcap holds packets of one link type; a pcapng one interface per (iface, linktype). Frames are cut to the longest
    that readers accept; times outside what the format can say are clamped. Raises UsageError if it cannot be opened.
    """

    def __cinit__(self, path, bint nanosecond=True, uint16_t linktype=1):
        self.fd = -1
        self.buf = <uint8_t *>malloc(BUFFER)
        self.newest = <uint32_t *>calloc(65536, sizeof(uint32_t))   # one for each value of pkt_t.iface
        if self.buf == NULL or self.newest == NULL:
            raise MemoryError
        self.name = os.fspath(path)
        self.blocks = self.name.endswith((".pcapng", ".ntar"))
        self.format = "pcapng" if self.blocks else "pcap"
        self.fraction, self.linktype, self.queue = 1 if nanosecond else 1000, linktype, -1
        self.fd, self.owns_fd = _open(self.name), self.name != "-"

    cdef int write(self, const pkt_t *p, const uint8_t *data, uint32_t caplen, uint32_t wirelen) noexcept nogil:
        """Append a packet with the time, link type and interface of `p`. -1: it is lost, and so are all after it."""
        cdef uint32_t most = max_caplen(p.linktype)
        cdef uint32_t pad, idb = 0
        if self.parted:
            return self.put_part(p, data, caplen, wirelen)
        if self.why:
            return -1
        if caplen > most:
            caplen = most
        if not self.started:
            self.linktype = p.linktype
            self.start()
        if self.blocks:
            idb = self.find_idb(p.iface, p.linktype)
        elif p.linktype != self.linktype:
            self.why = FAILED_LINKTYPE
        if self.why or (self.used + HEAD > BUFFER and self.flush_buffer() < 0):
            return -1
        if not self.blocks:
            self.put_record(p.ts, caplen, wirelen)
            self.packets += 1
            return self.put(data, caplen)
        pad = -caplen & 3
        self.put_block(p.ts, idb, caplen, pad, wirelen)
        self.packets += 1
        if self.put(data, caplen) < 0:
            return -1
        return self.put_trailer(pad, 32 + caplen + pad)

    @classmethod
    def recorder(cls, path, kind, names, workers=1):
        """A writer of what goes into a live run, "inline" or "tap", on these interfaces: a pcapng that a run can be replayed
        from, with `record` for each packet and tick in the order of processing. Of several workers each has its own order: there
        every packet and tick says whose it is."""
        if not os.fspath(path).endswith((".pcapng", ".ntar")):
            raise UsageError(f"--record {path}: a recording is a pcapng; name it *.pcapng")
        cdef Writer w = cls(path)
        program = f"mos {kind}" + (f" {workers}" if workers > 1 else "")
        head = _block(SECTION, struct.pack("=IHHq", 0x1a2b3c4d, 1, 0, -1) + _option(4, program.encode()) + bytes(4))
        for name in names:
            head += _block(INTERFACE, struct.pack("=HHI", 1, 0, 0) + _option(2, name.encode()) + _option(9, b"\x09") + bytes(4))
        w.put(head, <uint32_t>len(head))
        w.started = True
        w.queue = 0 if workers > 1 else -1
        for i in range(len(names)):
            w.register(<uint16_t>i, 1)
        return w

    cdef int record(self, const pkt_t *p) noexcept nogil:
        """A packet with its offload state, or a tick (number 0), as it goes into the run. -1: it is lost, as all after it.

        A fragment of which another worker than the first had a copy is in a block of ours: other programs see it once."""
        cdef uint32_t pad, options, size
        cdef bint partly = p.gso_size or p.csum_partial, copied
        if self.parted:
            self.key[0] = p.ts
            return self.put_part(p, p.frame if p.number else NULL, p.caplen, p.wirelen)
        if self.why or (self.used + 3 * HEAD > BUFFER and self.flush_buffer() < 0):
            return -1
        if not p.number:
            return self.put_tick(p.ts)
        copied = self.queue > 0 and outer_fragment(p) != NULL
        pad = -p.caplen & 3
        options = (12 if partly else 0) + (8 if self.queue >= 0 else 0)
        options += 4 if options else 0
        size = 32 + p.caplen + pad + options
        if copied:
            self.put_custom(COPY_BLOCK, size + 20)
        self.put_block(p.ts, self.find_idb(p.iface, p.linktype), p.caplen, pad + options, p.wirelen)
        self.packets += 1
        if self.put(p.frame, p.caplen) < 0 or (self.used + 2 * HEAD > BUFFER and self.flush_buffer() < 0):
            return -1
        memset(self.buf + self.used, 0, pad + options)
        self.used += pad
        if options:
            self.put_options(p, partly)
        if self.put_trailer(0, size) < 0 or not copied:
            return -1 if self.why else 0
        return self.put_trailer(0, size + 20)

    cdef void put_options(self, const pkt_t *p, bint partly) noexcept nogil:
        """Whose the packet is, and what was left to the card; the room is there, and zero."""
        cdef uint8_t *at = self.buf + self.used
        if self.queue >= 0:
            put16(at, OPTION_QUEUE)
            put16(at + 2, 4)
            put32(at + 4, <uint32_t>self.queue)
            at += 8
        if partly:
            put16(at, OPTION_CUSTOM)
            put16(at + 2, 8)
            put32(at + 4, ENTERPRISE)
            put16(at + 8, p.gso_size)
            at[10], at[11] = p.gso_type, p.csum_partial
            at += 12
        self.used = at + 4 - self.buf

    cdef void put_custom(self, uint32_t kind, uint32_t size) noexcept nogil:
        cdef uint8_t *at = self.buf + self.used
        put32(at, CUSTOM)
        put32(at + 4, size)
        put32(at + 8, ENTERPRISE)
        put32(at + 12, kind)
        self.used += 16

    cdef int put_tick(self, int64_t ts) noexcept nogil:
        cdef uint32_t size = 32 if self.queue >= 0 else 28
        self.put_custom(TICK_BLOCK, size)
        put32(self.buf + self.used, <uint32_t>(<uint64_t>ts >> 32))
        put32(self.buf + self.used + 4, <uint32_t>ts)
        put32(self.buf + self.used + 8, <uint32_t>self.queue)
        put32(self.buf + self.used + size - 20, size)
        self.used += size - 16
        return 0

    def split(self, int count):
        """Have so many processes that are forked from now on write a part each: `take_part`. Their files have no names, and are
        gone with the processes, whatever becomes of them."""
        regular = self.owns_fd and stat.S_ISREG(os.fstat(self.fd).st_mode)
        folder = os.path.dirname(os.path.abspath(self.name)) if regular else None
        try:
            self.held = [tempfile.TemporaryFile(buffering=0, dir=folder) for _ in range(count)]
        except OSError as e:
            raise UsageError(f"cannot write beside {self.name}, where workers put their parts: {e.strerror}") from e
        self.parts = <part_t *>calloc(count, sizeof(part_t))
        if self.parts == NULL:
            raise MemoryError
        for file in self.held:
            if part_start(&self.parts[self.nparts], file.fileno()) < 0:
                raise MemoryError
            self.nparts += 1

    def take_part(self, int worker):
        """From now on this process writes that part, and nothing else."""
        self.fd, self.owns_fd, self.used, self.parted = self.held[worker].fileno(), False, 0, True

    cdef int put_part(self, const pkt_t *p, const uint8_t *data, uint32_t caplen, uint32_t wirelen) noexcept nogil:
        """A record of a part: a packet, or without `data` a tick."""
        cdef part_head_t head
        cdef uint64_t zero = 0
        if self.why:
            return -1
        part_head(&head, p, &self.key[0], caplen, wirelen)
        head.kind = PART_PACKET if data != NULL else PART_TICK
        self.packets += head.kind == PART_PACKET
        if self.put(<const uint8_t *>&head, sizeof(head)) < 0 or self.put(data, caplen) < 0:
            return -1
        return self.put(<const uint8_t *>&zero, -caplen & 7)

    def mark(self, place):
        """Say in a worker's part that nothing comes any more from before that place in the run (`Core.place`), where it is now."""
        cdef part_head_t head
        memset(&head, 0, sizeof(head))
        head.kind, head.size = PART_MARK, sizeof(head)
        for i in range(4):
            head.key[i] = self.key[i] = place[i]
        if not self.why:
            self.put(<const uint8_t *>&head, sizeof(head))

    def gather(self, bint rest=False):
        """Merge what workers have written so far into this file, in order; the `rest`, once they have ended."""
        cdef bint more = self.parts != NULL
        while more:
            with nogil:
                more = self.merge(rest) and rest

    cdef bint merge(self, bint rest) noexcept nogil:
        """Some of it: True if there may be more."""
        cdef const part_head_t *h
        cdef pkt_t p
        cdef const uint8_t *data
        cdef int which = 0, i
        cdef uint64_t done = 0
        for i in range(self.nparts):
            self.parts[i].dry = False
        while done < STEP and not self.why:
            h = parts_first(self.parts, self.nparts, rest, &which)
            if h == NULL:
                return False
            data = part_packet(h, &p)
            if h.kind != PART_MARK and self.queue < 0:
                self.write(&p, data, h.caplen, h.wirelen)
            elif h.kind != PART_MARK:
                self.queue = which
                self.record(&p)
            done += h.size
            part_done(&self.parts[which], h)
        return not self.why

    cdef void start(self) noexcept nogil:
        cdef uint8_t *p = self.buf
        self.started = True
        if self.blocks:
            # Section Header Block, version 1.0, length of the section unknown.
            put32(p, 0x0a0d0d0a)
            put32(p + 4, 28)
            put32(p + 8, 0x1a2b3c4d)
            put16(p + 12, 1)
            put16(p + 14, 0)
            memset(p + 16, 0xff, 8)
            put32(p + 24, 28)
            self.used = 28
            return
        put32(p, 0xa1b23c4d if self.fraction == 1 else 0xa1b2c3d4)
        put16(p + 4, 2)
        put16(p + 6, 4)
        memset(p + 8, 0, 8)
        put32(p + 16, max_caplen(self.linktype))
        put32(p + 20, self.linktype)
        self.used = 24

    cdef uint32_t find_idb(self, uint16_t iface, uint16_t linktype) noexcept nogil:
        """The number of the Interface Description Block for this pair, written now if it is new."""
        cdef uint32_t i = self.newest[iface]
        if i and self.idbs[i - 1].linktype == linktype:
            return i - 1
        for i in range(self.nidbs):
            if self.idbs[i].iface == iface and self.idbs[i].linktype == linktype:
                return i
        return self.add_idb(iface, linktype)

    cdef int register(self, uint16_t iface, uint16_t linktype) noexcept nogil:
        """Keep the next number for this pair. -1: no memory."""
        cdef uint32_t room
        cdef void *grown
        if self.nidbs == self.room:
            room = self.room * 2 if self.room else 4
            grown = realloc(self.idbs, room * sizeof(idb_t))
            if grown == NULL:
                self.why = FAILED_MEMORY
                return -1
            self.idbs, self.room = <idb_t *>grown, room
        self.idbs[self.nidbs].iface, self.idbs[self.nidbs].linktype = iface, linktype
        self.nidbs += 1
        self.newest[iface] = self.nidbs
        return 0

    cdef uint32_t add_idb(self, uint16_t iface, uint16_t linktype) noexcept nogil:
        cdef uint8_t *p
        if self.register(iface, linktype) < 0:
            return 0
        if self.used + HEAD > BUFFER and self.flush_buffer() < 0:
            return 0
        p = self.buf + self.used
        memset(p, 0, 32)
        put32(p, 1)
        put32(p + 4, 32)
        put16(p + 8, linktype)
        put16(p + 16, 9)            # if_tsresol: 10^-9 s
        put16(p + 18, 1)
        p[20] = 9
        put32(p + 28, 32)
        self.used += 32
        return self.nidbs - 1

    cdef void put_record(self, int64_t ts, uint32_t caplen, uint32_t wirelen) noexcept nogil:
        cdef uint8_t *p = self.buf + self.used
        cdef int64_t last = <int64_t>0xffffffff * 1000000000 + 999999999
        ts = 0 if ts < 0 else min(ts, last)
        put32(p, <uint32_t>(ts // 1000000000))
        put32(p + 4, <uint32_t>(ts % 1000000000) // self.fraction)
        put32(p + 8, caplen)
        put32(p + 12, wirelen)
        self.used += 16

    cdef void put_block(self, int64_t ts, uint32_t idb, uint32_t caplen, uint32_t pad, uint32_t wirelen) noexcept nogil:
        cdef uint8_t *p = self.buf + self.used
        cdef uint64_t t = 0 if ts < 0 else ts
        put32(p, 6)
        put32(p + 4, 32 + caplen + pad)
        put32(p + 8, idb)
        put32(p + 12, <uint32_t>(t >> 32))
        put32(p + 16, <uint32_t>t)
        put32(p + 20, caplen)
        put32(p + 24, wirelen)
        self.used += 28

    cdef int put_trailer(self, uint32_t pad, uint32_t length) noexcept nogil:
        if self.used + HEAD > BUFFER and self.flush_buffer() < 0:
            return -1
        memset(self.buf + self.used, 0, pad)
        put32(self.buf + self.used + pad, length)
        self.used += pad + 4
        return 0

    cdef int put(self, const uint8_t *data, uint32_t n) noexcept nogil:
        cdef uint32_t piece
        while n:
            if self.used == BUFFER and self.flush_buffer() < 0:
                return -1
            piece = min(n, <uint32_t>(BUFFER - self.used))
            memcpy(self.buf + self.used, data, piece)
            self.used += piece
            data += piece
            n -= piece
        return 0

    cdef int flush_buffer(self) noexcept nogil:
        """write(2) all of it: 0, or -1 with `why`, and the rest is lost."""
        cdef size_t done = 0
        cdef ssize_t n
        cdef pollfd ready
        while done < self.used:
            n = write_fd(self.fd, self.buf + done, self.used - done)
            if n >= 0:
                done += n
                continue
            self.saved_errno = errno
            if self.saved_errno == EAGAIN:
                ready.fd, ready.events = self.fd, POLLOUT
                poll(&ready, 1, -1)
            elif self.saved_errno != EINTR:
                self.why = FAILED_ERRNO
                break
            if self.interrupted():
                break
        n = -1 if done < self.used else 0
        self.used = 0
        return n

    cdef bint interrupted(self) noexcept with gil:
        """Run signal handlers; True if one raised (Ctrl-C)."""
        try:
            PyErr_CheckSignals()
        except BaseException as e:
            self.failure, self.why = e, FAILED_SIGNAL
        return self.failure is not None

    def put_packet(self, int64_t ts, const uint8_t[::1] data, wirelen=None, uint16_t linktype=1, uint16_t iface=0):
        """Append one packet from Python: ts in ns, wirelen the bytes it had on the wire if more than `data`."""
        cdef pkt_t p
        p.ts, p.linktype, p.iface = ts, linktype, iface
        if self.write(&p, &data[0] if len(data) else NULL, len(data), len(data) if wirelen is None else wirelen) < 0:
            self.check()

    def flush(self):
        """Hand everything to the operating system. Raises MosError, BrokenPipeError for a reader that has gone."""
        if not self.why:
            self.flush_buffer()
        self.check()

    def close(self):
        """Flush and close; a file without packets gets its header. Raises as flush(), unless that was raised before."""
        if self.fd < 0:
            return
        try:
            if not self.started and not self.why:
                self.start()
            # After a second link type what came before it is whole, after a failed write(2) it is not.
            if self.why == FAILED_NOT or self.why == FAILED_LINKTYPE or self.why == FAILED_MEMORY:
                self.flush_buffer()
        finally:
            if self.owns_fd and close(self.fd) < 0 and not self.why:
                self.saved_errno, self.why = errno, FAILED_ERRNO
            self.fd = -1
        try:
            self.check()
        finally:
            self.why = FAILED_CLOSED

    cdef int check(self) except -1:
        if self.why == FAILED_NOT or (self.reported and self.why != FAILED_CLOSED):
            return 0
        self.reported = True
        if self.why == FAILED_SIGNAL:
            raise self.failure
        if self.why == FAILED_ERRNO and self.saved_errno == EPIPE:
            raise BrokenPipeError(EPIPE, os.strerror(EPIPE), self.name)
        if self.why == FAILED_LINKTYPE:
            raise MosError(f"{self.name} can hold one link type and the packets have several; name it *.pcapng")
        if self.why == FAILED_CLOSED:
            raise UsageError(f"{self.name} is closed; write before close()")
        what = "out of memory" if self.why == FAILED_MEMORY else os.strerror(self.saved_errno)
        raise MosError(f"cannot write {self.name}: {what}; the last of {self.packets} packets are missing")

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        if kind is None:
            self.close()
            return
        try:
            self.close()
        except (MosError, OSError):
            pass                    # the first exception is the one to see

    def __dealloc__(self):
        if self.owns_fd and self.fd >= 0:
            close(self.fd)
        for i in range(self.nparts):
            part_end(&self.parts[i])
        free(self.parts)
        free(self.buf)
        free(self.idbs)
        free(self.newest)


def _block(kind, body):
    size = 12 + len(body)
    return struct.pack("=II", kind, size) + body + struct.pack("=I", size)


def _option(code, value):
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) & 3)


def _open(name):
    if name == "-":
        sys.stdout.flush()
        if os.isatty(1):
            raise UsageError("standard output is a terminal; send it to a file or a pipe")
        return 1
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as e:
        raise UsageError(f"cannot write {name}: {getattr(e, 'strerror', None) or e}") from e
    info = os.fstat(fd)
    if is_mapped(info.st_dev, info.st_ino):
        os.close(fd)
        raise UsageError(f"{name} is being read; write to another file")
    if stat.S_ISREG(info.st_mode):
        os.ftruncate(fd, 0)
    return fd
