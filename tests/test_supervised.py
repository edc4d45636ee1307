"""mos/cli/supervised.py: options, outputs of a second start. What the supervisor does: test_supervise.py."""
import argparse

import pytest
from command import mos

from mos.cli import supervised
from mos.errors import UsageError


@pytest.mark.parametrize("text, value", [
    ("1024", 1024), ("8K", 8192), ("800M", 800 << 20), ("1.5G", 3 << 29), ("2GiB", 2 << 30), (4096, 4096)])
def test_sizes(text, value):
    assert supervised.size(text) == value


@pytest.mark.parametrize("text", ["", "0", "0M", "-1M", "1X", "M", "1 000"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="takes a size, such as 800M"):
        supervised.size(text)


def test_a_second_start_writes_elsewhere(tmp_path):
    (tmp_path / "log.jsonl").touch()
    assert supervised.numbered(str(tmp_path / "log.jsonl"), 2) == str(tmp_path / "log.2.jsonl")
    same = [None, "-", "/dev/stderr"]
    assert [supervised.numbered(path, 3) for path in (*same, "new.pcap")] == [*same, "new.3.pcap"]


@pytest.mark.parametrize("words, said", [
    (["-i", "lo", "--on-failure", "open"], "--on-failure is for two interfaces"),
    (["-r", "x", "--on-failure", "open"], "--on-failure is for two interfaces"),
    (["-i", "a:b", "--on-failure", "shut"], "choose one of open, open=new-flows, closed"),
    (["-i", "a:b", "--hang-after", "3"], "--hang-after is for --on-failure"),
    (["-i", "a:b", "--on-failure", "open", "--hang-after", "0.1"], "0.5 at least"),
    (["-i", "a:b", "--on-failure", "open", "--max-memory", "lots"], "takes a size"),
    (["-i", "nonesuch:lo", "--on-failure", "open"], "no interface is called 'nonesuch'"),
    (["-r", "x", "--user", "nobody"], "--user is for live interfaces"),
])
def test_wrong_options_are_told(words, said):
    ran = mos("run", "monitor", *words)
    assert ran.returncode == 2 and said in ran.stderr and ran.stderr.count("\n") == 1


def test_a_chain_file_may_say_so(tmp_path):
    (tmp_path / "chain.toml").write_text('[run]\ninterface = "nonesuch:lo"\non_failure = "open"\nhang_after = 0.2\n'
                                         '[[nf]]\nuse = "monitor"\n')
    assert "--hang-after takes a number of seconds" in mos("run", "-c", tmp_path / "chain.toml").stderr
    assert "nonesuch" in mos("run", "-c", tmp_path / "chain.toml", "--hang-after", "2").stderr


def test_options_are_entered():
    p = argparse.ArgumentParser()
    supervised.add_supervision(p)
    args = p.parse_args(["--on-failure", "closed"])
    args.read, args.interface = None, "a:b"
    supervised.check_supervision(args)
    assert (args.hang_after, args.max_memory, args.user) == (5.0, None, None)
