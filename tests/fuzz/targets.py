"""What is fuzzed: one function of bytes per target, which raises if its first line does not hold."""
import io
import struct
from pathlib import Path

from fuzz import watch
from fuzz.boxes import Bystander, Choices, Chooser
from fuzz.grammar import Reader, capture
from mos.events.filtervm import Filter, Insn
from mos.net.bpf import run_code
from mos.net.decode import OVERLAPS, TUNNELS, Decoder

from mos.errors import CaptureError, FilterError, VerdictError
from mos.events.filter import compile_filter
from mos.events.filter.names import Layout, RecordField
from mos.io.source import open_source
from mos.tcp.policies import POLICIES

LINKTYPES = (1, 1, 1, 101, 228, 229, 0, 108, 113, 276, 9, 50, 51, 104, 105, 127, 119, 163, 204, 12, 147)
TIGHT = {"bytes": 3000, "segments": 6, "doubtful": 1500, "keep": 700, "global": 20000}
LAYOUT = Layout(33, {"count": RecordField("i64", 0), "ratio": RecordField("f64", 8), "who": RecordField("ip", 16)})
KINDS = ("Event", "PacketIn", "FlowStart", "FlowEnd", "StreamData", "TcpStateChange", "Retransmission", "OutOfWindow", "Orphan")


def reader(data):
    """A capture reader, whatever the bytes: packets within their bounds, then the end or one CaptureError; the same streamed."""
    found = []
    for chunk in (None, 1 + len(data) % 61):
        packets, error = [], None
        try:
            with open_source(io.BytesIO(data) if chunk is None else Trickle(data, chunk)) as source:
                for p in source:
                    assert len(p.data) <= len(data) and p.iface < max(1, len(source.interfaces))
                    packets.append((p.number, p.ts, p.data, p.wirelen, p.linktype, p.iface))
        except CaptureError as e:
            error = str(e)
        found.append((packets, error))
    assert found[0][0] == found[1][0] and (found[0][1] is None) == (found[1][1] is None), found


class Trickle:
    """A file that gives a few bytes at a time."""

    def __init__(self, data, n):
        self.file, self.n = io.BytesIO(data), n

    def read(self, n=-1):
        return self.file.read(self.n if n < 0 else min(n, self.n))

    def readinto(self, view):
        return self.file.readinto(view[:self.n])


def decode(data):
    """Decoding frames one after the other: no byte beyond a frame is read, what is found lies within it, memory is bounded."""
    r = Reader(data)
    how = r.number()
    decoder = Decoder(tunnels=TUNNELS if how & 1 else (), checksum=("off", "verify", "auto")[how >> 1 & 1 or how >> 2 & 2],
                      overlap=OVERLAPS[how >> 4 & 1 or how >> 5 & 2], max_datagrams=4, max_fragments=8, max_fragment_bytes=1 << 17)
    linktype, ts, n = LINKTYPES[how >> 3 & 15 if how & 4 else r.number() % len(LINKTYPES)], 10**18, 0
    while r and n < 64:
        frame = r.take(r.number(2) & 0x7ff)
        more = r.number()
        ts += more * 10**9 >> 2
        found = decoder.parse(frame, linktype, ts, len(frame) + (more & 3) * 100)
        n += 1
        if found["status"] == "flow" and not found["reassembled"]:
            assert 0 <= found["ip"] and found["ip"] + found["payload_at"] + len(found["payload"]) <= len(frame)
        assert found["status"] != "flow" or len(found["payload"]) <= found["payload_len"]
    c = decoder.counters()
    assert c["packets"] == n and c["datagrams_waiting"] <= 4 and c["datagrams_bytes"] <= 1 << 17, c


def fragments(data):
    """Fragments of a few datagrams in any order: what is reassembled is what was sent, or overlapping fragments were seen."""
    r = Reader(data)
    how = r.number()
    six = how & 1
    decoder = Decoder(overlap=OVERLAPS[how >> 1 & 1 or how >> 2 & 2], max_datagrams=1 + (how >> 4 & 7), max_fragments=16,
                      max_fragment_bytes=1 << 17)
    original = struct.pack("!HHHH", 1, 2, 2048, 0) + bytes(i * 7 & 255 for i in range(2040))
    honest, n = True, 0
    while r and n < 100:
        n += 1
        ident, at, size, flags = r.number() & 7, r.number(), r.number(), r.number()
        piece = original[8 * at:8 * at + 8 * (size & 63) + (0 if flags & 1 else size >> 6)]
        if flags & 0x30 == 0x10:
            piece, honest = bytes(b ^ flags for b in piece), False
        more = flags & 1 if flags & 8 else 8 * at + len(piece) < len(original)
        honest = honest and more == (8 * at + len(piece) < len(original))
        found = decoder.parse(fragment(six, ident, at, piece, more), 1, 10**18 + (flags >> 6) * 10**10 * n)
        if found["status"] == "flow" and honest:
            assert found["payload"] == original[8:], (ident, at, size, flags)
    c = decoder.counters()
    assert c["datagrams_waiting"] <= 1 + (how >> 4 & 7) and c["datagrams_bytes"] <= 1 << 17, c


