"""The workloads: what each capture holds, and making those that are not there yet."""
import json
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workload:
    """Arguments of generate.c. A slice is the same traffic with fewer flows, for tools too slow for all of it."""
    kind: str
    flows: int
    alive: int
    turns: int
    what: str

    def sized(self, part):
        """The same with 1/part of the flows; of those that are all alive, all are."""
        flows = max(self.flows // part, 4)
        return Workload(self.kind, flows, max(self.alive * flows // self.flows, 4), self.turns, self.what)


WORKLOADS = {
    "small": Workload("small", 100_000, 100_000, 4, "100,000 flows at a time, 20 packets each, payloads of 1 to 64 bytes"),
    "bulk": Workload("bulk", 1_000, 1_000, 690, "1,000 flows, full segments in order"),
    "messy": Workload("messy", 2_000, 2_000, 200, "as bulk; 2 % late, 1 % twice, 0.5 % overlapping, 0.5 % lost and sent again"),
    "churn": Workload("churn", 500_000, 10_000, 1, "500,000 flows of ten packets, 10,000 at a time"),
    "few": Workload("many", 1_000, 1_000, 4_500, "1,000 flows that stay, payloads of 1 to 64 bytes"),
    "many": Workload("many", 1_000_000, 1_000_000, 3, "1,000,000 flows that stay, as few in all else"),
    "many, longer": Workload("many", 1_000_000, 1_000_000, 9, "the same flows with 21 packets each, not 9"),
}
SLICES = {"tenth": 10, "slice": 25, "sliver": 250, "crumb": 1000}   # so that each tool runs for a second or so
QUICK = 10      # --quick: a tenth of all workloads; slices stay as they are
SEED = 1
PIECE = 4 << 20


@dataclass(frozen=True)
class Capture:
    path: Path
    packets: int
    flows: int
    to_server: int
    to_client: int


def read_anew(path):
    """Have the file in the page cache as if it had just been read from disk, whole and in a row.

    Whatever wrote it, and what else went through memory since, leaves it in pieces of other sizes, and mapping those costs up to
    ten times as much: a run's time would say more about the file's past than about the program.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)        # a page that is not on disk stays
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while os.read(fd, PIECE):
            pass
    finally:
        os.close(fd)


class Captures:
    """Captures under `folder`, made by the program `generate` when first asked for: "bulk", "bulk/slice", "empty"."""

    def __init__(self, folder, generate, quick):
        self.folder, self.generate, self.quick = folder, generate, quick
        self.made = {}
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name):
        if name not in self.made:
            self.made[name] = self.make(name)
        return self.made[name]

    def make(self, name):
        if name == "empty":
            path = self.folder / "empty.pcap"
            path.write_bytes(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 262144, 1))
            return Capture(path, 0, 1, 0, 0)
        base, _, part = name.partition("/")
        load = WORKLOADS[base].sized(SLICES[part] if part else QUICK if self.quick else 1)
        words = [load.kind, load.flows, load.alive, load.turns, SEED]
        path = self.folder / ("-".join(map(str, words)) + ".pcap")
        facts = path.with_suffix(".json")
        if not facts.exists():
            print(f"bench: writing {name}: {load.flows} flows, {load.alive} at a time", flush=True)
            made = subprocess.run([self.generate, *map(str, words), path], stdout=subprocess.PIPE, check=True)
            facts.write_bytes(made.stdout)
        read_anew(path)
        truth = json.loads(facts.read_text())
        return Capture(path, truth["packets"], truth["flows"], truth["to_server"], truth["to_client"])
