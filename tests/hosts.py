"""A TCP host small enough to be trusted, and the wire from an engine to it. No test in itself.

`Host` takes segments as RFC 9293 says and keeps what it reads, byte by byte. Its variants differ where real ones do: who wins
among overlapping bytes that wait behind a hole, whether the urgent byte is read apart, whether data on a SYN is taken.
"""
import fcntl
import os
import struct
from dataclasses import dataclass

from packets import segment as sealed

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
NOP_NOP_TS = b"\1\1\10\12"


@dataclass
class Segment:
    """What a frame says, sequence numbers as they are on the wire."""
    to_server: bool
    seq: int
    ack: int
    flags: int
    wnd: int
    urg: int
    options: bytes
    data: bytes

    @property
    def ts(self):
        return struct.unpack_from("!I", self.options, 4)[0] if self.options[:4] == NOP_NOP_TS else None


def diff(a, b):
    """a - b in sequence space."""
    return (a - b + (1 << 31)) % (1 << 32) - (1 << 31)


class Wire:
    """Frames between one client port and a server, and what an engine made of them. `take` gives each as a Segment once."""

    def __init__(self):
        self.out, self.into = os.pipe()
        fcntl.fcntl(self.into, 1031, 1 << 20)       # F_SETPIPE_SZ: super-packets fit too
        os.set_blocking(self.out, False)
        self.rest, self.started = b"", False

    @property
    def path(self):
        return f"/dev/fd/{self.into}"

    def close(self):
        os.close(self.out)
        os.close(self.into)

    def take(self):
        """The frames written since the last time."""
        frames = []
        try:
            while True:
                self.rest += os.read(self.out, 1 << 16)
        except BlockingIOError:
            pass
        if not self.started and len(self.rest) >= 24:
            self.rest, self.started = self.rest[24:], True
        while len(self.rest) >= 16:
            size = struct.unpack_from("=I", self.rest, 8)[0]
            frames.append(self.rest[16:16 + size])
            self.rest = self.rest[16 + size:]
        return frames


def frame(port, to_server, seq, ack, flags, data=b"", wnd=65535, urg=0, options=b"", six=False, ident=1):
    """An Ethernet frame between 10.0.0.1:port and 10.0.0.2:80, or their IPv6 twins."""
    a, b = ("fd00::1", "fd00::2") if six else ("10.0.0.1", "10.0.0.2")
    src, dst = (a, b) if to_server else (b, a)
    ends = (port, 80) if to_server else (80, port)
    options += b"\1" * (-len(options) % 4)
    head = struct.pack("!HHIIBBHHH", *ends, seq & 0xffffffff, ack & 0xffffffff, (20 + len(options)) << 2, flags, wnd, 0, urg)
    tcp = sealed(6, head + options, 16, data, src, dst)
    return bytes(range(2, 14)) + (b"\x86\xdd" if six else b"\x08\0") + ip_header(tcp, src, dst, six, ident) + tcp


def ip_header(tcp, src, dst, six, ident):
    from packets import ip4, ip6
    return ip6(b"", 6, src, dst, length=len(tcp)) if six else ip4(tcp, 6, src, dst, ident=ident)[:20]


def parse(raw):
    """The Segment in a frame. Raises AssertionError if a length or checksum of it is wrong."""
    from dpkt.dpkt import in_cksum
    six = raw[12:14] == b"\x86\xdd"
    ip = raw[14:]
    if six:
        assert struct.unpack_from("!H", ip, 4)[0] == len(ip) - 40
        tcp, addresses = ip[40:], ip[8:40]
    else:
        assert struct.unpack_from("!H", ip, 2)[0] == len(ip) and in_cksum(ip[:20]) == 0
        tcp, addresses = ip[20:], ip[12:20]
    assert in_cksum(addresses + struct.pack("!IBBH", len(tcp), 0, 0, 6) + tcp) == 0, "checksum"
    sport, dport, seq, ack, size, flags, wnd, _, urg = struct.unpack_from("!HHIIBBHHH", tcp)
    size = (size >> 4) * 4
    return Segment(dport == 80, seq, ack, flags, wnd, urg, tcp[20:size], tcp[size:])


class Host:
    """One end that only receives. `read[i]` is what its program read at stream offset i; `apart` what it read out of band.

    keeps: first, last, bsd (what begins earlier) or any, of overlapping bytes behind a hole. `rng` decides for any.
    """

    def __init__(self, rng, keeps="first", urgent=True, tfo=False):
        self.rng, self.keeps, self.urgent, self.tfo = rng, keeps, urgent, tfo
        self.irs, self.rcv_nxt, self.wnd = None, 0, 4000     # rcv_nxt counts stream bytes; the FIN makes it one more
        self.read, self.apart, self.waiting = {}, {}, {}
        self.skipped, self.fin, self.closed, self.reset = set(), None, False, False
        self.recent, self.unsent_ack = None, False

    @property
    def ack(self):
        return (self.irs + 1 + self.rcv_nxt) & 0xffffffff

    def take(self, s):
        """One segment; True: it is answered with an ACK now."""
        if s.flags & SYN:
            return self.take_syn(s)
        if self.irs is None or self.reset:
            return False
        at = self.rcv_nxt + diff(s.seq, self.ack)
        end = at + len(s.data) + bool(s.flags & FIN)
        if s.flags & RST:
            self.reset = self.reset or at == self.rcv_nxt
            return not self.reset
        if not s.flags & ACK:
            return False
        if s.ts is not None and self.recent is not None and diff(s.ts, self.recent) < 0:
            return True                                     # RFC 7323 5.3
        if end < self.rcv_nxt or at > self.rcv_nxt + self.wnd or (s.data and end <= self.rcv_nxt):
            return True
        if s.ts is not None and at <= self.rcv_nxt:
            self.recent = s.ts
        if s.flags & URG and self.urgent:
            self.take_urgent(at, s)
        self.take_data(at, s.data[:max(0, self.rcv_nxt + self.wnd - at)])
        if s.flags & FIN and self.fin is None and end - 1 <= self.rcv_nxt + self.wnd:
            self.fin = end - 1
        self.advance()
        return bool(s.data or s.flags & FIN)

    def take_syn(self, s):
        if self.irs is not None:
            return True
        self.irs = s.seq
        if self.tfo:
            self.take_data(0, s.data)
            self.advance()
        return True

    def take_urgent(self, at, s):
        """As Linux does it: the byte before the one pointed at, as soon as it is there, in order or not."""
        place = at + s.urg - 1
        if 0 <= place - at < len(s.data) and place >= self.rcv_nxt:
            self.apart[place] = s.data[place - at]
            self.skipped.add(place)

    def take_data(self, at, data):
        for i, byte in enumerate(data, at):
            if i < self.rcv_nxt:
                continue
            if i not in self.waiting:
                self.waiting[i] = (byte, at)
            elif {"first": False, "last": True, "bsd": at < self.waiting[i][1], "any": self.rng.random() < .5}[self.keeps]:
                self.waiting[i] = (byte, at)

    def advance(self):
        while self.rcv_nxt in self.waiting and (self.fin is None or self.rcv_nxt < self.fin):
            byte, _ = self.waiting.pop(self.rcv_nxt)
            if self.rcv_nxt not in self.skipped:
                self.read[self.rcv_nxt] = byte
            self.rcv_nxt += 1
        if self.fin is not None and self.rcv_nxt == self.fin:
            self.rcv_nxt += 1
            self.closed = True
