"""A short slice of tests/judge: real TCP between two namespaces through a relay that spoils it, the kernels' word against ours."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

JUDGE = Path(__file__).parent / "judge"
sys.path.append(str(JUDGE))

import wires  # noqa: E402


@pytest.fixture(scope="module")
def network():
    command, reason = wires.unshare()
    if command is None:
        pytest.skip(f"the kernel was NOT asked what TCP's bytes are: {reason}")


def test_streams_are_what_the_kernels_gave_their_programs(network, tmp_path):
    """Four seeds of different hardness; each fault must have befallen both versions of IP in both directions."""
    ran = subprocess.run([sys.executable, JUDGE / "judge.py", "--seeds", "4", "--bytes", "600000", "--keep", tmp_path],
                         capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = re.findall(r"(before|behind) the faults: IPv4 (\d+) and IPv6 (\d+) bytes compared, 0 differ", ran.stdout)
    assert {where for where, *_ in said} == {"before", "behind"}
    assert all(int(n) > 500_000 for _, *both in said for n in both)


def test_the_judge_would_notice(network, tmp_path):
    """Wrong checksums taken for right ones: the captures behind the faults have bytes that nobody read."""
    ran = subprocess.run([sys.executable, JUDGE / "judge.py", "--seed", "1", "--bytes", "600000", "--keep", tmp_path,
                          "--checksum", "off"], capture_output=True, text=True, timeout=110)
    assert ran.returncode == 1
    assert re.search(r"bytes from the (client|server): \d+ differ, the first at \d+", ran.stdout), ran.stdout + ran.stderr
    again = re.search(r"again: python (\S+) --seed 1 --bytes 600000    captures: (\S+)", ran.stdout)
    assert {"left.pcap", "right.pcap", "read.json"} <= {p.name for p in Path(again[2]).iterdir()}
    kept = subprocess.run([sys.executable, JUDGE / "judge.py", "--check", again[2]], capture_output=True, text=True, timeout=60)
    assert kept.returncode == 0, kept.stdout
