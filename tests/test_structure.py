"""The shape of the source: who may import whom, how long things are, what no file may hold."""
import graphlib
import re
from pathlib import Path

import pytest
from source_tree import GENERATED, ROOT, code, functions, imported, module_of, modules, name, sources, tree

# The parts of mos (packages and top-level modules), nearest the wire first: each imports only those before it.
EVENT_DATA = {"mos.events.spec", "mos.events.kinds", "mos.events.ring"}   # plain data and structs: below tcp
ORDER = ("errors", "privileges", "net", "flow", "event data", "tcp", "events", "state", "nf", "core", "lend", "leave", "park",
         "share", "quote", "caps", "notices", "safe", "patience", "early", "pickup", "acked", "segment", "behind", "late",
         "straight", "lifetime", "datagram", "express", "tally", "stack", "observe", "memory", "run", "box", "workers",
         "notify", "supervise", "doctor", "cli")
MAY_IMPORT = {part: set(ORDER[:i]) for i, part in enumerate(ORDER)}
MAY_IMPORT |= {"io": {"errors", "privileges", "net"}, "testing": {*ORDER[:-1], "io"}, "__main__": {*ORDER, "io"},
               "mos": {*ORDER[:-1], "io"}}
MAY_IMPORT["cli"] |= {"mos"}
for user in ("core", "lend", "leave", "park", "safe", "express", "tally", "stack", "run", "box", "workers", "supervise",
             "doctor", "cli"):
    MAY_IMPORT[user].add("io")
MAY_IMPORT["__main__"] = {"cli"}
PUBLIC = {"mos", "mos.events", "mos.errors", "mos.testing"}   # what a middlebox may import: as its user could

# Sources (or all of a directory) without a test file of their own, and where they are tested instead. Only ever shorter.
TESTED_ELSEWHERE = {
    "mos/__init__.py": "test_exports.py",
    "mos/__init__.pxd": "accessors and the check of the ABI: test_capi.py",
    "mos/events/handler.pxd": "structs, filled and read by test_capi.py",
    "mos/__main__.py": "test_main.py",
    "mos/net/packet.pxd": "structs, filled and read by test_decode.py",
    "mos/flow/flow.pxd": "structs, filled and read by test_table.py",
    "mos/events/ring.pxd": "structs, filled by test_track.py and read by test_bus.py",
    "mos/flow/slab.pxd": "the memory under the table: test_table.py",
    "mos/io/ring.pxd": "what the kernel shares with a port: test_port.py",
    "mos/io/parse.pxd": "the parsers under the reader: test_pcap.py",
    "mos/state/blocks.pxd": "the memory under the slots: test_slots.py",
    "mos/events/filter/": "one compiler in four steps: test_filter.py",
    "mos/testing/": "one builder in four files: test_testing.py",
}

MAX_LINES, MAX_FUNCTION, MAX_EXTENSIONS = 500, 59, 18
BANNER = re.compile(r"^\s*#+\s*([-=#*~_+─━═])(\s?\1){3,}", re.M)
UNFINISHED = re.compile(r"\b(?:TODO|FIXME)\b")
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|Users|work|var/tmp|mnt|opt)/(?=\w)")

MODULES = modules()
CODE = sources(".py", ".pyx", ".pxd", ".pyi")
TEXT = {".py", ".pyx", ".pxd", ".pyi", ".in", ".md", ".cfg", ".toml", ".sh", ""}
HERE = Path(__file__).resolve()
EVERYWHERE = [p for p in tree() if p != HERE and p.suffix in TEXT]


def part(module):
    if module in EVENT_DATA:
        return "event data"
    return module.split(".")[1] if "." in module else module


def links(module):
    """Modules of mos and mbox that `module` imports."""
    found = {target for path in MODULES[module] for target in imported(path, MODULES)}
    return {t for t in found if t.split(".")[0] in {"mos", "mbox"}} - {module}


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[0] == "mos"])
def test_imports_point_towards_the_wire(module):
    assert part(module) in MAY_IMPORT, f"{module}: say in MAY_IMPORT what this new part may import"
    wrong = {t for t in links(module) if part(t) not in {part(module), *MAY_IMPORT[part(module)]}}
    assert not wrong, f"{module} imports {sorted(wrong)}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[0] == "mbox"])
def test_middleboxes_use_the_public_surface_only(module):
    inner = {t for t in links(module) if t.split(".")[0] == "mos" and t not in PUBLIC}
    assert not inner, f"{module} imports {sorted(inner)}"


def test_imports_have_no_circle():
    order = graphlib.TopologicalSorter({m: links(m) for m in MODULES})
    try:
        order.prepare()
    except graphlib.CycleError as e:
        pytest.fail("circle: " + " <- ".join(e.args[1]))


def test_every_import_of_ours_is_there():
    absent = {f"{m}: {t}" for m in MODULES for t in links(m) if t not in MODULES}
    assert not absent


@pytest.mark.parametrize("path", sources(".py", ".pyx", ".pxd", ".pyi", tops=("mos", "mbox", "tests", "bench", "setup.py")),
                         ids=name)
def test_files_are_short(path):
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= MAX_LINES or GENERATED.match(text), f"{name(path)}: {lines} lines"


