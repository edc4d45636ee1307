"""`mos flows`: what became of every flow of a capture, as a table or as JSON lines (schema mos.flow/1)."""
import hashlib
import json
import os

from mos.cli.conn import conn_state
from mos.cli.report import complain
from mos.errors import CaptureError, UsageError
from mos.events import BadChecksum, FlowEnd, OutOfWindow, OverlapConflict, StreamData, StreamGap, on
from mos.nf import NF, Chain
from mos.run import CHECKSUMS, PICKUPS, Engine, Settings
from mos.tcp.policies import POLICIES

SCHEMA = "mos.flow/1"
MAX_GAPS = 1000         # listed per direction: a stream with more holes is noise, their number is in `gap_count`
MAX_REFUSED = 10000     # frame numbers listed per flow and cause, likewise


class Recorder(NF):
    """Follows every flow to its end and hands its record to `sink`."""

    def __init__(self, sink, streams=None):
        super().__init__()
        self.sink = sink
        self.streams = streams
        self.open = {}
        self.strays = {}

    def of(self, flow):
        """The record of a live flow."""
        try:
            return self.open[flow.id]
        except KeyError:
            record = self.open[flow.id] = ({}, Half(), Half())
            return record

    @on(StreamData)
    def data(self, ev):
        half = self.of(ev.flow)[1 if ev.to_server else 2]
        half.add(ev.offset, ev.data)
        if self.streams is not None:
            self.streams.write(ev.flow, ev.to_server, ev.data)

    @on(StreamGap)
    def gap(self, ev):
        self.of(ev.flow)[1 if ev.to_server else 2].gap(ev.offset, ev.length)

    @on(OverlapConflict, observe=True)
    def conflict(self, ev):
        """The core counts them, and retains delivered bytes to compare with only where somebody wants to know."""

    @on(OutOfWindow)
    def refused(self, ev):
        refused = self.of(ev.flow)[0]
        frames = refused.setdefault(ev.cause, [])
        if len(frames) < MAX_REFUSED:
            frames.append(ev.packet.number)

    @on(BadChecksum)
    def bad_checksum(self, ev):
        cause = "checksum" if ev.layer == "transport" else "ip_checksum"
        if ev.flow is not None:
            self.of(ev.flow)[0].setdefault(cause, []).append(ev.packet.number)
            return
        p = ev.packet
        key = (p.protocol, p.src, p.src_port, p.dst, p.dst_port)
        key = key if key in self.strays else (p.protocol, p.dst, p.dst_port, p.src, p.src_port)
        if key not in self.strays:
            key = (p.protocol, p.src, p.src_port, p.dst, p.dst_port)
            self.strays[key] = (p.time, {})
        self.strays[key][1].setdefault(cause, []).append(p.number)

    @on(FlowEnd)
    def end(self, ev):
        refused, to_server, to_client = self.open.pop(ev.flow.id, None) or ({}, Half(), Half())
        self.sink(describe(ev.flow, ev.reason, refused, to_server, to_client))
        if self.streams is not None:
            self.streams.close(ev.flow)

    def stop(self, engine):
        for (proto, src, sport, dst, dport), (first, refused) in self.strays.items():
            self.sink(stray(proto, src, sport, dst, dport, first, refused))


class Half:
    """What was delivered of one direction."""

    __slots__ = ("delivered", "prefix", "sha", "gaps", "gap_count", "whole")

    def __init__(self):
        self.delivered = self.prefix = self.gap_count = 0
        self.sha = hashlib.sha256()
        self.gaps = []
        self.whole = True

    def add(self, offset, data):
        self.delivered += len(data)
        if self.whole:
            self.prefix += len(data)
            self.sha.update(data)

    def gap(self, offset, length):
        self.whole = False
        self.gap_count += 1
        if len(self.gaps) < MAX_GAPS:
            self.gaps.append([offset, length])


def direction(side, half, trouble):
    """One direction as its JSON object. `side` is its sender's end."""
    return {"packets": side.packets, "bytes": side.wire_bytes, "payload": side.payload_bytes, "stream": half.delivered,
            "prefix": {"bytes": half.prefix, "sha256": half.sha.hexdigest()}, "gaps": half.gaps,
            "retransmitted_packets": trouble["retransmitted_packets"], "retransmitted_bytes": trouble["retransmitted_bytes"],
            "conflict_bytes": trouble["conflict_bytes"], "out_of_order": trouble["out_of_order"],
            "duplicate_acks": trouble["duplicate_acks"], "zero_windows": trouble["zero_windows"], "gap_count": half.gap_count}


