"""What handlers add to a run, told from runs of one capture that take turns in one process. paired.py FOLDER FILE

The difference of two processes drowns in what else the machine does. Neighbours in a round meet the same, so the median of
their differences stands. FOLDER holds the compiled calls.pyx, whose bare call takes its turn too.
"""
import json
import statistics
import sys
import time

from boxes import data, rejected
from mbox.volume import Volume

from mos.nf import from_module
from mos.run import Engine

ROUNDS = 7
ARMS = {"volume": lambda: [Volume(show=False)], "data": lambda: [from_module(data)],
        "rejected": lambda: [Volume(show=False), from_module(rejected)]}


def run(boxes, path):
    """CPU seconds of the run loop, and the engine's counters."""
    engine = Engine(boxes, checksum="off")
    began = time.process_time()
    engine.run(path)
    took = time.process_time() - began
    stats = engine.stats()
    engine.abandon()
    return took, stats


def main(folder, path):
    sys.path.insert(0, folder)
    import calls
    took = {name: [] for name in ARMS}
    bare = []
    for _ in range(ROUNDS):
        for name, boxes in ARMS.items():
            seconds, stats = run(boxes(), path)
            took[name].append(seconds)
        bare.append(calls.calls(1_000_000))
    added = [(d - v) * 1e9 / max(stats["events"].get("StreamData", 0), 1) for d, v in zip(took["data"], took["volume"])]
    rejecting = [(r / v - 1) * 100 for r, v in zip(took["rejected"], took["volume"])]
    print(json.dumps({"packets": stats["packets_in"], "bare_ns": statistics.median(bare), "added_ns": statistics.median(added),
                      "ratio": statistics.median(a / b for a, b in zip(added, bare)),
                      "rejected_percent": statistics.median(rejecting), "rounds": ROUNDS}))


if __name__ == "__main__":
    main(*sys.argv[1:])
