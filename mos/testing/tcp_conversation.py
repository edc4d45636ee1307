"""TCP conversations. Numbers count from the initial sequence number: seq 0 is the SYN, seq 1 = offset 0 the first byte."""
import struct
from dataclasses import dataclass, field

from mos.errors import UsageError
from mos.testing.conversation import START_NS, STEP_NS, Endpoints, other
from mos.testing.packets import ACK, FIN, PSH, RST, SYN, URG, Tcp, endpoint, flags_of

TFO_COOKIE = bytes.fromhex("6d6f736d6f736d6f")
TS_BASE = {"client": 100_000, "server": 500_000}    # different, so that an echoed value cannot be taken for one's own


@dataclass
class End:
    """What one end has sent so far and how it is set up."""
    isn: int
    mss: int | None
    wscale: int | None
    timestamps: bool
    sack: bool
    next: int = 0           # relative number of the next byte to send
    wnd: int = 65535        # raw value of the window field
    fin: bool = False
    ts_recent: int = 0      # last TSval that the peer sent
    sent: bytearray = field(default_factory=bytearray)


class Ends(dict):
    """Both ends by name; a wrong name raises UsageError."""

    def __missing__(self, side):
        return other(side)


class TcpConversation(Endpoints):
    """A TCP connection. `segment` is the raw form; every other verb is made of it and keeps sequence numbers itself."""

    def __init__(self, client, server, ends, **common):
        super().__init__(client, server, **common)
        self.end = Ends(client=ends[0], server=ends[1])

    def sent(self, side):
        """The bytes `side` sent in sequence so far: what the other end's application reads in the end."""
        return bytes(self.end[side].sent)

    def syn(self, side="client", data=b"", ack=None, options=b""):
        """`side` sends its SYN, with ACK if the peer's SYN came before unless ack=False; `options` come on top."""
        e, peer = self.end[side], self.end[other(side)]
        if e.next:
            raise UsageError(f"the {side}'s SYN was sent already: build with handshake=False to send it yourself")
        flags = SYN | (ACK if (peer.next if ack is None else ack) else 0)
        return self.segment(side, data, flags=flags, options=self._syn_options(e) + options, wnd=min(e.wnd, 65535))

    def handshake(self):
        """SYN, SYN-ACK, ACK."""
        return self.syn("client").syn("server").ack("client")

    def syn_data(self, data, accepted=True):
        """TCP Fast Open: a handshake whose SYN carries `data`; unless `accepted` the SYN-ACK covers the SYN alone."""
        self.syn("client", data, options=struct.pack("!BB", 34, 2 + len(TFO_COOKIE)) + TFO_COOKIE)
        if accepted:
            return self.syn("server").ack("client")
        self.end["client"].next = 1
        self.syn("server")
        return self._stream("client", data, ack=True)

    def send(self, data, ack=True):
        """The client sends `data` in segments of at most its mss, and the server acknowledges all of it with one ACK."""
        return self._stream("client", data, ack)

    def reply(self, data, ack=True):
        """The server sends `data` in segments of at most its mss, and the client acknowledges all of it with one ACK."""
        return self._stream("server", data, ack)

    def ack(self, side="server"):
        """`side` acknowledges everything its peer has sent."""
        return self.segment(side)

    def window(self, size, side="server"):
        """`side` announces a receive window of `size` bytes (rounded down to its scale), now and from now on."""
        raw = size >> self._shift(side)
        if not 0 <= raw <= 65535:
            raise UsageError(f"a window of {size} bytes cannot be announced with a scale of {self._shift(side)}")
        self.end[side].wnd = raw
        return self.segment(side)

    def keep_alive(self, side="client", answered=True):
        """`side` sends a keep-alive, one byte below its next sequence number and empty, and the peer ACKs (RFC 9293 3.8.4)."""
        self.segment(side, seq=self.end[side].next - 1)
        return self.segment(other(side)) if answered else self

    def fin(self, side="client", ack=True):
        """`side` sends a FIN, and its peer acknowledges it."""
        self.segment(side, flags=FIN | ACK)
        return self.segment(other(side)) if ack else self

    def close(self, first="client"):
        """Both ends close, `first` first, in three packets; an end that sent its FIN before is left out."""
        second = other(first)
        sides = [s for s in (first, second) if not self.end[s].fin]
        for side in sides:
            self.fin(side, ack=False)
        return self.segment(other(sides[-1])) if sides else self

    def rst(self, side="client", seq=None, ack=None):
        """`side` resets; `seq` and `ack` are relative as in `segment`. From an end without a SYN: a refusal, sequence 0."""
        e = self.end[side]
        if seq is None:
            seq = e.next if e.next else -e.isn
        return self.segment(side, flags=RST | ACK, seq=seq, ack=ack, wnd=0, options=b"")

    def segment(self, side, data=b"", *, offset=None, flags=None, seq=None, ack=None, wnd=None, urg=None, ts=None,
                sack=(), options=None):
        """`side` sends one segment as told; what is not told follows from the conversation.

        offset   stream offset of the first byte; counts as sent if it goes beyond what was sent
        seq      the same plus 1, but raw: leaves what the conversation believes was sent as it is
        flags    letters of FSRPAUEC, or an int; "A", or "PA" with data
        ack      relative to the peer's ISN; everything the peer has sent
        wnd      raw value of the window field
        urg      urgent pointer; sets URG
        ts       (TSval, TSecr); both clocks tick in ms of packet time
        sack     (first, past the last) stream offsets of the peer's bytes to report as received
        options  TCP options instead of all those above
        """
        e, peer = self.end[side], self.end[other(side)]
        flags = (PSH | ACK if data else ACK) if flags is None else flags_of(flags)
        at = seq if seq is not None else e.next if offset is None else offset + 1
        if options is None:
            options = self._options(side, flags, ts, sack, peer)
        tcp = Tcp(self.port[side], self.port[other(side)], e.isn + at,
                  (peer.isn + (peer.next if ack is None else ack)) if flags & ACK else 0,
                  flags | (URG if urg is not None else 0), e.wnd if wnd is None else wnd, urg or 0, options, bytes(data))
        if seq is None:
            self._count(e, at, data, flags)
        return self._emit(side, tcp)

    def retransmit(self, n, data=None, **changes):
        """Packet n's sender sends that segment again, with its present ACK; `data` and `segment`'s options may differ."""
        return self._resend(self.built[self._at(n)], data, **changes)

    def overlap(self, n, data, shift=0):
        """Packet n's sender sends `data` beginning `shift` bytes behind (or before, if negative) packet n's first byte."""
        p = self.built[self._at(n)]
        e = self.end[p.side]
        offset = self._offset_of(p, e) + shift
        if offset < 0:
            raise UsageError(f"a shift of {shift} goes below the first byte of the stream: use segment(seq=...)")
        return self.segment(p.side, data, offset=offset)

    def _resend(self, packet, data=None, **changes):
        old = packet.l4
        same = dict(flags=old.flags, seq=old.seq - self.end[packet.side].isn)
        if old.flags & SYN:
            same.update(options=old.options, wnd=old.wnd)
        if old.flags & URG:
            same.update(urg=old.urg)
        return self.segment(packet.side, packet.payload if data is None else data, **(same | changes))

    def _stream(self, side, data, ack):
        if not self.end[side].next:
            raise UsageError(f"the {side} has no sequence numbers before its SYN: call syn(), handshake() or syn_data()")
        room = self.end[other(side)].mss or 536      # RFC 9293 3.7.1: without an MSS option
        room -= 12 if self._timestamps() else 0
        for at in range(0, len(data), room):
            piece = data[at:at + room]
            self.segment(side, piece, flags=ACK | (PSH if at + room >= len(data) else 0))
        return self.segment(other(side)) if ack and data else self

    def _offset_of(self, packet, e):
        wrapped = (packet.l4.seq - e.isn + (1 if packet.l4.flags & SYN else 0)) & 0xFFFFFFFF
        behind = (e.next - wrapped) & 0xFFFFFFFF     # the packet is the latest at that place of the sequence space
        return e.next - behind - 1

    def _count(self, e, at, data, flags):
        first = at + 1 if flags & SYN else at
        if first - 1 <= len(e.sent) < first - 1 + len(data):
            e.sent += data[len(e.sent) - first + 1:]
        e.fin = e.fin or bool(flags & FIN)
        e.next = max(e.next, first + len(data) + (1 if flags & FIN else 0))

    def _shift(self, side):
        both = all(e.wscale is not None for e in self.end.values())
        return self.end[side].wscale if both else 0

    def _timestamps(self):
        return all(e.timestamps for e in self.end.values())

    def _clock_option(self, side, ts):
        e, peer = self.end[side], self.end[other(side)]
        value, echo = ts or (TS_BASE[side] + (self.clock - START_NS) // 1_000_000, e.ts_recent)
        peer.ts_recent = value & 0xFFFFFFFF
        return struct.pack("!BBII", 8, 10, value & 0xFFFFFFFF, echo & 0xFFFFFFFF)

    def _options(self, side, flags, ts, sack, peer):
        options = b""
        if ts or (self._timestamps() and not flags & RST):
            options += b"\1\1" + self._clock_option(side, ts)
        if sack:
            edges = [peer.isn + 1 + offset & 0xFFFFFFFF for block in sack for offset in block]
            options += b"\1\1" + struct.pack(f"!BB{len(edges)}I", 5, 2 + 4 * len(edges), *edges)
        return options

    def _syn_options(self, e):
        side = "client" if e is self.end["client"] else "server"
        options = b"" if e.mss is None else struct.pack("!BBH", 2, 4, e.mss)
        if e.sack:
            options += b"\1\1\4\2"
        if e.timestamps:
            options += b"\1\1" + self._clock_option(side, None)
        if e.wscale is not None:
            options += struct.pack("!BBBB", 1, 3, 3, e.wscale)
        return options


def tcp(client, server, *, isn=(1000, 2000), mss=1460, wscale=7, timestamps=False, sack=True, vlan=None,
        start_ns=START_NS, step_ns=STEP_NS, handshake=True):
    """A TCP conversation between "address:port" and "address:port", by default with its handshake done.

    mss, wscale, timestamps and sack are what each SYN offers: one value, or (client's, server's); None leaves the option
    out. Raises UsageError on an address that is none or a window scale above 14.
    """
    def both(value):
        return value if isinstance(value, tuple) else (value, value)

    for scale in both(wscale):
        if scale is not None and not 0 <= scale <= 14:
            raise UsageError(f"a window scale of {scale} is out of range: 0 to 14 (RFC 7323 2.3)")
    ends = [End(*values) for values in zip(isn, both(mss), both(wscale), both(timestamps), both(sack))]
    conversation = TcpConversation(endpoint(client), endpoint(server), ends,
                                   vlan=vlan, start_ns=start_ns, step_ns=step_ns)
    return conversation.handshake() if handshake else conversation
