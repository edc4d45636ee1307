"""`@on` and `@derive`: they only mark a function. A chain collects the marks of a module or a class when it is built."""
import difflib
import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, Never, Protocol, TypeVar, overload

from mos.errors import UsageError
from mos.events import spec
from mos.events.narrow import Narrowed, Predicate
from mos.events.user import UserEvent
from mos.events.views import Event, PacketIn, StreamData, StreamEvent, TcpStateChange, Timer

E = TypeVar("E", bound=Event)
R = TypeVar("R")
U = TypeVar("U", bound=UserEvent)

POSITIONS = {"sender": "sender", "seen": "sender", "receiver": "receiver", "acked": "acked"}
RECEIVED = PacketIn.kind_mask | StreamData.kind_mask | TcpStateChange.kind_mask
LEVELS = ("header", "same_length", "resize")
_ON = ("where", "at", "priority", "attached", "edits", "holds", "observe")


@dataclass(frozen=True)
class Mark:
    """One subscription of one function, as written: nothing of it is known to any chain yet."""
    event: "type[Event] | Narrowed[Any]"
    where: "Predicate | None" = None
    at: str = "sender"              # sender, receiver or acked
    priority: int = 0               # lower runs first
    attached: bool = True           # False: only flows that were given to `flow.attach`
    edits: "str | None" = None      # one of LEVELS
    holds: bool = False
    observe: bool = False
    publishes: "type[UserEvent] | None" = None      # of a `derive`
    every: float = 0                # seconds, of an `every`

    @property
    def target(self) -> "type[Event] | Narrowed[Any]":
        """The event, narrowed by `where` if there is one."""
        return self.event if self.where is None else self.event.where(self.where)


class Marker(Protocol, Generic[E]):
    """What `on(...)` returns. The event's type is checked against the function's annotation; methods take `self` first."""

    @overload
    def __call__(self, fn: Callable[[E], R], /) -> Callable[[E], R]: ...
    @overload
    def __call__(self, fn: Callable[[Any, E], R], /) -> Callable[[Any, E], R]: ...


class Deriver(Protocol, Generic[E, U]):
    """What `derive(...)` returns."""

    @overload
    def __call__(self, fn: Callable[[E], Generator[U, Any, Any]], /) -> Callable[[E], Generator[U, Any, Any]]: ...
    @overload
    def __call__(self, fn: Callable[[Any, E], Generator[U, Any, Any]], /) -> Callable[[Any, E], Generator[U, Any, Any]]: ...


def on(kind: "type[E] | Narrowed[E]", where: "Predicate | None" = None, at: str = "sender", priority: int = 0,
       attached: bool = True, edits: "str | None" = None, holds: bool = False, observe: bool = False,
       **unknown: Never) -> Marker[E]:
    """Mark a function as a handler of `kind` and the kinds below it.

    where: filter text, or a callable of the event, that must hold. at: "sender" (before the packet is forwarded),
    "receiver" (after; PacketIn, StreamData, TcpStateChange; observe only) or "acked" (stream events, once the receiver has
    acknowledged the bytes; observe only); "seen" is "sender". priority: handlers of one middlebox run from the lowest number
    to the highest, equal ones in the order they are written. attached=False: only for flows given to `flow.attach`. edits:
    "header", "same_length" or "resize", the most the handler may do to a packet. holds: it may answer Hold. observe: it sees
    packets that an earlier middlebox dropped, and answers nothing.
    An `async def` observes: it is told copies, one after the other, on an event loop, and no packet waits for it.
    Raises UsageError at once for what can be seen to be wrong here; the filter is compiled when the chain is built.
    """
    _refuse_unknown("on", unknown, _ON)
    _check_event("on", kind)
    _check_where("on", where)
    _one_of("at", at, tuple(POSITIONS))
    if edits is not None:
        _one_of("edits", edits, LEVELS)
    if type(priority) is not int:
        raise UsageError(f"@on: priority is an int, lower ones run first, not {priority!r}")
    for name, flag in (("attached", attached), ("holds", holds), ("observe", observe)):
        if not isinstance(flag, bool):
            raise UsageError(f"@on: {name} is True or False, not {flag!r}")
    mark = Mark(kind, where, POSITIONS[at], priority, attached, edits, holds, observe)
    _check_combination(mark)

    def marker(fn: Any) -> Any:
        _check_function("on", fn)
        if inspect.iscoroutinefunction(fn) and (edits or holds or not attached):
            raise UsageError(f"@on: {_called(fn)} is async, so it observes copies, of every flow, later: "
                             f"leave out {'edits' if edits else 'holds' if holds else 'attached'}, or use a plain def")
        if inspect.isgeneratorfunction(fn):
            raise UsageError(f"@on: {_called(fn)} yields, so its body would never run; @derive publishes what it yields")
        return _append(fn, mark)
    return marker


def derive(event: "type[U]", on: "type[E] | Narrowed[E]", where: "Predicate | None" = None, **unknown: Never) -> Deriver[E, U]:
    """Mark a generator function that, given `on`, yields `event`s; each is published after the current handler.

    Raises UsageError at once for what can be seen to be wrong here.
    """
    _refuse_unknown("derive", unknown, ("on", "where"))
    if not (isinstance(event, type) and issubclass(event, UserEvent) and event is not UserEvent):
        raise UsageError(f"@derive publishes a class derived from UserEvent, not {event!r}")
    _check_event("derive", on)
    _check_where("derive", where)
    mark = Mark(on, where, publishes=event)

    def marker(fn: Any) -> Any:
        _check_function("derive", fn)
        if not inspect.isgeneratorfunction(fn):
            raise UsageError(f"@derive: {_called(fn)} must yield the {event.__name__}s it publishes")
        return _append(fn, mark)
    return marker


