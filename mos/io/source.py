"""Opening a capture: whatever the user names becomes one Source. What it is, is told by content, not by its name."""
import io
import os
import stat
import struct
import zlib
from collections.abc import Iterable

from mos.errors import CaptureError, UsageError
from mos.io.pcap import Source
from mos.io.port import Port

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
# The longest of the magic numbers above and of the formats', which Source looks at itself.
MAGIC = 4

# A bomb costs time, not memory: output goes through one buffer of fixed size. 64 GiB is a minute's work and more than
# compressed captures hold; who has a longer one says so. There is no bound on the ratio: honest captures of a port
# scan or of zero padding reach hundreds to one, close to gzip's own limit of 1032.
MAX_BYTES = 64 << 30

# Compressed bytes taken at a time. A zstd block of 4 bytes may stand for 128 KiB and its decompressor has no bound on
# what it gives back, so 1 KiB is at most 32 MiB.
CHUNK = 1024
GZIP_CHUNK = 65536
# The window a zstd frame may ask for: what `zstd` itself allows without --long.
ZSTD_WINDOW = 1 << 27


def open_source(what, *, linktype=1, max_bytes=MAX_BYTES):
    """A Source for a path, `-` (standard input), an open binary file, the bytes of a capture, or an iterable of
    (ts_ns, frame) or (ts_ns, frame, wirelen), whose link type is `linktype`; a frame of None says only how late it is.

    pcap and pcapng, plain or compressed by gzip or zstd; of compressed input at most `max_bytes` are unpacked.
    Raises UsageError for what cannot be opened, CaptureError for what is no capture.
    """
    if isinstance(what, Port):
        return what
    if isinstance(what, (bytes, bytearray, memoryview)):
        return _from_object(io.BytesIO(what), "capture", max_bytes)
    if isinstance(what, (str, os.PathLike)):
        return _from_path(os.fsdecode(what), max_bytes)
    if hasattr(what, "readinto") or hasattr(what, "read"):
        return _from_object(what, str(getattr(what, "name", "capture")), max_bytes)
    if isinstance(what, Iterable):
        return Source(reader=Packets(what, linktype), name="packets")
    raise UsageError(f"cannot read packets from {type(what).__name__}: give a file name, `-`, an open binary file or "
                     "an iterable of (ts_ns, frame)")


def recorded_workers(path):
    """How many workers a file is the recording of (`Source.recorded_workers`); 1 for what is no capture, or no file."""
    if not os.path.isfile(path):
        return 1
    try:
        with open_source(path) as source:
            return source.recorded_workers
    except (CaptureError, UsageError):      # told by whoever reads it
        return 1


def _from_path(path, max_bytes):
    if path == "-":
        if os.isatty(0):
            raise UsageError("standard input is a terminal; pipe a capture into it or name a file")
        return _from_fd(0, "standard input", max_bytes, owns=False)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise UsageError(f"cannot open {path}: {e.strerror}; give the name of a pcap or pcapng file") from e
    except ValueError as e:
        raise UsageError(f"cannot open {path!r}: {e}") from e
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"{path} is a directory; name a capture file in it")
    return _from_fd(fd, path, max_bytes, owns=True)


def _from_fd(fd, name, max_bytes, owns):
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        head = os.pread(fd, MAGIC, os.lseek(fd, 0, os.SEEK_CUR)) if regular else _take(fd)
    except OSError as e:
        if owns:
            os.close(fd)
        raise CaptureError(f"cannot read {name}: {e.strerror}") from e
    taken = b"" if regular else head
    if not head.startswith((GZIP, ZSTD)):
        return Source(fd=fd, head=taken, name=name, owns_fd=owns)
    raw = os.fdopen(fd, "rb", buffering=0, closefd=owns)
    try:
        return Source(reader=_unpack(raw, taken, head, name, max_bytes), name=name, owns_fd=True)
    except BaseException:
        raw.close()
        raise


def _take(fd):
    """The first MAGIC bytes of a stream, or as many as it has."""
    head = b""
    while len(head) < MAGIC:
        more = os.read(fd, MAGIC - len(head))
        if not more:
            break
        head += more
    return head


def _from_object(file, name, max_bytes):
    head = b""
    while len(head) < MAGIC:
        more = file.read(MAGIC - len(head))
        if not isinstance(more, bytes | None):
            raise UsageError(f"{name} is open as text; open it with mode 'rb'")
        if not more:
            break
        head += more
    if head.startswith((GZIP, ZSTD)):
        return Source(reader=_unpack(file, head, head, name, max_bytes), name=name)
    return Source(reader=file if hasattr(file, "readinto") else _Reader(file), head=head, name=name)


