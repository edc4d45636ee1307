"""The kernel as judge: what two Linux hosts gave their programs must be what the stack made of the captures between them.

    judge.py --seeds 200 --bytes 23000000       that many seeds, some 23 MB each: over 4 GiB at each tap, in some 7 minutes
    judge.py --seed 17 --bytes 23000000         one again

Connections with bytes from a seed cross relay.c, which loses, corrupts, splits, joins, delays and doubles segments and adds
old and forged ones. Both its sides are captured; for each direction one is before the faults and one behind them: before them
it takes the ACKs to tell what arrived. The first megabyte of a seed is difficult (tiny segments, small buffers, slow readers,
resets in the middle), the rest goes in bulk. Captures lie in memory, those of one seed at a time.

A seed that fails prints how to run it again and leaves its two captures. Timing is the machine's: a seed repeats plan and
faults, not each packet; the captures are the evidence, and `--check DIRECTORY` judges them again.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from check import SIDES, Judgement  # noqa: E402
from plan import faults, plan, settings  # noqa: E402
from wires import Network, own_namespace  # noqa: E402

LIMIT_S = 300
ENOUGH = 4          # in so many seeds each fault must have happened to both versions of IP in both directions
FAULTS = ("drop", "corrupt", "split", "coalesce", "late", "twice", "stale", "forge", "reset")
TAPS = ("left", "right")
MEMORY = "/dev/shm"     # captures of a seed are written twice its bytes and deleted after a second


def compiled(directory):
    program = directory / "relay"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "relay.c"], check=True)
    return program


def started(command):
    """A program that has said it is ready."""
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    if process.stdout.readline() != "ready\n":
        process.kill()
        raise RuntimeError(f"{command[0]} did not start")
    return process


def converse(program, hosts, seed, total, directory):
    """One seed over the wire. Returns the relay's counts; what was read is in read.json beside the two captures."""
    chances = [f"{what}={n}" for what, n in faults(seed).items()]
    for host in hosts:
        for name, value in settings(seed, host.name).items():
            host.setting(f"ipv4/{name}", value)
    processes = [started([program, *TAPS, *(directory / f"{tap}.pcap" for tap in TAPS), seed, *chances])]
    try:
        for side in ("server", "client"):
            host = hosts[SIDES.index(side)]
            processes.append(started([*host.enter, sys.executable, HERE / "peer.py", side, seed, total]))
        said = {side: p.communicate(timeout=LIMIT_S)[0] for side, p in zip(("server", "client"), processes[1:])}
        time.sleep(0.02)        # what the relay still holds
        processes[0].send_signal(signal.SIGTERM)
        counts = json.loads(processes[0].communicate(timeout=10)[0])
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
                p.wait()
    result = {"counts": counts, "seed": seed, "bytes": total} | {side: json.loads(text) for side, text in said.items()}
    (directory / "read.json").write_text(json.dumps(result))
    return result


def readings(result):
    """By connection and sender: how many bytes the other end read, and their digest."""
    return {(r["number"], sender): (r["read"], r["digest"])
            for sender, reader in (("client", "server"), ("server", "client")) for r in result[reader]}


def harness(result):
    """Whether the kernels did what the plan says: otherwise there is nothing to compare with."""
    for c in plan(result["seed"], result["bytes"]):
        for side in SIDES:
            r = next(r for r in result[side] if r["number"] == c.number)
            other = "server" if side == "client" else "client"
            expected = "aborted" if c.how in ("rst", "abort") and c.who == side else "reset" if c.how in ("rst", "abort") else "eof"
            if r["ended"] != expected:
                yield f"harness: connection {c.number} ({c.close}) ended at the {side} with {r['ended']}, not {expected}"
            elif c.how != "abort" and r["read"] != c.size(other):
                yield f"harness: connection {c.number} ({c.close}): the {side} read {r['read']} of {c.size(other)}"
    for what in ("oversized", "unsummed", "unsent"):
        if sum(result["counts"][what]):
            yield f"harness: {sum(result['counts'][what])} frames {what}: offloads are not off, or a queue is too short"


