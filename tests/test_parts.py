"""What workers write becomes one file, in order, while they write it, whatever becomes of them."""
import os
import subprocess
from collections import Counter

import pytest
from command import MOS, PCAPS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mos.io.writer import Writer
from source_tree import ROOT

from mos.errors import CaptureError
from mos.io.source import open_source


def in_part(writer, worker, *steps):
    """Another process takes a part and writes: a place, or a frame there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            writer.take_part(worker)
            for step in steps:
                if callable(step):
                    step()
                elif isinstance(step, tuple):
                    writer.mark(step)
                else:
                    writer.put_packet(10**18, step)
                    writer.flush()
            writer.flush()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def frames(path):
    with open_source(path) as source:
        return [record.data for record in source]


def at(place, frame):
    return (place, 2, 0, 0), frame


places = st.lists(st.integers(1, 9), max_size=12).map(sorted)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(places, min_size=1, max_size=3), st.booleans())
def test_records_come_in_the_order_of_their_places_and_at_one_place_of_the_workers(tmp_path, parts, early):
    path = tmp_path / "x.pcapng"
    expected = []
    with Writer(path) as writer:
        writer.split(len(parts))
        for worker, of_worker in enumerate(parts):
            named = [(place, worker, i) for i, place in enumerate(of_worker)]
            in_part(writer, worker, *[step for name in named for step in at(name[0], bytes(name))])
            expected += named
            if early:
                writer.gather()
        writer.gather(rest=True)
    assert frames(path) == [bytes(name) for name in sorted(expected)]


def test_what_may_still_come_is_waited_for(tmp_path):
    with Writer(tmp_path / "x.pcap") as writer:
        writer.split(2)
        in_part(writer, 0, *at(1, b"a"), *at(4, b"d"), *at(7, b"f"))
        writer.gather()
        assert writer.packets == 0
        in_part(writer, 1, *at(2, b"b"), *at(3, b"c"), (7, 0, 0, 0))
        writer.gather()
        assert writer.packets == 4
        in_part(writer, 1, *at(7, b"g"))
        writer.gather(rest=True)
    assert frames(tmp_path / "x.pcap") == [b"a", b"b", b"c", b"d", b"f", b"g"]


def files():
    """The descriptors of what is open and is a file."""
    return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.isfile(f"/proc/self/fd/{fd}")}


def split(writer):
    """The descriptor of its only part: a file without a name."""
    before = files()
    writer.split(1)
    return (files() - before).pop()


def test_a_record_that_was_not_finished_ends_its_part(tmp_path):
    with Writer(tmp_path / "x.pcapng") as writer:
        part = split(writer)
        in_part(writer, 0, *at(1, b"whole"), *at(2, b"cut"), lambda: os.ftruncate(part, os.fstat(part).st_size - 3))
        writer.gather(rest=True)
    assert frames(tmp_path / "x.pcapng") == [b"whole"]


def test_long_records_and_long_parts_take_little_memory_and_disk(tmp_path):
    """A frame longer than what is read at a time; 40 MB, of which hardly any is kept once it is merged."""
    long = os.urandom(200_000)
    with Writer(tmp_path / "x.pcapng") as writer:
        part = split(writer)
        in_part(writer, 0, *[step for i in range(200) for step in at(i, long)])
        before = os.fstat(part).st_blocks
        writer.gather(rest=True)
        after = os.fstat(part).st_blocks
        assert writer.packets == 200 and before > 70_000 and after < before // 2
    with Writer(tmp_path / "y.pcapng", linktype=231) as writer:
        writer.split(1)
        pid = os.fork()
        if pid == 0:
            writer.take_part(0)
            writer.put_packet(10**18, bytes(3 << 20), linktype=231)
            writer.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        writer.gather(rest=True)
    assert list(map(len, frames(tmp_path / "y.pcapng"))) == [3 << 20]


@pytest.mark.parametrize("limit", [1, 8])
def test_a_full_disk_ends_the_run_with_a_word(tmp_path, limit):
    """Of a worker's part, or of the file itself: 1 or 8 KB may be written."""
    ran = subprocess.run(["bash", "-c", f'trap "" XFSZ; ulimit -f {limit}; exec "$@"', "-", *MOS, "run", "volume", "-r",
                          PCAPS / "http_two.pcap", "-w", tmp_path / "x.pcap", "--workers", "2"],
                         capture_output=True, text=True, timeout=60, cwd=ROOT)
    size = (PCAPS / "http_two.pcap").stat().st_size
    assert size > 9000 and ran.returncode == 1
    assert ran.stderr.startswith(f"mos: cannot write {tmp_path / 'x.pcap'}: File too large; the last of ")


FRAGMENT = bytes(12) + b"\x08\x00" + bytes.fromhex("4500 0024 0001 2000 4011 0000 0a4d0001 0a4d0002") + bytes(16)
WHOLE = FRAGMENT[:20] + b"\0\0" + FRAGMENT[22:]


@pytest.fixture
def recording(tmp_path):
    """Of two workers, both of which had the fragment."""
    path = tmp_path / "in.pcapng"
    with Writer.recorder(path, "inline", ["a", "b"], 2) as writer:
        writer.split(2)
        in_part(writer, 0, *at(1, FRAGMENT), *at(2, WHOLE))
        in_part(writer, 1, *at(1, FRAGMENT), *at(3, WHOLE + b"1"))
        writer.gather(rest=True)
    return path.read_bytes()


def taken(data, *only):
    with open_source(data) as source:
        return [(record.number, record.data) for record in (source.only(*only) if only else source)]


def test_each_has_what_it_had_and_other_programs_see_a_fragment_once(recording):
    assert taken(recording) == [(1, FRAGMENT), (2, WHOLE), (3, WHOLE + b"1")]
    assert taken(recording, 0, 2) == [(2, FRAGMENT), (4, WHOLE)]
    assert taken(recording, 1, 2) == [(3, FRAGMENT), (5, WHOLE + b"1")]
    with open_source(recording) as source:
        assert source.recorded == "inline" and source.recorded_workers == 2


def test_a_damaged_recording_gives_packets_or_says_where_it_is_damaged(recording):
    """Each byte with other values, and an end anywhere: what is read lies within the input (under `make sanitize` exactly)."""
    told = Counter()
    for i, byte in enumerate(recording):
        for changed in (recording[:i], *(recording[:i] + bytes((v,)) + recording[i + 1:] for v in (0, 0x7f, 0xff, byte ^ 8))):
            try:
                told[len(taken(changed, 1, 2))] += 1
            except CaptureError as e:
                told[f"after {e.packets}"] += 1
    assert told["after 0"] and told["after 1"] and told[2] > told[1] > 0
