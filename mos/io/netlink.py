"""What the kernel knows of interfaces, and the few changes to them that we make (rtnetlink(7)): asked directly, without `ip`.

A switch at the moment of a failure must not need a program to be loaded, or memory for one.
"""
import os
import socket
import struct
from dataclasses import dataclass

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_GETADDR = 16, 17, 18, 22
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x300, 0x200, 0x400
IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_XDP = 3, 4, 5, 10, 18, 20, 26, 43
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INET6_ADDR_GEN_MODE, IFLA_XDP_ATTACHED = 1, 2, 8, 2
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE, IFLA_BR_GROUP_FWD_MASK, IFLA_BR_MCAST_SNOOPING = 1, 5, 9, 23
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFF_UP = 1
HEADER, IFINFO, IFADDR = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=BBBBI")
NESTED = 0x8000


@dataclass(frozen=True)
class Link:
    """An interface. `master` is the index of the bridge or bond it is a port of, `lower` of the one it lies on; 0: none."""
    index: int
    name: str
    flags: int
    mtu: int
    master: int = 0
    lower: int = 0
    kind: str = ""          # bridge, veth, macvlan …; "" for hardware
    alias: str = ""
    xdp: bool = False       # a program takes its packets before everybody else

    @property
    def up(self):
        return bool(self.flags & IFF_UP)


def attribute(kind, value):
    """One attribute: bytes, a list of attributes, text, or (struct format, number)."""
    if isinstance(value, list):
        kind, value = kind | NESTED, b"".join(attribute(*item) for item in value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, tuple):
        value = struct.pack("=" + value[0], value[1])
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def attributes(data):
    """{kind: bytes} of a run of attributes."""
    found, at = {}, 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        found[kind & 0x3fff] = data[at + 4:at + size]
        at += max(4, size + 3 & ~3)
    return found


def text(data):
    return data.rstrip(b"\0").decode(errors="replace")


class Netlink:
    """One rtnetlink socket. All methods raise OSError with the kernel's reason."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.socket.bind((0, 0))
        self.number = 0

    def close(self):
        self.socket.close()

    def ask(self, kind, flags, body):
        """Send a request; [(kind, body)] of what is answered."""
        self.number += 1
        self.socket.send(HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self.number, 0) + body)
        found = []
        while True:
            data = self.socket.recv(1 << 20)
            while len(data) >= HEADER.size:
                size, kind, _, number, _ = HEADER.unpack_from(data)
                content, data = data[HEADER.size:size], data[(size + 3) & ~3:]
                if number != self.number:
                    continue                    # of an earlier request that failed half-way
                if kind == NLMSG_ERROR:
                    error = -struct.unpack_from("=i", content)[0]
                    if error:
                        raise OSError(error, os.strerror(error))
                    return found
                if kind == NLMSG_DONE:
                    return found
                found.append((kind, content))

    def change(self, index, *items, flags=0, mask=0, create=False):
        """Make a link, or change one."""
        how = NLM_F_ACK | (NLM_F_CREATE | NLM_F_EXCL if create else 0)
        self.ask(RTM_NEWLINK, how, IFINFO.pack(0, 0, index, flags, mask) + b"".join(attribute(*item) for item in items))

    def links(self):
        """Every interface there is, by name."""
        told = self.ask(RTM_GETLINK, NLM_F_DUMP, IFINFO.pack(0, 0, 0, 0, 0))
        return {link.name: link for link in (link_of(body) for kind, body in told if kind == RTM_NEWLINK)}

    def addresses(self):
        """{index of an interface: ["10.0.0.1/24", "fe80::1/64", …]}"""
        found = {}
        for _, body in self.ask(RTM_GETADDR, NLM_F_DUMP, IFADDR.pack(0, 0, 0, 0, 0)):
            family, bits, _, _, index = IFADDR.unpack_from(body)
            items = attributes(body[IFADDR.size:])
            value = items.get(IFA_LOCAL) or items.get(IFA_ADDRESS)
            if value and family in (socket.AF_INET, socket.AF_INET6):
                found.setdefault(index, []).append(f"{socket.inet_ntop(family, value)}/{bits}")
        return found

    def add_bridge(self, name, alias):
        """A bridge that is down, forwards at once when it is up, keeps out of it, and passes all but what no bridge may.

        It has no spanning tree, no address of its own, and floods multicast. Links' own protocols pass too, but for those
        that the kernel never lets through: pause frames and LACP.
        """
        data = [(IFLA_BR_STP_STATE, ("I", 0)), (IFLA_BR_FORWARD_DELAY, ("I", 0)), (IFLA_BR_MCAST_SNOOPING, ("B", 0)),
                (IFLA_BR_GROUP_FWD_MASK, ("H", 0xfff8))]
        self.change(0, (IFLA_IFNAME, name), (IFLA_LINKINFO, [(IFLA_INFO_KIND, "bridge"), (IFLA_INFO_DATA, data)]), create=True)
        index = socket.if_nametoindex(name)
        self.change(index, (IFLA_IFALIAS, alias.encode()))
        try:
            self.change(index, (IFLA_AF_SPEC, [(socket.AF_INET6, [(IFLA_INET6_ADDR_GEN_MODE, ("B", 1))])]))
        except OSError:
            pass                                # no IPv6 here: no address either
        return index

    def set_master(self, index, master):
        """Make an interface a port of `master`; 0: of none."""
        self.change(index, (IFLA_MASTER, ("I", master)))

    def set_up(self, index, up):
        self.change(index, flags=IFF_UP if up else 0, mask=IFF_UP)

    def delete(self, index):
        self.ask(RTM_DELLINK, NLM_F_ACK, IFINFO.pack(0, 0, index, 0, 0))


def link_of(body):
    _, _, index, flags, _ = IFINFO.unpack_from(body)
    items = attributes(body[IFINFO.size:])

    def number(kind):
        return struct.unpack("=I", items[kind])[0] if kind in items else 0
    info, xdp = attributes(items.get(IFLA_LINKINFO, b"")), attributes(items.get(IFLA_XDP, b""))
    return Link(index, text(items[IFLA_IFNAME]), flags, number(IFLA_MTU), number(IFLA_MASTER), number(IFLA_LINK),
                text(info.get(IFLA_INFO_KIND, b"")), text(items.get(IFLA_IFALIAS, b"")), bool(xdp.get(IFLA_XDP_ATTACHED, b"\0")[0]))
