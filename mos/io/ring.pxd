# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The kernel's side of a live port: ring slots (packet(7), TPACKET_V2), offload headers (virtio), many sends at a time."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memmove, memset
from mos.net.packet cimport IPPROTO_TCP, IPPROTO_UDP, pkt_t
from posix.mman cimport madvise
from posix.stdlib cimport posix_memalign

cdef extern from *:
    """
    #include <sys/types.h>
    #include <sys/socket.h>
    #include <sys/mman.h>
    #include <poll.h>
    #include <time.h>
    #include <linux/if_packet.h>
    #include <linux/if_ether.h>
    #include <linux/virtio_net.h>
    /* Status is the hand-over between kernel and us: nothing of a slot may be read before, or written after it. */
    static inline unsigned int mos_slot_status(const void *h) {
        return __atomic_load_n(&((const struct tpacket2_hdr *)h)->tp_status, __ATOMIC_ACQUIRE);
    }
    static inline void mos_slot_return(void *h) {
        __atomic_store_n(&((struct tpacket2_hdr *)h)->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    }
    """
    uint32_t slot_status "mos_slot_status"(const void *slot) noexcept nogil
    void slot_return "mos_slot_return"(void *slot) noexcept nogil

    cdef struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint32_t tp_sec
        uint32_t tp_nsec
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    cdef struct virtio_net_hdr:
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    cdef struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    cdef struct pollfd:
        int fd
        short events
        short revents
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int poll(pollfd *fds, unsigned long n, int timeout) nogil
    int sendmmsg(int fd, mmsghdr *messages, unsigned int n, int flags) nogil
    int recvmmsg(int fd, mmsghdr *messages, unsigned int n, int flags, timespec *timeout) nogil
    int getsockopt(int fd, int level, int name, void *value, unsigned int *size) nogil
    int clock_gettime(int which, timespec *ts) nogil
    enum:
        TP_STATUS_USER, TP_STATUS_COPY, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID
        VIRTIO_NET_HDR_F_NEEDS_CSUM
        SOL_SOCKET, SO_ERROR, SOL_PACKET, PACKET_STATISTICS, MSG_DONTWAIT, MSG_TRUNC
        POLLIN, POLLOUT, POLLERR, CLOCK_REALTIME, MADV_HUGEPAGE

cdef enum:
    HUGE = 1 << 21          # bytes of a huge page
    VNET = 10               # bytes of a virtio_net_hdr
    TAG = 4                 # bytes of a VLAN tag
    TPID_DEFAULT = 0x8100
    GSO_UDP_L4 = 5          # virtio_net_hdr.gso_type: datagrams, beside TCP over IPv4 and IPv6
    GSO_ECN = 0x80
    IPPROTO_IPIP = 4
    IPPROTO_IPV6 = 41
    IPPROTO_GRE = 47

cdef inline uint8_t *put_tag_back(uint8_t *frame, const tpacket2_hdr *h) noexcept nogil:
    """The kernel takes the outer VLAN tag out of a frame and tells it beside: put it where it was (IEEE 802.1Q 9.5).

    Addresses and the offload header before them move TAG bytes down, where the slot has room. Returns the new start.
    """
    cdef virtio_net_hdr *v = <virtio_net_hdr *>(frame - TAG - VNET)
    cdef uint16_t tpid = h.tp_vlan_tpid if h.tp_status & TP_STATUS_VLAN_TPID_VALID else TPID_DEFAULT
    memmove(frame - TAG - VNET, frame - VNET, VNET + 12)
    frame -= TAG
    frame[12], frame[13] = <uint8_t>(tpid >> 8), <uint8_t>tpid
    frame[14], frame[15] = <uint8_t>(h.tp_vlan_tci >> 8), <uint8_t>h.tp_vlan_tci
    if v.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        v.csum_start += TAG
    if v.gso_type:
        v.hdr_len += TAG
    return frame

cdef inline bint is_buried(const uint8_t *frame, uint32_t n, uint8_t gso_type) noexcept nogil:
    """Whether a super-packet of TCP lies in a tunnel. The offload header cannot say so, so the kernel does not cut it again."""
    cdef uint32_t at = 12
    cdef uint8_t inner
    while at + 22 <= n and (frame[at] == 0x81 and frame[at + 1] == 0 or frame[at] == 0x88 and frame[at + 1] == 0xA8):
        at += TAG
    if at + 22 > n:
        return False
    if frame[at] == 0x08 and frame[at + 1] == 0:
        inner = frame[at + 2 + 9]
    elif frame[at] == 0x86 and frame[at + 1] == 0xDD:
        inner = frame[at + 2 + 6]
    else:
        return True
    return inner in (IPPROTO_IPIP, IPPROTO_IPV6, IPPROTO_GRE) or (inner == IPPROTO_UDP and gso_type & ~GSO_ECN != GSO_UDP_L4)

cdef inline void put_header(virtio_net_hdr *v, const pkt_t *p) noexcept nogil:
    """The offload header of a frame that was moved away from its own: a held one, a copy."""
    memset(v, 0, VNET)
    if p.csum_partial and p.l4 != NULL and not p.reassembled:
        v.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
        v.csum_start = <uint16_t>(p.l4 - p.frame)
        v.csum_offset = 16 if p.proto == IPPROTO_TCP else 6
    if p.gso_size and p.payload != NULL:
        v.gso_type, v.gso_size = p.gso_type, p.gso_size
        v.hdr_len = <uint16_t>(p.payload - p.frame)

cdef inline int64_t real_time() noexcept nogil:
    """The packet clock while there are no packets: the kernel stamps them by the same one."""
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec

cdef inline void *huge(size_t size) noexcept nogil:
    """Memory on huge pages, if there are any: a super-packet goes through 17 small ones twice. NULL: there is none; to be freed."""
    cdef void *at = NULL
    size = (size + HUGE - 1) & ~<size_t>(HUGE - 1)
    if posix_memalign(&at, HUGE, size):
        return NULL
    madvise(at, size, MADV_HUGEPAGE)
    return at
