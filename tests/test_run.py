"""Engines: feeding, running, finding flows."""
from mos import Chain, Engine
from mos.testing import tcp


def test_a_live_flow_is_found_by_its_ends():
    with Engine(Chain()) as engine:
        for ns, frame in tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"x").packets:
            engine.feed(frame, ns)
        found = engine.find("tcp", "10.0.0.2", 80, "10.0.0.1", 1234)
        assert found is engine.find("tcp", "10.0.0.1", 1234, "10.0.0.2", 80) and found.client == "10.0.0.1"
        assert engine.find("tcp", "10.0.0.1", 1235, "10.0.0.2", 80) is None
        assert engine.flows() == [found]
