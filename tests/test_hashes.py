"""Hashes of a batch are the hashes of its keys: every flow that a run makes is found again by its key."""
import pytest

from mos import Chain, Engine, on
from mos.events import FlowStart
from mos.testing import merge, tcp


@pytest.mark.parametrize("flows", [1, 5, 64, 300])
@pytest.mark.parametrize("versions", ["4", "6", "46"])
def test_flows_of_a_batch_are_found_by_their_keys(tmp_path, flows, versions):
    @on(FlowStart)
    def started(ev):
        pass
    parts = []
    for i in range(flows):
        c = tcp(f"10.0.{i >> 8}.{i & 255}:{1000 + i}", "10.1.0.1:80").send(b"request")
        parts.append(c.v6() if versions[i % len(versions)] == "6" else c)
    merge(*parts).pcap(tmp_path / "in.pcap")
    with Engine(Chain([started])) as engine:
        engine.run(tmp_path / "in.pcap")
        assert len(engine.stack.flows) == flows
        engine.stack.flows.invariants()
