"""`python -m bench`: the stack against floors, peers and itself. bench/README.md says what each arm is."""
import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

from bench import arms as arms_of
from bench.bars import all_bars
from bench.captures import SLICES, WORKLOADS, Captures
from bench.measure import Failed, run_arms
from bench.programs import Programs

ROOT = Path(__file__).resolve().parent.parent


def arguments(argv):
    p = argparse.ArgumentParser(prog="python -m bench", description="Measure mos: CPU time of processes, arms taken in turn.")
    p.add_argument("--quick", action="store_true", help="a tenth of each workload, three rounds: to see that it runs, not to quote")
    p.add_argument("--only", metavar="WHAT", default="",
                   help="groups (stages, peers, python, levels, chain, flows, workers) or workloads, separated by commas")
    p.add_argument("--runs", type=int, metavar="N", help="rounds (default 5; with --quick 3)")
    p.add_argument("--json", metavar="FILE", help="write all numbers to FILE")
    p.add_argument("--dir", type=Path, default=ROOT / "build" / "bench", help="where captures (7 GB) and programs go")
    return p.parse_args(argv)


def chosen(arms, only):
    """The arms of the groups and workloads named; of both, if both are."""
    words = {w.strip() for w in only.split(",") if w.strip()}
    groups = words & {g for arm in arms for g in arm.groups}
    loads = words & set(WORKLOADS)
    unknown = words - groups - loads
    if unknown:
        sys.exit(f"bench: no group or workload is called {', '.join(sorted(unknown))}")
    return [arm for arm in arms if (not groups or groups & set(arm.groups))
            and (not loads or arm.capture.partition("/")[0] in loads | {"empty"})]


def machine():
    """Where and on what this runs, in a line or two."""
    names = [line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    cpu = names[0] if names else "unknown CPU"
    described = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    commit = described.stdout.strip()
    load = f"{os.getloadavg()[0]:.1f}"
    return (f"{cpu}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}, "
            f"commit {commit or 'unknown'}, load {load}, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC")


def table(rows, head):
    """Rows of text as columns; numbers stand to the right."""
    rows = [head, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    number = [all(not row[i] or row[i][0] in "-0123456789" for row in rows[1:]) for i in range(len(head))]
    lines = [[c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, number)] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def arm_rows(results, capture):
    base = results.get((capture, "floor iii"))
    for (where, name), r in results.items():
        if where.partition("/")[0] != capture or r.arm.start == "paired":
            continue
        low, mid, high = r.cpus()
        part = where.partition("/")[2]
        yield (name + (f" ({part})" if part else ""), str(r.packets), f"{r.ns:.0f}" if r.ns >= 10 else f"{r.ns:.1f}",
               f"{r.rate / 1e6:.4g}", "" if base is None else f"{r.rate / base.rate:.3g}",
               f"{low / mid * 100 - 100:+.0f} {high / mid * 100 - 100:+.0f} %", f"{r.rss / 1e6:.0f}", str(len(r.samples)))


def show(results, missing, quick):
    for capture, load in WORKLOADS.items():
        rows = list(arm_rows(results, capture))
        if rows:
            print(f"\n{capture}: {load.what}{' (a tenth of it)' if quick else ''}")
            print(table(rows, ("arm", "packets", "ns/packet", "Mpkt/s", "/ floor iii", "least, most", "RSS MB", "runs")))
    bare = results.get(("empty", "bare call"))
    if bare is not None:
        print(f"\nbare call Cython to Python: {bare.fact('ns'):.1f} ns")
    print("\nbars" + (" (--quick: too small to be quoted)" if quick else ""))
    print(table([bar.row() for bar in all_bars(results)], ("bar", "wanted", "measured", "", "")))
    for what, how in missing.items():
        print(f"SKIPPED: {what} is not here: {how}")
    parts = ", ".join(f"{name}: 1/{part}" for name, part in SLICES.items())
    print(f"CPU time is user + system of the whole process, less that of the same command on an empty capture; medians. Arms "
          f"of a workload run in turn.\nSlow tools run on a part of the workload with as many flows fewer ({parts}), which spares "
          "them the larger tables; RSS counts mapped pages of the capture.")


def main(argv=None):
    args = arguments(argv)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    programs = Programs(args.dir)
    generate = programs.c("generate")
    if generate is None:
        sys.exit(f"bench: no C compiler: {programs.missing['generate']}")
    captures = Captures(args.dir, generate, args.quick)
    arms = chosen(arms_of.everything(programs), args.only)
    print(f"python -m bench {shlex.join(sys.argv[1:])}\n{machine()}", flush=True)
    loud = sys.stderr.isatty()

    def say(text):
        if loud:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    try:
        results = run_arms(arms, captures, args.runs or (3 if args.quick else 5), say)
    except Failed as e:
        sys.exit(f"bench: {e}")
    say("")
    show(results, programs.missing, args.quick)
    if args.json:
        bars = [{"bar": b.what, "wanted": b.asked(), "value": b.value, "met": None if b.value is None else bool(b.met),
                 "note": b.note} for b in all_bars(results)]
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"machine": machine(), "argv": sys.argv[1:], "quick": args.quick, "missing": programs.missing,
                       "arms": [r.summary() for r in results.values()], "bars": bars}, f, indent=1)
            f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
