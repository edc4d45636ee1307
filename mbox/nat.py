"""nat: source address and port translation for IPv4, as RFC 4787 (UDP), 5382 (TCP) and 5508 (ICMP echo) ask for it.

what      A flow from inside leaves with an external address and port of its own; answers find their way back. The mapping
          depends on the inside address and port alone (4787 REQ-1), an inside host keeps one external address (REQ-2), its
          port is kept if it is free, for UDP else its parity (REQ-4). Flows to a mapped external port reach its inside host,
          from inside too (hairpinning, REQ-9). Nothing untranslated passes: no port left, no mapping, ICMP other than echo,
          fragments and packets without a flow are dropped. IPv6 and traffic of other networks pass as they are.
options   external   addresses to share (required)
          ports      range to take ports and identifiers from (default 1024-65535)
          inside     networks behind the box (default: those of RFC 1918)
          filtering  who may open a flow to a mapping: endpoint-independent (default: anybody) or address-dependent (hosts
                     that the inside end has flows with), RFC 4787 REQ-8
          hold       seconds a TCP mapping outlives its last flow (default 240, RFC 5382 REQ-5). UDP and ICMP ones end with
                     it: an idle flow is kept for two minutes (RFC 4787 REQ-5) by the stack
events    FlowStart (answers Rewrite, DROP_FLOW), FlowEnd, PacketIn and BadChecksum of packets without a flow (answer DROP)
state     a Pool of ports per protocol and external address; mappings by inside and by external end; what each flow uses
example   mos run nat -r pcaps/http_two.pcap -w out.pcap --set nat.external=192.0.2.1
"""
from collections import Counter, deque
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from mos import DROP, DROP_FLOW, NF, Count, Map, Pool, Rewrite, UsageError, compile_filter, option
from mos.events import BadChecksum, FlowEnd, FlowStart, PacketIn, on

FILTERING = ("endpoint-independent", "address-dependent")
STRAY = "ip_version == 4 and not flow_id > 0"
MAX_EXTERNAL = 64       # addresses: twelve million mappings


@dataclass
class Mapping:
    external: str
    port: int
    peers: Counter = field(default_factory=Counter)     # flows by the other end's address
    idle: int = 0           # when the last of them ended, ns
    resting: bool = False   # it stands in the queue of those to be given up


