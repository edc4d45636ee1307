"""frames.py DEVICE [vnet]: puts each line of standard input, a frame in hex, on the device and prints each that comes in.

With `vnet` every frame, in and out, has a virtio header before it.
"""
import select
import socket
import struct
import sys

SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_AUXDATA, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 1, 8, 15, 23
VLAN_VALID, TPID_VALID = 0x10, 0x40


def whole(frame, extra, at):
    """The frame with the VLAN tag that the kernel took out of it."""
    for level, kind, data in extra:
        if level == SOL_PACKET and kind == PACKET_AUXDATA:
            status, tci, tpid = struct.unpack_from("I12xHH", data)
            if status & VLAN_VALID:
                tpid = tpid if status & TPID_VALID else 0x8100
                return frame[:at] + struct.pack(">HH", tpid, tci) + frame[at:]
    return frame


def main(device, how=""):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, how == "vnet")
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    s.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, struct.pack("iHH8s", socket.if_nametoindex(device), 1, 0, b""))
    s.bind((device, 3))
    print("ready", flush=True)
    lines = sys.stdin.buffer.raw
    pending = b""
    while True:
        for one in select.select([s, lines], [], [])[0]:
            if one is s:
                frame, extra, _, _ = s.recvmsg(1 << 18, 256)
                print(whole(frame, extra, 22 if how else 12).hex(), flush=True)
                continue
            data = lines.read(1 << 16)
            if not data:
                return
            *whole_lines, pending = (pending + data).split(b"\n")
            for line in whole_lines:
                s.send(bytes.fromhex(line.decode()))


if __name__ == "__main__":
    main(*sys.argv[1:])
