# cython: nonecheck=False
# With it Cython refuses `self.x += 1` without the GIL; self is never None.
"""Ports: what the run loop takes packets from and hands them to. Live ones are packet sockets, one for each interface.

A frame is not copied: it is sent out of the slot of the receive ring that the kernel wrote it to, and the slot is given
back afterwards. Every frame has a virtio header before it, so super-packets and unfinished checksums go on as they came.
"""
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_POPULATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

from mos.io.ring cimport (
    MSG_DONTWAIT, MSG_TRUNC, PACKET_STATISTICS, POLLERR, POLLIN, POLLOUT, SO_ERROR, SOL_PACKET, SOL_SOCKET,
    TAG, TP_STATUS_COPY, TP_STATUS_USER, TP_STATUS_VLAN_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VNET, getsockopt, huge,
    is_buried, poll, pollfd, put_header, put_tag_back, real_time, recvmmsg, sendmmsg, slot_return, slot_status,
    tpacket2_hdr, virtio_net_hdr)
from mos.net.packet cimport prefetch

import contextlib
import select

from mos.errors import UsageError
from mos.io.interfaces import FRAGMENT_RING, Sockets, Watch

cdef enum:
    ETHERNET = 1            # LINKTYPE_ETHERNET
    NEAR = 1000000000       # ns: what is due later than that does not shorten a wait
    SOON = 4                # slots: their headers are fetched ahead, as the kernel has written them on another core
    TICK_MS = 100           # the longest wait: signals, lost links and --for are seen to that often
    MAX_FRAME = 1 << 18     # as in captures: the largest a stack takes
    HEAD = 64               # room before a frame that no slot holds, for its virtio header and a tag; keeps it aligned
    COPY_SIZE = HEAD + MAX_FRAME
    # edited frames, and our own, that wait to be sent: three of the largest
    ARENA = 1 << 20
    # a millisecond apart at most, where waiting helps: longer, and the ring behind us overflows with everybody's frames
    RETRIES = 3


cdef class Port:
    """Where packets come from and where they are sent; `mos.io.pcap.Source` reads captures."""

    cdef int share(self, int worker, uint32_t workers) except -1:
        """From now on `recv_batch` may put aside what other workers take, if this port can tell."""
        return 0

    cdef int recv_batch(self, pkt_t *pkts, int n) noexcept nogil:
        """Fill frame, caplen, wirelen, ts, number, linktype and iface of up to n packets: how many, 0 at the end, -1 on
        damage. Frames stay valid until the next call. An entry whose number is 0 is no packet: it says how late it is."""
        return 0

    cdef int send(self, const pkt_t *p, const uint8_t *data, uint32_t n, int how) noexcept nogil:
        """Send a frame where packet `p` goes, or came from: SEND_*. `data` stays as it is until `settle`, or is copied."""
        return 0

    cdef void settle(self) noexcept nogil:
        """Hand over what is queued; let go of the packets of the last batch."""


