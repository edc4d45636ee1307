"""`python bench/resets.py`: RESET of live connections in every state, on wires that lose packets, until both kernels have none.

client - relay - [mos] - relay - server; both relays lose --loss of a thousand TCP packets each way. Connections are opened to
ports that stand for a state: the chain drops what would lead beyond it. Then, all at once, it resets every flow at its next
packet; where an end would be silent, its program writes a byte. A connection's time runs from its RESET until neither kernel
lists it (/proc/net/tcp). Left half-open, or later than --seconds: status 1.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from namespaces import CLIENT, SERVER, Host, why_not  # noqa: E402

# Port: states of client and server, what the chain drops to keep them there, and what the programs do.
STATES = {
    9001: ("SYN_SENT", "-", "syn and not ack and to_server", ""),
    9002: ("SYN_SENT", "SYN_RECV", "syn and ack", ""),
    9003: ("ESTABLISHED", "SYN_RECV", "to_server and not syn", ""),
    9004: ("ESTABLISHED", "ESTABLISHED", "", ""),
    9005: ("data in flight", "ESTABLISHED", "to_server and payload", "client writes"),
    9006: ("ESTABLISHED", "data in flight", "not to_server and payload", "server writes"),
    9007: ("FIN_WAIT1", "ESTABLISHED", "to_server and fin", "client shuts"),
    9008: ("FIN_WAIT2", "CLOSE_WAIT", "", "client shuts"),
    9009: ("FIN_WAIT1", "CLOSE_WAIT", "not to_server and not syn", "client shuts"),
    9010: ("FIN_WAIT2", "LAST_ACK", "not to_server and fin", "client shuts, server shuts"),
    9011: ("CLOSING", "FIN_WAIT2", "to_server and fin", "client shuts, server shuts at once"),
    9012: ("TIME_WAIT", "LAST_ACK", "to_server and acks fin", "client shuts, server shuts"),
}
NUMBERS = {1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT", 7: "CLOSE",
           8: "CLOSE_WAIT", 9: "LAST_ACK", 11: "CLOSING", 12: "SYN_RECV"}

BOX = """
import asyncio, json, sys, time
import mos
from mos import DROP, RESET, on
from mos.events import PacketIn

over, told, at = False, {}, {}
DROPS = {9001: lambda f, ev, n: f == "S", 9002: lambda f, ev, n: f == "SA", 9003: lambda f, ev, n: ev.to_server and "S" not in f,
         9005: lambda f, ev, n: ev.to_server and n, 9006: lambda f, ev, n: not ev.to_server and n,
         9007: lambda f, ev, n: ev.to_server and "F" in f, 9009: lambda f, ev, n: not ev.to_server and ev.flow.client_side.fin,
         9010: lambda f, ev, n: not ev.to_server and "F" in f, 9011: lambda f, ev, n: ev.to_server and "F" in f,
         9012: lambda f, ev, n: ev.to_server and ev.flow.server_side.fin}

@on(PacketIn, where="tcp and server_port in {9001..9012}")
def keep(ev):
    if over:
        told.setdefault((ev.client_port, ev.server_port), time.time())
        return RESET
    rule = DROPS.get(ev.server_port)
    p = ev.packet
    if rule and rule("".join(c for c, bit in zip("FSA", (1, 2, 16)) if p.tcp_flags & bit), ev, p.payload_length):
        return DROP

async def main():
    global over
    async with mos.inline("m0:m1", keep) as box:
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        print("ready", flush=True)
        await lines.readline()
        over = True
        await lines.readline()
        stats = await box.stats()
    print(json.dumps({"told": [[*ends, t] for ends, t in told.items()], "injected": stats["injected"], "ports": stats["ports"]}))

asyncio.run(main())
"""
SERVE = """
import os, selectors, socket, sys
os.environ
held, poll = {port: [] for port in range(9001, 9013)}, selectors.DefaultSelector()
for port in held:
    s = socket.create_server((sys.argv[1], port), backlog=65535)
    s.setblocking(False)
    poll.register(s, selectors.EVENT_READ, port)
