"""A slice of bench/connections.py: many connections opened and closed through firewall and NAT between two kernels."""
import sys

import namespaces
from source_tree import ROOT

sys.path.insert(0, str(ROOT))


def test_no_connection_fails_but_by_the_rule():
    """One port of eight is refused by a rule; when all is over no port of the pools is held."""
    namespaces.need()
    from bench.connections import run
    found = run(8000, timewait=1)
    assert found["done"] == 7000 and found["refused by the rule"] == 1000, found
    assert found["failures not asked for"] == found["through the rule"] == found["ports still held"] == 0, found
    assert found["peak flows"] > 500 and found["unsent"] == 0, found
