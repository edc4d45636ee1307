"""docs/bounds.md is what the code says, nothing that bounds is left out of it, and what it points to is there."""
import re
import runpy

from source_tree import ROOT, code, name, sources

import mos.events
from mos import Chain, Engine, on
from mos.events import FlowEnd
from mos.events.spec import CAPS, MALFORMED, ORPHAN_CAUSES, REASONS
from mos.run import LIMITS

TOOL = runpy.run_path(str(ROOT / "tools" / "bounds"))
ROWS = [row for rows in TOOL["BOUNDS"].values() for row in rows]
LIKE_A_BOUND = re.compile(r"^\s*(?:cdef \w+ )?([A-Z][A-Z_]*)\s*=\s*\(?\d", re.M)
NAMES = re.compile(r"(^|_)(MAX|LIMIT|CAP|LONGEST|MOST)(_|$)|MAXINSNS")


def test_the_page_is_up_to_date():
    """If not: make stubs."""
    assert (ROOT / "docs" / "bounds.md").read_text() == TOOL["page"]()


def test_each_bound_has_its_reason_where_it_is_defined():
    for _, path, symbol, *_ in ROWS:
        _, reason = TOOL["defined"](path, symbol)
        assert len(reason) > 20, f"mos/{path}: {symbol} has no reason"


def test_no_bound_is_missing():
    listed = {(path, symbol) for _, path, symbol, *_ in ROWS}
    absent = []
    for path in sources(".py", ".pyx", ".pxd", tops=("mos",)):
        for constant in LIKE_A_BOUND.findall(code(path)):
            inner = name(path).removeprefix("mos/")
            if NAMES.search(constant) and not constant.startswith(("CAP_", "BAD_", "MALFORMED_", "KIND_")) \
                    and constant not in TOOL["NOT_BOUNDS"] and (inner, constant) not in listed:
                absent.append(f"{name(path)}: {constant}")
    assert not absent, "list them in tools/bounds, in BOUNDS or NOT_BOUNDS"
    assert {f'"{key}"' for key in LIMITS} <= {symbol for _, symbol in listed}


def test_what_the_page_points_to_is_there():
    @on(FlowEnd)
    def end(ev):
        pass
    with Engine(Chain([end])) as engine:
        pass
    stats, told = engine.stats(), ""
    later = {"caps": CAPS, "ended": REASONS, "orphans": ORPHAN_CAUSES}      # filled when there is something to count
    for what, _, _, setting, counters, event, policy in ROWS:
        for path in filter(None, counters.split(", ")):
            first, _, rest = path.partition(".")
            assert first in stats and (not rest or rest in later.get(first, stats[first])), f"{what}: {path}"
        for kind, cause in re.findall(r"(\w+)(?:\((\w+)\))?", event):
            assert hasattr(mos.events, kind), f"{what}: {event}"
            assert kind != "Malformed" or cause in MALFORMED
        if setting.startswith("limits."):
            assert setting.removeprefix("limits.") in LIMITS
        assert policy
        told += event
    assert all(f"CapReached({cause})" in told for cause in CAPS)
