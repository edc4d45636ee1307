"""portscan: sources that try many addresses and ports in a short time.

what      Counts the distinct targets (server address, port) that a source tries to open TCP or UDP flows to within a window
          of packet time. A target that answers (a TCP handshake, a UDP reply) is taken off again: busy clients succeed,
          scanners mostly do not. From `targets` on a line is printed and PortScan published, once per source and `block`.
          Flows picked up without their SYN do not count. Sources can be forged: against those it only stays bounded.
options   targets      how many are a scan (default 20)
          window       seconds (default 60)
          only_failed  count targets only until they answer (default true); false counts every flow
          action       "print" (default), or "drop": also drop further flows of the source, for `block` seconds
          block        seconds (default 600)
events    FlowStart (answers DROP_FLOW), FlowEstablished, PacketIn of first UDP replies; publishes PortScan
state     per source at most `targets` targets; 65,536 sources, of which the least recently active goes
example   mos run portscan -r pcaps/portscan.pcap --set portscan.targets=10
"""
from mos import DROP_FLOW, NF, Ip, Map, UsageError, UserEvent, derive, option
from mos.events import FlowEstablished, FlowStart, PacketIn, on

ACTIONS = ("print", "drop")
SOURCES = 65536         # with the default of 20 targets each some 200 MB, under a flood of forged sources


class PortScan(UserEvent):
    """A source has tried `targets` distinct targets, the first of them `seconds` ago."""
    source: str = Ip()
    targets: int
    seconds: float


class PortScanner(NF):
    """Finds port scans."""
    name = "portscan"
    targets: int = option(20, "distinct targets that are a scan")
    window: float = option(60.0, "seconds in which they are tried")
    only_failed: bool = option(True, "take a target off when it answers")
    action: str = option("print", "print, or drop further flows of the source too")
    block: float = option(600.0, "seconds for which a source found is not looked at again, and dropped")

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.targets < 2 or not self.window > 0 or not self.block > 0 or self.action not in ACTIONS:
            raise UsageError("portscan takes targets >= 2, window and block > 0, and action print or drop")
        self.tried = Map("source", cap=SOURCES, expire=self.window, default=dict, partition="client")
        self.found = Map("source", cap=SOURCES, expire=self.block, partition="client")

    @on(FlowStart)
    def refuse(self, ev):
        if self.action == "drop" and ev.client in self.found:
            return DROP_FLOW("port scanner")

    @derive(PortScan, on=FlowStart, where="(tcp or udp) and not midstream")
    def attempt(self, ev):
        if ev.client in self.found:
            return
        tried, target = self.tried[ev.client], (ev.server, ev.server_port)
        tried.pop(target, None)
        tried[target] = ev.time
        self.tried[ev.client] = tried
        while ev.time - (first := next(iter(tried.values()))) > self.window * 1e9:
            del tried[next(iter(tried))]
        if len(tried) >= self.targets:
            del self.tried[ev.client]
            self.found[ev.client] = ev.time
            yield PortScan(ev.client, len(tried), (ev.time - first) / 1e9)

    @on(FlowEstablished)
    @on(PacketIn, where="udp and not to_server and server_packets == 1")
    def answered(self, ev):
        if self.only_failed:
            self.tried.get(ev.client, {}).pop((ev.server, ev.server_port), None)

    @on(PortScan)
    def report(self, ev):
        print(f"port scan: {ev.source} tried {ev.targets} targets in {ev.seconds:.3f} s")
        if self.action == "drop":
            return DROP_FLOW("port scan")
