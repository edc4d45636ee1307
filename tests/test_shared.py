"""Workers on a wire: each flow is one worker's, in both directions, in pieces, and whatever becomes of the interfaces."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import namespaces
import pytest
from command import MOS
from namespaces import OFFLOADS, Bed, Running, Wire

from mos.errors import UsageError
from mos.io.live import open_live
from mos.io.source import open_source
from mos.testing import merge, tcp, udp

ENDS = """
from mos import on
from mos.events import FlowEnd

@on(FlowEnd, where="tcp or udp")
def end(ev):
    most = 5000 if ev.flow.tcp else 13030           # what is sent again counts, too
    print(ev.flow.proto, ev.flow.client_port, min(most, ev.flow.client_bytes), min(most, ev.flow.server_bytes))
"""
ECHO = """
import selectors, socket
poll = selectors.DefaultSelector()
listener, datagrams = socket.create_server(("", 7000)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("", 7000))
for s in (listener, datagrams):
    poll.register(s, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in poll.select():
        if key.fileobj is datagrams:
            datagrams.sendto(*datagrams.recvfrom(65536))
        elif key.fileobj is listener:
            poll.register(listener.accept()[0], selectors.EVENT_READ)
        elif data := key.fileobj.recv(65536):
            key.fileobj.sendall(data)
        else:
            poll.unregister(key.fileobj)
            key.fileobj.close()
"""
# Prints what each conversation is to look like: those that come whole, and datagrams that the MTU has cut in pieces.
TALK = """
import socket, sys
peer = (sys.argv[2], 7000)
for i in range(int(sys.argv[1])):
    s = socket.create_connection(peer, timeout=5)
    s.sendall(bytes(5000))
    left = 5000
    while left:
        left -= len(s.recv(65536))
    print("tcp", s.getsockname()[1], 5000, 5000)
    s.close()
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", int(sys.argv[3]) + i))      # a port that was used before would be the same flow
    s.connect(peer)
    s.settimeout(5)
    for size in (10, 4000, 9000, 20):
        s.send(bytes(size))
        assert len(s.recv(65536)) == size
    print("udp", s.getsockname()[1], 13030, 13030)
"""


@pytest.fixture(scope="module")
def bed():
    namespaces.need()
    bed = Bed()
    echo = bed.server.start(sys.executable, "-c", ECHO)
    assert echo.stdout.readline() == "ready\n"
    yield bed
    echo.kill()
    echo.communicate()
    bed.close()


@pytest.fixture
def silent():
    """Hosts whose kernels have not said anything yet: no address of a neighbour has to be confirmed in between."""
    yield from namespaces.made()


@pytest.fixture
def box(tmp_path):
    path = tmp_path / "ends.py"
    path.write_text(ENDS)
    return path


def talk(bed, times=20, server=namespaces.SERVER, port=20000):
    return bed.client.run(sys.executable, "-c", TALK, times, server, port).stdout.splitlines()


@pytest.mark.parametrize("mode", OFFLOADS)
@pytest.mark.parametrize("workers, safe", [(2, "off"), (3, "on")])
def test_each_flow_is_one_workers(bed, box, mode, workers, safe):
    bed.offload(mode)
    with Running(bed, box, "--workers", workers, "--safe", safe) as running:
        expected = talk(bed)
        stats = running.stop()
    assert Counter(running.out.splitlines()) == Counter(expected) and len(expected) == 40
    assert stats["workers"] == workers and not stats["dropped"] and stats["decode"]["datagrams_reassembled"] == 20 * 2 * 2
    for side in ("m0", "m1"):
        assert stats["ports"][side]["kernel_drops"] == 0 and not any(stats["ports"][side]["unsent"].values())


def children(parent):
    """Processes that a process has started."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                rest = f.read().rpartition(")")[2]
            found += [int(pid)] * (int(rest.split()[1]) == parent)
        except OSError:
            pass
    return found


