"""Ordinary traffic, what the attacks of hostile.py are measured against: web pages, transfers, QUIC and names, as at an uplink.

Neither the cheapest packets alone nor the dearest. Of the conversations 30 % ask for a name over UDP, 15 % are QUIC and 55 % TCP,
of the packets some 1, 19 and 80 %. A third of the conversations use IPv6. Two thirds of the TCP connections carry timestamps on
every segment (Linux, macOS and Android do, Windows does not), all SYNs the options that systems send. 75 % answer with 1 to 4
full segments, 20 % with 5 to 40 and 5 % with 41 to 400, each up to three times: a flow has some 35 packets on average, and three
quarters of them are short, as on a campus uplink (Jurkiewicz, Rzym, Borylo, "How many mice make an elephant?", 2018: of flows
in one direction 84 % have up to 8 packets, the average has 79). Every second segment is acknowledged. One in 200 data segments
overtakes the one before it, as many come twice. Packets come in trains of 1 to 7 per conversation among `alive` of them.
"""
import struct

from attacks_frames import ACK, ETHER4, ETHER6, PSH, SYN, UDP, Talk, fold, ip4, ip6, segment, timestamps, total

MSS = (bytes(range(256)) * 6)[:1460]
SYN_OPTIONS = bytes.fromhex("020405b4 0402 01030307")     # MSS 1460, SACK permitted, scale 7; timestamps go before the scale
NET6 = 0x20010DB8 << 96


def ordinary(scene, n, alive=2_000, full=200, draw=None):
    """The mix with full segments of 200 bytes, as small as those of most attacks. full: bytes of a full segment.

    draw: makes a conversation; all kinds if it is not given.
    """
    draw = draw or conversation
    rng, stop = scene.rng, scene.attacks + n
    data = MSS[:full], total(MSS[:full])
    trains = [draw(rng, *data) for _ in range(min(alive, max(1, n // 30)))]
    while scene.attacks < stop:
        i = rng.randrange(len(trains))
        for _ in range(rng.randrange(1, 8)):
            frame = next(trains[i], None)
            if frame is None:
                trains[i] = draw(rng, *data)
                break
            scene.attack(frame)


def narrow(scene, n):
    """TCP over IPv4 without options alone: the cheapest that can be called ordinary."""
    ordinary(scene, n, draw=lambda rng, *data: connection(rng, 4, *data, options=False))


def narrow_full(scene, n):
    ordinary(scene, n, full=1460, draw=lambda rng, *data: connection(rng, 4, *data, options=False))


def ordinary_full(scene, n):
    """The same with segments of 1,460 bytes, for attacks that are made of those."""
    ordinary(scene, n, full=1460)


def conversation(rng, data, known):
    """The frames of one conversation."""
    kind, version = rng.random(), 6 if rng.random() < 1 / 3 else 4
    if kind < 0.3:
        return name(rng, version)
    if kind < 0.45:
        return quic(rng, version, data, known)
    return connection(rng, version, data, known)


def ends(rng, version):
    """(client's address, server's address, client's port)."""
    src, dst = rng.getrandbits(24), rng.getrandbits(12)
    if version == 6:
        return NET6 | src, NET6 | 1 << 80 | dst, rng.randrange(1024, 65536)
    return 0x0A000000 | src, 0xAC100000 | dst, rng.randrange(1024, 65536)


class Modern(Talk):
    """A connection over either version of IP, with the options that systems of today send."""

    def __init__(self, rng, version, options=True):
        src, dst, sport = ends(rng, version)
        super().__init__(src, dst, sport, rng.choice((80, 443, 8080)), rng.getrandbits(32), rng.getrandbits(32),
                         wnd=512 if options else 65535)
        self.version, self.options = version, options
        self.clock = [rng.getrandbits(31), rng.getrandbits(31)] if options and rng.random() < 2 / 3 else None

    def send(self, side, flags, payload=b"", *, known=None, **_):
        """As Talk.send; every segment is in its place."""
        options = b""
        if self.clock:
            self.clock[side] += 1
            options = timestamps(self.clock[side], self.clock[1 - side])
        if flags & SYN and self.options:
            options = SYN_OPTIONS[:6] + (options[2:] if options else b"\1\1") + SYN_OPTIONS[6:]
        seq = self.nxt[side]
        self.nxt[side] += len(payload) + (1 if flags & 3 else 0)
        src, dst, sport, dport = self.ends[side]
        ack = self.nxt[1 - side] if flags & ACK else 0
        if self.version == 4:
            return ETHER4 + ip4(src, dst, 6, segment(src, dst, sport, dport, seq, ack, flags, payload, self.wnd, options, known))
        return ETHER6 + ip6(src, dst, 6, segment(halves(src), halves(dst), sport, dport, seq, ack, flags, payload, self.wnd,
                                                 options, known))


def halves(address):
    """An IPv6 address as an int of 32 bits with the same sum of words."""
    return total(address.to_bytes(16, "big"))


def connection(rng, version, data, known, options=True):
    """Requests of 80 to 600 bytes over TCP, each with its answer."""
    talk = Modern(rng, version, options)
    yield from talk.open()
    kind = rng.random()
    for _ in range(rng.randrange(1, 4)):
        yield talk.send(0, ACK | PSH, data[:rng.randrange(40, 300) * 2])
        yield talk.send(1, ACK)
        held = None
        for i in range(segments(rng, kind)):
            frame = talk.send(1, ACK, data, known=known)
            mishap = rng.randrange(200)
            if mishap == 0 and held is None:
                held = frame
                continue
            yield frame
            if mishap == 1:
                yield frame
            if held is not None:
                yield held
                held = None
            elif i % 2:
                yield talk.send(0, ACK)
        if held is not None:
            yield held
        yield talk.send(0, ACK)
    yield from talk.close()


def segments(rng, kind):
    """How many full ones an answer has."""
    return rng.randrange(1, 5) if kind < 0.75 else rng.randrange(5, 41) if kind < 0.95 else rng.randrange(41, 401)


def datagram(version, src, dst, sport, dport, payload, known=None):
    """A UDP datagram over either version of IP, with its sum."""
    words = total(src.to_bytes(16, "big")) + total(dst.to_bytes(16, "big")) + 17 + 2 * (8 + len(payload)) + sport + dport
    body = UDP.pack(sport, dport, 8 + len(payload), fold(words + (total(payload) if known is None else known)) or 0xFFFF) + payload
    return ETHER4 + ip4(src, dst, 17, body) if version == 4 else ETHER6 + ip6(src, dst, 17, body)


def name(rng, version):
    """A question and its answer."""
    src, dst, sport = ends(rng, version)
    yield datagram(version, src, dst, sport, 53, MSS[:rng.randrange(15, 30) * 2])
    yield datagram(version, dst, src, 53, sport, MSS[:rng.randrange(30, 150) * 2])


def quic(rng, version, data, known):
    """A connection's two first flights, then as TCP, but that acknowledgements are datagrams with bytes."""
    src, dst, sport = ends(rng, version)
    out, back = (version, src, dst, sport, 443), (version, dst, src, 443, sport)
    first, short = MSS[:1200], struct.pack("!BQ", 0x40, rng.getrandbits(64)) + MSS[:21]
    for path in (out, back, back, out):
        yield datagram(*path, first)
    kind = rng.random()
    for _ in range(rng.randrange(1, 4)):
        yield datagram(*out, data[:rng.randrange(40, 300) * 2])
        for i in range(segments(rng, kind)):
            yield datagram(*back, data, known)
            if i % 2:
                yield datagram(*out, short)
