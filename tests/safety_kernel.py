"""Senders that cheat (safety.py's), mos inline in safe mode, and real kernels that receive: no program may read what did not pass.

    safety_kernel.py --cases 600            from seed 0; namespaces are made, and gone afterwards

The senders speak through a raw socket under an address that their own kernel does not have. A middlebox drops every fifth
segment at first and changes the bytes of every other connection; behind it another one notes what leaves. Then each sender
plays fair and must get through.
"""
import argparse
import json
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hosts import ACK, FIN, RST, SYN, frame  # noqa: E402
from namespaces import HERE, Bed, Running, why_not  # noqa: E402
from safety import FAIR, STREAM, Case, content  # noqa: E402

TOGETHER = 40           # connections at a time
JUDGE = """
import json
from pathlib import Path
from mos import DROP, NF, FlowVar, Replace, on, option
from mos.events import StreamData

class Judge(NF):
    told = FlowVar(int)

    @on(StreamData, where="to_server and server_port == 80", edits="same_length")
    def judge(self, ev):
        self.told[ev.flow] += 1
        if self.told[ev.flow] < 12 and ev.packet.number % 5 == 0:
            return DROP
        return Replace(bytes(b ^ 0x80 for b in ev.data)) if ev.client_port % 2 else None

class Note(NF):
    out: Path = option(help="where to note", required=True)

    def start(self, engine):
        self.passed = {}

    @on(StreamData, where="to_server and server_port == 80", at="receiver")
    def note(self, ev):
        self.passed.setdefault(ev.client_port, []).append((ev.offset, ev.data.hex()))

    def stop(self, engine):
        self.out.write_text(json.dumps(self.passed))
"""
SERVE = """
import json, selectors, socket, sys
s = socket.create_server(("10.0.0.2", 80), backlog=1000)
poll, read = selectors.DefaultSelector(), {}
poll.register(s, selectors.EVENT_READ)
poll.register(0, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in poll.select():
        if key.fileobj is s:
            c, peer = s.accept()
            read[peer[1]] = b""
            poll.register(c, selectors.EVENT_READ, peer[1])
        elif key.fileobj == 0:
            print(json.dumps({port: data.hex() for port, data in read.items()}), flush=True)
            sys.exit()
        else:
            try:
                data = key.fileobj.recv(65536)
            except OSError:
                data = b""
            read[key.data] += data
            if not data:
                poll.unregister(key.fileobj)
                key.fileobj.close()
"""


class Sender(Case):
    """One connection to a real kernel: what `Case` sends, and what comes back."""

    def __init__(self, wire, seed):
        self.rng = random.Random(seed)
        self.wire, self.seed, self.port = wire, seed, 1024 + seed % 60000
        self.iss, self.irs = self.rng.choice([1000, 2**32 - 500, self.rng.randrange(2**32)]), None
        self.six = self.stamps = False
        self.host = SimpleNamespace(wnd=30000)
        self.una = self.loss = 0
        self.ended = self.resets = self.gone = False
        self.cheats = self.rng.randrange(5, 40)
        wire.senders[self.port] = self

    def send(self, at, data, flags=ACK, urg=0, loss=None):
        syn = flags & SYN
        if self.irs is None and not syn:
            return
        self.wire.send(frame(self.port, True, self.iss + (0 if syn else 1 + at), 0 if syn else self.irs + 1, flags, data, urg=urg))

    def acknowledge(self, loss, flags=ACK):
        """The kernel does that."""

    def hear(self, seq, ack, flags):
        if flags & RST:
            self.gone = True
        elif flags & SYN:
            self.irs = seq
            self.send(0, b"")
        elif flags & ACK:
            at = (ack - self.iss - 1 + (1 << 31)) % (1 << 32) - (1 << 31)
            self.una = max(self.una, min(at, STREAM))

    @property
    def over(self):
        return self.gone or self.ended or self.una >= STREAM


