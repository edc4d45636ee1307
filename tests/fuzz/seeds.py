"""Write the first inputs of each target into a directory: from pcaps/ and from conversations, nothing else.

    python tests/fuzz/seeds.py tests/fuzz/corpus
"""
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SYN, SYN_ACK, ACK, DATA, FIN, DATA_FIN, RST, LONG, AGAIN, OTHER, HOLE = 0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11
SERVER, V6, VLAN, OPTS, DGRAM, ABOUT, RAW = 16, 32, 64, 128, 160, 192, 224
OPEN = bytes((SYN, SERVER | SYN_ACK, ACK))
CLOSE = bytes((FIN, SERVER | FIN, ACK))

FILTERS = ["tcp and server_port == 23 and not client in 10.0.0.0/8", "syn && !(ack) || payload_length > 1k", "true", "not false",
           "server_port in {22, 80, 1000..2000, 1k..2k}", "client in fd00::/8 or client == 10.0.0.1", "reason == idle",
           "old == 'SYN_SENT'", "cause in {window, rst}", "client_bytes >= server_bytes", "offset < 0x1f and length != 1e6",
           "src == client", "to_server", "count > -5 and ratio <= 2.5 and who in 10.0.0.0/8", "time > 1700000000000000000",
           "flow_id == 1 and window < 4G", "side == client"]


def stacks():
    """(two bytes of settings, wire, choices)."""
    wires = {
        "plain": OPEN + bytes((DATA, 40, SERVER | DATA, 60, ACK)) + CLOSE,
        "holes": OPEN + bytes((HOLE, 10, 20, HOLE, 50, 20, DATA, 10, SERVER | ACK, AGAIN, 20, 60,
                               OTHER, 30, 25, SERVER | ACK)) + CLOSE,
        "long": OPEN + bytes((LONG, LONG, LONG, SERVER | ACK, SERVER | LONG, ACK)) + CLOSE,
        "six": bytes(V6 | b for b in OPEN) + bytes((V6 | DATA, 9, V6 | SERVER | DATA, 8, V6 | RST)),
        "vlan": bytes(VLAN | b for b in OPEN) + bytes((VLAN | DATA, 9, VLAN | DATA_FIN, 8)),
        "midstream": bytes((DATA, 30, SERVER | DATA, 30, DATA, 9, FIN)),
        "options": bytes((OPTS, 3, 0, 1, 3, OPTS | SERVER | SYN_ACK, 3, 0, 1, 3, OPTS | ACK, 0x85,
                          OPTS | DATA, 0x85, 44, OPTS | SERVER | DATA, 0x82, 9)),
        "reopen": OPEN + bytes((DATA, 9)) + CLOSE + bytes((SYN, 0, SERVER | SYN_ACK, ACK, DATA, 9, RST)),
        "fragments": OPEN + bytes((ABOUT | 8, 1, DATA, 90, ABOUT | 9, 2, SERVER | DATA, 99)),
        "datagrams": OPEN + bytes((DGRAM, 20)) + bytes(20) + bytes((DGRAM | 2, 0, DGRAM | 12, 0, DGRAM | 7, 8)) + bytes(8),
        "waits": OPEN + bytes((DATA, 9, ABOUT | 2, HOLE, 9, 9, ABOUT | 0, SERVER | 13, 30,
                               ABOUT | 4, DATA, 2, ABOUT | 5, DATA, 1, ABOUT | 6, ACK)),
        "odd": OPEN + bytes((14, 16, 0xff, 0, 0, 9, 0, 0, 40, 15, 0x7f, 0, 0, 0, 9,
                             13, 200, SERVER | 13, 200, RST, SERVER | 7, ABOUT | 12)),
        "broken": OPEN + bytes((ABOUT | 10, 30, DATA, 60, ABOUT | 11, DATA, 7, ABOUT | 28)),
        "early": bytes((DATA, 30, DATA, 9, AGAIN, 9, 9, SERVER | ACK, DATA_FIN, 4, SERVER | DATA, 7, SERVER | DATA, 8, ACK,
                        V6 | DATA, 5, V6 | DATA, 9, V6 | SERVER | ACK, V6 | RST)),
    }
    for n, (name, wire) in enumerate(wires.items()):
        yield name, bytes((n * 37 & 127, n * 11 & 31)) + wire
        picks = bytes((n * 53 + i * 97) % 256 if i % 3 else 0 for i in range(len(wire)))
        yield name + "-answered", bytes((0x80 | n * 5 & 127, 0x20 | n * 29 & 0x7f)) + wire + picks[:len(wire) // 3]


def frames_input(frames, first):
    return bytes(first) + b"".join(struct.pack("!H", len(f[:2047])) + f[:2047] + b"\x04" for f in frames)


def seeds():
    """(target, name, bytes)."""
    from mos.io.source import open_source
    from mos.testing import icmp_echo, tcp, udp
    small = sorted((p for p in (ROOT / "pcaps").iterdir() if p.suffix in {".pcap", ".pcapng"}), key=lambda p: p.stat().st_size)
    for path in small[:12]:
        yield "reader", path.stem, path.read_bytes()[:4096]
        with open_source(str(path)) as source:
            yield "decode", path.stem, frames_input([p.data for p in source][:8], (3, 0))
    conversation = tcp("10.0.0.1:1", "10.0.0.2:2", vlan=(5, 6)).send(b"abc").close()
    yield "reader", "nanoseconds", conversation.pcap_bytes()
    for name, c in {"tcp": conversation, "udp": udp("[fd00::1]:53", "[fd00::2]:4789").send(bytes(60)).reply(b"x"),
                    "echo": icmp_echo("10.0.0.1", "10.0.0.2")}.items():
        yield "decode", name, frames_input([f for _, f in c.packets], (3, 0))
    for n in range(4):
        order = sorted(range(8), key=lambda i: (i * (3 + 2 * n)) % 8)
        yield "fragments", f"order{n}", bytes((n,)) + bytes(b for i in order for b in (n, i * 32, 32, 0))
    for n, o in enumerate((b"\2\4\5\xb4\4\2\1\3\3\7", b"\1\1\x08\x0a" + bytes(8), b"\1\1\5\x22" + bytes(32), b"\3\0", b"\x08\x50")):
        yield "options", f"set{n}", b"\1" + o
    for n, text in enumerate(FILTERS):
        for kind in {0, 4, n % 9}:
            yield "filters", f"text{n}-{kind}", bytes((kind,)) + text.encode()
    yield "filter_programs", "two", bytes((0, 2)) + bytes(15) + b"\5" + bytes(30) + bytes(16)
    yield "bpf", "tcp", bytes((20,)) + bytes(20) + bytes((0x28, 0, 12, 0x15, 0x12, 0, 0, 8, 0, 6, 0, 1))
    for name, data in stacks():
        yield "stack", name, data


def main(target_dir):
    for target, name, data in seeds():
        (Path(target_dir) / target).mkdir(parents=True, exist_ok=True)
        (Path(target_dir) / target / name).write_bytes(data)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1])
