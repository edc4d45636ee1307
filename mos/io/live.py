"""What `-i` names: two interfaces to bridge, one to tap, or what libpcap alone can open."""
import select
import time

from mos.errors import UsageError
from mos.io.bridge import must_not_forward
from mos.io.interfaces import has_ethernet, must_exist, names, no_permission
from mos.io.pcap import Source
from mos.io.port import Live
from mos.io.shared import SharedPorts
from mos.io.source import Packets

SNAPLEN = 262144        # the longest frame a capture may hold
WAIT_MS = 100           # how long packets are gathered, and a tick where none come
LINKTYPES = {12: 101, 14: 101}      # DLT_RAW of some systems


def open_live(what, workers=1):
    """A Port for "A:B" (a pair), "A" (a tap), or "any" (every interface; cooked frames). Raises UsageError.

    For several workers a SharedPorts, which has a port for each.
    """
    parts = [part.strip() for part in what.split(":")]
    if len(parts) > 2 or not all(parts):
        raise UsageError(f"-i {what}: give one interface to tap, or two to bridge: -i A:B; there are {', '.join(names())}")
    if "any" in parts:
        if len(parts) == 2:
            raise UsageError(f"-i {what}: `any` can be tapped only; name two interfaces to bridge")
        return through_libpcap("any", workers)
    for name in parts:
        must_exist(name)
    if len(parts) == 1 and not has_ethernet(parts[0]):
        return through_libpcap(parts[0], workers)
    for name in parts:
        if not has_ethernet(name):
            raise UsageError(f"{name} has no Ethernet header, so it cannot be bridged; a tap of it works: -i {name}")
    if len(parts) == 2:
        must_not_forward(parts)
    return Live(parts) if workers == 1 else SharedPorts(parts, workers)


def through_libpcap(name, workers=1):
    """A tap through libpcap, which knows every kind of interface; µs time stamps, packet by packet.

    Frames of `any` are what libpcap makes of them unasked: Linux cooked ones of the first version, which name no interface.
    """
    if workers > 1:
        raise UsageError(f"--workers cannot be used here: a tap of {name} goes through libpcap, which shares nothing out")
    import pcapy

    try:
        reader = pcapy.open_live(name, SNAPLEN, 1, WAIT_MS)
        reader.setnonblock(1)       # else libpcap waits for packets however long, whatever the time-out
    except pcapy.PcapError as e:
        if "permission" in str(e).lower() or "permitted" in str(e).lower():
            raise no_permission(name) from None
        raise UsageError(f"{name} cannot be opened: {e}") from e
    linktype = reader.datalink()
    tap = Tap(reader=Packets(packets(reader, pcapy.PcapError), LINKTYPES.get(linktype, linktype)), name=name)
    tap.counts = Counts(reader)
    tap.interface = name
    return tap


class Tap(Source):
    """A capture that libpcap makes as it goes, with its counters as those of a port."""

    @property
    def lost(self):
        """Packets that were dropped because we were late."""
        return self.counts.read()[1]

    def stats(self):
        received, lost = self.counts.read()
        return {self.interface: {"received": received, "sent": 0, "kernel_drops": lost, "truncated": 0, "unsent": {}}}


class Counts:
    """What libpcap has counted, in total: its own numbers have 32 bits."""

    def __init__(self, reader):
        self.reader, self.last, self.totals = reader, (0, 0), (0, 0)

    def read(self):
        """(received, dropped by the kernel and by the interface)."""
        received, dropped, by_interface = self.reader.stats()
        now = (received, dropped + by_interface)
        self.totals = tuple(total + (n - last) % (1 << 32) for total, n, last in zip(self.totals, now, self.last))
        self.last = now
        return self.totals


def packets(reader, failure):
    """(ts_ns, frame, wirelen) as they come, and (ts_ns, None) when none has."""
    fd = reader.getfd()
    while True:
        try:
            header, frame = reader.next()
        except failure as e:
            raise UsageError(f"the tap has ended: {e}") from e
        if header is None:
            if not select.select([fd], [], [], WAIT_MS / 1000)[0]:
                yield time.time_ns(), None      # a tick; the packets' own clock
        else:
            seconds, micros = header.getts()
            yield seconds * 1_000_000_000 + micros * 1000, frame, header.getlen()