poll.register(0, selectors.EVENT_READ, None)
os.set_blocking(0, False)
print("ready", flush=True)
while True:
    for key, _ in poll.select():
        if key.data is None:
            word = os.read(0, 100).decode().strip()
            if word == "write":
                for c in held[9006]: c.send(b"x")
            elif word == "touch":
                for c in held[9008] + held[9006]: c.send(b"x")
            elif word.startswith("shut"):
                for port in map(int, word.split()[1:]):
                    for c in held[port]: c.shutdown(socket.SHUT_WR)
            elif not word:
                sys.exit()
            print(*map(len, held.values()), flush=True)
            continue
        try:
            while True:
                held[key.data].append(key.fileobj.accept()[0])
        except BlockingIOError:
            pass
"""
OPEN = """
import os, select, socket, sys, time
host, n, held = sys.argv[1], int(sys.argv[2]), {port: [] for port in range(9001, 9013)}
for i in range(n):
    port = 9001 + i % 12
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((host, port))
    held[port].append(s)
    if i % 200 == 199:
        time.sleep(0.02)        # what a box of two cores takes
end = time.monotonic() + 20
up = [s for port in held if port > 9002 for s in held[port]]
poll = select.poll()
for s in up: poll.register(s, select.POLLOUT)
left = {s.fileno() for s in up}
while left and time.monotonic() < end:
    for fd, _ in poll.poll(100):
        left.discard(fd)
        poll.unregister(fd)
print(len(left), flush=True)
for line in sys.stdin:
    for port in {"write": [9005], "touch": [9003, 9004]}.get(line.split()[0], ()):
        for s in held[port]: s.send(b"x")
    for port in map(int, line.split()[1:]):
        for s in held[port]: s.shutdown(socket.SHUT_WR)
    print("done", flush=True)
"""


class Bed:
    """Client, box and server, and on both of the box's wires a relay that loses packets."""

    def __init__(self, loss):
        self.dir = tempfile.TemporaryDirectory()
        relay = f"{self.dir.name}/relay"
        subprocess.run(["gcc", "-O2", "-w", "-o", relay, ROOT / "tests" / "judge" / "relay.c"], check=True)
        self.client = Host()
        self.box, self.server = Host(self.client), Host(self.client)
        for host, name, address, inner, ours in ((self.client, "c0", CLIENT, ("x0", "x1"), "m0"),
                                                 (self.server, "s0", SERVER, ("x3", "x2"), "m1")):
            host.run("ip", "link", "add", name, "type", "veth", "peer", "name", inner[0], "netns", self.box.pid)
            self.box.run("ip", "link", "add", inner[1], "type", "veth", "peer", "name", ours)
            host.run("ip", "address", "add", f"{address}/24", "dev", name)
            host.run("ip", "link", "set", name, "up")
            host.run("ethtool", "-K", name, *"tso off gso off gro off tx off".split())
            for device in (*inner, ours):
                self.box.run("ip", "link", "set", device, "up")
                self.box.run("ethtool", "-K", device, *"gro off tx off".split())
            for name, value in (("tcp_syncookies", 0), ("tcp_max_syn_backlog", 65535), ("ip_local_port_range", "1024 65535")):
                host.run("sh", "-c", f"echo {value} >/proc/sys/net/ipv4/{name}")
            host.run("sh", "-c", "echo 65535 >/proc/sys/net/core/somaxconn")
        self.relays = [self.box.start(relay, a, b, "/dev/null", "/dev/null", seed, f"drop={loss}", text=True)
                       for a, b, seed in (("x0", "x1", "1"), ("x2", "x3", "2"))]
        for process in self.relays:
            assert process.stdout.readline() == "ready\n", process.stderr.read()

    def lost(self):
        """Packets lost by both, which end."""
        n = 0
        for process in self.relays:
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=10)[0]
            n += sum(json.loads(said)["drop"]) if said else 0
        return n

    def close(self):
        for process in self.relays:
            process.kill()
        for host in (self.client, self.box, self.server):
            host.close()
        self.dir.cleanup()


