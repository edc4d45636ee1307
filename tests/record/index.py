"""Keeps pcaps/index.toml and pcaps/README.md: what tshark says of each capture, next to what people wrote.

`python tests/record/index.py` brings both up to date without recording. Events that were added by hand stay as long as
the capture is the same file; what can be measured is measured again.
"""
import hashlib
import json
import re
import struct
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

HEAD = """# One row for each capture. Written by tests/record/index.py. `events` are counts that a run of `chain` must give, and
# may be added to by hand; where other ICMP than echo occurs, FlowStart and FlowEnd by shutdown are left open. \
`flows`, `tshark` and `stream`
# are tshark's view: a stream is there if its receiver got and acknowledged all of it.
"""
ANALYSIS = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order", "lost_segment", "duplicate_ack",
            "zero_window", "zero_window_probe", "window_full", "window_update", "keep_alive", "keep_alive_ack")
SENT_AGAIN = set(ANALYSIS) - {"duplicate_ack", "zero_window", "window_full", "window_update"}
FIELDS = ["frame.number", "tcp.stream", "udp.stream", "ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "tcp.srcport", "tcp.dstport",
          "tcp.flags", "tcp.len", "tcp.ack", "icmp.type", "icmp.ident", "icmpv6.type", "icmpv6.echo.identifier",
          "ip.flags.mf", "ip.frag_offset", "ipv6.fraghdr.ident", *(f"tcp.analysis.{a}" for a in ANALYSIS)]
FIN, SYN, RST, ACK = 1, 2, 4, 16


