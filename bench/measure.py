"""Running arms in turn: each process by itself, its CPU time from the kernel."""
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Arm:
    """One way to do one thing. `words` is the command, with {file} and {flows} of the capture to be filled in.

    `start`: arms with the same word start in the same way; what that costs is measured on an empty capture and taken off.
    `answer`: the line of JSON the command ends with, on "stdout" or "stderr", or None. `slow`: at most three runs.
    """
    name: str
    capture: str
    words: tuple
    start: str
    answer: "str | None" = "stdout"
    groups: tuple = ()
    slow: bool = False


@dataclass
class Sample:
    cpu: float      # s, user and system, of the process and the children it waited for
    wall: float
    rss: int        # bytes, high-water mark
    facts: dict


@dataclass
class Result:
    """What is known of an arm after the runs; `start` is the CPU time of its empty run."""
    arm: Arm
    packets: int
    samples: list = field(default_factory=list)
    start: float = 0.0
    start_wall: float = 0.0

    @property
    def cpu(self):
        return self.cpus()[1]

    def cpus(self):
        """(least, median, most) seconds, start taken off."""
        found = sorted(max(s.cpu - self.start, 1e-6) for s in self.samples)
        return found[0], statistics.median(found), found[-1]

    @property
    def wall(self):
        return statistics.median(s.wall for s in self.samples) - self.start_wall

    @property
    def least_wall(self):
        """Of all runs: what the machine can do when nothing else takes its cores."""
        return min(s.wall for s in self.samples) - self.start_wall

    @property
    def ns(self):
        return self.cpu / self.packets * 1e9

    @property
    def rate(self):
        return self.packets / self.cpu

    @property
    def rss(self):
        return statistics.median(s.rss for s in self.samples)

    @property
    def loop(self):
        """CPU seconds of the loop by the tool's own clock, None if it does not say."""
        found = [s.facts.get("cpu", s.facts.get("cpu_seconds")) for s in self.samples]
        return None if None in found else statistics.median(found)

    def fact(self, *keys):
        """A number of the last run's own report."""
        value = self.samples[-1].facts
        for key in keys:
            value = value[key]
        return value

    def summary(self):
        low, mid, high = self.cpus()
        return {"arm": self.arm.name, "capture": self.arm.capture, "packets": self.packets, "runs": len(self.samples),
                "cpu_s": mid, "cpu_s_least": low, "cpu_s_most": high, "start_s": self.start, "loop_cpu_s": self.loop,
                "ns_per_packet": self.ns if self.packets else None, "packets_per_cpu_s": self.rate, "peak_rss_bytes": self.rss,
                "wall_s": self.wall, "command": " ".join(map(str, self.arm.words))}


class Failed(Exception):
    """An arm's command did not end well."""


def surroundings():
    """The environment of an arm. Compiled Python is kept, as of what is installed: else each run would compile our modules anew,
    those too that only some arms need."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def once(words, answer, env=None):
    """Run a command to its end; its Sample."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        child = subprocess.Popen(words, stdout=out, stderr=err, env=env or surroundings())
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode:
            raise Failed(f"{' '.join(map(str, words))}: status {child.returncode}: {err.read()[-400:].decode(errors='replace')}")
        said, complained = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    lines = (said if answer == "stdout" else complained).strip().split("\n")
    facts = json.loads(lines[-1]) | {"said": said} if answer else {}
    return Sample(used.ru_utime + used.ru_stime, wall, used.ru_maxrss * 1024, facts)


def filled(arm, capture):
    return [str(w).replace("{file}", str(capture.path)).replace("{flows}", str(capture.flows)) for w in arm.words]


def run_arms(arms, captures, runs, say):
    """{(capture, name): Result} of all arms: capture by capture, and there round by round, each arm once in a round."""
    results = {}
    for name in dict.fromkeys(arm.capture for arm in arms):
        capture, empty = captures.get(name), captures.get("empty")
        here = [arm for arm in arms if arm.capture == name]
        starts = {arm.start: [] for arm in here}
        for arm in here:
            results[name, arm.name] = Result(arm, capture.packets)
        for number in range(runs):
            for arm in here:
                if arm.slow and number >= 3:
                    continue
                say(f"{name}, round {number + 1} of {runs}: {arm.name}")
                if name != "empty" and len(starts[arm.start]) <= number:
                    starts[arm.start].append(once(filled(arm, empty), None))
                results[name, arm.name].samples.append(once(filled(arm, capture), arm.answer))
        for arm in here:
            if starts[arm.start]:
                results[name, arm.name].start = statistics.median(s.cpu for s in starts[arm.start])
                results[name, arm.name].start_wall = statistics.median(s.wall for s in starts[arm.start])
        for result in [results[name, arm.name] for arm in here]:
            check(result, capture)
    return results


def check(result, capture):
    """A tool that says what it counted must have counted everything, if it is one of ours: a fast wrong answer is no answer."""
    facts = result.samples[-1].facts
    for key, wanted in (("packets_in", capture.packets), ("packets", capture.packets)):
        if key in facts and result.arm.start in ("mos", "floor") and facts[key] != wanted:
            raise Failed(f"{result.arm.name} on {result.arm.capture}: {facts[key]} packets of {wanted}")
    for way, wanted in (("to_server", capture.to_server), ("to_client", capture.to_client)):
        found = re.search(rf"^{way}: (\d+) bytes", facts.get("said", ""), re.M)
        if found and int(found[1]) != wanted:
            raise Failed(f"{result.arm.name} on {result.arm.capture}: {found[1]} bytes {way} of {wanted}")
