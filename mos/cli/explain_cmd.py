"""`mos explain`: the program that a filter compiles to, or where it is wrong."""
import re
import sys

from mos.errors import FilterError

EXAMPLES = """\
examples:
  mos explain 'server_port == 23 and not client in 10.0.0.0/8'
  mos explain 'length > 1k and to_server' --event StreamData
  mos events StreamData        the fields that may stand in a filter
"""


def add_parser(subparsers):
    """Enter the subcommand's options."""
    p = subparsers.add_parser("explain", help="show the program that a filter compiles to", epilog=EXAMPLES,
                              description="Show the program that a filter (@on(…, where=FILTER)) compiles to.")
    p.add_argument("filter", metavar="FILTER", help="the filter, as one word: quote it")
    p.add_argument("--event", metavar="KIND", default="Event", help="the event it is for (default Event: what every event has)")
    p.set_defaults(run=run)


def run(args):
    """The subcommand; returns the exit status."""
    from mos.events.filter import explain
    try:
        print(explain(args.filter, args.event))
        return 0
    except FilterError as e:
        text = str(e)
        other = re.search(r"is a field of (\w+)", text)
        print(f"mos: {text}" + (f"; try --event {other[1]}" if other else ""), *caret(args.filter, text), sep="\n", file=sys.stderr)
        return 2


def caret(source, message):
    """The line of the filter that the message names, and a caret under its column."""
    at = re.match(r"filter, (?:line (\d+), )?column (\d+)", message)
    line = source.split("\n")[int(at[1] or 1) - 1] if at else ""
    if not line.strip():
        return []
    before = line[:int(at[2]) - 1]
    return ["  " + line, "  " + "".join("\t" if c == "\t" else " " for c in before) + "^"]
