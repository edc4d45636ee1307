"""both_ways.py DEVICE: TCP frames with payload that leave by a device and that come in, as sequence number and digest."""
import json
import select
import socket
import sys
import zlib

PACKET_OUTGOING, SO_RCVBUFFORCE = 4, 33


def main(device):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
    s.bind((device, 3))
    told = {"sent": [], "received": []}
    print("ready", flush=True)
    while s in (ready := select.select([s, sys.stdin], [], [])[0]) or not ready:
        frame, (_, _, kind, *_) = s.recvfrom(1 << 17)
        if len(frame) > 66 and frame[12:14] == b"\x08\x00" and frame[23] == 6:
            told["sent" if kind == PACKET_OUTGOING else "received"].append(f"{frame[38:42].hex()} {zlib.crc32(frame[14:])}")
    print(json.dumps(told))


main(sys.argv[1])
