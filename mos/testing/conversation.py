"""Conversations built packet by packet: what was sent, and what became of it on the way.

Verbs that append packets belong to the kinds of conversation (`tcp`, `udp`, `icmp_echo`). Verbs that alter what is
there belong to every `Conversation`. Positions are 1-based and count the packets that are there *now*; -1 is the last.
Where a verb takes `which`, that is a position, several positions, or a predicate over `packets.Packet`.
Every verb returns the conversation itself, so calls can be chained. Nothing depends on the clock or on chance.
"""
from collections.abc import Iterable
from dataclasses import replace
from random import Random

from mos.errors import UsageError
from mos.testing.packets import Echo, Packet, Udp, address, endpoint, pcap_bytes, v6_twin

START_NS = 1_700_000_000_000_000_000
STEP_NS = 1_000_000
SIDES = ("client", "server")


def other(side):
    """The opposite of "client" or "server"."""
    if side not in SIDES:
        raise UsageError(f"{side!r} is no side: say \"client\" or \"server\"")
    return "server" if side == "client" else "client"


def vlan_stack(vlan):
    """A tuple of VLAN ids, outermost first, of an id, several, or None."""
    ids = () if vlan is None else (vlan,) if isinstance(vlan, int) else tuple(vlan)
    for i in ids:
        if not 0 <= i <= 4095:
            raise UsageError(f"VLAN id {i} is out of range: 0 to 4095")
    return ids


