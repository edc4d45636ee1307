import driver
import pytest

from mos.errors import ChainError, MosError, UsageError
from mos.state.kinds import (
    Blob,
    Count,
    FlowState,
    FlowVar,
    Ip,
    Map,
    Pool,
    Table,
    Text,
    clone,
    declared,
    is_declaration,
    worker_refusal,
)
from mos.state.slots import SlotSpace

cy = driver.load("slots_driver")


class Conn(FlowState):
    ext_port: int = 3
    ratio: float = 0.5
    open: bool = True
    tag: bytes = Blob(4, default=b"ab")
    host: str = Text(8)
    peer: str = Ip()
    parser: object = dict
    note: object
    name: int
    _private: int


@pytest.fixture
def flow():
    flows = cy.Flows(SlotSpace([Conn], "lab"))
    yield flows.open(0)
    flows.end(0)


def test_fields_and_defaults(flow):
    state = Conn[flow]
    assert repr(state) == ("<Conn ext_port=3, ratio=0.5, open=True, tag=b'ab', host='', peer=None, parser={}, note=None, name=0>")
    state.ext_port += 1
    state.peer = "::1"
    state.parser["k"] = 1
    assert (Conn[flow].ext_port, Conn[flow].peer, Conn[flow].parser) == (4, "::1", {"k": 1})
    assert Conn.ext_port.add(flow, 6) == 10 == state.ext_port
    assert not hasattr(Conn, "_private")


def test_a_mis_spelt_field_is_an_error(flow):
    with pytest.raises(AttributeError):
        Conn[flow].ext_prot = 1
    with pytest.raises(AttributeError):
        _ = Conn[flow].ext_prot


def test_names_of_declarations_are_names_of_fields_too(flow):
    Conn[flow].name = 5
    assert Conn[flow].name == 5 and Conn.name == "Conn"


def test_fields_of_a_base_come_first_and_are_separate():
    class More(Conn):
        extra: int = 9

    assert [var.name for var in More.slots] == [f"More.{field}" for field in list(Conn._fields)] + ["More.extra"]
    flows = cy.Flows(SlotSpace([Conn, More]))
    flow = flows.open(0)
    More[flow].ext_port = 77
    assert (Conn[flow].ext_port, More[flow].ext_port, More[flow].extra) == (3, 77, 9)
    flows.end(0)


@pytest.mark.parametrize("hint, default, text", [
    (str, "", r"T.x: a str field needs a bound: x: str = Text\(64\)"), ("bytes", b"", r"x: bytes = Blob\(16\)"),
    (list, None, "not list"), ("dict[str, int]", None, "not dict"), (object, 3, "is a callable"),
])
def test_fields_that_are_refused(hint, default, text):
    with pytest.raises(UsageError, match=text):
        type(FlowState)("T", (FlowState,), {"__annotations__": {"x": hint}, "x": default})


def test_each_kind_says_what_it_is():
    kinds = [FlowVar(bytes, size=4), Conn, Pool(1, 9), Count("c", ("a",)), Map(key="client", default=0), Table()]
    assert [k.kind for k in kinds] == ["FlowVar", "FlowState", "Pool", "Count", "Map", "Table"]
    assert [k.key for k in kinds] == ["flow", "flow", None, ("a",), "client", None]
    assert [k.merge for k in kinds] == [None, None, None, "sum", None, "same"]
    assert [k.partition for k in kinds] == ["flow", "flow", "home", None, None, "copy"]
    assert [k.shippable for k in kinds] == [True, False, True, True, True, True]
    assert [k.layout for k in kinds] == ["bytes[4]", Conn.layout, "numbers 1 to 9", "i64 by label", "int, 65536 entries", "mapping"]
    assert all(k.writer for k in kinds)


def test_workers_refuse_a_map_that_says_no_merge_and_what_flows_share_otherwise():
    fine = [FlowVar(), Conn, Count(), Table(), Map(merge="sum"), Map(merge=max)]
    assert [worker_refusal(k) for k in fine] == [None] * len(fine)
    assert "Map seen is shared by all flows" in worker_refusal(Map(name="seen"))
    assert "kept by client" in worker_refusal(Map(partition="client")) and "hands out" in worker_refusal(Pool(1, 2))


