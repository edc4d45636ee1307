"""Network functions and chains: what a user's handlers become before a packet is seen.

`NF` is the base of reusable boxes; a file of marked functions is one too (`from_module`). `Chain` puts NFs in order, checks
that they fit together, and says who subscribes to what. Nothing here touches packets.
"""
import difflib
import inspect
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mos.errors import ChainError, UsageError
from mos.events import spec
from mos.events.marks import marks_of
from mos.events.narrow import Narrowed
from mos.events.user import UserEvent
from mos.state.kinds import clone, declared

MOMENTS = {"sender": (0,), "receiver": (1,), "acked": (2,)}
EDITS = {None: 0, "header": 1, "same_length": 2}
POLICIES = ("raise", "fail_open", "fail_closed", "detach")
MAX_POSITIONS = 200     # a flow remembers in one byte which NF dropped it; the rest of the byte is the stack's own


@dataclass(frozen=True)
class Option:
    """A typed setting of an NF. Filled from the command line (`--set box.name=value`), a TOML file or Python."""
    default: Any = None
    help: str = ""
    required: bool = False
    name: str = ""
    type: Any = str


def option(default=None, help="", required=False):
    """Declare an option: `deny: list[str] = option(help="suffixes to refuse")`. The annotation is its type."""
    return Option(default, help, required)


@dataclass(frozen=True)
class Native:
    """A handler in C: `capsule` is a PyCapsule "mos.handler.v1" whose pointer is the function and whose context is its ctx.

    `owner` is what ctx, and the texts the handler puts in `action_t.why`, belong to: it and the NF live as long as the handler
    may be called. `publishes` is the class of user-defined event that the handler publishes, if it does. With `answers=False`
    it lets everything pass, and no safe mode is needed for its sake.
    """
    event: Any
    capsule: Any
    where: "str | None" = None
    at: str = "sender"
    observe: bool = False
    priority: int = 0
    name: str = "handler"
    publishes: Any = None
    owner: Any = None
    answers: bool = True


class Tick:
    """What the timer of one `@every` carries: its handler is asked about no other."""

    def __init__(self, seconds):
        self.seconds = seconds


@dataclass
class Subscription:
    """One handler at its place in a chain, in the form the bus takes."""
    function: Any
    name: str
    position: int
    kind_mask: int
    moments: tuple
    root: Any
    predicates: tuple = ()
    compiled: tuple = ()
    filter: Any = None
    user_class: Any = None
    publishes: Any = None
    priority: int = 0
    observe: bool = False
    answers: bool = True
    attached: bool = True
    edits: int = 0
    policy: str = "raise"
    capsule: Any = None
    first: bool = False
    on: str = ""
    owner: Any = None       # keeps what a capsule points at
    tick: Any = None        # value of the timer that calls it, of an `every`
    asynchronous: bool = False      # `function` is a coroutine function: it is told copies, on an event loop


class NF:
    """Base of a reusable box: options as annotated class attributes, handlers as methods marked with `@on`.

        class SniBlocker(NF):
            "Drop flows to listed ports."
            ports: list[int] = option([23], help="server ports to refuse")

            @on(FlowStart)
            def refuse(self, ev): ...

    `on_error` says what becomes of a packet when a handler of it raises inline: fail_open, fail_closed or detach. Where it
    says nothing the run does (`Settings.on_raise`, `mos run --on-failure`), and else the packet passes.
    `observe = True`: the box also sees packets that one before it dropped, and answers nothing.
    """
    on_error = ""
    observe = False

    def __init__(self, **settings):
        declared = type(self).options()
        for name in settings:
            if name not in declared:
                raise UsageError(f"{self.label()} has no option {name!r}{near(name, declared)}")
        for name, opt in declared.items():
            if name not in settings and opt.required:
                raise UsageError(f"{self.label()} needs the option {name!r} ({opt.help}): --set {self.label()}.{name}=…")
            value = settings.get(name, opt.default)
            setattr(self, name, convert(self.label(), opt, value) if name in settings else value)

    @classmethod
    def options(cls):
        """{name: Option} of this class and its bases, bases first."""
        found = {}
        for base in reversed(cls.__mro__):
            hints = inspect.get_annotations(base, eval_str=True) if any(
                isinstance(v, Option) for v in vars(base).values()) else {}
            for name, value in vars(base).items():
                if isinstance(value, Option):
                    found[name] = Option(value.default, value.help, value.required, name, hints.get(name, str))
        return found

    def label(self):
        """How logs, counters and `--set` call this box."""
        return getattr(self, "name", None) or type(self).__name__.lower()

    def start(self, engine):
        """Called once before the first packet; `engine.clock` is packet time."""

    def settle(self, engine):
        """Called after the last FlowEnd: put into declared state what was counted elsewhere, in C for instance.

        With `--workers` each worker calls it, then declared state is merged, then `stop` is called, once and in one process.
        """

    def stop(self, engine):
        """Called once after the last FlowEnd."""

    def handlers(self):
        """[(marks, callable)] and `Native`s, in the order written."""
        found = []
        for cls in reversed(type(self).__mro__):
            for name, value in vars(cls).items():
                if marks_of(value) and getattr(type(self), name) is value:
                    found.append((marks_of(value), getattr(self, name)))
        return found

    def declarations(self):
        """State declared at class level (bases first), on the instance, and in the module that defines the class."""
        return list(self.own_declarations().values()) + self.shared_declarations()

    def own_declarations(self):
        """{attribute: declaration} of class and instance: what a second instance has copies of."""
        names = {}
        for cls in reversed(type(self).__mro__):
            names.update(vars(cls))
        names.update(vars(self))
        mine = own_state(names)
        return {name: value for name, value in names.items() if any(value is d for d in mine)}

    def shared_declarations(self):
        """What is declared in the module: every instance of the class uses the same."""
        module = inspect.getmodule(type(self))
        return own_state(vars(module)) if module else []


