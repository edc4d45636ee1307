"""Bytes to a capture: a compact language in which random bytes mostly mean plausible TCP, and any byte means something.

A record is one byte, kind << 5 | side << 4 | shape, and what that needs. Kinds 0 to 3: a TCP segment of that flow. 4: a
TCP segment with options. 5: a datagram. 6: something about the next frame, or time passes. 7: a frame as it is.
Numbers that records leave out come from a model of both ends, so that shape 3, say, is data in order.
"""
import struct

START_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
FLAGS = (SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, FIN | PSH | ACK, RST, RST | ACK, PSH | ACK, PSH | ACK, PSH | ACK, PSH | ACK,
         ACK, ACK, ACK, PSH | ACK)
WAITS = (1_000_000_000, 3_000_000_000, 12_000_000_000, 130_000_000_000, 301_000_000_000, 7_441_000_000_000, -5_000_000_000, 1)
OPTIONS = (b"\2\4\5\xb4", b"\3\3\7", b"\3\3\x0f", b"\4\2", b"\1\1\x08\x0a", b"\5\x0a", b"\5\x22",
           b"\x08\x0a\0\0", b"\2\4", b"\x22\2", b"\0\0", b"\3\0", b"\xfd\xff", b"\x13\x12", b"\2\4\0\0\3\3\0\4\2", b"\5\x12")
MAX_FRAMES = 400        # an input is to take milliseconds


