"""Inline, a segment beyond a cap: who listens is told which, then it is dropped."""
import pytest
from events import play

from mos.testing import tcp


@pytest.mark.parametrize("safe", ["auto", "off"])
@pytest.mark.parametrize("limits,cause", [({"bytes": 1500}, "bytes"), ({"segments": 1}, "segments"),
                                          ({"global": 1600}, "global_bytes")])
def test_a_cap_is_told_before_its_segment_is_dropped(limits, cause, safe):
    c = tcp("10.0.0.1:1234", "10.0.0.2:80", mss=1000).send(b"a" * 4000, ack=False).lose(4)
    log = play(c, truth="inline", limits=limits, safe=safe)
    assert log.of("CapReached") == [f"CapReached {cause}"] * 2 and log.stats["caps"] == {cause: 2}
    assert log.stats["dropped"] == {"cap": 2}
    assert log.stats["packets_in"] == log.stats["forwarded"] + log.stats["consumed"] + 2
