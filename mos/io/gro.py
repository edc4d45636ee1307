"""Receive offload (GRO) of ports: the kernel joins what it can of a flow's frames before they come, and cuts it again as it leaves.

Up to 44 full frames of a TCP connection then cost what one does. It joins only neighbours with the same header, in order and with
right checksums, so that cutting gives the very frames that came; with a push flag, or when no more are there, it waits no longer.
"""
import contextlib
import os
import select
import signal

from mos.io.interfaces import ethtool
from mos.privileges import limit

ETHTOOL_GGRO, ETHTOOL_SGRO = 0x2B, 0x2C
CHOICES = ("on", "off", "keep")
PATIENCE = 2            # s that putting it back may take; it waits for what a handler has started and left running
STOP = b"s"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def joins(name):
    """Whether an interface's frames are joined; None if it does not say."""
    with contextlib.suppress(OSError):
        return bool(ethtool(name, ETHTOOL_GGRO))
    return None


class Joining:
    """Ports' frames joined ("on"), or not ("off"), or as it is set ("keep"), from `set` until `restore`.

    `refused`: the names of those that could not be set.
    """

    def __init__(self, names, wish):
        self.names, self.wish = names, wish
        self.before, self.refused = {}, []
        self.pipe = None
        self.stopped = False

    def set(self):
        if self.wish != "keep":
            self.refused = self.put(self.wish == "on", {name: joins(name) for name in self.names})

    def put(self, wanted, now):
        """Those that could not be set; the others' state is noted at the first time."""
        refused = []
        for name, before in now.items():
            try:
                if before not in (None, wanted):
                    ethtool(name, ETHTOOL_SGRO, wanted)
                if before is not None:
                    self.before.setdefault(name, before)
            except OSError:
                refused.append(name)
        return refused

    def again(self, name):
        """An interface of that name is back, which may be a new one."""
        if self.stopped or self.wish == "keep":
            return
        if self.pipe is None:
            self.refused = self.put(self.wish == "on", {name: joins(name)})
        else:
            os.write(self.pipe[1], b"%d" % self.names.index(name))

    def complaints(self):
        """What to tell people of those that could not be set."""
        return [f"--gro {self.wish}: {name} cannot be set (cap_net_admin); by hand: ethtool -K {name} gro {self.wish}"
                for name in self.refused]

    def put_back(self):
        for name, before in self.before.items():
            with contextlib.suppress(OSError):      # it was removed, and is as new
                ethtool(name, ETHTOOL_SGRO, before)

    def stop(self):
        """No joining any more; what to tell people. In tunnels (IP in IP, GRE) the kernel joins what it does not cut for us."""
        if self.stopped or self.wish != "on":
            return []
        self.stopped = True
        if self.pipe is None:
            self.put(False, dict.fromkeys(self.before, True))
        else:
            os.write(self.pipe[1], STOP)
        ports = " and ".join(self.names)
        return [f"{ports} join no frames any more: inside tunnels there were joined ones, which are lost (--gro off)"]

    def leave_behind(self):
        """Have a process of its own put it back when we, and all that we start, have ended, whatever ends us.

        For who gives up the privilege to do so. It is nobody's child, hears no signal and has no other file open.
        """
        if not self.before:
            return
        done, self.pipe = os.pipe(), os.pipe()
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            os.close(self.pipe[0])
            os.close(done[1])
            self.done = done[0]
            return
        try:
            os.setsid()
            if os.fork() == 0:
                self.wait_behind({self.pipe[0], done[1]})
        finally:
            os._exit(0)

    def wait_behind(self, keep):
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in keep:
                with contextlib.suppress(OSError):
                    os.close(fd)
        limit(("cap_net_admin",))
        while word := os.read(self.pipe[0], 1):     # else the other end is closed
            if word == STOP:
                self.put(False, dict.fromkeys(self.before, True))
            else:
                name = self.names[int(word)]
                self.put(self.wish == "on", {name: joins(name)})
        self.put_back()

    def restore(self):
        """Put it back, or have it put back, and wait for that. Idempotent."""
        if self.pipe is None:
            self.put_back()
        else:
            os.close(self.pipe[1])
            select.select([self.done], [], [], PATIENCE)
            os.close(self.done)
        self.before, self.pipe = {}, None
