"""What a handler may answer. `None` is PASS. A verdict can be called with a reason: `DROP_FLOW("telnet from outside")`."""

from ipaddress import ip_address

from mos.errors import VerdictError

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


def Rewrite(*, client=None, server=None, ttl=None, back=None, reason=None):
    """Other addresses for the rest of the flow, or another TTL for this packet. Needs `@on(..., edits="header")`.

    `client` and `server` are (address, port): how the flow is named from this NF's server side on. Answered to FlowStart;
    the stack then rewrites every packet both ways and mends the checksums. `ttl` may be answered to PacketIn. `back`: the
    new server is on the client's side of the wire, behind this hardware address of 6 bytes (`Packet.link_src` of what came from
    there). Inline the flow then leaves where it comes in, each end's packets to the address that the other sends from.
    """
    if client is None and server is None and ttl is None:
        raise TypeError("Rewrite needs at least one of client, server, ttl")
    for end in (client, server):
        if end is not None:
            address, port = end
            ip_address(address)
            if type(port) is not int or not 0 <= port < 65536:
                raise ValueError(f"Rewrite takes (address, port) with a port of 0 to 65535, not {port!r}")
    if back is not None and (type(back) is not bytes or len(back) != 6 or server is None):
        raise ValueError(f"Rewrite takes for back 6 bytes, beside a server, not {back!r}")
    if ttl is not None and (type(ttl) is not int or not 0 < ttl < 256):
        raise ValueError(f"Rewrite takes a ttl of 1 to 255, not {ttl!r}")
    return Verdict("EDIT", reason, ("rewrite", client, server, ttl, back))


def answered(result, name, event, answers, committed, edits):
    """The code of what the handler `name` answered to `event`. Raises VerdictError for what it may not answer.

    answers: the event takes an answer of this handler. committed: its packet has been forwarded. edits: what the handler
    declares, 0 nothing, 1 header, 2 same_length; -1: it is asked about a user event, whose bytes are no packet's.
    """
    if not isinstance(result, Verdict):
        raise VerdictError(f"{name} returned {result!r}: answer None or a verdict "
                           "(PASS, DROP, DROP_FLOW, RESET, BYPASS, DETACH, Replace, Rewrite)")
    code = result.code
    if code == CODES["PASS"] or code >= CODES["BYPASS"]:
        return code
    if not answers:
        raise VerdictError(f"{name} answered {result!r} to {event}, which may only be observed")
    if code == CODES["HOLD"]:
        raise VerdictError(f"{name} answered {result!r}: holding packets is not possible yet")
    if committed and code < CODES["DROP_FLOW"]:
        raise VerdictError(f"{name} answered {result!r} after the packet was committed: only DROP_FLOW and RESET are possible then")
    if code == CODES["EDIT"]:
        kind, needed = result.payload[0], 2 if result.payload[0] == "replace" else 1
        if edits < 0:
            raise VerdictError(f"{name} answered {result!r} to {event}: "
                               "PASS, DROP, DROP_FLOW, RESET, BYPASS and DETACH are possible")
        if edits != needed:
            raise VerdictError(f"{name} answered {kind.capitalize()} without declaring it: "
                               f"@on(…, edits={'same_length' if needed == 2 else 'header'!r})")
    return code
