"""What stands between two interfaces and a run on them: each thing looked at, and for what is wrong the command that mends it.

Nothing is changed here. Sockets are opened to see what the kernel lets us do, and closed again.
"""
import fcntl
import ipaddress
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from mos import privileges
from mos.io.bridge import ALIAS, filters_bridges
from mos.io.gro import joins
from mos.io.interfaces import (
    ETH_P_ALL,
    PACKET_ADD_MEMBERSHIP,
    PACKET_IGNORE_OUTGOING,
    PACKET_MR_PROMISC,
    PACKET_QDISC_BYPASS,
    PACKET_VERSION,
    PACKET_VNET_HDR,
    SO_RCVBUFFORCE,
    SOCKET_BUFFER,
    SOL_PACKET,
    TPACKET_V2,
    ethtool,
    has_ethernet,
    link_state,
)
from mos.io.netlink import Netlink

OK, CHANGE, STOP = "ok", "change", "stop"
SIOCGIWNAME = 0x8B01
PACKET_FANOUT, FANOUT_CBPF, FANOUT_UNIQUE, TPACKET_V3 = 18, 6, 0x2000, 2
ETHTOOL_GFLAGS, ETH_FLAG_LRO, ETH_FLAG_RXVLAN = 0x25, 1 << 15, 1 << 8
OFFLOADS = {"gro": 0x2b, "gso": 0x23, "tso": 0x1e, "tx checksum": 0x16}      # ETHTOOL_G…
LONELY = ("macvlan", "ipvlan")      # have one address, and get no frames for others


@dataclass(frozen=True)
class Finding:
    """`level`: ok; change: it runs, with a drawback; stop: it does not run, or nothing passes. `fix`: a command for root, or ""."""
    port: str
    check: str
    level: str
    text: str
    fix: str = ""


def examine(names):
    """All findings about one interface to tap, or two to bridge, in the order in which they are best mended."""
    netlink = Netlink()
    try:
        links, addresses = netlink.links(), netlink.addresses()
    finally:
        netlink.close()
    there = [name for name in names if name in links]
    found = [Finding(name, "port", STOP, f"there is no interface called {name}; there are {', '.join(links)}")
             for name in names if name not in links]
    pair = len(names) == 2
    found += [*rights(pair)]
    for name in there:
        found += [*port(name, links, addresses, pair)]
    if pair and len(there) == 2:
        found += [*both(links[names[0]], links[names[1]])]
    found += [*kernel(), *buffers()]
    return found


def status(findings):
    """0: nothing to change; 1: it runs, but something should be changed; 2: something has to be."""
    levels = {f.level for f in findings}
    return 2 if STOP in levels else 1 if CHANGE in levels else 0


def rights(pair):
    """CAP_NET_RAW, and what CAP_NET_ADMIN is for."""
    if privileges.has("cap_net_raw"):
        yield Finding("", "privileges", OK, "interfaces may be opened")
    else:
        yield Finding("", "privileges", STOP, "no permission to open interfaces (cap_net_raw): run as root, or see docs/inline.md",
                      f"setcap cap_net_raw,cap_net_admin+ep {os.path.realpath('/proc/self/exe')}")
    if pair and not privileges.has("cap_net_admin"):
        yield Finding("", "privileges", CHANGE, "without cap_net_admin there is no --on-failure",
                      f"setcap cap_net_raw,cap_net_admin+ep {os.path.realpath('/proc/self/exe')}")


def port(name, links, addresses, pair):
    """One interface: what it is, its link, who else uses it, its offloads."""
    link = links[name]
    if not has_ethernet(name):
        yield Finding(name, "port", STOP if pair else OK, f"{name} has no Ethernet header" + (
            ", so it cannot be bridged; a tap of it works" if pair else ": it is tapped through libpcap"))
        return
    yield Finding(name, "port", OK, f"{name} is there ({link.kind or 'hardware'}, MTU {link.mtu})")
    up, _ = link_state(name) or (False, 0)
    if not link.up:
        yield Finding(name, "link", STOP, f"{name} is down", f"ip link set {name} up")
    elif not up:
        yield Finding(name, "link", CHANGE, f"{name} has no link: nothing is plugged in, or the other end is down")
    else:
        yield Finding(name, "link", OK, f"{name} has a link")
    yield from promiscuity(name, link, pair)
    if pair:
        yield from users(name, link, links, addresses)
    yield from offloads(name)
    if pair:
        yield from joining(name)


