"""Several processes on one capture, or on one wire. Each takes its part of the flows (mos.net.shard), with a stack of its own.

Of a capture each reads all; on a wire the kernel shares frames out (mos.io.fanout).

The engine is made, and its boxes started, before the processes split off. What they print and log comes to the parent with its
place in the run (packet, then what was due before it, then the order within) and is put in one order: that of a run with one
worker. In the end each sends its declared state and its counters; they are merged in the parent's engine, which stops the boxes.
"""
import heapq
import io
import os
import pickle
import signal
import stat
import struct
import sys
import time
from functools import partial

from mos.errors import CaptureError, MosError, UsageError
from mos.io.source import open_source
from mos.memory import Collector
from mos.state.kinds import worker_refusal

MOST = 64               # workers: more than cores that read one file do any good
FLUSH = 256             # records on their way together
TICK_SECONDS = 0.05     # between two words on how far a worker is in a capture
OUT, ERR, LOG, TICK, FAIL, END = range(6)
STOPS = (signal.SIGINT, signal.SIGTERM)
AFTER_ALL = (1 << 64, 9, 0, 0)
LENGTH = struct.Struct("<I")
PLAIN = (int, float, str, bytes, list, dict, set, tuple, bytearray)


def check(chain, path, further=(), hint=""):
    """Raise UsageError if this chain cannot be split among workers, or the capture not be read by each of them.

    `path` None: it is no capture. `further`: more reasons against it. `hint`: what else can be done.
    """
    reasons = [reason for reason in map(worker_refusal, chain.declarations()) if reason]
    reasons += [f"{s.name} is called at intervals, which each worker would do" for s in chain.subscriptions if s.tick is not None]
    reasons += [f"{s.name} is async, and its loop stays in one process" for s in chain.subscriptions if s.asynchronous]
    reasons += further
    if path is not None and (path == "-" or os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode)):
        reasons.append("every worker reads the capture by itself, so it has to be a file")
    if reasons:
        raise UsageError("--workers cannot be used here: " + "; ".join(reasons) + hint)


class Part(io.TextIOBase):
    """What a worker writes to: its text goes to the parent as records of one kind."""

    def __init__(self, worker, kind):
        self.worker, self.kind = worker, kind

    def writable(self):
        return True

    def write(self, text):
        self.worker.put(self.kind, text)
        return len(text)


class Worker:
    """This process's part of the run; `fd` leads to the parent. `on_wire`: packets were shared out, by the kernel or in a
    recording."""

    def __init__(self, engine, index, count, fd, on_wire):
        self.engine, self.fd = engine, fd
        self.records, self.ticked, self.collector = [], 0.0, Collector()
        engine.stack.share(index, count, on_wire)
        engine.ticks = self.tick
        self.writers = [writer for writer in (engine.writer, engine.recorder) if writer is not None]
        for writer in self.writers:
            writer.take_part(index)
        if engine.log is not None:
            engine.log.file, engine.log.owned = Part(self, LOG), False
        sys.stdout, sys.stderr = Part(self, OUT), Part(self, ERR)

    def put(self, kind, content, place=None):
        self.records.append((place or self.engine.stack.place, kind, content))
        if len(self.records) >= FLUSH:
            self.flush()

    def flush(self):
        data = pickle.dumps(self.records, 5)
        self.records.clear()
        data = memoryview(LENGTH.pack(len(data)) + data)
        while data:
            data = data[os.write(self.fd, data):]

    def tick(self, packets):
        """How far this worker is; of a capture not more often than people look, since the parent is busy with each."""
        self.collector.look()
        if self.engine.writer is not None:
            self.engine.writer.mark(self.engine.stack.place)
        for writer in self.writers:
            writer.flush()
        now = time.monotonic()
        if self.engine.source.live or now - self.ticked >= TICK_SECONDS:
            self.ticked = now
            self.tell(packets)

    def tell(self, packets):
        self.put(TICK, (packets, self.engine.source.progress))
        self.flush()

    def go(self, source, until, explain):
        """Take the part of what `source()` opens, to its end. `explain` makes of an exception what the user is to read, and an
        exit status."""
        engine = self.engine
        signal.signal(signal.SIGINT, signal.SIG_IGN)        # the parent decides, and sends SIGTERM
        signal.signal(signal.SIGTERM, lambda *_: engine.stack.halt())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        kept = snapshot(engine.chain)
        damage = None
        try:
            source = source()
            if not source.live:
                source.waits = lambda: self.tell(engine.stack.packets)      # else it might wait for who waits for its turn to tell
            try:
                engine.run(source, until=until)
            except CaptureError as e:
                damage = str(e)
            finally:
                if not source.live:
                    source.leave()
            engine.end_flows()
            for writer in self.writers:
                writer.flush()
        except BaseException as e:
            self.put(FAIL, explain(e))
            return self.flush()
        state = [store.share() if (store := engine.slots.stores.get(d)) is not None else None for d in engine.chain.declarations()]
        content = {"state": state, "stats": engine.stats(), "damage": damage, "lost": changed(engine.chain, kept)}
        self.put(END, content, AFTER_ALL)
        self.flush()