@pytest.mark.parametrize("mode", ["full", "wire"])
@pytest.mark.skipif(not (shutil.which("iperf3") and shutil.which("curl")), reason="NOT RUN: apt-get install iperf3 curl")
def test_iperf_and_curl_through_workers(bed, tmp_path, mode):
    """Bulk in both directions at a time, and downloads: what arrived is what was sent."""
    bed.offload(mode)
    data = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    web = bed.server.start(sys.executable, "-m", "http.server", "8000", "--bind", namespaces.SERVER, "--directory", tmp_path)
    bulk = bed.server.start("iperf3", "-s", "-1")
    with Running(bed, "monitor", "--workers", 2) as running:
        said = json.loads(bed.client.run("iperf3", "-c", namespaces.SERVER, "-n", "8M", "-P", "4", "--bidir", "-J").stdout)
        for i in range(5):
            got = tmp_path / f"got {i}"
            bed.client.run("curl", "-sf", "--retry", "5", "--retry-connrefused", "-o", got, f"http://{namespaces.SERVER}:8000/data")
            assert got.read_bytes() == data
        stats = running.stop()
    for process in (web, bulk):
        process.kill()
        process.communicate()
    assert said["end"]["sum_received"]["bytes"] > 0 and said["end"]["sum_received_bidir_reverse"]["bytes"] > 0
    assert stats["flows"] >= 9 + 5 and stats["stages"]["bad_checksum"] == 0
    assert not any(any(side["unsent"].values()) for side in stats["ports"].values())


