"""`mos events`: the catalogue, the contract of one event, and who publishes and subscribes in a chain."""
import json
import textwrap

from mos.cli.load import load_chain, near
from mos.errors import UsageError
from mos.events import spec

EXAMPLES = """\
examples:
  mos events                                   the catalogue
  mos events StreamData                        the whole contract of one event
  mos events --chain firewall ./rules.py       who subscribes to what
  mos events --chain nat monitor --dot | dot -Tsvg > chain.svg
"""
WIDTH = 100


def add_parser(subparsers):
    """Enter the subcommand's options."""
    p = subparsers.add_parser("events", help="list the events", epilog=EXAMPLES,
                              description="List the events, explain one, or show who publishes and subscribes in a chain.")
    p.add_argument("names", nargs="*", metavar="NAME", help="an event to explain; with --chain, the middleboxes")
    p.add_argument("--chain", action="store_true", help="show who publishes and subscribes in a chain, NAMEs being its middleboxes")
    p.add_argument("-c", "--chain-file", metavar="FILE", help="the same for the chain in a TOML file")
    p.add_argument("--set", metavar="BOX.OPTION=VALUE", action="append", default=[], help="an option of a middlebox of the chain")
    p.add_argument("--dot", action="store_true", help="the chain as a graph for Graphviz")
    p.add_argument("--json", action="store_true", help="the same as JSON")
    p.set_defaults(run=run)


def run(args):
    """The subcommand; returns the exit status."""
    if args.chain or args.chain_file:
        if not (args.names or args.chain_file):
            raise UsageError("--chain needs middleboxes: mos events --chain firewall ./rules.py")
        chain, _ = load_chain(args.names, args.chain_file, args.set)
        print(dot(chain) if args.dot else json.dumps(as_data(chain)) if args.json else "\n".join(chain.describe()))
        return 0
    if args.dot or args.set:
        raise UsageError("--dot and --set are for chains: mos events --chain NF… --dot")
    kinds = [kind_of(name) for name in args.names]
    if args.json:
        print(json.dumps([catalogue_entry(k) for k in kinds or spec.KINDS]))
    elif kinds:
        print("\n\n".join(contract(k) for k in kinds))
    else:
        print("\n".join(catalogue()))
    return 0


def kind_of(name):
    if name not in spec.BY_NAME:
        lower = {k.lower(): k for k in spec.BY_NAME}
        name_near = lower.get(name.lower())
        hint = f"; did you mean {name_near}?" if name_near else near(name, list(spec.BY_NAME))
        raise UsageError(f"no event is called {name!r}{hint}")
    return spec.BY_NAME[name]


def depth(kind):
    return len(list(spec.ancestry(kind.name))) - 1


def children(kind):
    return [k for k in spec.KINDS if k.parent == kind.name]


def tree(kind):
    """`kind` and all below it, parents first."""
    yield kind
    for child in children(kind):
        yield from tree(child)


def catalogue():
    """One line per event: the tree, when it fires in short, its own fields."""
    width = max(len(k.name) + 2 * depth(k) for k in spec.KINDS) + 2
    lines = []
    for kind in tree(spec.KINDS[0]):
        fields = ", ".join(f.name for f in kind.fields)
        brief = brief_of(kind) + (f" [{fields}]" if fields else "")
        first, *rest = textwrap.wrap(brief, WIDTH - width)
        lines += [("  " * depth(kind) + kind.name).ljust(width) + first, *(" " * width + line for line in rest)]
    return [*lines, "", "mos events NAME tells all about one. A subscription to an event receives those below it, too."]


def brief_of(kind):
    """The first sentence of the contract."""
    return kind.doc.partition(". ")[0].rstrip(".")


def contract(kind):
    """Everything that is declared about an event, as text."""
    line = " > ".join(k.name for k in reversed(list(spec.ancestry(kind.name))))
    out = [f"{kind.name}    ({line})", "", *textwrap.wrap(kind.doc, WIDTH), ""]
    below = [k.name for k in tree(kind) if k is not kind]
    if below:
        out += textwrap.wrap("A subscription to it receives: " + ", ".join(k for k in below if spec.BY_NAME[k].fires), WIDTH) + [""]
    if kind.fires:
        out.append("may answer   " + ("any verdict" if kind.answers else "nothing, it can only be observed"))
    for label, text in (("source", kind.rfc), ("in mOS", kind.mos), ("in Zeek", kind.zeek)):
        if text:
            out.append(f"{label:12} {text}")
    out += ["", "fields (a * may stand in a filter):", *map(field_line, spec.fields_of(kind.name)), "",
            "fields of its flow and packet for filters, absent where there is none:"]
    names = ", ".join(f.name for f in spec.FLOW_FIELDS + spec.PACKET_FIELDS)
    return "\n".join(out + textwrap.wrap(names, WIDTH, initial_indent="  ", subsequent_indent="  "))


def field_line(field):
    values = f": {', '.join(field.values)}" if field.values else ""
    head = f"  {'*' if field.filter else ' '} {field.name:12} {field.type:6} "
    return "\n".join(textwrap.wrap(f"{field.doc}{values}", WIDTH, initial_indent=head, subsequent_indent=" " * 24))


def catalogue_entry(kind):
    """An event as data."""
    return {"name": kind.name, "parent": kind.parent or None, "fires": kind.fires, "answers": kind.fires and kind.answers,
            "doc": kind.doc, "rfc": kind.rfc, "mos": kind.mos, "zeek": kind.zeek,
            "fields": [{"name": f.name, "type": f.type, "doc": f.doc, "values": list(f.values), "filter": f.filter}
                       for f in spec.fields_of(kind.name)]}


def as_data(chain):
    """A chain as data: per middlebox what it subscribes to, under which filters, and what it publishes."""
    return {"chain": [{"name": name, "handlers": [handler(s) for s in chain.subscriptions if s.position == i]}
                      for i, name in enumerate(chain.names)]}


def handler(s):
    return {"handler": s.name.partition(".")[2], "event": s.on, "where": [predicate(p) for p in s.predicates],
            "at": ["sender", "receiver", "acked"][s.moments[0]], "attached": s.attached,
            "publishes": s.publishes.__name__ if s.publishes else None}


def predicate(p):
    return p if isinstance(p, str) else getattr(p, "__name__", repr(p))


def dot(chain):
    """The chain for Graphviz: boxes are middleboxes, ellipses events, an arrow leads from who publishes to who receives."""
    quote = json.dumps
    lines = ["digraph chain {", "  rankdir=LR", '  stack [shape=box style=rounded label="TCP stack"]']
    lines += [f"  {quote('box ' + name)} [shape=box label={quote(name)}]" for name in chain.names]
    arrows = {}
    for s in chain.subscriptions:
        box = quote("box " + chain.names[s.position])
        if s.user_class is None:
            arrows[f"  stack -> {quote('event ' + s.on)}"] = None
        label = " and ".join(predicate(p) for p in s.predicates)
        arrows[f"  {quote('event ' + s.on)} -> {box}" + (f" [label={quote(label)}]" if label else "")] = None
        if s.publishes:
            arrows[f"  {box} -> {quote('event ' + s.publishes.__name__)}"] = None
    events = {s.on for s in chain.subscriptions} | {s.publishes.__name__ for s in chain.subscriptions if s.publishes}
    lines += [f"  {quote('event ' + name)} [label={quote(name)}]" for name in sorted(events)]
    return "\n".join([*lines, *arrows, "}"])
