"""A loop over dpkt's packets with a dict of flows. dpkt_loop.py FILE"""
import sys

import dpkt
from order import Half, late, report


def run(path):
    packets, opened, sums, flows = 0, 0, [0, 0], {}
    with open(path, "rb") as f:
        for _, frame in dpkt.pcap.Reader(f):
            packets += 1
            ip = dpkt.ethernet.Ethernet(frame).data
            if not isinstance(ip, dpkt.ip.IP) or not isinstance(ip.data, dpkt.tcp.TCP):
                continue
            tcp = ip.data
            data, flags = tcp.data, tcp.flags
            key = ip.src, tcp.sport, ip.dst, tcp.dport
            found = flows.get(key)
            if found is None:
                if not flags & 2 and not data:
                    continue
                found = flows[key] = way, half, other = 0, Half(), Half()
                flows[ip.dst, tcp.dport, ip.src, tcp.sport] = 1, other, half
                opened += 1
            way, half, other = found
            if flags & 2:
                half.next = (tcp.seq + 1) & 0xffffffff
                continue
            if data:
                if half.next is None:
                    half.next = tcp.seq
                if half.next == tcp.seq and not half.early:
                    half.bytes += len(data)
                    half.next = (tcp.seq + len(data)) & 0xffffffff
                else:
                    late(half, tcp.seq, data)
            if flags & 5:
                half.fin = True
                if other.fin or flags & 4:
                    sums[way] += half.bytes
                    sums[1 - way] += other.bytes
                    flows.pop(key, None)
                    flows.pop((ip.dst, tcp.dport, ip.src, tcp.sport), None)
    for way, half, _ in flows.values():
        sums[way] += half.bytes
    report(packets, opened, *sums)


run(sys.argv[1])