def fragment(six, ident, at, data, more):
    if six:
        data = struct.pack("!BBHI", 17, 0, at << 3 | more, ident) + data
        return (bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(data), 44, 64)
                + bytes(15) + b"\1" + bytes(15) + b"\2" + data)
    head = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(data), ident, more << 13 | at, 64, 17, 0, 1, 2)
    return bytes(12) + b"\x08\0" + head + data


def options(data):
    """TCP options of any length and content: nothing beyond the header is read, and what is found is in range."""
    options = data[1:41]
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4 if not data or data[0] & 1 else data[0] >> 4
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, words << 4, data[0] & 0x3f if data else 2, 6, 0, 0) + options
    frame = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, 1, 2) + tcp
    for cut in range(0, len(options) + 1, 7):
        found = Decoder().parse(frame[:len(frame) - cut], 101, 0, len(frame))
        if found["status"] == "flow":
            assert len(found["sack"]) <= 4 and found["wscale"] <= 255 and found["mss"] <= 65535


def filters(data):
    """A filter's text: compiled or refused with one line that has a column; a program that compiles verifies and runs."""
    kind = KINDS[data[0] % len(KINDS)] if data else "Event"
    text = data[1:2000].decode("latin-1")
    layout = LAYOUT if kind == "FlowStart" else None
    try:
        compiled = compile_filter(text, kind, layout)
    except FilterError as e:
        assert "\n" not in str(e)
        return
    Filter(compiled.text, kind, compiled.program, compiled.pool, compiled.entry, layout.size if layout else 0)


def filter_programs(data):
    """Any program of the filter machine: refused, or it runs on real events without reading what is not there."""
    r = Reader(data)
    program = []
    packets = r.number() & 3
    pool = [r.number(8, True) for _ in range(r.number() & 7)]
    while r and len(program) < 24:
        program.append(Insn(*(r.number() for _ in range(7)), r.number(2), r.number(2), len(program) + 1 + r.number() % 6,
                            len(program) + 1 + r.number() % 6, *(r.number(4, True) for _ in range(4))))
    program = [i._replace(jt=min(i.jt, len(program) + 1), jf=min(i.jf, len(program) + 1)) for i in program]
    try:
        f = Filter("fuzzed", "Event", program, pool, 0, 0)
    except FilterError:
        return
    from mos.events import Event, on

    @on(Event)
    def ask(ev):
        f.matches(ev)
    watch.run(io.BytesIO(capture(SCENES[packets])), ask)


SCENES = (bytes((0, 0x11, 2, 3, 9, 0x13, 5, 4, 0x14)), bytes((0x20, 0x31, 0x22, 0x23, 40, 0xa0, 5)),
          bytes((0xa6, 5, 0xa1, 7, 0xe0, 9)), bytes((3, 50, 0xc8, 2, 3, 200, 6)))


def bpf(data):
    """Any BPF program over any frame: refused, or it ends and reads nothing beyond the frame."""
    r = Reader(data)
    frame = r.take(r.number())
    code = []
    while r and len(code) < 64:
        op, jumps, k = r.number(), r.number(), r.number(4) if len(code) & 1 else r.number()
        code.append((op, jumps >> 4, jumps & 15, k))
    try:
        run_code(code, frame, len(frame) + 10)
    except FilterError:
        pass


def stack(data):
    """Frames in, verdicts out: both balances hold, a flow starts and ends once, its bytes and gaps come by offset, each once,
    no table or buffer outgrows its cap, nothing is left open, and the only error is one that a box has earned."""
    if len(data) < 3:
        return
    how, more, cut = data[0], data[1], len(data) - len(data) // 4
    choices = Choices(data[cut:] if how & 128 else b"")
    policy = ("raise", "fail_open", "fail_closed", "detach")[more >> 2 & 3]
    boxes = [Chooser(choices, name, policy) for name in ("one", "two")[:(more >> 5) % 3]]
    boxes += [Bystander()] if more & 16 else []
    try:
        watch.run(io.BytesIO(capture(data[2:cut])), *boxes, raise_errors=False, truth=("tap", "inline")[how & 1],
                  pickup=("data", "state", "off", "data")[how >> 1 & 3], checksum=("auto", "off", "verify", "auto")[how >> 3 & 3],
                  overlap=POLICIES[more % len(POLICIES)], max_flows=2 if how & 32 else 64, limits=TIGHT if how & 64 else None,
                  hash_key=bytes(16))
    except VerdictError as e:
        assert "cannot be named" in str(e) or "came in an earlier packet" in str(e), e


TARGETS = {f.__name__: f for f in (reader, decode, fragments, options, filters, filter_programs, bpf, stack)}
CORPUS = Path(__file__).parent / "corpus"
