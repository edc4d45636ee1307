"""`mos run --workers N`: what one run does, done by several processes and told as if by one."""
import sys
import time
from dataclasses import replace

from mos.cli.report import complain, complaint
from mos.errors import CaptureError, MosError, UsageError
from mos.io.source import recorded_workers
from mos.run import LIMITS
from mos.workers import ERR, FAIL, LOG, MOST, OUT, TICK, Workers, check


class Parallel:
    """What makes a Run one whose packets are taken by workers, before it among the bases.

    This process starts and stops the boxes, and writes what the workers tell.
    """

    def __init__(self, args, stop):
        super().__init__(args, stop)
        self.failed = None
        self.seconds = 0.0
        if args.workers > MOST:
            raise UsageError(f"--workers takes at most {MOST}: more do not read one file, or two wires, faster")

    def settings(self, extra):
        """Bounds of the whole run, divided: no worker knows how much the others use."""
        s, n = super().settings(extra), self.args.workers
        shared = (LIMITS | s.limits)["global"]
        return replace(s, max_flows=-(-s.max_flows // n), limits=s.limits | {"global": -(-shared // n)})

    def open(self, chain, extra):
        args, wire = self.args, self.args.interface
        again = not wire and recorded_workers(args.read) == args.workers
        check(chain, None if wire else args.read,
              ["--until counts packets, and no worker sees all"] * bool((wire or again) and args.until),
              f"; {args.read} is a recording of {args.workers}, which --workers 1 takes as one" if again else "")
        super().open(chain, extra)
        self.workers = Workers(self.engine, args.workers, again)
        self.engine.halt = self.workers.halt
        if self.progress is not None:
            self.progress.source = self.workers

    def feed(self):
        """Let the workers run; what went wrong, or None. What a handler raised is in `failed`, as text and status."""
        began = time.perf_counter()
        ports = self.source if self.args.interface else None
        try:
            try:
                self.begin()
                self.workers.start(self.source, None if ports else self.args.read, self.args.until or 0, self.failure)
                if ports is not None:
                    ports.start()
                    self.announce()
                if self.stop.signal:
                    self.workers.halt()
                for kind, content in self.workers.records():
                    if kind == FAIL:
                        self.failed = content
                        break
                    self.show(kind, content)
                else:
                    self.workers.merge()
            finally:
                self.workers.reap()
                self.workers.gather(rest=True)
                if self.progress is not None:
                    self.progress.clear()
            if self.failed is not None:
                self.abandon()
                return None
            self.warn()
            self.engine.stop_nfs()
            self.engine.abandon()       # all is told: only files are left to close
        except BaseException as e:
            self.abandon()
            return e
        finally:
            self.seconds = time.perf_counter() - began
            if self.service is not None:
                self.service.stopping()
            self.source.close()
        return None if self.stop.signal or not self.workers.damage else CaptureError(self.workers.damage)

    def show(self, kind, content):
        if kind == OUT:
            sys.stdout.write(content)
        elif kind == ERR:
            sys.stderr.write(content)
        elif kind == LOG:
            self.engine.log.file.write(content)
        elif kind == TICK:
            self.workers.gather()
            self.tick(content)

    def warn(self):
        """Undeclared state that handlers wrote: each worker had its own, and nobody has them together."""
        if self.workers.lost:
            names = ", ".join(self.workers.lost)
            print(f"mos: written by handlers but not declared, so each worker had its own: {names}", file=sys.stderr)

    def failure(self, error):
        """What to tell of an exception in a worker, and the exit status."""
        return complaint(self.explain(error)), 2 if isinstance(error, UsageError) else 1

    def stats(self):
        return self.workers.stats(self.seconds)

    def finish(self, error):
        """Say how it went; the exit status. After a failure there are no counters: the workers had got to different places."""
        if self.failed is not None:
            text, status = self.failed
            print(text, file=sys.stderr)
            return status
        if len(self.workers.ends) < self.args.workers:
            if isinstance(error, BrokenPipeError):
                raise error
            if isinstance(error, MosError):
                complain(error)
            return self.stop.status if self.stop.signal else 1
        return super().finish(error)
