"""Sequence numbers: the arithmetic, and conversations that cross 2**32 anywhere."""
import pytest
from driver import load
from events import play, states
from hypothesis import given
from hypothesis import strategies as st

from mos.testing import tcp

RING = 1 << 32
numbers = st.one_of(st.integers(0, RING - 1), st.sampled_from([0, 1, RING // 2 - 1, RING // 2, RING - 1]))


@pytest.fixture(scope="module")
def driver():
    return load("seq_driver")


@given(a=numbers, d=st.integers(-(RING // 2), RING // 2 - 1))
def test_the_shorter_way_round_the_ring_decides(driver, a, d):
    b = (a - d) % RING
    assert driver.compare(a, b) == (d, d < 0, d <= 0, d > 0, d >= 0, a if d > 0 else b)


@given(lo=numbers, x=numbers, width=st.integers(0, RING - 1))
def test_between_includes_both_ends(driver, lo, x, width):
    assert driver.between(lo, x, (lo + width) % RING) == ((x - lo) % RING <= width)


def conversation(isn):
    """Everything that compares sequence numbers: disorder, copies, conflict, refusals, zero window, half-close, FIN."""
    c = tcp("10.0.0.1:1234", "10.0.0.2:80", isn=isn, timestamps=True).send(b"a" * 3000, ack=False)
    c.reorder(-2).ack().retransmit(-2).overlap(-3, b"b" * 20, shift=1)
    c.reply(b"c" * 5000, ack=False).lose(-2, resend=True).ack("client")
    c.segment("client", b"far", seq=1 + 9_000_000).segment("server", flags="R", seq=77_777_777).segment("server", ack=60_000)
    c.segment("client", sack=[(6000, 7000)]).window(0).segment("client", b"p").window(65535)
    return c.keep_alive().fin().reply(b"late" * 500).close("server").retransmit(-3)


WANT = play(conversation((1000, 2000)))
STATES = states(conversation((1000, 2000)))


@pytest.mark.parametrize("truth", ["tap", "inline"])
@pytest.mark.parametrize("back", [0, 1, 2, 3, 1460, 1461, 2921, 3001, 5000, 7001, 1 << 31, (1 << 31) + 1])
def test_the_log_does_not_depend_on_the_initial_sequence_numbers(back, truth):
    want = WANT if truth == "tap" else play(conversation((1000, 2000)), truth=truth)
    assert len(want) > 20
    for isn in ((-back % RING, 2000), (1000, -back % RING), (-back % RING, (-back - 7) % RING)):
        got = play(conversation(isn), truth=truth)
        assert got == want
        assert got.streams == want.streams
    assert states(conversation((-back % RING, -back % RING))) == STATES


def test_a_stream_beyond_4_gib_keeps_its_offsets():
    """Five gigabytes that the tap lost, a window at a time; what it saw comes at 64-bit offsets."""
    c, want, at = tcp("10.0.0.1:1234", "10.0.0.2:80", wscale=14), [], 0
    for i in range(6):
        c.segment("client", b"x" * 100, offset=at).ack().wait(2).ack()
        want.append(f"StreamData > {at}+100")
        if i:
            want.insert(-1, f"StreamGap > acked {at - 999_999_900}+999999900")
        at += 1_000_000_000
    c.segment("client", b"y" * 50, offset=at - 999_999_900)
    log = play(c)
    assert log.of("StreamData", "StreamGap") == want + ["StreamData > 5000000100+50"]
