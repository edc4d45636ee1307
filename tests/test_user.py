"""User-defined events: records of declared fields."""
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mos.errors import UsageError
from mos.events import AppEvent, Blob, Event, FlowEvent, Ip, Text, UserEvent


class Beacon(UserEvent):
    """Test event."""
    period: float
    count: int
    peer: str = Ip(default="::1")
    open: bool = False
    note: str = Text(8, default="")
    raw: bytes = Blob(5, default=b"", cut=True)

    def twice(self):
        return self.period * 2


def test_a_record_reads_as_it_was_filled():
    b = Beacon(2, count=3, peer=ipaddress.ip_address("10.0.0.1"), note="é", raw=bytearray(b"1234567"))
    assert (b.period, b.count, b.peer, b.open, b.note, b.raw) == (2.0, 3, "10.0.0.1", False, "é", b"12345")
    assert type(b.period) is float and b.twice() == 4.0
    assert (b.flow, b.time) == (None, 0)
    assert repr(b) == "<Beacon to_server=False period=2.0 count=3 peer='10.0.0.1' open=False note='é' raw=b'12345'>"


def test_it_is_an_event_of_the_tree():
    assert issubclass(Beacon, (AppEvent, FlowEvent, Event)) and Beacon.name == "Beacon" and Beacon.kind_mask == 0
    assert Beacon.fields == ("to_server", "period", "count", "peer", "open", "note", "raw")
    assert Beacon.__doc__ == "Test event."


def test_it_cannot_be_changed():
    b = Beacon(1, 2)
    for change in (lambda: setattr(b, "period", 2), lambda: setattr(b, "other", 2), lambda: delattr(b, "period")):
        with pytest.raises(UsageError, match="cannot be changed: make another Beacon"):
            change()
    assert not hasattr(b, "__dict__")


def test_equal_values_are_equal_events():
    assert Beacon(1, 2) == Beacon(1.0, 2) and hash(Beacon(1, 2)) == hash(Beacon(1, 2)) and Beacon(1, 2) != Beacon(1, 3)

    class Other(UserEvent):
        period: float
        count: int
    assert Other(1, 2) != Beacon(1, 2)


@pytest.mark.parametrize("arguments, values, text", [
    ((), {}, "needs a value for period"), ((1,), {}, "needs a value for count"), ((1, 2), {"coutn": 3}, "no field 'coutn'"),
    ((1,), {"period": 2}, "given twice"), ((1,) * 9, {}, "has 6 fields, not 9"), (("1", 2), {}, "period is f64, and '1'"),
    ((1, 2.5), {}, "count is i64"), ((1, 2**63), {}, "64 bits"), ((1, "2"), {}, "count is i64"),
    ((1, 2, "10.0.0.256"), {}, "peer is ip"), ((1, 2, "fe80::1%eth0"), {}, "zone"), ((1, 2, 167772161), {}, "peer is ip"),
    ((1, 2), {"open": 1}, "open is bool"), ((1, 2), {"note": "123456789"}, r"Text\(8, cut=True\)"), ((1, 2), {"note": b"x"}, "str"),
    ((1, 2), {"raw": "x"}, "not bytes"), ((10**400, 2), {}, "period is f64")])
def test_values_that_do_not_fit_are_refused(arguments, values, text):
    with pytest.raises(UsageError, match=text) as caught:
        Beacon(*arguments, **values)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@given(st.text(max_size=20), st.integers(1, 12))
def test_cut_text_is_the_longest_prefix_within_the_limit(text, limit):
    class Note(UserEvent):
        note: str = Text(limit, cut=True)

    note = Note(text).note
    assert text.startswith(note) and len(note.encode()) <= limit
    assert note == text or len(text[:len(note) + 1].encode()) > limit


@pytest.mark.parametrize("annotation, default, text", [
    (str, ..., r"needs a bound: x: str = Text\(64\)"), (bytes, ..., r"needs a bound: x: bytes = Blob\(64\)"),
    (list, ..., "not list"), ("dict[str, int]", ..., "not dict"), (int, "one", "is i64"), (int, Text(4), "annotated str, not int"),
    (str, Blob(4), "annotated bytes"), (float, Text(4), "annotated str"), (str, Text(4, default="12345"), "longer than 4")])
