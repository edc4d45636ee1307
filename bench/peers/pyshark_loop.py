"""pyshark over a capture, flows and payload by tshark's fields. pyshark_loop.py FILE"""
import sys

import pyshark
from order import report


def run(path):
    packets, flows, sums = 0, {}, [0, 0]
    with pyshark.FileCapture(path, keep_packets=False) as capture:
        for packet in capture:
            packets += 1
            if "TCP" in packet:
                client = flows.setdefault(packet.tcp.stream, packet.ip.src)
                sums[packet.ip.src != client] += int(packet.tcp.len)
    report(packets, len(flows), *sums)


run(sys.argv[1])
