"""`mos run -i A:B --on-failure …`: options, what may not be left to a kernel bridge, and the run as a supervisor's child."""
import copy
import os
import re
import sys

from mos.errors import ChainError, UsageError

CHOICES = ("open", "open=new-flows", "closed")
# Handlers in Python that take as long are useless between two hosts, and connections survive it: TCP goes on sending for minutes.
HANG_AFTER = 5.0
SIZES = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def size(text):
    """Bytes of "800M" and the like. Raises UsageError."""
    m = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", str(text).strip())
    if not m or not float(m[1]):
        raise UsageError(f"--max-memory takes a size, such as 800M or 2G, not {text!r}")
    return int(float(m[1]) * (1 << SIZES[m[2]]))


def delay(text):
    """Seconds of --hang-after. Raises UsageError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value < 1e6:
        raise UsageError(f"--hang-after takes a number of seconds, 0.5 at least, not {text!r}")
    return value


def add_supervision(p):
    """Enter the options of failure and privileges."""
    p.add_argument("--on-failure", metavar="WHAT",
                   help="between two interfaces, if the run is killed, hangs, or uses too much memory: open lets everything pass "
                   "unseen, closed nothing, until it runs again, by itself. open=new-flows: open for a chain that rewrites, whose "
                   "flows then break")
    p.add_argument("--hang-after", metavar="SECONDS",
                   help=f"with --on-failure: without any packet worked off it has failed (default {HANG_AFTER:g})")
    p.add_argument("--max-memory", metavar="SIZE",
                   help="with --on-failure: more memory is a failure; 800M, 2G (default three quarters of all)")
    p.add_argument("--user", metavar="NAME",
                   help="live, started as root: be that user from the start, with what ports take and nothing else")
    p.add_argument("--keep-privileges", action="store_true",
                   help="live: do not give up all capabilities once the interfaces are open")


def check_supervision(args):
    """What can be told of the options before anything is started; --hang-after and --max-memory become numbers."""
    if args.on_failure not in (None, *CHOICES):
        raise UsageError(f"--on-failure is {args.on_failure!r}; choose one of {', '.join(CHOICES)}")
    if args.on_failure and (args.read or len((args.interface or "").split(":")) != 2):
        raise UsageError("--on-failure is for two interfaces (-i A:B): a tap or a capture lets nothing pass")
    for option, value in (("--hang-after", args.hang_after), ("--max-memory", args.max_memory)):
        if value is not None and not args.on_failure:
            raise UsageError(f"{option} is for --on-failure: without it nobody looks")
    if args.user and not args.interface:
        raise UsageError("--user is for live interfaces (-i): reading a capture takes no privileges")
    args.hang_after = delay(HANG_AFTER if args.hang_after is None else args.hang_after)
    args.max_memory = None if args.max_memory is None else size(args.max_memory)


def check_failure(args, chain):
    """Raise ChainError if a chain cannot be left to a bridge: what it rewrites the other end would not know."""
    rewriting = sorted({chain.names[s.position] for s in chain.subscriptions if s.edits})
    if args.on_failure == "open" and rewriting:
        who = f"{' and '.join(rewriting)} rewrite{'s' * (len(rewriting) == 1)}"
        raise ChainError(f"--on-failure open cannot be used: {who} packets, so established flows would break when packets pass as "
                         "they are; accept that with open=new-flows, or use closed")


def supervised(args, run_once):
    """Run under a supervisor; the exit status."""
    from mos import privileges
    from mos.cli.main import told
    from mos.io.bridge import filters_bridges
    from mos.supervise import Supervisor, most_memory
    if args.user:
        privileges.become(args.user)
    names = [name.strip() for name in args.interface.split(":")]

    def one(child, attempt, left):
        again = copy.copy(args)
        if attempt == 1 and args.on_failure != "closed" and filters_bridges():
            child.warning = ("this host's iptables rules hold for what the bridge passes; "
                             "to spare it them: sysctl net.bridge.bridge-nf-call-iptables=0")
        if attempt > 1:
            again.seconds = left
            for key in ("write", "record", "log", "stats_file"):
                setattr(again, key, numbered(getattr(args, key), attempt))
        return told(lambda: run_once(again, child))

    def say(text):
        print(f"mos: {text}", file=sys.stderr, flush=True)
    # root without it may not even read a chain in somebody's home directory; who is not root has only what ports take
    keep = (*privileges.PORTS, "cap_dac_override") if os.geteuid() == 0 else privileges.PORTS
    supervisor = Supervisor(names, args.on_failure != "closed", one, hang=args.hang_after, memory=args.max_memory or most_memory(),
                            workers=args.workers,
                            keep=None if args.keep_privileges else keep, seconds=args.seconds, say=say)
    return supervisor.go()


def numbered(path, attempt):
    """Another file for what is started again: log.jsonl, log.2.jsonl, …; pipes and devices stay."""
    if not path or path == "-" or path.startswith("/dev/") or (os.path.exists(path) and not os.path.isfile(path)):
        return path
    stem, suffix = os.path.splitext(path)
    return f"{stem}.{attempt}{suffix}"
