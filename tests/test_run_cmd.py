"""mos/cli/run_cmd.py: outputs, balances, damage, exceptions of handlers and their replay, as a process where that counts."""
import gzip
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time

import pytest
from command import COUNTER, MOS, PCAPS, counts, mos

from mos.cli.load import load_chain
from mos.cli.main import main
from mos.io.source import open_source
from mos.run import Engine
from mos.testing import merge, tcp

FILE = PCAPS / "http_two.pcap"
CAPTURES = sorted(p for p in PCAPS.iterdir() if p.suffix in (".pcap", ".pcapng"))
RULES = """
from mos import DROP, DROP_FLOW, RESET, on
from mos.events import FlowEnd, FlowStart, PacketIn, StreamData

@on(StreamData, where="offset == 0 and to_server")
def first(ev): return RESET("no")

@on(PacketIn, where="packet_number == 3")
def third(ev): return DROP
"""
FAULTY = """
from mos import FlowVar, on
from mos.events import StreamData

calls = FlowVar(int)

def deeper(ev):
    raise ValueError("bad byte")

@on(StreamData)
def look(ev):
    calls[ev.flow] += 1
    if calls[ev.flow] == 3:
        deeper(ev)
"""
IDLE = """
import sys, time
from mos import NF, on
from mos.events import FlowEnd, PacketIn

class Idle(NF):
    n = 0
    @on(PacketIn)
    def p(self, ev):
        self.n += 1
        if self.n == 5:
            print("ready", flush=True)
        SLEEP
    @on(FlowEnd)
    def end(self, ev): print("ended")
    def stop(self, engine): print("stopped")
"""


@pytest.fixture
def box(tmp_path):
    """Write a middlebox; its path."""
    def write(text, name="rules.py"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)
    return write


def frames(path):
    return [bytes(r.data) for r in open_source(str(path))]


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.name)
def test_both_balances_hold(capture, box, tmp_path, capsys):
    out = tmp_path / "out.pcapng"
    assert main(["run", box(RULES), "-r", str(capture), "-w", str(out), "--stats"]) == 0
    c = counts(capsys.readouterr().err)
    assert c["packets_in"] == len(frames(capture))
    assert c["packets_out"] == len(frames(out))
    if c["packets_in"] > 2 and "telnet" in capture.name:
        assert c["dropped"]["rules"] and c["injected"]


def test_what_drops_nothing_forwards_everything(box, tmp_path, capsys):
    out = tmp_path / "out.pcap"
    assert main(["run", box(COUNTER), "-r", str(FILE), "-w", str(out), "-q"]) == 0
    assert frames(out) == frames(FILE)
    assert capsys.readouterr() == ("rules 100327\nrules 120327\nrules flows 2\n", "")


def test_stats_have_their_keys(box, tmp_path, capsys):
    stats = tmp_path / "stats.json"
    assert main(["run", box(COUNTER), "-r", str(FILE), f"--stats={stats}"]) == 0
    assert capsys.readouterr().err == ""
    c = counts(stats.read_text())
    keys = ("packets_in", "packets_out", "forwarded", "dropped", "held", "consumed", "injected", "split", "bytes_in", "flows",
            "events", "seconds", "cpu_seconds", "peak_rss_bytes", "peak_anon_bytes", "packets_per_cpu_second",
            "peak_flows", "flow_bytes")
    assert tuple(c)[:len(keys)] == keys
    assert (c["flows"], c["events"]["FlowStart"], c["events"]["FlowEnd"]) == (2, 2, 2)
    assert 1 << 20 < c["peak_anon_bytes"] <= c["peak_rss_bytes"]


def test_peak_memory_is_that_of_the_run_not_of_its_end(box):
    """40 MB held up to packet 30,000 and given back are seen at a tick."""
    text = """
from mos import NF, on
from mos.events import PacketIn
class Big(NF):
    held = None
    @on(PacketIn)
    def p(self, ev):
        if ev.packet.number == 1: self.held = bytearray(b"x") * (40 << 20)
        if ev.packet.number == 30000: self.held = None
"""
    frame = tcp("10.0.0.1:1", "10.0.0.2:2").packets[0][1]
    chain, _ = load_chain([box(text)])
    with Engine(chain) as engine:
        before = engine.stats()["peak_anon_bytes"]
        engine.run((i, frame) for i in range(40000))
    assert engine.stats()["peak_anon_bytes"] - before > 36 << 20


def test_the_summary_is_one_line(box, capsys):
    assert main(["run", box(RULES), "-r", str(PCAPS / "telnet.pcap")]) == 0
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "71 packets, 1 flow" in line and "would be dropped (rules" in line