class Reader:
    """Numbers off the front; zeros behind the end."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def __bool__(self):
        return self.at < len(self.data)

    def take(self, n):
        piece = self.data[self.at:self.at + n]
        self.at += n
        return piece

    def number(self, n=1, signed=False):
        return int.from_bytes(self.take(n), "big", signed=signed)


class Flow:
    """What a sane pair of ends would send next."""

    def __init__(self, number):
        self.six = number == 1
        self.vlan = (0x123,) if number == 2 else ()
        self.ends = [struct.pack("!BBBB", 10, number, 0, side + 1) for side in (0, 1)]
        if self.six:
            self.ends = [bytes.fromhex("fd00") + bytes(10) + e for e in self.ends]
        self.ports = [40000 + number, 80]
        self.restart()

    def restart(self):
        self.next = [2**32 - 20, 1000]      # the client's wraps soon
        self.sent_syn = [False, False]
        self.clock = 100


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~((total & 0xffff) + (total >> 16)) & 0xffff


def content(seq, n, salt=0):
    """The same byte at the same sequence number, unless salted."""
    return bytes((seq + i) * 7 + (seq + i >> 8) + salt & 255 for i in range(n))


class Capture:
    """Collects pcap records; `about` is what kind 6 said of the next frame."""

    def __init__(self):
        self.parts = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)]
        self.now, self.frames, self.about, self.last, self.ident = START_NS, 0, {}, b"", 0

    def add(self, frame):
        if self.frames >= MAX_FRAMES:
            return
        self.frames += 1
        self.now += STEP_NS
        self.last = frame
        kept = frame[:max(0, len(frame) - self.about.pop("cut", 0))]
        self.parts.append(struct.pack("<IIII", *divmod(max(self.now, 0), 10**9), len(kept), len(frame)) + kept)

    def ip(self, flow, side, proto, l4):
        if self.about.pop("bad", 0):
            at = {6: 16, 17: 6}.get(proto, 2)
            l4 = l4[:at] + b"\x12\x34" + l4[at + 2:]
        size, backwards = self.about.pop("fragment", (0, False))
        pieces = [(0, l4, False)]
        if size:
            pieces = [(i, l4[i:i + size], i + size < len(l4)) for i in range(0, len(l4), size)][:40]
            self.ident += 1
        for offset, piece, more in reversed(pieces) if backwards else pieces:
            self.add(self.datagram(flow, side, proto, piece, (offset | more) if size else None))

    def datagram(self, flow, side, proto, data, fragment):
        src, dst = flow.ends[side], flow.ends[1 - side]
        if flow.six:
            if fragment is not None:
                data, proto = struct.pack("!BBHI", proto, 0, fragment, self.ident) + data, 44
            packet = struct.pack("!IHBB", 6 << 28, len(data), proto, 64) + src + dst + data
        else:
            word = (fragment >> 3 | (fragment & 1) << 13) if fragment is not None else 0
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), self.ident, word, 64, proto, 0) + src + dst
            packet = head[:10] + struct.pack("!H", checksum(head)) + head[12:] + data
        tags = b"".join(struct.pack("!HH", 0x8100, v) for v in flow.vlan)
        return bytes(12) + tags + (b"\x86\xdd" if flow.six else b"\x08\x00") + packet


def segment(out, flow, side, shape, r, options=b""):
    """One TCP segment of the given shape; the model moves on with it."""
    peer, flags, salt = 1 - side, FLAGS[shape], 0
    if shape == 0 and flow.sent_syn[side]:
        flow.ports[0] += r.number() & 1     # again, or the next connection
        flow.restart()
    seq, ack, window, payload = flow.next[side], flow.next[peer], 0xffff, b""
    if shape in (3, 5):
        payload = content(seq, r.number())
    elif shape == 8:
        payload = content(seq, 1460)
    elif shape in (9, 10):
        seq, salt = seq - r.number(), shape - 9
        payload = content(seq, r.number(), salt)
    elif shape == 11:
        seq += r.number()
        payload = content(seq, r.number())
    elif shape == 12:
        seq -= 1
        payload = content(seq, r.number() & 1)
    elif shape == 13:
        ack += r.number()
    elif shape == 14:
        flags, seq, ack, window = r.number(), seq + r.number(2, True), ack + r.number(2, True), r.number(2)
        payload = content(seq, r.number())
    elif shape == 15:
        seq += r.number(4, True)
        payload = content(seq, r.number())
    if flags & SYN:
        flow.sent_syn[side] = True
    options += b"\0" * (-len(options) % 4)
    head = struct.pack("!HHIIBBHHH", flow.ports[side], flow.ports[peer], seq & 0xffffffff, ack & 0xffffffff if flags & ACK else 0,
                       (5 + len(options) // 4) << 4, flags, window, 0, 0)
    out.ip(flow, side, 6, head + options + payload)
    end = seq + len(payload) + bool(flags & SYN) + bool(flags & FIN)
    if shape not in (10, 14, 15) and not flags & RST:
        flow.next[side] = max(flow.next[side], end)


def options(flow, r):
    """Up to three options out of the table, filled with what follows; or time stamps that move on."""
    n, found = r.number(), b""
    if n & 0x80:
        flow.clock += n & 0x7f
        return b"\1\1\x08\x0a" + struct.pack("!II", flow.clock, 0)
    for _ in range(n & 3):
        start = OPTIONS[r.number() & 15]
        want = start[1] if len(start) > 1 and 2 <= start[1] <= 34 else len(start)
        found += (start + r.take(max(0, want - len(start))))[:max(want, 2)]
    return found[:40]


def datagram(out, flow, side, shape, r):
    """UDP, ICMP, or UDP to a tunnel's port around the last frame."""
    n = r.number()
    if shape < 6:
        port = (80, 53, 4789, 6081, 2152, 3544)[shape]
        inner = out.last if shape == 2 else b""
        data = (b"\x08\0\0\0\0\0\7\0" if shape == 2 else r.take(n & 31)) + inner[:1400]
        ports = (41000, port) if side == 0 else (port, 41000)
        out.ip(flow, side, 17, struct.pack("!HHHH", *ports, 8 + len(data), 0) + data)
    elif shape < 10:
        kind = ((8, 0), (128, 129))[flow.six][side] if shape < 8 else r.number()
        out.ip(flow, side, 58 if flow.six else 1, struct.pack("!BBHHH", kind, 0, 0, n, 1) + r.take(n & 63))
    else:
        proto = (4, 41, 47, 97, 50, 51)[shape - 10]
        inner = out.last[14:14 + 1400] if proto != 97 else b"\x30\0" + out.last[:1400]
        out.ip(flow, side, proto, (b"\0\0\x08\0" + inner if proto == 47 else inner))


def modifier(out, side, shape, r):
    if shape < 8:
        out.now += WAITS[shape]
    elif shape < 10:
        out.about["fragment"] = (8 * (1 + r.number() % 64), shape == 9)
    elif shape == 10:
        out.about["cut"] = r.number()
    elif shape == 11:
        out.about["bad"] = 1
    elif out.last:
        for _ in range(1 + side):
            out.add(out.last)


def capture(data):
    """A classic pcap with the frames that `data` describes."""
    r, out = Reader(data), Capture()
    flows = [Flow(i) for i in range(4)]
    last = 0
    while r and out.frames < MAX_FRAMES:
        op = r.number()
        kind, side, shape = op >> 5, op >> 4 & 1, op & 15
        last = kind if kind < 4 else last
        if kind < 4:
            segment(out, flows[kind], side, shape, r)
        elif kind == 4:
            segment(out, flows[last], side, shape, r, options(flows[last], r))
        elif kind == 5:
            datagram(out, flows[last], side, shape, r)
        elif kind == 6:
            modifier(out, side, shape, r)
        else:
            out.add(r.take(r.number() if shape < 8 else 14 + 20 + 20))
    return b"".join(out.parts)
