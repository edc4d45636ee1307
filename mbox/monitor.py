"""monitor: who talks to whom, in which TCP states, as a table. mOS calls it midstat.

what      A table of the flows with most bytes and a line of totals, when the run ends and at intervals. Addresses are those
          of the client's own side, bytes are payload with retransmissions, states are the client's and the server's.
options   interval  seconds of packet time between tables of the flows then alive; 0 (default): only the last table
          top       rows of a table (default 20)
events    Retransmission, FlowEnd, Timer; answers nothing, and sees packets that another box dropped
state     one count per flow; the `top` largest ended flows; totals by protocol and by reason of the end
example   mos run monitor -r pcaps/http_two.pcap --set monitor.top=5
"""
import heapq

from mos import NF, Count, FlowVar, Map, option
from mos.errors import UsageError
from mos.events import FlowEnd, Retransmission, Timer, on

HEADER = ("client", "server", "proto", "states", "sent", "received", "seconds", "resent", "end")
NUMBERS = (4, 5, 6, 7)


class Monitor(NF):
    """Prints tables of flows."""
    name = "monitor"
    observe = True
    interval: float = option(0.0, "seconds of packet time between tables, 0: only at the end")
    top: int = option(20, "rows of a table")

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.interval < 0 or self.top < 1:
            raise UsageError(f"monitor takes interval >= 0 and top >= 1, not {self.interval:g} and {self.top}")
        self.resent = FlowVar(int)
        # One heap of (bytes, -id, cells), `top` long.
        self.largest = Map("nothing", default=list, merge=lambda a, b: heapq.nlargest(self.top, a + b))
        self.protocols = Count("monitor_flows", "proto")
        self.reasons = Count("monitor_ends", "reason")
        self.bytes = Count("monitor_bytes")

    def start(self, engine):
        self.engine = engine
        if self.interval:
            engine.timer(self.interval, self)

    @on(Retransmission)
    def retransmission(self, ev):
        self.resent.add(ev.flow)

    @on(FlowEnd)
    def end(self, ev):
        row = self.row(ev.flow, ev.reason)
        heap = self.largest[""]
        (heapq.heappush if len(heap) < self.top else heapq.heappushpop)(heap, row)
        self.protocols.add(1, ev.flow.proto)
        self.reasons.add(1, ev.reason)
        self.bytes.add(row[0])

    @on(Timer)
    def tick(self, ev):
        if ev.value is self:
            alive = [self.row(flow, "") for flow in self.engine.flows()]
            if alive:
                print_table(f"at {self.engine.clock / 1e9:.3f} s, alive: {len(alive)}", heapq.nlargest(self.top, alive))
            self.engine.timer(self.interval, self)

    def stop(self, engine):
        flows, reasons = ({label: n for label, n in sorted(engine.value(c).items())} for c in (self.protocols, self.reasons))
        title = f"flows: {sum(flows.values())}{listed(flows)}, bytes: {engine.value(self.bytes)}"
        print_table(f"{title}, ended{listed(reasons) or ': 0'}", sorted(self.largest[""], reverse=True))

    def row(self, flow, end):
        """What sorts it, and its cells."""
        states = f"{flow.client_side.state}/{flow.server_side.state}" if flow.tcp else "-"
        seconds = (flow.last_ns - flow.first_ns) / 1e9
        cells = (endpoint(flow.client, flow.client_port), endpoint(flow.server, flow.server_port), flow.proto, states,
                 str(flow.client_bytes), str(flow.server_bytes), f"{seconds:.3f}", str(self.resent[flow]), end)
        return flow.client_bytes + flow.server_bytes, -flow.id, cells


def endpoint(address, port):
    """Address and port as one word; ICMP has no ports."""
    return f"[{address}]:{port}" if ":" in address and port else f"{address}:{port}" if port else address


def listed(counts):
    """` (name number, …)`, or nothing."""
    return f" ({', '.join(f'{name} {n}' for name, n in counts.items())})" if counts else ""


def print_table(title, rows):
    """The title, and if there are rows the header and them, numbers to the right."""
    lines = [HEADER] + [cells for _, _, cells in rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines)]
    print(title)
    for cells in lines:
        print("  ".join(c.rjust(w) if i in NUMBERS else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths))).rstrip())
