"""mos/privileges.py: what a live run may still do once it runs, as /proc tells it; whom it may be."""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import namespaces
import pytest
from namespaces import HERE, Running, Wire

from mos import privileges
from mos.errors import UsageError

FRAME = bytes.fromhex("0200000000d1" "0200000000c1" "88b5") + bytes(46)
# A handler that tries what only root may: a packet socket, and a program that would make it root again.
TRIES = """
import socket, subprocess
from mos import on
from mos.events import PacketIn

@on(PacketIn)
def tries(ev):
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        print("a packet socket")
    except PermissionError:
        print("refused")
    again = subprocess.run(["unshare", "-n", "true"], capture_output=True)
    print("a namespace" if again.returncode == 0 else "refused again")
"""
NOTHING = {"CapEff": 0, "CapPrm": 0, "CapInh": 0, "CapAmb": 0}


bed = namespaces.own_bed


def masks(pid):
    return {which: privileges.held(which, pid) for which in NOTHING}


def crosses(bed):
    wires = [Wire(bed.client, "c0"), Wire(bed.server, "s0")]
    wires[0].send([FRAME])
    came = wires[1].wait(1)
    for wire in wires:
        wire.close()
    return came == [FRAME]


def test_a_live_run_gives_up_what_it_had(bed, tmp_path):
    (tmp_path / "tries.py").write_text(TRIES)
    with Running(bed, tmp_path / "tries.py") as running:
        assert masks(running.worker) == NOTHING
        with open(f"/proc/{running.worker}/status") as f:
            assert "NoNewPrivs:\t1\n" in f.read()
        assert crosses(bed)
        running.stop()
    assert running.out == "refused\nrefused again\n"
    with Running(bed, tmp_path / "tries.py", "--keep-privileges") as running:
        assert masks(running.worker)["CapEff"] == privileges.held("CapPrm", bed.box.pid)
        assert crosses(bed)
        running.stop()
    assert running.out == "a packet socket\na namespace\n"


THREADS = """
import threading
from mos import on
from mos.events import PacketIn

@on(PacketIn)
async def later(ev): pass

threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


def test_threads_that_run_already_are_told_but_for_ours(bed, tmp_path):
    (tmp_path / "threads.py").write_text(THREADS)
    with Running(bed, tmp_path / "threads.py") as running:
        assert running.hears("mos: 1 thread of the middleboxes ran already, and keep the privileges")
        running.stop()


def test_files_that_were_open_are_written_at_the_end(bed, tmp_path):
    """As root without capabilities, in a directory of somebody else's."""
    try:
        os.chown(tmp_path, 65534, 65534)
    except OSError:
        pytest.skip("somebody else's directory was NOT tried: not root")
    names = [tmp_path / name for name in ("log.jsonl", "in.pcapng", "stats.json")]
    with Running(bed, "--log", names[0], "--record", names[1], f"--stats={names[2]}") as running:
        assert crosses(bed)
        running.stop()
    assert all(name.stat().st_size > 20 for name in names)


def test_root_becomes_somebody_else(bed):
    with Running(bed, "--user", "nobody", python=python_for(65534)) as running:
        pid = running.worker
        with open(f"/proc/{pid}/status") as f:
            ids = [line.split()[1:] for line in f if line[:4] in ("Uid:", "Gid:")]
        assert ids[0] == ["65534"] * 4 and "0" not in ids[1]
        assert masks(pid) == NOTHING
        assert crosses(bed)
        running.stop()


def python_for(uid):
    """An interpreter that somebody else can run, with our package: this one may be in a home directory."""
    if os.geteuid() != 0:
        pytest.skip("somebody else's run was NOT tried: not root")
    program = "import mos.io.port, os; print(os.__file__)"
    for python in filter(shutil.which, (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}")):
        ours, theirs = (subprocess.run([*before, python, "-c", program], capture_output=True, cwd="/",
                                       env=os.environ | {"PYTHONPATH": str(HERE.parent)})
                        for before in ((), ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")))
        if theirs.returncode == 0 and ours.stdout == theirs.stdout:
            return python
    pytest.skip(f"somebody else's run was NOT tried: uid {uid} can run no interpreter with this package here")


def test_nobody_becomes_nobody_that_is_not_there():
    with pytest.raises(UsageError, match="--user nonesuch: there is no such user"):
        privileges.become("nonesuch")


def in_a_child(program):
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": str(HERE.parent)})
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_some_may_be_kept():
    if os.geteuid() != 0:
        pytest.skip("keeping some was NOT tried: not root")
    said = in_a_child("from mos import privileges as p; p.limit(['cap_net_admin']); p.limit(['cap_net_admin', 'cap_net_raw'])\n"
                      "print(p.held(), p.held('CapPrm'), p.held('CapBnd'), p.has('cap_net_admin'), p.has('cap_net_raw'))")
    assert said == ["4096", "4096", "4096", "True", "False"]


def test_without_any_there_is_nothing_to_give_up():
    said = in_a_child("from mos import privileges as p; p.limit(); p.limit(); print(p.held(), p.holders())")
    assert said == ["0", "0"]


def test_an_ordinary_user_runs_with_ambient_capabilities(bed):
    """What a systemd unit's AmbientCapabilities= gives, and setpriv by hand."""
    ambient = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
               "--inh-caps=+net_raw,+net_admin", "--ambient-caps=+net_raw,+net_admin"]
    with Running(bed, before=ambient, python=python_for(65534)) as running:
        assert masks(running.worker) == NOTHING
        assert crosses(bed)
        running.stop()


def test_an_ordinary_user_runs_an_interpreter_with_file_capabilities(bed):
    """A copy of it, as docs/inline.md says: beside the interpreter of a virtual environment."""
    python, there = Path(os.path.realpath(python_for(65534))), Path(tempfile.mkdtemp())
    try:
        there.chmod(0o755)
        (there / "bin").mkdir()
        (there / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
        shutil.copy(python, there / "bin" / "python-net")
        given = subprocess.run(["setcap", "cap_net_raw,cap_net_admin+ep", there / "bin" / "python-net"],
                               capture_output=True, text=True)
        if given.returncode:
            pytest.skip(f"file capabilities were NOT tried: {given.stderr}")
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        with Running(bed, before=nobody, python=there / "bin" / "python-net") as running:
            assert masks(running.worker) == NOTHING
            assert crosses(bed)
            running.stop()
    finally:
        shutil.rmtree(there)
