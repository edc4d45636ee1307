"""Network middleboxes as Python event handlers over one shared TCP stack."""
TYPE_CHECKING = False       # type checkers take it for true by its name; `typing` would cost 2 ms
if TYPE_CHECKING:
    from mos.box import Box
    from mos.errors import (
        CaptureError,
        ChainError,
        FilterError,
        HandlerError,
        MosError,
        StaleEvent,
        StaleFlow,
        UsageError,
        VerdictError,
    )
    from mos.events.filter import Filter, compile_filter
    from mos.events.marks import derive, every, on
    from mos.events.user import Blob, Ip, Text, UserEvent
    from mos.events.verdict import BYPASS, DETACH, DROP, DROP_FLOW, PASS, RESET, Replace, Rewrite, Verdict
    from mos.nf import NF, Chain, Native, option
    from mos.run import Capture, Engine, Settings
    from mos.state.kinds import Count, FlowState, FlowVar, Map, Pool, Table

__version__ = "0.1.0"

__all__ = [
    "BYPASS", "Blob", "Box", "Capture", "CaptureError", "Chain", "ChainError", "Count", "DETACH", "DROP", "DROP_FLOW", "Engine",
    "Filter", "FilterError", "FlowState", "FlowVar", "HandlerError", "Ip", "Map", "MosError", "NF", "Native", "PASS", "Pool",
    "RESET", "Replace", "Rewrite", "Settings", "StaleEvent", "StaleFlow", "Table", "Text", "UsageError", "UserEvent",
    "Verdict", "VerdictError", "compile_filter", "derive", "every", "inline", "on", "open", "option",
]


# Where each public name lives. A module is imported when one of its names is first used: `mos --help` and most middleboxes
# need few of them, and all together take ten times as long as Python itself.
_HOMES = {
    "mos.box": ("Box",),
    "mos.errors": ("CaptureError", "ChainError", "FilterError", "HandlerError", "MosError", "StaleEvent", "StaleFlow", "UsageError",
                   "VerdictError"),
    "mos.events.filter": ("Filter", "compile_filter"),
    "mos.events.marks": ("derive", "every", "on"),
    "mos.events.user": ("Blob", "Ip", "Text", "UserEvent"),
    "mos.events.verdict": ("BYPASS", "DETACH", "DROP", "DROP_FLOW", "PASS", "RESET", "Replace", "Rewrite", "Verdict"),
    "mos.nf": ("NF", "Chain", "Native", "option"),
    "mos.run": ("Capture", "Engine", "Settings"),
    "mos.state.kinds": ("Count", "FlowState", "FlowVar", "Map", "Pool", "Table"),
}
_SUBMODULES = ("errors", "events")      # `import mos` alone gives these, too


def __getattr__(name):
    from importlib import import_module
    if name in _SUBMODULES:
        return import_module(f"mos.{name}")
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(home), name)
            return value
    raise AttributeError(f"module 'mos' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__, *_SUBMODULES})


def open(what, **settings):     # noqa: A001 - named as in `mos.open("x.pcap")`
    """A capture to walk in Python: `for ev in mos.open("x.pcap").events(FlowEnd): …`. `settings` as in `Settings`."""
    from mos.run import Capture
    return Capture(what, **settings)


def inline(what, chain=(), **options):
    """A chain between two interfaces in an asyncio program: `async with mos.inline("eth1:eth2", chain) as box:`.

    what: "A:B" bridges, "A" taps, as `mos run -i`. chain: a `Chain`, a middlebox, or a list of them; frames pass all of them.
    options: thread=True runs the stack in a thread of its own, otherwise the loop runs one batch at a time; queue=1024
    events that a reader may be behind; gro="on" has the kernel join frames, as `mos run --gro`; record, log, write,
    on_error, on_notice as of `Engine`; all others as of `Settings`.
    """
    from mos.box import Box
    return Box(what, chain, **options)