def describe(flow, reason, refused, to_server, to_client):
    """A flow at its end as its JSON object."""
    rtt = flow.rtt
    return {
        "id": flow.id, "proto": flow.proto, "client": flow.client, "client_port": flow.client_port, "server": flow.server,
        "server_port": flow.server_port, "vlan": list(flow.vlan), "tunnel": flow.tunnel or None, "first_ns": flow.first_ns,
        "last_ns": flow.last_ns, "pickup": "midstream" if flow.midstream else "syn", "established": flow.established,
        "end": reason, "state": {"client": flow.client_side.state, "server": flow.server_side.state},
        "conn_state": conn_state(flow, reason), "history": flow.history, "community_id": flow.community_id,
        "rtt_ns": None if rtt is None else round(rtt * 1e9), "refused": refused,
        "to_server": direction(flow.client_side, to_server, flow.owner.flow_trouble(flow, 0)),
        "to_client": direction(flow.server_side, to_client, flow.owner.flow_trouble(flow, 1)),
    }


def stray(proto, src, sport, dst, dport, first, refused):
    """Packets with wrong checksums between ends that never had a flow: they are refused, and listed all the same."""
    half = {"packets": 0, "bytes": 0, "payload": 0, "stream": 0, "prefix": {"bytes": 0, "sha256": hashlib.sha256().hexdigest()},
            "gaps": [], "retransmitted_packets": 0, "retransmitted_bytes": 0, "conflict_bytes": 0, "out_of_order": 0,
            "duplicate_acks": 0, "zero_windows": 0, "gap_count": 0}
    return {"id": 0, "proto": {6: "tcp", 17: "udp"}.get(proto, "icmp"), "client": src, "client_port": sport, "server": dst,
            "server_port": dport, "vlan": [], "tunnel": None, "first_ns": first, "last_ns": first, "pickup": "none",
            "established": False, "end": "stopped", "state": {"client": "CLOSED", "server": "CLOSED"}, "conn_state": "OTH",
            "history": "", "community_id": None, "rtt_ns": None, "refused": refused, "to_server": half,
            "to_client": dict(half)}


class Streams:
    """One file per direction with bytes in `directory`, named after the flow."""

    def __init__(self, directory):
        self.directory = directory
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as e:
            raise UsageError(f"cannot make the directory {directory}: {e.strerror}") from e

    def path(self, flow, to_server):
        ends = f"{flow.client}.{flow.client_port}-{flow.server}.{flow.server_port}".replace(":", "_")
        return os.path.join(self.directory, f"{flow.id}-{flow.proto}-{ends}-{'to_server' if to_server else 'to_client'}")

    def write(self, flow, to_server, data):
        """Append; the file is opened for each piece, because a capture has more flows than a process may have files."""
        with open(self.path(flow, to_server), "ab") as f:
            f.write(data)

    def close(self, flow):
        """Nothing stays open between pieces."""


def add_parser(subparsers):
    """Enter the subcommand's options."""
    p = subparsers.add_parser("flows", help="what became of every flow of a capture",
                              description="Follow every flow of a capture to its end and tell what became of it.")
    p.add_argument("-r", "--read", metavar="FILE", required=True,
                   help="capture to read (pcap, pcapng, .gz, .zst; - is standard input)")
    p.add_argument("--json", action="store_true", help=f"one JSON object a line (schema {SCHEMA}) instead of a table")
    p.add_argument("-f", "--filter", metavar="BPF", help="look only at packets that this packet filter selects")
    p.add_argument("--checksum", choices=CHECKSUMS, default="auto",
                   help="verify: packets with a wrong checksum are refused; auto (default): unless offloading explains it; off")
    p.add_argument("--overlap", default="first", metavar="POLICY[,NETWORK=POLICY]…",
                   help="who wins between overlapping bytes not yet delivered, for all and by the receiving host's network: "
                        f"{', '.join(POLICIES)} (default first)")
    p.add_argument("--pickup", choices=PICKUPS, default="data",
                   help="flows without a SYN: ignore, follow the state, or with data (default)")
    p.add_argument("--streams", metavar="DIR", help="write each direction's bytes to a file in DIR")
    p.set_defaults(run=run)


def run(args):
    """The subcommand; returns the exit status."""
    rows = []
    emit = (lambda row: print(json.dumps(row))) if args.json else rows.append
    streams = Streams(args.streams) if args.streams else None
    engine = Engine(Chain(Recorder(emit, streams)), Settings(checksum=args.checksum, overlap=args.overlap, pickup=args.pickup,
                                                             bpf=args.filter))
    status = 0
    if args.json:
        print(json.dumps({"schema": SCHEMA}))
    try:
        engine.run(args.read)
    except CaptureError as e:
        complain(e)
        status = 1
    engine.close()
    if not args.json:
        print_table(rows)
    return status


def print_table(rows):
    """Flows as text, in the order in which they began."""
    rows.sort(key=lambda r: r["id"])
    print(f"{'id':>5} {'proto':5} {'client':>27} {'server':>27} {'state':6} {'end':10} "
          f"{'to server':>10} {'to client':>10} {'gaps':>4}")
    for r in rows:
        print(f"{r['id']:>5} {r['proto']:5} {r['client'] + ':' + str(r['client_port']):>27} "
              f"{r['server'] + ':' + str(r['server_port']):>27} {r['conn_state']:6} {r['end']:10} {r['to_server']['stream']:>10} "
              f"{r['to_client']['stream']:>10} {len(r['to_server']['gaps']) + len(r['to_client']['gaps']):>4}")
