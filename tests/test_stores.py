"""The stores against dicts and sets."""
import os
import subprocess
import sys
from collections import OrderedDict
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mos.errors import UsageError
from mos.state.stores import KEY_MAX, LABEL_MAX, CountStore, MapStore, PoolStore, TableStore, key_bytes

ATOMS = st.integers() | st.text(max_size=4) | st.binary(max_size=4)
KEYS = st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


@settings(max_examples=300)
@given(KEYS, KEYS)
def test_keys_are_bytes_as_distinct_as_the_keys(a, b):
    assert type(key_bytes(a)) is bytes
    assert (key_bytes(a) == key_bytes(b)) == (a == b)


def test_subclasses_are_the_key_they_equal():
    class Name(str):
        def __repr__(self):
            return "'other'"
        __str__ = __repr__

    assert key_bytes(True) == key_bytes(1) and key_bytes((Name("a"), (False,))) == key_bytes(("a", (0,)))
    assert key_bytes(Name("a")) == key_bytes("a")


def test_keys_that_are_refused():
    for bad in (1.5, None, ["a"], ("a", None), bytearray(b"x")):
        with pytest.raises(TypeError, match="str, bytes, int or tuples"):
            key_bytes(bad)
    assert key_bytes("x" * (KEY_MAX - 2))
    with pytest.raises(ValueError, match=f"at most {KEY_MAX} bytes, not {KEY_MAX + 1}"):
        key_bytes("x" * (KEY_MAX - 1))


def test_hash_of_a_key_depends_on_the_process():
    code = "from mos.state.stores import key_bytes; print(hash(key_bytes((1, 2))), hash((1, 2)))"
    runs = [subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, text=True, check=True,
                           capture_output=True).stdout.split() for seed in "12"]
    assert runs[0][0] != runs[1][0] and runs[0][1] == runs[1][1]


class PoolModel(RuleBasedStateMachine):
    """`free` in the order in which they were given back; `held` a set."""

    @initialize(lo=st.integers(-3, 5), n=st.integers(1, 9))
    def start(self, lo, n):
        self.pool, self.lo, self.hi = PoolStore(lo, lo + n - 1), lo, lo + n - 1
        self.free, self.held, self.exhausted = list(range(lo, lo + n)), set(), 0

    @rule(prefer=st.none() | st.integers(-4, 15), parity=st.none() | st.integers(0, 3))
    def take(self, prefer, parity):
        got = self.pool.take(prefer, parity)
        fits = [x for x in self.free if parity is None or not (x ^ parity) & 1]
        if not fits:
            self.exhausted += 1
            assert got is None
            return
        if prefer in fits:
            assert got == prefer
        else:
            assert got == next(x for x in fits if not (x ^ got) & 1)     # free longest among those of its parity
        self.free.remove(got)
        self.held.add(got)

    @rule(x=st.integers(-4, 15))
    def give(self, x):
        if x not in self.held:
            with pytest.raises(UsageError):
                self.pool.give(x)
            return
        self.pool.give(x)
        self.held.remove(x)
        self.free.append(x)

    @invariant()
    def same(self):
        assert self.pool.counters() == {"held": len(self.held), "free": len(self.free), "exhausted": self.exhausted}
        assert {x for x in range(-4, 16) if self.pool.holds(x)} == self.held

    @invariant()
    def lists_are_whole(self):
        n = self.hi - self.lo + 1
        for parity in (0, 1):
            walked, i = [], self.pool.after[n + parity]
            while i != n + parity:
                assert self.pool.before[self.pool.after[i]] == i
                walked.append(i + self.lo)
                i = self.pool.after[i]
            assert walked == [x for x in self.free if x & 1 == parity]


TestPool = PoolModel.TestCase


def test_a_pool_starts_in_order():
    pool = PoolStore(1024, 1033)
    assert [pool.take() for _ in range(11)] == [*range(1024, 1034), None]
    pool.give(1030)
    pool.give(1024)
    assert [pool.take(), pool.take(), pool.take()] == [1030, 1024, None]