class ModuleNF(NF):
    """The marked functions of one module as an NF. Functions imported from elsewhere are ignored."""

    def __init__(self, module, name=None):
        super().__init__()
        self.module = module
        self.name = name or module.__name__.rpartition(".")[2]
        self.on_error = getattr(module, "on_error", "")
        self.observe = bool(getattr(module, "observe", False))

    def handlers(self):
        return [(marks_of(v), v) for v in vars(self.module).values()
                if isinstance(v, types.FunctionType) and v.__module__ == self.module.__name__ and marks_of(v)]

    def own_declarations(self):
        return {}

    def shared_declarations(self):
        return own_state(vars(self.module))


def own_state(namespace):
    """The state declared in a namespace, in the order written."""
    return list(declared(namespace))


def takes_answers(root, at):
    """Some kind at or below `root` may be answered, and its packet is not on its way yet."""
    return at == "sender" and any(k.answers and root.kind_mask >> spec.BITS[k.name] & 1 for k in spec.LEAVES)


def near(word, known):
    """`; did you mean …?` or the choices."""
    match = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {match[0]!r}?" if match else f"; it takes {', '.join(known)}" if known else "; it takes none"


def convert(label, opt, value):
    """An option's value by its annotated type; text as it comes from a command line or a TOML value. Raises UsageError."""
    wanted = opt.type
    try:
        if wanted is bool:
            if isinstance(value, str):
                return {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False,
                        "off": False}[value.lower()]
            if not isinstance(value, bool):
                raise ValueError
            return value
        if getattr(wanted, "__origin__", None) is list:
            items = value.split(",") if isinstance(value, str) else list(value)
            return [wanted.__args__[0](i) for i in items if i != ""]
        if wanted in (int, float, str, Path):
            return wanted(value)
        return value
    except (ValueError, TypeError, KeyError):
        name = getattr(wanted, "__name__", str(wanted))
        raise UsageError(f"{label}.{opt.name} takes {name}, not {value!r}") from None


