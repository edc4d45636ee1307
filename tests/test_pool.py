"""Where reassembly takes its memory: as much as malloc would give, in spans that serve any size once they are empty."""
from hypothesis import given, settings
from hypothesis import strategies as st
from mos.tcp.reasm import Reassembler

SPAN = 1 << 15
STEPS = st.lists(st.tuples(st.integers(0, 60_000), st.integers(1, 2600) | st.integers(1, 40), st.booleans()), max_size=120)


def objects(r):
    """Segments, leaves of the index, and the direction's record; none is longer than the pool has."""
    s = r.state
    return s["segments"] + s["leaves"] + (s["used"] > 0)


@settings(max_examples=200)
@given(STEPS)
def test_it_makes_no_difference(steps):
    """The same bytes with and without, and every object is given back once."""
    pooled, plain = (Reassembler(budget=1 << 17, pool=pool) for pool in (True, False))
    for off, length, skip in steps:
        data = bytes(i * 7 & 255 for i in range(off, off + length))
        assert pooled.write(off, data) == plain.write(off, data)
        if skip and pooled.state["segments"]:
            assert pooled.skip() == plain.skip()
        if length <= 1900:
            mine, theirs = pooled.state, plain.state
            assert {k: v for k, v in mine.items() if k not in ("objects", "spans")} == {
                k: v for k, v in theirs.items() if k not in ("objects", "spans")}
    while pooled.state["segments"]:
        assert pooled.skip() == plain.skip()
    assert pooled.state["objects"] == (pooled.state["used"] > 0) and not plain.state["spans"]


@given(st.lists(st.integers(1, 1900), min_size=1, max_size=60))
@settings(max_examples=50)
def test_objects_are_counted(sizes):
    r = Reassembler()
    for i, n in enumerate(sizes):
        r.write(2000 * i + 1, b"x" * n)
        assert r.state["objects"] == objects(r)


def test_what_was_full_of_one_size_is_filled_with_another():
    """Single bytes to the bound, all let go, then full segments to the bound, and again: the bound is that of all."""
    r, budget = Reassembler(limit=1 << 30, segments=1 << 20, budget=1 << 20), 1 << 20
    at = 0
    for length in (1, 1460, 1, 700, 1460, 100):
        count = 0
        while r.write(at + 1 + count * (length + 1), b"x" * length) is not None:
            count += 1
        assert r.state["used"] > budget * 0.9
        while r.state["segments"]:
            r.skip()
        at = r.state["next"]
        assert r.state["objects"] == 1 and r.state["spans"] <= budget * 9 // 8 // SPAN + 64
