"""The attacks of hostile.py: each a function that fills a Scene with about `n` packets, all drawn from the scene's seed.

An attack knows how the engine works, and everything but the hash key: what it aims at is named in its docstring.
"""
import struct

from attacks_frames import ACK, ETHER4, FIN, PSH, RST, SYN, Talk, ip4, ip6, segment, tcp, timestamps, total, udp
from attacks_ordinary import MSS

SERVER = 0xCB007101             # 203.0.113.1
MSS_SUM = total(MSS)
OTHER = bytes(255 - b for b in MSS)
OTHER_SUM = total(OTHER)


def client(rng):
    """An address out of 10/8 and a port."""
    return 0x0A000000 | rng.getrandbits(24), rng.randrange(1024, 65536)


def packets_of(scene, n, tuples):
    """The same work for any set of flows: each is opened, and then they take turns with small segments."""
    talks = [Talk(src, SERVER, sport, 80) for src, sport in tuples]
    for talk in talks:
        for frame in talk.open():
            scene.attack(frame)
    data = MSS[:64]
    known = total(data)
    while scene.attacks < n:
        for talk in scene.rng.sample(talks, len(talks)):
            scene.attack(talk.send(0, ACK | PSH, data, known=known))
            acknowledged(scene, talk)


def syn_flood(scene, n):
    """SYNs from addresses nobody has: at a full table each has to evict one."""
    rng = scene.rng
    for _ in range(n):
        src, sport = client(rng)
        scene.attack(tcp(src, SERVER, sport, 80, rng.getrandbits(32), 0, SYN))


def half_open(scene, n):
    """Flows that were answered but never acknowledged, one for two packets: they fill the table and its memory."""
    rng = scene.rng
    for i in range(n // 2):
        talk = Talk(0x0A000000 + (i >> 6), SERVER, 1024 + (i & 63) * 1000 % 60000, 80, rng.getrandbits(32), rng.getrandbits(32))
        scene.attack(talk.send(0, SYN))
        scene.attack(talk.send(1, SYN | ACK))


def idle_flood(scene, n):
    """Half-open flows that all time out in one moment, wave after wave: the packet that comes then ends thousands."""
    waves = 4
    for _ in range(waves):
        syn_flood(scene, n // waves)
        scene.idle(150)


def rst_orphans(scene, n):
    """RSTs and FINs for connections that do not exist."""
    rng = scene.rng
    for _ in range(n):
        src, sport = client(rng)
        scene.attack(tcp(src, SERVER, sport, 80, rng.getrandbits(32), rng.getrandbits(32), rng.choice((RST, RST | ACK))))


def fin_orphans(scene, n):
    """FINs from nowhere: each is picked up as a flow that is already closing."""
    rng = scene.rng
    for _ in range(n):
        src, sport = client(rng)
        scene.attack(tcp(src, SERVER, sport, 80, rng.getrandbits(32), rng.getrandbits(32), FIN | ACK))


def opened(scene, flows, port=80, options=b"", **more):
    """So many established connections of the attacker."""
    rng, talks = scene.rng, []
    for i in range(flows):
        talk = Talk(0x0B000000 + i, SERVER, 1024 + i % 60000, port, rng.getrandbits(32), rng.getrandbits(32), **more)
        for frame in talk.open(options):
            scene.attack(frame)
        talks.append(talk)
    return talks


def rst_storm(scene, n):
    """RSTs within the window but not exact, each answered by a challenge ACK (RFC 5961 section 3)."""
    rng, talks = scene.rng, opened(scene, 256)
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, RST, at=talk.nxt[0] + rng.randrange(1, 60000)))
        scene.attack(talk.send(1, ACK))


def paws_storm(scene, n):
    """Data with an old timestamp, which the receiver refuses (RFC 7323 section 5); a tap keeps it as doubtful."""
    rng, talks = scene.rng, opened(scene, 256, options=timestamps(1 << 20))
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, ACK, MSS[:2], at=talk.nxt[0] + rng.randrange(60000), options=timestamps(rng.randrange(1 << 18))))


def doubt_bomb(scene, n):
    """Single bytes beyond the window, then ACKs and data while all of them are parked."""
    rng, talks = scene.rng, opened(scene, 16)
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, ACK, b"x", at=talk.nxt[0] + 65535 + rng.randrange(1 << 20)))
        if rng.randrange(4) == 0:
            scene.attack(talk.send(1, ACK))
            scene.attack(talk.send(0, ACK, b"y"))


