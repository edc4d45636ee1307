"""Telling a service manager how it goes (sd_notify(3)): nothing is sent where nobody has asked."""
import os
import socket
import time


def notify(*lines):
    """Send lines such as READY=1, STOPPING=1, WATCHDOG=1, STATUS=text. Never fails: it is not what we are here for."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] in ("/", "@"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            try:
                s.sendto("\n".join(lines).encode(), "\0" + path[1:] if path[0] == "@" else path)
            except OSError:
                pass


def period():
    """How often WATCHDOG=1 is to be sent, seconds: half of what systemd allows (WatchdogSec=). 0: it does not ask."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
    except ValueError:
        return 0


class Service:
    """A run as its service manager sees it: ready from now on, alive as long as `beat` is called."""

    def __init__(self, *lines):
        self.period, self.told = period(), time.monotonic()
        notify("READY=1", *lines)

    def beat(self):
        """As often as it likes."""
        if self.period and time.monotonic() - self.told > self.period:
            self.told = time.monotonic()
            notify("WATCHDOG=1")

    @staticmethod
    def stopping():
        notify("STOPPING=1")
