"""How several processes' counters and declared state become those of one run."""
import pytest

from mos import NF, Count, Engine, Map, Pool, Table, UsageError, every, on
from mos.events import FlowEnd
from mos.nf import Chain
from mos.state.kinds import FlowVar
from mos.workers import changed, check, merged, snapshot


def test_counters_are_sums_but_for_what_all_have_alike():
    parts = [{"packets_in": 3, "flow_bytes": {"record": 320}, "dropped": {"a": 1}, "decode": {"fragments": 2, "flow": 5},
              "stores": [("Count", "hits", {"labels": 1})]},
             {"packets_in": 4, "flow_bytes": {"record": 320}, "dropped": {"b": 2}, "decode": {"fragments": 2, "flow": 1},
              "stores": [("Count", "hits", {"labels": 2})]}]
    assert merged(parts) == {"packets_in": 7, "flow_bytes": {"record": 320}, "dropped": {"a": 1, "b": 2},
                             "decode": {"fragments": 2, "flow": 6}, "stores": [["Count", "hits", {"labels": 3}]]}


def box(*declarations):
    nf = NF()
    nf.name = "box"
    for i, declaration in enumerate(declarations):
        setattr(nf, f"state_{i}", declaration)
    return nf


def absorbed(declaration, before, *writers):
    """What a declaration holds in the end if each worker has done what its writer does."""
    engines = [Engine(box(declaration)) for _ in range(1 + len(writers))]
    for engine, write in zip(engines, [lambda state: None, *writers]):
        with engine.slots:
            before(declaration)
            write(declaration)
    stores = [engine.slots.stores[declaration] for engine in engines]
    stores[0].absorb(stores[0].share(), [store.share() for store in stores[1:]], declaration.merge)
    return stores[0].value()


def test_counts_are_added_and_what_was_there_before_counts_once():
    def two(count):
        count.add(2, "a")
    assert absorbed(Count("c", "label"), two, lambda c: c.add(1, "a"), lambda c: c.add(5, "b")) == {"a": 3, "b": 5}
    assert absorbed(Count("c"), lambda c: c.add(10), lambda c: c.add(), lambda c: c.add()) == 12
    assert absorbed(Count("c", "label"), lambda c: None, lambda c: c.add(0, "a")) == {"a": 0}


@pytest.mark.parametrize("merge, both", [("sum", 12), ("max", 9), ("min", 5), (lambda a, b: [a, b], [7, 9])])
def test_maps_combine_the_values_of_a_key_as_they_say(merge, both):
    def fill(start):
        def write(state):
            state["x"] = start
            state[start] = start
        return write
    found = absorbed(Map(merge=merge), lambda m: m.__setitem__("x", 4) if merge == "sum" else None,
                     fill(7), fill(9 if merge != "min" else 5))
    assert found["x"] == both and len(found) == 3


def test_tables_are_taken_from_who_replaced_them():
    assert absorbed(Table({"a": 1}), lambda t: None, lambda t: None, lambda t: t.replace({"b": 2})) == {"b": 2}
    assert absorbed(Table({"a": 1}), lambda t: None, lambda t: None) == {"a": 1}


def test_what_cannot_be_split_is_refused_with_its_reason(tmp_path):
    capture = tmp_path / "a.pcap"
    capture.write_bytes(b"")
    check(Chain(box(Count("c"), Table(), FlowVar(int), Map(merge="max"))), str(capture))
    for declaration, reason in ((Map(name="seen"), "Map seen is shared by all flows: give it merge="),
                                (Pool(1, 9, name="ports"), "Pool ports hands out numbers"),
                                (Map(name="bill", partition="client"), "Map bill is kept by client")):
        with pytest.raises(UsageError, match=reason):
            check(Chain(box(declaration)), str(capture))

    @every(5)
    def tick(ev):
        pass
    for chain, path, further, reason in ((Chain([tick]), str(capture), [], "tick is called at intervals"),
                                         (Chain(box()), "-", [], "has to be a file"),
                                         (Chain(box()), str(capture), ["no", "nor this"], "no; nor this; but that$")):
        with pytest.raises(UsageError, match=reason):
            check(chain, path, further, "; but that")


def test_a_timer_of_no_flow_is_refused_where_it_would_fire_in_each():
    with Engine(box()) as engine:
        engine.stack.share(0, 2)
        with pytest.raises(UsageError, match="would fire in each"):
            engine.timer(5)


def test_undeclared_state_that_changes_is_noticed():
    class Sum(NF):
        def __init__(self):
            super().__init__()
            self.total, self.limits, self.same = 0, [1], {"a": 1}

        @on(FlowEnd)
        def end(self, ev):
            self.total += 1
    nf = Sum()
    chain = Chain(nf)
    before = snapshot(chain)
    nf.total += 1
    nf.limits.append(2)
    assert changed(chain, before) == ["sum.total", "sum.limits"]
