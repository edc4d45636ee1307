"""A slice of bench/resets.py: RESET in every state between two kernels, on wires that lose packets."""
import sys

import namespaces
from source_tree import ROOT

sys.path.insert(0, str(ROOT))


def test_no_end_stays_open():
    """One packet in thirty is lost on each wire: some end gets no RST at first, and has nothing to send."""
    namespaces.need()
    from bench.resets import STATES, run
    found = run(360, 33)
    assert found["opened"] == found["reset"] == 360 and len(found["states"]) >= 9, found
    assert found["never reset"] == found["left half-open"] == 0 and found["lost"] > 20, found
    assert found["RSTs sent"] > 360 and found["unsent"] == 0 and len(STATES) == 12
