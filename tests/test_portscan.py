"""Port scans: found in the one capture that has one, and nowhere else."""
import pytest
from source_tree import ROOT

from mbox.portscan import PortScan, PortScanner
from mos import UsageError
from mos.testing import merge, run, tcp, udp

CAPTURES = sorted(p.name for p in (ROOT / "pcaps").glob("*.pcap*"))


@pytest.mark.parametrize("capture", CAPTURES)
def test_only_the_scan_is_one(capture, capsys):
    result = run(PortScanner, str(ROOT / "pcaps" / capture))
    found = [(e.source, e.targets) for e in result.of(PortScan)]
    assert found == ([("10.77.0.1", 20)] if capture == "portscan.pcap" else [])
    assert capsys.readouterr().out.count("port scan: 10.77.0.1 tried 20 targets in 0.006 s") == len(found)
    assert result.verdicts == []


def refused(port, at, source="10.0.0.1"):
    start = 1_700_000_000_000_000_000 + round(at * 1e9)
    return tcp(f"{source}:{40000 + port}", f"10.0.0.2:{port}", handshake=False, start_ns=start).syn().rst("server")


def scans(conversations, **options):
    return run(PortScanner(**options), merge(*conversations)).of(PortScan)


def test_as_many_targets_as_said_within_the_window():
    assert len(scans([refused(p, p) for p in range(1, 6)], targets=5, window=10)) == 1
    assert not scans([refused(p, p) for p in range(1, 5)], targets=5, window=10)
    assert not scans([refused(p, 4 * p) for p in range(1, 9)], targets=5, window=10)


def test_the_same_target_counts_once():
    tries = [tcp(f"10.0.0.1:{4000 + n}", "10.0.0.2:80", handshake=False).syn() for n in range(50)]
    assert not scans(tries, targets=3)


def test_sources_are_counted_apart():
    assert not scans([refused(p, 0, source=f"10.0.0.{10 + p}") for p in range(1, 30)], targets=5)


def test_targets_that_answer_are_taken_off():
    busy = [tcp(f"10.0.0.1:{4000 + p}", f"10.0.0.2:{p}", start_ns=1_700_000_000_000_000_000 + p * 10**8) for p in range(1, 30)]
    busy += [udp("10.0.0.1:9", f"10.0.0.3:{p}", start_ns=1_700_000_000_000_000_000 + p * 10**8).send(b"q").reply(b"a")
             for p in range(1, 30)]
    assert not scans(busy, targets=5)
    assert scans(busy, targets=5, only_failed=False)


def test_a_silent_udp_scan_is_one():
    assert len(scans([udp("10.0.0.1:9", f"10.0.0.3:{p}").send(b"q") for p in range(1, 30)], targets=20)) == 1


def test_a_scanner_is_dropped_for_a_while():
    first = [refused(p, p / 10) for p in range(1, 9)]
    result = run(PortScanner(targets=5, action="drop", block=30), merge(*first, refused(99, 20), refused(98, 40)))
    assert [v.reason for v in result.verdicts if v.reason] == ["port scan"] + ["port scanner"] * 4
    assert result.out[-2:] == refused(98, 40).packets


def test_a_flood_of_sources_does_not_grow_without_bound():
    box = PortScanner(targets=5)
    box.tried.cap = 10
    result = run(box, merge(*(refused(1, n / 1000, source=f"10.0.{n // 250}.{n % 250}") for n in range(500))))
    assert len(result.value(box.tried)) == 10


@pytest.mark.parametrize("options", [{"targets": 1}, {"window": 0}, {"action": "block"}, {"block": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(UsageError, match="portscan takes"):
        PortScanner(**options)
