"""Captures that workers read in turns: longer than what is read ahead, with records longer than a slot, cut short, or in the way
of each other."""
import os
import re
import struct

import pytest
from command import PCAPS, counts, mos
from mos.io.pcap import Source
from source_tree import ROOT

from mos import CaptureError, Engine, on
from mos.events import FlowEnd, FlowStart, StreamData
from mos.testing import icmp_echo, merge, tcp, udp

SOURCE = (ROOT / "mos/io/turns.pxd").read_text()
SLOT = 1 << int(re.search(r" SLOT = 1 << (\d+)", SOURCE)[1])
RING = SLOT * int(re.search(r" SLOTS = (\d+)", SOURCE)[1])
RECORDS = int(re.search(r" RECORDS = (\d+)", SOURCE)[1])
SECOND = 10**9
TELLS = '''
from mos import on
from mos.events import FlowEnd, FlowStart, StreamData, Timer

@on(FlowStart)
def start(ev):
    print("start", ev.flow.id, ev.packet.number)
    ev.flow.timer(0.002, ev.flow.id)

@on(StreamData)
def data(ev):
    if ev.offset % 7 == 0:
        print("data", ev.flow.id, ev.offset, ev.length, ev.packet.number, ev.time)

@on(Timer)
def timer(ev):
    print("timer", ev.value, ev.time)

@on(FlowEnd)
def end(ev):
    print("end", ev.flow.id, ev.reason, ev.time)
'''