def promiscuity(name, link, pair):
    """Frames that are for others must come in, and go out with others' addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, suppress(OSError):
        fcntl.ioctl(s, SIOCGIWNAME, struct.pack("16s24x", name.encode()))
        yield Finding(name, "promiscuity", STOP if pair else CHANGE,
                      f"{name} is wireless: a station sends and gets frames of its own address only; use a cable, or routing")
        return
    if link.kind in LONELY:
        yield Finding(name, "promiscuity", STOP if pair else CHANGE,
                      f"{name} is a {link.kind}: it gets no frames for others; use what it lies on")
        return
    with suppress(PermissionError), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
        try:
            s.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("iHH8s", link.index, PACKET_MR_PROMISC, 0, b""))
            yield Finding(name, "promiscuity", OK, f"{name} takes frames for others")
        except OSError as e:
            yield Finding(name, "promiscuity", STOP if pair else CHANGE, f"{name} cannot be made promiscuous: {e.strerror}")


def users(name, link, links, addresses):
    """Who else forwards, answers on or takes away what comes in at a port of a pair."""
    names = {other.index: other for other in links.values()}
    master = names.get(link.master)
    if master is not None and master.alias.startswith(ALIAS):
        yield Finding(name, "users", CHANGE,
                      f"{name} is in {master.name}: mos runs on it with --on-failure, or was killed and will clear it up")
    elif master is not None:
        yield Finding(name, "users", STOP, f"{name} belongs to {master.name} ({master.kind}), which forwards past every verdict",
                      f"ip link set {name} nomaster")
    for other in links.values():
        if other.lower == link.index and other.kind not in ("veth", ""):
            yield Finding(name, "users", CHANGE, f"{other.name} ({other.kind}) lies on {name}: this host takes part there besides",
                          f"ip link del {other.name}")
    if link.xdp:
        yield Finding(name, "users", CHANGE, f"an XDP program takes packets of {name} before we see them",
                      f"ip link set {name} xdp off")
    for address in addresses.get(link.index, ()):
        if not ipaddress.ip_interface(address).is_link_local:
            yield Finding(name, "addresses", CHANGE, f"{name} has the address {address}: this host answers there besides, "
                          "and --on-failure is refused", f"ip address del {address} dev {name}")
        elif ":" in address:
            yield Finding(name, "addresses", CHANGE, f"{name} speaks IPv6 by itself ({address}), to both networks",
                          f"sysctl -w net/ipv6/conf/{name}/disable_ipv6=1")
    others = packet_sockets(link.index)
    if others:
        yield Finding(name, "users", OK, f"packet sockets of others on {name}, as captures have: {others}")


def packet_sockets(index):
    """How many packet sockets receive on an interface alone."""
    with suppress(OSError), open("/proc/net/packet", encoding="ascii") as f:
        rows = [line.split() for line in f][1:]
        return sum(row[4] == str(index) and row[3] != "0000" for row in rows)
    return 0


def told_by(name, command):
    """A number that the driver tells; None: it does not."""
    with suppress(OSError):
        return ethtool(name, command)
    return None


def offloads(name):
    """Super-packets and unfinished checksums are no matter; packets that were merged for good are."""
    flags = told_by(name, ETHTOOL_GFLAGS) or 0
    if flags & ETH_FLAG_LRO:
        yield Finding(name, "offloads", CHANGE, f"{name} merges packets so that they cannot be told apart again (LRO)",
                      f"ethtool -K {name} lro off")
    on = [what for what, command in OFFLOADS.items() if told_by(name, command)] + ["VLAN"] * bool(flags & ETH_FLAG_RXVLAN)
    yield Finding(name, "offloads", OK, f"{name} offloads {', '.join(on) or 'nothing'}: passes as it comes")


def joining(name):
    """A connection's frames that come joined cost what one does."""
    now = joins(name)
    if now or privileges.has("cap_net_admin"):
        yield Finding(name, "joining", OK, f"{name} joins a connection's frames" + ("" if now else " while mos runs (--gro)"))
    elif now is False:
        yield Finding(name, "joining", CHANGE, f"{name} does not join a connection's frames (GRO), and without cap_net_admin mos "
                      "cannot make it: TCP is slower", f"ethtool -K {name} gro on")


