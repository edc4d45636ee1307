"""Resident memory while a mapped capture is read: a window of it, however long it is."""
import pathlib
import struct

import pytest
from mos.io.pcap import Source

from mos import Engine

STATUS = pathlib.Path("/proc/self/status")
RECORDS, LONG = 800, 262144         # 200 MB: a dozen windows

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="counts resident pages by Linux' /proc")


def resident():
    """Bytes of mapped files in memory."""
    return int(STATUS.read_text().partition("RssFile:")[2].split()[0]) << 10


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Mostly holes, which take no room on a disk and pages all the same."""
    path = tmp_path_factory.mktemp("pages") / "sparse.pcap"
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, LONG, 1))
        for i in range(RECORDS):
            file.seek(24 + i * (16 + LONG))
            file.write(struct.pack("<IIII", i, 0, LONG, LONG))
        file.truncate(24 + RECORDS * (16 + LONG))
    return path


def test_a_reader_keeps_a_window(capture):
    before = resident()
    with open(capture, "rb") as file, Source(fd=file.fileno()) as source:
        assert sum(len(r.data) for r in source) == RECORDS * LONG
        assert resident() - before < 64 << 20


def test_who_reads_in_turns_keeps_a_window(capture):
    before = resident()
    with open(capture, "rb") as file, Source(fd=file.fileno()) as source, Engine([]) as engine:
        engine.stack.share(0, 1)
        assert source.split()
        engine.run(source)
        assert engine.stats()["bytes_in"] == RECORDS * LONG
        assert resident() - before < 64 << 20
