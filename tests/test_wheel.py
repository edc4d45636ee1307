"""The timing wheel against a heap."""
import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mos.flow.wheel import Wheel

NODES = 12
NEVER = 2**63 - 1


class Model:
    """A heap of (when, order, node); stale entries are those that `live` does not know."""

    def __init__(self):
        self.heap, self.live, self.order, self.clock = [], {}, 0, 0
        self.queues = [], [], []        # entries, void ones too: they stand until what was before them has gone

    def arm(self, node, when, which=3):
        self.live[node] = (when, which, self.order)
        heapq.heappush(self.heap, (*self.live[node], node))
        self.order += 1

    def put(self, node, when, which):
        """Queued if it comes in order."""
        queue = self.queues[which]
        in_order = when >= self.clock and (not queue or when >= queue[-1][0])
        self.arm(node, when, which if in_order else 3)
        if in_order:
            queue.append((*self.live[node], node))

    def cancel(self, node):
        self.live.pop(node, None)

    def expire(self, now):
        self.clock = max(self.clock, now)
        for queue in self.queues:
            while queue and queue[0][0] <= self.clock and self.live.get(queue[0][3]) != queue[0][:3]:
                queue.pop(0)
        while self.heap and self.heap[0][0] <= self.clock:
            *due, node = heapq.heappop(self.heap)
            if self.live.get(node) == tuple(due):
                del self.live[node]
                if due[1] < 3:
                    assert self.queues[due[1]].pop(0) == (*due, node)
                return node
        return None


node = st.integers(0, NODES - 1)
delta = st.one_of(st.integers(-200, 200), st.integers(-2**36, 2**36), st.sampled_from([63, 64, 65, 4095, 4096, 2**30]))
change = st.one_of(st.tuples(st.sampled_from(["arm", 0, 1, 2]), node, delta), st.tuples(st.just("cancel"), node))
step = st.one_of(change, st.tuples(st.just("expire"), delta, st.lists(change, max_size=4)))


def apply(what, wheel, model, now):
    if what[0] == "arm":
        wheel._arm(what[1], max(now + what[2], 0))
        model.arm(what[1], max(now + what[2], 0))
    elif what[0] == "cancel":
        wheel._cancel(what[1])
        model.cancel(what[1])
    else:
        wheel._queue(what[1], max(now + what[2], 0), what[0])
        model.put(what[1], max(now + what[2], 0), what[0])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([0, 1000, 1_700_000_000_000_000_000]), st.booleans(), st.booleans(), st.lists(step, max_size=60))
def test_like_a_heap(now, start, sorts, steps):
    wheel, model = Wheel(_nodes=NODES, _sorts=sorts), Model()
    if start:
        wheel._start(now)
        model.clock = now
    for what in steps:
        if what[0] != "expire":
            apply(what, wheel, model, now)
            continue
        now = max(now + what[1], 0)
        inside = list(what[2])
        while True:
            first = min(model.live.values(), default=(NEVER,))[0]
            assert first > max(now, model.clock) or wheel._due(max(now, model.clock))
            got = wheel._expire(now)
            assert got == model.expire(now)
            if got is None:
                break
            assert not wheel._armed(got)
            if inside:
                apply(inside.pop(), wheel, model, now)
        assert not wheel._due(max(now, model.clock))
    assert [wheel._armed(i) for i in range(NODES)] == [i in model.live for i in range(NODES)]
    assert wheel.counters()["armed"] == len(model.live)


def drain(wheel, now):
    fired = []
    while (n := wheel._expire(now)) is not None:
        fired.append(n)
    return fired


@pytest.mark.parametrize("sorts", [False, True])
def test_one_long_timer_among_100000_short_ones(sorts):
    count, begin = 100_000, 1_700_000_000 * 10**9
    draw = random.Random(1)
    wheel = Wheel(_nodes=count + 1, _sorts=sorts)
    wheel._arm(count, begin + 3600 * 10**9)
    whens = [begin + draw.randrange(10 * 10**9) for _ in range(count)]
    for i, when in enumerate(whens):
        wheel._arm(i, when)
    fired = []
    for ms in range(0, 10_001, 7):
        now = begin + ms * 10**6
        for n in drain(wheel, now):
            assert now - 7 * 10**6 < whens[n] <= now
            fired.append(n)
    assert fired == sorted(range(count), key=lambda i: (whens[i], i))[:len(fired)] and len(fired) > 0.999 * count
    drain(wheel, begin + 3600 * 10**9 - 1)
    assert wheel.counters() == {"armed": 1, "peak": count + 1, "started": count + 1, "fired": count, "queue": 0}
    assert drain(wheel, begin + 3600 * 10**9) == [count]


