"""Slots against a dict per flow: writes, packets that commit or abort, flows that come and go."""
import gc
import ipaddress
import subprocess
import sys
import threading
import weakref

import driver
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mos.errors import ChainError, MosError, StaleFlow, UsageError
from mos.state import layout
from mos.state.kinds import Blob, Count, FlowState, FlowVar, Ip, Text
from mos.state.slots import SlotSpace, running

cy = driver.load("slots_driver")
FLOWS = 2
TOKENS = weakref.WeakValueDictionary()


class Token:
    made = 0

    def __init__(self):
        Token.made += 1
        self.serial = Token.made
        TOKENS[self.serial] = self


def seen(var, value):
    """What stands for `value` in the model: it must not keep objects alive, and an address has several spellings."""
    if var.type == "ip" and value is not None:
        return ipaddress.ip_address(value)
    return value.serial if isinstance(value, Token) else value


class Pair(FlowState):
    left: int = -5
    right: object = Token


VARS = {
    FlowVar(int, 7): st.integers(-2**63, 2**63 - 1),
    FlowVar(float): st.floats(allow_nan=False) | st.integers(-9, 9),
    FlowVar(bool, True): st.booleans(),
    FlowVar(bytes, b"x", size=5): st.binary(max_size=5),
    FlowVar(str, size=6): st.text("aé€", max_size=2),
    FlowVar("ip"): st.none() | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str),
    FlowVar(object): st.just(Token),
    Pair.left: st.integers(-9, 9),
    Pair.right: st.just(Token),
}
WRITES = st.one_of([st.tuples(st.just(var), values) for var, values in VARS.items()])
OBJECTS = st.sampled_from([(var, Token) for var in VARS if var.type == "object"])
FLOW = st.integers(0, FLOWS - 1)


class Model(RuleBasedStateMachine):
    """`now[i]` maps each var of an open flow to its value; `kept` is that of the current flow as its packet found it."""

    @initialize(exact=st.booleans())
    def start(self, exact):
        gc.collect()
        self.before = set(TOKENS)
        declared = [var for var in VARS if var not in Pair.slots] + [Pair]
        self.flows = cy.Flows(SlotSpace(declared, "test", exact=exact), FLOWS)
        self.now, self.version, self.current, self.kept = {}, {}, None, None
        self.open(0)
        self.begin(0)

    def touched(self, i):
        if i != self.current:
            self.version[i] += 1
        elif self.kept is None:
            self.kept = dict(self.now[i])

    @rule(i=FLOW)
    def open(self, i):
        if i not in self.now:
            self.flows.open(i)
            self.now[i] = {var: None if var.type == "object" else var.default for var in VARS}
            self.version[i] = 0

    @rule(i=FLOW)
    def end(self, i):
        if i in self.now:
            view = self.flows.view(i)
            self.flows.end(i)
            del self.now[i]
            if i == self.current:
                self.current = self.kept = None
            for var in VARS:
                with pytest.raises(StaleFlow):
                    var[view]

    @rule(i=st.none() | FLOW)
    def begin(self, i):
        self.settle()
        self.flows.begin(i)
        self.current = i if i in self.now else None

    def settle(self):
        if self.kept is not None:
            self.version[self.current] += 1
        self.current = self.kept = None

    @rule()
    def commit(self):
        self.flows.commit()
        self.settle()

    @rule()
    def abort(self):
        self.flows.abort()
        if self.kept is not None:
            self.now[self.current] = self.kept
        self.current = self.kept = None

    @rule(i=FLOW, write=WRITES)
    def write(self, i, write):
        var, value = write
        if i in self.now:
            value = Token() if value is Token else value     # hypothesis would keep one that it made itself
            self.touched(i)
            var[self.flows.view(i)] = value
            self.now[i][var] = seen(var, value)

    @rule(i=FLOW, writes=st.lists(st.tuples(FLOW, WRITES | OBJECTS), min_size=1, max_size=5),
          fate=st.sampled_from(["commit", "abort", "end", "none"]))
    def packet(self, i, writes, fate):
        self.open(i)
        self.begin(i)
        for target, write in writes:
            self.write(target, write)
            self.alive()
        {"commit": self.commit, "abort": self.abort, "end": lambda: self.end(i), "none": lambda: None}[fate]()

    @rule(i=FLOW, n=st.integers(-2**63, 2**63 - 1), var=st.sampled_from([var for var in VARS if var.type == "i64"]),
          from_c=st.booleans())
    def add(self, i, n, var, from_c):
        if i not in self.now:
            return
        total = self.now[i][var] + n
        if not -2**63 <= total < 2**63:
            with pytest.raises(OverflowError, match="64-bit"):
                var.add(self.flows.view(i), n)
            return
        self.touched(i)
        assert (self.flows.c_add(i, var, n) if from_c else var.add(self.flows.view(i), n)) == total
        self.now[i][var] = total

    @rule(i=FLOW)
    def make_default(self, i):
        if i in self.now and self.now[i][Pair.right] is None:
            self.touched(i)
            self.now[i][Pair.right] = Pair[self.flows.view(i)].right.serial

    @invariant()
    def same(self):
        for i, values in self.now.items():
            flow = self.flows.view(i)
            got = {var: seen(var, var[flow]) for var in VARS if var is not Pair.right or values[var] is not None}
            assert got == {var: values[var] for var in got}
            assert self.flows.version(i) == (self.version[i], self.kept is not None and i == self.current)
        assert self.flows.space.counters()["open"] == len(self.now)

    @invariant()
    def alive(self):
        held = {values[var] for values in [*self.now.values(), self.kept or {}] for var in values if var.type == "object"}
        assert set(TOKENS) - self.before == held - {None}

    def teardown(self):
        if hasattr(self, "flows"):
            for i in list(self.now):
                self.end(i)
            assert set(TOKENS) == self.before


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=80, stateful_step_count=30, deadline=None, report_multiple_bugs=False)