def test_setup_is_shorter_still():
    assert (ROOT / "setup.py").read_text().count("\n") < 60


@pytest.mark.parametrize("path", sources(".py", ".pyx", ".pxd", tops=("mos", "mbox", "bench")), ids=name)
def test_functions_are_short(path):
    long = [f"{function}: {n} lines" for function, n in functions(path) if n > MAX_FUNCTION]
    assert not long or GENERATED.match(path.read_text()), f"{name(path)}: {long}"


def test_extensions_are_few_and_all_listed():
    there = {module_of(p) for p in sources(".pyx")}
    ours = {module_of(p) for p in sources(".pyx", tops=("mos",)) if not GENERATED.match(p.read_text())}
    listed = set(re.findall(r'"((?:mos|mbox)\.[\w.]+)"', (ROOT / "setup.py").read_text()))
    assert len(ours) <= MAX_EXTENSIONS
    assert there <= listed, f"not in setup.py: {sorted(there - listed)}"


def needs_test(path):
    """Empty files, stubs, and declarations of what a .pyx of the same name defines have nothing to test."""
    if path.suffix == ".pxd" and path.with_suffix(".pyx").exists():
        return False
    text = re.sub(r"#[^\n]*", "", code(path)).strip()
    return bool(text) and not (path.stem == "__init__" and not re.search(r"^(?:def|class|cdef inline)\b", text, re.M))


def test_file(path):
    """tests/test_<module>.py or, where two modules share a name, tests/test_<package>_<module>.py."""
    stem = path.stem if path.stem != "__init__" else path.parent.name
    names = (f"test_{stem}.py", f"test_{path.parent.name}_{stem}.py")
    return next((n for n in names if (ROOT / "tests" / n).exists() or list((ROOT / "tests").rglob(n))), None)


test_file.__test__ = False


@pytest.mark.parametrize("path", [p for p in sources(".py", ".pyx", ".pxd") if needs_test(p)], ids=name)
def test_source_has_its_test_file(path):
    if name(path) in TESTED_ELSEWHERE:
        assert not test_file(path), f"take {name(path)} off TESTED_ELSEWHERE: it has {test_file(path)} now"
    elif f"{path.parent.relative_to(ROOT)}/" not in TESTED_ELSEWHERE:
        assert test_file(path), f"{name(path)} has no tests/test_{path.stem}.py"


@pytest.mark.parametrize("path", sources(".pyx"), ids=name)
def test_inline_is_for_bodies_in_pxd(path):
    """A body in a .pyx is not inlined in other modules: declared in the .pxd it only looks as if."""
    pxd = path.with_suffix(".pxd")
    inline = set(re.findall(r"^cdef inline [^\n(]*?(\w+)\(", code(path), re.M))
    shared = inline & set(re.findall(r"^cdef [^\n(]*?(\w+)\(", code(pxd), re.M)) if pxd.exists() else set()
    assert not shared


@pytest.mark.parametrize("path", sources(".pxd"), ids=name)
def test_inline_bodies_carry_their_directives(path):
    """Inline bodies are compiled with the options of whoever cimports them, unless their own file says otherwise."""
    bodies = re.findall(r"^\s*cdef inline [^\n(]*?(\w+)\(", code(path), re.M)
    own = re.match(r"(?:#[^\n]*\n)*?# cython:[^\n]*\bcdivision=True", path.read_text())
    assert own or not bodies, f"{name(path)}: {bodies} without a directive comment on top"


@pytest.mark.parametrize("path", sources(".pyx", ".pxd"), ids=name)
def test_no_call_takes_the_gil_to_look_for_an_exception(path):
    text = re.sub(r"#[^\n]*", "", code(path))
    every = [line.strip() for line in text.split("\n") if re.search(r"\bexcept\s*\*", line)]
    assert not every, f"{name(path)}: write `except -1` or `noexcept` instead: {every}"


@pytest.mark.parametrize("path", sources(".pyx", ".pxd"), ids=name)
def test_no_source_is_pasted_into_another(path):
    assert not re.findall(r"^\s*include\b.*", code(path), re.M)


@pytest.mark.parametrize("path", EVERYWHERE, ids=name)
def test_text_is_finished_and_at_home_anywhere(path):
    text = path.read_text(errors="replace")
    assert not BANNER.search(text), "section banner"
    assert not UNFINISHED.search(text), UNFINISHED.search(text)[0]
    assert not MACHINE.search(text), f"path of one machine: {MACHINE.search(text)[0]}"


def test_package_reads_nothing_outside_itself():
    assert not [name(p) for p in CODE if "../" in p.read_text()]


def test_rules_would_notice(tmp_path):
    """The readers above see what they are meant to see."""
    sample = Path(tmp_path) / "sample.pyx"
    sample.write_text("cdef class A:\n    cdef int f(self, int a,\n               int b) noexcept nogil:\n        return a\n\n"
                      "cdef int x = g(3)\n\ndef h():\n    y = 1\n\n    return y\n")
    assert functions(sample) == [("f", 3), ("h", 4)]
    assert BANNER.search("# ---- part ----") and not BANNER.search("# - item\n# --check says")
    assert UNFINISHED.search("# TODO: x") and MACHINE.search("see /root/x") and not MACHINE.search("http://a/work/b")
