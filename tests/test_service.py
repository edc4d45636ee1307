"""The unit under a real systemd: started, sandboxed, watched, restarted and stopped as it says, with traffic through it."""
import shutil
import signal
import subprocess
import sys

import machine
import namespaces
import pytest
import test_port
from source_tree import ROOT

CHAIN = """
[run]
interface = "m0:{}"
log = "/var/log/mos/events.jsonl"
{}
[[nf]]
use = "monitor"
"""


@pytest.fixture(scope="module")
def box(bed, tmp_path_factory):
    if why := machine.why_not():
        pytest.skip(f"the unit was NOT run by systemd: {why}")
    here = machine.Machine(bed.box, ROOT / "examples" / "inline" / "mos.service", tmp_path_factory.mktemp("machine"))
    yield here
    here.close()


@pytest.fixture
def start(box):
    """Start the service with a chain file and settings of [Service] beside its own."""
    def start(*chain, settings="WatchdogSec=2"):
        box.write("/etc/mos/chain.toml", CHAIN.format(*chain))
        box.write("/run/systemd/system/mos.service.d/test.conf", f"[Service]\n{settings}\n")
        box.run("systemctl", "daemon-reload")
        return box.run("systemctl", "start", "mos", check=False)
    yield start
    box.run("systemctl", "stop", "mos", check=False)


def status(box, pid):
    """/proc/PID/status of one of the machine's processes."""
    return dict(line.split(":\t", 1) for line in box.run("cat", f"/proc/{pid}/status").stdout.splitlines() if ":\t" in line)


def child(box):
    pid = box.unit()["MainPID"]
    return box.run("cat", f"/proc/{pid}/task/{pid}/children").stdout.split()[0]


def is_up(box, restarts=0):
    unit = box.unit()
    return unit["ActiveState"] == "active" and unit["StatusText"].startswith("running ") and int(unit["NRestarts"]) >= restarts


def test_a_supervised_run_is_ready_confined_passes_on_failure_and_stops_in_order(box, bed, start, tmp_path):
    if not shutil.which("curl"):
        pytest.skip("the unit was NOT run by systemd: apt-get install curl")
    assert start("m1", 'on_failure = "open"').returncode == 0       # Type=notify: ready now
    unit = box.unit()
    assert unit["ActiveState"] == "active" and unit["StatusText"] == "running between m0 and m1"
    keeper, run = status(box, unit["MainPID"]), status(box, child(box))
    assert int(keeper["CapPrm"], 16) == 1 << 12 | 1 << 13 and int(run["CapPrm"], 16) == 0
    assert keeper["Uid"].split()[0] != "0" and run["Seccomp"] == "2" and run["NoNewPrivs"] == "1"
    (tmp_path / "data").write_bytes(bytes(4_000_000))
    web = bed.server.start(sys.executable, "-m", "http.server", "8000", "--bind", namespaces.SERVER, "--directory", tmp_path)
    load = bed.client.start("curl", "-sf", "--retry", "9", "--retry-connrefused", "--limit-rate", "2M", "-o", tmp_path / "got",
                            f"http://{namespaces.SERVER}:8000/data")
    box.wait(lambda: (tmp_path / "got").exists())
    box.run("kill", "-KILL", child(box))
    box.wait(lambda: box.unit()["StatusText"] == "the run was killed by SIGKILL; everything passes unseen")
    assert load.wait(20) == 0 and (tmp_path / "got").stat().st_size == 4_000_000
    for process in (web, load):
        process.kill()
        process.communicate()
    box.wait(lambda: is_up(box))
    assert box.unit()["NRestarts"] == "0"           # the supervisor's business
    box.run("kill", "-STOP", box.unit()["MainPID"])
    box.wait(lambda: is_up(box, 1))                 # systemd's
    assert test_port.transfer(bed, 1_000_000)
    box.run("systemctl", "stop", "mos")
    assert box.unit()["Result"] == "success" and "mos" not in box.run("ip", "-br", "link").stdout
    said = box.journal()
    assert "mos: running between m0 and m1" in said and "killed by SIGKILL; everything passes unseen; starting again" in said
    assert " packets, " in said and "mos: m0: " in said and " received, " in said and "\nflows: " in said


def test_a_run_alone_that_hangs_is_ended_by_systemd_and_its_log_is_kept(box, bed, start):
    assert start("m1", "").returncode == 0
    assert box.unit()["StatusText"] == "running between m0 and m1"
    assert test_port.transfer(bed, 1_000_000)
    box.run("kill", f"-{signal.SIGSTOP.value}", box.unit()["MainPID"])
    box.wait(lambda: is_up(box, 1))
    assert "Fatal Python error: Aborted" in box.journal()      # and where it stood
    assert test_port.transfer(bed, 1_000_000)
    box.run("systemctl", "stop", "mos")
    for name in ("events.before.jsonl", "events.jsonl"):
        assert '"FlowStart"' in box.run("cat", f"/var/log/mos/{name}").stdout


def test_two_workers_record_in_the_sandbox(box, bed, start):
    run = "/usr/local/bin/mos run -c /etc/mos/chain.toml --workers 2 --record %L/mos/in.pcapng"
    assert start("m1", 'on_failure = "closed"', settings=f"ExecStart=\nExecStart={run}").returncode == 0
    assert test_port.transfer(bed, 1_000_000)
    box.run("systemctl", "stop", "mos")
    again = box.run("/usr/local/bin/mos", "run", "monitor", "-r", "/var/log/mos/in.pcapng", "--log", "/tmp/again.jsonl", cwd="/")
    assert ", 0 flows" not in again.stderr
    box.run("cmp", "/tmp/again.jsonl", "/var/log/mos/events.jsonl")


def test_an_interface_that_comes_late_is_waited_for(box, bed, start):
    start("m9", "", settings="RestartSec=100ms")
    box.wait(lambda: int(box.unit()["NRestarts"]) > 5)          # where systemd gives up unless told otherwise
    bed.box.run("ip", "link", "add", "m9", "type", "veth", "peer", "name", "m10")
    try:
        box.wait(lambda: is_up(box))
    finally:
        box.run("systemctl", "stop", "mos")
        subprocess.run([*bed.box.enter, "ip", "link", "del", "m9"], check=True)
