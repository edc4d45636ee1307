"""What user misuse raises. Packets never raise: what is wrong with them is counted and published as an event."""


class MosError(Exception):
    """Base of every error of this package. Its text is one line that says what to do."""


class UsageError(MosError):
    """A wrong option, file name, rule or argument: the caller can mend it."""


class CaptureError(MosError):
    """A capture file that cannot be read (further). `packets` were delivered before the damage."""

    def __init__(self, message, packets=0):
        super().__init__(message)
        self.packets = packets


class FilterError(UsageError):
    """A filter that does not compile: syntax, unknown field, wrong type."""


class ChainError(UsageError):
    """A chain that cannot work: unknown hook, missing publisher, undeclared edit, reader behind a resizing writer."""


class VerdictError(MosError):
    """A handler answered where it may only observe, or with an edit it has not declared."""


class StaleEvent(MosError):
    """An event was read after its handler had returned. Use `ev.keep()` for a copy that lasts."""


class StaleFlow(MosError):
    """Counters or state of a flow that has ended were read."""


class HandlerError(MosError):
    """A handler raised. `__cause__` is its exception; the text names handler, event and packet."""

    def __init__(self, message, packet=0):
        super().__init__(message)
        self.packet = packet
