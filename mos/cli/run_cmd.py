"""`mos run`: a chain of middleboxes on a capture, between two interfaces, or on a tap."""
import faulthandler
import json
import os
import shlex
import sys
import time

from mos.cli.load import load_chain, near, read_chain, uncollected
from mos.cli.report import UserCodeError, complain, guard, has_user_frames
from mos.cli.summary import port_lines, sentence, wires
from mos.cli.supervised import add_supervision, check_failure, check_supervision, supervised
from mos.errors import CaptureError, HandlerError, MosError, UsageError
from mos.memory import Collector

EXAMPLES = """\
A name with a / or ending in .py is a file (FILE.py:CLASS picks one of several), any other a ready middlebox (mos help
lists them) or an installed one. NAME=BOX calls it NAME, and so a second instance. What handlers print is standard output.

examples:
  mos run firewall nat monitor -r trace.pcap --set firewall.rules=rules.toml --set nat.external=192.0.2.1
  mos run ./rules.py -r trace.pcapng.gz -w out.pcap       out.pcap holds what would have left
  mos run in=./count.py out=./count.py -r trace.pcap --set out.port=80
  mos run -c chain.toml -r trace.pcap --stats=stats.json
  tcpdump -w - | mos run monitor -r - -f 'tcp port 80'
  mos run firewall monitor -i eth1:eth2 --set firewall.rules=rules.toml      between two networks; Ctrl-C ends it
  mos run monitor -i eth0 --for 60                        a tap: looks, changes nothing
"""
# Option: key in a chain file's [run] and its type there.
RUN_KEYS = {"read": str, "interface": str, "write": str, "log": str, "filter": str, "checksum": str, "overlap": str,
            "pickup": str, "truth": str, "safe": str, "user": str, "level": str, "on_failure": str,
            "gro": str, "hang_after": (int, float), "max_memory": (str, int), "tunnels": (str, bool, list), "max_flows": int,
            "timeouts": dict, "limits": dict}
REPLAYED = ("filter", "checksum", "overlap", "level", "pickup", "truth", "safe", "tunnels", "max_flows")


def positive(text):
    """An integer above 0, for argparse."""
    import argparse
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"takes a whole number above 0, not {text!r}")
    return int(text)


def seconds(text):
    """A time above 0 in seconds, for argparse."""
    import argparse
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"takes a number of seconds above 0, not {text!r}")
    return value


