"""mos/cli/main.py: the dispatch, the one-line errors, the exit status of the process."""
import subprocess
import sys

import pytest
from command import MOS, PCAPS, mos

from mos.cli.main import COMMANDS, available, main

FILE = PCAPS / "http_two.pcap"


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mos 0.")
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name, (module, _) in COMMANDS.items() if available(module))


def test_nothing_asked_is_a_usage_error(capsys):
    assert main([]) == 2
    assert "usage: mos" in capsys.readouterr().err


@pytest.mark.parametrize("command", [name for name, (module, _) in COMMANDS.items() if available(module)])
def test_every_command_helps(command, capsys):
    with pytest.raises(SystemExit) as exited:
        main([command, "--help"])
    assert exited.value.code == 0
    assert "usage: mos " + command in capsys.readouterr().out


@pytest.mark.parametrize("words, expected", [
    (["rnu"], "did you mean run?"),
    (["rules.py"], "mos run rules.py"),
    (["run", "x.py", "-r", "f", "--stat"], "did you mean --stats?"),
    (["run", "x.py", "-r"], "expected one argument"),
    (["run", "x.py", "-r", "f", "--until", "0"], "whole number above 0"),
    (["run", "-r", "f"], "name a middlebox"),
    (["run", "./x.py"], "name a capture"),
    (["run", "./x.py", "-r", "f", "-w", "-", "--log", "-"], "cannot share standard output"),
])
def test_wrong_words_are_one_line_and_2(words, expected, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("mos: ") and error.count("\n") == 1
    assert expected in error


def test_stats_does_not_swallow_the_name_after_it(tmp_path, capsys):
    rules = tmp_path / "rules.py"
    rules.write_text("from mos import on\nfrom mos.events import FlowEnd\n@on(FlowEnd)\ndef end(ev): print('end')\n")
    text = rules.read_text()
    assert main(["run", "--stats", str(rules), "-r", str(FILE)]) == 0
    assert capsys.readouterr().out == "end\nend\n"
    assert rules.read_text() == text


def test_options_may_stand_between_names(tmp_path, capsys):
    rules = tmp_path / "rules.py"
    rules.write_text("from mos import on\nfrom mos.events import FlowEnd\n@on(FlowEnd)\ndef end(ev): print('end')\n")
    assert main(["run", str(rules), "-q", "-r", str(FILE), f"b={rules}"]) == 0
    assert capsys.readouterr().out == "end\n" * 4


def test_a_reader_that_goes_away_ends_us_quietly(tmp_path):
    rules = tmp_path / "rules.py"
    rules.write_text("from mos import on\nfrom mos.events import PacketIn\n@on(PacketIn)\ndef p(ev): print('x' * 20000)\n")
    run = subprocess.Popen([*MOS, "run", str(rules), "-r", str(FILE), "-q", "--log", str(tmp_path / "log")], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)
    run.stdout.read(10)
    run.stdout.close()
    assert run.stderr.read() == b""
    assert run.wait(60) == -13
    assert (tmp_path / "log").read_bytes().endswith(b"}\n")


def test_a_full_disk_is_one_line():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*MOS, "events"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "mos: standard output: No space left on device\n")


def test_the_module_is_the_command():
    assert mos("--version").stdout.startswith("mos 0.")


def test_a_run_imports_no_more_than_it_needs(tmp_path):
    rules = tmp_path / "rules.py"
    rules.write_text("from mos import on\nfrom mos.events import FlowEnd\n@on(FlowEnd)\ndef end(ev): pass\n")
    code = ("import sys; from mos.cli.main import main; "
            f"main(['run', {str(rules)!r}, '-r', {str(FILE)!r}, '-q']); print(*sys.modules)")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    unwanted = {"asyncio", "hypothesis", "importlib.metadata", "pcapy", "zstandard", "subprocess", "mos.testing", "mos.cli.flows",
                "uvloop", "tomllib", "email"}
    assert not unwanted & set(found)
