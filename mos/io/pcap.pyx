# cython: nonecheck=False
# With it Cython refuses `self.x += 1` without the GIL; self is never None.
"""The capture reader: walks record and block headers in place; frames are never copied out of a mapped file."""
from collections import namedtuple

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_WRITE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove
from posix.mman cimport MADV_SEQUENTIAL, MAP_FAILED, MAP_PRIVATE, PROT_READ, madvise, mmap, munmap
from posix.unistd cimport close, read

import os
import stat
from weakref import WeakSet

from mos.errors import CaptureError, MosError
from mos.io.aside cimport aside_begin, aside_t, aside_take_back
from mos.io.pages cimport pages_ahead, pages_behind
from mos.io.parse cimport (WHY_BLOCK, WHY_BYTE_ORDER, WHY_CUT, WHY_ERRNO, WHY_FAILURE, WHY_IFACE, WHY_MANY, WHY_MEMORY,
                           WHY_NOT, WHY_OPTION, WHY_TOO_LONG, WHY_TRAILER, WHY_TSRESOL, WHY_VERSION, damage,
                           open_classic, parse_blocks, parse_classic, usual)
from mos.io.scout cimport scout_start
from mos.io.turns cimport NAPS, WAITING, nap, turns_end, turns_leave, turns_start, turns_t, turns_take

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout)
    short POLLIN

cdef enum:
    # Several batches of full-size frames, and longer than any ordinary record, so that it seldom has to grow.
    BUFFER = 1 << 20

