# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Where packets come from and go to: a capture, a live interface or two, memory."""
from libc.errno cimport EAGAIN, EBADF, EMSGSIZE, ENETDOWN, ENOBUFS, ENODEV, ENXIO
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from mos.io.aside cimport aside_t
from mos.io.ring cimport VNET, iovec, mmsghdr
from mos.io.scout cimport scout_t
from mos.net.packet cimport pkt_t

cdef enum:              # Port.send, ored
    SEND_ON = 0         # to the far side of where the packet came in, its offload state with it
    SEND_BACK = 1       # to the side it came from
    SEND_OURS = 2       # a frame of our own: whole checksums, nothing is left to offloading

cdef enum:
    BATCH = 128         # packets taken, or frames sent, at a time: the memory of the first few flows is waited for once in so many
    COPIES = 4          # super-packets taken at a time: 256 KB stay in the second-level cache between receiving and sending

cdef class Port:
    cdef readonly bint live     # packets are sent on, and time goes by without them
    cdef int64_t now, due       # live, set by the stack: its clock, and when it has something to do; ns since 1970
    cdef const uint8_t *stays_from      # frames in between stay where they are until the port is gone; NULL: none do
    cdef const uint8_t *stays_to
    cdef public bint lends      # False: whoever wants to keep bytes copies them all the same, as from a wire
    cdef bint lent              # somebody counts on them: also when it is closed
    cdef scout_t scout          # whoever takes a batch may have it go ahead, a record for each packet
    cdef aside_t *aside         # what other workers take of the last batch; NULL: all packets are in it
    cdef int share(self, int worker, uint32_t workers) except -1
    cdef int recv_batch(self, pkt_t *pkts, int n) noexcept nogil
    cdef int send(self, const pkt_t *p, const uint8_t *data, uint32_t n, int how) noexcept nogil
    cdef void settle(self) noexcept nogil

cdef struct side_t:             # one interface
    int rx, tx                  # descriptors; -1: it is gone
    int queued_tx               # tx may pass the queueing discipline by, this one does not
    int plain_tx                # as tx, without a virtio header before each frame
    int out_fd                  # of these, the one that takes what waits
    uint32_t out_head           # bytes before a frame there
    uint8_t *ring
    size_t ring_size
    uint32_t slot               # bytes of a slot, a power of two
    uint32_t slots
    uint32_t at                 # the slot to look at next
    uint32_t held               # slots before it that are still in use
    uint32_t waiting            # frames queued to be sent
    int error                   # errno that the socket reported, not yet told
    uint64_t received, bytes_in, sent, bytes_out
    uint64_t kernel_drops       # the ring was full
    uint64_t truncated          # longer than a slot, and no memory to hand the frame over elsewhere
    uint64_t super_packets
    uint64_t over_mtu, busy, down, failed   # frames not sent, by cause
    uint64_t reinserted         # VLAN tags
    mmsghdr out[128]             # BATCH
    iovec out_iov[128]

cdef inline void count_unsent(side_t *o, int why) noexcept nogil:
    """A frame that the kernel did not take, by errno."""
    if why == EMSGSIZE:
        o.over_mtu += 1
    elif why == EAGAIN or why == ENOBUFS:
        o.busy += 1
    elif why == ENETDOWN or why == ENXIO or why == ENODEV or why == EBADF:
        o.down += 1
    else:
        o.failed += 1

cdef class Live(Port):
    cdef side_t side[4]         # from `sides` on, if there are more rings: their copies of fragments, with a ring only
    cdef readonly int sides
    cdef int rings
    cdef int turn               # the ring to look at first
    cdef uint64_t number, step  # of packets: as many apart as there are workers
    cdef public bint wait       # recv_batch waits for packets; else it returns IDLE
    cdef readonly bint trouble  # a side's `error` is set
    cdef readonly bint buried   # a super-packet lay in a tunnel, and is lost
    cdef bint tells             # of links and the like: one of several workers does
    cdef public object joining  # mos.io.gro.Joining or None
    cdef uint64_t own_pulse
    cdef uint64_t *pulse        # goes up with every batch and every frame sent on: who shares the memory sees that we live
    cdef object pulse_memory    # keeps it
    cdef uint8_t *copies        # where super-packets go that no slot holds
    cdef uint8_t *arena         # frames to be sent that are in no slot
    cdef uint32_t arena_used
    cdef mmsghdr *big
    cdef iovec *big_iov
    cdef int copies_used
    cdef readonly list names
    cdef readonly list sockets  # of each side: mos.io.interfaces.Sockets or None
    cdef object watch           # mos.io.interfaces.Watch
    cdef object poller          # select.epoll of all sockets, once somebody asked for `fd`
    cdef int take(self, int s, pkt_t *pkts, int n) noexcept nogil
    cdef int fill(self, side_t *o, int s, pkt_t *p, void *slot, uint8_t *frame, uint32_t n) noexcept nogil
    cdef int take_copies(self, side_t *o, int s, pkt_t *pkts, int n) noexcept nogil
    cdef int pause(self, pkt_t *pkts) noexcept nogil
    cdef void transmit(self, side_t *o) noexcept nogil
    cdef bint in_place(self, const pkt_t *p, const uint8_t *data) noexcept nogil
    cdef void read_statistics(self, side_t *o) noexcept nogil

cdef class Memory(Port):
    cdef readonly list packets, sent
    cdef uint64_t next, number

cdef inline void queue(Live live, side_t *o, uint8_t *at, uint32_t n, bint offloaded) noexcept nogil:
    """A frame with its virtio header at `at` is to be sent. What offloads nothing goes without: the kernel has less to do."""
    cdef int fd = o.tx if offloaded else o.plain_tx
    if o.waiting == BATCH or (o.waiting and fd != o.out_fd):
        live.transmit(o)
    o.out_fd, o.out_head = fd, VNET if offloaded else 0
    o.out_iov[o.waiting].iov_base, o.out_iov[o.waiting].iov_len = at + VNET - o.out_head, o.out_head + n
    o.waiting += 1
