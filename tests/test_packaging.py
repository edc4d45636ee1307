"""What users install: source archive, the wheel made from it, and that wheel in an environment of its own."""
import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from installation import NOT_SHIPPED, SUFFIX, clean_environment, compile_against, run
from source_tree import ROOT, module_of, name, sources, tree

SHIPPED = {".py", ".pyx", ".pxd", ".pyi", ".json", ".toml", ".in", ".typed"}
PACKAGE_FILES = {name(p) for p in tree("mos", "mbox") if p.suffix in SHIPPED or p.name == "py.typed"}
SAMPLE = """# cython: language_level=3
from libc.string cimport memset
{cimports}
cdef pkt_t packet

def sizes():
    return sizeof(pkt_t), sizeof(event_t), sizeof(flow_t)

def is_tcp():
    memset(&packet, 0, sizeof(packet))
    packet.proto = 6
    return pkt_is_tcp(&packet)
"""


def test_archive_holds_all_that_is_needed_to_build_and_test(sdist):
    with tarfile.open(sdist) as archive:
        held = {"/".join(m.name.split("/")[1:]) for m in archive.getmembers() if m.isfile()}
    tests = {name(p) for p in tree("tests", "tools", "pcaps") if p.suffix not in NOT_SHIPPED}
    needed = PACKAGE_FILES | tests | {"setup.py", "setup.cfg", "pyproject.toml", "Makefile", "LICENSE", ".ci/run"}
    assert needed <= held, sorted(needed - held)
    assert not [f for f in held if Path(f).suffix in NOT_SHIPPED]


def test_wheel_holds_every_source_and_one_module_for_each(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {f for f in archive.namelist() if ".dist-info/" not in f}
    compiled = {f for f in held if f.endswith(".so")}
    assert held - compiled == PACKAGE_FILES
    listed = set(re.findall(r'"((?:mos|mbox)\.[\w.]+)"', (ROOT / "setup.py").read_text()))
    wanted = {module_of(p).replace(".", "/") + SUFFIX for p in sources(".pyx") if module_of(p) in listed}
    assert compiled == wanted


def test_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(archive.read(f).decode() for f in archive.namelist() if f.endswith("/METADATA"))
        scripts = next(archive.read(f).decode() for f in archive.namelist() if f.endswith("/entry_points.txt"))
        assert any(f.endswith("/LICENSE") for f in archive.namelist())
    assert re.search(r"^Name: mosbox$", metadata, re.M)
    assert re.search(r"^License-Expression: Apache-2.0$", metadata, re.M)
    assert re.search(r"^Requires-Python: >=3.11$", metadata, re.M)
    assert re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.M) == ["pcapy-ng"]
    assert "mos = mos.cli.main:main" in scripts


def test_metadata_is_said_once():
    with open(ROOT / "pyproject.toml", "rb") as f:
        assert "project" not in tomllib.load(f)


def test_package_imports_where_only_it_is_installed(installed, tmp_path):
    said = run(installed, "-c", "import mos, mbox, mos.events; print(mos.__file__)", cwd=tmp_path, env=clean_environment())
    assert str(installed.parent.parent) in said


@pytest.mark.skipif(not (ROOT / "mos" / "cli" / "main.py").exists(), reason="mos/cli/main.py is not there")
def test_command_runs_where_only_it_is_installed(installed, tmp_path):
    assert "run" in run(installed.parent / "mos", "--help", cwd=tmp_path, env=clean_environment())


def test_declarations_serve_users_modules(installed, tmp_path):
    """Structs and inline bodies are usable from a module outside, compiled with its own options."""
    pyx = tmp_path / "sample.pyx"
    pyx.write_text(SAMPLE.format(cimports="from mos.net.packet cimport pkt_is_tcp, pkt_t\nfrom mos.events.ring cimport event_t\n"
                                          "from mos.flow.flow cimport flow_t"))
    compile_against(installed, pyx, tmp_path)
    said = run(installed, "-c", "import sample; print(min(sample.sizes()) > 0, sample.is_tcp())", cwd=tmp_path,
               env=clean_environment())
    assert said.split() == ["True", "True"]


def test_every_declaration_file_can_be_cimported(installed, tmp_path):
    pyx = tmp_path / "everything.pyx"
    there = sorted(module_of(p) for p in sources(".pxd", tops=("mos", "mbox")))
    pyx.write_text("# cython: language_level=3\n" + "".join(f"cimport {m}\n" for m in there))
    site = next((installed.parent.parent / "lib").glob("python*/site-packages"))
    run(sys.executable, "-m", "cython", "-3", "-I", site, pyx, "-o", tmp_path / "everything.c", cwd=tmp_path)
