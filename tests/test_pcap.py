"""The capture reader: both formats, byte by byte; damage; the corpora where they are at hand."""
import json
import os
import pathlib
import random
import struct

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mos.io.pcap import Source

from mos.errors import CaptureError
from mos.io.source import open_source

CORPORA = pathlib.Path(os.environ.get("MOS_CORPORA") or pathlib.Path(__file__).parents[1] / ".." / "shared" / "corpora")
corpora = pytest.mark.skipif(not (CORPORA / "index.json").exists(),
                             reason=f"no captures at {CORPORA}: set MOS_CORPORA to their directory")


def classic(packets, order="<", magic=0xA1B2C3D4, version=(2, 4), network=1, extra=b"", snaplen=65535):
    """A pcap of (seconds, fraction, data, wirelen)."""
    out = struct.pack(order + "IHHiIII", magic, *version, 0, 0, snaplen, network)
    for sec, frac, data, wire in packets:
        out += struct.pack(order + "IIII", sec, frac, len(data), wire) + extra + data
    return out


def block(kind, body, order="<"):
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def option(code, value, order="<"):
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order="<", options=b"", version=(1, 0)):
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, *version, -1) + options, order)


def interface(linktype=1, snaplen=0, options=b"", order="<"):
    return block(1, struct.pack(order + "HHI", linktype, 0, snaplen) + options, order)


def enhanced(data, ts=0, iface=0, wire=None, options=b"", order="<"):
    wire = len(data) if wire is None else wire
    head = struct.pack(order + "IIIII", iface, ts >> 32, ts & 0xFFFFFFFF, len(data), wire)
    return block(6, head + data + bytes(-len(data) % 4) + options, order)


def read(data):
    """(records, error text or None) by the streaming buffer; the same must come out of a mapping: see `mapped`."""
    try:
        source = open_source(data)
    except CaptureError as e:
        return [], str(e)
    records = []
    try:
        for record in source:
            records.append(record)
    except CaptureError as e:
        assert e.packets == len(records) and source.error == str(e) and "\n" not in str(e)
        return records, str(e)
    assert source.error is None
    return records, None


def mapped(path, data):
    path.write_bytes(data)
    try:
        with open_source(path) as source:
            return list(source), None
    except CaptureError as e:
        return e.packets, str(e)


PACKETS = [(1700000000, 123456, b"first frame", 11), (1700000001, 999999, b"", 1500), (0xFFFFFFFF, 0, bytes(300), 300)]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("magic,unit,extra",
                         [(0xA1B2C3D4, 1000, b""), (0xA1B23C4D, 1, b""), (0xA1B2CD34, 1000, bytes(8))])
def test_classic(order, magic, unit, extra, tmp_path):
    data = classic(PACKETS, order, magic, extra=extra, network=101)
    records, error = read(data)
    assert error is None
    assert [tuple(r) for r in records] == [(i, sec * 10**9 + frac * unit, frame, wire, 101, 0)
                                           for i, (sec, frac, frame, wire) in enumerate(PACKETS, 1)]
    assert mapped(tmp_path / "x", data) == (records, None)


def test_fcs_bits_are_no_link_type():
    source = open_source(classic(PACKETS, network=0x54000001))
    assert source.linktypes == {0: 1} and not source.nanosecond
    assert open_source(classic([], magic=0xA1B23C4D)).nanosecond


@pytest.mark.parametrize("version,swapped", [((2, 2), True), ((2, 3), True), ((543, 0), True),
                                             ((2, 3), False), ((2, 4), False)])
def test_old_files_have_the_lengths_the_other_way_round(version, swapped):
    lengths = (1500, 4) if swapped else (4, 1500)
    data = classic([], version=version) + struct.pack("<IIII", 1, 2, *lengths) + b"abcd"
    records, error = read(data)
    assert error is None and [(r.data, r.wirelen) for r in records] == [(b"abcd", 1500)]