class Chain:
    """NFs in order: packets to the server meet them from first to last, packets to the client from last to first.

    `Chain(Firewall(rules="x.toml"), module, …)`; raises ChainError naming the NFs that do not fit. `reverse=False` walks
    both directions first to last.
    """

    def __init__(self, *nfs, reverse=True, names=None):
        self.nfs = [as_nf(n) for n in nfs]
        if len(self.nfs) > MAX_POSITIONS:
            raise ChainError(f"{len(self.nfs)} NFs are more than {MAX_POSITIONS}: split the chain")
        self.reverse = reverse
        self.names = self._name(names)
        self._separate()
        self.subscriptions = [s for i, nf in enumerate(self.nfs) for s in self._subscribe(i, nf)]
        self._check_publishers()

    def _name(self, names):
        """Unique names: given ones, else the NF's label, numbered where it repeats."""
        labels, seen = [], {}
        for i, nf in enumerate(self.nfs):
            label = (names[i] if names else None) or nf.label()
            seen[label] = seen.get(label, 0) + 1
            labels.append(label if seen[label] == 1 else f"{label}-{seen[label]}")
        return labels

    def _separate(self):
        """Instances of one class get copies of its declared state; what a module declares cannot be told apart: refused."""
        for i, nf in enumerate(self.nfs):
            like = [k for k, other in enumerate(self.nfs) if source_of(other) is source_of(nf)]
            if len(like) < 2 or isinstance(nf, FunctionsNF):
                continue
            if any(k != i and self.nfs[k] is nf for k in like):
                raise ChainError(f"{self.names[i]}: one NF stands in the chain twice: make two of them")
            shared = nf.shared_declarations()
            if shared:
                raise ChainError(f"{' and '.join(self.names[k] for k in like)} would share {shared[0].kind} {shared[0].name!r}, "
                                 "which their module declares: declare it in a class derived from NF, and each has its own")
            for name, declaration in nf.own_declarations().items():
                if name not in vars(nf):
                    setattr(nf, name, clone(declaration))

    def declarations(self):
        """Every state declaration of the chain, once, in order."""
        found = []
        for nf in self.nfs:
            found += [d for d in nf.declarations() if not any(d is f for f in found)]
        return found

    def publishes(self):
        """{user event class: [names of the handlers that publish it]}."""
        found = {}
        for s in self.subscriptions:
            if s.publishes is not None:
                found.setdefault(s.publishes, []).append(s.name)
        return found

    def _subscribe(self, position, nf):
        if nf.on_error and nf.on_error not in POLICIES:
            raise ChainError(f"{self.names[position]}: on_error is {nf.on_error!r}; choose one of {', '.join(POLICIES)}")
        out = []
        for entry in nf.handlers():
            if isinstance(entry, Native):
                out.append(self._native(position, nf, entry))
            else:
                out += [self._marked(position, nf, mark, entry[1]) for mark in entry[0]]
        if not out and not isinstance(nf, ModuleNF):
            return out
        if not out:
            raise ChainError(f"{self.names[position]}: no handler found{self._hint(nf)}: mark functions with @on(…)")
        return out

    @staticmethod
    def _hint(nf):
        loose = [n for n, v in vars(nf.module).items() if isinstance(v, types.FunctionType) and v.__module__ == nf.module.__name__]
        return f" (unmarked: {', '.join(loose[:5])})" if loose else ""

    def _marked(self, position, nf, mark, fn):
        name = f"{self.names[position]}.{fn.__name__}"
        tick = Tick(mark.every) if mark.every else None
        later = inspect.iscoroutinefunction(fn)
        event = mark.target if tick is None else mark.event.where(lambda ev: ev.value is tick)
        root = event.root if isinstance(event, Narrowed) else event
        predicates = event.predicates if isinstance(event, Narrowed) else ()
        if mark.edits == "resize" or mark.holds:
            raise ChainError(f"{name}: changing a stream's length and holding packets are not possible yet; "
                             'edits="header" and edits="same_length" are')
        user = issubclass(root, UserEvent)
        compiled = tuple(self._compile(name, p, root) for p in predicates)
        return Subscription(
            function=fn, name=name, position=position, kind_mask=0 if user else root.kind_mask, moments=MOMENTS[mark.at],
            root=root,
            predicates=predicates, compiled=compiled, user_class=root if user else None, publishes=mark.publishes,
            priority=mark.priority, observe=mark.observe or nf.observe or later,
            answers=not later and not mark.publishes and (user or takes_answers(root, mark.at)),
            attached=mark.attached, edits=EDITS[mark.edits],
            policy=nf.on_error, on=root.__name__, tick=tick, asynchronous=later)

    def _native(self, position, nf, native):
        name = f"{self.names[position]}.{native.name}"
        f = self._compile(name, native.where, native.event) if native.where else None
        return Subscription(
            function=None, name=name, position=position, kind_mask=native.event.kind_mask, moments=MOMENTS[native.at],
            root=native.event, filter=f, priority=native.priority, observe=native.observe or nf.observe, policy=nf.on_error,
            capsule=native.capsule, publishes=native.publishes, owner=(nf, native),
            answers=native.answers and takes_answers(native.event, native.at),
            on=native.event.__name__)

    @staticmethod
    def _compile(name, predicate, root):
        if not isinstance(predicate, str):
            return predicate
        from mos.events.filter import compile_filter  # a fifth of what importing mos takes, and not every chain filters
        try:
            return user_filter(predicate, root) if issubclass(root, UserEvent) else compile_filter(predicate, root.__name__)
        except UsageError as e:
            raise type(e)(f"{name}: {e}") from None

    def _check_publishers(self):
        """A subscriber to a user event that nobody publishes would wait for ever."""
        published = self.publishes()
        loose = any(getattr(nf, "publishes", None) for nf in self.nfs)
        for s in self.subscriptions:
            if s.user_class is None or s.user_class is UserEvent or loose:
                continue
            if not any(issubclass(p, s.user_class) for p in published):
                names = [p.__name__ for p in published]
                raise ChainError(f"{s.name} subscribes to {s.user_class.__name__}, which no NF of this chain publishes"
                                 f"{near(s.user_class.__name__, names) if names else ''}: add the NF that derives it")

    def describe(self):
        """Who publishes and who subscribes, as lines of text."""
        lines = []
        for i, name in enumerate(self.names):
            lines.append(f"{i + 1} {name}")
            for s in self.subscriptions:
                if s.position == i:
                    where = "".join(f" where {p if isinstance(p, str) else getattr(p, '__name__', '…')}" for p in s.predicates)
                    lines.append(f"    {s.on}{where} -> {s.name.partition('.')[2]}"
                                 + (f" publishes {s.publishes.__name__}" if s.publishes else ""))
        return lines


