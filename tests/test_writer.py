"""The capture writer: what it writes, our reader, dpkt and Wireshark's tools read back."""
import errno
import os
import shutil
import subprocess
import sys

import dpkt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mos.io.writer import Writer

from mos.errors import MosError, UsageError
from mos.io.source import open_source

LAST = 0xFFFFFFFF * 10**9 + 999_999_999     # what a pcap's 32 bits of seconds can say


def write(path, packets, **options):
    with Writer(path, **options) as writer:
        for ts, data, wirelen, linktype, iface in packets:
            writer.put_packet(ts, data, wirelen, linktype, iface)
        assert writer.packets == len(packets)


def read(path):
    with open_source(path) as source:
        return [(r.ts, r.data, r.wirelen, r.linktype) for r in source]


packets = st.lists(st.tuples(st.integers(0, LAST), st.binary(max_size=100), st.integers(0, 2**32 - 1),
                             st.integers(0, 65535), st.integers(0, 65535)), max_size=20)
anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@anywhere
@given(packets)
def test_pcapng_round_trip(tmp_path, made):
    path = tmp_path / "x.pcapng"
    write(path, made)
    if not made:
        assert path.stat().st_size == 28
    assert read(path) == [p[:4] for p in made]
    pairs = dict.fromkeys((iface, linktype) for *_, linktype, iface in made)
    source = open_source(path)
    assert [r.iface for r in source] == [list(pairs).index((iface, linktype)) for *_, linktype, iface in made]
    assert len(source.interfaces) == len(pairs) and all(i.tsresol == 9 for i in source.interfaces)


@anywhere
@given(packets, st.integers(0, 65535), st.booleans())
def test_pcap_round_trip(tmp_path, made, linktype, nanosecond):
    path = tmp_path / "x.dump"
    made = [(ts, data, wire, linktype, iface) for ts, data, wire, _, iface in made]
    write(path, made, nanosecond=nanosecond, linktype=linktype)
    unit = 1 if nanosecond else 1000
    assert read(path) == [(p[0] // unit * unit, *p[1:4]) for p in made]
    assert open_source(path).linktypes == {0: linktype} and open_source(path).nanosecond == nanosecond


def test_larger_than_the_buffer(tmp_path):
    made = [(i, bytes([i & 255]) * (i * 97 % 5000), 9000, 1, i % 3) for i in range(2000)]
    made.append((1, bytes(3 << 20), 3 << 20, 249, 0))
    write(tmp_path / "x.pcapng", made)
    assert read(tmp_path / "x.pcapng") == [p[:4] for p in made]


@pytest.mark.parametrize("name", ["x.pcap", "x.pcapng"])
def test_frames_are_cut_and_times_clamped_to_what_readers_take(name, tmp_path):
    write(tmp_path / name, [(-5, bytes(300_000), 300_000, 1, 0), (2**62, b"", 0, 1, 0)])
    first, second = read(tmp_path / name)
    assert first == (0, bytes(262144), 300_000, 1)
    assert second[0] == (LAST if name == "x.pcap" else 2**62)


def test_dpkt_reads_it(tmp_path):
    made = [(1700000000_000001000 + i * 10**9, bytes(range(i)), i, 1, 0) for i in range(60)]
    for name in "x.pcap", "x.pcapng":
        write(tmp_path / name, made)
        with open(tmp_path / name, "rb") as file:
            theirs = [(round(float(ts) * 10**6) * 1000, data) for ts, data in dpkt.pcap.UniversalReader(file)]
        assert theirs == [p[:2] for p in made]


@pytest.mark.skipif(not shutil.which("capinfos"), reason="capinfos (Wireshark) is not installed")
def test_capinfos_reads_it(tmp_path):
    for name in "x.pcap", "y.pcapng", "empty.pcap", "empty.pcapng":
        write(tmp_path / name, [] if "empty" in name else [(i, b"abcde"[:i], 60, 1, 0) for i in range(5)])
        plain = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}      # a sanitizer's: capinfos hangs under it
        done = subprocess.run(["capinfos", "-cTr", tmp_path / name], capture_output=True, text=True, env=plain)
        assert done.returncode == 0 and done.stdout.split()[-1] == ("0" if "empty" in name else "5"), done.stderr


def test_one_link_type_in_a_pcap(tmp_path):
    writer = Writer(tmp_path / "x.pcap")
    writer.put_packet(1, b"a", linktype=1)
    with pytest.raises(MosError, match="pcapng"):
        writer.put_packet(2, b"b", linktype=101)
    writer.close()                                  # said once
    assert read(tmp_path / "x.pcap") == [(1, b"a", 1, 1)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_is_reported_once():
    writer = Writer("/dev/full")
    writer.put_packet(1, b"abc")
    with pytest.raises(MosError, match=os.strerror(errno.ENOSPC)):
        writer.flush()
    writer.close()
    writer = Writer("/dev/full")
    with pytest.raises(MosError, match="/dev/full"):
        writer.close()
    with pytest.raises(MosError, match="closed"):
        writer.put_packet(1, b"abc")


def test_a_reader_that_has_gone(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = Writer(path)
    os.close(reader)
    writer.put_packet(1, b"abc")
    with pytest.raises(BrokenPipeError):
        writer.close()


def test_standard_output():
    program = ("from mos.io.writer import Writer\n"
               "w = Writer('-'); w.put_packet(7, b'abc'); w.close(); print('still open')")
    out = subprocess.run([sys.executable, "-c", program], capture_output=True).stdout
    assert out.endswith(b"abcstill open\n")
    assert [(r.ts, r.data) for r in open_source(out[:-11])] == [(7, b"abc")]


def test_what_cannot_be_written(tmp_path):
    for path in tmp_path, tmp_path / "none" / "x.pcap", "a\0b":
        with pytest.raises(UsageError, match="cannot write"):
            Writer(path)


def test_the_file_being_read_is_not_truncated(tmp_path, monkeypatch):
    monkeypatch.delenv("MOS_SANITIZE", raising=False)       # under which no file is mapped
    path = tmp_path / "x.pcap"
    write(path, [(1, b"abc", 3, 1, 0)])
    (tmp_path / "same").symlink_to(path)
    with open_source(path) as source:
        with pytest.raises(UsageError, match="being read"):
            Writer(tmp_path / "same")
        assert len(list(source)) == 1
    write(tmp_path / "same", [])
    assert read(path) == []


def test_an_exception_is_not_hidden_by_the_writers_own():
    with pytest.raises(ZeroDivisionError):
        with Writer("/dev/full" if os.path.exists("/dev/full") else os.devnull) as writer:
            writer.put_packet(1, b"abc")
            _ = 1 / 0
