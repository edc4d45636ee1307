"""Every built-in event, declared once.

Kinds, views, stubs, the event reference and the log schema are generated from this module (`python -m mos.events.generate`)
and committed; a test regenerates and compares them. An event's docstring is its contract: when it fires, what is visible
then, what may be answered, and the RFC section it follows.
"""
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Field:
    """One attribute of an event. `slot` names its place in event_t (ring.pxd); `type` is how Python and filters see it.

    Types: int, bool, enum (a name out of `values`, whose index is stored), bytes, ip, str, object.
    """
    name: str
    type: str
    slot: str
    doc: str
    values: tuple = ()
    flag: str = ""          # bool: the EV_* bit of event_t.flags
    filter: bool = True     # may stand in a filter
    log: bool = True        # is written to the log


@dataclass(frozen=True)
class Kind:
    """One class of the event tree. Leaves (`fires`) own a bit of the masks; the others only gather their children."""
    name: str
    parent: str
    doc: str
    fields: tuple = field(default=())
    fires: bool = True
    answers: bool = True    # a handler's verdict is allowed
    rfc: str = ""
    mos: str = ""
    zeek: str = ""


STATES = ("CLOSED", "LISTEN", "SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT",
          "CLOSING", "LAST_ACK", "TIME_WAIT")
REASONS = ("none", "fin", "rst_client", "rst_server", "idle", "evicted", "reused", "stopped", "shutdown")
REXMIT_KINDS = ("full", "partial", "keep_alive", "zero_window_probe", "syn", "fin")
GAP_CAUSES = ("acked", "cap", "age", "close", "dropped")
ORPHAN_CAUSES = ("no_syn", "filtered", "table_full", "stopped")
REFUSALS = ("window", "rst", "syn", "ack", "timestamp", "no_ack", "after_fin", "flags", "closed")
MALFORMED = ("none", "link", "truncated", "ip_version", "ip_header", "ip_length", "ip_options", "extension", "tcp_header",
             "udp_header", "icmp_header", "tunnel", "depth", "fragment_overlap", "fragment_cap", "fragment_timeout",
             "fragment_length")
CAPS = ("flows", "segments", "bytes", "global_bytes", "doubtful", "fragments", "timers", "sets", "domains",
        "retained")
SIDES = ("client", "server")

_RANGE = (Field("offset", "int", "offset", "stream offset of the first byte; the byte after the SYN is 0"),
          Field("length", "int", "length", "bytes"))