def records(conversation):
    """The records of a capture, as bytes."""
    return [struct.pack("<IIII", ns // SECOND, ns % SECOND // 1000, len(frame), len(frame)) + frame
            for ns, frame, *_ in conversation.packets]


def traffic():
    """Long and short flows, what takes decoding to tell whose it is, and as many packets as fit one slot only by their number."""
    talks = [tcp(f"10.0.0.{i}:{1000 + i}", "192.168.7.9:80", start_ns=SECOND * 1000 + i * 1_300_000)
             .send(b"ask").reply(bytes(range(256)) * 700).wait(i % 3 * 90).send(b"bye").close() for i in range(1, 50)]
    talks += [udp(f"10.9.0.1:{3000 + i}", "10.0.0.2:53", start_ns=SECOND * 1000 + i * 2_000_000).send(b"q" * 900)
              for i in range(40)]
    talks += [icmp_echo("10.0.0.1", f"10.0.1.{i}", count=3, start_ns=SECOND * 1000 + i * 3_000_000) for i in range(1, 20)]
    return merge(*talks)


def written(path, parts):
    path.write_bytes(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 262144, 1) + b"".join(parts))
    return path


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Longer than the ring; a record longer than a slot in its middle and at its end, and more short ones than a slot takes."""
    found, arp = records(traffic()), bytes(12) + b"\x08\x06"
    long = struct.pack("<IIII", 1002, 0, 1 << 18, 1 << 18) + arp.ljust(1 << 18, b"x")
    short = struct.pack("<IIII", 1002, 1, len(arp), 60) + arp
    middle = len(found) // 2
    path = written(tmp_path_factory.mktemp("turns") / "long.pcap",
                   [*found[:middle], long, *found[middle:], *[short] * 20000, long])
    assert path.stat().st_size > RING + 2 * SLOT and len(long) > SLOT > RECORDS * len(short)
    return path


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "rules.py"
    path.write_text(TELLS)
    return path


def heard(path, turns):
    """[what handlers saw], counters and the error of a run by one worker of one, in turns or as any reader."""
    log = []

    @on(StreamData)
    def data(ev):
        log.append((engine.stack.place, ev.flow.id, ev.offset, ev.data, ev.time))

    @on(FlowEnd)
    def end(ev):
        log.append((engine.stack.place, ev.flow.id, ev.reason, ev.time))
    engine, error = Engine([data, end]), None
    with open(path, "rb") as file, Source(fd=file.fileno(), name="it") as source, engine:
        if turns:
            engine.stack.share(0, 1)
            assert source.split()
        if callable(turns):
            turns()
        try:
            engine.run(source)
        except CaptureError as e:
            error = str(e)
    stats = engine.stats()
    return log, {key: stats[key] for key in ("packets_in", "bytes_in", "forwarded", "flows", "events")}, error


def test_one_who_reads_in_turns_sees_what_a_reader_sees(capture):
    alone = heard(capture, False)
    assert heard(capture, True) == alone and len(alone[0]) > 1000 and alone[2] is None


@pytest.mark.parametrize("workers", [2, 3, 9])
def test_workers_tell_what_one_tells(capture, rules, workers):
    found = []
    for n in (1, workers):
        done = mos("run", rules, "monitor", "-r", capture, "--stats", "--workers", n)
        stats = counts(done.stderr)
        found.append((done.returncode, done.stdout,
                      *[stats[key] for key in ("packets_in", "bytes_in", "flows", "events", "decode")]))
    assert found[0] == found[1] and {"timer", "end", "data"} <= {line.split()[0] for line in found[0][1].splitlines() if line}


@pytest.mark.parametrize("cut", [1, 5, (1 << 18) + 3, (1 << 18) + 16, 400_000])
def test_a_capture_that_is_cut_short_says_so_after_all_before_it(capture, tmp_path, cut):
    path = tmp_path / "cut.pcap"
    path.write_bytes(capture.read_bytes()[:-cut])
    assert heard(path, True) == (alone := heard(path, False))
    assert alone[2] is None if cut == (1 << 18) + 16 else "is cut short" in alone[2]


def test_damage_far_behind_is_told_where_it_is(tmp_path):
    path = written(tmp_path / "bad.pcap", [*records(traffic())[:1500], struct.pack("<IIII", 1, 0, 1 << 30, 1 << 30), bytes(99)])
    assert heard(path, True) == (alone := heard(path, False)) and "a packet of 1073741824 bytes is claimed" in alone[2]
    assert alone[1]["packets_in"] == 1500 and path.stat().st_size > 3 * SLOT


def test_a_file_that_becomes_shorter_is_an_error(tmp_path):
    """If its records are copied: one that is mapped must not."""
    path = written(tmp_path / "shrinks.pcap", [struct.pack("<IIII", 1002, 1, 14, 60) + bytes(12) + b"\x08\x06"] * 40000)
    error = heard(path, lambda: os.truncate(path, 3 * SLOT))[2]
    whole = os.environ.get("MOS_SANITIZE")      # then it was read when it was opened
    assert error is None if whole else "is cut short" in error


def test_captures_with_other_headers_are_read_in_turns_too(tmp_path):
    """The other byte order, and lengths in the other order."""
    frames = [frame for _, frame, *_ in traffic().packets[:900]]
    for name, order, minor in (("big", ">", 4), ("swapped", "<", 2)):
        path = tmp_path / name
        path.write_bytes(struct.pack(order + "IHHiIII", 0xa1b2c3d4, 2, minor, 0, 0, 262144, 1) + b"".join(
            struct.pack(order + "IIII", 1000, i, *((len(f) + (minor == 2) * 4, len(f)))) + f for i, f in enumerate(frames)))
        assert heard(path, True) == (alone := heard(path, False)) and alone[1]["packets_in"] == 900 and alone[2] is None


def ports_of(path, worker, workers):
    """Client ports of the flows that a worker takes."""
    ports = set()

    @on(FlowStart)
    def start(ev):
        ports.add(ev.flow.client_port)
    with Engine([start]) as engine:
        engine.stack.share(worker, workers)
        engine.run(str(path))
    return ports


@pytest.mark.parametrize("worker", [0, 1])
def test_who_waits_lets_the_others_tell(capture, tmp_path, worker):
    """One tells more than a pipe holds, the other nothing: it gets as far ahead as it can, and all would wait in a circle."""
    path = tmp_path / "loud.py"
    path.write_text("from mos import on\nfrom mos.events import StreamData\n"
                    f"LOUD = {ports_of(capture, worker, 2)}\n@on(StreamData)\n"
                    "def data(ev):\n    if ev.flow.client_port in LOUD: print(ev.flow.id, ev.offset, 'x' * 2000)\n")
    one, two = [mos("run", path, "-r", capture, "-q", "--workers", n) for n in (1, 2)]
    assert two.returncode == 0 and two.stdout == one.stdout and len(one.stdout) > 1 << 21


@pytest.mark.parametrize("what", ["os.kill(os.getpid(), 9)", "os._exit(0)"])
def test_a_worker_that_dies_ends_the_run(capture, tmp_path, what):
    path = tmp_path / "dies.py"
    path.write_text("import os\nfrom mos import on\nfrom mos.events import FlowStart\n@on(FlowStart)\n"
                    f"def start(ev):\n    print(ev.flow.id)\n    if ev.flow.client_port == 1002: {what}\n")
    done = mos("run", path, "-r", capture, "--workers", 3)
    assert done.returncode == 1 and "ended before its work was done" in done.stderr and done.stderr.count("\n") == 1


def test_nobody_waits_for_ever_if_the_run_is_killed(capture, tmp_path):
    """Standard output stays open as long as one of its processes lives."""
    path = tmp_path / "orphans.py"
    path.write_text("import os, time\nfrom mos import on\nfrom mos.events import FlowStart\n@on(FlowStart)\ndef start(ev):\n"
                    "    if ev.flow.client_port == 1002:\n        time.sleep(1)       # so long that the other waits\n"
                    "        os.kill(os.getppid(), 9)\n        os._exit(1)\n")
    assert mos("run", path, "-r", capture, "-q", "--workers", 2, timeout=30).returncode == -9


def test_a_handler_that_raises_in_the_middle_stops_all_where_it_stopped_one(capture, tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("from mos import on\nfrom mos.events import StreamData\n@on(StreamData)\ndef data(ev):\n"
                    "    print(ev.packet.number)\n    if ev.packet.number > 3000: raise ValueError('late')\n")
    one, two = [mos("run", path, "-r", capture, "-q", "--workers", n) for n in (1, 2)]
    assert (two.returncode, two.stdout, two.stderr) == (one.returncode, one.stdout, one.stderr) and "ValueError: late" in one.stderr


def test_what_cannot_be_read_in_turns_is_read_by_each():
    for name in ("http_lossy.pcapng", "http_two.pcap"):
        with open(PCAPS / name, "rb") as file, Source(fd=file.fileno()) as source:
            assert source.split() == name.endswith("pcap")
    with open(PCAPS / "http_two.pcap", "rb") as file, Source(reader=file) as source:
        assert not source.split()
