"""Opening captures: what the user names, how it is packed, where it comes from."""
import gzip
import io
import os
import resource
import struct
import subprocess
import sys
import threading

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mos.errors import CaptureError, UsageError
from mos.io import source as module
from mos.io.source import open_source

SECONDS = 10**9


def capture(n=50, size=100):
    """The bytes of a pcap with n distinct frames, made by the standard library alone."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    for i in range(n):
        frame = bytes((i + k) & 255 for k in range(size))
        out.append(struct.pack("<IIII", i, 0, len(frame), len(frame)) + frame)
    return b"".join(out)


PLAIN = capture()
PACKERS = {"plain": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}


def numbers(what, **options):
    with open_source(what, **options) as source:
        return [r.ts // SECONDS for r in source]


@pytest.mark.parametrize("packer", PACKERS)
def test_told_by_content_not_by_name(packer, tmp_path):
    path = tmp_path / "capture.zip"
    path.write_bytes(PACKERS[packer](PLAIN))
    assert numbers(path) == numbers(str(path)) == list(range(50))
    with open(path, "rb") as file:
        assert numbers(file) == list(range(50))
    assert numbers(path.read_bytes()) == list(range(50))
    with open_source(path) as source:
        assert source.size == (len(PLAIN) if packer == "plain" else 0) and source.name == str(path)


@pytest.mark.parametrize("packer", PACKERS)
def test_fifo(packer, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[PACKERS[packer](PLAIN)])
    writer.start()
    assert numbers(path) == list(range(50))
    writer.join()


def test_a_fifo_delivers_what_is_there_before_it_waits():
    r, w = os.pipe()
    os.write(w, PLAIN[:24 + 116 * 2 + 7])
    source = module._from_fd(r, "pipe", 1 << 20, owns=True)
    packets = iter(source)
    assert [next(packets).ts, next(packets).ts] == [0, SECONDS]
    os.write(w, PLAIN[24 + 116 * 2 + 7:24 + 116 * 3])
    assert next(packets).ts == 2 * SECONDS
    os.close(w)
    assert list(packets) == []


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("how", ["file", "pipe"])
def test_standard_input(packer, how, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(PACKERS[packer](PLAIN))
    program = "from mos.io.source import open_source; print(sum(1 for _ in open_source('-')))"
    with open(path, "rb") as file:
        piped = {"stdin": file} if how == "file" else {"input": file.read()}
        assert subprocess.run([sys.executable, "-c", program], capture_output=True, **piped).stdout == b"50\n"


def test_a_signal_ends_a_read_that_waits():
    program = """if True:
        import os, signal
        from mos.io.pcap import Source
        r, w = os.pipe()
        os.write(w, bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
        source = Source(fd=r)
        def stop(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            list(source)
        except KeyboardInterrupt:
            print("stopped:", source.error)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert "stopped: capture cannot be read: KeyboardInterrupt" in done.stdout, done.stderr


def test_a_file_that_has_only_read():
    class Only:
        def __init__(self, data):
            self.read = io.BytesIO(data).read
    for packer in PACKERS.values():
        assert numbers(Only(packer(PLAIN))) == list(range(50))


def test_what_cannot_be_opened(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("GET / HTTP/1.1\r\n")
    (tmp_path / "short").write_bytes(PLAIN[:20])
    for name, error, words in [("none.pcap", UsageError, "No such file"), ("", UsageError, "is a directory"),
                               ("a\0b", UsageError, "cannot open"), ("empty", CaptureError, "is empty"),
                               ("text", CaptureError, "starts with 47 45 54 20; expected pcap or pcapng"),
                               ("short", CaptureError, "20 of 24 bytes")]:
        with pytest.raises(error) as e:
            open_source(str(tmp_path / name) if name else tmp_path)
        assert words in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(UsageError, match="int"):
        open_source(7)
    with pytest.raises(UsageError, match="mode 'rb'"):
        open_source(io.StringIO("text"))
    with pytest.raises(CaptureError, match="is empty"):
        open_source("/dev/null")


@pytest.mark.parametrize("packer", ["gzip", "zstd"])
def test_members_follow_one_another(packer):
    pack, half = PACKERS[packer], len(PLAIN) // 2
    assert numbers(pack(PLAIN[:half]) + pack(b"") + pack(PLAIN[half:])) == list(range(50))
    assert numbers(pack(PLAIN) + bytes(512)) == list(range(50))


@pytest.mark.parametrize("packer", ["gzip", "zstd"])
def test_damaged_packing_delivers_what_precedes(packer):
    data = b"".join(PACKERS[packer](PLAIN[i:i + 500]) for i in range(0, len(PLAIN), 500))
    delivered = set()
    for n in range(0, len(data), 17):
        records = []
        try:
            for record in open_source(data[:n]):
                records.append(record.ts // SECONDS)
        except CaptureError as e:
            assert "cut short" in str(e) or "empty" in str(e) or "not a capture" in str(e)
        assert records == list(range(len(records)))
        delivered.add(len(records))
    assert max(delivered) > 40
    for i in range(20, len(data), 23):
        try:
            list(open_source(data[:i] + bytes([data[i] ^ 0x55]) + data[i + 1:]))
        except CaptureError as e:
            assert "\n" not in str(e)


@pytest.mark.parametrize("packer", ["gzip", "zstd"])
def test_a_bomb_is_refused_and_costs_no_memory(packer):
    bomb = PACKERS[packer](capture(1) + (struct.pack("<IIII", 0, 0, 250000, 250000) + bytes(250000)) * 800)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CaptureError, match="raise max_bytes"):
        numbers(bomb, max_bytes=100 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert numbers(PACKERS[packer](PLAIN), max_bytes=len(PLAIN)) == list(range(50))


def test_zstandard_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UsageError, match="pip install zstandard"):
        open_source(zstandard.compress(PLAIN))


packets = st.lists(st.tuples(st.integers(0, 2**62), st.binary(max_size=200)), max_size=30)


@given(packets, st.integers(0, 65535))
def test_packets_made_in_python(made, linktype):
    source = open_source(iter(made), linktype=linktype)
    expected = [(ts, data, len(data), linktype) for ts, data in made]
    assert [(r.ts, r.data, r.wirelen, r.linktype) for r in source] == expected


def test_packets_made_in_python_may_be_cut_and_must_have_a_time():
    assert next(iter(open_source([(5, b"abc", 1500)]))).wirelen == 1500
    with pytest.raises(CaptureError, match="-1 is not in ns") as e:
        list(open_source([(1, b"x"), (-1, b"x")]))
    assert e.value.packets == 1 and isinstance(e.value.__cause__, UsageError)


def test_an_open_source_is_taken_as_it_is():
    source = open_source(PLAIN)
    assert open_source(source) is source
