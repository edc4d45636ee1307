"""What a direction holds: what it is charged for, and segments that take in those they cover."""
import pytest
from mos.tcp.reasm import Reassembler
from test_reasm import Model

from mos.tcp.policies import POLICIES


def islands(r, count, text=b"x"):
    for i in range(count):
        assert r.write(10 + 2 * i, text) == b""
    return r


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("start, length", [(9, 45), (10, 41), (8, 30), (11, 60), (31, 20)])
def test_a_cover_gives_the_bytes_that_the_policy_says(policy, start, length):
    """Twenty islands and one long segment over most of them: the same bytes, whether it swallows them or not."""
    real, model = islands(Reassembler(policy), 21), Model(policy)
    for i in range(21):
        model.write(10 + 2 * i, b"x")
    assert real.write(start, b"n" * length) == model.write(start, b"n" * length) == b""
    assert real.state["queued"] == len(model.byte)
    assert (real.state["segments"] < 5) == (length > 32)
    while model.byte:
        assert real.skip() == model.skip()


def test_what_covers_again_and_again_finds_one_segment():
    r = islands(Reassembler(), 700)
    for _ in range(3):
        r.write(9, b"n" * 1460)
        assert r.state["segments"] == 1 and r.state["queued"] == 1460
    assert r.write(0, b"." * 9)[9:1409] == b"nx" * 700


def test_a_cover_without_memory_changes_nothing():
    r = islands(Reassembler(budget=islands(Reassembler(), 20).state["used"] + 1950), 20)
    before = r.state | {"duplicate": 0}
    assert r.write(9, b"n" * 2000) is None and r.state | {"duplicate": 0} == before


def test_single_bytes_are_charged_what_they_take():
    r = Reassembler()
    r.write(1, b"x")
    empty = r.state["used"] - 48
    for i in range(1000):
        r.write(3 + 2 * i, b"x")
    assert 48 * 1000 < r.state["used"] - empty < 100 * 1000


def test_small_segments_are_fewer_than_full_ones():
    """Half of the bound and one for each KB. A quarter lost bytes that a real kernel took (a judge's seed)."""
    r = Reassembler(segments=400)
    assert [r.write(1 + 2 * i, b"x") for i in range(201)] == [b""] * 200 + [None]
    assert [r.write(1000 + 1461 * i, b"x" * 1460) for i in range(201)] == [b""] * 200 + [None]
    assert r.state["segments"] == 400


def test_parked_segments_are_few_and_bytes_are_taken_up_once():
    r = Reassembler()
    for i in range(100):
        assert r.park(10 + 2 * i, b"ab")
    assert r.state["parked"] == 64          # the oldest have gone
    assert r.acked(200) == b"" and r.state["queued"] == 200 - 10 - 2 * 36
    assert r.state["parked"] == 5           # what lies above 200
    assert r.acked(201) == b"" and r.state["parked"] == 5
    assert r.acked(1000) == b"" and r.state["parked"] == 0
    assert r.write(0, b"." * 82) == b"." * 82 + b"ab" * 64