def scrubbed(data):
    """A little-endian pcapng without options but the time resolution: they name the recording machine."""
    out, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        block = data[at:at + length]
        at += length
        if kind == 0x0A0D0D0A:
            block = section(block[8:24])
        elif kind == 1:
            block = wrapped(1, block[8:16] + struct.pack("<HHB3xHH", 9, 1, 9, 0, 0))
            assert b"\x09\x00\x01\x00\x09" in data[at - length:at], "dumpcap did not record nanoseconds"
        elif kind == 6:
            captured = struct.unpack_from("<I", block, 20)[0]
            block = wrapped(6, block[8:28 + (captured + 3) // 4 * 4])
        else:
            continue
        out.append(block)
    return b"".join(out)


def section(body):
    return wrapped(0x0A0D0D0A, body[:8] + b"\xff" * 8)


def wrapped(kind, body):
    length = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + length + body + length


def tshark(path, *options):
    return subprocess.run(["tshark", "-n", "-r", path, *options], check=True, capture_output=True, text=True).stdout


def rows(path):
    """One dict of strings for each packet."""
    columns = [x for f in FIELDS for x in ("-e", f)]
    text = tshark(path, "-T", "fields", "-E", "occurrence=f", "-E", "separator=|", *columns)
    return [dict(zip(FIELDS, line.split("|"))) for line in text.splitlines()]


def plain(end):
    """An endpoint without brackets, as tshark's follow writes it."""
    return end.replace("[", "").replace("]", "")


class TcpFlow:
    """What the flags and acknowledgements of one tshark stream amount to."""

    def __init__(self, first):
        self.client, self.server = self.ends(first)
        self.fins, self.syns, self.reset, self.acked, self.data = set(), set(), None, Counter(), False
        self.established = False

    @staticmethod
    def ends(row):
        return tuple(f"[{row['ipv6.' + d]}]:{row[p]}" if row["ipv6." + d] else f"{row['ip.' + d]}:{row[p]}"
                     for d, p in (("src", "tcp.srcport"), ("dst", "tcp.dstport")))

    def add(self, row):
        source, target = self.ends(row)
        flags = int(row["tcp.flags"], 16)
        self.data = self.data or row["tcp.len"] != "0"
        if flags & RST:
            self.reset = self.reset or ("rst_client" if source == self.client else "rst_server")
            return
        if flags & ACK and not flags & SYN and len(self.syns) == 2:
            self.established = True
        for bit, seen in ((SYN, self.syns), (FIN, self.fins)):
            if flags & bit:
                seen.add(source)
        if flags & ACK:
            self.acked[target] = max(self.acked[target], int(row["tcp.ack"]))

    @property
    def reason(self):
        return "fin" if len(self.fins) == 2 else self.reset or "shutdown"


def streams(path, flows):
    """[[capture.stream]] tables of the directions that are complete at their receivers."""
    wanted = [n for n, flow in flows.items() if flow.data]
    text = tshark(path, "-q", *(x for n in wanted for x in ("-z", f"follow,tcp,raw,{n}"))) if wanted else ""
    tables = {}
    for part in text.split("Filter: tcp.stream eq ")[1:]:
        number = int(part.split("\n", 1)[0])
        flow, sides = flows[number], {"to_server": "", "to_client": ""}
        origin = re.search(r"Node 0: (.*)", part)[1]
        for line in part.splitlines()[3:]:
            if re.fullmatch(r"\t?[0-9a-f]+", line):
                from_client = (not line.startswith("\t")) == (plain(origin) == plain(flow.client))
                sides["to_server" if from_client else "to_client"] += line.strip()
        table = dict(flow=number, client=flow.client, server=flow.server)
        for side, sender in (("to_server", flow.client), ("to_client", flow.server)):
            data = bytes.fromhex(sides[side])
            if flow.acked[sender] - len(data) in (1, 2) and "missing" not in part:
                table[side] = dict(length=len(data), sha256=hashlib.sha256(data).hexdigest())
        tables[number] = table
    return [tables[n] for n in sorted(tables)]


def measure(path):
    """The measured part of a row."""
    packets = rows(path)
    flows, udp, echo, other = {}, set(), set(), 0
    for row in packets:
        if row["icmp.type"] or row["icmpv6.type"]:
            if ident := row["icmp.ident"] or row["icmpv6.echo.identifier"]:
                echo.add((bool(row["icmp.type"]), ident))
            else:
                other += 1
        elif row["tcp.stream"]:
            number = int(row["tcp.stream"])
            flows.setdefault(number, TcpFlow(row)).add(row)
        elif row["udp.stream"]:
            udp.add(row["udp.stream"])
    analysis = {a: sum(bool(row[f"tcp.analysis.{a}"]) for row in packets) for a in ANALYSIS}
    fragments = sum(row["ip.flags.mf"] in ("1", "True") or row["ip.frag_offset"] not in ("", "0")
                    or bool(row["ipv6.fraghdr.ident"]) for row in packets)
    ends = Counter(flow.reason for flow in flows.values())
    events = dict(FlowEstablished=sum(flow.established for flow in flows.values()))
    if other == 0:
        events = dict(FlowStart=len(flows) + len(udp) + len(echo)) | events
        ends["shutdown"] += len(udp) + len(echo)
    if reasons := {reason: n for reason, n in sorted(ends.items()) if n}:
        events["FlowEnd"] = reasons
    if not any(analysis[a] for a in SENT_AGAIN):
        events |= dict(Retransmission=0, OutOfOrder=0, StreamGap=0)
    data = path.read_bytes()
    return dict(size=len(data), sha256=hashlib.sha256(data).hexdigest(), packets=len(packets), fragments=fragments,
                flows=dict(tcp=len(flows), udp=len(udp), echo=len(echo), other_icmp_packets=other),
                tshark={a: n for a, n in analysis.items() if n}, events=events, stream=streams(path, flows))


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    return json.dumps(value, ensure_ascii=False)


def write_index(folder, table):
    parts = [HEAD]
    for row in table:
        parts.append("\n[[capture]]\n")
        parts += [f"{k} = {toml(v)}\n" for k, v in row.items() if k not in ("events", "stream")]
        parts.append("[capture.events]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in row["events"].items()))
        for stream in row["stream"]:
            parts.append("[[capture.stream]]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in stream.items()))
    (folder / "index.toml").write_text("".join(parts))


def write_readme(folder, table):
    text = ["# Captures\n\nRecorded by this project between real programs in network namespaces. Addresses are from 10.77.0.0/16 "
            "and fd77::/64,\nnames from example.test; ARP, neighbour discovery and multicast group reports are there too. Whole "
            "frames, nanosecond\ntimes, no offloads. `python tests/record/record.py [name ...]` records them again, as root; "
            "index.toml says what must come\nout of each.\n\n"
            "| file | packets | bytes | shows | recorded with | try |\n|---|--:|--:|---|---|---|\n"]
    text += [f"| [{r['file']}]({r['file']}) | {r['packets']} | {r['size']} | {r['shows']} | {r['recorded']} | "
             f"{', '.join(r['chain'])} |\n" for r in table]
    (folder / "README.md").write_text("".join(text))


def update(folder, scenes, names):
    """Measure the captures of `names` and write both files."""
    index = folder / "index.toml"
    table = {row["file"]: row for row in tomllib.loads(index.read_text())["capture"]} if index.exists() else {}
    for row in table.values():
        row.setdefault("stream", [])
    for scene in (scenes[name] for name in names):
        if not (folder / scene.file).exists():
            continue
        row, old = measure(folder / scene.file), table.get(scene.file, {})
        if old.get("sha256") == row["sha256"]:
            row["events"] = old["events"] | row["events"]
        table[scene.file] = dict(file=scene.file, shows=scene.shows, recorded=scene.recorded, chain=list(scene.chain)) | row
    order = [table[s.file] for s in scenes.values() if s.file in table]
    write_index(folder, order)
    write_readme(folder, order)


if __name__ == "__main__":
    from scenes import SCENES
    update(Path(__file__).parent.parent.parent / "pcaps", SCENES, sys.argv[1:] or list(SCENES))
