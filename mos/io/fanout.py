"""The program that tells the kernel which worker takes a frame: mos.net.shard's function, for classic BPF.

It reads headers only. What is in a tunnel goes by the outer addresses, which set the tunnel apart for the stack, too. Fragments
show no ports: the first worker takes them, and each other one gets a copy. The first worker also takes what is not understood:
no IP, or more VLAN tags or IPv6 extension headers than are looked through.
"""
import ctypes
import socket
import struct

ABS_W, ABS_H, IND_W, IND_H, IND_B = 0x20, 0x28, 0x40, 0x48, 0x50        # loads: at k, at X + k
LD, LEN, MEM, LDX, LDX_MEM, ST, STX, TAX, TXA = 0x00, 0x80, 0x60, 0x01, 0x61, 0x02, 0x03, 0x07, 0x87
ADD, SUB, MUL, AND, LSH, RSH, XOR, WITH_X = 0x04, 0x14, 0x24, 0x54, 0x64, 0x74, 0xa4, 0x08
JA, JEQ, JGT, JGE, JSET, RET, RET_A = 0x05, 0x15, 0x25, 0x35, 0x45, 0x06, 0x16
# What the kernel tells beside a frame (SKF_AD_OFF + …): the EtherType, behind the tag that it has taken out; whose it is
PROTOCOL, KIND = 0xfffff000, 0xfffff004
OUTGOING = 4                # kind of a frame that the host sends itself: a tap's group gets it with its Ethernet header

TAGS = 2                    # VLAN tags that are looked through, that one not counted
EXTENSIONS = 4              # IPv6 extension headers, or authentication headers of IPv4: more than real stacks send
TUNNEL_PORTS = (4789, 8472, 4790, 6081, 2152, 3544, 5072)       # of UDP, as mos.net.shard has them
IP, AT, DST, PROTO, TOTAL, DIFFER, A_PORT, B_PORT, SOME = range(9)      # scratch words: three offsets, then values
EVERYTHING = 0xffffffff     # what a filter returns to let all of a frame pass
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27


class Code:
    """Instructions and labels. A conditional jump that is not taken goes on with the next instruction."""

    def __init__(self):
        self.code, self.labels = [], {}

    def put(self, op, k=0):
        self.code.append((op, 0, 0, k))

    def label(self, name):
        self.labels[name] = len(self.code)

    def go(self, name):
        self.code.append((JA, 0, 0, name))

    def go_if(self, op, k, name):
        """By way of `ja`, which reaches further than 255 instructions."""
        self.code.append((op, 0, 1, k))
        self.go(name)

    def go_unless(self, op, k, name):
        self.code.append((op, 1, 0, k))
        self.go(name)

    def need(self, size):
        """`size` bytes have to be there from offset X on: a load beyond the end would end the program."""
        self.put(LEN)
        self.go_unless(JGT | WITH_X, 0, "loose")
        self.put(SUB | WITH_X)
        self.go_unless(JGE, size, "loose")

    def forward(self, size):
        """Move X."""
        self.put(TXA)
        self.put(ADD, size)
        self.put(TAX)

    def listing(self):
        return [(op, jt, jf, self.labels[k] - at - 1 if isinstance(k, str) else k) for at, (op, jt, jf, k) in enumerate(self.code)]


def program(workers, ending="share", worker=0, link=True):
    """The program as a list of (code, jt, jf, k).

    ending: "share" returns the worker's number; "own" lets pass what is that `worker`'s, and all fragments; "fragments" only
    these. link: frames begin with their Ethernet header, as for a socket's filter; else behind it, as for a fanout group.
    """
    c = Code()
    c.put(LDX, 0)
    if link:
        c.need(14)
        c.put(LDX, 14)
        c.put(ABS_H, 12)
    else:
        c.put(ABS_W, KIND)
        c.go_unless(JEQ, OUTGOING, "received")
        c.put(LDX, 14)
        c.label("received")
        c.put(ABS_W, PROTOCOL)
    by_type(c)
    ip4(c)
    ip6(c)
    if ending != "fragments":
        transport(c)
        mix(c, workers)
    finish(c, ending, worker)
    return c.listing()


def by_type(c):
    """Behind the EtherType in A, at X: through VLAN tags and PPPoE (RFC 2516) to an IP header."""
    for tag in range(TAGS + 1):
        c.label(f"tag {tag}")
        c.go_if(JEQ, 0x0800, "ip4")
        c.go_if(JEQ, 0x86dd, "ip6")
        c.go_if(JEQ, 0x8864, "pppoe")
        if tag == TAGS:
            break
        for tpid in (0x8100, 0x88a8):
            c.go_if(JEQ, tpid, f"in tag {tag}")
        c.go_unless(JEQ, 0x9100, "loose")
        c.label(f"in tag {tag}")
        c.need(4)
        c.put(IND_H, 2)
        c.put(ST, SOME)
        c.forward(4)
        c.put(MEM, SOME)
    c.go("loose")
    c.label("pppoe")
    c.need(8)
    c.put(IND_H, 0)
    c.go_unless(JEQ, 0x1100, "loose")
    c.put(IND_H, 6)
    c.put(ST, SOME)
    c.forward(8)
    c.put(MEM, SOME)
    c.go_if(JEQ, 0x0021, "ip4")
    c.go_unless(JEQ, 0x0057, "loose")
    c.go("ip6")


