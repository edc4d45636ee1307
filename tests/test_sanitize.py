"""AddressSanitizer sees a mistake of one byte in what the core hands out: flows of the table's slab, frames of a batch."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from driver import built
from source_tree import ROOT

FLAGS = ["-O1", "-g", "-fsanitize=address"]
RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("planted", sys.argv[1])
planted = importlib.util.module_from_spec(spec)
spec.loader.exec_module(planted)
from mos import Chain, Engine
from mos.testing import merge, udp
talk = merge(udp("10.0.0.1:1", "10.0.0.2:2").send(b"one"), udp("10.0.0.3:1", "10.0.0.2:2").send(b"another"))
with Engine(Chain(planted.Planted(int(sys.argv[2]))), max_flows=1) as engine:
    engine.run(talk.packets)
print(engine.stats()["flows"], "flows")
"""


@pytest.fixture(scope="module")
def runtime():
    """AddressSanitizer's library, which comes with gcc."""
    gcc = shutil.which("gcc")
    path = gcc and subprocess.run([gcc, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not path or not Path(path).is_file():
        pytest.skip("no gcc with libasan: apt-get install gcc")
    return path


@pytest.fixture(scope="module")
def planted(runtime):
    return built("sanitize/planted", FLAGS, cc="gcc")


def run(runtime, planted, mistake, **env):
    """What the mistake does; under a sanitizer's own run its settings stay, but for where the report goes."""
    options = f"detect_leaks=0:{os.environ.get('ASAN_OPTIONS', '')}:log_path=stderr"
    env = os.environ | {"LD_PRELOAD": runtime, "PYTHONMALLOC": "malloc", "ASAN_OPTIONS": options, "PYTHONPATH": str(ROOT)} | env
    return subprocess.run([sys.executable, "-c", RUN, planted, str(mistake)], env=env, capture_output=True, text=True)


def test_what_is_there_may_be_touched(runtime, planted):
    done = run(runtime, planted, 0, MOS_SANITIZE="1")
    assert (done.returncode, done.stdout) == (0, "2 flows\n"), done.stderr


@pytest.mark.parametrize("mistake, seen", [
    pytest.param(1, ("heap-buffer-overflow", "WRITE of size 1", "0 bytes to the right"), id="a byte written behind a flow"),
    pytest.param(2, ("heap-buffer-overflow", "READ of size 1", "0 bytes to the right"), id="a byte read behind a frame"),
    pytest.param(3, ("heap-use-after-free", "READ of size 1", "2304 bytes inside"), id="a byte read of a flow that ended"),
])
def test_one_byte_is_seen(runtime, planted, mistake, seen):
    done = run(runtime, planted, mistake, MOS_SANITIZE="1")
    assert done.returncode != 0 and "2 flows" not in done.stdout
    assert all(word in done.stderr for word in seen), done.stderr
    assert "in __pyx_f_7planted_touch" in done.stderr.split("#1")[0], done.stderr


def test_without_single_objects_the_same_byte_is_not_seen(runtime, planted):
    """Which is what MOS_SANITIZE is for: behind a flow in a chunk lies the next one."""
    done = run(runtime, planted, 1, MOS_SANITIZE="")
    assert (done.returncode, done.stdout) == (0, "2 flows\n"), done.stderr


SWALLOWED = """
import subprocess, sys

def test_one_thing():
    pass

def test_another_that_does_not_look_how_its_process_ended():
    subprocess.run([sys.executable, "-c", {run!r}, {planted!r}, "{mistake}"], capture_output=True)
"""


@pytest.mark.parametrize("mistake, status, said", [(0, 0, "0 files with a finding"), (1, 1, "heap-buffer-overflow")])
def test_a_report_fails_the_run_whoever_swallowed_it(planted, tmp_path, mistake, status, said):
    """tests/sanitize/suite.py in a tree of one test, whose modules are this one's."""
    shutil.copytree(ROOT / "tests" / "sanitize", tmp_path / "tests" / "sanitize")
    built_tree = tmp_path / "build" / "sanitize" / "tree"
    for tree in (tmp_path, built_tree):
        (tree / "tests").mkdir(parents=True, exist_ok=True)
        (tree / "tests" / "test_x.py").write_text(SWALLOWED.format(run=RUN, planted=str(planted), mistake=mistake))
    done = subprocess.run([sys.executable, tmp_path / "tests" / "sanitize" / "suite.py", "tests/test_x.py"], capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "ASAN_OPTIONS": "", "UBSAN_OPTIONS": ""})
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout and "tests/test_x.py: 2 passed" in done.stdout