KINDS = (
    Kind("Event", "", "Anything that can be subscribed to.", (
        Field("time", "int", "now", "packet time in ns since 1970", log=False),
        Field("to_server", "bool", "to_server", "direction of the packet, or of the bytes of a stream event"),
    ), fires=False),

    Kind("PacketEvent", "Event", "About one packet, whether it belongs to a flow or not.", fires=False),
    Kind("PacketIn", "PacketEvent",
         "Each packet of the selected traffic, before anything else is said about it. The sender's end already reflects "
         "it, the receiver's does not.",
         mos="PKT_IN", zeek="raw_packet"),

    Kind("FlowEvent", "Event", "About one flow.", fires=False),
    Kind("FlowStart", "FlowEvent",
         "The first packet of a flow: for TCP a SYN, or, with `midstream` set, whatever was seen first. Once per flow, "
         "before every other event of it but PacketIn.",
         (Field("midstream", "bool", "flags", "picked up without its SYN", flag="EV_MIDSTREAM"),),
         rfc="RFC 9293 3.5", mos="CONN_START", zeek="new_connection"),
    Kind("FlowEstablished", "FlowEvent",
         "The handshake is complete at both ends, simultaneous and split opens too. At most once per flow; never for one "
         "picked up mid-stream.",
         rfc="RFC 9293 3.5", mos="CONN_SETUP", zeek="connection_established"),
    Kind("FlowEnd", "FlowEvent",
         "Exactly once per flow, and the last event of it. Totals and state are still readable; after the call they are "
         "not.",
         (Field("reason", "enum", "cause", "why it ended", REASONS),),
         answers=False, mos="CONN_END", zeek="connection_state_remove"),

    Kind("TcpEvent", "FlowEvent", "About TCP's own working.", fires=False),
    Kind("TcpStateChange", "TcpEvent",
         "One end changes state; once per end and change. The sender's end changes before the packet is forwarded, the "
         "receiver's after; a subscriber gets both, with `at=\"receiver\"` just the latter. An answer to the receiver's change "
         "holds from the flow's next packet on.",
         (Field("side", "enum", "side", "whose state", SIDES), Field("old", "enum", "old", "state before", STATES),
          Field("new", "enum", "new", "state after", STATES)),
         rfc="RFC 9293 3.3.2", mos="TCP_STATE_CHANGE"),
    Kind("Retransmission", "TcpEvent",
         "A segment carries bytes (or a SYN or FIN) below the highest sequence number its sender has sent, whether anybody "
         "reassembles or not. Fires before the packet is forwarded.",
         (Field("kind", "enum", "cause", "what was sent again", REXMIT_KINDS),) + _RANGE,
         rfc="RFC 9293 3.8.1", mos="REXMIT", zeek="tcp_rexmit"),
    Kind("OverlapConflict", "TcpEvent",
         "Bytes sent again differ from the copy retained: queued bytes always, delivered ones while they are unacknowledged "
         "and within the retention cap. `old` is that copy, `new` what came now.",
         _RANGE + (Field("old", "bytes", "old_data", "the copy retained", filter=False),
                   Field("new", "bytes", "data", "the bytes of this packet", filter=False)),
         rfc="RFC 9293 3.10.7.4", zeek="rexmit_inconsistency"),
    Kind("OutOfOrder", "TcpEvent",
         "A segment starts above the next byte expected: there is a hole before it.", _RANGE, rfc="RFC 9293 3.10.7.4"),
    Kind("DuplicateAck", "TcpEvent",
         "An ACK without data, SYN or FIN that repeats the last acknowledgement and window while data is outstanding.",
         (Field("ack", "int", "offset", "stream offset acknowledged"),
          Field("count", "int", "length", "how many in a row")),
         rfc="RFC 5681 2"),
    Kind("ZeroWindow", "TcpEvent", "An end offers a receive window of 0 after one that was open.",
         (Field("side", "enum", "side", "who offers it", SIDES),), rfc="RFC 9293 3.8.6.1"),
    Kind("WindowUpdate", "TcpEvent",
         "An ACK without data changes nothing but the window, which grows.",
         (Field("side", "enum", "side", "who offers it", SIDES),
          Field("window", "int", "length", "bytes, scaled")), rfc="RFC 9293 3.8.6"),

    Kind("StreamEvent", "FlowEvent", "About the bytes of one direction, in order.", fires=False),
    Kind("StreamData", "StreamEvent",
         "New in-order bytes of one direction, before the packet that brings them is forwarded. A flow's data and gaps come "
         "by offset, each byte once; `redelivered` bytes were offered before in a packet that was dropped. For UDP and ICMP "
         "each datagram's payload. With `at=\"acked\"`: once the receiver has acknowledged them.",
         _RANGE + (Field("data", "bytes", "data", "the bytes", filter=False),
                   Field("redelivered", "bool", "flags", "offered before, in a packet that was dropped", flag="EV_REDELIVERED"),
                   Field("doubtful", "bool", "flags", "taken on the evidence of the receiver's ACK alone", flag="EV_DOUBTFUL")),
         rfc="RFC 9293 3.10.7.4", mos="CONN_NEW_DATA", zeek="tcp_contents"),
    Kind("StreamGap", "StreamEvent",
         "Bytes given up: acknowledged but never seen, beyond a cap, too old, or missing at the close. In order with "
         "StreamData.",
         _RANGE + (Field("cause", "enum", "cause", "why they were given up", GAP_CAUSES),),
         answers=False, mos="FRAGINFO", zeek="content_gap"),

    Kind("AppEvent", "FlowEvent", "Base of application-layer and user-defined events about a flow.", fires=False),

    Kind("Anomaly", "Event", "Something that an end host would refuse or that could not be followed. Never changes state.",
         fires=False, zeek="weird"),
    Kind("OutOfWindow", "Anomaly",
         "A segment that its receiver would refuse: outside the window, a RST, SYN or ACK that RFC 5961 rejects, an old "
         "timestamp. Neither end changes. In a tap its bytes are kept as doubtful and taken when the receiver's ACK covers "
         "them.",
         (Field("cause", "enum", "cause", "which check refused it", REFUSALS),) + _RANGE,
         rfc="RFC 9293 3.10.7.4, RFC 5961 3-5, RFC 7323 5", mos="ERROR"),
    Kind("BadChecksum", "Anomaly",
         "A TCP, UDP, ICMP or IPv4 header checksum is wrong and checksums are verified. The packet is forwarded and tracked "
         "no further.",
         (Field("layer", "enum", "cause", "which", ("transport", "ip")),), rfc="RFC 1071", zeek="bad_TCP_checksum"),
    Kind("Malformed", "Anomaly", "A packet that cannot be parsed. It is forwarded.",
         (Field("cause", "enum", "cause", "what is wrong", MALFORMED),)),
    Kind("Orphan", "Anomaly", "A packet for which there is no flow.",
         (Field("cause", "enum", "cause", "why there is none", ORPHAN_CAUSES),), mos="ORPHAN"),
    Kind("CapReached", "Anomaly",
         "A bound was reached and its policy applied (docs/bounds.md): once for each bound that a packet, or a handler since the "
         "packet before, has met. The counters tell how often.",
         (Field("cause", "enum", "cause", "which bound",
                CAPS),)),

    Kind("Timer", "Event", "A timer of `ev.flow.timer(...)` or `mos.every(...)` has come due, in packet time.",
         (Field("value", "object", "obj", "what was given when it was set", filter=False),),
         answers=False, mos="settimer"),
)