def header(c, version, length):
    """An IP header of this version starts at X."""
    c.label(f"ip{version}")
    c.need(length)
    c.put(STX, IP)
    c.put(IND_B, 0)
    c.put(AND, 0xf0)
    c.go_unless(JEQ, version << 4, "loose")


def ip4(c):
    header(c, 4, 20)
    c.put(IND_H, 6)
    c.go_if(JSET, 0x3fff, "fragment")
    c.put(IND_B, 9)
    c.put(ST, PROTO)
    c.put(IND_B, 0)
    c.put(AND, 15)
    c.go_unless(JGE, 5, "loose")
    c.put(LSH, 2)
    c.put(ADD | WITH_X)
    c.put(ST, AT)
    for _ in range(EXTENSIONS):
        c.put(MEM, PROTO)
        c.go_unless(JEQ, 51, "addresses 4")
        c.put(LDX_MEM, AT)
        c.need(12)
        authentication(c)
    c.put(MEM, PROTO)
    c.go_if(JEQ, 51, "loose")
    c.label("addresses 4")
    add_words(c, IP, 12, 16)
    c.go("transport")


def authentication(c):
    """Behind the authentication header at X (RFC 4302 2)."""
    c.put(IND_B, 1)
    c.put(ADD, 2)
    c.put(LSH, 2)
    c.put(ADD | WITH_X)
    c.put(ST, AT)
    c.put(IND_B, 0)
    c.put(ST, PROTO)


def ip6(c):
    header(c, 6, 40)
    c.put(IND_B, 6)
    c.put(ST, PROTO)
    for offset, name in ((24, DST), (40, AT)):
        c.put(TXA)
        c.put(ADD, offset)
        c.put(ST, name)
    for i in range(EXTENSIONS):
        extension(c, i)
    c.put(MEM, PROTO)
    for proto in (0, 43, 44, 51, 60):
        c.go_if(JEQ, proto, "loose")
    c.label("addresses 6")
    add_words(c, IP, 8, 12, 16, 20)
    add_words(c, DST, 0, 4, 8, 12, more=True)
    c.go("transport")


def extension(c, i):
    """Behind one extension header (RFC 8200 4), if there is one at AT."""
    c.put(MEM, PROTO)
    for proto in (0, 43, 44, 51):
        c.go_if(JEQ, proto, f"extension {i}")
    c.go_unless(JEQ, 60, "addresses 6")
    c.label(f"extension {i}")
    c.put(LDX_MEM, AT)
    c.need(8)
    c.put(MEM, PROTO)
    c.go_unless(JEQ, 44, f"authentication {i}")
    c.put(IND_H, 2)
    c.go_if(JSET, 0xfff9, "fragment")
    c.put(TXA)
    c.put(ADD, 8)
    c.go(f"behind {i}")
    c.label(f"authentication {i}")
    c.go_unless(JEQ, 51, f"routing {i}")
    authentication(c)
    c.go(f"done {i}")
    c.label(f"routing {i}")
    c.go_unless(JEQ, 43, f"others {i}")
    routing(c, i)
    c.label(f"others {i}")
    c.put(IND_B, 1)
    c.put(ADD, 1)
    c.put(LSH, 3)
    c.put(ADD | WITH_X)
    c.label(f"behind {i}")
    c.put(ST, AT)
    c.put(IND_B, 0)
    c.put(ST, PROTO)
    c.label(f"done {i}")


def routing(c, i):
    """Segments left: the final destination stands in the routing header at X, last of types 0 and 2, first of type 4."""
    c.put(IND_B, 3)
    c.go_if(JEQ, 0, f"others {i}")
    c.put(IND_B, 1)
    c.go_unless(JGE, 2, f"others {i}")
    c.put(ADD, 1)
    c.put(LSH, 3)
    c.put(ST, SOME)
    c.need(24)
    c.put(LDX_MEM, SOME)
    c.go_unless(JGE | WITH_X, 0, "loose")       # all of it has to be there: A has what there is from its start on
    c.put(LDX_MEM, AT)
    c.put(IND_B, 2)
    c.go_if(JEQ, 4, f"first {i}")
    c.go_if(JEQ, 0, f"last {i}")
    c.go_unless(JEQ, 2, f"others {i}")
    c.label(f"last {i}")
    c.put(MEM, SOME)
    c.put(SUB, 16)
    c.put(ADD | WITH_X)
    c.put(ST, DST)
    c.go(f"others {i}")
    c.label(f"first {i}")
    c.put(TXA)
    c.put(ADD, 8)
    c.put(ST, DST)


