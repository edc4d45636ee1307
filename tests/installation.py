"""What is built from this tree, for the tests that ask how it does elsewhere: source archive, wheel, and an environment with it.

Made once per run on a copy of the tree, with the objects already compiled: what differs from a build from nothing is only the
compiler's work, which `make wheel` does anew.
"""
import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv

import pytest
from source_tree import ROOT, name, sources, tree

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
NOT_SHIPPED = {".so", ".pyc", ".c", ".html"}


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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    """The wheel that the source archive gives, with the objects of this tree where it would compile them again."""
    if not built_modules():
        pytest.skip("nothing is compiled for this interpreter: make build")
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))    # Python 3.11.4
    source = next(unpacked.iterdir())
    lend_objects(source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", unpacked, ".", cwd=source)
    return next(unpacked.glob("mosbox-*.whl"))


@pytest.fixture(scope="session")
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


def compile_against(installed, pyx, home, site=None):
    """Compile a user's Cython module with the declarations that the wheel installed; returns its directory."""
    site = site or next((installed.parent.parent / "lib").glob("python*/site-packages"))
    run(sys.executable, "-m", "cython", "-3", "-I", site, pyx, "-o", home / f"{pyx.stem}.c", cwd=home)
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC")
    run(*compiler.split(), "-shared", "-fPIC", "-O1", f"-I{sysconfig.get_path('include')}", home / f"{pyx.stem}.c",
        "-o", home / f"{pyx.stem}{SUFFIX}")
