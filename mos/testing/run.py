"""Trying a handler: a chain over a conversation, and everything that came of it."""
import os
from dataclasses import dataclass, field
from importlib import import_module, util
from pathlib import Path

from mos.errors import UsageError
from mos.events import Event, UserEvent, on
from mos.events.log import VERDICTS
from mos.io.source import open_source
from mos.nf import NF, Chain
from mos.run import Engine, Settings


@dataclass(frozen=True)
class Answer:
    """A verdict other than PASS as the log has it; `by` is the middlebox's name, or "stack"."""
    name: str
    by: str
    reason: "str | None"
    packet: int
    flow: "int | None"


@dataclass
class Result:
    """What came of a run.

    events: kept copies of all events, user-defined ones too, in the order in which they fired
    verdicts: an `Answer` for each packet that did not just pass
    out: (nanoseconds, frame) of each packet that left
    stats: the counters of `mos run --stats`
    """
    engine: Engine
    events: list = field(default_factory=list)
    verdicts: list = field(default_factory=list)
    out: list = field(default_factory=list)
    stats: dict = field(default_factory=dict)

    def of(self, *kinds):
        """The events of these classes and the classes below them."""
        return [e for e in self.events if isinstance(e, kinds)]

    def value(self, declaration):
        """What a Count, Map, Pool or Table holds after the run."""
        return self.engine.value(declaration)


class Keeper(NF):
    """The last middlebox of the chain: sees what earlier ones dropped, keeps it all, answers nothing."""
    name = "testing.run"
    observe = True

    def __init__(self, events):
        super().__init__()
        self.events = events

    @on(Event)
    def builtin(self, ev):
        self.events.append(ev.keep())

    @on(UserEvent)
    def user(self, ev):
        self.events.append(ev)


def run(chain, packets, **settings):
    """Run `packets` through `chain` to the end of the last flow and return the Result.

    chain: an NF, a class of one, a module, a marked function, a path ("rules.py") or a name ("monitor"), or a list of those.
    packets: a conversation, (nanoseconds, Ethernet frame) pairs, or the name of a capture. settings: as in `mos.Settings`.
    Raises HandlerError where a handler raises, ChainError where the chain does not fit.
    """
    things = list(chain) if isinstance(chain, (list, tuple)) and not _marked(chain) else [chain]
    nfs = chain.nfs if isinstance(chain, Chain) else [_load(t) for t in things]
    reverse = chain.reverse if isinstance(chain, Chain) else True
    result = Result(None)
    import tempfile
    handle, path = tempfile.mkstemp(suffix=".pcapng")
    os.close(handle)
    try:
        whole = Chain(*nfs, Keeper(result.events), reverse=reverse)

        def note(code, position, reason, packet, now, flow):
            by = whole.names[position] if position < len(whole.names) else "stack"
            result.verdicts.append(Answer(VERDICTS[code], by, reason, packet, flow))
        result.engine = Engine(whole, Settings(**settings), write=path, on_verdict=note)
        with result.engine as engine:
            engine.run(packets if isinstance(packets, (str, os.PathLike)) else list(packets))
        result.stats = engine.stats()
        result.out = [(record[1], record[2]) for record in open_source(path)]
    finally:
        os.unlink(path)
    return result


def _marked(things):
    return bool(things) and all(callable(t) and hasattr(t, "__mos_marks__") for t in things)


def _load(thing):
    """A module for a path or the name of a ready middlebox; anything else as it is."""
    if not isinstance(thing, (str, os.PathLike)):
        return thing
    path = Path(thing)
    if path.suffix != ".py":
        return import_module(f"mbox.{thing}")
    spec = util.spec_from_file_location(path.stem, path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
