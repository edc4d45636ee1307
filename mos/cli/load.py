"""From what the user names to NFs: ready middleboxes, files, installed ones; their options; chain files."""
import difflib
import gc
import importlib
import importlib.util
import os
import re
import sys
import types
from contextlib import contextmanager
from dataclasses import dataclass, field

from mos.cli.report import guard, user_line
from mos.errors import MosError, UsageError

GROUP = "mos.middleboxes"       # entry points of installed middleboxes
NAME = re.compile(r"[A-Za-z_][\w-]*")
WORD = re.compile(r"[^\W\d]\w*")
RESERVED = ("use", "name", "set")       # keys of an [[nf]]; an option called like one goes into its table `set`


@contextmanager
def uncollected():
    """Nothing of what is loaded meanwhile can be let go: Python's collector, which would look at it again and again, has a rest."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


@dataclass
class Box:
    """One middlebox as the user asked for it, nothing of it loaded yet."""
    use: str                    # firewall, ./rules.py, rules.py:Blocker, an entry point
    name: str = ""              # of this instance: what logs, counters and --set call it
    options: dict = field(default_factory=dict)
    base: str = ""              # directory that relative paths start from, of a chain file


def near(word, known):
    """`; did you mean X?`, or the choices."""
    match = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {match[0]}?" if match else f"; there are {', '.join(known)}" if known else ""


def parse_box(word):
    """A Box from a command-line word: `nat`, `edge=nat`, `./rules.py`, `rules.py:Blocker`."""
    name, equals, use = word.partition("=")
    if equals and NAME.fullmatch(name) and not os.path.exists(word):
        return Box(use, name)
    return Box(word)


def name_boxes(boxes):
    """Give every box a name of its own: the one it was given, else what it is called, numbered where that repeats."""
    taken = [b.name for b in boxes if b.name]
    for name in taken:
        if taken.count(name) > 1:
            raise UsageError(f"two middleboxes are called {name}: give each a name of its own")
    for box in boxes:
        if not box.name:
            short, n = short_name(box.use), 1
            while (short if n == 1 else f"{short}-{n}") in taken:
                n += 1
            box.name = short if n == 1 else f"{short}-{n}"
            taken.append(box.name)
    return boxes


def short_name(use):
    path, cls = split(use)
    if cls:
        return cls.lower()
    stem = os.path.basename(path)
    return re.sub(r"\W", "_", stem.removesuffix(".py")) if is_path(path) else path


def split(use):
    """(file or name, class or None) of `rules.py:Blocker`."""
    left, colon, right = use.rpartition(":")
    return (left, right) if colon and left and WORD.fullmatch(right) else (use, None)


def is_path(name):
    return "/" in name or name.endswith(".py")


def ready():
    """Names of the middleboxes that come with the package."""
    import pkgutil
    spec = importlib.util.find_spec("mbox")
    paths = spec.submodule_search_locations if spec else ()
    return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_"))


def find(use, base=""):
    """(module, class, function or NF that `use` names, class name or None). Raises UsageError with the near miss."""
    name, cls = split(use)
    if not name:
        raise UsageError("a middlebox without a name: give a ready one, a file or an installed one")
    if is_path(name):
        return load_file(os.path.join(base, os.path.expanduser(name))), cls
    if name in ready():
        return import_ready(name), cls
    thing = installed(name)
    if thing is None:
        hint = f"; there is a file of that name: write {name}.py" if os.path.exists(f"{name}.py") else near(name, ready())
        raise UsageError(f"no middlebox is called {name!r}{hint}")
    return thing, cls


def import_ready(name):
    try:
        return importlib.import_module(f"mbox.{name}")
    except ImportError as e:
        raise UsageError(f"{name} cannot be loaded: {e}") from e


def installed(name):
    """What the entry point of that name holds, or None. Entry points are looked up by name, never listed or imported."""
    import importlib.metadata
    for entry in importlib.metadata.entry_points(group=GROUP, name=name):
        try:
            return entry.load()
        except (ImportError, AttributeError) as e:
            raise UsageError(f"{name} ({entry.value}) cannot be loaded: {e}") from e
    return None


def load_file(path):
    """The module of a file: run once, without writing a .pyc beside it. Its directory can be imported from, last."""
    full = os.path.abspath(path)
    for module in list(sys.modules.values()):
        if getattr(module, "__mos_file__", None) == os.path.realpath(full):
            return module
    try:
        with open(full, "rb") as f:
            source = f.read()
        code = compile(source, full, "exec", dont_inherit=True)
    except OSError as e:
        raise UsageError(f"cannot open {path}: {e.strerror}; give the name of a Python file with handlers") from e
    except SyntaxError as e:
        raise UsageError(f"{path}:{e.lineno or 0}: {e.msg}: {(e.text or '').strip()}") from e
    except ValueError as e:
        raise UsageError(f"{path} is no Python file: {e}") from e
    stem = re.sub(r"\W", "_", os.path.basename(path).removesuffix(".py"))
    module = types.ModuleType(unused(f"mos_file.{stem}"))
    module.__file__, module.__mos_file__ = full, os.path.realpath(full)
    if os.path.dirname(full) not in sys.path:
        sys.path.append(os.path.dirname(full))
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
    except MosError as e:
        del sys.modules[module.__name__]
        raise type(e)(f"{user_line(e, full)}: {e}") from e
    except (Exception, SystemExit) as e:
        del sys.modules[module.__name__]
        raise guard(e, path, status=2) from e
    return module


def unused(name):
    n = 1
    while (name if n == 1 else f"{name}_{n}") in sys.modules:
        n += 1
    return name if n == 1 else f"{name}_{n}"


def build(box):
    """The NF of a Box, called `box.name`, with its options. Raises UsageError; UserCodeError if the box's own code raises."""
    from mos.nf import NF, as_nf, from_module, make
    thing, cls = find(box.use, box.base)
    if cls and not isinstance(thing, types.ModuleType):
        raise UsageError(f"{box.use}: {split(box.use)[0]} is no file or module that could hold {cls}")
    try:
        if isinstance(thing, types.ModuleType):
            return from_module(thing, cls, options_of(box, thing, cls), label=box.name)
        if isinstance(thing, type) and issubclass(thing, NF):
            return make(thing, options_of(box, thing, None), box.name)
        if box.options:
            raise UsageError(f"{box.name} has no option {next(iter(box.options))!r}; it takes none")
        nf = as_nf(thing)
        nf.name = box.name
        return nf
    except MosError:
        raise
    except (Exception, SystemExit) as e:
        raise guard(e, box.name, status=2) from e