class _Reader:
    """readinto() for a file that has only read()."""

    def __init__(self, file):
        self.file = file

    def readinto(self, view):
        data = self.file.read(len(view))
        view[:len(data)] = data
        return len(data)


def _unpack(raw, taken, magic, name, max_bytes):
    if magic.startswith(GZIP):
        return _Unpacked(raw, taken, lambda: zlib.decompressobj(wbits=31), GZIP, GZIP_CHUNK, name, max_bytes)
    try:
        import zstandard
    except ImportError:
        raise UsageError(f"{name} is compressed by zstd: pip install zstandard, or unpack it first") from None

    def new():
        return _Zstd(zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj())
    return _Unpacked(raw, taken, new, ZSTD, CHUNK, name, max_bytes)


class _Zstd:
    """zstandard's object in the shape of zlib's, for chunks small enough to need no bound on the output."""
    unconsumed_tail = b""

    def __init__(self, inner):
        self.inner = inner

    def decompress(self, data, _most):
        return self.inner.decompress(data)

    @property
    def eof(self):
        return self.inner.eof

    @property
    def unused_data(self):
        return self.inner.unused_data


class _Unpacked:
    """readinto() over a compressed file of one or more members. What a damaged file holds before the damage is handed
    out first, then CaptureError."""

    def __init__(self, raw, taken, new, magic, chunk, name, max_bytes):
        self.raw, self.new, self.magic, self.chunk, self.name, self.left = raw, new, magic, chunk, name, max_bytes
        self.inner, self.pending, self.ready, self.limit = new(), taken, b"", max_bytes

    def readinto(self, view):
        while not self.ready:
            if self.inner.eof and not self._next_member():
                return 0
            if not self.pending:
                self.pending = self.raw.read(self.chunk)
                if not self.pending:
                    raise CaptureError(f"{self.name} is cut short: its compressed data end in the middle")
            try:
                self.ready = self.inner.decompress(self.pending, len(view))
            except Exception as e:
                raise CaptureError(f"{self.name} is damaged: its compressed data cannot be unpacked: {e}") from e
            self.pending = self.inner.unused_data if self.inner.eof else self.inner.unconsumed_tail
            self.left -= len(self.ready)
            if self.left < 0:
                raise CaptureError(f"{self.name} unpacks to more than {self.limit} bytes; raise max_bytes to go on")
        n = min(len(self.ready), len(view))
        view[:n] = self.ready[:n]
        self.ready = self.ready[n:]
        return n

    def close(self):
        self.raw.close()

    def progress(self):
        """(compressed bytes taken, bytes of the file or 0)."""
        try:
            return self.raw.tell(), os.fstat(self.raw.fileno()).st_size
        except (AttributeError, OSError):
            return 0, 0

    def _next_member(self):
        """Concatenated members are one stream (RFC 1952 section 2.2); zeros or other padding after the last are not."""
        while len(self.pending) < len(self.magic):
            more = self.raw.read(self.chunk)
            if not more:
                return False
            self.pending += more
        if not self.pending.startswith(self.magic):
            return False
        self.inner = self.new()
        return True


class Packets:
    """readinto() over packets made in Python, as a little-endian pcapng with ns time stamps."""
    # Section Header Block, then an Interface Description Block with if_tsresol 9.
    SECTION = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)

    def __init__(self, packets, linktype):
        self.packets = iter(packets)
        self.ready = self.SECTION + struct.pack("<IIHHIHHB3xII", 1, 32, linktype, 0, 0, 9, 1, 9, 0, 32)

    def readinto(self, view):
        if not self.ready:
            for packet in self.packets:
                self.ready = self.block(*packet)
                break
        n = min(len(self.ready), len(view))
        view[:n] = self.ready[:n]
        self.ready = self.ready[n:]
        return n

    @staticmethod
    def block(ts, frame, wirelen=None):
        if not 0 <= ts <= 1 << 62:
            raise UsageError(f"packet time {ts} is not in ns since 1970")
        if frame is None:       # a tick, as in recordings of live runs
            return struct.pack("<IIIIIII", 0xBAD, 28, 32473, 1, ts >> 32, ts & 0xFFFFFFFF, 28)
        pad = -len(frame) % 4
        size = 32 + len(frame) + pad
        return b"".join((struct.pack("<IIIIIII", 6, size, 0, ts >> 32, ts & 0xFFFFFFFF, len(frame),
                                     len(frame) if wirelen is None else wirelen), frame, bytes(pad),
                         struct.pack("<I", size)))
