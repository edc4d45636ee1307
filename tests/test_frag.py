"""Reassembly of fragments: any cut, order and repetition against a byte-wise model, then bounds, time and abuse."""
import random
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mos.net.decode import CAUSES, Decoder
from packets import A6, B6, ICMP, TCP, UDP, A, B, ether, icmp, ip4, ip6, tcp, tcp4, udp

from mos.errors import UsageError
from mos.events import StreamData, on
from mos.nf import Chain
from mos.run import Engine, Settings

SECOND = 10**9


def frag4(whole, start, end, ident=1, proto=TCP, src=A, options=b""):
    return ip4(whole[start:end], proto, src, B, ident=ident, frag=start // 8 | 0x2000 * (end < len(whole)), options=options)


def frag6(whole, start, end, ident=1, proto=TCP, src=A6, before=b"", first=44):
    bits = start | (end < len(whole))
    return ip6(before + struct.pack("!BBHI", proto, 0, bits, ident) + whole[start:end], first, src, B6)


def feed(d, packets, ts=0):
    return [d.parse(ether(p), ts=ts) for p in packets]


def cuts(length, sizes):
    """(start, end) of pieces of these sizes, in units of 8 bytes."""
    edges = [0]
    for size in sizes:
        edges.append(min(edges[-1] + 8 * size, length))
    edges.append(length)
    return [(a, b) for a, b in zip(edges, edges[1:]) if a < b]


@given(st.binary(max_size=400), st.lists(st.integers(1, 9), min_size=1, max_size=40), st.booleans(), st.randoms())
@example(b"", [1, 1], False, random.Random(1))
def test_any_cut_in_any_order(payload, sizes, six, rnd):
    """Also where the TCP header itself is cut into pieces of 8 bytes."""
    whole = tcp(payload, src=A6 if six else A, dst=B6 if six else B)
    pieces = cuts(len(whole), sizes)
    rnd.shuffle(pieces)
    d = Decoder(checksum="verify")
    results = feed(d, [(frag6 if six else frag4)(whole, *piece) for piece in pieces])
    if len(pieces) > 1:
        assert [r["status"] for r in results[:-1]] == ["fragment"] * (len(pieces) - 1)
        assert results[-1]["reassembled"]
    last = results[-1]
    assert (last["status"], last["payload"], last["sport"], last["csum"]) == ("flow", payload, 1000, 0)
    headers = (40 if len(pieces) > 1 else 48) if six else 20        # one piece alone is passed on as it came (RFC 6946)
    assert last["ip_len"] == len(whole) + headers and last["ip"] == (0 if last["reassembled"] else 14)
    c = d.counters()
    assert (c["datagrams_waiting"], c["datagrams_bytes"]) == (0, 0)


class Model:
    """Bytes by offset, as RFC 791's bit table has them."""

    def __init__(self, policy):
        self.policy, self.got, self.end, self.dead = policy, {}, 0, ""

    def add(self, start, data, more):
        end = start + len(data)
        if self.dead:
            return self.dead
        if self.end and (end > self.end or (end != self.end and not more)) or (not more and self.got and max(self.got) >= end):
            self.dead = "fragment_length"
            return self.dead
        new = dict(enumerate(data, start))
        twice = new.keys() & self.got.keys()
        if twice and any(self.got.get(k) != v for k, v in new.items()) and self.policy == "drop":
            self.dead = "fragment_overlap"
            return self.dead
        self.got = self.got | new if self.policy == "last" else new | self.got
        self.end = self.end if more else end
        if self.end and len(self.got) == self.end:
            return bytes(self.got[k] for k in range(self.end))
        return "fragment"


PIECE = st.tuples(st.integers(0, 6), st.integers(1, 4), st.booleans(), st.integers(0, 2), st.integers(0, 7))


@given(st.lists(PIECE, min_size=1, max_size=12), st.sampled_from(["first", "last", "drop"]), st.booleans())
@settings(max_examples=400)
def test_overlaps_against_a_model(pieces, policy, six):
    """Pieces that contradict each other in bytes and in length. ICMP, so that any bytes are a flow's."""
    d = Decoder(overlap=policy)
    model = Model("drop" if six else policy)
    for start, size, more, filler, odd in pieces:
        data = bytes([filler]) * (8 * size - (0 if more else odd))
        packet = (ip6(struct.pack("!BBHI", 58, 0, 8 * start | more, 1) + data, 44) if six
                  else ip4(data, ICMP, frag=start | 0x2000 * more))
        if not start and not more:
            continue                    # not a fragment
        want = model.add(8 * start, data, more)
        r = d.parse(ether(packet))
        if isinstance(want, bytes):
            if len(want) < 8:
                assert CAUSES[r["cause"]] == "icmp_header"
            else:
                assert r["status"] == "flow" and r["payload"] == want[8:]
            return
        assert (r["status"] if not r["cause"] else CAUSES[r["cause"]]) == want


@pytest.mark.parametrize("policy", ["first", "last"])
@pytest.mark.parametrize("seed", range(4))
def test_many_pieces_far_apart_against_a_model(seed, policy):
    """Over all 64 KB, many of them in one stretch, some overlapping; then what is left, so that it becomes whole."""
    rng, d, model = random.Random(seed), Decoder(overlap=policy), Model(policy)
    places = [(8 * rng.choice([rng.randrange(8000), 5000 + rng.randrange(99)]), rng.choice([8, 8, 24, 800])) for _ in range(200)]
    places += [(0, 65008), (65008, 8)]
    for start, size in places:
        data = rng.randbytes(size)
        want = model.add(start, data, start < 65008)
        r = d.parse(ether(ip4(data, ICMP, frag=start // 8 | 0x2000 * (start < 65008))))
        assert isinstance(want, bytes) or r["status"] == want == "fragment"
    assert r["payload"] == want[8:] and d.counters()["datagrams_bytes"] == 0


def test_headers_of_the_first_fragment_are_kept():
    whole = tcp(b"x" * 30, src=A6, dst=B6)
    before = bytes([44, 0]) + b"\1\4" + bytes(4)        # destination options
    r = feed(Decoder(), [frag6(whole, 16, 50, before=before, first=60), frag6(whole, 0, 16, before=before, first=60)])[1]
    assert (r["status"], r["l4"], r["payload"]) == ("flow", 48, b"x" * 30)
    whole = tcp(b"x" * 30)
    r = feed(Decoder(), [frag4(whole, 16, 50), frag4(whole, 0, 16, options=b"\x94\4\0\0")])[1]
    assert (r["status"], r["l4"], r["payload"], r["ip_len"]) == ("flow", 24, b"x" * 30, 74)


def test_extension_headers_inside_the_fragmentable_part():
    whole = bytes([TCP, 0]) + b"\1\4" + bytes(4) + tcp(b"x" * 30, src=A6, dst=B6)
    r = feed(Decoder(checksum="verify"), [frag6(whole, 0, 32, proto=60), frag6(whole, 32, 58, proto=60)])[1]
    assert (r["status"], r["payload"], r["csum"]) == ("flow", b"x" * 30, 0)


@pytest.mark.parametrize("other", [dict(ident=2), dict(src="10.9.9.9"), dict(proto=UDP), dict(vlan=3)])
def test_fragments_of_others_are_not_mixed(other):
    whole = tcp(b"x" * 30)
    d = Decoder()
    vlan = other.pop("vlan", None)
    assert d.parse(ether(frag4(whole, 0, 24)))["status"] == "fragment"
    assert d.parse(ether(frag4(whole, 24, 50, **other), vlans=[vlan] if vlan else []))["status"] == "fragment"
    assert d.counters()["datagrams_waiting"] == 2
    assert d.parse(ether(frag4(whole, 24, 50)))["status"] == "flow"


def test_ip6_fragments_may_name_different_next_headers():
    """RFC 8200 4.5: that of the fragment at offset 0 counts."""
    whole = tcp(b"x" * 30, src=A6, dst=B6)
    r = feed(Decoder(), [frag6(whole, 24, 50, proto=UDP), frag6(whole, 0, 24)])[1]
    assert (r["status"], r["proto"]) == ("flow", TCP)


def test_duplicates_are_counted_and_harmless():
    whole = tcp(b"x" * 30)
    d = Decoder(overlap="drop")
    r = feed(d, [frag4(whole, 0, 24), frag4(whole, 0, 24), frag4(whole, 8, 16), frag4(whole, 24, 50)])
    assert [x["status"] for x in r] == ["fragment"] * 3 + ["flow"]
    assert d.counters()["fragments_duplicate"] == 2 and d.counters()["fragments"] == 4


@pytest.mark.parametrize("six, seconds", [(False, 30), (True, 60)])
def test_time_out(six, seconds):
    whole = tcp(b"x" * 30, src=A6 if six else A, dst=B6 if six else B)
    frag = frag6 if six else frag4
    for late, status in ((0, "flow"), (1, "fragment")):
        d = Decoder()
        feed(d, [frag(whole, 0, 24)], ts=5)
        assert feed(d, [frag(whole, 24, 50)], ts=5 + seconds * SECOND + late)[0]["status"] == status
        assert d.counters()["datagrams_timeout"] == late


def test_time_never_runs_backwards():
    whole = tcp(b"x" * 30)
    d = Decoder()
    feed(d, [frag4(whole, 0, 24, ident=1)], ts=100 * SECOND)
    feed(d, [frag4(whole, 0, 24, ident=2)], ts=0)
    assert feed(d, [frag4(whole, 24, 50, ident=2)], ts=100 * SECOND)[0]["status"] == "flow"


def test_oldest_datagram_makes_room():
    whole = tcp(b"x" * 30)
    d = Decoder(max_datagrams=3)
    feed(d, [frag4(whole, 0, 24, ident=i) for i in range(5)])
    c = d.counters()
    assert (c["datagrams_waiting"], c["datagrams_cap"]) == (3, 2)
    r = feed(d, [frag4(whole, 24, 50, ident=i) for i in (4, 3, 2)])
    assert [x["status"] for x in r] == ["flow"] * 3
    assert feed(d, [frag4(whole, 24, 50, ident=1)])[0]["status"] == "fragment"


def test_bytes_are_bounded():
    d = Decoder(max_fragment_bytes=1 << 17)
    whole = bytes(60000)
    for ident in range(50):
        feed(d, [frag4(whole, 0, 1400, ident=ident), frag6(whole, 1400, 2800, ident=ident)])
        assert d.counters()["datagrams_bytes"] <= 1 << 17
    assert d.counters()["datagrams_cap"] > 0
    for start in range(0, 1 << 15, 8):
        feed(d, [frag4(whole, start, start + 8, ident=77)])
        assert d.counters()["datagrams_bytes"] <= (1 << 17)


def test_fragments_of_one_datagram_are_bounded():
    d = Decoder(max_fragments=4)
    r = feed(d, [frag4(bytes(200), 16 * i, 16 * i + 8) for i in range(6)])
    assert [CAUSES[x["cause"]] for x in r] == ["none"] * 4 + ["fragment_cap"] * 2
    assert d.counters()["malformed_fragment_cap"] == 2 and d.counters()["datagrams_cap"] == 1


@pytest.mark.parametrize("packets", [
    [ip4(bytes(100), ICMP, frag=8186)],                                             # beyond 65,535 with its header
    [ip4(bytes(1448), ICMP, frag=8010 | 0x2000)],
    [ip4(bytes(16), ICMP, frag=0x2000 | 8), ip4(bytes(8), ICMP, frag=2)],           # the last one ends before others
    [ip4(bytes(8), ICMP, frag=2), ip4(bytes(8), ICMP, frag=3)],                     # two ends
    [ip4(bytes(36), ICMP, frag=0x2000), ip4(bytes(4), ICMP, frag=3)],               # no multiple of 8
    [ip4(b"", ICMP, frag=0x2000)], [ip6(struct.pack("!BBHI", 6, 0, 1, 9) + b"123", 44)]])
def test_lengths_that_cannot_be(packets):
    d = Decoder()
    r = feed(d, packets)
    assert "fragment_length" in [CAUSES[x["cause"]] for x in r]
    assert d.counters()["malformed_fragment_length"] == 1


def test_longest_datagram():
    whole = udp(bytes(65507), src=A, dst=B)
    d = Decoder(checksum="verify")
    r = feed(d, [frag4(whole, *piece, proto=UDP) for piece in cuts(len(whole), [185] * 50)])
    assert (r[-1]["status"], r[-1]["payload_len"], r[-1]["csum"]) == ("flow", 65507, 0)
    assert d.counters()["datagrams_waiting"] == 0
    long_header = feed(d, [frag4(whole, *piece, proto=UDP, options=b"\1" * 40) for piece in cuts(len(whole), [180] * 50)])
    assert CAUSES[long_header[-1]["cause"]] == "fragment_length"


def test_a_whole_datagram_is_kept_until_the_next_call():
    d = Decoder()
    feed(d, [frag4(tcp(b"x" * 30), 0, 24), frag4(tcp(b"x" * 30), 24, 50)])
    assert d.counters()["datagrams_held"] == 1
    d.parse(b"")
    assert d.counters()["datagrams_held"] == 0


def test_not_reassembled_on_request():
    d = Decoder(defrag=False)
    whole = tcp(b"x" * 30)
    assert [r["status"] for r in feed(d, [frag4(whole, 0, 24), frag4(whole, 24, 50)])] == ["fragment"] * 2
    assert d.counters()["fragments"] == 0


def test_cut_and_damaged_fragments_are_left_out():
    whole = tcp(b"x" * 30)
    d = Decoder(checksum="verify")
    frame = ether(frag4(whole, 0, 24))
    assert d.parse(frame[:-1], wirelen=len(frame))["status"] == "fragment"
    wrong = bytearray(frame)
    wrong[24] ^= 1
    assert d.parse(bytes(wrong))["status"] == "fragment"
    c = d.counters()
    assert (c["fragments_cut"], c["fragments_bad_checksum"], c["fragments"]) == (1, 1, 0)


@pytest.mark.parametrize("bounds", [dict(max_datagrams=0), dict(max_fragments=0), dict(max_fragment_bytes=1000),
                                    dict(overlap="linux"), dict(hash_key=b"short")])
def test_settings_are_checked(bounds):
    with pytest.raises(UsageError):
        Decoder(**bounds)


def test_other_payloads():
    echo, inner = icmp(8, payload=bytes(40)), tcp4(b"x")
    assert feed(Decoder(), [frag4(echo, 0, 24, proto=ICMP), frag4(echo, 24, 48, proto=ICMP)])[1]["proto"] == ICMP
    assert feed(Decoder(), [frag4(inner, 0, 24, proto=4), frag4(inner, 24, 41, proto=4)])[1]["payload"] == b"x"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 65535), st.binary(max_size=60), st.booleans(),
                          st.integers(0, 100)), max_size=40))