def test_fires_on_the_nanosecond():
    wheel = Wheel(_nodes=1)
    wheel._arm(0, 10**18 + 1)
    assert drain(wheel, 10**18) == [] and drain(wheel, 10**18 + 1) == [0]


def test_equal_times_fire_in_arming_order():
    wheel = Wheel(_nodes=4)
    wheel._arm(0, 5_000_000)
    wheel._arm(1, 5_000_000)
    assert drain(wheel, 4_999_990) == []
    wheel._arm(2, 5_000_000)
    wheel._arm(0, 5_000_000)
    wheel._arm(3, 4_999_995)
    assert drain(wheel, 6_000_000) == [3, 1, 2, 0]


def test_a_time_gone_by_fires_at_the_next_expire():
    wheel = Wheel(_nodes=4)
    assert drain(wheel, 10**9) == []
    for n, when in enumerate((500, 100, 300, 100)):
        wheel._arm(n, when)
    assert wheel._due(10**9) and drain(wheel, 10) == [1, 3, 2, 0]


def test_rearming_for_now_comes_after_what_is_due():
    wheel = Wheel(_nodes=3)
    for n in range(3):
        wheel._arm(n, 100 + n)
    fired = []
    while len(fired) < 7:
        fired.append(wheel._expire(200))
        wheel._arm(fired[-1], 200)
    assert fired == [0, 1, 2, 0, 1, 2, 0]


def test_not_due_while_nothing_is():
    wheel = Wheel(_nodes=2)
    assert not wheel._due(2**62)
    wheel._arm(0, 1000)
    assert not wheel._due(999) and wheel._due(1000)
    wheel._cancel(0)
    wheel._cancel(1)
    assert not wheel._due(2**62) and drain(wheel, 2**62) == []


def test_years_at_once():
    wheel = Wheel(_nodes=64)
    for n in range(63):
        wheel._arm(n, 2**n)
    assert drain(wheel, NEVER) == list(range(63))


def test_those_who_wait_equally_long_are_queued():
    count, begin, wait = 5000, 1_700_000_000 * 10**9, 5 * 10**9
    wheel = Wheel(_nodes=count)
    wheel._start(begin)
    for n in range(count):
        wheel._queue(n, begin + n + wait)
    for n in range(0, count, 3):
        wheel._cancel(n)
    wheel._queue(0, begin + count + wait)
    wheel._arm(1, begin + wait + 4)
    wheel._queue(2, begin)                  # out of order: it goes on the wheel
    left = [n for n in range(4, count) if n % 3]
    assert drain(wheel, begin + wait + 3) == [2]
    assert drain(wheel, begin + 10 * wait) == [4, 1, *left[1:], 0]
    assert wheel.counters()["armed"] == 0 and not wheel._due(NEVER - 1)


def test_what_was_disarmed_makes_room():
    """A flood: each node is armed, and disarmed when a hundred others have been. The queue never gets longer."""
    wheel = Wheel(_nodes=5000)
    for n in range(20_000):
        wheel._queue(n % 5000, 10**9 + n, 1)
        if n >= 100:
            wheel._cancel((n - 100) % 5000)
    assert wheel.counters()["queue"] == 1024 and wheel.counters()["armed"] == 100
    assert drain(wheel, NEVER) == list(range(4900, 5000))


def test_who_was_there_before_a_flood_does_not_fill_the_queue():
    """Three that stay stand before it. Once half of a full queue is void they wait on in the wheel, and all come due in order."""
    wheel = Wheel(_nodes=1024)
    for n in range(20_000):
        wheel._queue(n if n < 3 else 3 + n % 1000, 10**9 + n, 1)
        if n >= 103:
            wheel._cancel(3 + (n - 100) % 1000)
    assert wheel.counters()["queue"] == 1024 and wheel.counters()["armed"] == 103
    assert drain(wheel, 10**9 + 19_899) == [0, 1, 2]
    assert [wheel._expire(NEVER), wheel._tag(3 + 19_901 % 1000)] == [3 + 19_900 % 1000, 3 + 19_901 % 1000]
    assert drain(wheel, NEVER) == [3 + n % 1000 for n in range(19_901, 20_000)]


def test_the_queue_is_bounded_by_its_nodes():
    wheel = Wheel(_nodes=2)
    for n in range(10_000):
        wheel._queue(n % 2, 10**9 + n)
    assert wheel.counters()["queue"] == 1024
    assert drain(wheel, 10**9 + 9_998) == [0] and drain(wheel, NEVER) == [1]
