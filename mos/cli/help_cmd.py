"""`mos help`: the manual of a middlebox, and which ones there are."""
import inspect
import types

from mos.cli.load import find, ready, short_name
from mos.errors import MosError

EXAMPLES = """\
examples:
  mos help                 the commands and the ready middleboxes
  mos help firewall        what it does, its options, its events
  mos help ./rules.py      the same of a file
  mos help run             the options of a command
"""


def add_parser(subparsers):
    """Enter the subcommand's options."""
    p = subparsers.add_parser("help", help="show the manual of a middlebox", epilog=EXAMPLES,
                              description="Show the manual of a middlebox, or which ones there are.")
    p.add_argument("name", nargs="?", metavar="NAME", help="a ready middlebox, a file, an installed one, or a command")
    p.set_defaults(run=run)


def run(args):
    """The subcommand; returns the exit status."""
    from mos.cli.main import COMMANDS, overview, parser_of
    if args.name is None:
        print(overview())
        print("\n".join(ready_list()))
    elif args.name in COMMANDS and args.name not in ready():
        parser_of(args.name).print_help()
    else:
        print("\n".join(manual(args.name)))
    return 0


def ready_list():
    """The ready middleboxes, a line each. Their docstrings are read without importing them."""
    names = ready()
    if not names:
        return ["no ready middleboxes are installed"]
    width = max(map(len, names))
    return ["ready middleboxes (mos help NAME):", *(f"  {name:{width}}  {first_line(name)}".rstrip() for name in names)]


def first_line(name):
    import ast
    import importlib.util
    spec = importlib.util.find_spec("mbox")
    for directory in spec.submodule_search_locations:
        for ending in (".py", ".pyx"):
            try:
                with open(f"{directory}/{name}{ending}", encoding="utf-8") as f:
                    text = f.read()
                doc = ast.get_docstring(ast.parse(text)) if ending == ".py" else text.lstrip().strip('"').strip()
                return (doc or "").partition("\n")[0]
            except (OSError, SyntaxError):
                continue
    return ""


def manual(use):
    """The lines of a middlebox's manual."""
    from mos.nf import NF, pick
    thing, cls = find(use)
    box = pick(thing, cls) if isinstance(thing, types.ModuleType) else thing
    box = type(box) if isinstance(box, NF) else box
    name = short_name(use)
    docs = [inspect.getdoc(thing)] if isinstance(thing, types.ModuleType) else []
    if isinstance(box, type):
        docs += [vars(box).get("__doc__") and inspect.getdoc(box)]
    lines = [f"{name}    (mos run {use} -r FILE)", ""]
    for doc in dict.fromkeys(d for d in docs if d):
        lines += [*doc.split("\n"), ""]
    is_class = isinstance(box, type) and issubclass(box, NF)
    return lines + options(name, box.options() if is_class else {}) + [""] + events(thing, cls, box)


def options(name, declared):
    """The options with type, default and help."""
    if not declared:
        return ["It takes no options."]
    out = ["options:"]
    for opt in declared.values():
        default = "required" if opt.required else f"default {opt.default!r}"
        word = type_name(opt.type).upper()
        out.append(f"  --set {name}.{opt.name}={'VALUE,VALUE' if '[' in word else word}")
        out.append(f"        {opt.help or 'no help'} ({type_name(opt.type)}, {default})")
    return out


def type_name(kind):
    return getattr(kind, "__name__", str(kind)) if not getattr(kind, "__args__", None) else str(kind).replace("typing.", "")


def events(thing, cls, box):
    """What it subscribes to and publishes. A class whose options are required is read by its marks alone."""
    marks = []
    for fn in functions(thing, box):
        marks += [(fn.__name__, mark) for mark in fn.__mos_marks__]
    in_c, known = natives(box)
    marks += in_c
    if not marks and known:
        return ["It subscribes to nothing."]
    out = ["subscribes to:"]
    for name, mark in marks:
        at = f' at="{mark.at}"' if mark.at != "sender" else ""
        out.append(f"  {getattr(mark.target, 'name', None) or mark.target.__name__}{at}  ({name})")
    if not known:
        out.append("  and more, as its options say")
    published = dict.fromkeys([*(mark.publishes for _, mark in marks if mark.publishes), *(getattr(box, "publishes", None) or ())])
    if published:
        out += ["publishes:", *(f"  {event.__name__}({', '.join(s.name for s in event.layout())})" for event in published)]
    return out


def functions(thing, box):
    """The marked functions of a class (bases first) or a module, in the order written."""
    if isinstance(box, type):
        spaces = [vars(c) for c in reversed(box.__mro__)]
    elif isinstance(thing, types.ModuleType):
        spaces = [{k: v for k, v in vars(thing).items() if getattr(v, "__module__", None) == thing.__name__}]
    else:
        spaces = [{"": box}]
    found = {}
    for space in spaces:
        found.update(space)
    return [value for value in found.values() if hasattr(value, "__mos_marks__")]


def natives(box):
    """([(name, what looks like its mark)] of handlers in C, True); only an instance can list them: False if none can be made."""
    from mos.events.marks import Mark
    from mos.nf import NF, Native
    if not isinstance(box, type) or box.handlers is NF.handlers:
        return [], True
    try:
        entries = box().handlers()
    except (MosError, OSError):
        return [], False
    return [(n.name, Mark(n.event, n.where, n.at, publishes=getattr(n, "publishes", None)))
            for n in entries if isinstance(n, Native)], True