def add_parser(subparsers):
    """Enter the subcommand's options."""
    p = subparsers.add_parser("run", help="run middleboxes on a capture or on live interfaces", epilog=EXAMPLES,
                              description="Run a chain of middleboxes on a capture, or live. What they drop is counted and "
                                          "logged, and missing from -w.")
    p.add_argument("nf", nargs="*", metavar="NF", help="middleboxes in order from client to server")
    p.add_argument("-c", "--chain", metavar="FILE", help="take the chain, and options, from a TOML file instead")
    p.add_argument("--set", metavar="BOX.OPTION=VALUE", action="append", default=[],
                   help="an option of a middlebox; may be repeated")
    p.add_argument("-r", "--read", metavar="FILE", help="capture to read: pcap or pcapng, plain, gzip or zstd; - is standard input")
    p.add_argument("-i", "--interface", metavar="A:B",
                   help="bridge two interfaces, the clients' side first, with the middleboxes between them; "
                        "one name, or any, is a tap")
    p.add_argument("--for", metavar="SECONDS", type=seconds, dest="seconds", help="live: end after so many seconds")
    add_supervision(p)
    p.add_argument("--gro", metavar="HOW",
                   help="between two interfaces: on (default) lets the kernel join a connection's frames before they come and cut "
                        "them again as they leave, undone at the end; off: each frame by itself; keep: as the interfaces are set")
    p.add_argument("--record", metavar="FILE",
                   help="live: write what comes in as a pcapng; -r FILE then repeats the run, event by event")
    p.add_argument("-w", "--write", metavar="FILE",
                   help="write what is forwarded or injected; .pcapng makes a pcapng; - is standard output, "
                        "prints then go to stderr")
    p.add_argument("--log", metavar="FILE",
                   help="write events and verdicts as JSON lines; - is standard output, prints then go to stderr")
    p.add_argument("-f", "--filter", metavar="BPF", help="look only at packets that this packet filter selects; the others pass")
    p.add_argument("--until", metavar="N", type=positive, help="stop after packet N")
    p.add_argument("--checksum", metavar="MODE",
                   help="verify: packets with a wrong checksum are refused; auto (default): unless offloading explains it; off")
    p.add_argument("--overlap", metavar="POLICY",
                   help="who wins between overlapping bytes not yet delivered, by the receiving host: "
                        "linux,10.0.0.0/8=windows (default first)")
    p.add_argument("--level", choices=("tcp", "flow"),
                   help="how far TCP is followed: states and streams (tcp, default), or packets and "
                        "bytes of flows, which end by silence, a short one after FIN or RST (flow); no handler may ask for more")
    p.add_argument("--pickup", metavar="MODE", help="flows without a SYN: off, state only, or data too (default)")
    p.add_argument("--truth", metavar="MODE",
                   help="tap: packets may be lost around us; inline (default between two interfaces): "
                        "what we drop is not delivered")
    p.add_argument("--safe", metavar="MODE",
                   help="inline, let no byte of a stream pass but as the middleboxes saw it: auto (default: if one "
                        "may stop or change content), on, off; wants --checksum other than off")
    p.add_argument("--tunnels", metavar="LIST", help="on (default), off, or the ones to look into, separated by commas")
    p.add_argument("--max-flows", metavar="N", type=positive, help="flows followed at a time (default 1048576)")
    p.add_argument("--workers", metavar="N", type=positive,
                   help="share the flows among N processes that tell what one would (not with -r - or some boxes)")
    p.add_argument("--stats", action="store_true",
                   help="print the counters as one line of JSON on stderr; --stats=FILE writes them")
    p.add_argument("--stats-file", metavar="FILE", help="the same as --stats=FILE")
    p.add_argument("--no-progress", action="store_true", help="no progress bar (there is one only if stderr is a terminal)")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    p.add_argument("-v", "--verbose", action="store_true", help="say who subscribes to what, and every verdict, on stderr")
    p.set_defaults(run=run)


def run(args):
    """The subcommand; returns the exit status."""
    check_words(args)
    merge(args, read_chain(args.chain)[1] if args.chain and not args.nf else {})
    check_supervision(args)
    if args.workers is None:
        from mos.io.source import recorded_workers
        args.workers = recorded_workers(args.read) if args.read and not (args.interface and "read" in args.from_chain) else 1
    return supervised(args, run_once) if args.on_failure else run_once(args)


def run_once(args, child=None):
    """One run in this process, which may be a supervisor's `child`."""
    from mos.cli.stop import Stop
    kind = Run
    if args.workers > 1:
        from mos.cli.parallel import Parallel
        kind = type("ParallelRun", (Parallel, Run), {})
    with Stop() as stop:
        try:
            one = kind(args, stop)
            one.child = child
            return one.go()
        except KeyboardInterrupt:
            return stop.status