class RawWire:
    """A packet socket on a device; `senders` by port."""

    def __init__(self, device, macs):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self.socket.bind((device, 0x0800))
        self.macs, self.senders = macs, {}

    def send(self, raw):
        self.socket.send(self.macs + raw[12:])

    def hear(self, seconds):
        """What comes within so long."""
        end = time.monotonic() + seconds
        while select.select([self.socket], [], [], max(0, end - time.monotonic()))[0]:
            raw = self.socket.recv(65536)
            if raw[23] != 6 or raw[30:34] != bytes([10, 0, 0, 1]):
                continue
            tcp = raw[14 + (raw[14] & 15) * 4:]
            _, port, seq, ack, _, flags = struct.unpack_from("!HHIIBB", tcp)
            if port in self.senders:
                self.senders[port].hear(seq, ack, flags)


def send_all(device, macs, first, cases):
    """In the client's namespace: prints a line for each case that did not get through."""
    wire = RawWire(device, bytes.fromhex(macs))
    print("ready", flush=True)
    for start in range(first, first + cases, TOGETHER):
        senders = [Sender(wire, seed) for seed in range(start, min(start + TOGETHER, first + cases))]
        for _ in range(20):
            for s in senders:
                if s.irs is None:
                    s.send(-1, b"", SYN)
            wire.hear(0.1)
            if all(s.irs is not None for s in senders):
                break
        for turn in range(40):
            for s in senders:
                if turn < s.cheats and not s.gone:
                    s.cheat()
            wire.hear(0.005)
        for _ in range(FAIR):
            left = [s for s in senders if not s.over]
            if not left:
                break
            for s in left:
                s.send(s.una, content(s.una, min(700, STREAM - s.una), 0))
            wire.hear(0.02)
        for s in senders:
            if not s.over and not s.resets:     # its RST may have met the number that the box expected, and not the kernel's
                print(f"seed {s.seed}: stuck, {s.una} of {STREAM} acknowledged", flush=True)
            s.send(s.una, b"", ACK | FIN)
            s.send(s.una, b"", ACK | RST)
        wire.hear(0.05)


def run(cases, first=0):
    """(problems, bytes read, connections, mos's counters of safe mode)."""
    bed = Bed()
    try:
        bed.offload("wire")
        macs = [json.loads(host.run("ip", "-j", "link", "show", device).stdout)[0]["address"]
                for host, device in ((bed.server, "s0"), (bed.client, "c0"))]
        bed.server.run("ip", "address", "add", "10.0.0.2/24", "dev", "s0")
        bed.server.run("ip", "neighbour", "replace", "10.0.0.1", "lladdr", macs[1], "dev", "s0")
        with tempfile.TemporaryDirectory() as where:
            judge, out = Path(where) / "judge.py", Path(where) / "passed.json"
            judge.write_text(JUDGE)
            server = bed.server.start(sys.executable, "-c", SERVE, stdin=subprocess.PIPE)
            assert server.stdout.readline() == "ready\n", server.stderr.read()
            with Running(bed, f"{judge}:Judge", f"{judge}:Note", "--set", f"note.out={out}", "--checksum", "verify") as running:
                said = bed.client.run(sys.executable, HERE / "safety_kernel.py", "--send", "c0", "".join(macs).replace(":", ""),
                                      "--cases", cases, "--first", first, timeout=3600).stdout
                stats = running.stop()
            read = json.loads(server.communicate("\n", timeout=30)[0])
            passed = json.loads(out.read_text())
    finally:
        bed.close()
    problems, total = said.splitlines()[1:], 0
    for port, data in read.items():
        left = {}
        for offset, piece in passed.get(port, ()):
            for i, byte in enumerate(bytes.fromhex(piece), offset):
                left.setdefault(i, set()).add(byte)
        total += len(data) // 2
        problems += [f"port {port}, offset {i}: read {byte:#x}, {left.get(i)} passed"
                     for i, byte in enumerate(bytes.fromhex(data)) if byte not in left.get(i, ())][:3]
    return problems, total, len(read), stats["safe"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cases", type=int, default=600)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--send", nargs=2, metavar=("DEVICE", "MACS"), help="be the senders")
    options = p.parse_args()
    if options.send:
        return send_all(*options.send, options.first, options.cases)
    if why_not():
        sys.exit(f"safety_kernel: NOT RUN: {why_not()}")
    problems, total, connections, counters = run(options.cases, options.first)
    print("\n".join(problems[:40]))
    print(f"{options.cases} cases, {connections} connections, {total} bytes read, {counters}, {len(problems)} problems")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
