"""The tests under the sanitizers, each file in a process of its own: `make sanitize`, after tests/sanitize/build.

    python tests/sanitize/suite.py [file or directory …] [pytest's options …]

A report of a sanitizer ends its process. Whatever process that was and whoever caught its words, the report is in
build/sanitize/reports; it is printed under the file's line, a file's whole output is in build/sanitize/logs. Ends with a
summary, what was left out and why, and 1 if anything failed, reported or did not run.
"""
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "sanitize"
FILES_LEFT_OUT = {
    "test_sanitize.py": "runs this with a compiler, whose leaks it would report",
    "test_packaging.py": "runs what is installed elsewhere, without sanitizers",
    "test_service.py": "runs mos as a service, from an environment of systemd's that has no sanitizer's library",
    "test_structure.py": "reads sources, runs none",
    "test_typing.py": "runs mypy, not mos",
}
# These are run a second time, with MOS_SANITIZE empty: then captures are mapped.
MAPPED = ("test_lend.py", "test_scout.py", "test_tally.py", "test_turns.py")
TESTS_LEFT_OUT = {
    "test_soak.py::test_memory_does_not_grow_and_both_balances_hold": "measures memory, of which a sanitizer keeps what was freed",
    "test_lend.py::test_no_copy_is_made": "lends what is mapped: of the second run only",
    "test_lend.py::test_frames_outlive_their_source": "lends what is mapped: of the second run only",
    "test_capi.py::test_example_does_what_python_does_where_mos_is_installed": "runs what is installed elsewhere",
    "test_capi.py::test_module_built_for_another_core_is_refused": "runs what is installed elsewhere",
}
MOST_SECONDS = 3000     # of one test: several times what the slowest takes on a busy machine
MOST_LINES = 60         # of a report or an output that are shown


def files(words):
    """The test files that `words` name, and the other words: options."""
    places = [ROOT / w for w in words if (ROOT / w).exists()] or [ROOT / "tests"]
    found = [f for p in places for f in (sorted(p.rglob("test_*.py")) if p.is_dir() else [p])]
    return [f.relative_to(ROOT) for f in found], [w for w in words if not (ROOT / w).exists()]


def environment(reports, mapped):
    """tests/sanitize/run adds to these."""
    env = os.environ | {"MOS_SANITIZE": "" if mapped else "1"}
    for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
        env[name] = f"log_path={reports}/report:{env.get(name, '')}"
    return env


def run(file, options, mapped):
    """(what pytest said last, how it ended, reports) of one file."""
    name = f"{file.stem}.mapped" if mapped else file.stem
    reports, log = BUILD / "reports" / name, BUILD / "logs" / f"{name}.log"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    reports.chmod(0o777)        # some tests give up root, and then find something
    log.parent.mkdir(exist_ok=True)
    left_out = [f"--deselect=tests/{t}" for t in TESTS_LEFT_OUT if t.startswith(file.name) and not mapped]
    command = [ROOT / "tests" / "sanitize" / "run", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o",
               f"timeout={MOST_SECONDS}", *left_out, file, *options]
    env = environment(reports, mapped)
    with open(log, "wb") as out:
        status = subprocess.run(command, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL).returncode
    text = log.read_text(errors="replace")
    return text, status, sorted(reports.iterdir())


def show(title, text):
    lines = text.splitlines()
    print(f"--- {title}", *lines[:MOST_LINES], *(["[...]"] if len(lines) > MOST_LINES else []), sep="\n", flush=True)


def main(words):
    found, options = files(words)
    tests = [(f, False) for f in found if f.name not in FILES_LEFT_OUT] + [(f, True) for f in found if f.name in MAPPED]
    sums, bad, skipped, began = {}, [], set(), time.monotonic()
    for file, mapped in tests:
        before = time.monotonic()
        text, status, reports = run(file, options, mapped)
        last = (re.findall(r"^(?:=+ )?(\d+ \w+.*) in [\d.]+s", text, re.M) or ["did not run to its end"])[-1]
        for n, what in re.findall(r"(\d+) (\w+)", last):
            sums[what] = sums.get(what, 0) + int(n)
        skipped |= set(re.findall(r"^SKIPPED \[\d+\] (.*)", text, re.M))
        well = not reports and (status == 0 or status == 5 and options)      # 5: the options chose none of this file
        name = f"{file}, mapped" if mapped else file
        print(f"{time.monotonic() - before:7.1f} s  {name}: {last}{'' if well else f'  BAD, status {status}'}", flush=True)
        if not well:
            bad.append(f"{file}: {len(reports)} reports, status {status}; see {(BUILD / 'logs').relative_to(ROOT)}")
            for report in reports:
                show(f"report {report.relative_to(ROOT)}", report.read_text(errors="replace"))
            if not reports:
                show("the end of its output", "\n".join(text.splitlines()[-MOST_LINES:]))
    print("\nSkipped:", *(sorted(skipped) or ["nothing"]), sep="\n  ")
    left_out = {**FILES_LEFT_OUT, **TESTS_LEFT_OUT}
    print("Left out:", *(f"{name}: {why}" for name, why in left_out.items()), sep="\n  ")
    print(f"{len(tests)} runs of files, {', '.join(f'{n} {what}' for what, n in sums.items())}, {time.monotonic() - began:.0f} s;"
          f" {len(bad)} files with a finding", *bad, sep="\n  ")
    return len(bad) > 0 or not tests


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
