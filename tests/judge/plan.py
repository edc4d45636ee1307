"""What is said in one seed: connections and their bytes, worked out anew by whoever needs them."""
from dataclasses import dataclass
from functools import lru_cache
from random import Random

PORT = 20000            # the server's port of connection 0
BLOCK = 65536
CLIENT, SERVER = {False: "10.78.0.1", True: "fd78::1"}, {False: "10.78.0.2", True: "fd78::2"}
# How connections end: both close when they are done · one closes its direction before the other says anything · one resets
# when all is acknowledged and read · one resets in the middle.
HARD = 1_000_000        # bytes of a seed that may travel in small segments to slow readers; what is asked for beyond goes fast
CLOSES = ("both", "half_client", "half_server", "rst_client", "rst_server", "abort_client", "abort_server")


@dataclass(frozen=True)
class Connection:
    seed: int
    number: int
    v6: bool
    up: int             # bytes from client to server
    down: int
    close: str
    mss: int            # what both ends ask for; 0: what the wire takes
    write: int          # largest write, bytes
    room: int           # SO_RCVBUF of both ends; 0: the kernel's own choice
    lazy: float         # chance that a reader pauses before a read
    nodelay: bool
    congestion: str
    delay: float        # seconds after the beginning
    fastopen: bool      # the client's first bytes ride on its SYN (RFC 7413): none where the server may reset before it is open
    wrap: int           # the client's sequence numbers wrap after so many bytes; 0: the kernel chooses where they begin

    @property
    def port(self):
        return PORT + self.number

    @property
    def how(self):
        return self.close.split("_")[0]

    @property
    def who(self):
        return self.close.split("_")[-1]

    def size(self, sender):
        return self.up if sender == "client" else self.down

    def stream(self, sender):
        return Stream(f"{self.seed}/{self.number}/{sender}", self.size(sender))


@lru_cache(64)
def block(name, i):
    return Random(f"{name}/{i}").randbytes(BLOCK)


class Stream:
    """The bytes of one direction of one connection."""

    def __init__(self, name, size):
        self.name, self.size = name, size

    def at(self, offset, n):
        """The n bytes at `offset`, fewer at the end."""
        n = max(0, min(n, self.size - offset))
        out = b""
        while n:
            i, start = divmod(offset, BLOCK)
            piece = block(self.name, i)[start:start + n]
            out, offset, n = out + piece, offset + len(piece), n - len(piece)
        return out


def plan(seed, total):
    """The connections of a seed, some `total` bytes together: difficult ones first, then bulk."""
    hard = difficult(seed, min(total, HARD))
    return hard + bulk(seed, len(hard), total - HARD) if total > HARD else hard


def bulk(seed, first, total):
    """Full segments to eager readers, one way and both, over both versions of IP, numbered from `first`."""
    rng = Random(f"bulk {seed}")
    share = total // 8
    return [Connection(seed, first + i, i % 2 == 1, up * share, down * share, rng.choice(CLOSES[:5]), mss=0, write=BLOCK, room=0,
                       lazy=0, nodelay=False, congestion=rng.choice(("cubic", "bbr")), delay=0,
                       fastopen=False, wrap=rng.randint(1, share) if up and rng.random() < 0.3 else 0)
            for i, (up, down) in enumerate(((1, 0), (1, 0), (0, 1), (0, 1), (1, 1), (1, 1)))]


def difficult(seed, total):
    rng = Random(f"plan {seed}")
    n = rng.randint(8, 14)
    closes = [*CLOSES, *rng.choices(CLOSES, k=n)][:n]
    rng.shuffle(closes)
    shares = [rng.random() ** 3 if rng.random() < 0.7 else 0 for _ in range(2 * n)]
    scale = total / (sum(shares) or 1)
    sizes = [int(share * scale) or rng.choice((0, 1, 2, 500, 1448, 20000)) for share in shares]
    for i, close in enumerate(closes):
        if close[:3] in ("rst", "abo"):     # who resets must have read something: then the other end's program is there, too
            way = 2 * i + close.endswith("client")
            sizes[way] = max(sizes[way], 1)
    return [Connection(seed, i, bool((i + seed) % 2), sizes[2 * i], sizes[2 * i + 1], close,
                       mss=rng.choice((0, 0, 0, 88, 300, 536, 700, 1000)), write=rng.choice((50, 700, 5000, 50000, 50000)),
                       room=rng.choice((0, 0, 0, 4096, 30000)), lazy=rng.choice((0, 0, 0.02)), nodelay=rng.random() < 0.5,
                       congestion=rng.choice(("reno", "cubic", "bbr")), delay=rng.choice((0, 0, 0.02, 0.2)),
                       fastopen=sizes[2 * i] > 0 and close[-6:] != "server" and rng.random() < 0.3,
                       wrap=rng.randint(1, 1 + sizes[2 * i]) if rng.random() < 0.3 else 0)
            for i, close in enumerate(closes)]


def faults(seed):
    """What the relay does in this seed, per mille."""
    rng = Random(f"faults {seed}")
    hard = rng.choice((0.3, 1, 1, 2))
    most = {"drop": 30, "corrupt": 15, "split": 150, "coalesce": 150, "late": 80, "twice": 40,
            "stale": 20, "forge": 20, "reset": 20}
    return {what: max(2, round(hard * rng.uniform(0.2, 1) * top)) for what, top in most.items()}


def settings(seed, side):
    """Below net/ipv4, for both versions: the TCP that this host speaks."""
    rng = Random(f"settings {seed} {side}")
    odds = {"tcp_sack": 0.8, "tcp_timestamps": 0.7, "tcp_window_scaling": 0.8, "tcp_ecn": 0.3}
    chosen = {name: int(rng.random() < odd) for name, odd in odds.items()}
    if faults(seed)["drop"] > 20:
        chosen["tcp_sack"] = 1      # recovery without it takes minutes then
    # Not both: two ends that took their windows back refuse each other's ACKs for ever.
    chosen["tcp_shrink_window"] = int(Random(f"shrinks {seed}").choice(("client", "server", "neither")) == side)
    return chosen
