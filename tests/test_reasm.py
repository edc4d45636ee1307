"""Reassembly against twenty lines of Python that keep every byte in a dict."""
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mos.tcp.reasm import Reassembler

from mos.tcp.policies import NEW_WINS, POLICIES

# Sign of (new start - old start) and of (new end - old end).
ALLEN = {(0, 0): "eq", (0, -1): "s", (0, 1): "si", (1, 0): "f", (-1, 0): "fi", (1, -1): "d", (-1, 1): "di", (-1, -1): "o",
         (1, 1): "oi"}


def sign(n):
    return (n > 0) - (n < 0)


class Model:
    """Bytes by offset, and the ranges in which they came: policies judge range against range."""

    def __init__(self, policy="first"):
        self.next, self.byte, self.ranges, self.parked, self.wins = 0, {}, [], [], NEW_WINS[policy]

    def fill(self, off, data, wins=()):
        data, off = data[max(0, self.next - off):], max(off, self.next)
        end, fresh = off + len(data), [k for k in range(off, off + len(data)) if k not in self.byte]
        for x, y in self.ranges:
            if x < end and off < y and ALLEN[sign(off - x), sign(end - y)] in wins:
                self.byte.update((k, data[k - off]) for k in range(max(x, off), min(y, end)))
        self.byte.update((k, data[k - off]) for k in fresh)
        self.ranges += [(k, next(e for e in range(k, end + 1) if e not in fresh)) for k in fresh if k - 1 not in fresh]

    def deliver(self):
        start = self.next
        while self.next in self.byte:
            self.next += 1
        self.ranges = [r for r in self.ranges if r[1] > self.next]
        return bytes(self.byte.pop(k) for k in range(start, self.next))

    def write(self, off, data):
        self.fill(off, data, self.wins)
        return self.deliver()

    def acked(self, to):
        for off, data in self.parked:
            self.fill(off, data[:max(0, to - off)])
        return self.deliver()

    def skip(self):
        hole = min(self.byte, default=self.next) - self.next
        self.next += hole
        return hole, self.deliver()


offsets = st.integers(0, 40)
chunks = st.binary(min_size=1, max_size=12)
steps = st.lists(st.one_of(
    st.tuples(st.just("write"), offsets, chunks), st.tuples(st.just("drop"), offsets, chunks),
    st.tuples(st.just("park"), offsets, chunks), st.tuples(st.just("acked"), offsets), st.tuples(st.just("skip"))), max_size=40)


@given(st.sampled_from(POLICIES), steps)
def test_any_sequence_of_operations_gives_what_the_model_gives(policy, steps):
    model, real = Model(policy), Reassembler(policy)
    for what, *arguments in steps:
        if what == "drop":
            before = real.state | {"duplicate": 0}
            real.write(*arguments, commit=False)
            assert real.state | {"duplicate": 0} == before
        elif what == "park":
            assert real.park(*arguments)
            model.parked.append(arguments)
        else:
            assert getattr(real, what)(*arguments) == getattr(model, what)(*arguments)
        assert real.state["next"] == model.next
        assert real.state["queued"] == len(model.byte)
        assert real.state["segments"] == len(model.ranges)


@given(st.data(), st.sampled_from(POLICIES))
def test_consistent_segments_give_the_stream_in_any_order(data, policy):
    stream = bytes(range(200))
    cuts = sorted({0, 200} | set(data.draw(st.lists(st.integers(1, 199), max_size=12))))
    parts = list(zip(cuts, cuts[1:]))
    again = data.draw(st.lists(st.tuples(st.integers(0, 199), st.integers(1, 60)), max_size=10))
    arrivals = data.draw(st.permutations(parts + [(a, min(200, a + n)) for a, n in again]))
    real = Reassembler(policy)
    out = b""
    for a, b in arrivals:
        offered = real.write(a, stream[a:b], commit=False)     # dropped, and sent again
        got = real.write(a, stream[a:b])
        assert got == offered
        assert not real.conflicts
        out += got
    assert out == stream
    assert real.state["queued"] == real.state["segments"] == 0
    real.acked(200)
    empty = Reassembler()
    empty.write(1, b"x")
    empty.write(0, b"x")
    assert real.state["used"] in (0, empty.state["used"])      # nothing, or the direction's own small record


def refused(real, off, data):
    """The segment is refused, and nothing but that can be told afterwards."""
    before = real.state | {"duplicate": 0}
    assert real.write(off, data) is None
    assert real.state | {"duplicate": 0} == before
    return True


def test_a_segment_beyond_the_byte_limit_is_refused_and_changes_nothing():
    real = Reassembler(limit=10)
    assert real.write(5, b"x" * 6) == b""
    assert refused(real, 20, b"y" * 5)
    assert refused(real, 100, b"y" * 11)
    assert real.write(20, b"z" * 4) == b""
    assert real.write(0, b"a" * 5) == b"a" * 5 + b"x" * 6


def test_a_segment_beyond_the_segment_limit_is_refused_and_changes_nothing():
    real = Reassembler(segments=3)
    for off in (2, 6, 10):
        assert real.write(off, b"xx") == b""
    assert refused(real, 20, b"y")
    assert real.write(0, b"ab") == b"abxx"


def test_a_segment_that_needs_more_ranges_than_there_are_is_refused_whole():
    real = Reassembler("last", segments=4)
    for off in (2, 6, 10):
        real.write(off, b"xx")
    assert refused(real, 1, b"y" * 12)
    assert real.write(0, b"abcdefghijkl") == b"abcdefghijkl"


def test_a_copy_of_what_is_queued_fits_even_when_the_queue_is_full():
    real = Reassembler(limit=8, segments=2)
    assert real.write(2, b"xxxx") == real.write(8, b"yyyy") == b""
    assert real.write(2, b"xxxx") == real.write(9, b"yy") == b""
    assert real.write(0, b"ab") == b"abxxxx"


@given(st.integers(0, 900), st.lists(st.tuples(st.integers(1, 60), st.binary(min_size=1, max_size=20)), max_size=20))
def test_a_segment_beyond_the_budget_is_refused_and_changes_nothing(budget, writes):
    real, model = Reassembler("last", budget=budget), Model("last")
    for off, data in writes:
        before = real.state | {"duplicate": 0}
        out = real.write(off, data)
        if out is None:
            assert real.state | {"duplicate": 0} == before
        else:
            assert out == model.write(off, data)
        assert real.state["used"] <= budget
    assert real.write(0, b"z") == model.write(0, b"z")         # what is in order needs no memory


def test_retaining_leaves_half_the_budget_to_reassembly():
    real = Reassembler(keep=1000, budget=1500)
    assert real.write(0, b"abc") == b"abc" and real.write(0, b"xyz") == b"" and not real.conflicts
    assert real.write(5, b"f" * 1000) == b"" and real.write(3, b"de") == b"de" + b"f" * 1000


def test_the_oldest_parked_bytes_give_way():
    real = Reassembler()
    real.write(1, b"x")
    assert not real.park(100, b"a" * 65537)
    assert real.park(100, b"a" * 40_000) and real.park(50_000, b"b" * 40_000)
    assert real.state["parked"] == 1


def test_parked_bytes_go_once_they_are_below_the_delivered_offset():
    real = Reassembler()
    assert real.park(2, b"cd") and real.park(0, b"abcdef")
    assert real.acked(2) == b"ab"
    assert real.write(2, b"CDEFgh") == b"CDEFgh"
    assert real.state["parked"] == real.state["queued"] == 0


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError):
        Reassembler("frist")
