# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The C surface: all that a handler written in Cython needs, by `from mos cimport …`.

    cdef int handler(void *ctx, const event_t *e, action_t *a) noexcept nogil

is called for every event it subscribes to and returns a verdict. Structs may be read, not written; pointers hold until the
handler returns. What is declared here and not listed in docs/capi.md is private.
"""
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New, PyCapsule_SetContext
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from mos.events.handler cimport (
    MOS_ABI, MOS_BYPASS, MOS_DETACH, MOS_DROP, MOS_DROP_FLOW, MOS_PASS, MOS_RESET, action_t, handler_fn, mos_api_t)
from mos.events.kinds cimport *
from mos.events.ring cimport AT_ACKED, AT_RECEIVER, AT_SENDER, EV_DOUBTFUL, EV_MIDSTREAM, EV_REDELIVERED, event_t
from mos.flow.flow cimport CLIENT, FLOW_ESTABLISHED, FLOW_MIDSTREAM, SERVER, end_t, flow_cold, flow_name_at, flow_t
from mos.net.packet cimport (
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN, TCP_URG, key_t, pkt_t)
from mos.state.blocks cimport mos_slot, mos_slot_write, mos_var, mos_var_write

cdef extern from *:     # one per module that cimports this
    """
    static const void *mos_api_found = NULL;
    """
    const void *mos_api_found

cdef inline int import_mos() except -1:
    """Find the core and compare it with what this module was compiled for: call it once, where the module is initialised.

    Raises ImportError if ABI number or struct sizes differ: such a module would read the wrong bytes.
    """
    global mos_api_found
    cdef const mos_api_t *api
    if mos_api_found != NULL:
        return 0
    from mos.core import api as capsule
    api = <const mos_api_t *>PyCapsule_GetPointer(capsule, "mos.api.v1")
    there = (api.abi, api.event_size, api.flow_size, api.end_size, api.pkt_size, api.action_size)
    here = (MOS_ABI, sizeof(event_t), sizeof(flow_t), sizeof(end_t), sizeof(pkt_t), sizeof(action_t))
    if there != here:
        raise ImportError(f"compiled for mos ABI {here[0]} with structs of {here[1:]} bytes, but the mos installed has ABI "
                          f"{there[0]} with {there[1:]}: rebuild this module against it")
    mos_api_found = api
    return 0

cdef inline object mos_capsule(handler_fn fn, void *ctx):
    """The capsule of a handler, for `Native`. `ctx` is what it is called with; the NF that returns the Native keeps it alive."""
    import_mos()
    capsule = PyCapsule_New(<void *>fn, "mos.handler.v1", NULL)
    PyCapsule_SetContext(capsule, ctx)
    return capsule

cdef inline int mos_publish(const event_t *e, action_t *a, object event) except -1:
    """Publish a user-defined event from inside a handler, under `with gil`; delivered when the handler has returned.

    `e` and `a` are what the handler was called with. The event takes its flow, time and direction from `e`; what its
    subscribers answer counts as answered to `e`. Raises MosError if `event` is not an instance of a UserEvent.
    """
    import_mos()
    return (<const mos_api_t *>mos_api_found).publish(a, e, <PyObject *>event)

cdef inline const uint8_t *mos_payload(const event_t *e, uint64_t *length) noexcept nogil:
    """The event's bytes and how many: StreamData's, OverlapConflict's new ones, a Retransmission's if they are all here.

    NULL and 0 for all other events.
    """
    length[0] = e.length if e.data != NULL else 0
    return e.data

cdef inline bint mos_to_server(const event_t *e) noexcept nogil:
    """The packet, or the stream the event is about, goes to the server."""
    return e.to_server

cdef inline uint64_t mos_flow_id(const event_t *e) noexcept nogil:
    """Number of the flow's first packet, hence no other flow's in this stack; 0: the event has no flow."""
    return flow_cold(e.flow).id if e.flow != NULL else 0

cdef inline int mos_ip_version(const event_t *e) noexcept nogil:
    """4 or 6; 0: the event has no flow."""
    return e.flow.key.ipver if e.flow != NULL else 0

cdef inline const uint8_t *mos_client(const event_t *e, uint16_t *port) noexcept nogil:
    """Address of the client as this NF's place in the chain sees it (a NAT may stand before it), and its port (host order).

    16 bytes in network order, of which IPv4 uses the first 4. NULL and 0: the event has no flow.
    """
    return mos_end(e, CLIENT, port)

cdef inline const uint8_t *mos_server(const event_t *e, uint16_t *port) noexcept nogil:
    """The same for the server."""
    return mos_end(e, SERVER, port)

cdef inline const uint8_t *mos_end(const event_t *e, int side, uint16_t *port) noexcept nogil:
    cdef uint8_t client_hi = 0
    cdef const key_t *name
    port[0] = 0
    if e.flow == NULL:
        return NULL
    name = flow_name_at(e.flow, e.position, &client_hi)
    if (side == CLIENT) == (client_hi != 0):
        port[0] = name.hi_port
        return name.hi_addr
    port[0] = name.lo_port
    return name.lo_addr