def listed(host, mine):
    """{(client port, server port): state} of a kernel's connections; `mine`: the client's."""
    found = {}
    for line in host.run("cat", "/proc/net/tcp").stdout.splitlines()[1:]:
        _, local, remote, state = line.split()[:4]
        a, b = int(local.split(":")[1], 16), int(remote.split(":")[1], 16)
        if int(state, 16) != 10 and (b if mine else a) in STATES:
            found[(a, b) if mine else (b, a)] = NUMBERS.get(int(state, 16), state)
    return found


class Talker:
    """A program that does what a line on its standard input says, and answers with a line."""

    def __init__(self, host, program, *words):
        many = 'ulimit -n 65536 2>/dev/null; exec "$@"'
        self.process = host.start("sh", "-c", many, "sh", sys.executable, "-c", program, *map(str, words),
                                  stdin=subprocess.PIPE, bufsize=1, env=os.environ | {"PYTHONPATH": str(ROOT)})
        self.said = self.process.stdout.readline().strip()
        assert self.said, self.process.stderr.read()

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        return self.process.stdout.readline().strip()

    def close(self):
        self.process.kill()
        self.process.communicate()


def lead(box, server, client):
    """Into their states."""
    client.ask("write")
    server.ask("write")
    client.ask("shut 9007 9008 9009 9010 9012")
    time.sleep(1)
    client.ask("shut 9011")
    server.ask("shut 9010 9011 9012")
    time.sleep(1.5)


def gone(bed, opened, seconds):
    """Poll both kernels: {connection: when it was first listed by neither}, and those that still are in the end."""
    left, when = set(opened), {}
    end = time.time() + seconds
    while left and time.time() < end:
        left = {*listed(bed.client, True), *listed(bed.server, False)}
        when |= {ends: time.time() for ends in opened if ends not in left and ends not in when}
        time.sleep(0.1)
    return when, left


def run(connections, loss, wait=40):
    """Numbers of one run: what was opened, in what states it was reset, how long it took, what is left."""
    bed = Bed(loss)
    talkers = []
    try:
        for host, program, *words in ((bed.box, BOX), (bed.server, SERVE, SERVER), (bed.client, OPEN, SERVER, connections)):
            talkers.append(Talker(host, program, *words))
        box, server, client = talkers
        lead(box, server, client)
        states = Counter()
        ours, theirs = listed(bed.client, True), listed(bed.server, False)
        for ends in {*ours, *theirs}:
            states[f"{ours.get(ends, '-')}/{theirs.get(ends, '-')}"] += 1
        opened = {*ours, *theirs}
        box.process.stdin.write("over\n")
        time.sleep(0.1)
        client.ask("touch")
        server.ask("touch")
        when, left = gone(bed, opened, wait)
        said = json.loads(box.ask("end"))
        told = {(a, b): t for a, b, t in said["told"]}
        late = sorted(max(when[e] - told[e], 0) for e in when if e in told)
        return {"opened": len(opened), "states": dict(states.most_common()), "reset": len(told),
                "never reset": len(opened - told.keys()),
                "left": sorted(f"{e[1]}: {ours.get(e)}/{theirs.get(e)}" for e in left)[:20], "left half-open": len(left),
                "slowest": round(late[-1], 2) if late else 0, "median": round(late[len(late) // 2], 2) if late else 0,
                "over 3 s": sum(x > 3 for x in late), "RSTs sent": said["injected"], "lost": bed.lost(),
                "unsent": sum(sum(side["unsent"].values()) for side in said["ports"].values())}
    finally:
        for talker in talkers:
            talker.close()
        bed.close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--connections", type=int, default=10000)
    p.add_argument("--loss", type=int, default=10, help="of a thousand packets, on each of two wires and each way")
    options = p.parse_args()
    if why_not():
        sys.exit(f"bench: NOT RUN: {why_not()}")
    found = run(options.connections, options.loss)
    for key, value in found.items():
        print(f"{key:>16}  {value}")
    sys.exit(bool(found["left half-open"] or found["over 3 s"] or found["never reset"]))


if __name__ == "__main__":
    main()
