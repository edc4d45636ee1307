"""What stands behind a pair of ports: a kernel bridge with both, down while packets are ours, up if they shall pass without us.

Packet sockets see and send all the same on a port of a bridge, and before it; but a bridge that is down forwards nothing, and
its ports hand nothing to the host either. So switching over is one flag, and if nobody is left to set it nothing passes.
"""
import contextlib
import errno
import ipaddress
import socket

from mos.errors import UsageError
from mos.io.interfaces import must_exist
from mos.io.netlink import Netlink

ALIAS = "mos: "


class Bridge:
    """The bridge of two ports, named after their numbers: `mos5-6`. `arm` it, switch with `open`, `remove` it."""

    def __init__(self, names):
        self.names = list(names)
        for name in self.names:
            must_exist(name)
        self.name = "mos" + "-".join(map(str, sorted(socket.if_nametoindex(name) for name in self.names)))
        self.netlink = Netlink()
        self.open = False           # packets pass through it
        self.index = 0
        self.lock = None

    def arm(self):
        """Make the bridge and put both ports into it. Raises UsageError."""
        self.lock = lock(self.name)
        if self.lock is None:
            raise UsageError(f"another mos run stands behind {' and '.join(self.names)} already")
        try:
            self.clear()
            self.make()
        except PermissionError:
            self.remove()
            raise UsageError("--on-failure takes CAP_NET_ADMIN: run as root (sudo), or see docs/inline.md") from None
        except OSError as e:
            self.remove()
            if e.errno == errno.EOPNOTSUPP and not self.index:
                raise UsageError("--on-failure takes the kernel's bridge, which is not there: sudo modprobe bridge") from None
            raise UsageError(f"{' and '.join(self.names)} cannot be ports of a bridge: {e.strerror}") from None
        except UsageError:
            self.remove()
            raise

    def clear(self):
        """Refuse ports that others use; take away what a run left that could not end in good order."""
        links, addresses = self.netlink.links(), self.netlink.addresses()
        by_index = {link.index: link for link in links.values()}
        for name in self.names:
            link = links[name]
            master = by_index.get(link.master)
            if master is not None and master.alias.startswith(ALIAS) and (master.name == self.name or lock(master.name)):
                with contextlib.suppress(OSError):
                    self.netlink.delete(master.index)
            elif master is not None:
                raise UsageError(f"{name} belongs to {master.name} already; free it first: ip link set {name} nomaster")
            own = [a for a in addresses.get(link.index, ()) if not ipaddress.ip_interface(a).is_link_local]
            if own:
                raise UsageError(f"{name} has the address {own[0]}, and would not hear it as a port of a bridge: use another "
                                 f"interface, or ip address del {own[0]} dev {name}")
        if self.name in self.netlink.links():
            self.netlink.delete(links[self.name].index)

    def make(self):
        self.index = self.netlink.add_bridge(self.name, ALIAS + " ".join(self.names))
        for name in self.names:
            self.netlink.set_master(socket.if_nametoindex(name), self.index)
        if self.open:
            self.netlink.set_up(self.index, True)

    def switch(self, open):
        """From now on packets pass through the kernel, or do not. Raises OSError."""
        self.open = open
        self.netlink.set_up(self.index, open)

    def mend(self):
        """Ports that were made anew come back into it; and it comes back itself if somebody took it away. What was done, or ""."""
        try:
            links = self.netlink.links()
            if self.name not in links:
                self.make()
                return f"{self.name}, the bridge behind {' and '.join(self.names)}, was removed, and is there again"
            for name in self.names:
                if name in links and not links[name].master:
                    self.netlink.set_master(links[name].index, self.index)
                    return f"{name} is a port of {self.name} again"
        except OSError as e:
            return f"{self.name} cannot be mended: {e.strerror}"
        return ""

    def remove(self):
        """Leave the ports as they were found. Idempotent."""
        with contextlib.suppress(OSError):
            if self.index:
                self.netlink.delete(self.index)
        self.index = 0
        if self.lock is not None:
            self.lock.close()
            self.lock = None


def lock(name):
    """A socket that one process of this network namespace can hold at a time, or None: another one does."""
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        s.bind(f"\0mos/{name}")
        return s
    except OSError:
        s.close()
        return None


def must_not_forward(names):
    """Raise UsageError if the kernel bridges these ports, past every verdict, and no supervisor is there to stop it."""
    netlink = Netlink()
    try:
        links = netlink.links()
    finally:
        netlink.close()
    masters = {link.index: link for link in links.values() if link.kind in ("bridge", "openvswitch")}
    for name in names:
        master = masters.get(links[name].master) if name in links else None
        if master is None or (master.alias.startswith(ALIAS) and (not master.up or lock(master.name) is None)):
            continue
        left = f"a run that was killed has left {master.name}; take it away: ip link del {master.name}"
        past = f"{name} belongs to {master.name}, which forwards past every verdict; free it: ip link set {name} nomaster"
        raise UsageError(left if master.alias.startswith(ALIAS) else past)


def filters_bridges():
    """Whether packets that a bridge forwards are shown to iptables (br_netfilter), which drops broken ones by itself."""
    try:
        with open("/proc/sys/net/bridge/bridge-nf-call-iptables", encoding="ascii") as f:
            return f.read().strip() == "1"
    except OSError:
        return False
