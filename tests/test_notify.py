"""mos/notify.py: what a service manager is told, with and without a supervisor. The manager here is a socket of ours."""
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from namespaces import HERE, Running

from mos import notify


@pytest.fixture
def manager(tmp_path, monkeypatch):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(str(tmp_path / "notify"))
    s.settimeout(20)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield s
    s.close()


def next_but(manager, *ignored):
    while (text := manager.recv(4096).decode()) in ignored:
        pass
    return text


@pytest.mark.parametrize("words", [(), ("--on-failure", "closed")], ids=["alone", "supervised"])
def test_a_run_tells_that_it_is_ready_lives_and_ends(bed, manager, monkeypatch, words):
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with Running(bed, "monitor", *words) as running:
        assert next_but(manager).startswith("READY=1")
        assert [next_but(manager) for _ in range(3)] == ["WATCHDOG=1"] * 3
        if words:
            os.kill(running.worker, signal.SIGKILL)
            assert next_but(manager, "WATCHDOG=1") == "STATUS=the run was killed by SIGKILL; nothing passes"
            assert next_but(manager, "WATCHDOG=1") == "READY=1\nSTATUS=running between m0 and m1"
        running.stop()
        assert next_but(manager, "WATCHDOG=1") == "STOPPING=1"


def test_nobody_has_asked(monkeypatch):
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    notify.notify("READY=1")
    assert notify.period() == 0
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert notify.period() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert notify.period() == 0


def test_a_manager_that_is_gone_harms_nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify.notify("READY=1")


def test_an_abstract_address(monkeypatch):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind("\0mos test notify")
    monkeypatch.setenv("NOTIFY_SOCKET", "@mos test notify")
    notify.notify("READY=1", "STATUS=x")
    assert s.recv(100) == b"READY=1\nSTATUS=x"
    s.close()


def test_the_unit_is_one_that_systemd_takes(tmp_path):
    """Its syntax, and how much it leaves exposed by systemd's own count (0 to 10; without sandboxing 9.6)."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("the unit was NOT checked: no systemd-analyze (apt-get install systemd)")
    unit = (HERE.parent / "examples" / "inline" / "mos.service").read_text()
    (tmp_path / "mos.service").write_text(unit.replace("/usr/local/bin/mos", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", tmp_path / "mos.service"], capture_output=True, text=True)
    assert verified.returncode == 0 and "mos.service" not in verified.stderr, verified.stderr
    rated = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=25",
                            tmp_path / "mos.service"], capture_output=True, text=True)
    assert rated.returncode == 0, rated.stdout + rated.stderr
