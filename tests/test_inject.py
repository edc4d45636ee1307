"""Packets of a handler's own: frames and answers leave ahead of the packet in hand, are counted, and come again in a replay."""
import struct
import subprocess

import dpkt
import namespaces
import pytest
from boxes import assert_balanced, box, drive
from mos.io.port import Memory
from namespaces import Bed, Running
from test_leave import left

from mos import DROP, Engine, HandlerError, every, on
from mos.events import FlowStart, StreamData
from mos.io.source import open_source
from mos.run import Settings
from mos.testing import tcp, udp

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
OURS = bytes.fromhex("ffffffffffff0200000000aa88b5") + b"ours"


def test_a_frame_leaves_ahead_of_its_packet(tmp_path):
    @on(StreamData, where="to_server")
    def also(ev):
        ev.inject(OURS)
    c = udp("10.0.0.1:1", "10.0.0.2:53").send(b"a").reply(b"b")
    engine, out = left([box(also)], c, tmp_path)
    assert out == [OURS, *(frame for _, frame in c.packets)] and engine.stats()["injected"] == 1


@pytest.mark.parametrize("side, out", [(None, [1, 0]), ("back", [0, 1]), (0, [0, 0]), (1, [1, 1])])
def test_where_it_goes(side, out):
    """The first datagram comes in at interface 0, its answer at 1; each goes on to the other one."""
    @on(StreamData)
    def also(ev):
        ev.inject(OURS, side)
    c = udp("10.0.0.1:1", "10.0.0.2:53").send(b"a").reply(b"b")
    port = Memory([(ts, i, frame) for i, (ts, frame) in enumerate(c.packets)])
    with Engine([box(also)], Settings(truth="inline")) as engine:
        while engine.step(port) > 0:
            pass
    assert [s for s, frame in port.sent if frame == OURS] == out
    assert [s for s, frame in port.sent if frame != OURS] == [1, 0]
    assert_balanced(engine.stats())


def test_a_timer_says_where():
    @every(1)
    def tick(ev):
        ev.inject(OURS, 1)
    port = Memory([(START, 0, udp("10.0.0.1:1", "10.0.0.2:53").send(b"a").packets[0][1]), (START + 3 * SECOND, 0, None)])
    with Engine([box(tick)], Settings(truth="inline")) as engine:
        while engine.step(port) > 0:
            pass
        engine.inject(OURS, 0)
    assert [side for side, frame in port.sent if frame == OURS] == [1, 1, 1, 0]


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("vlan", [None, 7])
def test_an_answer_in_the_receivers_name(six, vlan, tmp_path):
    @on(StreamData, where="server_port == 53")
    def answer(ev):
        ev.reply(b"no such name" + ev.data)
        return DROP
    c = udp("10.0.0.1:1234", "10.0.0.2:53", vlan=vlan).send(b"question")
    c = c.v6() if six else c
    _, out = left([box(answer)], c, tmp_path)
    again = udp("10.0.0.2:53", "10.0.0.1:1234", vlan=vlan).send(b"no such namequestion")
    ours, theirs = (dpkt.ethernet.Ethernet(frame) for frame in (out[0], (again.v6() if six else again).packets[0][1]))
    assert len(out) == 1 and (ours.data.src, ours.data.dst) == (theirs.data.src, theirs.data.dst)
    assert bytes(ours.data.data) == bytes(theirs.data.data)         # the UDP checksum, too
    assert ours.src == dpkt.ethernet.Ethernet(c.packets[0][1]).dst
    if not six:
        old, ours.data.sum = ours.data.sum, 0
        assert dpkt.ip.IP(bytes(ours.data)).sum == old


@pytest.mark.parametrize("how, text", [
    (lambda ev: ev.inject(b"short"), "14 to"), (lambda ev: ev.inject(OURS, 2), "not 18 and 2"),
    (lambda ev: ev.reply(b"x"), "no whole UDP"),
    (lambda ev: ev.reply(bytes(66000)), "does not fit"), (lambda ev: ev.keep().inject(OURS), "stale|read after")])
def test_what_cannot_be_sent(how, text):
    @on(FlowStart)
    def bad(ev):
        how(ev)
    with pytest.raises(HandlerError, match=text):
        drive([box(bad)], tcp("10.0.0.1:1", "10.0.0.2:80"))


def test_who_only_observes_sends_nothing():
    @on(FlowStart, observe=True)
    def bad(ev):
        ev.inject(OURS)
    with pytest.raises(HandlerError, match="only observes"):
        drive([box(bad)], tcp("10.0.0.1:1", "10.0.0.2:80"))


NAMES = """
from mos import DROP, every, on
from mos.events import StreamData

@on(StreamData, where="udp and server_port == 53")
def answer(ev):
    ev.reply(b"answered: " + ev.data)
    return DROP

@every(0.25)
def beat(ev):
    ev.inject(bytes.fromhex("ffffffffffff0200000000aa88b5") + ev.time.to_bytes(8, "big") + bytes(40), 1)
"""


ASK = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
for i in range(3):
    s.sendto(b"%d" % i, ("10.77.0.2", 53))
    print(s.recv(99))
    time.sleep(0.3)
"""


def test_answers_reach_a_real_host_and_come_again_in_a_replay(tmp_path):
    """What a live run sent and what the replay of its recording sends are the same frames in the same order."""
    namespaces.need()
    bed = Bed()
    try:
        (tmp_path / "names.py").write_text(NAMES)
        with Running(bed, tmp_path / "names.py", "--record", tmp_path / "in.pcapng", "-w", tmp_path / "out.pcap") as running:
            said = bed.client.run("python3", "-c", ASK).stdout
            stats = running.stop()
    finally:
        bed.close()
    assert said.splitlines() == [f"b'answered: {i}'" for i in range(3)] and stats["injected"] >= 5
    words = ["run", tmp_path / "names.py", "-r", tmp_path / "in.pcapng", "-w", tmp_path / "again.pcap"]
    again = subprocess.run([*namespaces.MOS, *words], capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    first, second = ([record[2] for record in open_source(tmp_path / name)] for name in ("out.pcap", "again.pcap"))
    assert first == second and len([f for f in first if f[12:14] == struct.pack("!H", 0x88b5)]) >= 2
