"""Reads whole captures for tests, independently of mos.io: the plain parts of pcap and pcapng. No test in itself.

Time stamps are not read: frames are 1 ms apart.
"""
import struct
from collections import namedtuple

Frame = namedtuple("Frame", "number linktype ts data wirelen")


def frames(path):
    """Every packet of the file, until its end or the first damage."""
    b = path.read_bytes()
    return pcapng(b) if b[:4] == b"\x0a\x0d\x0d\x0a" else pcap(b)


def pcap(b):
    order = "<" if b[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1", b"\x34\xcd\xb2\xa1") else ">"
    magic, linktype = struct.unpack_from(order + "I16xI", b)
    at, number, head = 24, 0, 24 if magic == 0xa1b2cd34 else 16
    while at + head <= len(b):
        caplen, wirelen = sorted(struct.unpack_from(order + "8x2I", b, at))     # format 2.2 has them in the other order
        at, number = at + head + caplen, number + 1
        if at > len(b):
            return
        yield Frame(number, linktype & 0xffff, number * 10**6, b[at - caplen:at], wirelen)


def pcapng(b):
    at, number, order, links = 0, 0, "<", []
    while at + 12 <= len(b):
        if b[at:at + 4] == b"\x0a\x0d\x0d\x0a":
            order, links = "<" if b[at + 8:at + 12] == b"\x4d\x3c\x2b\x1a" else ">", []
        kind, length = struct.unpack_from(order + "2I", b, at)
        if length < 12 or at + length > len(b):
            return
        if kind == 1:
            links.append(struct.unpack_from(order + "H", b, at + 8)[0])
        elif kind in (2, 3, 6):
            number += 1
            iface, caplen, wirelen = 0, 0, struct.unpack_from(order + "I", b, at + 8)[0]
            if kind == 3:
                caplen = min(wirelen, length - 16)
            else:
                iface = struct.unpack_from(order + ("I" if kind == 6 else "H"), b, at + 8)[0]
                caplen, wirelen = struct.unpack_from(order + "2I", b, at + 20)
            start = at + (12 if kind == 3 else 28)
            yield Frame(number, links[iface], number * 10**6, b[start:start + caplen], wirelen)
        at += length


def write(path, some):
    """A pcapng file of frames with any link types, in this order."""
    links, blocks = {}, []
    for f in some:
        iface = links.setdefault(f.linktype, len(links))
        body = struct.pack("<5I", iface, 0, f.number, len(f.data), f.wirelen) + f.data + bytes(-len(f.data) % 4)
        blocks.append(block(6, body))
    head = block(0x0a0d0d0a, struct.pack("<IHHq", 0x1a2b3c4d, 1, 0, -1))
    path.write_bytes(head + b"".join(block(1, struct.pack("<HHI", x, 0, 0)) for x in links) + b"".join(blocks))


def block(kind, body):
    size = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + size + body + size
