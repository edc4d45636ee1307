"""Frames for the attacks: built from integers, with right checksums, straight into a capture in memory or a file.

`Scene` writes the capture. Among what an attack sends it spreads the packets of the victims: ordinary connections that are open
before the attack begins and close after it. Their bytes are known, so that a run can tell whether they survived.
"""
import hashlib
import random
import struct

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
VICTIM_PORT = 7777
VICTIMS = 32
VICTIM_SERVER = 0xC6336401      # 198.51.100.1
START_NS = 1_600_000_000 * 10**9
ETHER4 = bytes.fromhex("020000000002020000000001 0800")
ETHER6 = bytes.fromhex("020000000002020000000001 86dd")
IP4 = struct.Struct("!BBHHHBBHII")
TCP = struct.Struct("!HHIIBBHHH")
UDP = struct.Struct("!HHHH")
RECORD = struct.Struct("<IIII")
HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)


def total(data):
    """Sum of the 16-bit words of `data`, not yet folded."""
    if len(data) % 2:
        data += b"\0"
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def fold(value):
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value ^ 0xFFFF


def ip4(src, dst, proto, body, ident=0, fragment=0x4000):
    """An IPv4 packet around `body`."""
    n = 20 + len(body)
    words = 0x4500 + n + ident + fragment + 0x4000 + proto + (src >> 16) + (src & 0xFFFF) + (dst >> 16) + (dst & 0xFFFF)
    return IP4.pack(0x45, 0, n, ident, fragment, 64, proto, fold(words), src, dst) + body


def ip6(src, dst, proto, body):
    """An IPv6 packet; addresses are ints of 128 bits."""
    return struct.pack("!IHBB", 6 << 28, len(body), proto, 64) + src.to_bytes(16, "big") + dst.to_bytes(16, "big") + body


def segment(src, dst, sport, dport, seq, ack, flags, payload=b"", wnd=65535, options=b"", known=None):
    """A TCP segment; `known` is total(payload) of a payload of even offset, if the caller has it."""
    seq, ack = seq & 0xFFFFFFFF, ack & 0xFFFFFFFF
    length = 20 + len(options) + len(payload)
    offset = (5 + len(options) // 4) << 4
    words = (src >> 16) + (src & 0xFFFF) + (dst >> 16) + (dst & 0xFFFF) + 6 + length + sport + dport + (seq >> 16) \
        + (seq & 0xFFFF) + (ack >> 16) + (ack & 0xFFFF) + (offset << 8) + flags + wnd \
        + (total(options) if options else 0) + (known if known is not None else total(payload))
    return TCP.pack(sport, dport, seq, ack, offset, flags, wnd, fold(words), 0) + options + payload


def tcp(src, dst, sport, dport, seq, ack, flags, payload=b"", **more):
    """An Ethernet frame with a TCP segment over IPv4."""
    return ETHER4 + ip4(src, dst, 6, segment(src, dst, sport, dport, seq, ack, flags, payload, **more))


def udp(src, dst, sport, dport, payload=b""):
    """The same with a UDP datagram, which needs no checksum (RFC 768)."""
    return ETHER4 + ip4(src, dst, 17, UDP.pack(sport, dport, 8 + len(payload), 0) + payload)


def timestamps(value, echo=0):
    """The option of RFC 7323, padded."""
    return struct.pack("!BBBBII", 1, 1, 8, 10, value & 0xFFFFFFFF, echo & 0xFFFFFFFF)


class Talk:
    """One side's view of a connection that is built segment by segment."""

    def __init__(self, src, dst, sport, dport, iss=1000, irs=9000, wnd=65535):
        self.ends = (src, dst, sport, dport), (dst, src, dport, sport)
        self.nxt = [iss, irs]
        self.wnd = wnd

    def send(self, side, flags, payload=b"", *, at=None, ack=None, options=b"", wnd=None, known=None):
        """The frame of a segment from `side` (0 opened); at: its sequence number, if it is not the next."""
        seq = self.nxt[side] if at is None else at
        if at is None:
            self.nxt[side] += len(payload) + (1 if flags & (SYN | FIN) else 0)
        return tcp(*self.ends[side], seq, (self.nxt[1 - side] if ack is None else ack) if flags & ACK else 0, flags, payload,
                   wnd=self.wnd if wnd is None else wnd, options=options, known=known)

    def open(self, options=b""):
        """The handshake's frames."""
        return [self.send(0, SYN, options=options), self.send(1, SYN | ACK, options=options), self.send(0, ACK, options=options)]

    def close(self):
        """Both FINs and the last ACK."""
        return [self.send(0, FIN | ACK), self.send(1, FIN | ACK), self.send(0, ACK)]


class Victim(Talk):
    """An ordinary connection whose bytes are known."""

    def __init__(self, number, rng):
        super().__init__(0xC0000201 + number, VICTIM_SERVER, 20000 + number, VICTIM_PORT, rng.getrandbits(32), rng.getrandbits(32))
        self.rng = rng
        self.port = 20000 + number
        self.said = hashlib.sha256(), hashlib.sha256()
        self.sent = [0, 0]

    def step(self):
        """A request or an answer, acknowledged."""
        side = self.rng.getrandbits(1)
        data = self.rng.randbytes(self.rng.randrange(40, 400))
        self.said[side].update(data)
        self.sent[side] += len(data)
        return [self.send(side, ACK | PSH, data), self.send(1 - side, ACK)]


class Scene:
    """A capture under construction: `attack` adds a frame, and every now and then the victims speak.

    write: what takes the bytes. victims: how many. every: attack packets between two packets of theirs. gap_ns: between packets.
    """

    def __init__(self, write, seed, *, victims=VICTIMS, every=64, gap_ns=1000):
        self.rng = random.Random(seed)
        self.write, self.every, self.gap_ns = write, every, gap_ns
        self.now, self.packets, self.bytes, self.waiting = START_NS, 0, 0, []
        self.attacks = 0
        self.victims = [Victim(i, random.Random(seed * 1000 + i)) for i in range(victims)]
        write(HEADER)
        for victim in self.victims:
            for frame in victim.open():
                self.add(frame)

    def add(self, frame):
        """A frame, as it is, at the next moment."""
        self.now += self.gap_ns
        self.packets += 1
        self.bytes += len(frame)
        sec, ns = divmod(self.now, 10**9)
        self.write(RECORD.pack(sec, ns, len(frame), len(frame)) + frame)

    def attack(self, frame):
        """A frame of the attack."""
        self.add(frame)
        self.attacks += 1
        if self.victims and self.attacks % self.every == 0:
            if not self.waiting:
                self.waiting = self.rng.choice(self.victims).step()[::-1]
            self.add(self.waiting.pop())

    def idle(self, seconds):
        """Time passes; the victims speak each half a minute, as keep-alives would have them do."""
        while seconds > 0:
            self.now += int(min(seconds, 30) * 1e9)
            seconds -= 30
            for victim in self.victims:
                for frame in victim.step():
                    self.add(frame)

    def finish(self):
        """Close the victims; what must come out, by the victim's port."""
        while self.waiting:
            self.add(self.waiting.pop())
        for victim in self.victims:
            for frame in victim.step() + victim.close():
                self.add(frame)
        return {"packets": self.packets, "attack_packets": self.attacks, "bytes": self.bytes,
                "victims": {v.port: [h.hexdigest() for h in v.said] for v in self.victims}}
