"""How flows and timers end."""
import pytest
from mos.events import FlowStart, Timer, on
from mos.testing import run, tcp


@pytest.mark.parametrize("every", [False, True])
def test_a_timer_may_be_cancelled_by_its_own_handler(every):
    """AddressSanitizer sees it best: the timer and its value are still in use when the handler lets go of them."""
    handles, seen = [], []

    @on(FlowStart)
    def start(ev):
        handles.append(ev.flow.timer(1, ["value"] * 3, every=every))

    @on(Timer)
    def timer(ev):
        seen.append((ev.flow.cancel(handles[0]), list(ev.value), ev.flow.cancel(handles[0])))
    result = run([start, timer], tcp("10.0.0.1:1234", "10.0.0.2:80").wait(5).send(b"x").wait(5).send(b"y").close())
    assert seen == [(every, ["value"] * 3, False)]
    assert result.stats["timers"] == 0
