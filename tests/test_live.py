"""mos/io/live.py and `mos run -i`: what may be named, taps of every kind, verdicts between two interfaces, how it ends."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import test_port
from namespaces import HERE, MOS, OFFLOADS, Running, Wire

from mos.errors import UsageError
from mos.io.live import open_live
from mos.io.source import open_source

RULES = """
from mos import BYPASS, DROP, DROP_FLOW, RESET, on
from mos.events import FlowStart, PacketIn, StreamData

@on(FlowStart, where="server_port == 81")
def closed(ev): return DROP_FLOW("closed")

@on(StreamData, where="server_port == 82 and to_server")
def reset(ev): return RESET("no")

@on(FlowStart, where="server_port == 83")
def passed(ev): return BYPASS

@on(StreamData, where="server_port == 83")
def never(ev): return RESET("bypassed flows are not asked about")

@on(PacketIn, where="udp and server_port == 84")
def drop(ev): return DROP
"""
CHAIN = """
[run]
interface = "m0:m1"
timeouts = { DATAGRAM = 1 }

[[nf]]
use = "./rules.py"

[[nf]]
use = "monitor"
"""
RAISES = """
from mos import on
from mos.events import StreamData

@on(StreamData)
def bad(ev): raise ValueError("no")
"""
SOME = """
from mos import DROP, on
from mos.events import PacketIn

seen = 0

@on(PacketIn, where="tcp")
def some(ev):
    global seen
    seen += 1
    if seen > 10 and seen % 37 == 0:
        return DROP
"""
ASK = """
import socket, sys
port = int(sys.argv[1])
try:
    s = socket.create_connection(("10.77.0.2", port), timeout=0.7)
    s.settimeout(5)
    s.sendall(b"hello")
    print(s.recv(100).decode() or "closed")
except OSError as e:
    print(type(e).__name__)
