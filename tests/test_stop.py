"""mos/cli/stop.py: what a signal does, by where it finds us. As a process: test_run_cmd.py."""
import os
import signal
from types import SimpleNamespace

import pytest

from mos.cli.stop import Stop


class Running:
    """What Stop is given: `reading` says whether input is being waited for."""

    def __init__(self, reading=False):
        self.source = SimpleNamespace(reading=reading)
        self.halted = 0
        self.engine = SimpleNamespace(halt=self.halt)

    def halt(self):
        self.halted += 1


def test_a_packet_is_finished_first():
    running = Running()
    with Stop() as stop:
        stop.watch(running)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.signal, stop.status, running.halted) == (signal.SIGTERM, 143, 1)
        assert stop.first()


def test_waiting_for_input_is_ended():
    with Stop() as stop:
        stop.watch(Running(reading=True))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.status == 130


def test_before_the_run_there_is_nothing_to_finish():
    with Stop() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.status == 143


def test_a_second_signal_does_not_wait_and_the_first_one_counts():
    with Stop() as stop:
        stop.watch(Running())
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.status == 143 and not stop.first()


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
