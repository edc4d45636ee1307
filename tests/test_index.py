"""The index over queued segments, driven through a Reassembler, which checks after each step that it finds every segment."""
import random

import pytest
from mos.tcp.reasm import Reassembler


@pytest.mark.parametrize("order", [list, reversed, lambda places: random.Random(1).sample(places, len(places))],
                         ids=["upwards", "downwards", "shuffled"])
def test_every_second_byte_then_the_rest(order):
    """1,200 segments fill dozens of leaves; then each hole is filled, and the stream comes out from the first one on."""
    r, n = Reassembler(segments=16384), 1200
    for i in order(list(range(n))):
        assert r.write(1 + 2 * i, b"x") == b""
    assert r.state["segments"] == n
    out = b"".join(r.write(2 * i, b".") for i in order(list(range(n))))
    assert out == b".x" * n and r.state["segments"] == r.state["queued"] == 0


def test_holes_given_up_leave_nothing_behind():
    r = Reassembler()
    for i in random.Random(2).sample(range(300), 300):
        r.write(1 + 2 * i, b"x")
    full = r.state["used"]
    assert [r.skip() for _ in range(300)] == [(1, b"x")] * 300
    r.write(1000, b"y")
    assert r.state["segments"] == 1 and r.state["used"] < full / 50
    assert r.skip() == (400, b"y")


def test_segments_in_and_out_at_random_places():
    """Against a dict of bytes: two of three writes are single bytes far apart, the third covers a stretch."""
    rng, r, held, at = random.Random(3), Reassembler(segments=16384), {}, 0
    for _ in range(6000):
        off, n = at + 1 + rng.randrange(4000), rng.choice((1, 1, 12))
        held.update({k: k % 251 for k in range(off, off + n) if k not in held})
        assert r.write(off, bytes(k % 251 for k in range(off, off + n))) == b""
        if rng.random() < 0.02 and held:
            end = first = min(held)
            while end in held:
                del held[end]
                end += 1
            assert r.skip() == (first - at, bytes(k % 251 for k in range(first, end)))
            at = end
        assert r.state["queued"] == len(held)


def test_offsets_far_apart_and_far_on():
    """Leaves count from a base that moves on with their segments; what lies 4 GB from the others of one is refused."""
    rng, r, at, places = random.Random(4), Reassembler(), 0, set()
    for _ in range(400):
        place = at + 1 + rng.randrange(1 << 30)
        if places.isdisjoint(range(place - 1, place + 2)):
            places.add(place)
            assert r.write(place, b"x") == b""
        if len(places) > 20:
            first = min(places)
            assert r.skip() == (first - at, b"x")
            places.remove(first)
            at = first + 1
    assert at > 2 << 32 and r.state["segments"] == len(places)
    assert r.write(max(places) + (1 << 32), b"far") is None
    for place in sorted(places):
        assert r.skip() == (place - at, b"x")
        at = place + 1
    assert r.state["segments"] == r.state["leaves"] == 0
