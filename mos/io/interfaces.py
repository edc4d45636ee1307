"""Network interfaces: which there are, the sockets on one, and what becomes of them. The kernel is asked, no device is set."""
import array
import contextlib
import fcntl
import mmap
import os
import socket
import struct
import sys

from mos.errors import UsageError

SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFHWADDR, SIOCETHTOOL = 0x8913, 0x8921, 0x8927, 0x8946
ETHTOOL_GLINK = 0xA
IFF_UP, IFF_RUNNING = 0x1, 0x40
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772

SOL_PACKET, ETH_P_ALL = 263, 3
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_COPY_THRESH, PACKET_VERSION = 1, 5, 7, 10
PACKET_VNET_HDR, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING = 15, 20, 23
PACKET_MR_PROMISC, TPACKET_V2 = 1, 1
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33

# A slot has 80 bytes of headers before the frame and is a power of two: 2 KB for the ordinary MTU, 16 KB for jumbo frames.
# What is longer (super-packets of segmentation offload, 64 KB and more) the kernel hands over through the socket's queue.
SLOT, SLOT_JUMBO, SLOT_HEAD = 2048, 16384, 128
# 2,048 frames, two milliseconds at a million a second: twice the second-level caches of today, and more only misses them more
RING = 4 << 20
RING_JUMBO = 8 << 20
# For a worker's copies of fragments, which are few: what overflows it is lost if it is this worker's.
FRAGMENT_RING = 1 << 20
# room for some 100 super-packets while we are busy, each direction; without CAP_NET_ADMIN the system's own limit counts
SOCKET_BUFFER = 8 << 20


def names():
    """The interfaces there are."""
    return [name for _, name in socket.if_nameindex()]


