"""pcaps/index.toml says the truth about every capture, as far as dpkt can tell."""
import hashlib
import ipaddress
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

import dpkt
import pytest

PCAPS = Path(__file__).parent.parent / "pcaps"
ROWS = tomllib.loads((PCAPS / "index.toml").read_text())["capture"]
CHAIN = {"monitor", "firewall", "nat", "accounting", "portscan", "ids"}
NETWORKS = [ipaddress.ip_network(n) for n in ("10.77.0.0/16", "fd77::/64", "fe80::/64", "ff02::/16", "::/128")]
BUDGET = 1_500_000      # bytes: a clone of the repository carries every version of these for ever
EVERY = pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])


@cache
def packets(name):
    with open(PCAPS / name, "rb") as f:
        reader = dpkt.pcapng.Reader(f) if name.endswith("ng") else dpkt.pcap.Reader(f)
        return [(time, frame) for time, frame in reader]


def ips(name):
    for _, frame in packets(name):
        ip = dpkt.ethernet.Ethernet(frame).data
        if isinstance(ip, (dpkt.ip.IP, dpkt.ip6.IP6)):
            yield ip


def end(address, port):
    ip = ipaddress.ip_address(address)
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


@cache
def assembled(name):
    """{(source, target): bytes}, keeping the first copy of each byte."""
    isn, have = {}, defaultdict(dict)
    for ip in ips(name):
        s = ip.data
        if not isinstance(s, dpkt.tcp.TCP):
            continue
        way = end(ip.src, s.sport), end(ip.dst, s.dport)
        if s.flags & dpkt.tcp.TH_SYN:
            isn[way] = s.seq
        start = s.seq - isn.get(way, 0) - (0 if s.flags & dpkt.tcp.TH_SYN else 1)
        for i, byte in enumerate(s.data):
            have[way].setdefault((start + i) % 2**32, byte)
    return {way: bytes(data[i] for i in range(len(data))) if max(data) == len(data) - 1 else None
            for way, data in have.items()}


def test_every_file_has_a_row_and_every_row_a_file():
    files = {p.name for p in PCAPS.iterdir() if p.suffix in (".pcap", ".pcapng")}
    assert sorted(row["file"] for row in ROWS) == sorted(files) and len(files) >= 10


def test_all_of_it_stays_small():
    assert sum(p.stat().st_size for p in PCAPS.iterdir()) < BUDGET


def test_readme_lists_them_all():
    text = (PCAPS / "README.md").read_text()
    for row in ROWS:
        assert f"| [{row['file']}]({row['file']}) | {row['packets']} | {row['size']} | {row['shows']} |" in text


@EVERY
def test_row_matches_its_file(row):
    data = (PCAPS / row["file"]).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (row["size"], row["sha256"])
    assert len(packets(row["file"])) == row["packets"]
    assert row["shows"] and row["recorded"] and row["chain"] and set(row["chain"]) <= CHAIN


@EVERY
def test_times_are_in_order_and_in_nanoseconds(row):
    times = [time for time, _ in packets(row["file"])]
    assert times == sorted(times)
    assert row["file"].endswith("ng") or (PCAPS / row["file"]).read_bytes()[:4] == bytes.fromhex("4d3cb2a1")


@EVERY
def test_only_our_addresses_occur(row):
    for ip in ips(row["file"]):
        for address in map(ipaddress.ip_address, (ip.src, ip.dst)):
            assert any(address in n for n in NETWORKS if n.version == address.version), address


@EVERY
def test_streams_are_whole(row):
    for stream in row.get("stream", ()):
        ends = stream["client"], stream["server"]
        for name, way in (("to_server", ends), ("to_client", ends[::-1])):
            if name in stream:
                data = assembled(row["file"]).get(way, b"")
                assert (len(data), hashlib.sha256(data).hexdigest()) == (stream[name]["length"], stream[name]["sha256"])


@EVERY
def test_flows_and_events_agree_with_the_packets(row):
    syns = {(ip.src, ip.dst, ip.data.sport, ip.data.dport) for ip in ips(row["file"])
            if isinstance(ip.data, dpkt.tcp.TCP) and ip.data.flags & 0x12 == 2}
    assert row["flows"]["tcp"] == len(syns)
    events = row["events"]
    if "FlowStart" in events:
        assert events["FlowStart"] == sum(events["FlowEnd"].values()) >= events["FlowEstablished"]


@EVERY
def test_pcapng_names_no_machine(row):
    data = (PCAPS / row["file"]).read_bytes()
    if row["file"].endswith("ng"):
        assert data[:8] == bytes.fromhex("0a0d0d0a1c000000"), "the section header carries options"
        assert b"Linux" not in data and b"eth0" not in data


def test_the_lossy_captures_are_lossy_and_the_others_are_what_they_say():
    rows = {row["file"].split(".")[0]: row for row in ROWS}
    assert all(rows["http_lossy"]["tshark"][what] for what in ("retransmission", "out_of_order", "duplicate_ack"))
    assert rows["zero_window"]["tshark"]["zero_window"] and rows["keep_alive"]["tshark"]["keep_alive"]
    assert rows["ping"]["fragments"] and rows["dns_fragments"]["fragments"]
    assert rows["reset"]["events"]["FlowEnd"] == {"rst_client": 1}
    assert all(frame[12:16] == bytes.fromhex("8100004d") for _, frame in packets("http_vlan.pcap"))
    on_syn = [ip.data.data for ip in ips("http_fastopen.pcap") if ip.data.flags & 2 and ip.data.data]
    assert len(on_syn) == 2 and all(data.startswith(b"GET ") for data in on_syn)
