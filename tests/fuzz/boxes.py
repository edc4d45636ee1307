"""Middleboxes whose answers are chosen by bytes: every verdict, edit, attachment, timer and kind of state there is."""
from mos import BYPASS, DETACH, DROP, DROP_FLOW, RESET, FlowVar, Replace, Rewrite
from mos.errors import MosError
from mos.events import (
    Event,
    FlowEnd,
    FlowEvent,
    FlowStart,
    Orphan,
    PacketIn,
    StreamData,
    TcpEvent,
    TcpStateChange,
    Text,
    Timer,
    UserEvent,
    derive,
    on,
)
from mos.nf import NF

PROPERTIES = {}
VERDICTS = (DROP, DROP_FLOW, RESET, BYPASS, DETACH, DROP("for a reason"), RESET("for another"))


class Told(UserEvent):
    """Published by a box, about a stream."""
    count: int
    text: str = Text(8, cut=True)


def read_all(thing, deep=True):
    """Every property of an event, its flow, packet and ends. What is stale says so."""
    for name in PROPERTIES.setdefault(type(thing), [n for n in dir(type(thing)) if not n.startswith("_")]):
        try:
            value = getattr(thing, name)
            if deep and name in {"flow", "packet", "client_side", "server_side"} and value is not None:
                read_all(value, name == "flow")
        except MosError:
            pass


class Choices:
    """One byte per question; 0, which is no answer, behind the end."""

    def __init__(self, data):
        self.left = list(data)

    def next(self):
        return self.left.pop() if self.left else 0


class Chooser(NF):
    """Asks `choices` what to do at each event. What a box may do at all is in its handlers' marks."""
    seen = FlowVar(int)
    note = FlowVar(str, size=12, cut=True)
    thing = FlowVar(object, default=list)

    def __init__(self, choices, name, on_error):
        super().__init__()
        self.choices, self.name, self.on_error = choices, name, on_error
        self.timers, self.kept, self.ports = [], [], 50000

    def act(self, ev):
        """Something that is no answer: state, timers, attachments. The byte that is left for the answer."""
        c = self.choices.next()
        flow = getattr(ev, "flow", None)
        if c < 128 or flow is None:
            return c
        what = c & 15
        if what < 3:
            self.seen[flow] += 1
            self.note[flow] = f"packet {c}"
            self.thing[flow].append(c)
        elif what == 3:
            self.thing[flow] = [c]
        elif what < 6:
            self.timers.append((flow, flow.timer((c >> 4) * (30 if what == 5 else 0.01) + 0.001, [self.name], every=what == 5)))
        elif what == 6 and self.timers:
            owner, handle = self.timers.pop()
            (flow if owner.ended else owner).cancel(handle)
        elif what == 7:
            flow.attach(self.attached)
        elif what == 8:
            flow.detach(self.attached)
        elif what == 9:
            self.kept.append(ev.keep())
        elif what == 10:
            flow.verdict(DROP_FLOW if c & 16 else RESET)
        elif what == 11:
            self.kept.append(ev)        # stale soon: to be refused, not to crash
        elif what == 12 and self.kept:
            read_all(self.kept.pop())
        elif what == 13 and self.on_error != "raise":
            raise ArithmeticError("chosen")
        return 0

    def verdict(self, ev):
        c = self.act(ev)
        return VERDICTS[c % len(VERDICTS)] if c and c < 32 else None

    @on(StreamData, edits="same_length")
    def data(self, ev):
        c = self.act(ev)
        if 32 <= c < 64:
            return Replace(bytes(b ^ c for b in ev.data))
        return VERDICTS[c % len(VERDICTS)] if c and c < 32 else None

    @on(FlowStart, edits="header")
    def opened(self, ev):
        c = self.act(ev)
        if 32 <= c < 64 and ev.flow.client is not None:
            self.ports += 1
            six = ":" in str(ev.flow.client)
            return Rewrite(**{"client" if c & 1 else "server": ("fd99::1" if six else "192.0.2.9", self.ports)})
        return VERDICTS[c % len(VERDICTS)] if c and c < 16 else None

    @on(PacketIn, edits="header")
    def packet(self, ev):
        c = self.act(ev)
        if 32 <= c < 64:
            return Rewrite(ttl=c)
        return VERDICTS[c % len(VERDICTS)] if c and c < 12 else None

    @on(TcpEvent)
    def tcp(self, ev):
        return self.verdict(ev)

    @on(FlowEvent, where="tcp and client_packets > 1 and not server_port == 443", attached=False)
    def attached(self, ev):
        self.act(ev)

    @on(StreamData, at="receiver")
    def delivered(self, ev):
        c = self.act(ev)
        return (DROP_FLOW, RESET, BYPASS, DETACH)[c % 4] if c and c < 16 else None

    @on(TcpStateChange, at="receiver")
    def changed(self, ev):
        self.act(ev)

    @on(Timer)
    def timer(self, ev):
        self.act(ev)
        len(ev.value)

    @on(FlowEnd)
    def ended(self, ev):
        self.act(ev)
        self.seen[ev.flow] += len(self.thing[ev.flow])

    @on(Orphan)
    def orphan(self, ev):
        return self.verdict(ev)

    @derive(Told, on=StreamData.where("length > 3"))
    def tell(self, ev):
        if self.choices.next() & 64:
            yield Told(count=ev.length, text="x" * (ev.length & 15))

    @on(Told)
    def told(self, ev):
        c = self.choices.next()
        return DROP if c and c < 16 else None


class Bystander(NF):
    """Reads whatever an event has."""
    name = "bystander"
    observe = True
    on_error = "raise"

    @on(Event)
    def look(self, ev):
        read_all(ev)
