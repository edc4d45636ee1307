from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from os import PathLike
from types import ModuleType, TracebackType
from typing import IO, Any, Literal, TypeVar

from mos.errors import CaptureError as CaptureError
from mos.errors import ChainError as ChainError
from mos.errors import FilterError as FilterError
from mos.errors import HandlerError as HandlerError
from mos.errors import MosError as MosError
from mos.errors import StaleEvent as StaleEvent
from mos.errors import StaleFlow as StaleFlow
from mos.errors import UsageError as UsageError
from mos.errors import VerdictError as VerdictError
from mos.events import Event
from mos.events.marks import derive as derive
from mos.events.marks import every as every
from mos.events.marks import on as on
from mos.events.narrow import Narrowed
from mos.events.user import Blob as Blob
from mos.events.user import Ip as Ip
from mos.events.user import Text as Text
from mos.events.user import UserEvent as UserEvent
from mos.flow.view import Flow
from mos.state.kinds import Count as Count
from mos.state.kinds import FlowState as FlowState
from mos.state.kinds import FlowVar as FlowVar
from mos.state.kinds import Map as Map
from mos.state.kinds import Pool as Pool
from mos.state.kinds import Table as Table

__version__: str
__all__ = [
    "BYPASS", "Blob", "Box", "Capture", "CaptureError", "Chain", "ChainError", "Count", "DETACH", "DROP", "DROP_FLOW", "Engine",
    "Filter", "FilterError", "FlowState", "FlowVar", "HandlerError", "Ip", "Map", "MosError", "NF", "Native", "PASS", "Pool",
    "RESET", "Replace", "Rewrite", "Settings", "StaleEvent", "StaleFlow", "Table", "Text", "UsageError", "UserEvent",
    "Verdict", "VerdictError", "compile_filter", "derive", "every", "inline", "on", "open", "option",
]

_T = TypeVar("_T")
_Packets = str | PathLike[str] | bytes | IO[bytes] | Iterable[tuple[int, bytes]]

class Verdict:
    name: str
    code: int
    reason: str | None
    payload: Any
    def __init__(self, name: str, reason: str | None = None, payload: Any = None) -> None: ...
    def __call__(self, reason: str) -> Verdict: ...

PASS: Verdict
DROP: Verdict
DROP_FLOW: Verdict
RESET: Verdict
BYPASS: Verdict
DETACH: Verdict
def Replace(data: bytes | bytearray | memoryview, reason: str | None = None) -> Verdict: ...
def Rewrite(*, client: tuple[str, int] | None = None, server: tuple[str, int] | None = None, ttl: int | None = None,
            back: bytes | None = None, reason: str | None = None) -> Verdict: ...
def option(default: Any = None, help: str = "", required: bool = False) -> Any: ...

class Filter:
    text: str
    kind: str
    def matches(self, ev: Event) -> bool: ...

def compile_filter(text: str, kind: str = "Event", extra: Any = None) -> Filter: ...

class Native:
    def __init__(self, event: type[Event], capsule: Any, where: str | None = None, at: str = "sender", observe: bool = False,
                 priority: int = 0, name: str = "handler", **kwargs: Any) -> None: ...

class NF:
    on_error: Literal["", "raise", "fail_open", "fail_closed", "detach"]
    observe: bool
    name: str
    def __init__(self, **settings: Any) -> None: ...
    def start(self, engine: Engine) -> None: ...
    def settle(self, engine: Engine) -> None: ...
    def stop(self, engine: Engine) -> None: ...
    def label(self) -> str: ...
    def handlers(self) -> list[Any]: ...
    def declarations(self) -> list[Any]: ...

_Box = NF | type[NF] | ModuleType | Callable[..., Any] | list[Callable[..., Any]]

class Chain:
    names: list[str]
    nfs: list[NF]
    def __init__(self, *nfs: _Box, reverse: bool = True, names: list[str | None] | None = None) -> None: ...
    def describe(self) -> list[str]: ...
    def publishes(self) -> dict[type[UserEvent], list[str]]: ...

class Settings:
    truth: Literal["tap", "inline"]
    pickup: Literal["off", "state", "data"]
    checksum: Literal["off", "verify", "auto"]
    overlap: str
    safe: Literal["auto", "on", "off"]
    holes: Literal["wait", "skip"]
    tunnels: bool | list[str]
    max_flows: int
    hash_key: bytes | None
    bpf: str | None
    timeouts: dict[str, float]
    limits: dict[str, int]
    raise_errors: bool
    on_raise: Literal["fail_open", "fail_closed", "detach"]
    linktype: int
    def __init__(self, **settings: Any) -> None: ...

class Engine:
    chain: Chain
    settings: Settings
    seconds: float
    cpu_seconds: float
    def __init__(self, chain: Chain | _Box, settings: Settings | None = None, *, log: str | PathLike[str] | IO[str] | None = None,
                 write: Any = None, record: Any = None, on_tick: Callable[[int], None] | None = None,
                 on_verdict: Callable[..., None] | None = None, on_notice: Callable[[str], None] | None = None,
                 on_error: Callable[[str, str, int, BaseException], None] | None = None, **settings_: Any) -> None: ...
    def __enter__(self) -> Engine: ...
    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None: ...
    @property
    def clock(self) -> int: ...
    def feed(self, frame: bytes, ts_ns: int, linktype: int | None = None) -> bool: ...
    def run(self, what: _Packets) -> Engine: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...
    def value(self, declaration: Any) -> Any: ...
    def find(self, proto: str, a: str, a_port: int, b: str, b_port: int) -> Flow | None: ...
    def inject(self, frame: bytes, side: Literal[0, 1]) -> None: ...
    def flows(self) -> list[Flow]: ...
    def stats(self) -> dict[str, Any]: ...

class Capture:
    def __init__(self, what: _Packets, **settings: Any) -> None: ...
    def events(self, *kinds: type[Event] | Narrowed[Any], where: str | Callable[[Any], object] | None = None) -> Iterator[Any]: ...
    def run(self, *nfs: _Box, **kwargs: Any) -> Engine: ...

def open(what: _Packets, **settings: Any) -> Capture: ...

class Box:
    engine: Engine
    def __init__(self, what: str | Any, chain: Chain | _Box | Iterable[_Box] = (), *, thread: bool = False, queue: int = 1024,
                 record: str | PathLike[str] | None = None, **options: Any) -> None: ...
    def events(self, *kinds: type[Event] | Narrowed[Any], where: str | Callable[[Any], object] | None = None, at: str = "sender",
               queue: int | None = None) -> AsyncIterator[Any]: ...
    async def __aenter__(self) -> Box: ...
    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None: ...
    async def call(self, function: Callable[..., _T], *args: Any) -> _T: ...
    async def stats(self) -> dict[str, Any]: ...
    def stop(self) -> None: ...
    async def wait(self) -> None: ...

def inline(what: str | Any, chain: Chain | _Box | Iterable[_Box] = (), *, thread: bool = False, queue: int = 1024,
           record: str | PathLike[str] | None = None, gro: Literal["on", "off", "keep"] = "on", **options: Any) -> Box: ...
