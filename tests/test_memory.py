"""mos/memory.py: cycles are let go before they are half of all, and what lives is not looked through again and again."""
import gc
import os
import subprocess
import sys

import pytest
from command import mos

from mos.memory import LEAST, Collector
from mos.testing import udp
from mos.testing.packets import pcap_bytes

counts_blocks = pytest.mark.skipif(not sys.getallocatedblocks(), reason="Python takes its memory from malloc, uncounted")
KEEPS = """
import gc
from mos import on
from mos.events import FlowEnd, PacketIn

kept, passes = {}, []
gc.callbacks.append(lambda phase, info: passes.append(1) if phase == "start" and info["generation"] == 2 else None)

@on(PacketIn)
def keep(ev):
    kept[len(kept)] = [{"a": i} for i in range(4)]

@on(FlowEnd)
def end(ev):
    print(len(passes))
"""
PACKETS, PASSES = 100_000, 2     # of all objects, while they leave a hundred megabytes; Python by itself makes five


@pytest.fixture
def threshold():
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


@counts_blocks
def test_young_objects_are_looked_at_as_ever_and_all_of_them_only_when_asked(threshold):
    with Collector():
        assert gc.get_threshold()[:2] == threshold[:2] and gc.get_threshold()[2] > 1 << 20
    assert gc.get_threshold() == threshold


def leave_cycles(times, look):
    """Most blocks that there were."""
    most = 0
    for _ in range(times):
        for _ in range(LEAST // 4):
            cycle = []
            cycle.append([cycle])
        look()
        most = max(most, sys.getallocatedblocks())
    return most


@counts_blocks
def test_cycles_go_before_they_are_half_of_all():
    collector, before = Collector(), sys.getallocatedblocks()
    collector.look()
    gc.disable()
    try:
        assert leave_cycles(20, collector.look) > before + 5 * LEAST, "a collector that is off is left alone"
    finally:
        gc.enable()
        gc.collect()
    with collector:
        gc.set_threshold(0)         # young ones are not looked at either
        assert leave_cycles(20, collector.look) < 2 * before + 3 * LEAST


def test_where_no_blocks_are_counted_python_collects_as_ever():
    code = ("import gc\nfrom mos.memory import Collector\nbefore = gc.get_threshold()\n"
            "with Collector(): assert gc.get_threshold() == before")
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONMALLOC": "malloc"}, check=True)


@counts_blocks
@pytest.mark.parametrize("workers", [(), ("--workers", 2)])
def test_a_run_does_not_stop_for_what_its_flows_keep(tmp_path, workers):
    capture = tmp_path / "long.pcap"
    frame = udp("10.0.0.1:53", "10.0.0.2:53").send(b"x").packets[0][1]
    capture.write_bytes(pcap_bytes((i, frame) for i in range(PACKETS)))
    (tmp_path / "keeps.py").write_text(KEEPS)
    ran = mos("run", tmp_path / "keeps.py", "-r", capture, "-q", *workers)
    assert ran.returncode == 0, ran.stderr
    assert 0 < int(ran.stdout) <= PASSES