class Totals:
    """What was compared so far."""

    def __init__(self):
        self.seeds = self.failed = 0
        self.faults = {what: [0] * 4 for what in (*FAULTS, "seen", "sent")}
        self.bytes, self.read = Counter(), Counter()

    def add(self, counts, judgement):
        self.seeds += 1
        self.bytes += judgement.tally
        for c in judgement.connections:
            self.read[c.v6] += sum(judgement.read[c.number, side][0] for side in SIDES)
        for what, so_far in self.faults.items():
            self.faults[what] = [a + b for a, b in zip(so_far, counts[what])]

    def idle(self):
        """Faults that never happened, to either version of IP in either direction."""
        ways = ("IPv4 to the server", "IPv4 to the client", "IPv6 to the server", "IPv6 to the client")
        return [f"{what}, {way}" for what in FAULTS for way, n in zip(ways, self.faults[what]) if not n]

    def unseen(self):
        """Taps at which less was compared than the programs read."""
        return [f"{'behind' if behind else 'before'} the faults, {'IPv6' if v6 else 'IPv4'}" for behind in (False, True)
                for v6 in (False, True) if self.bytes["whole", behind, v6] < max(1, self.read[v6])]

    def print(self):
        print(f"judge: {self.seeds} seeds, {self.failed} failed; "
              f"{sum(self.faults['seen'])} segments in, {sum(self.faults['sent'])} out")
        print("judge: " + ", ".join(f"{what} {sum(self.faults[what])}" for what in FAULTS))
        print(f"judge: programs read IPv4 {self.read[False]} and IPv6 {self.read[True]} bytes")
        for view, where in (("whole", "capture"), ("skewed", "capture from two queues"), ("thinned", "capture with losses")):
            for behind in (False, True):
                n, wrong = ([self.bytes[*key, view, behind, v6] for v6 in (False, True)] for key in ((), ("wrong",)))
                if any(n):
                    print(f"judge: {where}, {'behind' if behind else 'before'} the faults: "
                          f"IPv4 {n[0]} and IPv6 {n[1]} bytes compared, {sum(wrong)} differ: {sum(n) / 2**30:.3f} GiB")


def judged(result, directory, totals, options):
    """Complaints about both captures of a seed."""
    wrong = list(harness(result))
    judgement = Judgement(result["seed"], result["bytes"], readings(result), options.checksum)
    if not wrong:
        for tap in TAPS:
            wrong += [f"{tap}.pcap: {line}" for line in judgement.of(directory / f"{tap}.pcap", tap, options.imperfect)]
    totals.add(result["counts"], judgement)
    totals.failed += bool(wrong)
    return wrong


def run(seeds, total, options):
    """All seeds, one after the other; the number that failed."""
    totals = Totals()
    network = Network()
    with tempfile.TemporaryDirectory(prefix="judge-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as scratch:
        program = compiled(Path(scratch))
        for seed in seeds:
            directory = Path(scratch) / str(seed)
            directory.mkdir()
            began = time.monotonic()
            try:
                wrong = judged(converse(program, network.hosts, seed, total, directory), directory, totals, options)
            except (subprocess.TimeoutExpired, json.JSONDecodeError) as e:
                wrong = [f"harness: {type(e).__name__}: {e}"]
                totals.failed += 1
                network.close()
                network = Network()     # no connection of this seed may speak in the next
            print(f"judge: seed {seed}: {'FAILED' if wrong else 'equal'}, {time.monotonic() - began:.1f} s", flush=True)
            if wrong:
                kept = shutil.copytree(directory, options.keep / f"judge-{seed}", dirs_exist_ok=True)
                print("\n".join(f"    {line}" for line in wrong[:20]))
                again = f"{sys.argv[0]} --seed {seed} --bytes {total}{' --imperfect' if options.imperfect else ''}"
                print(f"    again: python {again}    captures: {kept}")
            shutil.rmtree(directory)
    network.close()
    totals.print()
    idle = totals.idle() if totals.seeds >= ENOUGH else []
    for line in idle:
        print(f"judge: the relay never did this: {line}")
    unseen = totals.unseen()
    for line in unseen:
        print(f"judge: less was compared than was read: {line}")
    return totals.failed + len(idle) + len(unseen)


def recheck(directory, options):
    """Judge kept captures again."""
    result = json.loads((directory / "read.json").read_text())
    totals = Totals()
    wrong = judged(result, directory, totals, options)
    print("\n".join(wrong))
    totals.print()
    return len(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="seeds FIRST to FIRST + N - 1")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--bytes", type=int, default=2_000_000, help="per seed, both directions of all connections together")
    parser.add_argument("--keep", type=Path, default=HERE.parent.parent / "build", help="where captures of failed seeds go")
    parser.add_argument("--checksum", choices=("verify", "auto", "off"), default="verify",
                        help="off: must fail, or the judge sleeps")
    parser.add_argument("--imperfect", action="store_true", help="also look at the captures with losses, and as from two queues")
    parser.add_argument("--check", type=Path, metavar="DIRECTORY", help="judge captures that were kept")
    options = parser.parse_args()
    if options.check:
        sys.exit(bool(recheck(options.check, options)))
    own_namespace()
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    sys.exit(bool(run(seeds, options.bytes, options)))


if __name__ == "__main__":
    main()
