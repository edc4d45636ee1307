"""What a handler may answer. `None` is PASS. A verdict can be called with a reason: `DROP_FLOW("telnet from outside")`."""

CODES = {"PASS": 0, "EDIT": 1, "HOLD": 2, "DROP": 3, "DROP_FLOW": 4, "RESET": 5, "BYPASS": 8, "DETACH": 9}


class Verdict:
    """An answer: its name, what it covers, and the reason that goes into the log.

    Several handlers of one position are merged, the strongest wins: RESET > DROP_FLOW > DROP > edit > PASS.
    """

    __slots__ = ("name", "code", "reason", "payload")

    def __init__(self, name, reason=None, payload=None):
        self.name = name
        self.code = CODES[name]
        self.reason = reason
        self.payload = payload

    def __call__(self, reason):
        """The same verdict with a reason (one line of text)."""
        if not isinstance(reason, str):
            raise TypeError(f"the reason of {self.name} must be a str, not {type(reason).__name__}")
        return Verdict(self.name, reason, self.payload)

    def __repr__(self):
        return f"{self.name}({self.reason!r})" if self.reason else self.name

    def __eq__(self, other):
        return isinstance(other, Verdict) and (self.name, self.reason, self.payload) == (other.name, other.reason, other.payload)

    def __hash__(self):
        return hash((self.name, self.reason))


PASS = Verdict("PASS")
DROP = Verdict("DROP")              # this packet is not forwarded; its retransmission is offered again
DROP_FLOW = Verdict("DROP_FLOW")    # this packet and every later one of its flow
RESET = Verdict("RESET")            # DROP_FLOW, and both ends are told by RST
BYPASS = Verdict("BYPASS")          # no more events of this flow for this NF
DETACH = Verdict("DETACH")          # no more events of this flow for this handler


def Replace(data, reason=None):
    """Other bytes of the same length in place of an event's `data`. Needs `@on(..., edits="same_length")`."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"Replace takes bytes, not {type(data).__name__}")
    return Verdict("EDIT", reason, ("replace", bytes(data)))


def Rewrite(*, client=None, server=None, ttl=None, reason=None):
    """Other addresses for the rest of the flow, or another TTL for this packet. Needs `@on(..., edits="header")`.

    `client` and `server` are (address, port): how the flow is named from this NF's server side on. Answered to FlowStart;
    the stack then rewrites every packet both ways and mends the checksums. `ttl` may be answered to PacketIn.
    """
    if client is None and server is None and ttl is None:
        raise TypeError("Rewrite needs at least one of client, server, ttl")
    return Verdict("EDIT", reason, ("rewrite", client, server, ttl))