class Run:
    """One run, from arguments to exit status."""

    def __init__(self, args, stop):
        self.args, self.stop = args, stop
        self.engine = self.progress = self.source = self.deadline = self.service = None
        self.inline, self.stats_out, self.child = False, None, None
        self.out, self.prints = sys.stdout, sys.stdout
        self.collector = Collector()

    def go(self):
        args = self.args
        self.keep_stdout()
        try:
            if args.user:
                from mos import privileges
                privileges.become(args.user)
            with uncollected():
                chain, extra = load_chain(args.nf, args.chain, args.set)
                check(args, chain)
                check_failure(args, chain)
                self.open(chain, extra)
            joining = self.join() if self.inline else None
            try:
                if args.interface and not args.keep_privileges:
                    self.drop_privileges()
                with self.collector:
                    error = self.feed()
            finally:
                if joining is not None:
                    joining.restore()
            return self.finish(error)
        finally:
            sys.stdout = self.prints

    def keep_stdout(self):
        """Standard output belongs to whatever is written to `-`; what handlers print goes to stderr then."""
        if "-" in (self.args.write, self.args.log):
            sys.stdout = sys.stderr

    def open(self, chain, extra):
        """Source first: an output must not truncate what is to be read."""
        from mos.cli.progress import Progress
        from mos.io.source import open_source
        from mos.io.writer import Writer
        from mos.run import Engine
        args = self.args
        if args.interface:
            from mos.io.live import open_live
        self.source = open_live(args.interface, args.workers) if args.interface else open_source(args.read)
        self.inline = self.source.live and self.source.sides == 2
        settings = self.settings(extra)
        self.stop.watch(self)
        check_filter(args.filter, self.source.linktypes.values())
        if args.verbose:
            print("\n".join(chain.describe()), file=sys.stderr)
        names = (args.interface or "").split(":")
        record = Writer.recorder(args.record, settings.truth, names, args.workers) if args.record else None
        if not (args.quiet or args.no_progress or (args.interface and args.workers > 1)) and sys.stderr.isatty():
            self.progress = Progress(self.source, sys.stderr)
        try:
            self.engine = Engine(chain, settings, log=self.out if args.log == "-" else args.log, write=args.write, record=record,
                                 on_tick=self.tick, on_verdict=self.tell if args.verbose else None,
                                 on_notice=self.notice, on_error=self.handler_raised)
        except (Exception, SystemExit) as e:
            raise guard(e, "starting the chain") from e

    def join(self):
        """Have the ports' frames joined, or not; who gives up privileges leaves somebody behind who puts it back."""
        from mos.io.gro import Joining
        joining = self.source.joining = Joining([name.strip() for name in self.args.interface.split(":")], self.args.gro or "on")
        joining.set()
        for text in joining.complaints():
            complain(text)
        if not self.args.keep_privileges:
            joining.leave_behind()
        return joining

    def drop_privileges(self):
        """Interfaces and outputs are open: nothing needs a capability any more, least of all handlers of foreign bytes."""
        from mos import privileges
        if self.args.stats_file not in (None, "-"):
            self.stats_out = open(self.args.stats_file, "w", encoding="utf-8")
        privileges.limit()
        if self.engine.observers is not None:
            self.engine.observers.call(privileges.limit)
        others = privileges.holders()
        if others:
            print(f"mos: {others} thread{'s' * (others > 1)} of the middleboxes ran already, and keep the privileges of the start; "
                  "start them later, in a handler", file=sys.stderr)

    def settings(self, extra):
        truth = "inline" if self.inline else getattr(self.source, "recorded", None)
        return settings_of(self.args, extra, bool(self.args.interface), truth)

    def tick(self, packets):
        self.collector.look()
        if self.progress is not None:
            self.progress.show(packets)
        if self.service is not None:
            self.service.beat()
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self.engine.halt()
        for writer in (self.engine.writer, self.engine.recorder):
            if writer is not None:
                writer.flush()      # a full disk or a reader that has gone ends the run now, not at its end

    def notice(self, text):
        """What happens in a live run, on a line of its own."""
        if self.progress is not None:
            self.progress.clear()
        complain(text)

    def handler_raised(self, name, what, packet, exc):
        """A handler's first exception in a live run, which goes on; further ones are only counted."""
        where = f"packet {packet}, {what}" if packet else what
        self.notice(UserCodeError(f"{name} raised {type(exc).__name__} at {where}: {exc} "
                                  "(told once; counted in bus.errors of --stats)", exc))

    def tell(self, code, position, reason, packet, now, flow):
        """One verdict, on stderr."""
        from mos.events.log import VERDICTS
        names = self.engine.chain.names
        by = names[position] if position < len(names) else "stack"
        where = f"packet {packet}" + (f", flow {flow}" if flow is not None else "")
        print(f"{where}: {VERDICTS[code]} by {by}" + (f": {reason}" if reason else ""), file=sys.stderr)

    def begin(self):
        """A live run has its ports; under a supervisor, once they are its alone."""
        if not self.args.interface:
            return
        faulthandler.enable()       # where it stood, whatever signal ends it
        if self.child is not None:
            self.child.begin(self.source)
            if self.child.warning:
                complain(self.child.warning)
        from mos.notify import Service
        self.service = Service(f"STATUS=running {wires(self.args.interface, self.inline)}")

    def announce(self):
        """A live run begins; its time, too."""
        if self.args.interface and not self.args.quiet:
            print(f"mos: running {wires(self.args.interface, self.inline)}; Ctrl-C ends it", file=sys.stderr)
        if self.args.seconds:
            self.deadline = time.monotonic() + self.args.seconds

    def feed(self):
        """Run the source through and end the flows; what went wrong, or None. A run that a handler ended stays where it is."""
        damage = None
        self.begin()
        self.announce()
        try:
            try:
                self.engine.run(self.source, until=self.args.until or 0)
            except CaptureError as e:
                damage = e
            except KeyboardInterrupt:
                if self.engine.stack.failed or not self.stop.first():
                    raise
            self.engine.close()
        except BaseException as e:
            self.abandon()
            return e
        finally:
            if self.progress is not None:
                self.progress.clear()
            if self.service is not None:
                self.service.stopping()
            if self.args.interface:
                self.source.close()
        return None if self.stop.signal else damage

    def abandon(self):
        try:
            self.engine.abandon()
        except (MosError, OSError):
            pass                            # the first error is the one to see

    def finish(self, error):
        """Say how it went; the exit status."""
        broken = error is not None and nobody_reads(self.out)
        if error is not None and not isinstance(error, KeyboardInterrupt) and not broken:
            complain(self.explain(error))
        self.summary()
        if broken:
            raise BrokenPipeError
        if self.stop.signal and not self.args.interface:
            return self.stop.status
        if isinstance(error, (UsageError, SystemExit)):
            return 2 if isinstance(error, UsageError) else 1
        return 1 if error is not None else 0

    def explain(self, error):
        """An error of the run as what `complain` prints; with the user's frames if it was the user's code that raised."""
        cause = error.__cause__
        taken = self.engine.stack.packets
        if isinstance(error, HandlerError):
            if isinstance(cause, OSError) and str(error).startswith("log."):
                return cannot_write(self.args.log, cause)
            text = str(error) if error.packet else str(error).replace(" at packet 0, ", f" after packet {taken}, at ", 1)
            if isinstance(cause, MosError) and not has_user_frames(cause):
                cause = None                # its text is all there is to say
            return UserCodeError(text, cause, replay=replay(self.args, error.packet or taken))
        if isinstance(error, MosError):
            return error
        if isinstance(error, OSError):
            return cannot_write(error.filename or self.args.log or self.args.write, error)
        return guard(error, f"after packet {taken}: a middlebox", replay=replay(self.args, taken))

    def stats(self):
        return self.engine.stats()

    def summary(self):
        """Counters to stderr or a file as JSON, or a line for people."""
        args, stats = self.args, self.stats()
        if args.stats or args.stats_file == "-":
            print(json.dumps(stats), file=sys.stderr if args.stats else self.out)
        if args.stats_file and args.stats_file != "-":
            with self.stats_out or open(args.stats_file, "w", encoding="utf-8") as f:
                f.write(json.dumps(stats) + "\n")
        if not (args.quiet or args.stats or args.stats_file):
            print(sentence(stats, args.write or self.inline), file=sys.stderr)
            for line in port_lines(stats.get("ports", {})):
                print(line, file=sys.stderr)


