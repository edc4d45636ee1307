"""accounting: bytes charged per subscriber, without paying twice for what TCP had to send again. mOS's paper: Abacus.

what      A subscriber is the client of a flow. Each payload byte is charged once, when it is forwarded in order; bytes sent
          again are free. Whoever hides other data in retransmissions to ride for free is told from the copy of what was
          delivered last (64 KB of each direction). At the end comes the bill, dearest first.
options   action  what becomes of retransmissions with other content: "flag" (default) or "drop"
          quota   bytes a subscriber may use before its flows are dropped; 0 (default): any number
          top     rows of the bill (default 50)
events    FlowStart, FlowEnd, StreamGap, Retransmission, OverlapConflict; publishes FreeRide; with a quota StreamData, too
          (answers DROP_FLOW over quota), while without one flows are charged when they end, and no packet costs a call
state     one account per subscriber, of up to a million the least recently used goes
example   mos run accounting -r pcaps/http_lossy_server.pcap --set accounting.action=drop
"""
from dataclasses import dataclass, replace

from mos import DROP, DROP_FLOW, NF, Ip, Map, UsageError, UserEvent, derive, option
from mos.events import FlowEnd, FlowStart, OverlapConflict, Retransmission, StreamData, StreamGap, on

ACTIONS = ("flag", "drop")


class FreeRide(UserEvent):
    """A retransmission carries other bytes than what was sent there before."""
    subscriber: str = Ip()
    offset: int
    length: int


@dataclass
class Account:
    flows: int = 0
    up: int = 0             # bytes charged, from the subscriber
    down: int = 0
    resent: int = 0         # bytes sent again, not charged
    tunnelled: int = 0      # bytes of those that differ from what they claim to repeat

    @property
    def charged(self):
        return self.up + self.down


class Accounting(NF):
    """Charges subscribers for what reaches the other end."""
    name = "accounting"
    action: str = option("flag", "flag or drop retransmissions with other content")
    quota: int = option(0, "bytes a subscriber may use, 0: any number")
    top: int = option(50, "rows of the bill")

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.action not in ACTIONS or self.quota < 0 or self.top < 1:
            raise UsageError(f"accounting takes action flag or drop, quota >= 0 and top >= 1, not {self.action!r}, {self.quota} "
                             f"and {self.top}")
        self.accounts = Map("subscriber", cap=1 << 20, default=Account, partition="client")

    def handlers(self):
        """Without a quota there is nothing to ask before bytes pass; what only flags needs no safe mode."""
        left_out = (self.settle_flow, self.lost) if self.quota else (self.limit, self.charge)
        found = [(marks, handler) for marks, handler in super().handlers() if handler not in left_out]
        return [([replace(m, observe=True) for m in marks] if handler == self.caught and self.action == "flag" else marks, handler)
                for marks, handler in found]

    @on(FlowStart)
    def open(self, ev):
        self.accounts[ev.client].flows += 1

    @on(FlowStart, priority=1)
    @on(StreamData)
    def limit(self, ev):
        if self.quota and self.accounts[ev.client].charged >= self.quota:
            return DROP_FLOW("quota used up")

    @on(StreamData, at="receiver")
    def charge(self, ev):
        account = self.accounts[ev.client]
        if ev.to_server:
            account.up += ev.length
        else:
            account.down += ev.length

    @on(StreamGap)
    def lost(self, ev):
        account = self.accounts[ev.client]      # the flow's stream counts it in
        if ev.to_server:
            account.up -= ev.length
        else:
            account.down -= ev.length

    @on(FlowEnd)
    def settle_flow(self, ev):
        account = self.accounts[ev.client]
        account.up += ev.flow.client_side.stream_bytes
        account.down += ev.flow.server_side.stream_bytes

    @on(Retransmission)
    def free(self, ev):
        self.accounts[ev.client].resent += ev.length

    @derive(FreeRide, on=OverlapConflict)
    def compare(self, ev):
        yield FreeRide(ev.client, ev.offset, ev.length)

    @on(FreeRide)
    def caught(self, ev):
        self.accounts[ev.subscriber].tunnelled += ev.length
        if self.action == "drop":
            return DROP("other data in a retransmission")

    def stop(self, engine):
        bill = sorted(self.accounts.items(), key=lambda item: item[1].charged, reverse=True)
        width = max([len(subscriber) for subscriber, _ in bill[:self.top]] + [len("subscriber")])
        print(f"{'subscriber':{width}} {'flows':>7} {'up':>12} {'down':>12} {'charged':>12} {'resent':>10} {'tunnelled':>10}")
        for subscriber, a in bill[:self.top]:
            print(f"{subscriber:{width}} {a.flows:7} {a.up:12} {a.down:12} {a.charged:12} {a.resent:10} {a.tunnelled:10}")
        print(f"subscribers: {len(bill)}, charged: {sum(a.charged for _, a in bill)}, resent free: "
              f"{sum(a.resent for _, a in bill)}, tunnelled: {sum(a.tunnelled for _, a in bill)}")