def ask(request, name, layout):
    """An interface's answer to an ioctl. Raises OSError, ENODEV if there is none of that name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        reply = fcntl.ioctl(s, request, struct.pack("16s24x", name.encode()))
    return struct.unpack_from(layout, reply, 16)[0]


def ethtool(name, command, value=0):
    """A number that the driver tells, or is told. Raises OSError; EPERM for telling without CAP_NET_ADMIN."""
    data = array.array("I", [command, value])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), data.buffer_info()[0]))
    return data[1]


def has_carrier(name, flags):
    """Whether there is a link. The running flag tells it late, by up to a second, so the driver is asked where that can be."""
    try:
        return bool(ethtool(name, ETHTOOL_GLINK))
    except OSError:
        return bool(flags & IFF_RUNNING)


def link_state(name):
    """(up, MTU) of an interface, or None: there is none. Up is a link, too."""
    try:
        flags = ask(SIOCGIFFLAGS, name, "H")
        return bool(flags & IFF_UP) and has_carrier(name, flags), ask(SIOCGIFMTU, name, "i")
    except OSError:
        return None


def has_ethernet(name):
    """Whether frames of an interface begin with an Ethernet header."""
    return ask(SIOCGIFHWADDR, name, "H") in (ARPHRD_ETHER, ARPHRD_LOOPBACK)


def must_exist(name):
    """Raise UsageError, with the interfaces that there are, if there is none of that name."""
    if link_state(name) is None:
        import difflib
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"did you mean {near[0]}? There are" if near else "there are"
        raise UsageError(f"no interface is called {name!r}; {hint} {', '.join(names())}")


def no_permission(name):
    """What to raise when packets may not be taken from an interface."""
    python = os.path.realpath(sys.executable)
    return UsageError(f"no permission to open {name}: run as root (sudo), "
                      f"or once: sudo setcap cap_net_raw,cap_net_admin+ep {python}")


class Sockets:
    """Packet sockets on one interface: `rx` with its ring; to send, `tx`, which passes the queueing discipline by, `queued_tx`,
    which does not, and `plain_tx`, as `tx` without virtio headers."""

    def __init__(self, name, tap=False):
        """`tap`: what the host itself sends there is seen, too; it is of no concern to a bridge, which would send it back."""
        must_exist(name)
        if not has_ethernet(name):
            raise UsageError(f"{name} is no Ethernet interface; a tap of it works through libpcap: mos run … -i {name}")
        self.name = name
        self.outgoing = tap and ask(SIOCGIFHWADDR, name, "H") != ARPHRD_LOOPBACK       # there all that is sent comes in again
        self.index = socket.if_nametoindex(name)
        mtu = ask(SIOCGIFMTU, name, "i")
        jumbo = SLOT - SLOT_HEAD < mtu <= SLOT_JUMBO - SLOT_HEAD
        self.slot, self.ring_size = (SLOT_JUMBO, RING_JUMBO) if jumbo else (SLOT, RING)
        self.rx = self.tx = self.queued_tx = self.plain_tx = None
        self.gone = False           # the interface was removed; `rebind` when there is one of that name again
        try:
            self.rx = self.receiver()
            self.tx, self.queued_tx = self.sender(bypass=True), self.sender(bypass=False)
            self.plain_tx = self.sender(bypass=True, headers=False)
        except PermissionError:
            self.close()
            raise no_permission(name) from None
        except OSError as e:
            self.close()
            raise UsageError(f"{name} cannot be opened: {e.strerror}") from e
        except BaseException:
            self.close()
            raise

    def receiver(self):
        s = self.bare()
        try:
            self.lay_ring(s, self.ring_size)
            self.listen(s)
            return s
        except BaseException:
            s.close()
            raise

    def bare(self):
        """A socket that receives nothing yet. What has to be allowed is done here."""
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self.common(s)
            return s
        except BaseException:
            s.close()
            raise

    def lay_ring(self, s, size):
        """Before it is bound: nothing is received before the ring is there."""
        s.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        s.setsockopt(SOL_PACKET, PACKET_COPY_THRESH, 1)
        with contextlib.suppress(OSError):      # before Linux 4.20: what we send comes back then only from taps of our own
            s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, not self.outgoing)
        block = max(1 << 18, mmap.PAGESIZE)
        s.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("IIII", block, size // block, self.slot, size // self.slot))

    def listen(self, s):
        s.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("iHH8s", self.index, PACKET_MR_PROMISC, 0, b""))
        s.bind((self.name, ETH_P_ALL))

    def rebind(self):
        """To an interface that was made anew under the old name. Takes no privileges, unlike new sockets. Raises UsageError."""
        try:
            self.index = socket.if_nametoindex(self.name)
            self.listen(self.rx)
            for s in (self.tx, self.queued_tx, self.plain_tx):
                s.bind((self.name, 0))
            self.gone = False
        except OSError as e:
            raise UsageError(f"{self.name} is back and cannot be used: {e.strerror}") from e

    def sender(self, bypass, headers=True):
        """Bound to no protocol: receives nothing."""
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self.common(s, headers)
            s.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, bypass)
            s.bind((self.name, 0))
            return s
        except BaseException:
            s.close()
            raise

    @staticmethod
    def common(s, headers=True):
        s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, headers)
        for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                s.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER)
            except PermissionError:
                s.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER)

    def close(self):
        for s in (self.rx, self.tx, self.queued_tx, self.plain_tx):
            if s is not None:
                s.close()


class Watch:
    """What interfaces were like at the last look; at the first one, those without a link are told."""

    def __init__(self, names, sockets):
        self.names = names
        self.known = [(True, (link_state(name) or (True, 0))[1]) for name in names]
        self.indices = [s.index for s in sockets]

    def changes(self):
        """(side, line for people, whether the interface was lost) of what has changed."""
        for side, name in enumerate(self.names):
            state, before = link_state(name), self.known[side]
            with contextlib.suppress(OSError):
                if state is not None and before is not None and socket.if_nametoindex(name) != self.indices[side]:
                    state = None                    # removed, and made anew since
            if state == before:
                continue
            self.known[side] = state
            if state is None:
                yield side, f"{name} was removed; packets for it are dropped until it is back", True
                continue
            if before is None:
                self.indices[side] = socket.if_nametoindex(name)
                yield side, f"{name} is back" + ("" if state[0] else ", but down"), False
                continue
            if state[0] != before[0]:
                yield side, f"{name} is {'up' if state[0] else 'down'}", False
            if state[1] != before[1]:
                yield side, f"{name}: the MTU is {state[1]} now", False