def user_filter(text, root):
    """A filter on the declared fields of a user event, run on its record."""
    from mos.events.filter import Layout, RecordField, compile_filter
    fields = {s.name: RecordField(s.type, s.offset) for s in root.layout()}
    return compile_filter(text, "AppEvent", Layout(root.record_size(), fields))


def as_nf(thing):
    """An NF from an instance, a class, or a module of marked functions."""
    if isinstance(thing, NF):
        return thing
    if isinstance(thing, type) and issubclass(thing, NF):
        return thing()
    if isinstance(thing, types.ModuleType):
        return from_module(thing)
    if callable(thing) and marks_of(thing):
        return FunctionsNF([thing])
    if isinstance(thing, (list, tuple)) and thing and all(callable(f) and marks_of(f) for f in thing):
        return FunctionsNF(list(thing))
    raise ChainError(f"{thing!r} is no middlebox: give an NF, a module with @on handlers, or such functions")


class FunctionsNF(NF):
    """Loose marked functions as one NF: handy in tests and notebooks."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions
        self.name = functions[0].__name__

    def handlers(self):
        return [(marks_of(f), f) for f in self.functions]

    def declarations(self):
        found = []
        for f in self.functions:
            scope = dict(f.__globals__)
            for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
                try:
                    scope[name] = cell.cell_contents
                except ValueError:      # assigned later
                    continue
            found += [d for d in own_state(scope) if not any(d is x for x in found)]
        return found


def source_of(nf):
    """What makes two NFs instances of one thing: their class, or the module of functions."""
    return nf.module if isinstance(nf, ModuleNF) else type(nf)


def make(cls, settings=None, label=None):
    """An NF of `cls`, called `label` from the start, so that complaints about its settings name it as the user does."""
    nf = cls.__new__(cls)
    if label:
        nf.name = label
    nf.__init__(**(settings or {}))
    return nf


def pick(module, name=None):
    """The class derived from NF that `module` defines (`name` picks one of several), or None: its functions are the NF."""
    classes = {n: v for n, v in vars(module).items()
               if isinstance(v, type) and issubclass(v, NF) and v.__module__ == module.__name__ and not n.startswith("_")}
    short = module.__name__.rpartition(".")[2]
    if name:
        if name not in classes:
            raise UsageError(f"{short} has no middlebox {name!r}{near(name, list(classes))}")
        return classes[name]
    if len(classes) > 1:
        raise UsageError(f"{short} holds several middleboxes: say which, {', '.join(f'{short}:{n}' for n in classes)}")
    return next(iter(classes.values()), None)


def from_module(module, name=None, settings=None, label=None):
    """The NF of a module, called `label`: its class derived from NF (`name` picks one of several), else its functions."""
    cls = pick(module, name)
    if cls is not None:
        return make(cls, settings, label)
    nf = ModuleNF(module, label)
    for key in settings or {}:
        raise UsageError(f"{nf.name} has no option {key!r}; a file of functions takes none")
    return nf
