"""A wire with faults in user space: carries frames between two interfaces, and may drop, double, reorder or tag them.

    relay.py LEFT RIGHT [--drop P] [--duplicate P] [--reorder P] [--seed N] [--tag VLAN]

Faults are drawn from the seed, one generator for each direction. ARP always passes. `--tag` tags what leaves on RIGHT;
the kernel takes the tag off again before a packet socket reads it, so what comes back is untagged.
"""
import argparse
import selectors
import socket
import struct
import time
from random import Random

ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
HELD_S = 0.004      # a held frame leaves at the latest after this: less than the shortest retransmission time-out
PLACES = 3


def port(device):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    s.bind((device, ETH_P_ALL))
    s.setblocking(False)
    return s


class Way:
    """One direction: frames held back are [places left, latest time, frame]."""

    def __init__(self, out, options, seed, tag=None):
        self.out, self.options, self.tag, self.rng, self.held = out, options, tag, Random(seed), []

    def carry(self, frame):
        if frame[12:14] == b"\x08\x06":
            return self.send(frame)
        o, draw = self.options, self.rng.random
        drop, twice, late = draw() < o.drop, draw() < o.duplicate, draw() < o.reorder
        if drop:
            return
        if late:
            self.held.append([self.rng.randint(1, PLACES), time.monotonic() + HELD_S, frame])
            return
        self.send(frame)
        if twice:
            self.send(frame)
        for entry in self.held:
            entry[0] -= 1
        self.release()

    def release(self):
        now = time.monotonic()
        due = [e for e in self.held if e[0] <= 0 or e[1] <= now]
        self.held = [e for e in self.held if e not in due]
        for _, _, frame in due:
            self.send(frame)

    def send(self, frame):
        if self.tag is not None:
            frame = frame[:12] + struct.pack("!HH", 0x8100, self.tag) + frame[12:]
        self.out.send(frame)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("left")
    parser.add_argument("right")
    for name in ("--drop", "--duplicate", "--reorder"):
        parser.add_argument(name, type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tag", type=int)
    options = parser.parse_args()
    left, right = port(options.left), port(options.right)
    ways = {left: Way(right, options, f"{options.seed} right", options.tag), right: Way(left, options, f"{options.seed} left")}
    selector = selectors.DefaultSelector()
    for s in ways:
        selector.register(s, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select(HELD_S / 2):
            try:
                while True:
                    ways[key.fileobj].carry(key.fileobj.recv(65536))
            except BlockingIOError:
                pass
        for way in ways.values():
            way.release()


if __name__ == "__main__":
    main()