def cannot_write(name, error):
    return MosError(f"cannot write {'standard output' if name in (None, '-') else name}: {error.strerror or error}")


def nobody_reads(stream):
    """Whether standard output is a pipe whose reader has gone."""
    import select
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False


def replay(args, packet):
    """A command line that comes to the same packet again; None: live packets do not."""
    if args.interface:
        return None
    words = ["mos", "run", *args.nf]
    words += ["-c", args.chain] if args.chain else []
    words += [part for word in args.set for part in ("--set", word)]
    words += ["-r", "SAVED_INPUT" if args.read == "-" else args.read]
    for key in REPLAYED:
        if getattr(args, key) is not None and key not in args.from_chain:
            words += ["--" + key.replace("_", "-"), str(getattr(args, key))]
    return shlex.join([*words, "--until", str(packet)])


def merge(args, extra):
    """Take what the command line does not say from a chain file's [run]."""
    args.from_chain = []
    for key, value in extra.items():
        if key not in RUN_KEYS:
            raise UsageError(f"{args.chain}: [run] has no option {key!r}{near(key, list(RUN_KEYS))}")
        if not isinstance(value, RUN_KEYS[key]) or (key == "max_flows" and (value is True or value < 1)):
            raise UsageError(f"{args.chain}: [run] {key} is {value!r}, of the wrong type or range")
        if getattr(args, key, None) is None and key not in ("timeouts", "limits"):
            setattr(args, key, value)
            args.from_chain.append(key)


