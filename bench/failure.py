"""`python bench/failure.py`: SIGKILL under load. How long connections stand still with --on-failure open; what passes with closed.

Connections between two network namespaces are read from as fast as it goes while the run between them is killed and starts again.
A row is one round: how many of the connections had every byte, and of the silence before each read the longest and the median
of the connections' longest. The second silence, when the run takes over again, is in the same figures.
"""
import argparse
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from namespaces import SERVER, Bed, Running, Wire, why_not  # noqa: E402

BAR = 1.0       # s
SERVE = """
import socket, sys, threading, time
server = socket.create_server((sys.argv[1], 5003), backlog=1000)
block = bytes(range(256)) * 256
def send(s, until):
    n = 0
    while time.monotonic() < until:
        s.sendall(block)
        n += len(block)
    s.sendall(b"%016d" % n)
    s.close()
print("ready", flush=True)
ends = []
until = time.monotonic() + float(sys.argv[3])
for _ in range(int(sys.argv[2])):
    ends.append(threading.Thread(target=send, args=(server.accept()[0], until)))
    ends[-1].start()
for one in ends:
    one.join()
"""
READ = """
import json, selectors, socket, sys, time
poll, ends = selectors.DefaultSelector(), []
for _ in range(int(sys.argv[2])):
    s = socket.create_connection((sys.argv[1], 5003), timeout=20)
    s.setblocking(False)
    ends.append({"bytes": 0, "tail": b"", "last": time.monotonic(), "gap": 0.0, "whole": False})
    poll.register(s, selectors.EVENT_READ, ends[-1])
open_ones, stop = len(ends), time.monotonic() + float(sys.argv[3]) + 30
while open_ones and time.monotonic() < stop:
    for key, _ in poll.select(1):
        end, now = key.data, time.monotonic()
        end["gap"], end["last"] = max(end["gap"], now - end["last"]), now
        try:
            data = key.fileobj.recv(1 << 18)
        except OSError:
            data = b""
        if data:
            end["bytes"] += len(data)
            end["tail"] = (end["tail"] + data)[-16:]
            continue
        poll.unregister(key.fileobj)
        open_ones -= 1
        end["whole"] = end["tail"].isdigit() and int(end["tail"]) == end["bytes"] - 16
print(json.dumps([(end["whole"], end["gap"], end["bytes"]) for end in ends]))
"""
FRAME = bytes.fromhex("0200000000d1" "0200000000c1" "88b5") + bytes(46)


def killed(bed, mode, count, seconds, boxes):
    """One round with `open`: (connections whole, worst silence, median silence, MB)."""
    bed.offload(mode)
    with Running(bed, *boxes, "--on-failure", "open") as running:
        serving = bed.server.start(sys.executable, "-c", SERVE, SERVER, count, seconds)
        assert serving.stdout.readline() == "ready\n", serving.stderr.read()
        reading = bed.client.start(sys.executable, "-c", READ, SERVER, count, seconds)
        time.sleep(seconds / 4)
        os.kill(running.worker, signal.SIGKILL)
        ends = json.loads(reading.communicate(timeout=seconds + 60)[0])
        serving.communicate(timeout=60)
        assert running.hears("running between", times=2)
        running.stop()
    gaps = [gap for _, gap, _ in ends]
    return sum(whole for whole, _, _ in ends), max(gaps), statistics.median(gaps), sum(n for _, _, n in ends) / 1e6


def shut(bed):
    """With `closed`: frames that came through of those put on one end from the kill until just before the next start."""
    wires = [Wire(bed.client, "c0"), Wire(bed.server, "s0")]
    with Running(bed, "--on-failure", "closed") as running:
        os.kill(running.worker, signal.SIGKILL)
        running.hears("nothing passes")
        sent, until = 0, time.monotonic() + 0.8
        while time.monotonic() < until:
            wires[0].send([FRAME] * 20)
            sent += 20
            time.sleep(0.01)
        came = wires[1].received.count(FRAME)
        running.hears("running between", times=2)
        running.stop()
    for wire in wires:
        wire.close()
    return sent, came


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=4, help="that data is sent, per round")
    p.add_argument("--connections", type=int, default=20)
    options = p.parse_args()
    if why_not():
        sys.exit(f"bench: NOT RUN: {why_not()}")
    missed, bed = 0, Bed()
    try:
        for mode in ("wire", "full"):
            for name, boxes in (("no box", []), ("monitor", ["monitor"])):
                for _ in range(options.rounds):
                    whole, worst, median, mb = killed(bed, mode, options.connections, options.seconds, boxes)
                    met = whole == options.connections and worst <= BAR
                    missed += not met
                    print(f"open, {mode:4}, {name:8} {whole} of {options.connections} connections whole, {mb:,.0f} MB; "
                          f"silence: longest {worst:.2f} s, median {median:.2f} s; "
                          f"wanted <= {BAR:g} s: {'met' if met else 'MISSED'}", flush=True)
        for _ in range(options.rounds):
            sent, came = shut(bed)
            missed += came != 0
            print(f"closed: {came} of {sent} frames passed: {'met' if not came else 'MISSED'}", flush=True)
    finally:
        bed.close()
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
