"""nat: source address and port translation for IPv4, as RFC 4787 (UDP), 5382 (TCP) and 5508 (ICMP echo) ask for it.

what      A flow from inside leaves with an external address and port of its own; answers find their way back. The mapping
          depends on the inside address and port alone (4787 REQ-1), an inside host keeps one external address (REQ-2), its
          port is kept if it is free, for UDP else its parity (REQ-4). A mapping lasts as long as flows use it, and the stack
          gives idle flows two minutes for UDP (REQ-5), over two hours for TCP (5382 REQ-5). Flows to a mapped external port
          reach its inside end, from inside too (hairpinning, REQ-9: inline they leave where they come in, to the hardware address
          that the mapping's last flow came from). ICMP errors about its flows are translated with what
          they quote (5508 REQ-3 to 5). Inline, fragments wait for their datagram and leave translated, in any order. Nothing
          passes untranslated: no free port, no mapping, other ICMP, packets without a flow are dropped, and so are fragments
          on a tap. IPv6 and traffic of others pass as they are.
options   external   addresses to share (required)
          ports      range to take ports and identifiers from (default 1024-65535)
          inside     networks behind the box (default: those of RFC 1918)
          filtering  who may open a flow to a mapping (REQ-8): endpoint-independent (default: anybody) or address-dependent
                     (hosts that its inside end has flows with)
events    FlowStart (answers Rewrite, DROP_FLOW), FlowEnd, PacketIn and BadChecksum of packets without a flow (answers DROP)
state     a Pool of ports per protocol and external address; mappings by inside and by external end; what each flow uses
example   mos run nat -r pcaps/http_two.pcap -w out.pcap --set nat.external=192.0.2.1 --set nat.inside=10.77.0.1/32
"""
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from mos import DROP, DROP_FLOW, NF, Count, Map, Pool, Rewrite, UsageError, compile_filter, option
from mos.events import BadChecksum, FlowEnd, FlowStart, PacketIn, on

PROTOCOLS = ("tcp", "udp", "icmp")
FILTERING = ("endpoint-independent", "address-dependent")
STRAY = "ip_version == 4 and not flow_id > 0"
MAX_EXTERNAL = 64       # addresses: twelve million mappings
MAX_FLOWS = 1 << 24     # more than the stack tracks unless it is told to


@dataclass
class Mapping:
    external: str
    port: int
    link: "bytes | None" = None                         # the hardware address its inside end sends from
    peers: Counter = field(default_factory=Counter)     # flows that use it, by the other end's address


class Nat(NF):
    """Lets inside hosts share external addresses."""
    name = "nat"
    external: list[str] = option(help="addresses to share", required=True)
    ports: str = option("1024-65535", "range of ports and identifiers")
    inside: list[str] = option(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], "networks behind the box")
    filtering: str = option(FILTERING[0], "who may open a flow to a mapping: " + " or ".join(FILTERING))

    def __init__(self, **settings):
        super().__init__(**settings)
        first, last = self.check()
        inside, external = ", ".join(self.inside), ", ".join(self.external)
        one, other = f"client in {{{inside}}}", f"server in {{{inside}}}"
        self.from_inside = compile_filter(one, FlowStart)
        self.crossing = compile_filter(f"server in {{{external}}} or ({one} or {other}) and not ({one} and {other})", FlowStart)
        self.touched = compile_filter(f"src in {{{inside}}} or dst in {{{inside}, {external}}}")
        self.pools = {(p, e): Pool(first, last, name=f"nat_{p}_{e}") for p in PROTOCOLS for e in self.external}
        cap = len(self.pools) * (last - first + 1)
        self.mappings = Map("protocol, inside address, port", cap=cap)
        self.inside_ends = Map("protocol, external address, port", cap=cap)
        self.used = Map("flow id", cap=MAX_FLOWS)
        self.refused = Count("nat_refused", "cause")

    def check(self):
        """First and last port. Raises UsageError for a wrong option."""
        first, _, last = self.ports.partition("-")
        if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65536):
            raise UsageError(f"nat.ports is {self.ports!r}; give a range such as 1024-65535")
        if self.filtering not in FILTERING:
            raise UsageError(f"nat.filtering is {self.filtering!r}; choose {' or '.join(FILTERING)}")
        if not 0 < len(self.external) <= MAX_EXTERNAL or not self.inside:
            raise UsageError(f"nat takes 1 to {MAX_EXTERNAL} external addresses and at least one inside network")
        try:
            self.external = [str(IPv4Address(a)) for a in self.external]
            self.inside = [str(IPv4Network(n)) for n in self.inside]
        except ValueError as e:
            raise UsageError(f"nat: {e}") from None
        return int(first), int(last)

    def declarations(self):
        return super().declarations() + list(self.pools.values())

    @on(FlowStart, where="ip_version == 4", edits="header")
    def begin(self, ev):
        if not self.crossing.matches(ev):
            return None
        proto, ident, outbound = ev.flow.proto, ev.packet.icmp_id, self.from_inside.matches(ev)
        client, server, back, used = None, None, None, []
        if proto == "icmp" and (ident is None or not outbound or ev.server in self.external):
            return self.refuse("ICMP other than echo from inside")
        if not outbound or ev.server in self.external:
            inside = self.inside_ends.get((proto, ev.server, ev.server_port))
            peer = self.home(ev.client) if outbound else ev.client
            if inside is None or self.filtering == FILTERING[1] and peer not in self.mappings[inside].peers:
                return self.refuse("no mapping" if inside is None else "filtered")
            server = inside[1:]
            back = self.mappings[inside].link if outbound else None
            used.append((inside, peer))
        if outbound:
            inside = (proto, ev.client, ident or ev.client_port)
            mapping = self.mappings.get(inside) or self.map(*inside)
            if mapping is None:
                return self.refuse("no free port")
            client, mapping.link = (mapping.external, mapping.port), ev.packet.link_src
            server = (ev.server, mapping.port) if proto == "icmp" else server   # an identifier stands at both ends
            used.append((inside, ev.server))
        for inside, peer in used:
            self.mappings[inside].peers[peer] += 1
        self.used[ev.flow.id] = used
        return Rewrite(client=client, server=server, back=back)

    def home(self, address):
        """The external address of an inside host."""
        return self.external[int(IPv4Address(address)) % len(self.external)]

    def map(self, proto, address, port):
        """A new mapping for an inside end; None if no port is free."""
        external = self.home(address)
        pool = self.pools[proto, external]
        number = pool.take(port, port if proto == "udp" else None) or pool.take()
        if number is not None:
            self.inside_ends[proto, external, number] = (proto, address, port)
            self.mappings[proto, address, port] = mapping = Mapping(external, number)
            return mapping

    @on(FlowEnd)
    def end(self, ev):
        for inside, peer in self.used.pop(ev.flow.id, ()):
            mapping, proto = self.mappings[inside], inside[0]
            mapping.peers[peer] -= 1
            if not mapping.peers[peer]:
                del mapping.peers[peer]
            if not mapping.peers:
                del self.mappings[inside], self.inside_ends[proto, mapping.external, mapping.port]
                self.pools[proto, mapping.external].give(mapping.port)

    @on(PacketIn, where=STRAY)
    @on(BadChecksum, where=STRAY)
    def stray(self, ev):
        return self.refuse("no flow", DROP) if self.touched.matches(ev) else None

    def refuse(self, cause, verdict=DROP_FLOW):
        self.refused.add(1, cause)
        return verdict(cause)
