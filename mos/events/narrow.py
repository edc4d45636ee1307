"""An event narrowed by a predicate, which is itself an event: what `StreamData.where("length > 1000")` gives."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mos.errors import FilterError

E = TypeVar("E")
Predicate = str | Callable[[Any], object]


@dataclass(frozen=True, repr=False)
class Narrowed(Generic[E]):
    """`root` where each of `predicates` holds, asked in order; the first that does not ends it.

    Equal ones are interchangeable, so a chain may ask the predicates of two subscribers once.
    """
    root: "type[E]"
    predicates: "tuple[Predicate, ...]"

    def __post_init__(self) -> None:
        for p in self.predicates:
            if not callable(p) and not (isinstance(p, str) and p.strip()):
                raise FilterError(f"{self.root.__name__}.where() takes a filter text or a callable, not {p!r}")

    def where(self, predicate: "Predicate") -> "Narrowed[E]":
        """This event narrowed further; `predicate` is asked only where those before it hold."""
        return Narrowed(self.root, self.predicates + (predicate,))

    @property
    def parent(self) -> "type[E] | Narrowed[E]":
        """The event that the last predicate narrows."""
        return Narrowed(self.root, self.predicates[:-1]) if len(self.predicates) > 1 else self.root

    @property
    def kind_mask(self) -> int:
        """The built-in kinds it can come from."""
        return getattr(self.root, "kind_mask", 0)

    @property
    def name(self) -> str:
        """As it is written: `StreamData.where('length > 1000')`."""
        return self.root.__name__ + "".join(f".where({_text(p)})" for p in self.predicates)

    def __repr__(self) -> str:
        return self.name

    def compiled(self, compile_filter: "Callable[[str, Any], Any]") -> "tuple[Any, ...]":
        """The predicates with each text replaced by `compile_filter(text, root)`. Raises what that raises."""
        return tuple(compile_filter(p, self.root) if isinstance(p, str) else p for p in self.predicates)


def _text(predicate: "Predicate") -> str:
    return repr(predicate) if isinstance(predicate, str) else getattr(predicate, "__name__", repr(predicate))
