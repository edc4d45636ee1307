"""What stands outside a run that may fail: a process that runs no middlebox and reads no packet, and decides what passes then.

It makes a kernel bridge behind the ports (`mos.io.bridge`), starts the run as its child, and looks at it: whether it lives
(pidfd), goes on (a number in shared memory that goes up with every batch) and how much memory it takes. A child that has
failed is killed, the bridge passes everything or nothing, and after a while a new child is started.
"""
import errno
import mmap
import os
import select
import signal
import struct
import sys
import time
from contextlib import suppress

from mos import privileges
from mos.io.bridge import Bridge
from mos.notify import Service, notify

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TICK = 0.1              # s between two looks: what a hang, or memory, may be noticed late
START = 300             # s that a start may take: chains read tables of their own
AT_ONCE = 2             # s that are left of that after a second signal
DRAIN = 30              # s that flows may take to end: 10^6 of them, with handlers in Python, are a few
TRACE = 0.3             # s for a hanging child to say where it hangs
FIRST, LONGEST = 1, 60  # s before a new start: doubled each time, back to the first after a child ran for the longest
READY, GO, DISCARD = b"R", b"G", b"D"
PR_SET_PDEATHSIG = 1


class Child:
    """The supervisor as the run sees it."""
    warning = ""            # to be told once the run has begun

    def __init__(self, report, order, memory, parent):
        self.report, self.order, self.memory, self.parent = report, order, memory, parent

    def begin(self, port):
        """Ports are open: wait until they are ours alone, and run from now on under the supervisor's eyes.

        If the supervisor dies we end in good order, rather than run on with nobody behind us.
        """
        port.beat(self.memory)
        privileges.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os.write(self.report, READY)
        if os.read(self.order, 1) == DISCARD:
            port.discard()
        if os.getppid() != self.parent:
            os.kill(os.getpid(), signal.SIGTERM)


class Supervisor:
    """`names`: the two ports. `opens`: on failure everything passes, else nothing. `run(child)` is the run; its exit status.

    `hang`: seconds without progress of one of its `workers`, `memory`: bytes of all of them that are no file's;
    `keep`: capabilities that it takes to start the run again, None for all; `say` is told each thing that happens.
    """

    def __init__(self, names, opens, run, *, hang, memory, workers=1, keep=privileges.PORTS, seconds=None,
                 say=print):
        self.names, self.opens, self.function, self.say = names, opens, run, say
        self.hang, self.memory, self.workers, self.keep = hang, memory, workers, keep
        self.end = time.monotonic() + seconds if seconds else None
        self.shared = mmap.mmap(-1, mmap.PAGESIZE)      # before any fork: every child has the same page
        self.bridge = Bridge(names)
        self.stopped = self.pending = 0     # the signal that asked for the end; one to be handed on to the child
        self.status = 0
        self.wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.service = None

    def go(self):
        """Run to the end; the exit status. Raises UsageError if the ports cannot be had."""
        self.bridge.arm()
        before = {}
        try:
            if self.keep is not None:
                privileges.limit(self.keep)
            signal.set_wakeup_fd(self.wake[1], warn_on_full_buffer=False)
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, lambda *_: None)
            self.before = before
            self.watch()
        finally:
            self.bridge.remove()
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)
        return self.status

    def watch(self):
        """One child after the other, until one ends in good order or is told to."""
        delay, attempt = FIRST, 1
        while True:
            began = time.monotonic()
            one = Watched(self, attempt)
            failed = one.see()
            if failed is None:
                return
            if time.monotonic() - began > LONGEST:
                delay = FIRST
            if self.opens:
                self.switch(True)
            passes = "everything passes unseen" if self.opens else "nothing passes"
            self.say(f"{failed}; {passes}; starting again in {delay} s")
            notify(f"STATUS={failed}; {passes}")
            if self.rest(delay):
                self.say(f"ended while the run was down; {' and '.join(self.names)} are as they were")
                return
            delay, attempt = min(delay * 2, LONGEST), attempt + 1

    def rest(self, seconds):
        """Wait before a new start; True: the end has come instead."""
        self.status = 1
        end = time.monotonic() + seconds
        while not self.stopped and (left := end - time.monotonic()) > 0:
            self.wait([], min(left, TICK))
            if self.end and time.monotonic() > self.end:
                return True
        return bool(self.stopped)

    def wait(self, fds, seconds):
        """Those of `fds` that are readable, in time. Signals and the service manager are seen to."""
        poll = select.poll()
        for fd in (self.wake[0], *fds):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(seconds * 1000)]
        if self.wake[0] in ready:
            with suppress(BlockingIOError):
                for number in os.read(self.wake[0], 64):
                    self.stopped = number if number in SIGNALS else self.stopped
                    self.pending = number
        if self.service is not None:
            self.service.beat()
        return ready

    def switch(self, opens):
        try:
            self.bridge.switch(opens)
        except OSError as e:
            said = self.bridge.mend()
            self.say(f"{self.bridge.name} could not be switched: {e.strerror}; {said or 'it is as before'}")

