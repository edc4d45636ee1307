"""The decode stage as a whole: any bytes on any link, its settings and counters, and tshark's reading of real captures."""
import collections
import struct
import subprocess

import pytest
from captures import frames, write
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mos.net.decode import CAUSES, Decoder
from packets import TCP, UDP, ether, ip4, ip6, tcp, tcp4, tcp6, udp

from mos.errors import UsageError

LINKS = [0, 1, 9, 12, 50, 51, 101, 104, 105, 108, 113, 119, 127, 163, 204, 228, 229, 276, 999]
SEEDS = [ether(tcp4(b"x" * 20, options=b"\1\1\x08\x0a" + bytes(8))), ether(tcp6(b"x")), ether(ip4(udp(b"x" * 20), UDP)),
         ether(ip6(bytes([6, 1]) + bytes(14) + tcp(), 60), vlans=[1, 2]), ether(ip4(tcp(b"x" * 40), frag=0x2000)),
         ether(ip4(b"\x20\0\x65\x58" + bytes(4) + ether(tcp4()), 47)),
         ether(ip4(udp(b"\x08\0\0\0\0\0\7\0" + ether(tcp4()), dport=4789), UDP))]


@st.composite
def damaged(draw):
    """A good frame with some bytes changed, and cut or prolonged."""
    frame = bytearray(draw(st.sampled_from(SEEDS)))
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(frame) - 1), st.integers(0, 255)), max_size=6)):
        frame[at] = value
    return bytes(frame[:draw(st.integers(0, len(frame)))]) + draw(st.binary(max_size=8))


def check(d, frame, linktype, wirelen):
    """One status, and nothing points outside of the frame or the reassembled datagram."""
    before = d.counters()
    r = d.parse(frame, linktype, wirelen=wirelen)
    after = d.counters()
    grown = [s for s in ("flow", "other", "malformed", "fragment") if after[s] != before[s]]
    assert grown == [r["status"]] and after["packets"] == before["packets"] + 1
    assert (r["cause"] != 0) == (r["status"] == "malformed") and r["cause"] < len(CAUSES)
    if r["status"] == "flow":
        size = r["ip_len"] if r["reassembled"] else len(frame)
        assert 0 <= r["ip"] and r["ip"] + r["l4"] + (20 if r["proto"] == TCP else 8) <= size
        assert r["ip"] + r["l4"] < r["ip"] + r["payload_at"] and r["ip"] + r["payload_at"] + len(r["payload"]) <= size
        assert len(r["payload"]) <= r["payload_len"]
        assert r["cut"] or len(r["payload"]) == r["payload_len"]
        assert len(r["key"]) == 44 and r["ipver"] in (4, 6)


@settings(max_examples=600)
@given(st.binary(max_size=9000) | damaged(), st.sampled_from(LINKS), st.none() | st.integers(0, 2**32 - 1),
       st.sampled_from(["off", "verify", "auto"]))
@example(b"", 1, None, "off")
@example(b"", 101, 2**32 - 1, "verify")
def test_any_bytes_on_any_link(frame, linktype, wirelen, checksum):
    check(Decoder(checksum=checksum), frame, linktype, wirelen)


@settings(max_examples=100)
@given(st.lists(damaged(), max_size=30))
def test_any_sequence_of_frames(sequence):
    d = Decoder(checksum="verify", max_datagrams=2)
    for frame in sequence:
        check(d, frame, 1, None)


def test_result_does_not_depend_on_what_came_before():
    d = Decoder()
    want = Decoder().parse(SEEDS[2])
    for seed in SEEDS:
        d.parse(seed)
        assert d.parse(SEEDS[2]) == want


@pytest.mark.parametrize("key", [bytes(16), bytes(range(16))])
def test_hash_key_changes_nothing_that_is_seen(key):
    d = Decoder(hash_key=key)
    assert [d.parse(s).get("domain") for s in SEEDS] == [0, 0, 0, 1, None, 2, 3]


@pytest.mark.parametrize("wrong", [dict(checksum="yes"), dict(tunnels=["x"]), dict(hash_key=b"")])
def test_settings_are_checked(wrong):
    with pytest.raises(UsageError):
        Decoder(**wrong)


