"""`mos run --workers`: what is told and written is what one process tells and writes."""
import json
import signal
import subprocess

import pytest
from command import MOS, PCAPS, counts, mos
from source_tree import ROOT

from mos.cli.main import main

RULES = '''
from mos import DROP_FLOW, UserEvent, derive, on
from mos.events import FlowEnd, FlowStart, StreamData

class Seen(UserEvent):
    n: int

@on(FlowStart)
def start(ev):
    print("start", ev.flow.id, ev.client)
    if ev.flow.server_port in (23, 53):
        return DROP_FLOW("port")

@on(StreamData)
def data(ev):
    if not ev.offset:
        ev.flow.timer(0.001, ev.flow.id)

@derive(Seen, on=FlowEnd)
def end(ev):
    print("end", ev.flow.id, ev.reason)
    yield Seen(ev.flow.id)
'''
CAPTURES = sorted(p for p in PCAPS.iterdir() if p.suffix in (".pcap", ".pcapng"))
SAME = ("packets_in", "packets_out", "forwarded", "dropped", "held", "consumed", "injected", "split", "bytes_in", "flows", "events",
        "stages", "orphans", "refused", "ended", "decode")


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "rules.py"
    path.write_text(RULES)
    return path


def told(workers, tmp_path, capsys, *words):
    """Standard output, log, counters, status and what would have left of a run."""
    log, stats, left = tmp_path / "log", tmp_path / "stats", tmp_path / f"{workers}.pcapng"
    status = main(["run", *map(str, words), "--log", str(log), f"--stats={stats}", "-w", str(left), "--workers", str(workers)])
    out = capsys.readouterr()
    counted = counts(stats.read_text())
    return status, out.out, log.read_text(), {k: counted[k] for k in SAME}, out.err, left.read_bytes()


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.name)
def test_workers_tell_what_one_tells(capture, rules, tmp_path, capfd):
    words = (rules, "monitor", "volume", "-r", capture)
    one = told(1, tmp_path, capfd, *words)
    assert one[2].count("\n") > 2 and told(2, tmp_path, capfd, *words) == one


def many(folder):
    """Two hundred flows that overlap, each silent now and then, some cut off, some picked up in their middle."""
    from mos.testing import merge, tcp, udp
    talks = []
    for i in range(200):
        start = 10**18 + i * 10**9
        if i % 3:
            c = tcp(f"10.0.0.{i % 9}:{1000 + i}", f"10.1.0.{i % 4}:80", start_ns=start)
            c = c.send(b"x" * i).wait(i % 5 * 40).reply(b"y" * 99)
            talks.append(c.close() if i % 4 else c.lose([1, 2, 3]) if i % 8 else c)
        else:
            talks.append(udp(f"10.0.0.{i % 9}:{1000 + i}", "10.1.0.1:53", start_ns=start).send(b"q").reply(b"a"))
    return merge(*talks).pcap(folder / "many.pcap")


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_flows_that_end_by_silence_end_in_the_same_order(workers, rules, tmp_path, capfd):
    words = (rules, "-r", many(tmp_path))
    one = told(1, tmp_path, capfd, *words)
    assert {"idle", "fin", "shutdown"} <= {json.loads(x).get("reason") for x in one[2].splitlines()}
    assert told(workers, tmp_path, capfd, *words) == one


def test_until_and_filter_mean_the_packets_of_the_capture(rules, tmp_path, capfd):
    words = (rules, "-r", many(tmp_path), "--until", 300, "-f", "tcp")
    assert told(3, tmp_path, capfd, *words) == (one := told(1, tmp_path, capfd, *words)) and one[3]["packets_in"] == 300


def test_a_handler_that_raises_stops_all_where_it_stopped_one(tmp_path, capfd):
    path, capture = tmp_path / "bad.py", many(tmp_path)
    path.write_text('from mos import on\nfrom mos.events import FlowStart\n@on(FlowStart)\ndef look(ev):\n'
                    '    print(ev.flow.id)\n    if ev.flow.id > 100: raise ValueError("bad byte")\n')
    found = []
    for workers in (1, 3):
        assert main(["run", str(path), "-r", str(capture), "-q", "--workers", str(workers)]) == 1
        found.append(capfd.readouterr())
    assert found[0] == found[1] and "ValueError: bad byte" in found[1].err and found[1].err.count("replay: ") == 1


def test_a_damaged_capture_is_told_once_after_all_before_it(rules, tmp_path, capfd):
    bad = tmp_path / "bad.pcap"
    bad.write_bytes(many(tmp_path).read_bytes()[:-5])
    one = told(1, tmp_path, capfd, rules, "-r", bad)
    assert told(2, tmp_path, capfd, rules, "-r", bad) == one and one[0] == 1 and "is cut short" in one[4]


@pytest.mark.parametrize("words, reason", [
    (["nat", "--set", "nat.external=192.0.2.1"], "hands out numbers"), (["accounting"], "kept by client"),
    (["monitor", "--set", "monitor.interval=5"], "belongs to no flow")])
def test_what_cannot_be_shared_is_refused_in_a_line(words, reason, tmp_path, capfd, monkeypatch):
    assert main(["run", *words, "-r", str(PCAPS / "http_two.pcap"), "--workers", "2"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("mos: --workers cannot be used here: ") and reason in error and error.count("\n") == 1


def test_undeclared_state_is_not_lost_in_silence(tmp_path):
    path = tmp_path / "sum.py"
    path.write_text("from mos import on\nfrom mos.events import FlowEnd\nseen = [0]\n@on(FlowEnd)\ndef end(ev): seen[0] += 1\n")
    done = mos("run", path, "-r", PCAPS / "http_two.pcap", "-q", "--workers", 2)
    assert done.returncode == 0
    assert done.stderr == "mos: written by handlers but not declared, so each worker had its own: sum.seen\n"


def test_ctrl_c_ends_the_flows_of_every_worker(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text("import time\nfrom mos import on\nfrom mos.events import FlowEnd, FlowStart\n"
                    "@on(FlowStart)\ndef s(ev):\n    print('start')\n    time.sleep(.05)\n@on(FlowEnd)\ndef e(ev): print('end')\n")
    run = subprocess.Popen([*MOS, "run", str(path), "-r", str(many(tmp_path)), "--stats", "--workers", "2"], cwd=ROOT,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = run.stdout.readline()
    run.send_signal(signal.SIGINT)
    out, err = first + run.stdout.read(), run.stderr.read()
    run.wait(60)
    assert run.returncode == 130 and out.count("start") == out.count("end") == counts(err)["flows"] > 0


def test_a_worker_that_dies_is_an_error(tmp_path):
    path = tmp_path / "dies.py"
    path.write_text("import os\nfrom mos import on\nfrom mos.events import FlowEnd\n@on(FlowEnd)\n"
                    "def end(ev): os.kill(os.getpid(), 9)\n")
    done = mos("run", path, "-r", PCAPS / "http_two.pcap", "--workers", 2)
    assert done.returncode == 1 and "ended before its work was done" in done.stderr and done.stderr.count("\n") == 1
