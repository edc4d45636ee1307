"""Who is asked about an event, in which order and how often."""
from boxes import box, drive, noting, question, web

from mos.events import Event, FlowEnd, FlowEvent, FlowStart, PacketIn, StreamData, TcpEvent, on


def test_the_walk_is_the_chain_forward_and_backward():
    seen = []
    drive([box(noting(seen, n)) for n in "abc"], question())
    assert seen == [("a", "up"), ("b", "up"), ("c", "up"), ("c", "down"), ("b", "down"), ("a", "down")]


def test_reverse_can_be_switched_off():
    seen = []
    drive([box(noting(seen, n)) for n in "ab"], question(), reverse=False)
    assert [tag for tag, _ in seen] == ["a", "b", "a", "b"]


def test_within_a_position_priority_then_order_of_writing():
    seen = []
    order = [noting(seen, "3"), noting(seen, "5", priority=2), noting(seen, "1", priority=-1), noting(seen, "4"),
             noting(seen, "2", priority=-1)]
    order[3], order[4] = order[4], order[3]
    drive([box(*order)], question())
    up = [tag for tag, way in seen if way == "up"]
    assert up == ["1", "2", "3", "4", "5"] == [tag for tag, way in seen if way == "down"]


def test_two_marks_on_one_function_are_two_handlers():
    seen = []

    @on(FlowStart)
    @on(FlowEnd)
    def both(ev):
        seen.append(type(ev).__name__)
    drive([box(both)], question())
    assert seen == ["FlowStart", "FlowEnd"]


def test_a_parent_receives_its_children_once_each():
    seen = {Event: [], FlowEvent: [], TcpEvent: []}
    handlers = []
    for kind, names in seen.items():
        @on(kind)
        def note(ev, names=names):
            names.append((type(ev), ev.time))
        handlers.append(note)
    drive([box(*handlers)], web())
    assert {k for k, _ in seen[FlowEvent]} >= {FlowStart, StreamData, FlowEnd} and PacketIn in {k for k, _ in seen[Event]}
    assert all(issubclass(k, FlowEvent) for k, _ in seen[FlowEvent]) and all(issubclass(k, TcpEvent) for k, _ in seen[TcpEvent])
    assert [x for x in seen[Event] if issubclass(x[0], FlowEvent)] == seen[FlowEvent]
    assert [x for x in seen[FlowEvent] if issubclass(x[0], TcpEvent)] == seen[TcpEvent]


def test_a_filter_is_asked_in_c():
    seen = []
    drive([box(noting(seen, "big", where="length > 2"), noting(seen, "up", where="to_server"))],
          question().send(b"longer"))
    assert seen == [("up", "up"), ("big", "up"), ("up", "up")]


def test_narrowed_events_nest_and_prune():
    asked, seen = [], []
    event = StreamData.where("to_server")
    for depth in range(16):
        def predicate(ev, depth=depth):
            asked.append(depth)
            return depth < 12 or len(ev.data) > 2
        event = event.where(predicate)
    drive([box(noting(seen, "deep", event))], question().send(b"long enough"))
    assert asked == [*range(13), *range(16)]       # false at 12: the rest is not asked; the answer's way never gets to 0
    assert seen == ["deep"]


def test_a_shared_predicate_is_asked_once_an_event():
    asked, seen = [], []

    def text(ev):
        asked.append(ev.offset)
        return True
    narrow = StreamData.where("to_server").where(text)
    drive([box(noting(seen, n, narrow), noting(seen, n + "2", narrow.where("length > 100"))) for n in "abc"], question(2))
    assert seen == ["a", "b", "c"] * 2 and asked == [0, 2]
