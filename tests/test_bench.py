"""The benchmark's parts agree on what its workloads hold; how fast anything is, is nothing a test can say."""
import json
import shutil
import subprocess
import sys

import pytest
from mbox.volume import Volume

from bench import arms as arms_of
from bench.__main__ import chosen, main
from bench.bars import all_bars, fitted
from bench.captures import WORKLOADS, Captures
from bench.measure import Arm, Failed, Result, Sample, check, run_arms
from bench.programs import Programs
from mos.run import Engine

FLOWS = {"small": 60, "bulk": 8, "messy": 12, "churn": 100, "many": 50}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def captures(programs, tmp_path_factory):
    """Workloads so small that they take no time."""
    made = Captures(tmp_path_factory.mktemp("captures"), programs.c("generate"), quick=True)
    for name, flows in FLOWS.items():
        load = WORKLOADS[name]
        path = made.folder / f"{name}.pcap"
        words = [made.generate, load.kind, flows, min(load.alive, flows // 2), min(load.turns, 100), 7, path]
        done = subprocess.run([str(w) for w in words], capture_output=True, check=True, text=True)
        path.with_suffix(".json").write_text(done.stdout)
    return made


def facts(captures, name):
    return captures.folder / f"{name}.pcap", json.loads((captures.folder / f"{name}.json").read_text())


@pytest.mark.parametrize("name", FLOWS)
def test_the_stack_finds_in_a_workload_what_was_put_in(captures, name):
    path, truth = facts(captures, name)
    volume = Volume(show=False)
    with Engine(volume, checksum="verify") as engine:
        engine.run(str(path))
    stats = engine.stats()
    assert (stats["packets_in"], stats["flows"], stats["bytes_in"]) == (truth["packets"], truth["flows"], truth["wire_bytes"])
    assert engine.value(volume.bytes) == {way: truth[way] for way in ("to_server", "to_client")}
    assert not stats["refused"] and not stats["stages"]["bad_checksum"]
    assert stats["ended"] == {"shutdown" if name == "many" else "fin": truth["flows"]}


def test_messy_is_messy(captures):
    path, truth = facts(captures, "messy")
    with Engine([], checksum="off", log=(log := open(path.with_suffix(".log"), "w+"))) as engine:
        engine.run(str(path))
        log.seek(0)
        kinds = {json.loads(line)["event"] for line in log}
    assert {"OutOfOrder", "Retransmission"} <= kinds and "OverlapConflict" not in kinds and "StreamGap" not in kinds


def test_the_same_arguments_give_the_same_bytes(captures, programs, tmp_path):
    for i in (1, 2):
        subprocess.run([programs.c("generate"), "messy", "5", "5", "50", "3", tmp_path / f"{i}"], check=True, capture_output=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("name", FLOWS)
def test_floors_count_flows_and_copy_what_is_in_order(captures, programs, name):
    path, truth = facts(captures, name)
    for level in ("3", "4"):
        done = subprocess.run([programs.c("floor"), level, path, str(truth["flows"])], capture_output=True, check=True)
        found = json.loads(done.stdout)
        assert (found["packets"], found["tcp"], found["flows"]) == (truth["packets"], truth["packets"], truth["flows"])
    wanted = truth["to_server"] + truth["to_client"]
    assert found["copied"] < wanted and found["holes"] if name == "messy" else found["copied"] == wanted


@pytest.mark.parametrize("loop", ["struct_loop.py", "dpkt_loop.py"])
@pytest.mark.parametrize("name", FLOWS)
def test_loops_in_python_deliver_the_bytes_too(captures, loop, name):
    """A peer that did less than it is said to do would not be one."""
    path, truth = facts(captures, name)
    done = subprocess.run([sys.executable, arms_of.HERE / "peers" / loop, path], capture_output=True, check=True)
    assert json.loads(done.stdout) == {key: truth[key] for key in ("packets", "flows", "to_server", "to_client")}


def test_arms_take_turns_and_a_wrong_answer_is_refused(captures):
    order = []
    words = (sys.executable, "-c", "print('{}')")
    arms = [Arm("a", "empty", words, "x"), Arm("b", "empty", words, "x", slow=True)]
    results = run_arms(arms, captures, 4, order.append)
    assert [line[-1] for line in order] == list("abababa") and len(results["empty", "b"].samples) == 3
    result = Result(Arm("volume", "c", (), "mos"), 10, [Sample(1, 1, 1, {"packets_in": 10, "said": "to_server: 3 bytes"})])
    with pytest.raises(Failed, match="3 bytes to_server of 4"):
        check(result, type("Capture", (), {"packets": 10, "to_server": 4, "to_client": 0}))


def test_start_up_is_taken_off():
    result = Result(Arm("a", "c", (), "x"), 1000, [Sample(cpu, 1, 1, {}) for cpu in (1.5, 1.1, 9)], start=0.5)
    assert result.cpu == 1.0 and result.rate == 1000 and result.ns == 1e6


def test_bars_say_what_was_not_run_and_every_arm_has_a_group(programs):
    arms = arms_of.everything(programs)
    assert len({(a.capture, a.name) for a in arms}) == len(arms) and all(a.groups for a in arms)
    assert {bar.value for bar in all_bars({})} == {None} and all("not run" in bar.row() for bar in all_bars({}))
    assert {a.name for a in chosen(arms, "flows")} == {"volume", "volume + own sets"}
    assert {a.capture for a in chosen(arms, "stages,bulk")} == {"bulk"}
    with pytest.raises(SystemExit, match="nonsense"):
        chosen(arms, "nonsense")
    assert fitted({1: 110, 2: 120, 4: 140}) == pytest.approx((100, 10))


def test_the_command_runs_a_group_and_writes_all_numbers(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("bench.__main__.Captures", lambda folder, generate, quick: Tiny(folder, generate, quick))
    assert main(["--only", "stages,small", "--runs", "1", "--dir", str(tmp_path), "--json", str(tmp_path / "x.json")]) == 0
    out = capsys.readouterr().out
    assert "floor iii" in out and "volume / floor iii, small" in out and "not run" in out
    numbers = json.loads((tmp_path / "x.json").read_text())
    assert {a["arm"] for a in numbers["arms"]} >= {"floor iii", "floor iv", "no box", "connections", "volume"}
    assert ("libnids" in out) and (shutil.which("tshark") or "SKIPPED: tshark" in out)


class Tiny(Captures):
    """Captures of a few packets."""

    def make(self, name):
        if name == "empty":
            return super().make(name)
        return super().make(f"{name}/crumb")