def test_declared_finds_names_and_order():
    a, b = FlowVar(), Map(name="own")
    space = {"x": 1, "later": a, "Conn": Conn, "FlowState": FlowState, "b": b, "again": a, "Pool": Pool, "text": Text}
    assert declared(space) == [a, Conn, b]
    assert (a.name, b.name) == ("later", "own")
    assert not is_declaration(FlowState) and not is_declaration(Pool)

    class Box:
        hits = Count()
        port = FlowVar()

    assert [d.name for d in declared(vars(Box))] == ["hits", "port"]


@pytest.mark.parametrize("original", [FlowVar(str, "x", size=3, name="v"), Conn, Pool(1, 9), Count("c"), Map(), Table({1: 2})],
                         ids=lambda d: d.kind)
def test_a_clone_has_data_of_its_own(original):
    copy = clone(original)
    assert copy is not original and (copy.kind, copy.name, copy.layout) == (original.kind, original.name, original.layout)
    space = SlotSpace([original, copy])
    assert len(space.declarations) == 2
    if original in space.stores:
        assert space.stores[original] is not space.stores[copy]
    else:
        assert len({slot.offset for slot in space.layout}) == len(space.layout)


def test_everything_resolves_by_the_running_stack():
    pool, count, seen, table = Pool(5, 9), Count("hits"), Map(cap=2, expire=1.5, default=0), Table({"a": 1})
    one, two = SlotSpace([pool, count, seen, table], "one"), SlotSpace([table, seen, pool, count], "two")
    with one:
        assert pool.take() == 5 and pool.take(prefer=8) == 8 and pool.free == 3 and pool.holds(8)
        count.add()
        count.add(2)
        seen["x"] += 1
        assert seen.add("x", 2) == 3 and "x" in seen and len(seen) == 1 and list(seen) == ["x"]
        one.now = 1_500_000_000
        assert seen.get("x") is None and seen["x"] == 0 and seen.items() == []
        snapshot = table.snapshot()
        table.replace({"b": 2})
        assert table["b"] == 2 and "a" not in table and snapshot["a"] == 1 and table.get("z", 9) == 9
        with two:
            assert pool.take() == 5 and "a" in table and list(table) == ["a"] and len(table) == 1
            seen["y"] = 1
            del seen["y"], seen["y"]
            assert seen.pop("y", "none") == "none"
        pool.give(5)
    assert [one.value(d) for d in (pool, count, seen, table)] == [1, 3, {}, {"b": 2}]
    assert [two.value(d) for d in (pool, count, seen, table)] == [1, 0, {}, {"a": 1}]


def test_outside_a_run_and_undeclared():
    pool = Pool(1, 2, name="ports")
    with pytest.raises(MosError, match=r"<Pool ports> can be used inside a handler only"):
        pool.take()
    with SlotSpace([], "lab"), pytest.raises(ChainError, match="<Pool ports> is not declared in the chain 'lab'"):
        pool.take()


def test_an_empty_map_is_used_too():
    """A Map is falsy when it is empty: nothing may test it for truth."""
    seen = Map()
    with SlotSpace([seen]):
        assert not seen
        seen["a"] = 1
        assert seen["a"] == 1


@pytest.mark.parametrize("make", [
    lambda: Pool(9, 1), lambda: Pool(0, 1 << 20), lambda: Pool("a", "b"), lambda: Count(bound=0), lambda: Map(cap=0),
    lambda: Map(cap=None), lambda: Map(expire=0), lambda: Map(since="read"), lambda: Map(partition="x"), lambda: Map(merge="avg"),
])
def test_declarations_that_are_refused(make):
    with pytest.raises(UsageError):
        make()


def test_the_largest_pool():
    assert Pool(0, (1 << 20) - 1).make(None).free == 1 << 20