def test_noise(packets):
    d = Decoder(max_datagrams=3, max_fragments=5)
    for ident, bits, data, six, t in packets:
        packet = ip6(struct.pack("!BBHI", 6, 0, bits, ident) + data, 44) if six else ip4(data, TCP, ident=ident, frag=bits)
        assert d.parse(ether(packet), ts=t * SECOND)["status"] in ("flow", "malformed", "fragment")
    assert d.counters()["datagrams_waiting"] <= 3


@pytest.mark.parametrize("truth", ["tap", "inline"])
def test_inline_what_is_left_of_a_refused_datagram_does_not_pass(truth):
    """Its receiver might put together other bytes than we; none of it leaves before it is whole, so none does."""
    whole = udp(bytes(64))
    other = whole[:16] + b"XXXXXXXX" + whole[24:]
    frames = [ether(f) for f in (frag4(whole, 0, 32, proto=UDP), frag4(other, 16, 40, proto=UDP), frag4(whole, 32, 72, proto=UDP))]
    with Engine(Chain([on(StreamData)(lambda ev: None)]), Settings(truth=truth)) as engine:
        passed = [engine.feed(f, i) for i, f in enumerate(frames)]
    stats = engine.stats()
    assert passed == [truth == "tap"] * 3
    assert stats["packets_in"] == stats["forwarded"] + sum(stats["dropped"].values())
    assert stats["dropped"] == ({} if truth == "tap" else {"fragment": 3})
