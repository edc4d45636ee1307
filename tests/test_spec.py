"""The declaration of events agrees with itself and with the structs it names."""
import re
from pathlib import Path

from mos.events import spec
from mos.tcp.states import STATES

RING = (Path(__file__).parent.parent / "mos" / "events" / "ring.pxd").read_text()


def test_leaves_own_distinct_bits_of_a_64_bit_mask():
    assert len(spec.LEAVES) <= 64
    assert sorted(spec.BITS.values()) == list(range(len(spec.LEAVES)))


def test_every_parent_is_declared_before_its_children():
    seen = {""}
    for kind in spec.KINDS:
        assert kind.parent in seen, kind.name
        seen.add(kind.name)


def test_fields_name_members_of_the_event_struct():
    members = set(re.findall(r"\*?(\w+)\s*(?:#.*)?$", RING.split("cdef struct event_t:")[1].split("cdef enum")[0], re.M))
    flags = set(re.findall(r"\b(EV_\w+) =", RING))
    for kind in spec.KINDS:
        for f in kind.fields:
            assert f.slot in members, (kind.name, f.name)
            assert not f.flag or f.flag in flags
            assert (f.type == "enum") == bool(f.values)


def test_states_are_those_of_the_state_machine():
    assert spec.STATES == STATES


def test_leaves_below_and_ancestry():
    assert spec.leaves_below("StreamEvent") == ("StreamData", "StreamGap")
    assert [k.name for k in spec.ancestry("StreamGap")] == ["StreamGap", "StreamEvent", "FlowEvent", "Event"]
    assert [f.name for f in spec.fields_of("StreamGap")] == ["time", "to_server", "offset", "length", "cause"]


def test_every_contract_is_a_sentence():
    for kind in spec.KINDS:
        assert kind.doc.endswith("."), kind.name
