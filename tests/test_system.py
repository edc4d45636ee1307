"""tools/system on machines that lack something: fake programs in front, nothing is installed."""
import os
import shutil
import subprocess
import sys

import pytest
from source_tree import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("sh"), reason="no sh")

FAKE_PYTHON = """#!/bin/sh
case "$*" in
    -) cat >/dev/null; printf '%s\\n' fakecc {include} {debian} ;;
    *ensurepip*) exit {no_venv} ;;
    *version_info\\ *) exit {too_old} ;;
    *) echo 3.11 ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """A function that runs tools/system where only a few programs exist: as who, and with what missing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    log = tmp_path / "apt.log"

    def program(name, text):
        path = programs / name
        path.write_text(text)
        path.chmod(0o755)

    def run(what, *, uid=1000, apt=True, compiler=False, headers=False, venv=False, python=True, debian="python3", **env):
        for name in ("sh", "cat", "sed"):
            if not (programs / name).exists():
                (programs / name).symlink_to(shutil.which(name))
        program("id", f"#!/bin/sh\necho {uid}\n")
        if apt:
            program("apt-get", f'#!/bin/sh\necho "$*" >>{log}\n')
        if compiler:
            program("fakecc", f"#!/bin/sh\ncat >/dev/null; exit {int(not headers)}\n")
        if headers:
            (tmp_path / "Python.h").touch()
        program("python3", FAKE_PYTHON.format(include=tmp_path, debian=debian, no_venv=int(not venv), too_old=int(not python)))
        ran = subprocess.run([ROOT / "tools" / "system", what], env={"PATH": str(programs), "VENV": "none", **env},
                             capture_output=True, text=True, timeout=30)
        return ran.returncode, ran.stdout, ran.stderr, log.read_text().splitlines() if log.exists() else []
    return run


def test_nothing_is_said_where_nothing_is_missing(machine):
    assert machine("build", compiler=True, headers=True, venv=True) == (0, "", "", [])


def test_a_user_is_told_what_to_install(machine):
    status, _, said, installed = machine("build")
    assert (status, installed) == (1, [])
    assert "sudo apt-get install gcc python3-dev python3-venv" in said


def test_root_installs_it_announced(machine):
    status, _, said, installed = machine("build", uid=0)
    assert status == 0
    assert "installing gcc python3-dev python3-venv: apt-get install -y gcc python3-dev python3-venv" in said
    assert [line.split()[0] for line in installed] == ["update", "install"]
    assert installed[1].endswith("gcc python3-dev python3-venv")


def test_only_what_is_missing_is_named(machine):
    assert "missing: python3.12-venv." in machine("build", compiler=True, headers=True, debian="python3.12")[2]


def test_without_apt_the_packages_are_named(machine):
    status, _, said, _ = machine("build", apt=False, uid=0)
    assert status == 1
    assert "missing: gcc python3-dev python3-venv" in said


def test_an_interpreter_without_headers_is_not_debians_to_mend(machine):
    status, _, said, installed = machine("build", uid=0, compiler=True, venv=True, debian="-")
    assert (status, installed) == (1, [])
    assert "PYTHON=/usr/bin/python3" in said


def test_an_old_python_is_refused(machine):
    status, _, said, _ = machine("python", python=False, PYTHON="python3")
    assert status == 1
    assert "older than 3.11" in said


def test_the_interpreter_is_named(machine):
    assert machine("python") == (0, "python3\n", "", [])


def test_tests_run_without_tshark_and_say_so(machine):
    status, _, said, _ = machine("test")
    assert status == 0
    assert "sudo apt-get install tshark iproute2 ethtool curl util-linux" in said
    assert "WITHOUT tshark" in said


def test_root_gets_tshark(machine):
    status, _, _, installed = machine("test", uid=0)
    assert status == 0
    assert installed[1].endswith(" tshark iproute2 ethtool curl util-linux")


@pytest.mark.parametrize("what, packages", [("sanitize", "gcc"), ("fuzz", "clang-14 libclang-rt-14-dev")])
def test_compilers_with_sanitizers_are_named_and_another_choice_is_the_users(machine, what, packages):
    status, _, said, installed = machine(what)
    assert (status, installed) == (1, []) and f"sudo apt-get install {packages}\n" in said
    assert machine(what, compiler=True, headers=True, CC="fakecc") == (0, "", "", [])
    status, _, said, installed = machine(what, compiler=True, uid=0, CC="falsecc")
    assert (status, installed) == (1, []) and "CC=falsecc" in said


def test_requirements_are_read_from_the_metadata():
    ran = subprocess.run([sys.executable, ROOT / "tools" / "requires", "build", "install", "test"], cwd=ROOT,
                         capture_output=True, text=True, check=True, timeout=30, env={**os.environ})
    names = {line.split(">")[0].split("<")[0] for line in ran.stdout.splitlines()}
    assert {"setuptools", "Cython", "pcapy-ng", "pytest", "hypothesis", "dpkt", "pyshark"} <= names
