"""How long flows may be silent: many connections that close in turn, among them one that speaks again."""
import pytest
from boxes import box, drive, web

from mos.events import FlowEnd, on
from mos.testing import merge, udp

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


@pytest.mark.parametrize("level", ["tcp", "flow"])
def test_connections_end_in_the_order_in_which_they_fell_silent(level):
    seen = []

    @on(FlowEnd)
    def end(ev):
        seen.append((ev.flow.last_ns, ev.reason, ev.time))
    calls = [web(port=2000 + n, start_ns=START + n * SECOND // 10) for n in range(30)]
    calls[3].wait(2)
    calls[3].ack("client")              # long closed, it waits five seconds more
    calls[5].wait(0.5).ack("client").wait(0.7).ack("server")    # twice
    clock = udp("10.9.9.9:9", "10.9.9.8:53")
    for seconds in (3, 6, 7, 30):
        clock.clock = START + seconds * SECOND
        clock.send(b"x")
    drive([box(end)], merge(*calls, clock), level=level)
    last = sorted(calls[n].packets[-1][0] for n in range(30))
    assert [s[0] for s in seen[:30]] == last
    assert 20 < last.index(calls[3].packets[-1][0]) < 29
    assert {s[1] for s in seen[:30]} == {"fin"}
    assert [s[2] for s in seen[:30]] == [START + (6 if ns <= START + SECOND else 7 if ns <= START + 2 * SECOND else 30) * SECOND
                                         for ns in last]