cdef class Live(Port):
    """One interface that is tapped, or two that are bridged. What cannot be opened raises UsageError.

    `wait`: recv_batch waits for packets, or for a tick. Otherwise wait on `fd` and have one batch run at a time.
    """

    def __cinit__(self, *args, **kwargs):
        self.copies = <uint8_t *>huge(COPIES * COPY_SIZE)
        self.arena = <uint8_t *>malloc(ARENA)
        self.big = <mmsghdr *>calloc(COPIES, sizeof(mmsghdr))
        self.big_iov = <iovec *>calloc(COPIES, sizeof(iovec))
        if self.copies == NULL or self.arena == NULL or self.big == NULL or self.big_iov == NULL:
            raise MemoryError("no memory for the ports' buffers")
        for s in range(4):
            self.side[s].rx = self.side[s].tx = self.side[s].queued_tx = self.side[s].plain_tx = -1
        self.live, self.wait = True, True
        self.pulse = &self.own_pulse

    def __init__(self, names, sockets=None, worker=0, workers=1):
        """`sockets`: those of a worker, opened before it split off from the others; it numbers its packets apart from theirs."""
        self.names = list(names)
        if not 1 <= len(self.names) <= 2 or len(set(self.names)) < len(self.names):
            raise UsageError(f"{':'.join(self.names)}: name one interface, or two different ones")
        self.sides = self.rings = len(self.names)
        self.number, self.step, self.tells = worker, workers, worker == 0
        self.sockets = []
        for s, name in enumerate(self.names):
            self.sockets.append(Sockets(name, self.sides == 1) if sockets is None else sockets[s])
            self.attach(s)
        self.watch = Watch(self.names, self.sockets)

    def attach(self, int s):
        """Map the rings of a side's sockets."""
        cdef side_t *o = &self.side[s]
        sockets = self.sockets[s]
        self.map(s, sockets.rx, sockets.ring_size, sockets.slot)
        o.tx, o.queued_tx, o.plain_tx = sockets.tx.fileno(), sockets.queued_tx.fileno(), sockets.plain_tx.fileno()
        o.waiting = 0
        for k in range(BATCH):
            o.out[k].msg_hdr.msg_iov, o.out[k].msg_hdr.msg_iovlen = &o.out_iov[k], 1
        if getattr(sockets, "fragments", None) is not None:
            self.rings = 2 * self.sides
            self.map(self.sides + s, sockets.fragments, FRAGMENT_RING, sockets.slot)

    def map(self, int s, receiver, size, slot):
        """Map one receive ring."""
        cdef side_t *o = &self.side[s]
        cdef void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, receiver.fileno(), 0)
        if at == MAP_FAILED:
            raise UsageError(f"{self.names[s % self.sides]}: no memory for a receive ring of {size >> 20} MB")
        if o.ring != NULL:
            munmap(o.ring, o.ring_size)
        o.ring, o.ring_size, o.slot, o.slots = <uint8_t *>at, size, slot, size // slot
        o.rx, o.at, o.held = receiver.fileno(), 0, 0

    def detach(self, int s):
        """Let go of a side's sockets."""
        cdef side_t *o
        cdef int r
        self.settle()
        for r in range(s, self.rings, self.sides):
            o = &self.side[r]
            self.read_statistics(o)
            if o.ring != NULL:
                munmap(o.ring, o.ring_size)
            o.ring = NULL
            o.rx = o.tx = o.queued_tx = o.plain_tx = -1
        if self.sockets[s] is not None:
            self.sockets[s].close()
            self.sockets[s] = None

    cdef int recv_batch(self, pkt_t *pkts, int n) noexcept nogil:
        cdef int i, s, got
        self.settle()
        self.pulse[0] += 1
        while True:
            for i in range(self.rings):
                s = (self.turn + i) % self.rings
                got = self.take(s, pkts, n)
                if got:
                    self.turn = (s + 1) % self.rings
                    return got
            if self.pause(pkts):
                return 1

    cdef int take(self, int s, pkt_t *pkts, int n) noexcept nogil:
        """Packets of one side's ring, oldest first."""
        cdef side_t *o = &self.side[s]
        cdef tpacket2_hdr *h
        cdef uint32_t status
        cdef int got = 0
        if o.ring == NULL:
            return 0
        while got < n:
            prefetch(o.ring + <size_t>((o.at + SOON) & (o.slots - 1)) * o.slot)
            h = <tpacket2_hdr *>(o.ring + <size_t>o.at * o.slot)
            status = slot_status(h)
            if not status & TP_STATUS_USER:
                break
            if h.tp_snaplen == h.tp_len:
                got += self.fill(o, s, &pkts[got], h, <uint8_t *>h + h.tp_mac, h.tp_len)
            elif not status & TP_STATUS_COPY:
                o.truncated += 1
            elif self.copies_used == COPIES:
                break
            else:
                got += self.take_copies(o, s, &pkts[got], n - got)
                continue
            o.at = (o.at + 1) & (o.slots - 1)
            o.held += 1
        return got

    cdef int take_copies(self, side_t *o, int s, pkt_t *pkts, int n) noexcept nogil:
        """A run of frames that are longer than a slot: the kernel has queued each on the socket, too, in the same order."""
        cdef tpacket2_hdr *h
        cdef uint8_t *frame
        cdef int i = 0, got, kept = 0
        n = min(n, COPIES - self.copies_used)
        while i < n:
            h = <tpacket2_hdr *>(o.ring + <size_t>((o.at + i) & (o.slots - 1)) * o.slot)
            if slot_status(h) & (TP_STATUS_USER | TP_STATUS_COPY) != TP_STATUS_USER | TP_STATUS_COPY:
                break
            self.big_iov[i].iov_base = self.copies + <size_t>(self.copies_used + i) * COPY_SIZE + HEAD - VNET
            self.big_iov[i].iov_len = VNET + MAX_FRAME - TAG
            memset(&self.big[i], 0, sizeof(mmsghdr))
            self.big[i].msg_hdr.msg_iov, self.big[i].msg_hdr.msg_iovlen = &self.big_iov[i], 1
            i += 1
        got = recvmmsg(o.rx, self.big, i, MSG_DONTWAIT, NULL)
        if got <= 0:        # reported by the ring and not there: only this slot is passed over
            o.truncated += 1
            got, i = 1, 0
        for i in range(i if i < got else got):
            h = <tpacket2_hdr *>(o.ring + <size_t>((o.at + i) & (o.slots - 1)) * o.slot)
            frame = self.copies + <size_t>(self.copies_used + i) * COPY_SIZE + HEAD
            if self.big[i].msg_hdr.msg_flags & MSG_TRUNC or self.big[i].msg_len < VNET:
                o.truncated += 1
                continue
            kept += self.fill(o, s, &pkts[kept], h, frame, self.big[i].msg_len - VNET)
        o.at = (o.at + got) & (o.slots - 1)
        o.held += got
        self.copies_used += got
        return kept

    cdef int fill(self, side_t *o, int s, pkt_t *p, void *slot, uint8_t *frame, uint32_t n) noexcept nogil:
        cdef tpacket2_hdr *h = <tpacket2_hdr *>slot
        cdef virtio_net_hdr *v
        if h.tp_status & TP_STATUS_VLAN_VALID:
            frame = put_tag_back(frame, h)
            n += 4
            o.reinserted += 1
        self.number += self.step
        p.frame, p.caplen, p.wirelen = frame, n, n
        p.ts = <int64_t>h.tp_sec * 1000000000 + h.tp_nsec
        p.number, p.linktype, p.iface = self.number, ETHERNET, <uint16_t>(s if s < self.sides else s - self.sides)
        o.received += 1
        o.bytes_in += n
        v = <virtio_net_hdr *>(frame - VNET)
        p.csum_partial = v.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
        p.gso_type, p.gso_size = v.gso_type, v.gso_size if v.gso_type else 0
        o.super_packets += v.gso_type != 0
        self.buried |= v.gso_type != 0 and is_buried(frame, n, v.gso_type)
        return 1

    cdef int pause(self, pkt_t *pkts) noexcept nogil:
        """Nothing is there. 1: nothing came in time, `pkts` says how late it is; 0: look again."""
        cdef pollfd[4] fds
        cdef int i, ready = 0
        cdef unsigned int size = sizeof(int)
        cdef int64_t left = self.due - self.now
        if self.wait:
            if left < NEAR:         # our clock stands while nothing comes, by a tick at most
                left = max(self.due - real_time(), <int64_t>0)
            left = left // 1000000 + (left > 0)
        for i in range(self.rings):
            fds[i].fd, fds[i].events, fds[i].revents = self.side[i].rx, POLLIN, 0
        ready = poll(fds, self.rings, <int>min(left, <int64_t>TICK_MS) if self.wait else 0)
        for i in range(self.rings if ready > 0 else 0):
            if fds[i].revents & POLLERR and self.side[i].rx >= 0:
                getsockopt(self.side[i].rx, SOL_SOCKET, SO_ERROR, &self.side[i].error, &size)
                self.trouble = True
                ready = 0
        if ready > 0:
            return 0
        memset(pkts, 0, sizeof(pkt_t))
        pkts.ts = real_time()
        return 1

    cdef int send(self, const pkt_t *p, const uint8_t *data, uint32_t n, int how) noexcept nogil:
        cdef side_t *o = &self.side[p.iface if how & SEND_BACK or self.sides == 1 else 1 - p.iface]
        cdef uint8_t *at
        cdef virtio_net_hdr *v
        if self.sides == 1:
            return 0                # a tap sends nothing
        self.pulse[0] += 1
        if self.in_place(p, data) and not how & SEND_OURS:
            at = <uint8_t *>data - VNET
        else:
            if self.arena_used + VNET + n > ARENA:
                self.transmit(&self.side[0])
                self.transmit(&self.side[1])
                self.arena_used = 0
            at = self.arena + self.arena_used
            if how & SEND_OURS:
                memset(at, 0, VNET)
            elif self.in_place(p, p.frame):
                memcpy(at, p.frame - VNET, VNET)
            else:
                put_header(<virtio_net_hdr *>at, p)
            memcpy(at + VNET, data, n)
            self.arena_used += (VNET + n + 15) & ~<uint32_t>15
        v = <virtio_net_hdr *>at
        queue(self, o, at, n, v.gso_type != 0 or v.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0)
        return 0

    cdef bint in_place(self, const pkt_t *p, const uint8_t *data) noexcept nogil:
        """Whether a frame lies where it was received, its virtio header before it."""
        cdef side_t *o = &self.side[p.iface]
        return o.ring <= data < o.ring + o.ring_size or self.copies <= data < self.copies + COPIES * COPY_SIZE

    cdef void transmit(self, side_t *o) noexcept nogil:
        """Send what waits. What the kernel does not take is dropped, and counted by cause."""
        cdef uint32_t i = 0, k
        cdef int n, tries = 0, why
        cdef pollfd ready
        if o.waiting == 0:
            return
        while i < o.waiting:
            n = sendmmsg(o.out_fd, &o.out[i], o.waiting - i, MSG_DONTWAIT)
            if n > 0:
                for k in range(i, i + n):
                    o.bytes_out += o.out_iov[k].iov_len - o.out_head
                o.sent += n
                i += n
                tries = 0
                continue
            why = errno
            if why == EINTR:
                continue
            if why == ENOBUFS and o.out_head and o.tx != o.queued_tx and (<virtio_net_hdr *>o.out_iov[i].iov_base).gso_type:
                o.tx = o.out_fd = o.queued_tx   # the card does not segment: the kernel does, but only before a queueing discipline
                continue
            if (why == EAGAIN or why == ENOBUFS) and tries < RETRIES:
                tries += 1
                ready.fd, ready.events = o.out_fd, POLLOUT
                poll(&ready, 1, 1 if why == EAGAIN else 0)
                continue
            count_unsent(o, why)
            i += 1
            tries = 0
        o.waiting = 0

    cdef void settle(self) noexcept nogil:
        cdef side_t *o
        cdef int s
        for s in range(self.sides):
            self.transmit(&self.side[s])
        for s in range(self.rings):
            o = &self.side[s]
            while o.held:
                slot_return(o.ring + <size_t>((o.at - o.held) & (o.slots - 1)) * o.slot)
                o.held -= 1
        self.arena_used = 0
        self.copies_used = 0

    cdef void read_statistics(self, side_t *o) noexcept nogil:
        """The kernel forgets what it has told."""
        cdef unsigned int[2] counts
        cdef unsigned int size = sizeof(counts)
        if o.rx >= 0 and getsockopt(o.rx, SOL_PACKET, PACKET_STATISTICS, counts, &size) == 0:
            o.kernel_drops += counts[1]

    def beat(self, memory, size_t index=0):
        """Let the pulse be the 64-bit number at that index of `memory`, which may be shared with another process."""
        cdef uint64_t[::1] numbers = memoryview(memory).cast("Q")
        self.pulse_memory = numbers
        self.pulse = &numbers[index]

    def discard(self):
        """Forget what has come so far: somebody else has forwarded it. For before the first packet is taken."""
        cdef pkt_t[BATCH] batch
        cdef int s
        cdef uint32_t _
        for s in range(self.sides):
            for _ in range(self.side[s].slots):     # what comes meanwhile need not be forgotten
                if self.take(s, batch, BATCH) == 0:
                    break
                self.settle()
            self.side[s].received = self.side[s].bytes_in = self.side[s].reinserted = self.side[s].super_packets = 0
        self.number = 0

    def look(self):
        """What has happened to the interfaces since the last look, as lines for people: links, MTUs, removal, return."""
        cdef int s
        for s in range(self.rings):
            self.side[s].error = 0
        self.trouble = False
        said = self.joining.stop() if self.buried and self.joining is not None else []
        for s, text, lost in self.watch.changes():
            if lost:
                self.sockets[s].gone = True
            elif self.sockets[s].gone:
                try:
                    self.sockets[s].rebind()
                    if self.side[s].rx != self.sockets[s].rx.fileno():
                        self.attach(s)
                    if self.joining is not None:
                        self.joining.again(self.names[s])
                except UsageError as e:
                    text = str(e)
            said += [text] * self.tells
        if self.poller is not None:
            self.enlist()
        return said

    def enlist(self):
        """Have the poller know all sockets; those that were closed have left it."""
        for sockets in self.sockets:
            if sockets is not None:
                with contextlib.suppress(FileExistsError):
                    self.poller.register(sockets.rx.fileno(), select.EPOLLIN)

    @property
    def fd(self):
        """A descriptor that is readable when packets have come."""
        if self.poller is None:
            self.poller = select.epoll()
            self.enlist()
        return self.poller.fileno()

    @property
    def reading(self):
        """Whether only an exception ends waiting (`Stop`): a tick does."""
        return False

    @property
    def linktypes(self):
        return {s: ETHERNET for s in range(self.sides)}

    @property
    def packets(self):
        """Packets received so far."""
        return self.number // self.step

    @property
    def progress(self):
        """As a capture's: how much there is in all, nobody knows."""
        return self.packets, 0

    @property
    def lost(self):
        """Packets that found the rings full, because we were late."""
        return sum(counts["kernel_drops"] for counts in self.stats().values())

    def stats(self):
        """Counters by interface."""
        cdef side_t *o
        told = {}
        for s in range(self.sides):
            o = &self.side[s]
            self.read_statistics(o)
            self.read_statistics(&self.side[self.rings - self.sides + s])
            told[self.names[s]] = {
                "received": o.received, "bytes_in": o.bytes_in, "sent": o.sent, "bytes_out": o.bytes_out,
                "kernel_drops": o.kernel_drops + (self.side[self.sides + s].kernel_drops if self.rings > self.sides else 0),
                "truncated": o.truncated, "super_packets": o.super_packets,
                "vlan_tags": o.reinserted,
                "unsent": {"over_mtu": o.over_mtu, "busy": o.busy, "down": o.down, "failed": o.failed}}
        return told

    def check(self):
        """As a capture's: nothing is ever damaged."""

    def close(self):
        """Send what is queued and let go of the interfaces. Idempotent."""
        for s in range(self.sides):
            self.detach(s)
        if self.poller is not None:
            self.poller.close()
            self.poller = None

    def __dealloc__(self):
        for s in range(4):
            if self.side[s].ring != NULL:
                munmap(self.side[s].ring, self.side[s].ring_size)
        free(self.copies)
        free(self.arena)
        free(self.big)
        free(self.big_iov)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


