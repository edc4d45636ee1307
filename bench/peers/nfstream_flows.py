"""nfstream's flow statistics, dissection off, payload bytes counted. It does not reassemble. nfstream_flows.py FILE"""
import sys

from nfstream import NFStreamer
from order import report


def run(path):
    flows = packets = to_server = to_client = 0
    for flow in NFStreamer(source=path, n_dissections=0, n_meters=1, accounting_mode=3):
        flows += 1
        packets += flow.bidirectional_packets
        to_server += flow.src2dst_bytes
        to_client += flow.dst2src_bytes
    report(packets, flows, to_server, to_client)


if __name__ == "__main__":      # its meters are processes that import this file
    run(sys.argv[1])