class MapModel(RuleBasedStateMachine):
    """Entries [value, time it counts from] in order of use."""

    @initialize(cap=st.integers(1, 4), expire=st.none() | st.integers(1, 5), on_create=st.booleans(),
                default=st.sampled_from([None, 0, list]))
    def start(self, cap, expire, on_create, default):
        self.clock = SimpleNamespace(now=100)
        self.map = MapStore(self.clock, cap, expire, on_create, default)
        self.cap, self.expire, self.on_create, self.default = cap, expire, on_create, default
        self.entries, self.evicted, self.expired = OrderedDict(), 0, 0

    @rule(n=st.integers(0, 4))
    def tick(self, n):
        self.clock.now += n

    def purge(self):
        gone = [k for k, (_, t) in self.entries.items() if self.expire is not None and self.clock.now - t >= self.expire]
        self.expired += len(gone)
        for k in gone:
            del self.entries[k]

    def put(self, k, value):
        if k in self.entries:
            self.entries[k] = [value, self.entries[k][1] if self.on_create else self.clock.now]
        else:
            if len(self.entries) == self.cap:
                self.entries.popitem(last=False)
                self.evicted += 1
            self.entries[k] = [value, self.clock.now]
        self.entries.move_to_end(k)

    @rule(k=st.integers(0, 6), value=st.integers(0, 9), op=st.sampled_from(["set", "get", "item", "add", "pop", "in"]))
    def do(self, k, value, op):
        self.purge()
        there = self.entries[k][0] if k in self.entries else None
        if op == "set":
            self.map[k] = value
            self.put(k, value)
        elif op == "add":
            if isinstance(there, list) or (there is None and self.default is list):
                return
            assert self.map.add(k, value) == (there or 0) + value
            self.put(k, (there or 0) + value)
        elif op == "in":
            assert (k in self.map) == (k in self.entries)
        elif op == "pop":
            assert self.map.pop(k, "none") == (there if k in self.entries else "none")
            self.entries.pop(k, None)
        elif k in self.entries:
            assert (self.map.get(k) if op == "get" else self.map[k]) == there
            self.entries.move_to_end(k)
        elif op == "get":
            assert self.map.get(k, "none") == "none"
        else:
            assert self.map[k] == ([] if self.default is list else self.default)
            if self.default is list:
                self.put(k, [])

    @invariant()
    def same(self):
        self.purge()
        assert self.map.items() == list(self.map.value().items()) == [(k, value) for k, (value, _) in self.entries.items()]
        assert self.map.counters() == {"size": len(self.entries), "evicted": self.evicted, "expired": self.expired}
        assert len(self.map.ages) == (0 if self.expire is None else len(self.entries))


TestMap = MapModel.TestCase
TestPool.settings = TestMap.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_count_without_labels():
    count = CountStore((), 3)
    count.add(2, ())
    count.add(3, ())
    assert count.value() == 5
    count.add(1, ("x",))
    assert count.value() == {"": 5, "x": 1}


def test_labels_are_bounded_and_text():
    count = CountStore((), 2)
    for label in (443, "b", "c", "d", 443, "x" * 500):
        count.add(1, (label,))
    assert count.value() == {"443": 2, "b": 1, "other": 3} and count.counters() == {"labels": 3, "other": 3}
    count = CountStore((), 2)
    count.add(1, ("x" * 500,))
    assert count.value() == {"x" * LABEL_MAX: 1}


def test_several_labels():
    count = CountStore(("a", "b"), 1)
    count.add(1, ("x", "y"))
    count.add(2, ("x", "z"))
    assert count.value() == {("x", "y"): 1, ("other", "other"): 2}
    for wrong in ((), ("x",), ("x", "y", "z")):
        with pytest.raises(UsageError, match=r"labels \(a, b\)"):
            count.add(1, wrong)


def test_a_snapshot_stays():
    source = {"a": 1}
    table = TableStore(source)
    snapshot = table.now
    source["b"] = 2
    table.replace({"c": 3})
    assert dict(snapshot) == {"a": 1} and table.value() == {"c": 3} and table.counters() == {"size": 1, "replaced": 1}
    with pytest.raises(TypeError):
        table.now["d"] = 4