cdef class Memory(Port):
    """A pair in memory, for tests: `packets` are (ts_ns, side, frame), a frame of None being a tick. `sent` is (side, frame).

    Not for use inside a packet's handlers.
    """

    def __init__(self, packets):
        self.packets, self.sent = list(packets), []
        self.live = True

    cdef int recv_batch(self, pkt_t *pkts, int n) noexcept nogil:
        cdef uint64_t i
        memset(pkts, 0, sizeof(pkt_t) * n)
        with gil:
            for i in range(n):
                if self.next == <uint64_t>len(self.packets):
                    return <int>i if i else -1
                ts, side, frame = self.packets[self.next]
                self.next += 1
                pkts[i].ts, pkts[i].linktype, pkts[i].iface = ts, ETHERNET, side
                if frame is None:
                    continue
                self.number += 1
                pkts[i].number = self.number
                pkts[i].frame = <const uint8_t *><char *><bytes>frame
                pkts[i].caplen = pkts[i].wirelen = <uint32_t>len(frame)
            return n

    cdef int send(self, const pkt_t *p, const uint8_t *data, uint32_t n, int how) noexcept nogil:
        with gil:
            self.sent.append((p.iface if how & SEND_BACK else 1 - p.iface, (<char *>data)[:n]))
        return 0

    def check(self):
        """As a capture's."""

    def stats(self):
        """As `Live`'s: none."""
        return {}

    def look(self):
        """As `Live`'s: nothing ever happens."""
        return []