@pytest.mark.parametrize("mode", ["full", "wire"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_tap_sees_what_its_host_sends_too(box, workers, mode):
    namespaces.need()
    bed = Bed()
    try:
        bed.box.run("ip", "address", "add", "10.77.0.3/24", "dev", "m0")
        echo = bed.box.start(sys.executable, "-c", ECHO)
        assert echo.stdout.readline() == "ready\n"
        bed.offload(mode)
        with Running(bed, box, "--workers", workers, interfaces="m0") as tap:
            expected = talk(bed, 5, "10.77.0.3")
            stats = tap.stop(signal.SIGINT)
        echo.kill()
        echo.communicate()
        assert Counter(tap.out.splitlines()) == Counter(expected) and stats["ports"]["m0"]["sent"] == 0
    finally:
        bed.close()


def test_the_group_is_in_order_after_its_link_was_down(bed, box):
    with Running(bed, box, "--workers", 3) as running:
        for device in ("m0", "m1", "m0"):
            bed.box.run("ip", "link", "set", device, "down")
            assert running.hears(f"{device} is down")
            bed.box.run("ip", "link", "set", device, "up")
            assert running.hears(f"{device} is up")
            running.said.clear()
        expected = talk(bed)
        running.stop()
    assert Counter(running.out.splitlines()) == Counter(expected)


def test_an_interface_that_was_made_anew_is_shared_out_as_before(box):
    """Its sockets are in no group any more: each worker's takes what is its own."""
    namespaces.need()
    bed = Bed()
    try:
        echo = bed.server.start(sys.executable, "-c", ECHO)
        assert echo.stdout.readline() == "ready\n"
        with Running(bed, box, "--workers", 3) as running:
            before = talk(bed, 5)
            for _ in range(2):
                bed.box.run("ip", "link", "del", "m0")
                assert running.hears("m0 was removed")
                bed.cable(bed.client, "c0", "m0", namespaces.CLIENT)
                assert running.hears("m0 is back")
                running.said.clear()
            time.sleep(0.3)         # each worker looks for itself, at least so often
            after = talk(bed, 10, port=21000)
            stats = running.stop()
        echo.kill()
        echo.communicate()
        assert Counter(running.out.splitlines()) == Counter(before + after)
        assert stats["ports"]["m0"]["kernel_drops"] == 0
    finally:
        bed.close()


def test_a_worker_that_is_gone_ends_the_run(bed, box, tmp_path):
    """What was recorded until then is there, in files that are whole, and nothing else is left."""
    with Running(bed, box, "--workers", 2, "--record", tmp_path / "in.pcapng", "-w", tmp_path / "out.pcap") as running:
        talk(bed, 5)
        time.sleep(0.3)         # a worker hands over what it has every 0.1 s
        os.kill(children(running.process.pid)[0], signal.SIGKILL)
        assert running.process.wait(20) == 1 and running.hears("ended before its work was done")
    for name in ("in.pcapng", "out.pcap"):
        with open_source(tmp_path / name) as source:
            assert len(list(source)) > 5 * 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ends.py", "in.pcapng", "out.pcap"]
    again = subprocess.run([*MOS, "run", "volume", "-r", tmp_path / "in.pcapng", "--until", "9"], capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr == (
        f"mos: --workers cannot be used here: --until counts packets, and no worker sees all; {tmp_path / 'in.pcapng'} is a "
        "recording of 2, which --workers 1 takes as one\n")


def test_time_is_up_for_all(bed, box):
    with Running(bed, box, "--workers", 2, "--for", 0.3) as running:
        assert running.wait()["workers"] == 2


@pytest.mark.parametrize("words, reason", [
    (["--until", "9"], "--until counts packets, and no worker sees all")])
def test_what_workers_on_a_wire_cannot_do(words, reason):
    ran = subprocess.run([*MOS, "run", "volume", "-i", "lo", "--workers", "2", *words], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 2 and ran.stderr == f"mos: --workers cannot be used here: {reason}\n"


def test_libpcap_shares_nothing_out():
    with pytest.raises(UsageError, match="a tap of any goes through libpcap"):
        open_live("any", 2)


STRICT = """
from mos import DROP, DROP_FLOW, on
from mos.events import FlowStart, StreamData

@on(FlowStart, where="server_port == 99")
def refuse(ev):
    return DROP_FLOW("not that port")

@on(StreamData, where="to_server and length == 13")
def once(ev):
    return None if ev.redelivered else DROP("not at once")
"""


def script():
    """What hosts that do not exist say to each other: in order, late, twice, in pieces, wrong."""
    draw, parts = random.Random(7), []
    for i in range(9):
        start = 1_700_000_000_000_000_000 + i * 700_000
        c = tcp(f"10.9.0.{i + 1}:{4000 + i}", "10.9.1.1:80", start_ns=start, timestamps=i % 2 == 0)
        for _ in range(3):
            c.send(draw.randbytes(draw.choice([13, 40, 900]))).reply(draw.randbytes(draw.randrange(1, 1200)))
        if i % 4:
            c.close(draw.choice(["client", "server"]))
        for fault in draw.sample([c.duplicate, c.reorder, c.corrupt], i % 3):
            fault(draw.randrange(4, 9))
        parts.append(c)
    for i in range(4):
        u = udp(f"10.9.2.{i + 1}:{5000 + i}", f"10.9.3.1:{99 if i == 2 else 53}", start_ns=1_700_000_000_000_300_000 + i * 900_000)
        parts.append(u.send(b"ask").reply(bytes(2000)).fragment(2, 800) if i % 2 else u.send(b"ask").reply(b"answer"))
    return merge(*parts)


def played(bed, said, tmp_path, name, *words):
    """The run's log. Each frame is sent when the one before it has passed, or has not for long enough."""
    log = tmp_path / f"{name}.jsonl"
    wires = {"client": Wire(bed.client, "c0"), "server": Wire(bed.server, "s0")}
    try:
        with Running(bed, tmp_path / "strict.py", "--checksum", "verify", "--gro", "keep", "--log", log, *words) as running:
            for (_, frame), packet in zip(said.packets, said.built):
                other = wires["server" if packet.side == "client" else "client"]
                count = len(other.received)
                wires[packet.side].send([frame])
                other.wait(count + 1, 0.05)
            stats = running.stop()
    finally:
        for wire in wires.values():
            wire.close()
    return log.read_text(), stats


def in_turns(log):
    """The log's lines with a packet's place in place of its time, and a flow's in place of its number; when runs end differs."""
    rows = [json.loads(line) for line in log.splitlines()]
    times = {ns: i for i, ns in enumerate(sorted({row["ns"] for row in rows if row.get("event") != "FlowEnd"}))}
    flows = {}
    for row in rows:
        row["ns"] = None if row.get("event") == "FlowEnd" else times[row["ns"]]
        if row["flow"] is not None:
            row["flow"] = flows.setdefault(row["flow"], len(flows))
        row.pop("packet", None)
    return [json.dumps(row) for row in rows]


@pytest.mark.parametrize("safe", ["off", "on"])
def test_workers_on_a_wire_log_what_one_logs(silent, tmp_path, safe):
    """Line for line, in one order: two workers live, one live, and the replay of what that one recorded."""
    silent.offload("wire")
    (tmp_path / "strict.py").write_text(STRICT)
    said, recording = script(), tmp_path / "in.pcapng"
    one, single = played(silent, said, tmp_path, "one", "--safe", safe, "--record", recording)
    two, shared = played(silent, said, tmp_path, "two", "--safe", safe, "--workers", 2)
    again = tmp_path / "again.jsonl"
    subprocess.run([*MOS, "run", tmp_path / "strict.py", "--checksum", "verify", "--safe", safe, "-r", recording, "--log", again],
                   check=True, capture_output=True, timeout=60)
    assert again.read_text() == one
    assert in_turns(two) == in_turns(one)
    assert len(in_turns(one)) > 300 and '"verdict":"DROP"' in two and "BadChecksum" in two
    assert shared["workers"] == 2 and shared["packets_in"] == single["packets_in"] and shared["events"] == single["events"]