def every(seconds: float) -> "Marker[Timer]":
    """Mark a function to be called every `seconds` of packet time, counted from the first packet; its event has no flow.

    After a silence the ticks that were missed come one after the other, of very many the last 1,024.
    Raises UsageError unless `seconds` is a positive number.
    """
    if type(seconds) not in (int, float) or not 1e-9 <= seconds < 1 << 30:
        raise UsageError(f"@every takes a positive number of seconds, not {seconds!r}")
    mark = Mark(Timer, every=seconds)

    def marker(fn: Any) -> Any:
        _check_function("every", fn)
        if inspect.isgeneratorfunction(fn):
            raise UsageError(f"@every: {_called(fn)} yields, so its body would never run")
        return _append(fn, mark)
    return marker


def marks_of(fn: object) -> "tuple[Mark, ...]":
    """The marks of a function, in the order they were set: the innermost decorator's first."""
    return getattr(fn, "__mos_marks__", ())


def near(word: str, known: "tuple[str, ...]") -> str:
    """`; did you mean X?`, or nothing."""
    lower = {k.lower(): k for k in known}
    match = difflib.get_close_matches(word.lower(), lower, 1)
    return f"; did you mean {lower[match[0]]}?" if match else ""


def _called(fn: Any) -> str:
    return getattr(fn, "__qualname__", repr(fn))


def _append(fn: Any, mark: Mark) -> Any:
    try:
        fn.__mos_marks__ = marks_of(fn) + (mark,)
    except (AttributeError, TypeError):
        raise UsageError(f"{fn!r} cannot be marked: wrap it in a function") from None
    return fn


def _refuse_unknown(decorator: str, unknown: "dict[str, Any]", known: "tuple[str, ...]") -> None:
    for name in unknown:
        raise UsageError(f"@{decorator} has no argument {name!r}{near(name, known) or '; it takes ' + ', '.join(known)}")


def _check_event(decorator: str, kind: Any) -> None:
    if isinstance(kind, Narrowed) and issubclass(kind.root, Event):
        return
    if isinstance(kind, type) and issubclass(kind, Event):
        return
    if isinstance(kind, str):
        raise UsageError(f"@{decorator} takes the event's class, not the text {kind!r}{near(kind, tuple(spec.BY_NAME))}")
    if isinstance(kind, Event):
        raise UsageError(f"@{decorator} takes the event's class: {type(kind).__name__}, not one of its events")
    if callable(kind) and not isinstance(kind, type):
        raise UsageError(f"@{decorator} needs an event: @{decorator}(FlowEnd) above {_called(kind)}")
    raise UsageError(f"@{decorator} takes an event class or one narrowed by where(), not {kind!r}")


def _check_where(decorator: str, where: Any) -> None:
    if where is not None and not callable(where) and not (isinstance(where, str) and where.strip()):
        raise UsageError(f"@{decorator}: where is a filter text or a callable of the event, not {where!r}")


def _one_of(name: str, value: Any, known: "tuple[str, ...]") -> None:
    if value not in known:
        hint = near(value, known) if isinstance(value, str) else ""
        raise UsageError(f"@on: {name} is one of {', '.join(known)}, not {value!r}{hint}")


def _check_combination(mark: Mark) -> None:
    """Answers that this event, at this place, does not take."""
    name = mark.event.name
    answer = "edits" if mark.edits else "holds" if mark.holds else ""
    leaves = [k for k in spec.LEAVES if mark.event.kind_mask >> spec.BITS[k.name] & 1]
    if mark.at == "acked" and (not leaves or mark.event.kind_mask & ~StreamEvent.kind_mask):
        raise UsageError(f'@on: at="acked" is for stream events; {name} is none, use at="receiver"')
    if mark.at == "receiver" and not mark.event.kind_mask & RECEIVED:
        raise UsageError(f'@on: at="receiver" is for PacketIn, StreamData and TcpStateChange; {name} happens before')
    if answer and mark.at != "sender":
        raise UsageError(f'@on: at="{mark.at}" only observes; {answer} needs at="sender"')
    if answer and mark.observe:
        raise UsageError(f"@on: observe=True answers nothing; leave out {answer} or observe")
    if answer and leaves and not any(k.answers for k in leaves):
        raise UsageError(f"@on: {name} takes no answer; leave out {answer}")


def _check_function(decorator: str, fn: Any) -> None:
    if not callable(fn) or isinstance(fn, type):
        raise UsageError(f"@{decorator} marks a function, not {fn!r}")
    if inspect.isasyncgenfunction(fn) or (inspect.iscoroutinefunction(fn) and decorator == "derive"):
        raise UsageError(f"@{decorator}: {_called(fn)} is async and yields, but a packet waits for what is published; "
                         "use a plain def")
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):     # compiled without a signature
        return
    for arguments in ((None,), (None, None)):
        try:
            signature.bind(*arguments)
            return
        except TypeError:
            continue
    raise UsageError(f"@{decorator}: {_called(fn)}{signature} must take the event (in a class: self and the event)")
