"""The flow table against two ordered dicts."""
import random
from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from mos.flow.table import FlowTable

from mos.errors import UsageError

CAP = 6


def key(n):
    return n.to_bytes(4, "big") * 11


class Model(RuleBasedStateMachine):
    """embryonic and rest map a flow's own key to its id, as queued; names maps it to {position: alias}.

    used: those that had a packet since they were queued; open: those that are embryonic no longer.
    """

    def __init__(self):
        super().__init__()
        self.embryonic, self.rest, self.names, self.created = OrderedDict(), OrderedDict(), {}, 0
        self.used, self.open = set(), set()

    @initialize(bits=st.sampled_from([0, 1, 3, 64]), secret=st.binary(min_size=16, max_size=16))
    def start(self, bits, secret):
        self.table = FlowTable(max_flows=CAP, hash_key=secret, _hash_bits=bits)

    def wire(self):
        """Key on a wire: (flow's own key, position of the alias or None)."""
        found = {}
        for own, names in self.names.items():
            if names:
                found[names[max(names)]] = (own, max(names))
        found.update((own, (own, None)) for own in self.names)
        return found

    def owned(self, k):
        return self.wire().get(k, (None, None))[0]

    @rule(k=st.integers(0, 15), embryonic=st.booleans())
    def create(self, k, embryonic):
        if self.owned(k) is not None:
            return
        got = self.table._create(key(k), embryonic)
        if len(self.names) == CAP:
            assert got is None
            return
        self.created += 1
        assert got == self.created
        (self.embryonic if embryonic else self.rest)[k] = got
        self.names[k] = {}

    @rule(k=st.integers(0, 15), op=st.sampled_from(["touch", "promote", "remove"]))
    def do(self, k, op):
        own = self.owned(k)
        if own is None:
            return
        self.table._do(op, key(k))
        if op == "touch":
            self.used.add(own)
        elif op == "promote":
            self.open.add(own)
        else:
            (self.embryonic if own in self.embryonic else self.rest).pop(own)
            self.used.discard(own)
            self.open.discard(own)
            del self.names[own]

    @rule(which=st.integers(0, 1))
    def victim(self, which):
        """The first that was not used since it was queued; those before it go to the end, or to the other queue."""
        side = (self.embryonic, self.rest)[which]
        while side:
            own = next(iter(side))
            if which == 0 and own in self.open:
                self.rest[own] = side.pop(own)
            elif own in self.used:
                side.move_to_end(own)
                self.used.discard(own)
            else:
                break
        assert self.table._victim(which) == (next(iter(side.values())) if side else None)
        if side:
            self.table._do("expect", key(next(iter(side))))     # whoever is removed next, found he is

    @rule(k=st.integers(0, 15), further=st.integers(0, 15), position=st.integers(0, 5))
    def alias(self, k, further, position):
        own = self.owned(k)
        if own is None:
            return
        names = self.names[own]
        if self.owned(further) not in (None, own):
            want = 0
        elif position not in names and len(names) == 4:
            want = -1
        else:
            want = 1
            names[position] = further
        assert self.table._alias(key(k), key(further), position) == want

    @invariant()
    def same(self):
        if not hasattr(self, "table"):
            return
        self.table.invariants()
        assert self.table._order() == [*self.embryonic.values(), *self.rest.values()]
        wire = self.wire()
        for k in range(16):
            own, position = wire.get(k, (None, None))
            want = None if own is None else (self.embryonic.get(own) or self.rest[own], position)
            assert self.table._find(key(k)) == want
        assert len(self.table) == len(self.names)


Model.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestModel = Model.TestCase


def churn(table, steps=30_000):
    """A busy table's life; returns what could be seen of it."""
    draw, seen = random.Random(5), []
    live = []
    for step in range(steps):
        if not live or draw.random() < 0.4:
            k = key(step)
            if table._find(k):
                continue
            if table._create(k, draw.random() < 0.5) is None:
                seen.append(table._order()[0])
                continue
            live.append(k)
            continue
        at = draw.randrange(len(live))
        op = draw.choice(["touch", "touch", "promote", "remove", "alias"])
        if op == "alias":
            seen.append(table._alias(live[at], key(draw.randrange(steps)), draw.randrange(3)))
        else:
            table._do(op, live[at])
        if op == "remove":
            live.pop(at)
    return seen + table._order()


