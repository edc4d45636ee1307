"""NFs and chains: collecting handlers, options, and refusing what cannot work."""
import types
from pathlib import Path

import pytest

from mos import NF, Chain, ChainError, Engine, FilterError, FlowVar, UsageError, UserEvent, derive, on, option
from mos.events import FlowEnd, FlowStart, StreamData, StreamGap
from mos.nf import from_module
from mos.testing import run, tcp


class Seen(UserEvent):
    size: int


class Box(NF):
    """A box with one option of each type."""
    ports: list[int] = option([23], help="ports")
    limit: int = option(5)
    share: float = option(0.5)
    strict: bool = option(False)
    rules: Path = option(None)

    @on(FlowStart)
    def opened(self, ev):
        """A handler."""


def module(text, name="rules"):
    m = types.ModuleType(name)
    exec(text, m.__dict__)
    return m


def test_options_are_converted_by_their_annotation():
    box = Box(ports="1,2", limit="7", share="0.25", strict="yes", rules="x.toml")
    assert (box.ports, box.limit, box.share, box.strict, box.rules) == ([1, 2], 7, 0.25, True, Path("x.toml"))
    assert Box().ports == [23]


@pytest.mark.parametrize("settings, word", [({"port": 1}, "ports"), ({"limit": "many"}, "int"), ({"strict": "maybe"}, "bool")])
def test_wrong_options_are_named(settings, word):
    with pytest.raises(UsageError, match=word):
        Box(**settings)


def test_a_required_option_says_how_to_give_it():
    class Needs(NF):
        rules: str = option(required=True, help="what to do")
    with pytest.raises(UsageError, match="--set needs.rules="):
        Needs()


def test_a_module_of_functions_is_one_nf_and_imported_handlers_are_not_its():
    m = module("from mos import on\nfrom mos.events import FlowEnd\n"
               "@on(FlowEnd)\ndef mine(ev): pass\n")
    m.theirs = on(FlowEnd)(lambda ev: None)
    assert [s.name for s in Chain(m).subscriptions] == ["rules.mine"]


def test_a_module_without_handlers_names_what_is_unmarked():
    with pytest.raises(ChainError, match="no handler found.*flow_start"):
        Chain(module("def flow_start(ev): pass"))


def test_one_of_several_classes_has_to_be_said():
    m = module("from mos import NF\nclass A(NF): pass\nclass B(NF): pass\n")
    with pytest.raises(UsageError, match="A.*B"):
        from_module(m)
    assert type(from_module(m, "B")).__name__ == "B"
    with pytest.raises(UsageError, match="has no"):
        from_module(m, "C")


def test_repeated_boxes_are_numbered_and_named_ones_keep_their_names():
    assert Chain(Box(), Box()).names == ["box", "box-2"]
    assert Chain(Box(), Box(), names=["edge", None]).names == ["edge", "box"]


def test_wrong_filters_name_the_handler_and_the_near_miss():
    @on(FlowStart, where="server_prot == 23")
    def typo(ev):
        pass
    with pytest.raises(FilterError, match="typo.*server_port"):
        Chain(typo)


def test_edits_that_are_not_possible_yet_are_refused():
    @on(StreamData, edits="resize")
    def grow(ev):
        pass
    with pytest.raises(ChainError, match="length"):
        Chain(grow)


def test_a_subscriber_needs_a_publisher():
    @on(Seen)
    def wait(ev):
        pass

    @derive(Seen, on=FlowEnd)
    def tell(ev):
        yield Seen(size=ev.flow.client_bytes)
    with pytest.raises(ChainError, match="wait.*Seen.*no NF"):
        Chain(wait)
    chain = Chain([wait], [tell])
    assert list(chain.publishes()) == [Seen]
    assert any("publishes Seen" in line for line in chain.describe())


def test_what_is_no_box_is_refused():
    with pytest.raises(ChainError, match="no middlebox"):
        Chain(5)


def test_user_events_are_filtered_by_their_fields():
    got = []

    @derive(Seen, on=StreamData)
    def tell(ev):
        yield Seen(size=ev.length)

    @on(Seen, where="size > 2")
    def large(ev):
        got.append(ev.size)
    run(Chain([tell], [large]), tcp("10.0.0.1:1", "10.0.0.2:2").send(b"ab").send(b"abc"))
    assert got == [3]


def test_answers_to_events_that_are_only_observed_are_refused_when_given():
    @on(StreamGap)
    def gap(ev):
        pass
    assert not Chain(gap).subscriptions[0].answers


def test_state_is_collected_from_class_and_module():
    class Counting(NF):
        seen = FlowVar(int)

        @on(FlowStart)
        def opened(self, ev):
            self.seen[ev.flow] += 1
    chain = Chain(Counting())
    assert [d.name for d in chain.declarations()] == ["seen"]
    with Engine(chain) as engine:
        for ns, frame in tcp("10.0.0.1:1", "10.0.0.2:2").packets:
            engine.feed(frame, ns)
