"""Headers and checksums of the frames that a conversation is made of. Plain `struct`; nothing is parsed here."""
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import ClassVar

from mos.errors import UsageError

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << i for i in range(8))
_LETTERS = dict(F=FIN, S=SYN, R=RST, P=PSH, A=ACK, U=URG, E=ECE, C=CWR)

MACS = {"client": bytes.fromhex("020000000001"), "server": bytes.fromhex("020000000002")}
ETHERTYPE = {4: 0x0800, 6: 0x86DD}
DOT1Q, DOT1AD = 0x8100, 0x88A8
ICMP, TCP, UDP, ICMPV6, V6_FRAGMENT = 1, 6, 17, 58, 44


def flags_of(text):
    """TCP flag bits of a string such as "SA" or "FPA"; an int passes through. Raises UsageError on an unknown letter."""
    if isinstance(text, int):
        return text
    try:
        return sum({_LETTERS[c] for c in text.upper()})
    except KeyError as e:
        raise UsageError(f"TCP flag {e.args[0]!r} is unknown: use letters of {''.join(_LETTERS)}") from None


def checksum(data):
    """The Internet checksum of `data` (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@dataclass
class Tcp:
    """A TCP segment; `seq` and `ack` may be any int and are taken modulo 2**32."""
    sport: int
    dport: int
    seq: int
    ack: int = 0
    flags: int = ACK
    wnd: int = 65535
    urg: int = 0
    options: bytes = b""
    payload: bytes = b""
    number: ClassVar[int] = TCP
    checksum_at: ClassVar[int] = 16

    def build(self, version):
        options = self.options + b"\0" * (-len(self.options) % 4)
        if len(options) > 40:
            raise UsageError(f"TCP options take {len(options)} bytes: at most 40 fit, so give fewer")
        return struct.pack("!HHIIBBHHH", self.sport, self.dport, self.seq & 0xFFFFFFFF, self.ack & 0xFFFFFFFF,
                           (5 + len(options) // 4) << 4, self.flags, self.wnd, 0, self.urg) + options + self.payload


@dataclass
class Udp:
    """A UDP datagram."""
    sport: int
    dport: int
    payload: bytes = b""
    number: ClassVar[int] = UDP
    checksum_at: ClassVar[int] = 6

    def build(self, version):
        return struct.pack("!HHHH", self.sport, self.dport, 8 + len(self.payload), 0) + self.payload


@dataclass
class Echo:
    """An ICMP echo request or reply; over IPv6 it becomes the ICMPv6 one (RFC 792, RFC 4443 section 4)."""
    reply: bool
    ident: int
    seq: int
    payload: bytes = b""
    number: ClassVar[int] = ICMP
    checksum_at: ClassVar[int] = 2

    def build(self, version):
        kind = (0 if self.reply else 8) if version == 4 else (129 if self.reply else 128)
        return struct.pack("!BBHHH", kind, 0, 0, self.ident & 0xFFFF, self.seq & 0xFFFF) + self.payload


@dataclass
class Packet:
    """One frame of a conversation, kept as fields so that it can still be altered; `frame()` gives its bytes.

    `fragment` is (offset, length, more) of the IP payload, or None for a whole datagram. `bad` names the layers
    ("ip", "transport") whose checksum shall be wrong.
    """
    time: int
    side: str
    src: bytes
    dst: bytes
    l4: Tcp | Udp | Echo
    ident: int = 0
    ttl: int = 64
    vlans: tuple = ()
    fragment: tuple | None = None
    bad: frozenset = frozenset()

    @property
    def version(self):
        return 4 if len(self.src) == 4 else 6

    @property
    def payload(self):
        """The transport payload."""
        return self.l4.payload

    @property
    def protocol(self):
        """IP protocol number, ICMPV6 for an echo over IPv6."""
        return ICMPV6 if self.version == 6 and self.l4.number == ICMP else self.l4.number

    def transport(self):
        """The whole transport segment, checksummed (RFC 9293 3.1, RFC 768, RFC 8200 8.1)."""
        raw = self.l4.build(self.version)
        pseudo = b""
        if self.version == 6:
            pseudo = self.src + self.dst + struct.pack("!I3xB", len(raw), self.protocol)
        elif self.protocol != ICMP:
            pseudo = self.src + self.dst + struct.pack("!xBH", self.protocol, len(raw))
        value = checksum(pseudo + raw)
        if "transport" in self.bad:
            value = value ^ 0x00FF or 0x1234     # a UDP checksum of 0 would mean "none", which is right
        elif value == 0 and self.protocol == UDP:
            value = 0xFFFF
        at = self.l4.checksum_at
        return raw[:at] + struct.pack("!H", value) + raw[at + 2:]

    def frame(self):
        """The Ethernet frame. No padding to 60 bytes: that is what a host captures of what it sends."""
        data = self.transport()
        where = None
        if self.fragment is not None:
            offset, length, more = self.fragment
            data, where = data[offset:offset + length], (offset, more)
        packet = self._ipv4(data, where) if self.version == 4 else self._ipv6(data, where)
        peer = "server" if self.side == "client" else "client"
        tags = b"".join(struct.pack("!HH", DOT1Q if i == len(self.vlans) - 1 else DOT1AD, tag)
                        for i, tag in enumerate(self.vlans))
        return MACS[peer] + MACS[self.side] + tags + struct.pack("!H", ETHERTYPE[self.version]) + packet

    def _ipv4(self, data, where):
        offset, more = where or (0, False)
        word = offset >> 3 | (0x2000 if more else 0) if where else 0x4000
        size = 20 + len(data)
        if size > 65535:
            raise UsageError(f"an IPv4 packet of {size} bytes is too long: send less at a time or give a smaller mss")
        head = struct.pack("!BBHHHBBH", 0x45, 0, size, self.ident & 0xFFFF, word, self.ttl, self.protocol, 0)
        head += self.src + self.dst
        value = checksum(head) ^ (0x00FF if "ip" in self.bad else 0)
        return head[:10] + struct.pack("!H", value) + head[12:] + data

    def _ipv6(self, data, where):
        number = self.protocol
        if where:
            offset, more = where
            data = struct.pack("!BBHI", number, 0, offset | more, self.ident) + data
            number = V6_FRAGMENT
        if len(data) > 65535:
            raise UsageError(f"an IPv6 payload of {len(data)} bytes is too long: send less at a time or give a smaller mss")
        return struct.pack("!IHBB", 6 << 28, len(data), number, self.ttl) + self.src + self.dst + data


def endpoint(text):
    """(address bytes, port) of "10.0.0.1:80" or "[fd77::1]:80". Raises UsageError on anything else."""
    host, colon, port = text.rpartition(":")
    try:
        if not colon or not 0 <= int(port) <= 65535:
            raise ValueError
        return address(host.removeprefix("[").removesuffix("]")), int(port)
    except ValueError:
        raise UsageError(f"{text!r} is no address and port: write 10.0.0.1:80 or [fd77::1]:80") from None


def address(text):
    """Address bytes of "10.0.0.1" or "fd77::1". Raises UsageError on anything else."""
    try:
        return ip_address(text).packed
    except ValueError:
        raise UsageError(f"{text!r} is no IP address") from None


def v6_twin(packed):
    """The IPv6 address that stands in for an IPv4 one, fd00::a.b.c.d; an IPv6 address stays as it is."""
    return packed if len(packed) == 16 else bytes.fromhex("fd00") + bytes(10) + packed


def pcap_bytes(packets):
    """A pcap file (nanoseconds, Ethernet, little-endian) of (ns, frame) pairs."""
    parts = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)]
    for time, frame in packets:
        parts.append(struct.pack("<IIII", *divmod(time, 1_000_000_000), len(frame), len(frame)) + frame)
    return b"".join(parts)