def options_of(box, thing, cls):
    """The options of a box; paths given in a chain file start from its directory."""
    if not box.base:
        return box.options
    from mos.nf import pick
    kind = pick(thing, cls) if isinstance(thing, types.ModuleType) else thing
    declared = kind.options() if kind else {}
    return {k: os.path.join(box.base, v) if k in declared and is_path_type(declared[k].type) and isinstance(v, str) else v
            for k, v in box.options.items()}


def is_path_type(kind):
    return isinstance(kind, type) and issubclass(kind, os.PathLike)


def apply_settings(boxes, settings):
    """Enter `--set BOX.OPTION=VALUE` words into the boxes' options."""
    for word in settings:
        left, equals, value = word.partition("=")
        name, dot, option = left.rpartition(".")
        if not (equals and dot and name and option):
            raise UsageError(f"--set takes BOX.OPTION=VALUE, not {word!r}: --set firewall.rules=rules.toml")
        found = [b for b in boxes if b.name == name]
        if not found:
            raise UsageError(f"--set {word}: no middlebox of this chain is called {name!r}{near(name, [b.name for b in boxes])}")
        found[0].options[option] = value


def read_chain(path):
    """([Box], {option of `mos run`: value}) of a chain file."""
    import tomllib
    try:
        with open(path, "rb") as f:
            text = tomllib.load(f)
    except OSError as e:
        raise UsageError(f"cannot open {path}: {e.strerror}; give the name of a chain file") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} is no TOML: {e}") from e
    for key in text:
        if key not in ("nf", "run"):
            raise UsageError(f"{path}: unknown table [{key}]{near(key, ('nf', 'run'))}")
    if not isinstance(text.get("nf", []), list) or not isinstance(text.get("run", {}), dict):
        raise UsageError(f"{path}: write [[nf]] for each middlebox and [run] for the run's options")
    base = os.path.dirname(os.path.abspath(path))
    return [chain_box(path, i, entry, base) for i, entry in enumerate(text.get("nf", []), 1)], text.get("run", {})


def chain_box(path, number, entry, base):
    """The Box of one [[nf]]."""
    where = f"{path}: [[nf]] {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("use"), str):
        raise UsageError(f'{where} needs use = "NAME", a ready middlebox or a file')
    name = entry.get("name", "")
    if not isinstance(name, str) or (name and not NAME.fullmatch(name)):
        raise UsageError(f"{where}: name is {name!r}; letters, digits, _ and - make a name")
    extra = entry.get("set", {})
    if not isinstance(extra, dict):
        raise UsageError(f"{where}: set is a table of options: set = {{ name = … }}")
    return Box(entry["use"], name, {k: v for k, v in entry.items() if k not in RESERVED} | extra, base)


def load_chain(words, path=None, settings=()):
    """(Chain, {option of `mos run`: value}) of command-line words or of a chain file, with `--set` words on top."""
    from mos.nf import Chain
    if path and words:
        raise UsageError(f"the chain is in {path}: leave out {' '.join(words)}, or -c")
    boxes, run = read_chain(path) if path else ([parse_box(w) for w in words], {})
    name_boxes(boxes)
    apply_settings(boxes, settings)
    return Chain(*[build(b) for b in boxes]), run