def test_a_declaration_that_makes_no_sense_is_refused(annotation, default, text):
    body = {"__annotations__": {"x": annotation}} | ({} if default is ... else {"x": default})
    with pytest.raises(UsageError, match=rf"Bad\.x\b.*{text}"):
        type(UserEvent)("Bad", (UserEvent,), body)


@pytest.mark.parametrize("name", ["flow", "time", "name", "keep", "packet", "_hidden", "layout", "fields", "client"])
def test_names_that_every_event_has_are_refused(name):
    with pytest.raises(UsageError, match="choose another name"):
        type(UserEvent)("Bad", (UserEvent,), {"__annotations__": {name: int}})


@pytest.mark.parametrize("make", [lambda: Text(0), lambda: Text(5000), lambda: Blob(-1), lambda: Text("64"), lambda: Blob(True)])
def test_a_bound_must_be_one(make):
    with pytest.raises(UsageError, match="takes a limit of 1 to 4096 bytes"):
        make()


def test_required_fields_come_first_and_records_are_bounded():
    with pytest.raises(UsageError, match="fields with a default come after"):
        type(UserEvent)("Bad", (UserEvent,), {"__annotations__": {"a": int, "b": int}, "a": 1})
    with pytest.raises(UsageError, match="takes 6008 bytes and may take 4096"):
        type(UserEvent)("Bad", (UserEvent,), {"__annotations__": {"a": str, "b": str}, "a": Text(3000), "b": Text(3000)})


def test_annotations_may_be_text_and_classvars_are_no_fields():
    cls = type(UserEvent)("Late", (UserEvent,), {"__annotations__": {"a": "int", "LIMIT": "ClassVar[int]"}, "LIMIT": 9})
    assert cls.fields == ("to_server", "a") and cls.LIMIT == 9 and cls(4).a == 4


def test_a_derived_record_adds_fields():
    class Long(Beacon):
        extra: int = 7

    assert Long(1, 2).extra == 7 and Long.fields == Beacon.fields + ("extra",)
    assert Long.layout()[:6] == Beacon.layout() and isinstance(Long(1, 2), Beacon)
    with pytest.raises(UsageError, match="declared by a class it derives from"):
        type(UserEvent)("Bad", (Beacon,), {"__annotations__": {"period": int}})


KINDS = st.sampled_from([(int, ...), (float, ...), (bool, ...), (str, Ip()), *((str, Text(n)) for n in (1, 2, 7)),
                         *((bytes, Blob(n)) for n in (1, 3, 8))])


@given(st.lists(KINDS, max_size=12))
def test_layout_is_aligned_without_overlap_and_of_fixed_size(kinds):
    names = [f"f{i}" for i in range(len(kinds))]
    body = {"__annotations__": {n: k for n, (k, _) in zip(names, kinds)}}
    body.update({n: d for n, (_, d) in zip(names, kinds) if d is not ...})
    cls = type(UserEvent)("Any", (UserEvent,), body)
    end = 0
    assert [s.name for s in cls.layout()] == names
    for slot, (kind, default) in zip(cls.layout(), kinds):
        width = {int: 8, float: 8, bool: 1}.get(kind) or (default.limit + 2 if default.limit else 17)
        assert slot.width == width and slot.offset >= end
        assert slot.offset % {"i64": 8, "f64": 8, "str": 2, "bytes": 2}.get(slot.type, 1) == 0
        assert slot.offset - end < 8
        end = slot.offset + slot.width
    assert end <= cls.record_size() < end + 8 and cls.record_size() % 8 == 0


def test_the_record_holds_the_fields_where_layout_says():
    b = Beacon(2.5, -3, peer="10.0.0.1", open=True, note="é", raw=b"12")
    at = {s.name: (s.offset, s.width) for s in Beacon.layout()}
    record = b.record()
    field = {name: record[offset:offset + width] for name, (offset, width) in at.items()}
    assert len(record) == Beacon.record_size()
    assert struct.unpack("=d", field["period"]) == (2.5,) and struct.unpack("=q", field["count"]) == (-3,)
    assert field["peer"] == bytes([10, 0, 0, 1]) + bytes(12) + b"\4" and field["open"] == b"\1"
    assert field["note"][:4] == struct.pack("=H", 2) + "é".encode() and field["raw"][:4] == struct.pack("=H", 2) + b"12"
    assert Beacon(1, 2).record()[at["peer"][0]:][:17] == bytes(15) + b"\1\6"
