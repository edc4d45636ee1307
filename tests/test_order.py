"""Order of handlers: rows against the definition, word by word."""
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from mos.events.order import ACKED, MOMENTS, RECEIVER, SENDER, in_order, listeners, walk
from mos.events.spec import BITS, LEAVES
from mos.events.user import UserEvent

CHANGE = BITS["TcpStateChange"]
handler = st.builds(SimpleNamespace, first=st.just(False), position=st.integers(0, 3), priority=st.integers(-1, 1),
                    kind_mask=st.sampled_from([1, 2, 1 << CHANGE, (1 << len(LEAVES)) - 1]),
                    moments=st.sampled_from([(SENDER,), (RECEIVER,), (ACKED,)]), user_class=st.none())


@given(st.lists(handler, max_size=8), st.booleans(), st.sets(st.integers(0, 7)))
def test_rows_hold_who_listens_nearest_first(subscriptions, reverse, chosen):
    members = {i for i in chosen if i < len(subscriptions)}
    rows = walk(subscriptions, members, reverse)
    assert len(rows) == len(MOMENTS) * len(LEAVES) * 2
    for n, row in enumerate(rows):
        at, kind, up = n // 2 // len(LEAVES), n // 2 % len(LEAVES), n % 2
        wanted = {i for i in members if subscriptions[i].kind_mask >> kind & 1
                  and (at in subscriptions[i].moments
                       or (kind == CHANGE and at == RECEIVER and SENDER in subscriptions[i].moments))}
        assert set(row) == wanted and len(row) == len(wanted)
        for a, b in zip(row, row[1:]):
            x, y = subscriptions[a], subscriptions[b]
            if x.position != y.position:
                assert (x.position < y.position) == bool(up or not reverse)
            else:
                assert (x.priority, a) < (y.priority, b)


def test_the_log_comes_before_all():
    s = [SimpleNamespace(first=f, position=p, priority=0) for f, p in ((False, 0), (True, 3), (False, 1))]
    assert in_order(s, [0, 1, 2]) == [1, 0, 2] and in_order(s, [0, 1, 2], -1) == [1, 2, 0]


def test_listeners_of_a_class_and_those_above_it():
    class Upper(UserEvent):
        n: int

    class Lower(Upper):
        m: int
    s = [SimpleNamespace(first=False, position=2 - i, priority=0, user_class=c) for i, c in enumerate((Upper, Lower, None))]
    known = {}
    assert listeners(s, Lower, known) == [1, 0] and listeners(s, Upper, known) == [0]
    assert listeners([], Lower, known) == [1, 0], "remembered"
