import inspect
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mos.errors import FilterError, UsageError
from mos.events import (
    Anomaly,
    AppEvent,
    Blob,
    Event,
    FlowEnd,
    FlowEvent,
    FlowStart,
    Ip,
    StreamData,
    StreamGap,
    Text,
    Timer,
    UserEvent,
    derive,
    on,
)
from mos.events.marks import Mark, marks_of


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


def test_narrowed_events_compare_by_what_they_say():
    def long(ev):
        return ev.length > 3

    a, b = StreamData.where("length > 3").where(long), StreamData.where("length > 3").where(long)
    assert a == b and hash(a) == hash(b) and a != StreamData.where(long).where("length > 3")
    assert repr(a) == "StreamData.where('length > 3').where(long)"
    assert a.compiled(lambda text, kind: (text, kind)) == (("length > 3", StreamData), long)
    assert a.kind_mask == StreamData.kind_mask and a.parent == StreamData.where("length > 3") and a.parent.parent is StreamData
    assert Beacon.where("count > 3").root is Beacon


def test_narrowing_many_times_costs_no_recursion():
    kind = StreamData
    for i in range(3000):
        kind = kind.where("to_server")
    assert hash(kind) and kind == kind.parent.where("to_server") and len(repr(kind)) > 3000


@pytest.mark.parametrize("predicate", ["", "  ", None, 3])
def test_a_predicate_is_text_or_callable(predicate):
    with pytest.raises(FilterError, match="filter text or a callable"):
        StreamData.where(predicate)


def test_on_marks_and_changes_nothing():
    @on(FlowEnd, where="tcp", priority=-3, attached=False)
    @on(StreamData, at="acked")
    def handler(ev):
        return 5

    assert handler(None) == 5
    assert marks_of(handler) == handler.__mos_marks__ == (
        Mark(StreamData, at="acked"), Mark(FlowEnd, where="tcp", priority=-3, attached=False))
    assert handler.__mos_marks__[1].target == FlowEnd.where("tcp") and handler.__mos_marks__[0].target is StreamData
    assert on(StreamData, at="seen")(lambda ev: None).__mos_marks__ == (Mark(StreamData),)
    assert marks_of(print) == ()


def test_derive_marks_a_generator_function():
    class Box:
        @derive(Beacon, on=FlowEnd.where("tcp"))
        def beacons(self, ev):
            yield Beacon(1, 2)

    (mark,) = marks_of(Box.beacons)
    assert mark.publishes is Beacon and mark.event == FlowEnd.where("tcp")
    assert inspect.isgeneratorfunction(Box.beacons)


async def _async(ev):
    pass


def _generator(ev):
    yield 1


@pytest.mark.parametrize("mark, text", [
    (lambda: on("StreamDta"), "did you mean StreamData"), (lambda: on("streamdata"), "did you mean StreamData"),
    (lambda: on(int), "takes an event class"), (lambda: on(Beacon(1, 2)), "class: Beacon"), (lambda: on(lambda ev: 1), "needs an event"),
    (lambda: on(FlowEnd, wher="tcp"), "did you mean where"), (lambda: on(FlowEnd, xyz=1), "no argument 'xyz'; it takes"),
    (lambda: on(FlowEnd, where=3), "where is a filter text"), (lambda: on(FlowEnd, where=""), "where is a filter text"),
    (lambda: on(FlowEnd, at="reciever"), "did you mean receiver"), (lambda: on(FlowEnd, at=1), "at is one of"),
    (lambda: on(FlowStart, edits="same-length"), "did you mean same_length"), (lambda: on(FlowStart, priority="high"), "priority is an int"),
    (lambda: on(FlowStart, priority=True), "priority is an int"), (lambda: on(FlowStart, holds=1), "holds is True or False"),
    (lambda: on(FlowEnd, edits="header"), "takes no answer"), (lambda: on(StreamGap, holds=True), "takes no answer"),
    (lambda: on(Timer.where("to_server"), holds=True), "takes no answer"),
    (lambda: on(StreamData, at="receiver", edits="resize"), "only observes"), (lambda: on(StreamData, holds=True, observe=True), "observe"),
    (lambda: on(FlowEnd, at="acked"), "for stream events"), (lambda: on(FlowEvent, at="acked"), "for stream events"),
    (lambda: on(Beacon, at="acked"), "for stream events"),
    (lambda: on(FlowEnd)(3), "marks a function"), (lambda: on(FlowEnd)(dict), "marks a function"), (lambda: on(FlowEnd)(_async), "is async"),
    (lambda: on(FlowEnd)(_generator), "@derive publishes"), (lambda: on(FlowEnd)(lambda: 1), "must take the event"),
    (lambda: on(FlowEnd)(lambda a, b, c: 1), "must take the event"), (lambda: on(FlowEnd)([].append), "cannot be marked"),
    (lambda: derive(FlowEnd, on=FlowEnd), "derived from UserEvent"), (lambda: derive(UserEvent, on=FlowEnd), "derived from UserEvent"),
    (lambda: derive(Beacon, on="FlowEnd"), "did you mean FlowEnd"), (lambda: derive(Beacon, on=FlowEnd, were="x"), "did you mean where"),
    (lambda: derive(Beacon, on=FlowEnd)(lambda ev: 1), "must yield the Beacons")])
def test_what_is_wrong_is_said_at_once(mark, text):
    with pytest.raises(UsageError, match=text) as caught:
        mark()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mark", [
    lambda: on(Anomaly, edits="header"), lambda: on(Event, holds=True), lambda: on(StreamData.where("to_server"), at="acked"),
    lambda: on(Beacon, where=lambda ev: True), lambda: on(FlowEnd)(lambda *a: 1), lambda: on(FlowEnd)(lambda ev, x=1: 1)])
def test_what_makes_sense_is_taken(mark):
    mark()