FIELDS = ("frame.protocols", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport",
          "tcp.seq_raw", "tcp.ack_raw", "tcp.flags", "tcp.len")

# Frames where tshark shows a TCP segment and we refuse the frame, by why:
#   ip_length   IP claims more bytes than the frame had on the wire. Hosts drop that; tshark dissects what is there.
#   ip_options  an option list that ends inside an option. Hosts drop that too.
#   tcp_header  a data offset below 5 or beyond the segment.
REFUSED = {("malformed__ndpi__fuzz-2006-06-26-2594.pcap", "ip_length"): 3,
           ("malformed__ndpi__fuzz-2006-06-26-2594.pcap", "ip_options"): 1,
           ("malformed__ndpi__tls_invalid_reads.pcapng", "ip_length"): 1,
           ("malformed__pcpp__tcp-malformed.pcap", "tcp_header"): 2,
           ("malformed__suri__transform-base64-7296.input.pcap", "tcp_header"): 2,
           ("malformed__zeek__fuzz-72.pcap", "ip_length"): 2,
           ("overlap__ndpi__reasm_crash_anon.pcapng", "ip_length"): 9,
           ("overlap__ndpi__reasm_crash_anon.pcapng", "tcp_header"): 1,
           ("urg__suri__telnet-01.telnet.pcap", "ip_length"): 5}
# A security option of 2 bytes instead of 11: tshark gives up on the packet, hosts skip options that they do not know.
OURS_ALONE = {("malformed__suri__tcp-session-decode-malformed-ipv4.input.pcap", 8)}


def tshark_segments(tshark, path):
    """By frame: the innermost TCP layer as tshark has it, None if there is none but what an ICMP error quotes."""
    command = [tshark, "-r", str(path), "-o", "tcp.desegment_tcp_streams:FALSE", "-T", "fields", "-E", "occurrence=l"]
    out = subprocess.run(command + [x for f in FIELDS for x in ("-e", f)], capture_output=True, text=True).stdout
    for line in out.splitlines():
        row = dict(zip(FIELDS, line.split("\t")))
        layers = row["frame.protocols"].split(":")
        if "tcp" not in layers or "icmp" in layers or "icmpv6" in layers:
            yield None
            continue
        below = layers[:len(layers) - 1 - layers[::-1].index("tcp")]
        ip = [x for x in below if x in ("ip", "ipv6")][-1]
        numbers = [int(row[f] or "0", 0) for f in FIELDS[5:]]
        numbers[4] &= 0xff
        yield (row[f"{ip}.src"], row[f"{ip}.dst"], *numbers)


def our_segment(d, f):
    r = d.parse(f.data, f.linktype, f.ts, f.wirelen)
    if r["status"] == "flow" and r["proto"] == TCP:
        return (r["src"], r["dst"], r["sport"], r["dport"], r["seq"], r["ack"], r["tcp_flags"], r["payload_len"])
    return CAUSES[r["cause"]] if r["status"] == "malformed" else None


def test_same_segments_as_tshark(corpora, tshark, tmp_path):
    names, everything, ours = [], [], []
    for path in sorted(corpora.glob("*.pcap*")):
        d = Decoder()
        for f in frames(path):
            names.append((path.name, f.number))
            everything.append(f)
            ours.append(our_segment(d, f))
    write(tmp_path / "all.pcapng", everything)
    theirs = list(tshark_segments(tshark, tmp_path / "all.pcapng"))
    assert len(theirs) == len(names)
    refused, differ = collections.Counter(), []
    for name, we, they in zip(names, ours, theirs):
        if isinstance(we, str):
            refused[name[0], we] += they is not None
        elif we != they and name not in OURS_ALONE:
            differ.append((name, we, they))
    assert not differ
    assert +refused == REFUSED
    assert sum(isinstance(x, tuple) for x in ours) > 8000


def test_hostile_captures(corpora):
    seen = 0
    for path in sorted((corpora / "hostile").glob("*")):
        d = Decoder(checksum="verify")
        try:
            for f in frames(path):
                check(d, f.data, f.linktype, f.wirelen)
                seen += 1
        except (IndexError, struct.error):
            pass                        # the files are damaged themselves: that is the reader's matter
    assert seen > 1000