@pytest.fixture
def one():
    """A function: the view of a fresh flow of a chain with these declarations."""
    kept = []

    def open(*declarations, **options):
        flows = cy.Flows(SlotSpace(declarations, "lab", **options))
        kept.append(flows)
        return flows, flows.open(0)

    yield open
    for flows in kept:
        flows.end(0)


def test_limits_agree_with_the_layout_module():
    assert cy.LIMITS == (layout.SLOTS_MAX, layout.OBJECTS_MAX)


def test_reference_counts_come_back(one):
    thing, other = object(), object()
    counts = sys.getrefcount(thing), sys.getrefcount(other)
    var = FlowVar(object)
    flows, flow = one(var)
    var[flow] = thing
    flows.begin(0)
    var[flow] = other
    var[flow] = other
    var[flow] = thing
    flows.abort()
    assert var[flow] is thing
    assert (sys.getrefcount(thing), sys.getrefcount(other)) == (counts[0] + 1, counts[1])
    flows.begin(0)
    var[flow] = other
    flows.end(0)
    assert (sys.getrefcount(thing), sys.getrefcount(other)) == counts


def test_objects_go_with_a_space_whose_flows_were_not_closed():
    var, thing, other = FlowVar(object), Token(), Token()
    flows = cy.Flows(SlotSpace([var], "lab"))
    flow = flows.open(0)
    var[flow] = thing
    flows.begin(0)
    var[flow] = other
    alive = weakref.ref(thing), weakref.ref(other)
    del flow, flows, thing, other
    gc.collect()
    assert alive[0]() is None and alive[1]() is None


@pytest.mark.parametrize("end", ["commit", "abort", "end"])
def test_a_finaliser_may_use_slots(one, end):
    var, count = FlowVar(object), FlowVar(int)
    log = []

    class Nosy:
        def __del__(self):
            try:
                count.add(flow)
                var[flow] = None
            except StaleFlow:
                log.append("stale")
            log.append("done")

    flows, flow = one(var, count)
    var[flow] = Nosy()
    flows.begin(0)
    if end == "abort":
        flows.commit()
        flows.begin(0)
        keep = var[flow]
        var[flow] = Nosy()
        getattr(flows, end)()
        assert log == ["done"] and count[flow] == 1
        del keep
    else:
        if end == "commit":
            var[flow] = 1
            flows.commit()
            assert count[flow] == 1
        else:
            flows.end(0)
        assert log[-1] == "done"


def test_a_write_to_another_flow_holds_at_once(one):
    var = FlowVar(int)
    flows, mine = one(var)
    other = flows.open(1)
    flows.begin(0)
    var[mine] = var[other] = 1
    flows.abort()
    assert (var[mine], var[other]) == (0, 1)
    assert (flows.version(0), flows.version(1)) == ((0, 0), (1, 0))
    assert flows.space.counters()["undone"] == 1


def test_a_failed_write_changes_nothing(one):
    var, name = FlowVar(int, 4), FlowVar(str, size=3)
    flows, flow = one(var, name)
    flows.begin(0)
    for bad, error in ((2**63, OverflowError), (-2**63 - 1, OverflowError), ("1", TypeError), (1.5, TypeError), (None, TypeError)):
        with pytest.raises(error):
            var[flow] = bad
        with pytest.raises(error):
            var.add(flow, bad)
    with pytest.raises(ValueError, match="holds 3 bytes, not 4"):
        name[flow] = "éé"
    assert var[flow] == 4 and name[flow] == "" and flows.version(0) == (0, 0)


def test_a_conversion_that_ends_the_flow(one):
    var = FlowVar(int)
    flows, flow = one(var)

    class Bomb:
        def __index__(self):
            flows.end(0)
            return 1

    with pytest.raises(StaleFlow):
        var[flow] = Bomb()


