"""The command `mos`: finds the subcommand, and turns what goes wrong into one line and an exit status.

Exit status: 0; 1 the run failed or the capture is damaged; 2 something was asked for wrongly; 130 and 143 after SIGINT and
SIGTERM. A reader of our output that goes away ends us by SIGPIPE, as it ends cat: a shell says 141.
"""
import argparse
import difflib
import importlib
import importlib.util
import os
import sys

from mos.cli.report import UserCodeError, complain
from mos.errors import MosError, UsageError

# Subcommand: its module, which has add_parser(subparsers), and its line in `mos --help`. Only the one asked for is imported.
COMMANDS = {
    "run": ("mos.cli.run_cmd", "run middleboxes on a capture or live"),
    "flows": ("mos.cli.flows", "tell what became of every flow of a capture"),
    "events": ("mos.cli.events_cmd", "list the events, explain one, or show who subscribes to what in a chain"),
    "explain": ("mos.cli.explain_cmd", "show the program that a filter compiles to"),
    "doctor": ("mos.cli.doctor_cmd", "look at what a live run needs, and say what to change"),
    "help": ("mos.cli.help_cmd", "show the manual of a middlebox, and which ones there are"),
}
DESCRIPTION = "Run network middleboxes, which are Python event handlers, on one shared TCP stack."
EXAMPLES = """\
examples:
  mos run firewall monitor -r trace.pcap --set firewall.rules=rules.toml
  mos run ./rules.py -r trace.pcap.gz -w out.pcap --log log.jsonl
  mos help firewall            the manual of a middlebox
  mos events StreamData        when an event fires and what it carries
  mos COMMAND --help           the options of a command
"""


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message):
        if message.startswith("unrecognized arguments: "):
            word = message.partition(": ")[2].split()[0].partition("=")[0]
            match = difflib.get_close_matches(word, self._option_string_actions, 1)
            message = f"there is no option {word}" + (f"; did you mean {match[0]}?" if match else "")
        raise UsageError(f"{message} (see {self.prog} --help)")


def version():
    from mos import __version__
    return f"mos {__version__}"


def overview():
    """The text of `mos --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {line}" for name, (module, line) in COMMANDS.items() if available(module)]
    return "\n".join(["usage: mos COMMAND [ARGUMENT ...]", "       mos --version", "", DESCRIPTION, "",
                      "commands:", *lines, "", EXAMPLES])


def available(module):
    """Whether a subcommand's module is installed."""
    return importlib.util.find_spec(module) is not None


def parser_of(name):
    """The parser of one subcommand, from its module."""
    subparsers = Parser(prog="mos").add_subparsers(parser_class=Parser, prog="mos")
    importlib.import_module(COMMANDS[name][0]).add_parser(subparsers)
    return subparsers.choices[name]


def dispatch(argv):
    """Run the subcommand that `argv` names; its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(version())
        return 0
    name = argv[0]
    if name not in COMMANDS or not available(COMMANDS[name][0]):
        match = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {match[0]}?" if match else f"to run a middlebox: mos run {name} -r FILE" if name.endswith(".py") \
            else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"there is no command {name!r}; {hint}")
    # `--stats=FILE` takes a value and `--stats` takes none; argparse would let the latter swallow the name after it.
    words = ["--stats-file=" + w.partition("=")[2] if w.startswith("--stats=") else w for w in argv[1:]]
    args = parser_of(name).parse_intermixed_args(words)
    return args.run(args) or 0


def main(argv=None):
    """Run the command; returns the exit status."""
    return told(lambda: dispatch(list(sys.argv[1:] if argv is None else argv)))


def told(command):
    """The exit status of what `command` does; what goes wrong is told in a line."""
    try:
        status = command()
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        return die_of_pipe()
    except KeyboardInterrupt:
        return 130
    except UserCodeError as e:
        complain(e)
        return e.status
    except MosError as e:
        complain(e)
        return 2 if isinstance(e, UsageError) else 1
    except OSError as e:
        complain(f"{e.filename or 'standard output'}: {e.strerror}" if e.strerror else e)
        return 1


def die_of_pipe():
    """End as cat does when nobody reads on. What was written to files has been closed properly by now."""
    import signal
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    return 141


if __name__ == "__main__":
    sys.exit(main())