@pytest.mark.parametrize("pack", [lambda b: b, gzip.compress, lambda b: pytest.importorskip("zstandard").compress(b)],
                         ids=["plain", "gzip", "zstd"])
def test_standard_input(box, pack):
    path = box(COUNTER)
    done = subprocess.run([*MOS, "run", path, "-r", "-", "--stats"], input=pack(FILE.read_bytes()), capture_output=True, timeout=60)
    assert done.returncode == 0
    assert counts(done.stderr.decode())["packets_in"] == len(frames(FILE))
    assert done.stdout == mos("run", path, "-r", FILE).stdout.encode()


def test_standard_output_is_a_capture_and_prints_go_elsewhere(box, tmp_path):
    out = tmp_path / "out.pcap"
    with open(out, "wb") as f:
        done = subprocess.run([*MOS, "run", box(COUNTER), "-r", FILE, "-w", "-", "-q"],
                              stdout=f, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "rules 100327\nrules 120327\nrules flows 2\n")
    assert frames(out) == frames(FILE)


def test_the_log_on_standard_output_is_json_alone(box):
    done = mos("run", box(COUNTER), "-r", FILE, "--log", "-", "-q")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(line["event"] == "FlowEnd" for line in lines) == 2
    assert "rules flows 2" in done.stderr


def test_the_log_names_who_dropped_and_why(box, tmp_path, capsys):
    log = tmp_path / "log"
    assert main(["run", f"edge={box(COUNTER)}", "--set", "edge.port=80", "-r", str(FILE), "--log", str(log), "-v"]) == 0
    verdicts = [v for v in map(json.loads, log.read_text().splitlines()) if v["event"] == "Verdict"]
    assert {v["by"] for v in verdicts} == {"edge"} and verdicts[0]["reason"] == "port"
    assert f"packet {verdicts[0]['packet']}, flow {verdicts[0]['flow']}: DROP_FLOW by edge: port" in capsys.readouterr().err


