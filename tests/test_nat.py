"""The NAT: what RFC 4787, 5382 and 5508 ask of it, with dpkt's word on addresses and checksums."""
import socket

import dpkt
import pytest

from mbox.nat import Nat
from mos import RESET, UsageError
from mos.events import FlowEnd, FlowStart, StreamData, on
from mos.testing import icmp_echo, merge, run, tcp, udp

OUTSIDE = "192.0.2.1"


def name(frame):
    """(source, port, destination, port) of a frame; an echo's identifier stands for both ports. Its checksums are right."""
    ip = dpkt.ethernet.Ethernet(frame).data
    src, dst = (socket.inet_ntoa(a) for a in (ip.src, ip.dst))
    sums = ip.sum, ip.data.sum
    ip.sum = ip.data.sum = 0
    again = dpkt.ip.IP(bytes(ip))
    assert (again.sum, again.data.sum) == sums
    if isinstance(ip.data, dpkt.icmp.ICMP):
        return src, ip.data.data.id, dst, ip.data.data.id
    return src, ip.data.sport, dst, ip.data.dport


def names(result):
    return [name(frame) for _, frame in result.out]


def through(*conversations, settings=None, **options):
    return run(Nat(**{"external": OUTSIDE} | options), merge(*conversations), **(settings or {}))


def reasons(result):
    return [v.reason for v in result.verdicts if v.reason]


def held(result):
    return sum(result.value(pool) for pool in result.engine.chain.nfs[0].pools.values())


def test_one_flow_with_two_names_both_ways():
    result = through(tcp("10.0.0.1:1234", "8.8.8.8:80").send(b"ask").reply(b"answer").close())
    assert set(names(result)) == {(OUTSIDE, 1234, "8.8.8.8", 80), ("8.8.8.8", 80, "10.0.0.1", 1234)}
    assert names(result)[:2] == [(OUTSIDE, 1234, "8.8.8.8", 80), ("8.8.8.8", 80, "10.0.0.1", 1234)]
    assert len(result.of(FlowStart)) == len(result.of(FlowEnd)) == 1
    assert result.of(FlowEnd)[0].reason == "fin" and result.of(FlowEnd)[0].client == OUTSIDE
    assert held(result) == 0


def test_a_recorded_download_keeps_its_bytes():
    plain, behind = (run(chain, "pcaps/http_two.pcap") for chain in ([], Nat(external=OUTSIDE, inside="10.77.0.1/32")))
    frames = [[dpkt.ethernet.Ethernet(frame).data for _, frame in r.out] for r in (plain, behind)]
    packets = [[ip for ip in ips if isinstance(ip, dpkt.ip.IP)] for ips in frames]
    assert [bytes(ip.data.data) for ip in packets[0]] == [bytes(ip.data.data) for ip in packets[1]]
    assert {socket.inet_ntoa(ip.src) for ip in packets[1]} == {OUTSIDE, "10.77.0.2"}


def test_a_mapping_is_the_inside_ends_alone():
    flows = [udp("10.0.0.1:5000", f"8.8.8.{n}:{n}").send(b"q") for n in range(1, 4)]
    assert {n[:2] for n in names(through(*flows))} == {(OUTSIDE, 5000)}


def test_a_taken_port_gives_another_of_its_parity_for_udp():
    flows = [udp(f"10.0.0.{n}:5001", "8.8.8.8:53").send(b"q") for n in range(1, 9)]
    ports = [n[1] for n in names(through(*flows))]
    assert ports[0] == 5001 and len(set(ports)) == 8 and all(p % 2 for p in ports)


def test_a_host_keeps_its_external_address():
    flows = [tcp(f"10.0.0.{host}:{port}", "8.8.8.8:80") for host in range(4) for port in (2000, 3000)]
    pairs = {(n[0], n[1]) for n in names(through(*flows, external=f"{OUTSIDE},192.0.2.2")) if n[2] == "8.8.8.8"}
    assert pairs >= {(OUTSIDE, 2000), ("192.0.2.2", 2000)} and {a for a, _ in pairs} == {OUTSIDE, "192.0.2.2"}


def test_without_a_free_port_the_flow_is_dropped_until_one_ends():
    first = [tcp(f"10.0.0.{n}:1000", "8.8.8.8:80").send(b"q").close() for n in (1, 2)]
    late = tcp("10.0.0.3:1000", "8.8.8.8:80", start_ns=1_700_000_000_001_000_000)
    after = tcp("10.0.0.4:1000", "8.8.8.8:80", start_ns=1_700_000_300_000_000_000).send(b"q")
    result = through(*first, late, after, ports="2000-2001")
    assert reasons(result) == ["no free port"]
    assert "10.0.0.3" not in {n[2] for n in names(result)} and "10.0.0.4" in {n[2] for n in names(result)}
    assert result.value(result.engine.chain.nfs[0].refused) == {"no free port": 1}
    assert held(result) == 0


