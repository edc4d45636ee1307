"""Conflicts: where bytes sent again differ from those queued or retained."""
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mos.tcp.reasm import Reassembler
from test_reasm import Model


@given(st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=20)), max_size=25), st.integers(1, 64))
def test_conflicts_are_told_from_the_first_to_the_last_byte_that_differs(writes, keep):
    real, model = Reassembler(keep=keep), Model()
    delivered = b""
    for off, data in writes:
        at = len(delivered)
        ranges = sorted(model.ranges)
        if delivered:
            ranges.insert(0, (max(0, at - keep), at))
        want = []
        for x, y in ranges:
            lo, hi = max(off, x), min(off + len(data), y)
            old = bytes(delivered[k] if k < at else model.byte[k] for k in range(lo, hi))
            new = data[lo - off:hi - off]
            differ = [i for i, (a, b) in enumerate(zip(old, new)) if a != b]
            if lo < hi and differ:
                a, b = differ[0], differ[-1] + 1
                want.append((lo + a, old[a:b], new[a:b]))
        got = real.write(off, data)
        assert got == model.write(off, data)
        assert real.conflicts == want[:8]
        delivered += got


@pytest.mark.parametrize("keep", [4096, 9000, 65536])
def test_a_conflict_anywhere_in_a_long_segment_is_seen(keep):
    stream = bytes(i * 7 & 255 for i in range(40_000))
    for at in (0, 2047, 2048, 5000, 8999):
        real = Reassembler(keep=keep)
        for a in range(0, 40_000, 1000):
            real.write(a, stream[a:a + 1000])
        lo = 40_000 - min(keep, 9000)
        other = bytearray(stream[lo:])
        at = min(at, len(other) - 1)
        other[at] ^= 255
        real.write(lo, bytes(other))
        assert real.conflicts == [(lo + at, stream[lo + at:lo + at + 1], bytes(other[at:at + 1]))]