@pytest.mark.parametrize("words, expected", [
    (["-r", "nothere.pcap"], "cannot open nothere.pcap: No such file"),
    (["-r", "."], "is a directory"),
    (["-r", FILE, "-w", "/nonexistent/x"], "cannot write /nonexistent/x"),
    (["-r", FILE, "--log", "/nonexistent/x"], "cannot write the log /nonexistent/x"),
    (["-r", FILE, "--overlap", "frist"], "choose one of first"),
    (["-r", FILE, "--checksum", "x"], "choose one of off, verify, auto"),
    (["-r", FILE, "-f", "tcp prt 80"], "syntax error"),
    (["-r", FILE, "--tunnels", "gree"], "unknown tunnel 'gree'"),
])
def test_wrong_options_are_one_line_and_2(box, words, expected, capsys):
    assert main(["run", box(COUNTER), *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mos: ") and error.count("\n") == 1 and expected in error


@pytest.mark.parametrize("words", [["-w"], ["--log"], ["--stats-file"]])
def test_an_output_never_overwrites_an_input(box, words, tmp_path, capsys):
    capture = tmp_path / "x.pcap"
    capture.write_bytes(FILE.read_bytes())
    rules = box(COUNTER)
    for target in (str(capture), rules):
        assert main(["run", rules, "-r", str(capture), *words, target]) == 2
        assert "would overwrite what" in capsys.readouterr().err
    done = main(["run", rules, "-r", str(capture), "-w", str(tmp_path / "o"), *words, str(tmp_path / "o")])
    assert done == (0 if words == ["-w"] else 2)
    assert capture.read_bytes() == FILE.read_bytes()


@pytest.mark.parametrize("damage, packets", [(lambda b: b[:-10], 219), (lambda b: b[:24], 0), (lambda b: b[:24] + b"\xff" * 40, 0)])
def test_a_damaged_file_delivers_what_precedes(box, damage, packets, tmp_path, capsys):
    bad = tmp_path / "bad.pcap"
    bad.write_bytes(damage(FILE.read_bytes()))
    status = main(["run", box(COUNTER), "-r", str(bad), "-w", str(tmp_path / "out.pcap"), "--stats"])
    said = capsys.readouterr()
    *error, stats = said.err.strip().split("\n")
    assert counts(stats)["packets_in"] == packets == len(frames(tmp_path / "out.pcap"))
    if packets or error:
        assert status == 1 and len(error) == 1 and str(bad) in error[0]
    assert said.out.endswith(f"rules flows {2 if packets else 0}\n")


def test_no_capture_at_all_is_1(box, capsys):
    assert main(["run", box(COUNTER, "c.py"), "-r", box(COUNTER)]) == 1
    assert "is not a capture" in capsys.readouterr().err


def test_until_stops_after_that_packet(box, tmp_path, capsys):
    out = tmp_path / "out.pcap"
    assert main(["run", box(COUNTER), "-r", str(FILE), "--until", "70", "-w", str(out), "--stats"]) == 0
    assert counts(capsys.readouterr().err)["packets_in"] == 70
    assert frames(out) == frames(FILE)[:70]


def test_an_exception_shows_the_users_frames_and_can_be_replayed(box):
    path = box(FAULTY)
    done = mos("run", path, "-r", FILE, "--pickup", "state", "--overlap", "last", "--stats", "--log", "/dev/null")
    assert done.returncode == 1
    first, *middle, replay, stats = done.stderr.strip().split("\n")
    assert first.startswith("mos: rules.look raised ValueError at packet ") and "StreamData: bad byte" in first
    shown = [line.strip() for line in middle if line.startswith("  File")]
    assert [line.rpartition(" in ")[2] for line in shown] == ["look", "deeper"] and all(path in line for line in shown)
    assert middle[-1] == "ValueError: bad byte"
    assert counts(stats)["dropped"] == {"failed": 1}
    words = shlex.split(replay.removeprefix("replay: "))
    assert words[0] == "mos" and words[-2:] == ["--until", str(counts(stats)["packets_in"])]
    again = mos(*words[1:])
    assert again.stderr.split("\n")[:len(middle) + 2] == done.stderr.split("\n")[:len(middle) + 2]
    before = mos(*words[1:-1], int(words[-1]) - 1)
    assert before.returncode == 0


def test_an_exception_at_the_end_names_the_last_packet(box):
    path = box("from mos import on\nfrom mos.events import FlowEnd\n@on(FlowEnd)\ndef end(ev): 1/0\n")
    done = mos("run", path, "-r", FILE, "--pickup", "data")
    assert done.returncode == 1
    first, *_, replay, _ = done.stderr.strip().split("\n")
    assert "raised ZeroDivisionError after packet" in first and "FlowEnd" in first
    assert mos(*shlex.split(replay.removeprefix("replay: "))[1:]).returncode == 1


def test_a_replay_carries_settings_and_chain_file(box, tmp_path):
    box(FAULTY.replace("3:", "2:"))
    chain = tmp_path / "my chain.toml"
    chain.write_text(f'[run]\npickup = "data"\nread = "{FILE}"\n[[nf]]\nuse = "./rules.py"\n')
    done = mos("run", "-c", chain, "-f", "tcp port 80 or arp")
    replay = next(line for line in done.stderr.split("\n") if line.startswith("replay: "))
    words = shlex.split(replay.removeprefix("replay: "))
    assert str(chain) in words and "tcp port 80 or arp" in words and "--pickup" not in words
    assert mos(*words[1:]).stderr.split("\n")[0] == done.stderr.split("\n")[0]


@pytest.mark.parametrize("hook", ["start", "stop", "__init__"])
def test_exceptions_outside_packets(box, hook):
    argument = "self" if hook == "__init__" else "self, engine"
    done = mos("run", box(f"from mos import NF\nclass A(NF):\n    def {hook}({argument}):\n        {{}}['x']\n"), "-r", FILE)
    assert done.returncode in (1, 2)
    assert "KeyError: 'x'" in done.stderr and f"in {hook}" in done.stderr and "/mos/" not in done.stderr.replace("mos: ", "")


def test_a_missing_file_of_a_box_is_one_line(box):
    opens = box("from mos import NF\nclass A(NF):\n    def start(self, engine):\n        open('/nonexistent/rules.toml')\n")
    done = mos("run", opens, "-r", FILE)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot open /nonexistent/rules.toml" in done.stderr


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("source", ["fifo", "gzip", "file"])
def test_signals_end_a_run_properly(box, tmp_path, number, status, source):
    """Waiting on a pipe (plain or compressed) and inside a handler: flows end, NFs stop, stats balance, files are whole."""
    out = tmp_path / "out.pcap"
    text = IDLE.replace("SLEEP", "time.sleep(0.01) if self.n > 5 else None" if source == "file" else "pass")
    run = subprocess.Popen([*MOS, "run", box(text), "-r", str(FILE) if source == "file" else "-", "-w", str(out), "--stats"],
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if source != "file":
        head = FILE.read_bytes()[:9000]
        run.stdin.write(head if source == "fifo" else gzip.compress(head)[:-200])
        run.stdin.flush()
    assert run.stdout.readline() == b"ready\n"
    if source != "file":
        time.sleep(0.5)     # until it waits in read(2): a signal just before would be seen with the next bytes
    run.send_signal(number)
    stdout, stderr = run.stdout.read().decode(), run.stderr.read().decode()
    run.stdin.close()
    assert run.wait(60) == status
    assert stdout.count("ended\n") >= 1 and stdout.endswith("stopped\n")
    lines = stderr.strip().split("\n")
    c = counts(lines[-1])
    assert len(lines) == 1 and 5 <= c["packets_in"] < 220
    assert len(frames(out)) == c["packets_out"]


def test_a_second_signal_ends_a_handler_that_does_not(box):
    text = IDLE.replace("SLEEP", "\n        while self.n == 5: pass")
    run = subprocess.Popen([*MOS, "run", box(text), "-r", str(FILE), "--stats"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout.readline() == b"ready\n"
    run.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(0.3)
    run.send_signal(signal.SIGINT)
    stderr = run.stderr.read().decode()
    run.stdout.close()
    assert run.wait(60) == 130
    assert counts(stderr)["dropped"] == {"failed": 1} and stderr.count("\n") == 1


def test_ignored_signals_stay_ignored(box):
    code = "import signal, sys, os; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    run = subprocess.Popen([sys.executable, "-c", code, *MOS, "run", box(IDLE.replace("SLEEP", "pass")), "-r", "-", "-q"],
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    run.stdin.write(FILE.read_bytes())
    run.stdin.flush()
    assert run.stdout.readline() == b"ready\n"
    run.send_signal(signal.SIGINT)
    run.stdin.close()
    assert b"stopped" in run.stdout.read()
    run.stdout.close()
    assert run.wait(60) == 0


def test_a_full_disk_is_one_line_and_1(box):
    for words in (["-w", "/dev/full"], ["--log", "/dev/full"]):
        done = mos("run", box(COUNTER), "-r", FILE, *words, "-q")
        assert done.returncode == 1
        assert done.stderr.startswith("mos: cannot write ") and "No space left" in done.stderr and done.stderr.count("\n") == 1


def test_a_capture_nobody_reads_on_ends_us_by_sigpipe(box):
    conversation = merge(*(tcp(f"10.0.0.{i}:1", "10.0.0.200:80").send(b"x" * 60000).close() for i in range(1, 9)))
    path = box("", "big.pcap")
    conversation.pcap(path)
    run = subprocess.Popen([*MOS, "run", "-r", path, "-w", "-", "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    assert (run.stderr.read(), run.wait(60)) == (b"", -signal.SIGPIPE)


def test_run_keys_of_a_chain_file(box, tmp_path, capsys):
    box(COUNTER)
    path = tmp_path / "chain.toml"
    path.write_text(f'[run]\nread = "{FILE}"\nmax_flows = 1\nlimits = {{ segments = 3 }}\n[[nf]]\nuse = "rules.py"\n')
    assert main(["run", "-c", str(path), "--stats"]) == 0
    assert counts(capsys.readouterr().err)["ended"]["evicted"]
    for line, expected in (("raed = 'x'", "did you mean read?"), ("max_flows = 'x'", "wrong type"),
                           ("timeouts = { ESTABLISED = 3 }", "no time-out")):
        path.write_text(f'[run]\n{line}\n[[nf]]\nuse = "rules.py"\n')
        assert main(["run", "-c", str(path), "-r", str(FILE)]) == 2
        assert expected in capsys.readouterr().err


def test_progress_is_drawn_on_a_terminal_and_taken_away(box, tmp_path):
    path = tmp_path / "long.pcap"
    tcp("10.0.0.1:1", "10.0.0.2:2").send(b"x" * 1460 * 40).pcap(str(path))
    head, body = path.read_bytes()[:24], path.read_bytes()[24:]
    path.write_bytes(head + body * 1000)
    for words, drawn in (([], True), (["-q"], False), (["--no-progress"], False)):
        ours, theirs = pty.openpty()
        run = subprocess.Popen([*MOS, "run", box(COUNTER), "-r", str(path), *words], stderr=theirs, stdout=subprocess.DEVNULL)
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:
                break
        os.close(ours)
        assert run.wait(60) == 0
        assert (b"packets/s" in seen) == drawn
        assert not drawn or b"\r\x1b[Kmos: " in seen