class Conversation:
    """A list of packets in time order. Iterating gives (nanoseconds, Ethernet frame) pairs."""

    def __init__(self, packets=(), start_ns=START_NS, step_ns=STEP_NS, vlan=None):
        self.built = list(packets)
        self.clock = start_ns       # time of the next packet
        self.step = step_ns
        self.vlans = vlan_stack(vlan)

    @property
    def packets(self):
        """The packets as a list of (nanoseconds since 1970, Ethernet frame)."""
        return [(p.time, p.frame()) for p in self.built]

    def __iter__(self):
        return iter(self.packets)

    def __len__(self):
        return len(self.built)

    def pcap_bytes(self):
        """The packets as the bytes of a nanosecond pcap file."""
        return pcap_bytes(self.packets)

    def pcap(self, path):
        """Write a nanosecond pcap file and return its path."""
        with open(path, "wb") as f:
            f.write(self.pcap_bytes())
        return path

    def wait(self, seconds):
        """Let `seconds` pass before the next packet."""
        self.clock += round(seconds * 1e9)
        return self

    def lose(self, which, resend=False):
        """Take packets out; with `resend` they come again at the end, as after the sender's time-out."""
        chosen = self._select(which)
        gone = [self.built[i] for i in chosen]
        self.built = [p for i, p in enumerate(self.built) if i not in chosen]
        if resend:
            for p in gone:
                self._resend(p)
        return self

    def reorder(self, n, by=1):
        """Let packet n arrive `by` places later (earlier if negative); the times of arrival stay as they are."""
        i = self._at(n)
        j = i + by
        if not 0 <= j < len(self.built):
            raise UsageError(f"packet {i + 1} cannot move by {by}: there are {len(self.built)} packets")
        order = list(range(len(self.built)))
        order.insert(j, order.pop(i))
        return self._arrange(order)

    def shuffle(self, seed, which=None):
        """Permute the chosen packets among their places; by default those with payload. Same seed, same order."""
        places = self._select(which if which is not None else lambda p: p.payload)
        mixed = list(places)
        Random(seed).shuffle(mixed)
        order = list(range(len(self.built)))
        for place, source in zip(places, mixed):
            order[place] = source
        return self._arrange(order)

    def duplicate(self, which, times=1):
        """Let the network deliver each chosen packet again, right behind itself."""
        chosen = self._select(which)
        self.built = [replace(p) for i, p in enumerate(self.built) for _ in range(1 + (times if i in chosen else 0))]
        return self

    def fragment(self, which, size):
        """Cut each chosen packet into IP fragments with at most `size` bytes of IP payload each (multiples of 8)."""
        if size < 8:
            raise UsageError(f"fragments of {size} bytes are impossible: give at least 8")
        chosen = self._select(which)
        result = []
        for i, p in enumerate(self.built):
            result.extend(self._pieces(p, size // 8 * 8) if i in chosen else [p])
        self.built = result
        return self

    def corrupt(self, which, layer="transport"):
        """Give each chosen packet a wrong checksum: of its transport header, or of its IPv4 header with layer="ip"."""
        if layer not in ("transport", "ip"):
            raise UsageError(f"layer {layer!r} has no checksum: say \"transport\" or \"ip\"")
        for i in self._select(which):
            if layer == "ip" and self.built[i].version == 6:
                raise UsageError("an IPv6 header has no checksum: use layer=\"transport\"")
            self.built[i].bad |= {layer}
        return self

    def on_vlan(self, *ids):
        """Put every packet, built or to come, on a VLAN; with several ids the first is the outermost tag."""
        self.vlans = vlan_stack(ids)
        for p in self.built:
            p.vlans = self.vlans
        return self

    def v6(self):
        """Turn every packet, built or to come, into its IPv6 twin: a.b.c.d becomes fd00::a.b.c.d."""
        for p in self.built:
            p.src, p.dst = v6_twin(p.src), v6_twin(p.dst)
        return self

    def _append(self, packet):
        packet.time = self.clock
        self.clock += self.step
        self.built.append(packet)

    def _resend(self, packet):
        self._append(replace(packet))

    def _at(self, n):
        i = n - 1 if n > 0 else n + len(self.built)
        if n == 0 or not 0 <= i < len(self.built):
            raise UsageError(f"there is no packet {n}: positions are 1 to {len(self.built)}, or -1 from the end")
        return i

    def _select(self, which):
        if callable(which):
            return [i for i, p in enumerate(self.built) if which(p)]
        numbers = which if isinstance(which, Iterable) else (which,)
        return sorted({self._at(n) for n in numbers})

    def _arrange(self, order):
        times = [p.time for p in self.built]
        self.built = [self.built[i] for i in order]
        for p, time in zip(self.built, times):
            p.time = time
        return self

    @staticmethod
    def _pieces(packet, size):
        if packet.fragment is not None:
            raise UsageError("a fragment cannot be cut again: fragment the whole packet to the smaller size")
        total = len(packet.transport())
        return [replace(packet, fragment=(at, min(size, total - at), at + size < total)) for at in range(0, total, size)]


class Endpoints(Conversation):
    """A conversation between two hosts, each with an address, a port and a counter of IP identifications."""

    def __init__(self, client, server, **common):
        super().__init__(**common)
        (a, client_port), (b, server_port) = client, server
        if len(a) != len(b):
            raise UsageError("client and server must both be IPv4 or both IPv6")
        self.address = {"client": a, "server": b}
        self.port = {"client": client_port, "server": server_port}
        self.ident = {"client": 0x1000, "server": 0x2000}

    def v6(self):
        """Turn every packet, built or to come, into its IPv6 twin: a.b.c.d becomes fd00::a.b.c.d."""
        self.address = {side: v6_twin(a) for side, a in self.address.items()}
        return super().v6()

    def _emit(self, side, l4):
        peer = other(side)
        self.ident[side] += 1
        self._append(Packet(self.clock, side, self.address[side], self.address[peer], l4,
                            ident=self.ident[side], vlans=self.vlans))
        return self


class UdpConversation(Endpoints):
    """UDP datagrams between two ports."""

    def send(self, data):
        """The client sends one datagram."""
        return self._emit("client", Udp(self.port["client"], self.port["server"], data))

    def reply(self, data):
        """The server sends one datagram."""
        return self._emit("server", Udp(self.port["server"], self.port["client"], data))


class EchoConversation(Endpoints):
    """ICMP echo requests and replies with one identifier."""

    def __init__(self, client, server, ident, **common):
        super().__init__((address(client), 0), (address(server), 0), **common)
        self.echo, self.count = ident, 0

    def ping(self, data=b"", answered=True):
        """The client sends an echo request with the next sequence number, and the server answers it."""
        self.count += 1
        self._emit("client", Echo(False, self.echo, self.count, data))
        return self._emit("server", Echo(True, self.echo, self.count, data)) if answered else self


def udp(client, server, *, vlan=None, start_ns=START_NS, step_ns=STEP_NS):
    """A UDP conversation between "address:port" and "address:port", empty so far."""
    return UdpConversation(endpoint(client), endpoint(server), vlan=vlan, start_ns=start_ns, step_ns=step_ns)


def icmp_echo(client, server, *, ident=1, count=1, data=b"abcdefgh", vlan=None, start_ns=START_NS, step_ns=STEP_NS):
    """An ICMP echo conversation between two addresses with `count` answered pings so far."""
    conversation = EchoConversation(client, server, ident, vlan=vlan, start_ns=start_ns, step_ns=step_ns)
    for _ in range(count):
        conversation.ping(data)
    return conversation


def merge(*conversations):
    """All packets of several conversations by time; at equal times in the order of the arguments. Copies the packets."""
    packets = sorted((replace(p) for c in conversations for p in c.built), key=lambda p: p.time)
    merged = Conversation(packets)
    merged.clock = max((c.clock for c in conversations), default=START_NS)
    return merged