def check_words(args):
    """What can be told before anything is loaded or opened."""
    if not (args.nf or args.chain or args.log or args.write or args.stats or args.stats_file):
        if not args.interface:
            raise UsageError("name a middlebox, ready or a file: mos run monitor -r FILE (mos help lists the ready ones)")
    if not (args.read or args.interface or args.chain):
        raise UsageError("name a capture: -r FILE, or -r - for standard input; or interfaces: -i A:B to bridge, -i A to tap")
    if args.read and args.interface:
        raise UsageError("-r and -i cannot be used together: packets come from a capture or from interfaces")
    if args.write == "-" and args.log == "-":
        raise UsageError("-w - and --log - cannot share standard output: send one of them to a file")


def check(args, chain):
    """What can be told before an output is opened, and so emptied."""
    if args.read and args.interface:
        args.read = None if "read" in args.from_chain else args.read
        args.interface = None if "interface" in args.from_chain and args.read else args.interface
    if not (args.read or args.interface):
        raise UsageError(f"name a capture: -r FILE, or interfaces: -i A:B, or read = … under [run] of {args.chain}")
    if args.seconds and not args.interface:
        raise UsageError("--for is for live interfaces (-i); of a capture --until takes the first packets")
    if args.record and not args.interface:
        raise UsageError("--record is for live interfaces (-i): a capture can be read again as it is")
    if args.gro:
        from mos.io.gro import CHOICES
        if args.gro not in CHOICES:
            raise UsageError(f"--gro is {args.gro!r}; choose one of {', '.join(CHOICES)}")
    if args.gro and (args.read or len(args.interface.split(":")) != 2):
        raise UsageError("--gro is for two interfaces (-i A:B): a tap or a capture leaves frames as they come")
    outputs = [("-w", args.write), ("--record", args.record), ("--log", args.log), ("--stats", args.stats_file)]
    taken = [("-r", args.read), ("-c", args.chain)] + [("NF", file_of(nf)) for nf in chain.nfs]
    for option, path in outputs:
        if not path or path == "-":
            continue
        for other, theirs in taken:
            if theirs and theirs != "-" and same_file(path, theirs):
                raise UsageError(f"{option} {path} would overwrite what {other} reads: write to another file")
        taken.append((option, path))


def check_filter(text, linktypes):
    """Raise what is wrong with a packet filter, if it fits none of the capture's link types known so far."""
    if not text:
        return
    from mos.net.bpf import PacketFilter
    packets = PacketFilter(text)
    for i, linktype in enumerate(kinds := sorted(set(linktypes)) or [1], 1):
        try:
            return packets.check(linktype)
        except UsageError:
            if i == len(kinds):
                raise


def file_of(nf):
    return getattr(sys.modules.get(type(nf).__module__), "__mos_file__", None) \
        or getattr(getattr(nf, "module", None), "__mos_file__", None)


def same_file(a, b):
    try:
        return os.path.samefile(a, b) and os.path.isfile(a)
    except OSError:
        return os.path.abspath(a) == os.path.abspath(b)


def settings_of(args, extra, live=False, truth=None):
    """Settings of the command line and [run]; what is not said keeps its default."""
    from mos.run import Settings
    said = {key: getattr(args, key) for key in ("truth", "safe", "level", "pickup", "checksum", "overlap", "max_flows")
            if getattr(args, key) is not None}
    said |= {key: extra[key] for key in ("timeouts", "limits") if key in extra}
    if truth:
        said = {"truth": truth} | said
    if live:
        on_raise = "fail_closed" if args.on_failure == "closed" else "fail_open"
        said = {"raise_errors": False, "on_raise": on_raise} | said
    if args.filter:
        said["bpf"] = args.filter
    if args.tunnels is not None:
        said["tunnels"] = tunnels_of(args.tunnels)
    return Settings(**said)


def tunnels_of(value):
    """True, False, or a tuple of names."""
    if isinstance(value, str):
        known = {"on": True, "off": False}
        return known[value] if value in known else tuple(name.strip() for name in value.split(",") if name.strip())
    return value if isinstance(value, bool) else tuple(value)