class Nat(NF):
    """Lets inside hosts share external addresses."""
    name = "nat"
    external: list[str] = option(help="addresses to share", required=True)
    ports: str = option("1024-65535", "range of ports and identifiers")
    inside: list[str] = option(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], "networks behind the box")
    filtering: str = option(FILTERING[0], "who may open a flow to a mapping: " + " or ".join(FILTERING))
    hold: float = option(240.0, "seconds a TCP mapping outlives its last flow")

    def __init__(self, **settings):
        super().__init__(**settings)
        first, last = self.check()
        inside = ", ".join(self.inside)
        self.from_inside = compile_filter(f"client in {{{inside}}}", FlowStart)
        self.to_inside = compile_filter(f"server in {{{inside}}}", FlowStart)
        self.touched = compile_filter(f"src in {{{inside}}} or dst in {{{inside}, {', '.join(self.external)}}}")
        self.pools = {(p, e): Pool(first, last, name=f"nat_{p}_{e}") for p in ("tcp", "udp", "icmp") for e in self.external}
        cap = len(self.pools) * (last - first + 1)
        self.mappings = Map("protocol, inside address, port", cap=cap)
        self.owners = Map("protocol, external address, port", cap=cap)
        self.using = Map("flow id", cap=1 << 24)        # as many flows as anybody tracks
        self.resting = Map("nothing", default=deque)    # one queue of (time, mapping's key)
        self.refused = Count("nat_dropped", "cause")

    def check(self):
        """First and last port. Raises UsageError for a wrong option."""
        first, _, last = self.ports.partition("-")
        if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65536):
            raise UsageError(f"nat.ports is {self.ports!r}; give a range such as 1024-65535")
        if self.filtering not in FILTERING:
            raise UsageError(f"nat.filtering is {self.filtering!r}; choose {' or '.join(FILTERING)}")
        if not 0 < len(self.external) <= MAX_EXTERNAL or self.hold < 0:
            raise UsageError(f"nat takes 1 to {MAX_EXTERNAL} external addresses and hold >= 0")
        try:
            self.external = [str(IPv4Address(a)) for a in self.external]
            self.inside = [str(IPv4Network(n)) for n in self.inside]
        except ValueError as e:
            raise UsageError(f"nat: {e}") from None
        return int(first), int(last)

    def declarations(self):
        return super().declarations() + list(self.pools.values())

    @on(FlowStart, where="ip_version == 4", edits="header")
    def start(self, ev):
        proto, ident = ev.flow.proto, ev.packet.icmp_id
        outbound, inbound = self.from_inside.matches(ev), ev.server in self.external
        if not (outbound or inbound):
            return self.refuse("to an inside address") if self.to_inside.matches(ev) else None
        if not inbound and self.to_inside.matches(ev):
            return None
        if proto == "icmp" and (ident is None or inbound):
            return self.refuse("ICMP other than echo from inside")
        client, server, uses = None, None, []
        if outbound:
            key = (proto, ev.client, ev.client_port if ident is None else ident)
            mapping = self.mappings.get(key) or self.map(key, ev.time)
            if mapping is None:
                return self.refuse("no free port")
            client = (mapping.external, mapping.port)
            uses.append((key, ev.server))
        if inbound:
            key = self.owners.get((proto, ev.server, ev.server_port))
            peer = client[0] if client else ev.client
            if key is None:
                return self.refuse("no mapping")
            if self.filtering == FILTERING[1] and peer not in self.mappings[key].peers:
                return self.refuse("filtered")
            server = key[1:]
            uses.append((key, peer))
        for key, peer in uses:
            self.mappings[key].peers[peer] += 1
        self.using[ev.flow.id] = uses
        return Rewrite(client=client, server=server if ident is None else (ev.server, mapping.port))

    @on(FlowEnd)
    def end(self, ev):
        for key, peer in self.using.pop(ev.flow.id, ()):
            mapping = self.mappings[key]
            mapping.peers -= Counter({peer: 1})
            if not mapping.peers:
                mapping.idle = ev.time
                if not mapping.resting:
                    mapping.resting = True
                    self.resting[""].append((ev.time, key))

    @on(PacketIn, where=STRAY)
    @on(BadChecksum, where=STRAY)
    def stray(self, ev):
        if self.touched.matches(ev):
            return self.refuse("no flow", DROP)

    def map(self, key, now):
        """A new mapping for an inside end; None if no port is free."""
        self.give_up(now)
        proto, address, port = key
        external = self.external[int(IPv4Address(address)) % len(self.external)]
        pool = self.pools[proto, external]
        number = pool.take(port, port) if proto == "udp" else None
        number = pool.take(port) if number is None else number
        if number is None:
            return None
        self.owners[proto, external, number] = key
        self.mappings[key] = mapping = Mapping(external, number)
        return mapping

    def give_up(self, now):
        """Free the ports of mappings that have rested for long enough."""
        queue = self.resting[""]
        while queue and now - queue[0][0] >= (self.hold * 1e9 if queue[0][1][0] == "tcp" else 0):
            since, key = queue.popleft()
            mapping = self.mappings[key]
            if mapping.idle > since and not mapping.peers:
                queue.append((mapping.idle, key))
            elif mapping.peers:
                mapping.resting = False
            else:
                del self.mappings[key], self.owners[key[0], mapping.external, mapping.port]
                self.pools[key[0], mapping.external].give(mapping.port)

    def refuse(self, cause, verdict=DROP_FLOW):
        self.refused.add(1, cause)
        return verdict(cause)