def both(a, b):
    """What two ports must have in common."""
    if a.mtu == b.mtu:
        yield Finding("", "mtu", OK, f"both have an MTU of {a.mtu}")
    else:
        small, large = sorted((a, b), key=lambda link: link.mtu)
        yield Finding(small.name, "mtu", CHANGE,
                      f"frames longer than {small.mtu} that come in at {large.name} do not leave at {small.name}",
                      f"ip link set {small.name} mtu {large.mtu}")
    if filters_bridges():
        yield Finding("", "bridge", CHANGE, "with --on-failure open this host's iptables rules hold for what passes",
                      "sysctl -w net.bridge.bridge-nf-call-iptables=0")


FEATURES = {
    "TPACKET_V2": (PACKET_VERSION, TPACKET_V2, STOP, "a kernel of 2.6.27 or later"),
    "PACKET_VNET_HDR": (PACKET_VNET_HDR, 1, STOP, "a kernel of 2.6.27 or later"),
    "PACKET_QDISC_BYPASS": (PACKET_QDISC_BYPASS, 1, STOP, "a kernel of 3.14 or later"),
    "PACKET_IGNORE_OUTGOING": (PACKET_IGNORE_OUTGOING, 1, CHANGE, "a kernel of 4.20 or later: taps see what goes out twice"),
    "TPACKET_V3": (PACKET_VERSION, TPACKET_V3, OK, "not needed"),
}


def kernel():
    """What packet sockets can do here, each tried."""
    missing, can = [], []
    try:
        for feature, (option, value, level, since) in FEATURES.items():
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
                try:
                    s.setsockopt(SOL_PACKET, option, value)
                    can.append(feature)
                except OSError:
                    missing.append(Finding("", "kernel", level, f"no {feature}: it takes {since}"))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:
            s.bind(("lo", ETH_P_ALL))
            try:
                s.setsockopt(SOL_PACKET, PACKET_FANOUT, struct.pack("=HH", 0, FANOUT_CBPF | FANOUT_UNIQUE))
                can.append("FANOUT_CBPF")
            except OSError:
                missing.append(Finding("", "kernel", CHANGE, "no FANOUT_CBPF: no --workers on interfaces"))
    except PermissionError:
        yield Finding("", "kernel", OK, "what packet sockets can do was not tried: no permission")
        return
    yield from missing
    yield Finding("", "kernel", OK, f"packet sockets have {', '.join(can)}")


def buffers():
    """Room for super-packets while handlers are busy."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER)
            yield Finding("", "buffers", OK, f"socket buffers of {SOCKET_BUFFER >> 20} MB are granted")
            return
        except PermissionError:
            pass
    for which in ("rmem_max", "wmem_max"):
        with suppress(OSError), open(f"/proc/sys/net/core/{which}", encoding="ascii") as f:
            most = int(f.read())
            small = most < SOCKET_BUFFER
            yield Finding("", "buffers", CHANGE if small else OK, f"net.core.{which} is {most}" + (
                f": room for {most >> 16} super-packets instead of {SOCKET_BUFFER >> 16}" if small else ""),
                f"sysctl -w net.core.{which}={SOCKET_BUFFER}" if small else "")