def add_words(c, base, *offsets, more=False):
    """Words into TOTAL and DIFFER; the first of them begin both unless there are `more` already."""
    for offset in offsets:
        c.put(LDX_MEM, base)
        c.put(IND_W, offset)
        if not more:
            c.put(ST, TOTAL)
            c.put(ST, DIFFER)
            more = True
            continue
        c.put(TAX)
        for word, op in ((TOTAL, ADD), (DIFFER, XOR)):
            c.put(MEM, word)
            c.put(op | WITH_X)
            c.put(ST, word)


def transport(c):
    """Ports, or what stands for them with ICMP; none for what is in a tunnel or keeps no flows."""
    c.label("transport")
    c.put(LDX_MEM, AT)
    c.put(MEM, PROTO)
    for proto, name in ((6, "tcp"), (17, "udp"), (1, "icmp"), (58, "icmp6")):
        c.go_if(JEQ, proto, name)
    c.go("no ports")
    c.label("udp")
    c.need(8)
    for at in (0, 2):
        c.put(IND_H, at)
        for port in TUNNEL_PORTS:
            c.go_if(JEQ, port, "no ports")
    c.label("tcp")
    c.need(8)
    for at, name in ((0, A_PORT), (2, B_PORT)):
        c.put(IND_H, at)
        c.put(ST, name)
    c.go("mix")
    icmp(c, "icmp", 4, identified=(0, 8, 42, 43), replies=(14, 16, 18))
    icmp(c, "icmp6", 6, identified=(128, 129, 160, 161), replies=(134, 136, 140))
    c.label("no ports")
    c.put(LD, 0)
    c.put(ST, A_PORT)
    c.put(ST, B_PORT)


def icmp(c, name, version, identified, replies):
    """As mos.net.transport names its flows. Of the other IP version it is no ICMP."""
    c.label(name)
    c.put(LDX_MEM, IP)
    c.put(IND_B, 0)
    c.put(RSH, 4)
    c.go_unless(JEQ, version, "no ports")
    c.put(LDX_MEM, AT)
    c.need(8)
    c.put(IND_B, 1)
    c.put(ST, B_PORT)
    c.put(IND_B, 0)
    c.put(ST, A_PORT)
    for kind in identified:
        c.go_if(JEQ, kind, f"{name} identifier")
    for kind in replies:
        c.go_if(JEQ, kind, f"{name} reply")
    c.go("mix")
    c.label(f"{name} reply")
    c.put(SUB, 1)
    c.put(ST, A_PORT)
    c.go("mix")
    c.label(f"{name} identifier")
    c.put(IND_H, 4)
    c.put(ST, A_PORT)
    c.put(ST, B_PORT)
    c.go("mix")


def mix(c, workers):
    """mos.net.shard.shard_mix."""
    c.label("mix")
    c.put(MEM, TOTAL)
    c.put(MUL, 0x9e3779b1)
    c.put(LDX_MEM, DIFFER)
    c.put(XOR | WITH_X)
    c.put(ST, TOTAL)
    c.put(LDX_MEM, B_PORT)
    c.put(MEM, A_PORT)
    c.put(ADD | WITH_X)
    c.put(LSH, 16)
    c.put(ST, SOME)
    c.put(MEM, A_PORT)
    c.put(XOR | WITH_X)
    for word in (SOME, TOTAL):
        c.put(LDX_MEM, word)
        c.put(XOR | WITH_X)
    for shift, factor in ((16, 0x85ebca6b), (13, 0xc2b2ae35), (16, 1)):
        c.put(TAX)
        c.put(RSH, shift)
        c.put(XOR | WITH_X)
        c.put(MUL, factor)
    c.put(RSH, 16)
    c.put(MUL, workers)
    c.put(RSH, 16)
    c.go("worker")


def finish(c, ending, worker):
    c.label("worker")
    if ending == "share":
        c.put(RET_A)
    elif ending == "own":
        c.go_if(JEQ, worker, "fragment")
        c.put(RET, 0)
    else:
        c.label("transport")
        c.put(RET, 0)
    c.label("fragment")
    c.put(RET, 0 if ending == "share" else EVERYTHING)
    c.label("loose")
    c.put(RET, EVERYTHING if ending == "own" and worker == 0 else 0)


def attach(s, code):
    """Have a socket receive only what a program lets pass."""
    listing, held = packed(code)
    s.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, listing)
    del held


def detach(s):
    """Have it receive everything again."""
    s.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def packed(code):
    """A struct sock_fprog, and what it points to, which has to outlive the call."""
    held = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *i) for i in code))
    return struct.pack("@HP", len(code), ctypes.addressof(held)), held
