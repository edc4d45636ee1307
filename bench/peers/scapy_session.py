"""scapy's sniff with TCPSession, flows told apart by hand. It hands on each segment's payload. scapy_session.py FILE"""
import logging
import sys

from order import report

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.all import IP, TCP, TCPSession, sniff  # noqa: E402  (it warns while it is imported)


def run(path):
    packets, sums, flows = 0, [0, 0], {}

    def take(packet):
        nonlocal packets
        packets += 1
        if IP in packet and TCP in packet:
            ip, tcp = packet[IP], packet[TCP]
            ends = ip.src, tcp.sport, ip.dst, tcp.dport
            way = flows.setdefault(ends, 0)
            flows.setdefault(ends[2:] + ends[:2], 1)
            sums[way] += len(tcp.payload)

    sniff(offline=path, session=TCPSession, prn=take, store=False)
    report(packets, len(flows) // 2, *sums)


run(sys.argv[1])
