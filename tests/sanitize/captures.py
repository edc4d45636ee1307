"""Every capture of the directories given (or of pcaps/ and MOS_CORPORA), in several modes, with what must hold of any run.

    python tests/sanitize/captures.py [directory or capture …]

Prints what fails and ends with 1 if anything does; a sanitizer's report ends it at once. Not a test by itself: `make sanitize`.
"""
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT.parent), str(ROOT)]

from fuzz.watch import run  # noqa: E402

from mos.errors import CaptureError, UsageError  # noqa: E402

TIGHT = {"bytes": 4096, "segments": 8, "doubtful": 2048, "keep": 512, "global": 1 << 16}
FLOWS = 4096        # each flow has its own malloc here: a table for a million takes longer to make than a capture to read
MODES = {
    "tap": {"max_flows": FLOWS},
    "inline": {"truth": "inline", "checksum": "off", "overlap": "last", "max_flows": FLOWS},
    "tight": {"limits": TIGHT, "max_flows": 3, "checksum": "off", "overlap": "linux"},
    "verified": {"checksum": "verify", "pickup": "off", "overlap": "solaris", "max_flows": FLOWS},
}


def captures(places):
    for place in map(Path, places):
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (p for p in found if p.is_file() and p.suffix not in {".md", ".json", ".py", ".txt", ".toml"})


def main(places):
    failures = n = packets = 0
    for path in captures(places):
        for mode, settings in MODES.items():
            n += 1
            try:
                packets += run(str(path), **settings).stats()["packets_in"]
            except (CaptureError, UsageError):
                pass
            except Exception as e:
                failures += 1
                print(f"{path} ({mode}): {type(e).__name__}: {e}", flush=True)
    print(f"{n} runs, {packets} packets of undamaged captures, {failures} failures")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [ROOT.parent / "pcaps", *filter(None, [os.environ.get("MOS_CORPORA")])]))
