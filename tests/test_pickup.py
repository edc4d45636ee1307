"""Flows that were under way when the chain came to stand in them: none stalls, whatever is in flight; nothing passes unseen."""
import subprocess
import sys
import time

import namespaces
import pytest
from boxes import assert_balanced, box
from namespaces import Bed, Running, look
from test_leave import left, segment_of

from mos import DROP, on
from mos.events import StreamData, StreamGap
from mos.testing import tcp

SECOND = 1_000_000_000
A, B = "10.0.0.1:1234", "10.0.0.2:80"


def seen_by(packets, tmp_path, **settings):
    """(offset, data) and gaps that a handler saw, and the segments that left."""
    told = []

    @on(StreamData, where="to_server")
    def look(ev):
        told.append((ev.offset, ev.data))
        return DROP if ev.data == b"evil" else None

    @on(StreamGap)
    def gap(ev):
        told.append(("gap", ev.offset, ev.length))
    engine, out = left([box(look, gap)], packets, tmp_path, truth="inline", **settings)
    assert_balanced(engine.stats())
    return told, [segment_of(frame) for frame in out]


def under_way(c, lost):
    """The packets of `c` without its handshake and those that passed before."""
    return [p for i, p in enumerate(c.packets) if i >= 3 and i not in lost]


def test_a_stream_begins_where_its_receiver_is(tmp_path):
    """Nothing says yet what it has: the first segment leaves without its bytes, and asks."""
    c = tcp(A, B).send(b"abc", ack=False).send(b"def", ack=False).ack().retransmit(5).ack()
    told, out = seen_by(under_way(c, {3}), tmp_path)
    assert [len(s.data) for s in out[:2]] == [0, 0] and out[0].dport == 80
    assert (c.packets[4][1][38:42] != out[0].pack()[4:8]) and told == []


def test_what_was_lost_before_comes_again_and_is_seen(tmp_path):
    """The first of two segments was lost before we came, the second passes us: the receiver misses the first."""
    c = tcp(A, B).send(b"abc", ack=False).send(b"def", ack=False)
    c.segment("server", ack=1, flags="A").segment("client", b"abc", offset=0).segment("server", ack=4, flags="A")
    c.segment("client", b"def", offset=3).ack("server")
    told, out = seen_by(under_way(c, {3}), tmp_path)
    assert told == [(0, b"abc"), (3, b"def")]
    assert b"".join(s.data for s in out if s.dport == 80) == b"abcdef" + b"def"     # it waited, and was sent again


def test_what_has_passed_before_is_no_hole(tmp_path):
    """The receiver's ACK covers what nobody here saw: the stream goes on behind it."""
    c = tcp(A, B).send(b"abc", ack=False).segment("server", ack=1, flags="A").send(b"def", ack=False).ack("server")
    c.send(b"ghi").send(b"jkl")
    packets = under_way(c, {3})
    told, out = seen_by(packets, tmp_path)
    assert told[-2:] == [(told[-2][0], b"ghi"), (told[-2][0] + 3, b"jkl")] and told[0][1] != b"abc"
    assert b"".join(s.data for s in out if s.dport == 80).endswith(b"ghijkl")


def test_nothing_slips_in_before_the_beginning(tmp_path):
    """A sender begins ahead of what the receiver expects, to fill the hole behind the chain's back: it is seen first."""
    c = tcp(A, B).segment("client", b"later", offset=4, flags="A").segment("client", b"evil", offset=0, flags="A")
    c.segment("server", ack=1, flags="A").segment("client", b"evil", offset=0, flags="A")
    c.segment("client", b"later", offset=4, flags="A")
    told, out = seen_by(under_way(c, set()), tmp_path)
    assert b"evil" not in b"".join(s.data for s in out) and (0, b"evil") in told


def test_an_ack_from_nowhere_moves_nothing(tmp_path):
    c = tcp(A, B).segment("server", ack=1, flags="A").send(b"abc")
    spoofed = tcp(A, B, isn=(1000, 2000 + (1 << 24))).segment("server", ack=1000, flags="A")
    packets = under_way(c, set())
    packets.insert(1, (packets[0][0] + 1, spoofed.packets[3][1]))
    told, _ = seen_by(packets, tmp_path)
    assert told == [(0, b"abc")]


SOURCE = """
import socket, sys, threading
c = socket.create_connection(("10.77.0.2", 7000))
n = 0
def read():
    global n
    while data := c.recv(65536):
        n += len(data)
reader = threading.Thread(target=read)
reader.start()
print("ready", flush=True)
for i in range(int(sys.argv[1])):
    c.sendall(bytes(range(256)) * 256)
c.shutdown(socket.SHUT_WR)
reader.join()
print(n, flush=True)
"""
SINK = """
import socket, sys, time
s = socket.create_server(("10.77.0.2", 7000))
print("ready", flush=True)
c, _ = s.accept()
n = 0
while data := c.recv(65536):
    n += len(data)
    c.sendall(data[:len(data) // 3])
    time.sleep(0.0005)
c.close()
print(n, flush=True)
"""


@pytest.mark.parametrize("mode", ["full", "wire"])
def test_a_running_transfer_goes_on(tmp_path, mode):
    """Both ways over the kernel's bridge; it is taken away with frames in flight, and mos in safe mode put in its place."""
    namespaces.need()
    bed = Bed()
    try:
        bed.offload(mode)
        look(tmp_path / "look.py")
        bed.bridge()
        sink = bed.server.start(sys.executable, "-c", SINK)
        assert sink.stdout.readline() == "ready\n"
        source = bed.client.start(sys.executable, "-c", SOURCE, "600")
        assert source.stdout.readline() == "ready\n"
        time.sleep(0.3)
        bed.unbridge()
        with Running(bed, tmp_path / "look.py", "--safe", "on") as running:
            try:
                out, err = source.communicate(timeout=30)
                said = sink.communicate(timeout=20)[0]
            except subprocess.TimeoutExpired:
                source.kill(), sink.kill()
                print(running.stop())
                pytest.fail("it stalled")
            stats = running.stop()
    finally:
        bed.close()
    assert not err and int(said) == 600 * 65536 and abs(int(out) - int(said) // 3) < 20000
    assert stats["packets_in"] > 100 and stats["safe"]["bare"] >= 0