def ack_storm(scene, n):
    """Duplicate ACKs with SACK blocks, window changes, ACKs of what was never sent."""
    rng, talks = scene.rng, opened(scene, 256)
    sack = b"\x01\x01\x05\x1a"
    while scene.attacks < n:
        talk = rng.choice(talks)
        blocks = sack + struct.pack("!6I", *[(talk.nxt[1] + rng.randrange(1 << 16)) & 0xFFFFFFFF for _ in range(6)])
        scene.attack(talk.send(0, ACK, options=blocks, ack=talk.nxt[1] + rng.choice((0, 0, 1000)), wnd=rng.choice((0, 65535, 100))))


def tiny_segments(scene, n):
    """Streams of single bytes."""
    rng, talks = scene.rng, opened(scene, 512)
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, ACK, b"x"))
        acknowledged(scene, talk)


def holes(scene, n, order, flows=16, count=4000):
    """Every second byte of a stream, so that nothing can be delivered and each is a segment of its own."""
    rng = scene.rng
    round_ = 0
    while scene.attacks < n:
        talks = opened(scene, flows, port=81 + round_)
        round_ += 1
        places = [order(list(range(count)), rng) for _ in talks]
        for i in range(count):
            for talk, where in zip(talks, places):
                scene.attack(talk.send(0, ACK, b"x", at=talk.nxt[0] + 1 + 2 * where[i]))
            if scene.attacks >= n:
                break


def holes_upwards(scene, n):
    """One-byte holes from the bottom to the top."""
    holes(scene, n, lambda places, rng: places)


def holes_downwards(scene, n):
    """One-byte holes from the top to the bottom."""
    holes(scene, n, lambda places, rng: places[::-1])


def holes_shuffled(scene, n):
    """One-byte holes anywhere, up to the bound on segments and, round after round, beyond it."""
    holes(scene, n, lambda places, rng: rng.sample(places, len(places)), count=30000)


def order_bomb(scene, n):
    """Full segments out of order in many connections, until all of the memory for reassembly is taken."""
    rng, talks = scene.rng, opened(scene, 1024, wnd=65535)
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, ACK, MSS, at=talk.nxt[0] + 1 + 1460 * rng.randrange(44), known=MSS_SUM))


def in_order(scene, n):
    """The segments of order_bomb in order: what a transfer over as many connections is."""
    rng, talks = scene.rng, opened(scene, 1024)
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, ACK, MSS, known=MSS_SUM))
        if rng.randrange(20) == 0:
            for other in rng.sample(talks, 2):
                scene.attack(other.send(1, ACK))


def overlap_bomb(scene, n):
    """Single bytes with holes between, then over and over segments of other bytes that cover them all."""
    rng = scene.rng
    round_ = 0
    while scene.attacks < n:
        for talk in opened(scene, 4, port=81 + round_):
            for i in range(700):
                scene.attack(talk.send(0, ACK, b"x", at=talk.nxt[0] + 1 + 2 * i))
            for _ in range(400):
                scene.attack(talk.send(0, ACK, OTHER, at=talk.nxt[0] + 1, known=OTHER_SUM))
        round_ += 1
        rng.getrandbits(1)


def repeat_bomb(scene, n):
    """Bytes that were delivered, sent again with another content: each is compared with the copy retained."""
    rng, talks = scene.rng, opened(scene, 256)
    for talk in talks:
        scene.attack(talk.send(0, ACK, MSS, known=MSS_SUM))
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, ACK, OTHER, at=talk.nxt[0] - 1460, known=OTHER_SUM))


def never_acked(scene, n):
    """Bytes in order that the receiver never acknowledges."""
    rng, talks = scene.rng, opened(scene, 16)
    while scene.attacks < n:
        scene.attack(rng.choice(talks).send(0, ACK, b"x"))


def drop_fill(scene, n):
    """A thousand segments behind a hole, the last of which a handler refuses; then what fills the hole, again and again."""
    rng, talks = scene.rng, opened(scene, 16)
    for i in range(1, 1001):
        for talk in talks:
            data = MSS[:63] + b"!" if i == 1000 else MSS[:64]
            scene.attack(talk.send(0, ACK, data, at=talk.nxt[0] + 64 * i))
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, ACK, MSS[:64], at=talk.nxt[0]))


def reuse_storm(scene, n):
    """The same two ends again and again: opened, reset, opened."""
    rng = scene.rng
    ends = [client(rng) for _ in range(64)]
    while scene.attacks < n:
        src, sport = rng.choice(ends)
        talk = Talk(src, SERVER, sport, 80, rng.getrandbits(32), rng.getrandbits(32))
        scene.attack(talk.send(0, SYN))
        scene.attack(talk.send(1, SYN | ACK))
        scene.attack(talk.send(1, RST | ACK))