def test_a_default_that_ends_the_flow(one):
    flows, flow = one(var := FlowVar(object, lambda: flows.end(0)))
    with pytest.raises(StaleFlow):
        var[flow]


def test_blocks_are_recycled_clean(one):
    var = FlowVar(int)
    flows, flow = one(var)
    first = flows.address(0)
    var[flow] = 9
    flows.end(0)
    assert var[flows.open(0)] == 0 and flows.address(0) == first
    counters = flows.space.counters()
    assert counters["open"] == counters["peak"] == 1


def test_a_chain_without_state_opens_nothing(one):
    flows, flow = one(Count())
    assert flows.address(0) == 0
    flows.begin(0)
    flows.abort()
    with pytest.raises(ChainError, match="FlowVar 'x' is not declared in the chain 'lab'.*NF class"):
        FlowVar(name="x")[flow]


def test_undeclared(one):
    known, later = FlowVar(int), FlowVar(int, name="later")
    flows, flow = one(known)
    for use in (lambda: later[flow], lambda: later.add(flow), lambda: later.__setitem__(flow, 1),
                lambda: flows.space.offset(later), lambda: flows.c_add(0, later, 1)):
        with pytest.raises(ChainError, match="'later' is not declared in the chain 'lab'"):
            use()


def test_two_stacks_share_nothing(one):
    var = FlowVar(int)
    (_, a), (_, b) = one(var), one(FlowVar(float), var)
    var[a] = 5
    assert (var[a], var[b]) == (5, 0)


def test_what_is_not_a_flow():
    for thing in (None, 3, "flow"):
        with pytest.raises(TypeError):
            FlowVar(int)[thing]
        with pytest.raises(TypeError):
            FlowVar(int).add(thing)


@pytest.mark.parametrize("make, text", [
    (lambda: FlowVar(dict), "FlowVar takes int"), (lambda: FlowVar([]), "FlowVar takes int"),
    (lambda: FlowVar(str), "need a size"), (lambda: FlowVar(bytes, size=4097), "need a size"),
    (lambda: FlowVar(int, size=4), "only bytes and str have a size"), (lambda: FlowVar(object, 3), "is a callable"),
])
def test_declarations_that_are_refused(make, text):
    with pytest.raises(UsageError, match=text):
        make()
    with pytest.raises(OverflowError):
        FlowVar(int, 2**63)


def test_cut_shortens(one):
    name, raw = FlowVar(Text(3, cut=True)), FlowVar(Blob(2, cut=True))
    _, flow = one(name, raw)
    name[flow], raw[flow] = "aéé", b"abc"
    assert (name[flow], raw[flow]) == ("aé", b"ab")


def test_address_text(one):
    _, flow = one(peer := FlowVar(Ip()))
    peer[flow] = "2001:DB8:0::1"
    assert peer[flow] == "2001:db8::1"
    for bad, error in (("fe80::1%eth0", TypeError), (3, TypeError), ("10.0.0", ValueError)):
        with pytest.raises(error):
            peer[flow] = bad


def test_running_is_per_thread_and_nests():
    outer, inner = SlotSpace(), SlotSpace()
    found = []
    with outer:
        with inner:
            assert running() is inner
            thread = threading.Thread(target=lambda: found.append(running()))
            thread.start()
            thread.join()
        assert running() is outer
    assert running() is None and found == [None]


def test_value_of_what_has_none():
    var, count = FlowVar(name="v"), Count("c")
    space = SlotSpace([var, count], "lab")
    assert space.value(count) == 0
    with pytest.raises(UsageError, match="read it in FlowEnd"):
        space.value(var)
    with pytest.raises(ChainError, match="not declared in the chain 'lab'"):
        space.value(Count("d"))
    with pytest.raises(MosError, match=r"inside a handler only; after a run read chain.value\(c\)"):
        count.add()


def test_stubs_agree_with_the_module(tmp_path):
    pytest.importorskip("mypy.stubtest", reason="mypy is not installed: stubs are not compared")
    result = subprocess.run([sys.executable, "-m", "mypy.stubtest", "--ignore-unused-allowlist",
                             "--allowlist", "tests/stubtest.allow",
                             "--ignore-unused-allowlist", "mos.state.slots"], cwd=driver.ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    user = tmp_path / "user.py"
    user.write_text("from mos.flow.view import Flow\nfrom mos.state.slots import FlowVar\n"
                    "hits, name = FlowVar(int), FlowVar(str, size=9)\n"
                    "def f(flow: Flow) -> int:\n    hits[flow] += 1\n    name[flow] = 'a'\n    return hits.add(flow)\n"
                    "def g(flow: Flow) -> None:\n    name[flow] = 3\n    hits[flow] = 'a'\n")
    result = subprocess.run([sys.executable, "-m", "mypy", str(user)], cwd=driver.ROOT, capture_output=True, text=True)
    assert [line.split(":")[1] for line in result.stdout.splitlines() if ": error:" in line] == ["9", "10"], result.stdout