class Workers:
    """The processes as their parent sees them. `records` are what they tell, in order; then `merge` what they left.

    `again`: the capture is the recording of so many workers on a wire, and each takes what that one had.
    """

    def __init__(self, engine, count, again=False):
        self.engine, self.count, self.again = engine, count, again
        if engine.stack.counters()["timers"]:
            raise UsageError("--workers cannot be used here: a timer that belongs to no flow would fire in each worker")
        self.pids, self.pipes, self.ends = [], [], []
        self.source = self              # of the progress bar
        self.progress = (0, 0)
        self.before = [store.share() if (store := engine.slots.stores.get(d)) is not None else None
                       for d in engine.chain.declarations()]
        self.writers = [writer for writer in (engine.writer, engine.recorder) if writer is not None]
        for writer in self.writers:
            writer.split(count)

    def start(self, source, path, until, explain):
        """Split off the workers, for a capture that is open, and at `path`, or for ports (mos.io.shared), and no path."""
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)     # whoever gets one is to have the handler that is his
        try:
            self.split(source, path, until, explain)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def split(self, source, path, until, explain):
        together = path is not None and not self.again and source.split()
        for index in range(self.count):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    for pipe in [read, *self.pipes]:
                        os.close(pipe)
                    take = (lambda: source) if together else partial(source.port, index) if path is None else \
                        partial(self.part_of, path, index)
                    Worker(self.engine, index, self.count, write, path is None or self.again).go(take, until, explain)
                    status = 0
                except BrokenPipeError:             # the parent has enough
                    pass
                finally:
                    os._exit(status)
            os.close(write)
            self.pids.append(pid)
            self.pipes.append(read)

    def part_of(self, path, index):
        """The capture as one worker reads it."""
        source = open_source(path)
        return source.only(index, self.count) if self.again else source

    def gather(self, rest=False):
        """Put what the workers have written in order so far, or once they have ended all the `rest`."""
        for writer in self.writers:
            writer.gather(rest)

    def records(self):
        """(kind, content) of what all workers print, log and report, in the order of the run; their ends are kept."""
        for _, kind, content in heapq.merge(*[told(pipe, pid) for pipe, pid in zip(self.pipes, self.pids)], key=lambda r: r[0]):
            if kind == END:
                self.ends.append(content)
            elif kind == TICK:
                self.progress = content[1]
                yield kind, content[0]
            else:
                yield kind, content

    def halt(self):
        """Let every worker end its flows where it is."""
        for pid in self.pids:
            os.kill(pid, signal.SIGTERM)

    def reap(self):
        """No worker outlives the run."""
        for pipe in self.pipes:
            os.close(pipe)
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.pids, self.pipes = [], []

    def merge(self):
        """Declared state of all workers into the parent's engine. Raises UsageError if values cannot be merged."""
        for i, declaration in enumerate(self.engine.chain.declarations()):
            if self.before[i] is not None:
                store = self.engine.slots.stores[declaration]
                try:
                    store.absorb(self.before[i], [end["state"][i] for end in self.ends], declaration.merge)
                except TypeError as e:
                    raise UsageError(f"{declaration.kind} {declaration.name}: its values cannot be merged: {e}") from None

    @property
    def damage(self):
        """What is wrong with the capture, as one worker met it; None: nothing."""
        return next((end["damage"] for end in self.ends if end["damage"]), None)

    @property
    def lost(self):
        """Names that are no declared state and changed in a worker, where nobody sees them any more."""
        return sorted({name for end in self.ends for name in end["lost"]})

    def stats(self, seconds):
        """Counters of all workers as those of one run."""
        out = merged([end["stats"] for end in self.ends])
        out["seconds"] = round(seconds, 6)
        out["packets_per_cpu_second"] = round(out["packets_in"] / out["cpu_seconds"]) if out["cpu_seconds"] else 0
        return out | {"workers": self.count}


def told(pipe, pid):
    """What one worker tells, record by record. Raises MosError if it is gone without having told its end."""
    while True:
        head = read_exactly(pipe, LENGTH.size)
        body = read_exactly(pipe, LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""
        if not body:
            raise MosError(f"worker {pid} ended before its work was done")
        for record in pickle.loads(body):
            yield record
            if record[1] in (FAIL, END):
                return


def read_exactly(pipe, size):
    """`size` bytes, fewer if the other end is closed."""
    parts = []
    while size:
        part = os.read(pipe, min(size, 1 << 20))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# Counters that are no sums: what each worker has of its own alike, and what all of them see of fragments and link types.
ALIKE = {"record", "extra", "flow_bytes", "sets", "domains"}
OF_FRAGMENTS = {"fragments_duplicate", "fragments_no_memory", "domain_overflow"}


def merged(parts, name="", inside=""):
    """Counters of several stacks as one: sums, but for what each has alike or one worker counts for all."""
    first = parts[0]
    if isinstance(first, dict):
        keys = dict.fromkeys(key for part in parts for key in part)
        return {key: merged([part[key] for part in parts if key in part], key, name) for key in keys}
    if isinstance(first, (list, tuple)):
        return [merged(each) for each in zip(*parts)]
    if first is None or isinstance(first, str):
        return first
    if name in ALIKE:
        return max(parts)
    if inside == "decode" and (name in OF_FRAGMENTS or name.startswith(("datagrams_", "fragments"))):
        return first
    return sum(parts)


def snapshot(chain):
    """{name: fingerprint} of plain values in boxes and their modules: what a handler may change without declaring it."""
    found = {}
    for name, nf in zip(chain.names, chain.nfs):
        module = getattr(nf, "module", None) or sys.modules.get(type(nf).__module__)
        for where, names in ((name, vars(nf)), (getattr(module, "__name__", ""), vars(module) if module else {})):
            for key, value in names.items():
                if isinstance(value, PLAIN) and not key.startswith("__"):
                    found[f"{where.rpartition('.')[2]}.{key}"] = fingerprint(value)
    return found


def fingerprint(value):
    try:
        return pickle.dumps(value, 5)
    except Exception:       # whatever it holds: it is not compared then
        return None


def changed(chain, before):
    """Names whose values are others now."""
    return [key for key, value in snapshot(chain).items() if key in before and value is not None and value != before[key]]