class Watched:
    """One child, from its start to its end."""

    def __init__(self, supervisor, attempt):
        self.supervisor, self.attempt = supervisor, attempt
        self.failed = None          # why it had to be killed
        self.running = self.ending = False
        self.drain = DRAIN
        self.since = self.looked = time.monotonic()
        self.beats, self.still = [None] * supervisor.workers, [0.0] * supervisor.workers
        self.mended = 0.0

    def start(self):
        """Fork. The child never returns."""
        s = self.supervisor
        self.report, theirs = os.pipe()
        ours, self.order = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.setpgid(0, 0)            # a terminal's Ctrl-C is for the supervisor, who hands it on
                signal.set_wakeup_fd(-1)
                for number, handler in s.before.items():
                    signal.signal(number, handler)
                for fd in (self.report, self.order, *s.wake, s.bridge.netlink.socket.fileno(), s.bridge.lock.fileno()):
                    os.close(fd)
                os.environ.pop("NOTIFY_SOCKET", None)
                prefer_killing()
                status = s.function(Child(theirs, ours, s.shared, parent), self.attempt, s.end and s.end - time.monotonic())
            finally:
                with suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)
        os.close(theirs)
        os.close(ours)
        self.pidfd = os.pidfd_open(self.pid)

    def see(self):
        """Look at it until it ends. Why it failed, or None: it ended in good order, and the supervisor's `status` is its own."""
        s = self.supervisor
        self.start()
        fds = [self.pidfd, self.report]
        while True:
            ready = s.wait(fds, TICK)
            if s.pending and not self.failed:
                self.hand_on(s.pending)
            if self.report in ready:
                if os.read(self.report, 1) == READY:
                    self.take_over()
                else:
                    fds.remove(self.report)
            if self.pidfd in ready:
                return self.over()
            if not self.failed:
                self.look()

    def take_over(self):
        """It has opened its ports: packets are the child's from now on."""
        s = self.supervisor
        was_open = s.bridge.open
        if was_open:
            s.switch(False)
        with suppress(BrokenPipeError):
            os.write(self.order, DISCARD if was_open else GO)
        self.running, self.since = True, time.monotonic()
        s.service = Service(f"STATUS=running between {' and '.join(s.names)}")

    def hand_on(self, number):
        s = self.supervisor
        s.pending = 0
        self.drain = AT_ONCE if self.ending else DRAIN
        self.since = time.monotonic()
        if not self.ending:
            self.ending = True
            Service.stopping()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def look(self):
        """Does it go on, and within its memory?"""
        s, now = self.supervisor, time.monotonic()
        passed, self.looked = min(now - self.looked, 3 * TICK), now     # if we were kept from running, so was the child
        for i, beat in enumerate(struct.unpack_from(f"={s.workers}Q", s.shared)):
            self.still[i] = 0.0 if beat != self.beats[i] else self.still[i] + passed
            self.beats[i] = beat
        if self.ending or not self.running:
            if now - self.since > (self.drain if self.ending else START):
                self.kill(f"the run did not {f'end within {self.drain}' if self.ending else f'start within {START}'} s")
        elif max(self.still) > s.hang:
            self.kill(f"the run hangs: no packet was worked off for {max(self.still):.1f} s (--hang-after {s.hang:g})", trace=True)
        elif (used := sum(map(anonymous, family(self.pid)))) > s.memory:
            self.kill(f"the run uses {used >> 20} MB (--max-memory {s.memory >> 20}M)")
        elif now - self.mended > 1:
            self.mended = now
            said = s.bridge.mend()
            if said:
                s.say(said)

    def kill(self, why, trace=False):
        """`trace`: first by SIGABRT, at which the child says where it is (faulthandler); that needs no interpreter that goes on."""
        self.failed = f"{why}; it was killed"
        if trace:
            os.kill(self.pid, signal.SIGABRT)
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            poll.poll(TRACE * 1000)
        self.end_all()

    def end_all(self):
        """The child, and what it has started."""
        for kill in (os.kill, os.killpg):
            with suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)

    def over(self):
        s = self.supervisor
        self.end_all()
        _, how = os.waitpid(self.pid, 0)
        for fd in (self.pidfd, self.report, self.order):
            os.close(fd)
        code = os.waitstatus_to_exitcode(how)
        s.status = code if code >= 0 else 128 - code
        if s.stopped or (self.attempt == 1 and not self.running and not self.failed) or (code == 0 and not self.failed):
            if self.failed or (code < 0 and self.running):
                s.say(self.failed or f"the run was killed by {name_of(-code)} while it ended")
            return None
        return self.failed or (f"the run ended with status {code}" if code > 0 else f"the run was killed by {name_of(-code)}")


def name_of(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def prefer_killing():
    """If memory runs out the kernel shall end the child, and not the supervisor."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as f:
        f.write("500")


def family(pid):
    """A process and its children."""
    with suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [pid, *map(int, f.read().split())]
    return [pid]


def anonymous(pid):
    """Memory of a process that belongs to no file, swapped out or not, bytes; 0: it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
            return sum(int(line.split()[1]) << 10 for line in f if line.startswith(("RssAnon:", "VmSwap:")))
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ESRCH):
            return 0
        raise


def most_memory():
    """Three quarters of what there is: of the machine, or of our control group, if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, StopIteration):
        with open("/proc/self/cgroup", encoding="ascii") as f:
            path = next(line[3:].strip() for line in f if line.startswith("0::"))
        while True:
            with suppress(OSError, ValueError), open(f"/sys/fs/cgroup{path.rstrip('/')}/memory.max", encoding="ascii") as f:
                total = min(total, int(f.read()))
            if path in ("", "/"):
                break
            path = path.rpartition("/")[0]
    return total * 3 // 4
