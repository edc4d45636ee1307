"""Interfaces for several workers: each has sockets of its own, and the kernel shares frames out among them by flow."""
import struct

from mos.errors import UsageError
from mos.io.fanout import attach, detach, packed, program
from mos.io.interfaces import FRAGMENT_RING, SOL_PACKET, Sockets
from mos.io.port import Live

PACKET_FANOUT, PACKET_FANOUT_DATA, FANOUT_CBPF = 18, 22, 6
UNIQUE_ID, IGNORE_OUTGOING = 0x2000, 0x4000
NOTHING = [(0x06, 0, 0, 0)]         # the program of a socket that is not to receive anything yet


class SharedSockets(Sockets):
    """Sockets of one worker on one interface; to be opened in the order of the workers, which is the order in the group.

    Nothing comes before `start`, so that no frame goes to two workers, or to none, while others join. `group`: the number of the
    group that the first worker's have made. Besides, all but the first have `fragments`, which receives a copy of each.
    """

    def __init__(self, name, worker, workers, group=None, tap=False):
        self.worker, self.workers, self.group = worker, workers, group
        self.fragments = self.spare = None
        super().__init__(name, tap)

    def receiver(self):
        # a socket of a group cannot be bound a second time, when its interface is back: another one takes its place then
        self.spare = self.bare()
        if self.worker:
            self.fragments = self.bare()
            self.lay_ring(self.fragments, FRAGMENT_RING)
            attach(self.fragments, NOTHING)
            super().listen(self.fragments)
        return super().receiver()

    def listen(self, s):
        """Join the group; a socket that comes later stays outside of it, and has a filter of its own."""
        if self.rx is not None:
            return super().listen(s)
        attach(s, NOTHING)
        super().listen(s)
        how = FANOUT_CBPF | (0 if self.outgoing else IGNORE_OUTGOING)
        try:
            if self.group is not None:
                return s.setsockopt(SOL_PACKET, PACKET_FANOUT, struct.pack("=HH", self.group, how))
            s.setsockopt(SOL_PACKET, PACKET_FANOUT, struct.pack("=HH", 0, how | UNIQUE_ID))
            self.group = struct.unpack("=HH", s.getsockopt(SOL_PACKET, PACKET_FANOUT, 4))[0]
            code, held = packed(program(self.workers, link=False))
            s.setsockopt(SOL_PACKET, PACKET_FANOUT_DATA, code)
            del held
        except OSError as e:
            raise UsageError(f"--workers cannot be used here: this kernel does not share frames out by a program ({e.strerror}); "
                             "Linux 5.11 and later do") from e

    def start(self):
        """Let frames in."""
        detach(self.rx)
        if self.fragments is not None:
            attach(self.fragments, program(self.workers, "fragments"))

    def rebind(self):
        if self.spare is not None:
            self.lay_ring(self.spare, self.ring_size)
            attach(self.spare, program(self.workers, "own", self.worker))
            self.rx.close()
            self.rx, self.spare = self.spare, None
        super().rebind()

    def close(self):
        for s in (self.fragments, self.spare):
            if s is not None:
                s.close()
        super().close()


class SharedPorts:
    """One interface or two, opened for all workers before they split off; what a run has for a source in their parent.

    The parent keeps the sockets open: the group keeps its order, should a worker be gone.
    """
    live, reading, packets, progress, linktypes, joining = True, False, 0, (0, 0), {0: 1}, None

    def __init__(self, names, workers):
        self.names, self.sides, self.workers, self.pulses = names, len(names), [], None
        groups = [None] * len(names)
        try:
            for worker in range(workers):
                self.workers.append([])
                for side, name in enumerate(names):
                    sockets = SharedSockets(name, worker, workers, groups[side], tap=len(names) == 1)
                    groups[side] = sockets.group
                    self.workers[-1].append(sockets)
        except BaseException:
            self.close()
            raise

    def start(self):
        """Let frames in, for all workers at once."""
        for of_worker in self.workers:
            for sockets in of_worker:
                sockets.start()

    def port(self, worker):
        """The port of one worker, in its process: the others' are closed there."""
        for i, of_worker in enumerate(self.workers):
            if i != worker:
                for sockets in of_worker:
                    sockets.close()
        live = Live(self.names, self.workers[worker], worker, len(self.workers))
        live.joining = self.joining
        if self.pulses is not None:
            live.beat(self.pulses, worker)
        return live

    def beat(self, memory):
        """Each worker's pulse is in that memory, at its place."""
        self.pulses = memory

    def discard(self):
        """As a port's: nothing comes before `start`."""

    def stats(self):
        """The workers have them."""
        return {}

    def close(self):
        for of_worker in self.workers:
            for sockets in of_worker:
                sockets.close()