def pieces(scene, n, build):
    """Fragments of 8 bytes of datagrams that never complete, 200 of each, in any order, eight datagrams at a time."""
    rng, ident = scene.rng, 0
    while scene.attacks < n:
        group = [(ident + k, rng.sample(range(1, 8000), 200)) for k in range(8)]
        ident += 8
        for i in range(200):
            for name, places in group:
                scene.attack(build(rng, name, places[i] * 8, b"12345678", True))
            if scene.attacks >= n:
                break


def fragment4(rng, ident, offset, data, more):
    return ETHER4 + ip4(0x0A000001 + (ident >> 16), SERVER, 17, data, ident & 0xFFFF, offset // 8 | (0x2000 if more else 0))


def fragment6(rng, ident, offset, data, more):
    body = struct.pack("!BBHI", 17, 0, offset | (1 if more else 0), ident) + data
    return bytes.fromhex("020000000002020000000001 86dd") + ip6(0xFD << 120 | 1, 0xFD << 120 | 2, 44, body)


def fragments4(scene, n):
    """IPv4 fragments with holes."""
    pieces(scene, n, fragment4)


def fragments6(scene, n):
    """IPv6 fragments with holes."""
    pieces(scene, n, fragment6)


def fragment_names(scene, n):
    """First fragments of ever new datagrams of both versions: each makes the oldest go."""
    rng = scene.rng
    for i in range(n):
        build = fragment6 if i & 1 else fragment4
        scene.attack(build(rng, rng.getrandbits(32), 0, MSS[:1400 if i % 8 == 0 else 8], True))


def fragment_overlaps(scene, n):
    """Fragments that overlap those before them with other bytes."""
    rng, ident = scene.rng, 0
    while scene.attacks < n:
        ident += 1
        for i in range(120):
            scene.attack(fragment4(rng, ident, 8 + 16 * i, MSS[:8], True))
        for _ in range(80):
            scene.attack(fragment4(rng, ident, 8, OTHER[:1448], True))


def nested(scene, n):
    """Four tunnels within each other, each time with other addresses: as deep as decoding goes, and a new domain each."""
    rng = scene.rng
    for _ in range(n):
        src, sport = client(rng)
        inner = ip4(src, SERVER, 6, segment(src, SERVER, sport, 80, 1, 0, SYN))
        for depth in range(4):
            a, b = 0x0A000000 | rng.getrandbits(24), 0x0A000000 | depth
            if depth % 2:
                inner = ip4(a, b, 47, struct.pack("!HHI", 0x2000, 0x0800, rng.getrandbits(32)) + inner)
            else:
                inner = ip4(a, b, 4, inner)
        scene.attack(ETHER4[:12] + struct.pack("!HHHHH", 0x88A8, rng.randrange(1, 4094), 0x8100, rng.randrange(1, 4094), 0x0800)
                     + inner)


def too_nested(scene, n):
    """Tunnels and labels without an end: refused at the bound."""
    rng = scene.rng
    for _ in range(n):
        inner = b""
        for depth in range(30):
            inner = ip4(0x0A000000 | rng.getrandbits(24), depth, 4, inner)
        scene.attack(ETHER4 + inner)


def udp_flood(scene, n):
    """Datagrams from everywhere, a flow each."""
    rng = scene.rng
    for _ in range(n):
        src, sport = client(rng)
        scene.attack(udp(src, SERVER, sport, 53, b"12345678"))


def acknowledged(scene, talk):
    """Now and then an ACK, so that the window stays open."""
    if scene.attacks % 50 == 0:
        scene.attack(talk.send(1, ACK))


def one_flow(scene, n):
    """Small segments of one connection: what makes a handler set a timer for each, all on one flow."""
    talk, = opened(scene, 1, port=8)
    while scene.attacks < n:
        scene.attack(talk.send(0, ACK | PSH, b"timer"))
        acknowledged(scene, talk)


def new_sets(scene, n):
    """One connection after the other makes a handler attach combinations that no flow had before."""
    rng, talks = scene.rng, opened(scene, 64, port=8)
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, ACK | PSH, bytes([rng.randrange(20)])))
        acknowledged(scene, talk)


def few_sets(scene, n):
    """The same with two combinations alone."""
    rng, talks = scene.rng, opened(scene, 64, port=8)
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, ACK | PSH, b"\0"))
        acknowledged(scene, talk)


def repeats_unacked(scene, n):
    """Single bytes up to the window, never acknowledged, then the last of them sent again and again: what safe mode looks up."""
    rng, talks = scene.rng, opened(scene, 2)
    for _ in range(min(n // 5, 60_000)):
        for talk in talks:
            scene.attack(talk.send(0, ACK, b"x"))
    while scene.attacks < n:
        talk = rng.choice(talks)
        scene.attack(talk.send(0, ACK, b"y", at=talk.nxt[0] - 1 - rng.randrange(1000)))
