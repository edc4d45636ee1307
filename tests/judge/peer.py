"""One host of a seed: `peer.py client|server SEED BYTES`. Ends with a JSON list of what each connection read, and how it ended."""
import fcntl
import json
import select
import socket
import struct
import sys
import termios
import threading
import time
from hashlib import blake2b
from random import Random

from plan import SERVER, plan

STALLED_S = 40      # five SYNs lost in a row take 31 s (RFC 6298: 1 s, doubled each time)
REPAIR, REPAIR_QUEUE, QUEUE_SEQ, SEND_QUEUE = 19, 20, 21, 2      # linux/tcp.h; not in `socket`
FASTOPEN_CONNECT = 30
NOTHING = blake2b(digest_size=16).hexdigest()


def option(s, level, name, value):
    """Set what this kernel may refuse: an MSS out of its range, a congestion control it lacks."""
    try:
        s.setsockopt(level, name, value)
    except OSError:
        pass


def prepare(s, c):
    if c.room:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, c.room)
    if c.mss:
        option(s, socket.IPPROTO_TCP, socket.TCP_MAXSEG, c.mss)
    option(s, socket.IPPROTO_TCP, socket.TCP_CONGESTION, c.congestion.encode())
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, c.nodelay)
    # An end whose peer's RST was lost asks until it is told again.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 30)):
        s.setsockopt(socket.IPPROTO_TCP, name, value)


class Talk:
    """One end of one connection, from connected to closed."""

    def __init__(self, s, c, side):
        self.s, self.c, self.side = s, c, side
        self.out, self.expected = c.stream(side), c.size("server" if side == "client" else "client")
        self.rng = Random(f"{c.seed}/{c.number}/{side}")
        self.sent = self.read = 0
        self.waiting = b""
        self.digest = blake2b(digest_size=16)
        self.ended = None
        self.ends_it = c.who == side and c.how in ("rst", "abort")
        self.enough = min(self.expected, 1 + int(self.expected * self.rng.random())) if c.how == "abort" else self.expected
        self.may_send = not (c.how == "half" and c.who != side)
        self.shut = c.how in ("rst", "abort")      # no FIN from these

    def run(self):
        self.s.setblocking(False)
        try:
            while not self.over():
                sending = self.may_send and (self.sent < self.out.size or not self.shut)
                if self.ends_it and self.read >= self.enough:
                    time.sleep(0.001)
                    ready = [], [self.s] if sending else [], []
                else:
                    ready = select.select([self.s] if not self.ended else [], [self.s] if sending else [], [], STALLED_S)
                    if not any(ready):
                        self.ended = "stalled"
                if ready[0]:
                    self.receive()
                if ready[1]:
                    self.send()
        except (ConnectionResetError, BrokenPipeError):
            self.ended = "reset"
        self.s.close()
        return {"number": self.c.number, "read": self.read, "digest": self.digest.hexdigest(), "ended": self.ended}

    def over(self):
        if self.ends_it and self.read >= self.enough and (self.c.how == "abort" or self.all_acknowledged()):
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.ended = "aborted"
            return True
        return self.ended in ("reset", "stalled") or self.ended == "eof" and self.may_send and self.shut

    def all_acknowledged(self):
        queued = struct.unpack("i", fcntl.ioctl(self.s, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        return self.sent == self.out.size and queued == 0

    def receive(self):
        if self.rng.random() < self.c.lazy:
            time.sleep(0.003)
        want = self.rng.choice((100, 3000, 65536, 65536))
        if self.ends_it:
            want = min(want, self.enough - self.read)
        data = self.s.recv(want)
        self.digest.update(data)
        self.read += len(data)
        if not data:
            self.ended = "eof"
            self.may_send = True

    def write(self):
        if not self.waiting:
            self.waiting = self.out.at(self.sent, self.rng.randint(1, self.c.write))
        try:
            n = self.s.send(self.waiting) if self.waiting else 0
        except BlockingIOError:
            return
        self.sent, self.waiting = self.sent + n, self.waiting[n:]

    def send(self):
        self.write()
        if self.sent == self.out.size and not self.shut:
            self.s.shutdown(socket.SHUT_WR)
            self.shut = True


def number_from(s, seq):
    """Let the sequence numbers of a socket not yet connected begin at `seq`."""
    s.setsockopt(socket.IPPROTO_TCP, REPAIR, 1)
    s.setsockopt(socket.IPPROTO_TCP, REPAIR_QUEUE, SEND_QUEUE)
    s.setsockopt(socket.IPPROTO_TCP, QUEUE_SEQ, struct.pack("I", seq))
    s.setsockopt(socket.IPPROTO_TCP, REPAIR, 0)


def family(c):
    return socket.AF_INET6 if c.v6 else socket.AF_INET


def listen(c):
    s = socket.socket(family(c))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    prepare(s, c)
    s.bind((SERVER[c.v6], c.port))
    s.listen()
    s.settimeout(STALLED_S)
    return s


def serve(listener, c):
    s = listener.accept()[0]
    listener.close()
    return Talk(s, c, "server").run()


def call(c):
    time.sleep(c.delay)
    s = socket.socket(family(c))
    s.settimeout(STALLED_S)
    prepare(s, c)
    if c.wrap:
        number_from(s, (1 << 32) - c.wrap)
    talk = Talk(s, c, "client")
    if c.fastopen:
        s.setsockopt(socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1)
    s.connect((SERVER[c.v6], c.port))
    if c.fastopen:
        talk.write()        # no shutdown before the handshake: it would be undone
    return talk.run()


def open_connections():
    """How many of this host's connections are not over: the kernel goes on after the programs have closed. TIME-WAIT is over."""
    lines = [line.split() for path in ("/proc/net/tcp", "/proc/net/tcp6") for line in open(path).readlines()[1:]]
    return sum(fields[3] != "06" for fields in lines)


def one(results, what, *args):
    """A connection to its end, whatever end that is."""
    try:
        results.append(what(*args))
    except ConnectionResetError:
        results.append({"number": args[-1].number, "read": 0, "digest": NOTHING, "ended": "reset"})
    except OSError as e:
        results.append({"number": args[-1].number, "read": 0, "digest": NOTHING, "ended": f"{type(e).__name__}: {e}"})


def main(side, seed, total):
    connections = plan(int(seed), int(total))
    results = []
    if side == "server":
        jobs = [(serve, listen(c), c) for c in connections]
    else:
        jobs = [(call, c) for c in connections]
    print("ready", flush=True)
    threads = [threading.Thread(target=one, args=(results, *job)) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    late = time.monotonic() + STALLED_S
    while open_connections() and time.monotonic() < late:
        time.sleep(0.02)
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