@pytest.mark.parametrize("version", [(1, 4), (3, 0), (0, 0)])
def test_unsupported_version(version):
    records, error = read(classic(PACKETS, version=version))
    assert not records and f"version {version[0]}.{version[1]}" in error
    assert "version 2.0" in read(section(version=(2, 0)))[1]


def test_absurd_length_is_damage_and_says_where():
    data = classic(PACKETS[:1])
    for length in (262145, 0xFFFFFFFF):
        records, error = read(data + struct.pack("<IIII", 0, 0, length, length) + bytes(40))
        assert len(records) == 1 and f"byte {len(data)}" in error and str(length) in error
    assert read(classic([(0, 0, bytes(262144), 262144)]))[1] is None
    assert read(classic([(0, 0, bytes(300000), 300000)], network=249))[1] is None      # USBPcap has longer ones


@pytest.mark.parametrize("order", "<>")
def test_pcapng_interfaces_and_resolutions(order, tmp_path):
    o = order
    seconds = struct.pack(o + "q", -5)
    ifaces = [(b"", 10**3), (option(9, b"\x09", o), 1), (option(9, b"\x0c", o), None), (option(9, b"\x8a", o), None),
              (option(2, b"eth0", o) + option(9, b"\x00", o) + option(14, seconds, o) + option(0, b"", o), None)]
    data = section(o)
    for i, (options, _) in enumerate(ifaces):
        data += interface(i, options=options, order=o)
    ts = 0x1_0000_0005
    for i in range(len(ifaces)):
        data += enhanced(b"x" * (i + 1), ts, i, order=o) + block(0xBAD, b"unknown", o)
    records, error = read(data)
    assert error is None
    assert [r.ts for r in records] == [ts * 1000, ts, ts // 1000, ts * 10**9 // 1024, (ts - 5) * 10**9]
    assert [(r.iface, r.linktype, r.data) for r in records] == [(i, i, b"x" * (i + 1)) for i in range(len(ifaces))]
    source = open_source(data)
    assert source.linktypes == dict(enumerate(range(5))) and source.nanosecond and source.format == "pcapng"
    assert source.interfaces[4].name == "eth0" and source.interfaces[4].tsoffset == -5
    assert mapped(tmp_path / "x", data) == (records, None)


@given(st.integers(0, 2**64 - 1), st.integers(0, 19) | st.integers(128, 128 + 63), st.integers(-2**63, 2**63 - 1))
def test_time_stamps_are_exact_or_clamped(ts, resolution, offset):
    units = 2 ** (resolution & 127) if resolution & 128 else 10 ** resolution
    expected = ts * 10**9 // units + offset * 10**9
    options = option(9, bytes([resolution])) + option(14, struct.pack("<q", offset))
    records, _ = read(section() + interface(options=options) + enhanced(b"", ts))
    assert records[0].ts == max(-2**62, min(2**62, expected))


@pytest.mark.parametrize("resolution", [20, 127, 128 + 64, 255])
def test_impossible_resolution(resolution):
    records, error = read(section() + interface(options=option(9, bytes([resolution]))) + enhanced(b""))
    assert not records and "finer" in error


def test_sections_have_their_own_order_and_interfaces():
    data = section("<") + interface(1) + enhanced(b"a", 7) + section(">") + interface(101, order=">")
    data += interface(228, options=option(9, b"\x09", ">"), order=">") + enhanced(b"b", 8, 1, order=">")
    records, error = read(data)
    assert error is None and [(r.ts, r.iface, r.linktype) for r in records] == [(7000, 0, 1), (8, 2, 228)]
    records, error = read(data + enhanced(b"c", 8, 2, order=">"))       # a third one is not of this section
    assert len(records) == 2 and "interface 2" in error


def test_simple_and_obsolete_packet_blocks():
    old = struct.pack("<HHIIII", 0, 9, 0, 5, 3, 60) + b"old\0"
    data = section() + interface(1, snaplen=6) + block(3, struct.pack("<I", 4) + b"four") + block(2, old)
    records, error = read(data + block(3, struct.pack("<I", 1500) + b"sixsix"))
    assert error is None
    assert [(r.ts, r.data, r.wirelen) for r in records] == [(0, b"four", 4), (5000, b"old", 60),
                                                            (5000, b"sixsix", 1500)]
    assert "at most" in read(data + block(3, struct.pack("<I", 5) + b"four"))[1]


@pytest.mark.parametrize("bad", [
    section(options=b"\1\0\xff\xff"), interface(options=option(2, b"x")[:-4]), block(1, b""), block(6, bytes(16)),
    block(6, struct.pack("<IIIII", 0, 0, 0, 9, 9) + bytes(8)), block(6, struct.pack("<IIIII", 0, 0, 0, 0xFFFFFFFF, 9)),
    enhanced(b"", iface=1), enhanced(b"", options=b"\1\0\5\0abcd"), block(5, b""), enhanced(b"abc")[:-1] + b"\7",
    struct.pack("<II", 6, 8) + bytes(24), struct.pack("<II", 6, 0xFFFFFFFF) + bytes(24),
    struct.pack("<III", 0x0A0D0D0A, 28, 0x1A2B3C4E) + bytes(20), block(3, struct.pack("<I", 300000) + bytes(300000)),
], ids=lambda bad: f"{bad[:8].hex()}_{len(bad)}")
def test_damaged_blocks(bad):
    good = section() + interface() + enhanced(b"good", 1)
    records, error = read(good + bad + enhanced(b"after", 2))
    assert [r.data for r in records] == [b"good"] and f"byte {len(good)}" in error


def test_too_many_interfaces():
    records, error = read(section() + interface() * 65536 + enhanced(b"x", iface=65535))
    assert error is None and records[0].iface == 65535
    assert "65536" in read(section() + interface() * 65537)[1]


SMALL = {
    "pcap": classic(PACKETS[:2] + [(1, 2, b"tail", 4)]),
    "kuznetzov": classic(PACKETS[:2], ">", 0xA1B2CD34, extra=bytes(8)),
    "pcapng": section(options=option(4, b"test") + option(0, b""))
    + interface(options=option(9, b"\x06") + option(2, b"lo"))
    + enhanced(b"one", 1, options=option(1, b"comment"))
    + block(5, bytes(12)) + block(3, struct.pack("<I", 3) + b"two")
    + section(">") + interface(order=">") + enhanced(b"three", 3, order=">") + block(4, bytes(4), ">"),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_delivers_the_prefix(name, tmp_path):
    data = SMALL[name]
    whole, error = read(data)
    assert error is None
    ends = set()
    path = tmp_path / "x"
    for n in range(len(data)):
        records, error = read(data[:n])
        assert records == whole[:len(records)]
        if error is None:
            ends.add(n)
            assert mapped(path, data[:n]) == (records, None)
        else:
            assert mapped(path, data[:n]) == (len(records), error.replace("capture", str(path), 1))
    assert len(ends) >= len(whole) and min(ends) >= 24


@settings(max_examples=400)
@given(st.sampled_from(sorted(SMALL)),
       st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes(name, flips):
    data = bytearray(SMALL[name])
    for where, value in flips:
        data[where % len(data)] = value
    records, error = read(bytes(data))
    assert sum(len(r.data) for r in records) <= len(data)
    assert [r.number for r in records] == list(range(1, len(records) + 1))


def test_small_pieces_make_no_difference():
    class Dribble:
        def __init__(self, data, seed):
            self.data, self.random = data, random.Random(seed)

        def readinto(self, view):
            n = min(len(view), self.random.randint(1, 40), len(self.data))
            view[:n], self.data = self.data[:n], self.data[n:]
            return n

    for data in SMALL.values():
        for seed in range(5):
            assert list(Source(reader=Dribble(data, seed))) == read(data)[0]


def test_a_block_longer_than_the_buffer():
    data = section() + interface() + block(0xBAD, bytes(3 << 20)) + enhanced(b"behind it")
    assert [r.data for r in read(data)[0]] == [b"behind it"]
    claimed = section() + interface() + struct.pack("<II", 0xBAD, 100 << 20)
    assert "cut short" in read(claimed)[1]


@pytest.mark.parametrize("result", [-1, 10**9, None, "x"])
def test_a_reader_that_lies(result):
    class Liar:
        def readinto(self, view):
            return result
    with pytest.raises(CaptureError):
        Source(reader=Liar())


def test_a_reader_that_raises():
    class Breaks:
        left = [classic(PACKETS), None]

        def readinto(self, view):
            data = self.left.pop(0)
            if data is None:
                raise KeyboardInterrupt
            view[:len(data)] = data
            return len(data)
    records = []
    with pytest.raises(KeyboardInterrupt):
        for record in Source(reader=Breaks()):
            records.append(record)
    assert len(records) == 3


def test_position_size_and_close(tmp_path):
    path = tmp_path / "x.pcap"
    path.write_bytes(SMALL["pcap"])
    source = open_source(path)
    assert (source.size, source.position, source.packets) == (len(SMALL["pcap"]), 24, 0)
    assert len(list(source)) == 3 and (source.position, source.packets) == (source.size, 3)
    assert list(source) == []
    source.close()
    source.close()
    assert list(source) == [] and source.error is None and source.linktypes == {0: 1}


def walk(path):
    records = []
    try:
        with open_source(path) as source:
            for record in source:
                records.append(record)
    except CaptureError as e:
        assert e.packets == len(records)
        return records, str(e)
    return records, None


@corpora
def test_corpus_agrees_with_tshark():
    for row in json.loads((CORPORA / "index.json").read_text())["files"]:
        oracle = json.loads((CORPORA / row["oracle"]).read_text())
        records, error = walk(CORPORA / row["file"])
        assert (len(records), bool(error)) == (oracle["frames"], oracle["read_rc"] != 0), (row["file"], error)
        if oracle["last_time"] is not None:
            assert records[0].ts / 1e9 == pytest.approx(oracle["first_time"], abs=2e-6), row["file"]
            assert records[-1].ts / 1e9 == pytest.approx(min(oracle["last_time"], 2**62 / 1e9), abs=2e-6), row["file"]


@corpora
def test_hostile_corpus_agrees_with_capinfos():
    for row in json.loads((CORPORA / "hostile/index.json").read_text())["files"]:
        records, error = walk(CORPORA / row["file"])
        if row.get("either"):
            continue
        assert bool(error) == (row["capinfos_rc"] != 0), (row["file"], error, row["capinfos_error"])
        if row["capinfos_packets"] is not None:
            assert len(records) in (row["capinfos_packets"], *row.get("packets_also", ())), row["file"]


@corpora
def test_corpus_frames_and_times_agree_with_dpkt():
    compared = 0
    for row in json.loads((CORPORA / "index.json").read_text())["files"]:
        if row["class"] in ("format", "malformed"):        # dpkt knows one section and the common variants
            continue
        with open(CORPORA / row["file"], "rb") as file:
            theirs = [(round(float(ts) * 10**6), data) for ts, data in dpkt.pcap.UniversalReader(file)]
        source = open_source(CORPORA / row["file"])
        ours = [((r.ts + 500) // 1000, r.data) for r in source]
        assert [d for _, d in ours] == [d for _, d in theirs], row["file"]
        if len({i.tsresol for i in source.interfaces}) == 1:    # it gives all the first one's resolution
            assert all(abs(a[0] - b[0]) <= 1 for a, b in zip(ours, theirs)), row["file"]
        compared += len(ours)
    assert compared > 1000