def test_nothing_depends_on_the_hash_key():
    tables = [FlowTable(max_flows=3000, hash_key=secret) for secret in (bytes(16), b"\xa5" * 16)]
    first, second = map(churn, tables)
    assert first == second and len(first) > 2000
    for table in tables:
        table.invariants()


def test_grows_and_shifts_back():
    table = FlowTable()
    for n in range(20_000):
        assert table._create(key(n)) == n + 1
    table.invariants()
    for n in range(0, 20_000, 2):
        table._do("remove", key(n))
    table.invariants()
    assert table._order() == list(range(2, 20_001, 2))
    assert table.counters()["index"] == 131_072 and table.counters()["peak"] == 20_000


def test_churn_needs_no_memory():
    table = FlowTable(max_flows=1000)
    for n in range(1000):
        table._create(key(n))
        assert table._alias(key(n), key(n + 2**30), 1) == 1
    before = table.counters()["memory"]
    for n in range(1000, 50_000):
        table._do("remove", key(n - 1000))
        assert table._create(key(n)) == n + 1
        assert table._alias(key(n), key(n + 2**30), 1) == 1
    table.invariants()
    assert table.counters()["memory"] == before and table.counters()["aliases"] == 1000


def test_everything_collides():
    table = FlowTable(_hash_bits=0)
    for n in range(300):
        table._create(key(n))
    for n in range(0, 300, 3):
        table._do("remove", key(n))
    table.invariants()
    assert [n for n in range(300) if table._find(key(n))] == [n for n in range(300) if n % 3]


def test_full_says_so_and_recovers():
    table = FlowTable(max_flows=2)
    assert [table._create(key(n)) for n in range(3)] == [1, 2, None]
    table._do("remove", key(0))
    assert table._create(key(3)) == 3       # ids are never used again, and a refusal takes none


def test_idle_table_is_small(monkeypatch):
    monkeypatch.delenv("MOS_SANITIZE", raising=False)
    assert FlowTable().counters()["memory"] < 1 << 20


def test_reserve_leaves_nothing_to_allocate(monkeypatch):
    monkeypatch.delenv("MOS_SANITIZE", raising=False)
    table = FlowTable(reserve=5000, max_flows=1 << 16)
    before = table.counters()
    for n in range(5000):
        table._create(key(n))
    after = table.counters()
    assert (before["memory"], before["index"]) == (after["memory"], after["index"])


@pytest.mark.parametrize("bad", [0, -1, 2**26 + 1])
def test_max_flows_is_bounded(bad):
    with pytest.raises(UsageError, match="max_flows"):
        FlowTable(max_flows=bad)


def test_each_flow_its_own_malloc_gives_the_same(monkeypatch):
    """MOS_SANITIZE, under which AddressSanitizer sees overruns and late uses of one flow."""
    chunked = churn(FlowTable(max_flows=500), 5000)
    monkeypatch.setenv("MOS_SANITIZE", "1")
    table = FlowTable(max_flows=500)
    empty = table.counters()["memory"]
    assert churn(table, 5000) == chunked
    table.invariants()
    assert table.counters()["memory"] < empty + 500 * 1000


def test_who_is_in_use_outlives_a_flood_of_flows_that_are_picked_up():
    """Flows picked up without a handshake count as open at once; one that is used must not be the first of them to go."""
    table = FlowTable(max_flows=100)
    table._create(key(1), True)
    table._do("promote", key(1))
    for n in range(2, 1000):
        if table._create(key(n), True) is None:
            victim = table._victim(0) or table._victim(1)
            assert victim != 1
            table._do("remove", key(victim))
            table._create(key(n), True)
        table._do("promote", key(n))
        table._do("touch", key(1))
    assert table._find(key(1)) == (1, None)
