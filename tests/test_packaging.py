"""What users install: source archive, the wheel made from it, and that wheel in an environment of its own.

The chain is run once on a copy of the tree, with the objects already compiled: what differs from a build from nothing is
only the compiler's work, which `make wheel` does anew.
"""
import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from source_tree import ROOT, module_of, name, sources, tree

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
SHIPPED = {".py", ".pyx", ".pxd", ".pyi", ".json", ".toml", ".in", ".typed"}
PACKAGE_FILES = {name(p) for p in tree("mos", "mbox") if p.suffix in SHIPPED or p.name == "py.typed"}
NOT_SHIPPED = {".so", ".pyc", ".c", ".html"}
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


def run(*command, **options):
    """Output of a command that must succeed; what it says is in the failure otherwise."""
    options.setdefault("env", {k: v for k, v in os.environ.items() if k not in {"MOS_DEBUG", "PYTHONPATH"}})
    ran = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=500, **options)
    assert ran.returncode == 0, f"{command}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout


def clean_environment(**more):
    """Nothing of this tree, its environment or its compiler on any path."""
    return {"HOME": os.environ.get("HOME", "/"), "PATH": "/nowhere", "LANG": "C.UTF-8", **more}


def built_modules():
    """Compiled modules of this tree and interpreter, by the path they have in a wheel."""
    return {name(p): p for p in sources(".so") if p.name.endswith(SUFFIX)}


def lend_objects(source):
    """Put what this tree has compiled where a build in `source` would otherwise compile it again."""
    library = source / f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    for relative, path in built_modules().items():
        if (source / relative).with_name(path.name.split(".")[0] + ".pyx").exists():
            (library / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, library / relative)
    if (ROOT / "build" / "cython").is_dir():
        shutil.copytree(ROOT / "build" / "cython", source / "build" / "cython")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source archive, made from a copy of what is in the repository."""
    copy = tmp_path_factory.mktemp("source")
    for path in tree():
        if path.suffix not in NOT_SHIPPED:
            (copy / name(path)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy / name(path))
    lend_objects(copy)
    run(sys.executable, "setup.py", "-q", "sdist", cwd=copy)
    return next((copy / "dist").glob("mosbox-*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel that the source archive gives, with the objects of this tree where it would compile them again."""
    if not built_modules():
        pytest.skip("nothing is compiled for this interpreter: make build")
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    source = next(unpacked.iterdir())
    lend_objects(source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", unpacked, ".", cwd=source)
    return next(unpacked.glob("mosbox-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Interpreter of a fresh environment that holds the wheel and what it requires, installed without a compiler."""
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-cache-dir"]
    run(*pip, "--no-deps", "--no-index", wheel)
    requirements = configparser.ConfigParser()
    requirements.read(ROOT / "setup.cfg")
    ran = subprocess.run([*pip, "--only-binary", ":all:", *requirements["options"]["install_requires"].split()],
                         capture_output=True, text=True, timeout=500)
    if ran.returncode:
        assert not os.environ.get("CI"), ran.stderr
        pytest.skip("what the wheel requires could not be installed (no network?): " + ran.stderr.strip().split("\n")[-1])
    return python


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


def compile_against(installed, pyx, home):
    """Compile a user's Cython module with the declarations that the wheel installed; returns its directory."""
    site = next((installed.parent.parent / "lib").glob("python*/site-packages"))
    run(sys.executable, "-m", "cython", "-3", "-I", site, pyx, "-o", home / f"{pyx.stem}.c", cwd=home)
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC")
    run(*compiler.split(), "-shared", "-fPIC", "-O1", f"-I{sysconfig.get_path('include')}", home / f"{pyx.stem}.c",
        "-o", home / f"{pyx.stem}{SUFFIX}")


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


@pytest.mark.parametrize("pyx", sources(".pyx", tops=("tests/capi",) if (ROOT / "tests" / "capi").exists() else ("mos/cli",)),
                         ids=name)
def test_c_surface_examples_run_on_what_is_installed(installed, pyx, tmp_path):
    """Each example defines check(), which raises if the surface does not hold what it promises."""
    compile_against(installed, shutil.copy(pyx, tmp_path) and tmp_path / pyx.name, tmp_path)
    run(installed, "-c", f"import {pyx.stem}; {pyx.stem}.check()", cwd=tmp_path, env=clean_environment())