# Attributes that are read through the flow or the packet; `address` ones go through the address view of the NF's position.
FLOW_FIELDS = (
    Field("client", "ip", "address", "the client's address"), Field("client_port", "int", "address", "0 for ICMP"),
    Field("server", "ip", "address", "the server's address"), Field("server_port", "int", "address", "0 for ICMP"),
    Field("tcp", "bool", "proto", "the flow is TCP"), Field("udp", "bool", "proto", "the flow is UDP"),
    Field("icmp", "bool", "proto", "the flow is ICMP or ICMPv6"),
    Field("flow_id", "int", "id", "Number of the flow's first packet, from 1"),
    Field("established", "bool", "flags", "the handshake was seen to complete"),
    Field("client_bytes", "int", "payload", "payload bytes the client sent so far"),
    Field("server_bytes", "int", "payload", "payload bytes the server sent so far"),
    Field("client_packets", "int", "packets", "packets the client sent so far"),
    Field("server_packets", "int", "packets", "packets the server sent so far"),
)
PACKET_FIELDS = (
    Field("src", "ip", "address", "the packet's source address"), Field("dst", "ip", "address", "the packet's destination address"),
    Field("src_port", "int", "address", "0 without ports"), Field("dst_port", "int", "address", "0 without ports"),
    Field("packet_number", "int", "number", "1-based ordinal in the input"),
    Field("packet_length", "int", "wirelen", "link-layer bytes on the wire"),
    Field("payload_length", "int", "payload_len", "transport payload bytes"),
    Field("ip_version", "int", "ipver", "4 or 6, 0 for others"), Field("protocol", "int", "proto", "IP protocol number"),
    Field("syn", "bool", "tcp_flags", "SYN is set"), Field("ack", "bool", "tcp_flags", "ACK is set"),
    Field("fin", "bool", "tcp_flags", "FIN is set"), Field("rst", "bool", "tcp_flags", "RST is set"),
    Field("window", "int", "wnd", "raw window"),
)

BY_NAME = {k.name: k for k in KINDS}
LEAVES = tuple(k for k in KINDS if k.fires)
BITS = {k.name: i for i, k in enumerate(LEAVES)}
assert len(LEAVES) <= 64


def ancestry(name):
    """The kind and its ancestors, nearest first."""
    while name:
        yield BY_NAME[name]
        name = BY_NAME[name].parent


def leaves_below(name):
    """Names of the kinds that fire at or below `name`."""
    return tuple(k.name for k in LEAVES if any(a.name == name for a in ancestry(k.name)))


def fields_of(name):
    """Own and inherited fields, ancestors' first."""
    return tuple(f for a in reversed(list(ancestry(name))) for f in a.fields)