def test_echoes_are_told_apart_by_identifier():
    pings = [icmp_echo(f"10.0.0.{n}", "8.8.8.8", ident=7777, count=2) for n in (1, 2)]
    result = through(*pings)
    out = [n for n in names(result) if n[0] == OUTSIDE]
    assert len({n[1] for n in out}) == 2 and 7777 in {n[1] for n in out}
    assert sorted(n[2] for n in names(result) if n[0] == "8.8.8.8") == ["10.0.0.1"] * 2 + ["10.0.0.2"] * 2
    assert held(result) == 0


def mapped(peer="8.8.8.8:53"):
    return udp("10.0.0.1:5000", peer).send(b"q")


def later(client, server):
    return udp(client, server, start_ns=1_700_000_001_000_000_000).send(b"in").reply(b"out")


def test_anybody_may_open_a_flow_to_a_mapping():
    result = through(mapped(), later("203.0.113.9:9", f"{OUTSIDE}:5000"))
    assert names(result)[1:] == [("203.0.113.9", 9, "10.0.0.1", 5000), (OUTSIDE, 5000, "203.0.113.9", 9)]


def test_filtered_by_address_only_peers_may():
    result = through(mapped(), later("203.0.113.9:9", f"{OUTSIDE}:5000"), later("8.8.8.8:99", f"{OUTSIDE}:5000"),
                     filtering="address-dependent")
    assert reasons(result) == ["filtered"]
    assert ("8.8.8.8", 99, "10.0.0.1", 5000) in names(result)


def test_hosts_inside_meet_by_their_external_names():
    result = through(mapped(), later("10.0.0.2:6000", f"{OUTSIDE}:5000"))
    assert names(result)[1:] == [(OUTSIDE, 6000, "10.0.0.1", 5000), (OUTSIDE, 5000, "10.0.0.2", 6000)]
    assert held(result) == 0


def test_nothing_leaves_untranslated():
    strays = [later("203.0.113.9:9", f"{OUTSIDE}:5000"), later("203.0.113.9:9", "10.0.0.1:5000"),
              tcp("10.0.0.1:1", "8.8.8.8:80", handshake=False).rst("client"),
              icmp_echo("203.0.113.9", OUTSIDE), udp("10.0.0.7:1", "8.8.8.8:2").send(b"x" * 3000).fragment(1, 1480)]
    result = through(*strays)
    assert result.out == []


def test_a_wrong_checksum_is_translated_with_its_flow_or_dropped():
    talk = tcp("10.0.0.1:1234", "8.8.8.8:80").send(b"q").reply(b"a").corrupt([1, 6])
    result = through(talk, settings={"checksum": "verify"})
    assert not any(b"\x0a\x00\x00\x01" == frame[26:30] for _, frame in result.out)
    bad = [frame for _, frame in result.out if frame[26:30] == b"\x08\x08\x08\x08"]
    assert all(frame[30:34] == b"\x0a\x00\x00\x01" for frame in bad)


def test_others_traffic_and_ipv6_pass():
    flows = [tcp("198.51.100.1:1", "8.8.8.8:80").send(b"q"), tcp("10.0.0.1:1", "10.0.0.2:80").send(b"q"),
             tcp("[fd00::1]:1", "[fd00::2]:80").send(b"q")]
    assert through(*flows).out == merge(*flows).packets


def test_an_attacker_cannot_occupy_a_name():
    before = udp("8.8.8.8:53", f"{OUTSIDE}:5000").send(b"first")
    ask = udp("10.0.0.1:5000", "8.8.8.8:53", start_ns=1_700_000_001_000_000_000).send(b"q").reply(b"a")
    result = through(before, ask)
    assert names(result) == [(OUTSIDE, 5000, "8.8.8.8", 53), ("8.8.8.8", 53, "10.0.0.1", 5000)]
    assert reasons(result) == ["no mapping"] and held(result) == 0


def test_a_name_in_use_is_not_taken_over():
    inside = udp("10.0.0.1:5000", "198.51.100.1:53", start_ns=1_700_000_001_000_000_000).send(b"q")
    other = udp("192.0.2.1:5000", "198.51.100.1:53").send(b"mine")      # the box's own traffic passes by
    result = through(other, inside)
    assert reasons(result)[-1] == "another flow has the new name" and len(result.out) == 1


def test_a_reset_behind_the_nat_has_each_sides_names():
    @on(StreamData)
    def end(ev):
        return RESET("enough")

    result = run([Nat(external=OUTSIDE), end], tcp("10.0.0.1:1234", "8.8.8.8:80").send(b"q", ack=False))
    assert set(names(result)[-2:]) == {(OUTSIDE, 1234, "8.8.8.8", 80), ("8.8.8.8", 80, "10.0.0.1", 1234)}


@pytest.mark.parametrize("options, said", [
    ({}, "needs the option 'external'"), ({"external": "192.0.2.x"}, "192.0.2.x"), ({"external": []}, "1 to 64"),
    ({"external": OUTSIDE, "ports": "9"}, "such as 1024-65535"), ({"external": OUTSIDE, "ports": "9-70000"}, "range"),
    ({"external": OUTSIDE, "filtering": "none"}, "choose endpoint-independent"),
    ({"external": OUTSIDE, "inside": "10.0.0.1/8"}, "host bits")])
def test_wrong_options_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        Nat(**options)