"""
SERVE = """
import selectors, socket
poll = selectors.DefaultSelector()
for port in (80, 81, 82, 83):
    poll.register(socket.create_server(("10.77.0.2", port)), selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in poll.select():
        c, peer = key.fileobj.accept()
        c.settimeout(3)
        try:
            c.sendall(c.recv(100) + b" from " + peer[0].encode())
        except OSError as e:
            print(type(e).__name__, flush=True)
"""


@pytest.mark.parametrize("what, said", [
    ("a:b:c", "give one interface to tap, or two to bridge: -i A:B"), ("lo:", "give one interface"),
    ("any:lo", "`any` can be tapped only"),
    ("nonesuch", "no interface is called 'nonesuch'; there are"), ("lo:lo", "two different ones")])
def test_what_cannot_be_opened(what, said):
    with pytest.raises(UsageError) as e:
        open_live(what)
    assert said in str(e.value)


def said_by(*words):
    ran = subprocess.run([*MOS, "run", *words], capture_output=True, text=True, timeout=30)
    return ran.returncode, ran.stderr


@pytest.mark.parametrize("words, said", [
    (["monitor", "-i", "nonesuch:lo"], "no interface is called 'nonesuch'"), (["monitor", "-i", "lo", "-r", "x"], "-r and -i"),
    (["monitor", "-r", "x", "--for", "3"], "--for is for live interfaces"),
    (["monitor", "-r", "x", "--record", "y.pcapng"], "--record is for live interfaces"),
    (["monitor", "-i", "lo", "--for", "-1"], "seconds above 0")])
def test_wrong_options_are_told(words, said):
    status, text = said_by(*words)
    assert status == 2 and said in text and "Traceback" not in text


@pytest.fixture(scope="module")
def server(bed):
    process = bed.server.start(sys.executable, "-c", SERVE)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def ask(bed, port):
    return bed.client.run(sys.executable, "-c", ASK, port).stdout.strip()


@pytest.mark.parametrize("mode", OFFLOADS)
def test_verdicts_hold_between_real_hosts(bed, server, tmp_path, mode):
    bed.offload(mode)
    (tmp_path / "rules.py").write_text(RULES)
    with Running(bed, tmp_path / "rules.py") as running:
        assert ask(bed, 80) == "hello from 10.77.0.1"
        assert ask(bed, 81) == "TimeoutError"
        assert ask(bed, 82) == "ConnectionResetError"
        assert ask(bed, 83) == "hello from 10.77.0.1"
        stats = running.stop()
    assert server.stdout.readline() == "ConnectionResetError\n"
    assert stats["dropped"]["rules"] >= 2
    assert stats["injected"] >= 2


@pytest.mark.parametrize("mode", OFFLOADS)
def test_nat_between_real_hosts(bed, server, mode):
    """The server sees another client address; checksums are right in whatever state they came."""
    bed.offload(mode)
    bed.server.run("ip", "route", "replace", "192.0.2.9/32", "dev", "s0")
    bed.server.run("ip", "neighbour", "replace", "192.0.2.9", "lladdr", mac(bed.client, "c0"), "dev", "s0")
    with Running(bed, "nat", "monitor", "--set", "nat.external=192.0.2.9", "--set", "nat.inside=10.77.0.1/32") as running:
        assert ask(bed, 80) == "hello from 192.0.2.9"
        stats = running.stop()
    assert stats["stages"]["bad_checksum"] == 0


@pytest.mark.parametrize("mode", OFFLOADS)
def test_every_byte_arrives_through_drops_holes_and_new_names(bed, tmp_path, mode):
    """One packet in 37 is dropped, what is behind it held back and made anew; addresses change; two kernels agree on the bytes."""
    bed.offload(mode)
    (tmp_path / "some.py").write_text(SOME)
    bed.server.run("ip", "neighbour", "replace", "10.77.0.9", "lladdr", mac(bed.client, "c0"), "dev", "s0")
    nat = ["--set", "nat.external=10.77.0.9", "--set", "nat.inside=10.77.0.1/32"]
    with Running(bed, "nat", tmp_path / "some.py", "--safe", "on", *nat) as running:
        assert test_port.transfer(bed, 6_000_000)
        stats = running.stop()
    assert stats["dropped"]["some"] > 3 and stats["safe"]["held_back"] and stats["split"] > 3
    assert not any(any(side["unsent"].values()) for side in stats["ports"].values())


def mac(host, device):
    return json.loads(host.run("ip", "-j", "link", "show", device).stdout)[0]["address"]


def test_a_tap_looks_and_changes_nothing(bed, server):
    """Both ends of one cable are seen by a tap at the box while a pair bridges: verdicts of the tap are not carried out."""
    bed.offload("wire")
    with Running(bed) as pair, Running(bed, "monitor", interfaces="m0") as tap:
        assert ask(bed, 80) == "hello from 10.77.0.1"
        stats = tap.stop(signal.SIGINT)
        pair.stop()
    assert list(stats["ports"]) == ["m0"] and stats["ports"]["m0"]["sent"] == 0
    assert "10.77.0.2:80" in tap.out


@pytest.mark.parametrize("name", ["any", "tun9"])
def test_what_libpcap_alone_can_open(bed, name):
    """`any` has cooked frames, a tun device bare IP."""
    tun = ("import fcntl, os, socket, struct, sys; t = os.open('/dev/net/tun', os.O_RDWR); "
           "fcntl.ioctl(t, 0x400454ca, struct.pack('16sH', b'tun9', 0x1001)); print('ready', flush=True); "
           "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
           "[(os.write(t, bytes.fromhex(line)), s.sendto(b'x', ('127.0.0.1', 9))) for line in sys.stdin]")
    packet = "4500001d0001000040116633" "0a4d0001" "0a4d0002" "0400000900090000" "78"
    maker = bed.box.start(sys.executable, "-c", tun, stdin=subprocess.PIPE, bufsize=1)
    try:
        if maker.stdout.readline() != "ready\n":
            pytest.skip(f"a tap of a device without Ethernet was NOT tried: {maker.stderr.read().splitlines()[-1]}")
        bed.box.run("ip", "link", "set", "tun9", "up")
        with Running(bed, "monitor", "--for", "2", interfaces=name) as running:     # only ticks end it: no more packets come
            for _ in range(5):
                maker.stdin.write(packet + "\n")
            stats = running.wait()
        assert re.search(r":9 +udp", running.out), running.said
        assert stats["ports"][name]["received"] >= 5 and stats["ports"][name]["kernel_drops"] == 0
    finally:
        maker.kill()
        maker.communicate()


def test_a_terminal_is_told_while_it_runs(bed):
    ours, theirs = os.openpty()
    process = bed.box.start(*MOS, "run", "-i", "m0:m1", "--for", "1", stderr=theirs,
                            env=os.environ | {"PYTHONPATH": str(HERE.parent)})
    os.close(theirs)
    assert process.wait(20) == 0
    said = os.read(ours, 65536).decode()
    os.close(ours)
    process.stdout.close()
    assert re.search(r"\r\x1b\[K\d+ packets, .*/s", said) and re.search(r"\r\x1b\[Kmos: \d+ packets?, \d+ flow", said)


def test_it_ends_after_so_many_seconds_or_packets(bed):
    with Running(bed, "--for", "0.3") as running:
        running.wait()          # nothing comes, or what an earlier test left
    wire = Wire(bed.client, "c0")
    with Running(bed, "--until", "2") as running:
        wire.send([bytes.fromhex("0200000000d1" "0200000000c1" "88b5") + bytes(46)] * 3)
        stats = running.wait()
    wire.close()
    assert stats["packets_in"] == 2


def test_a_handler_that_raises_does_not_end_it(bed, server, tmp_path):
    (tmp_path / "bad.py").write_text(RAISES)
    with Running(bed, tmp_path / "bad.py") as running:
        assert ask(bed, 80) == "hello from 10.77.0.1"
        stats = running.stop()
    assert stats["bus"]["errors"] == {"bad.bad": 2}
    said = "".join(running.said)
    assert said.count("bad.bad raised ValueError at packet ") == 1 and "bad.py\", line 6, in bad" in said


def test_the_summary_names_ports_and_losses(bed, server):
    process = bed.box.start(*MOS, "run", "monitor", "-i", "m0:m1", env=None)
    line = process.stderr.readline()
    while "running between m0 and m1" not in line:
        assert line, "it did not start"
        line = process.stderr.readline()
    assert ask(bed, 80) == "hello from 10.77.0.1"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert " flow" in said and "mos: m0: " in said and "mos: m1: " in said and " received, " in said


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("mode", ["full", "wire"])
def test_a_recording_repeats_the_run(bed, server, tmp_path, mode, workers):
    """Event by event: packets in their order, what was left to the card, and the time that went by without any. With workers also
    what each of them had, fragments of which both got a copy included, though nobody says to the replay how many there were."""
    bed.offload(mode)
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "chain.toml").write_text(CHAIN)
    ran = ["-c", tmp_path / "chain.toml"]
    knock = ("import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('10.77.0.2', 9)); "
             "s.sendto(bytes(5000), ('10.77.0.2', 9))")
    out = [tmp_path / "live.out.pcapng", tmp_path / "again.out.pcapng"]
    with Running(bed, *ran, "--log", tmp_path / "live.jsonl", "--record", tmp_path / "in.pcapng", "-w", out[0],
                 "--workers", workers) as running:
        bed.client.run(sys.executable, "-c", knock)
        assert [ask(bed, port) for port in (80, 81, 82)] == ["hello from 10.77.0.1", "TimeoutError", "ConnectionResetError"]
        assert test_port.transfer(bed, 3_000_000)
        time.sleep(1.3)         # nothing comes: the datagram's flow ends by ticks alone
        stats = running.stop()
    again = subprocess.run([*MOS, "run", *ran, "-r", tmp_path / "in.pcapng", "--log", tmp_path / "again.jsonl", "--stats",
                            "-w", out[1]],
                           capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    live = (tmp_path / "live.jsonl").read_bytes()
    assert live == (tmp_path / "again.jsonl").read_bytes()
    assert b'"reason":"idle"' in live and b'"verdict":"RESET"' in live and live.count(b"\n") > 100
    assert out[0].read_bytes() == out[1].read_bytes()
    repeated = json.loads(again.stderr)
    assert repeated.get("workers", 1) == stats.get("workers", 1) == workers
    with open_source(tmp_path / "in.pcapng") as source:
        assert len(list(source)) == stats["packets_in"] and source.recorded_workers == workers
    for key in ("packets_in", "packets_out", "forwarded", "dropped", "injected", "bytes_in", "events"):
        assert repeated[key] == stats[key], key
    if shutil.which("capinfos"):
        said = subprocess.run(["capinfos", "-I", tmp_path / "in.pcapng"], capture_output=True, text=True)
        assert "m0" in said.stdout and "m1" in said.stdout, said.stderr


def test_the_demonstration(bed):
    """One page comes through, the other host's second server does not, and nothing is left behind."""
    if not shutil.which("curl"):
        pytest.skip("the demonstration was NOT run: apt-get install curl")
    before = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
    ran = subprocess.run(["sh", HERE.parent / "examples" / "inline" / "demo.sh", *MOS],
                         capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "hello from the server" in ran.stdout and "RESET by firewall: no second web server" in ran.stdout
    assert "curl: (7)" in ran.stderr
    assert subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout == before