MAGICS = frozenset((b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d", b"\xa1\xb2\xcd\x34"))

TEXT = {
    WHY_CUT: "is cut short: {got} of {limit} bytes are there",
    WHY_TOO_LONG: "is damaged: a packet of {got} bytes is claimed, at most {limit} are possible",
    WHY_BLOCK: "is damaged: a block of {got} bytes cannot hold what it should",
    WHY_TRAILER: "is damaged: a block of {got} bytes ends with the length {limit}",
    WHY_OPTION: "is damaged: the options run past the end of their block",
    WHY_IFACE: "is damaged: interface {got} is named, {limit} are described",
    WHY_BYTE_ORDER: "is damaged: a section starts with the byte-order magic 0x{got:08x}",
    WHY_VERSION: "has the unsupported format version {got}.{limit}; convert it with `editcap`",
    WHY_TSRESOL: "has time stamps in units of {limit}^-{got} s, finer than can be read",
    WHY_MANY: "describes more than {limit} interfaces; split it with `editcap`",
    WHY_MEMORY: "needs {got} bytes for one block, more memory than there is",
}

Record = namedtuple("Record", "number ts data wirelen linktype iface")
Record.__doc__ = "A packet as Python sees it: ts in ns since 1970, data the captured bytes, wirelen those on the wire."
Interface = namedtuple("Interface", "linktype snaplen tsresol tsoffset name section")
Interface.__doc__ = "A capture interface: snaplen 0 is unlimited, tsresol as in pcapng's if_tsresol, tsoffset in s."

_sources = WeakSet()


def is_mapped(device, inode):
    """Whether a file is being read through a mapping: truncating it would kill the process (SIGBUS)."""
    return any((<Source>s).pages.map != NULL and (<Source>s).inode == (device, inode) for s in _sources)


cdef class Source:
    """A capture being read, front to back, from a file descriptor or from `reader`, an object with readinto().

    `head` holds bytes already taken from it; with `owns_fd` close() closes fd or reader. Raises CaptureError if it is
    no capture. A regular file at its start is mapped, anything else streamed: while it is mapped nobody may truncate
    it (the kernel answers with SIGBUS). Not for several threads at once.
    """

    def __cinit__(self, int fd=-1, reader=None, bytes head=b"", str name="capture", bint owns_fd=False):
        self.fd, self.reader, self.name, self.owns_fd = fd, reader, name, owns_fd
        self.parse = parse_blocks
        try:
            if reader is not None or head or not self.map_file():
                self.start_buffer(head, BUFFER)
            self.start()
        except BaseException:
            self.close()
            raise

    cdef bint read_exactly(self, size_t size) except -1:
        """The file in a malloc of its own size, for AddressSanitizer: behind a mapped one comes the rest of a page."""
        data = os.pread(self.fd, size, 0)
        self.start_buffer(data, size)
        self.pages.size, self.whole = size, True
        return True

    cdef bint map_file(self) except -1:
        info = os.fstat(self.fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size == 0 or os.lseek(self.fd, 0, os.SEEK_CUR) != 0:
            return False
        cdef size_t size = info.st_size
        if os.environ.get("MOS_SANITIZE"):
            return self.read_exactly(size)
        cdef void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, self.fd, 0)
        if p == MAP_FAILED:             # no address space left, or a file system without mappings
            return False
        madvise(p, size, MADV_SEQUENTIAL)
        self.pages.map, self.pages.size, self.whole = <uint8_t *>p, size, True
        self.r.base = self.r.cur = self.pages.map
        self.r.end = self.pages.map + size
        self.stays_from, self.stays_to, self.lends = self.r.base, self.r.end, True
        self.inode = info.st_dev, info.st_ino
        _sources.add(self)
        return True

    cdef int start_buffer(self, bytes head, size_t room) except -1:
        self.room = max(room, <size_t>len(head))
        self.buf = <uint8_t *>malloc(self.room)
        if self.buf == NULL:
            raise MemoryError
        memcpy(self.buf, <const char *>head, len(head))
        self.r.base = self.r.cur = self.buf
        self.r.end = self.buf + len(head)

    cdef int start(self) except -1:
        """Tell the format by its first bytes; then read the interfaces as far as the data are at hand."""
        self.r.need = 24
        while self.r.end - self.r.cur < 24 and self.refill():
            pass
        cdef bytes first = PyBytes_FromStringAndSize(<const char *>self.r.cur, min(24, self.r.end - self.r.cur))
        self.check()
        if not first:
            raise CaptureError(f"{self.name} is empty; expected a pcap or pcapng capture")
        if first[:4] == b"\n\r\r\n":
            self.format, self.parse = "pcapng", parse_blocks
        elif first[:4] in MAGICS or first[3::-1] in MAGICS:
            self.format, self.parse = "pcap", parse_classic
        else:
            raise CaptureError(f"{self.name} is not a capture: it starts with {first[:4].hex(' ')}; "
                               "expected pcap or pcapng, plain or compressed by gzip or zstd")
        if len(first) < 24:
            self.cut()
        elif self.parse == parse_classic:
            open_classic(&self.r)
        else:
            self.parse(&self.r, NULL, 0)
            while self.r.sections == 0 and not self.r.why and self.refill():
                self.parse(&self.r, NULL, 0)
            if self.r.sections:
                self.r.why = WHY_NOT        # comes again, after the packets before it
            elif not self.r.why:
                self.cut()
        self.check()

    cdef int recv_batch(self, pkt_t *pkts, int n) noexcept nogil:
        """Fill frame, caplen, wirelen, ts, number, linktype and iface of up to n packets: how many, 0 at the end, -1 on
        damage once all before it was delivered. Frames stay valid until the next call."""
        cdef int got
        cdef const uint8_t *before
        if n < 1:
            return 0
        if self.aside != NULL:
            aside_begin(self.aside)
        if self.turn.all != NULL:
            return self.take_turns(pkts, n)
        while not self.r.why:
            pages_behind(&self.pages, self.r.cur - self.r.base)
            pages_ahead(&self.pages, self.r.cur - self.r.base)
            before = self.r.cur
            got = self.parse(&self.r, pkts, n)
            if got == 0 and self.aside != NULL:
                got = aside_take_back(self.aside, pkts)
            if got:
                self.r.why = WHY_NOT        # comes again, after these
                if self.parse == parse_classic and usual(&self.r):
                    scout_start(&self.scout, self.r.cur, self.r.end, self.r.header, self.r.cur - before, got)
                return got
            if self.r.why or self.refill():
                continue
            if self.r.cur == self.r.end and not self.r.why:
                return 0
            self.cut()
        return -1

    cdef int share(self, int worker, uint32_t workers) except -1:
        if self.aside == NULL:
            self.aside = <aside_t *>malloc(sizeof(aside_t))
        if self.aside == NULL:
            raise MemoryError("no memory for what other workers take")
        self.aside.worker, self.aside.workers = worker, workers
        self.r.aside = self.aside
        if self.turns != NULL:
            self.turn.all, self.turn.worker, self.turn.workers = self.turns, worker, workers
        return 0

    def split(self):
        """Have processes that are forked from now on share one reading, if they share the packets. False: this capture has to be
        opened, and read, by each: it is no file, or no pcap."""
        if self.pages.size and self.parse == parse_classic and self.turns == NULL:
            self.turns = turns_start()
        return self.turns != NULL

    def leave(self):
        """This process takes no more packets: others, who share the reading, need not wait for it."""
        if self.turn.all != NULL:
            turns_leave(&self.turn)

    cdef int take_turns(self, pkt_t *pkts, int n) noexcept nogil:
        """As recv_batch, of what all workers read. It waits for others only with nothing in hand, and tells so before it sleeps,
        and again now and then, to notice that nobody listens any more."""
        cdef int naps = 0, got
        pages_behind(&self.pages, self.r.cur - self.r.base)
        got = turns_take(&self.turn, &self.r, &self.pages, self.fd, pkts, n, self.aside)
        while got == WAITING:
            if naps % NAPS == 0 and not self.tell_waiting():
                return -1
            naps += 1
            nap()
            got = turns_take(&self.turn, &self.r, &self.pages, self.fd, pkts, n, self.aside)
        if got == 0:
            got = aside_take_back(self.aside, pkts)
        if got == 0 and not self.r.why:
            self.saved_errno = turns_end(&self.turn, &self.r)
        return got if got or not self.r.why else -1

    cdef bint tell_waiting(self) noexcept with gil:
        """False: nobody is there who could be told."""
        try:
            if self.waits is not None:
                self.waits()
        except BaseException as e:
            self.failure = e
            damage(&self.r, WHY_FAILURE, 0, 0)
        return self.failure is None

    cdef void cut(self) noexcept nogil:
        """The input ended where `need` bytes were due, unless reading it failed."""
        if not self.r.why:
            damage(&self.r, WHY_CUT, self.r.end - self.r.cur, self.r.need)

    cdef bint refill(self) noexcept nogil:
        """Have at least r.need bytes from r.cur on. False: there are no more, or r.why says what failed."""
        cdef size_t left = self.r.end - self.r.cur
        cdef int64_t got
        cdef void *p
        if self.whole:
            return False
        self.r.start += self.r.cur - self.r.base
        memmove(self.buf, self.r.cur, left)
        while left < self.r.need:
            # Doubled only once it is full: a length that is claimed but not there costs nothing.
            if left == self.room:
                p = realloc(self.buf, self.room * 2)
                if p == NULL:
                    damage(&self.r, WHY_MEMORY, self.r.need, 0)
                    break
                self.buf, self.room = <uint8_t *>p, self.room * 2
            got = self.read_some(self.buf + left, self.room - left)
            if got <= 0:
                self.whole = True
                break
            left += got
        self.r.base = self.r.cur = self.buf
        self.r.end = self.buf + left
        return left >= self.r.need

    cdef int64_t read_some(self, uint8_t *p, size_t n) noexcept nogil:
        """Blocks until there is something, 0 at the end, -1 with r.why. What a signal handler raises ends it."""
        cdef int64_t got
        self.reading = True
        got = self.read_object(p, n) if self.fd < 0 else self.read_fd(p, n)
        self.reading = False
        return got

    cdef int64_t read_fd(self, uint8_t *p, size_t n) noexcept nogil:
        cdef ssize_t got
        cdef pollfd ready
        if self.interrupted():      # by a signal just before, which would not wake read(2)
            return -1
        while True:
            got = read(self.fd, p, n)
            if got >= 0:
                return got
            self.saved_errno = errno
            if self.saved_errno == EAGAIN:
                ready.fd, ready.events = self.fd, POLLIN
                poll(&ready, 1, -1)
            elif self.saved_errno != EINTR:
                damage(&self.r, WHY_ERRNO, 0, 0)
                return -1
            if self.interrupted():
                return -1

    cdef bint interrupted(self) noexcept with gil:
        """Run signal handlers; True if one raised (Ctrl-C)."""
        try:
            PyErr_CheckSignals()
        except BaseException as e:
            self.failure = e
            damage(&self.r, WHY_FAILURE, 0, 0)
        return self.failure is not None

    cdef int64_t read_object(self, uint8_t *p, size_t n) noexcept with gil:
        try:
            view = PyMemoryView_FromMemory(<char *>p, n, PyBUF_WRITE)
            try:
                got = self.reader.readinto(view)
            finally:
                view.release()          # a reader that kept it would write into memory long freed
            if not 0 <= got <= n:
                raise ValueError(f"readinto() returned {got} for a buffer of {n} bytes")
            return got
        except BaseException as e:
            self.failure = e
            damage(&self.r, WHY_FAILURE, 0, 0)
            return -1

    @property
    def error(self):
        """What is wrong and at which byte, in one line; None as long as nothing is."""
        if self.r.why == WHY_NOT:
            return None
        if isinstance(self.failure, MosError):
            return f"{self.failure} (after {self.r.packets} packets)"
        if self.r.why == WHY_ERRNO:
            text = f"cannot be read: {os.strerror(self.saved_errno)}"
        elif self.r.why == WHY_FAILURE:
            text = f"cannot be read: {str(self.failure) or type(self.failure).__name__}"
        else:
            text = TEXT[self.r.why].format(got=self.r.got, limit=self.r.limit)
        return f"{self.name} {text} (byte {self.r.at}, after {self.r.packets} packets)"

    def check(self):
        """Raise what `error` says, if anything: CaptureError, or what a signal handler or `reader` raised itself."""
        if self.failure is not None and not (isinstance(self.failure, Exception)):
            raise self.failure
        if self.r.why:
            raise CaptureError(self.error, self.packets) from self.failure

    def __iter__(self):
        """Yield a Record for each packet; raises as check()."""
        cdef pkt_t pkts[64]
        cdef int n, i
        while True:
            with nogil:
                n = self.recv_batch(pkts, 64)
            if n <= 0:
                self.check()
                return
            batch = []
            for i in range(n):
                if not pkts[i].number:      # a tick of a recording
                    continue
                batch.append(Record(pkts[i].number, pkts[i].ts,
                                    PyBytes_FromStringAndSize(<const char *>pkts[i].frame, pkts[i].caplen),
                                    pkts[i].wirelen, pkts[i].linktype, pkts[i].iface))
            yield from batch

    @property
    def packets(self):
        """Packets delivered so far."""
        return self.r.packets

    @property
    def position(self):
        """Bytes consumed so far, after decompression."""
        return self.r.start + <uint64_t>(self.r.cur - self.r.base)

    @property
    def progress(self):
        """(bytes taken, bytes in all) of the input as it is stored, compressed or not; in all is 0 if unknown (a stream)."""
        return self.reader.progress() if hasattr(self.reader, "progress") else (self.position, self.pages.size)

    @property
    def size(self):
        """Bytes in all, 0 if unknown (a stream)."""
        return self.pages.size

    @property
    def interfaces(self):
        """The interfaces described so far, by ordinal (pkt_t.iface)."""
        return [Interface(f.linktype, f.snaplen, f.tsresol, f.offset,
                          (<bytes>f.name).decode(errors="replace"), f.section)
                for f in self.r.ifaces[:self.r.nifaces]]

    @property
    def linktypes(self):
        """LINKTYPE_* by interface ordinal, of the interfaces described so far."""
        return {i: self.r.ifaces[i].linktype for i in range(self.r.nifaces)}

    @property
    def recorded(self):
        """"inline" or "tap" if a live run of ours recorded it (`--record`), else None."""
        words = (<bytes>self.r.writer).decode(errors="replace").split()
        return words[1] if len(words) in (2, 3) and words[0] == "mos" and words[1] in ("inline", "tap") else None

    @property
    def recorded_workers(self):
        """How many workers that run had, each with its own order of packets; 1 for other captures."""
        words = (<bytes>self.r.writer).decode(errors="replace").split()
        return int(words[2]) if self.recorded and words[2:] and words[2].isdecimal() else 1

    def only(self, uint32_t worker, uint32_t workers):
        """Be what one of the workers had that recorded this: its packets, with their numbers, and its ticks. Before the first."""
        self.r.queue, self.r.queues = worker, workers
        return self

    @property
    def nanosecond(self):
        """Whether any interface so far keeps time finer than 1 µs."""
        cdef uint32_t i
        for i in range(self.r.nifaces):
            if (self.r.ifaces[i].tsresol & 0x7f) > (19 if self.r.ifaces[i].tsresol & 0x80 else 6):
                return True
        return False

    def close(self):
        """Let go of file and memory: frames delivered are invalid now but for whom they are lent to, the next batch is the end.
        Idempotent."""
        self.r.cur = self.r.end = self.r.base = self.scout.at = NULL
        self.scout.step = 0
        if self.pages.map != NULL and not self.lent:
            munmap(self.pages.map, self.pages.size)
            self.pages.map = NULL
        free(self.buf)
        self.buf = NULL
        if self.owns_fd and self.fd >= 0:
            close(self.fd)
        if self.owns_fd and self.reader is not None:
            self.reader.close()
        self.fd, self.whole, self.reader = -1, True, None

    def __dealloc__(self):
        if self.pages.map != NULL:
            munmap(self.pages.map, self.pages.size)
        if self.owns_fd and self.fd >= 0:
            close(self.fd)
        if self.turns != NULL:
            munmap(self.turns, sizeof(turns_t))
        free(self.aside)
        free(self.buf)
        free(self.r.ifaces)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
