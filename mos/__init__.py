"""Network middleboxes as Python event handlers over one shared TCP stack."""
from mos.errors import (
    CaptureError, ChainError, FilterError, HandlerError, MosError, StaleEvent, StaleFlow, UsageError, VerdictError)
from mos.events.filter import Filter, compile_filter
from mos.events.marks import derive, on
from mos.events.user import Blob, Ip, Text, UserEvent
from mos.events.verdict import BYPASS, DETACH, DROP, DROP_FLOW, PASS, RESET, Replace, Rewrite, Verdict
from mos.nf import NF, Chain, Native, option
from mos.run import Capture, Engine, Settings
from mos.state.kinds import Count, FlowState, FlowVar, Map, Pool, Table

__version__ = "0.1.0"

__all__ = [
    "BYPASS", "Blob", "Capture", "CaptureError", "Chain", "ChainError", "Count", "DETACH", "DROP", "DROP_FLOW", "Engine", "Filter",
    "FilterError", "FlowState", "FlowVar", "HandlerError", "Ip", "Map", "MosError", "NF", "Native", "PASS", "Pool", "RESET",
    "Replace", "Rewrite", "Settings", "StaleEvent", "StaleFlow", "Table", "Text", "UsageError", "UserEvent", "Verdict",
    "VerdictError", "compile_filter", "derive", "on", "open", "option",
]


def open(what, **settings):     # noqa: A001 - named as in `mos.open("x.pcap")`
    """A capture to walk in Python: `for ev in mos.open("x.pcap").events(FlowEnd): …`. `settings` as in `Settings`."""
    return Capture(what, **settings)
