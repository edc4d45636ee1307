"""mos/io/interfaces.py: links that come and go under a running pair, and what is said of interfaces that cannot be opened."""
import socket
import time

import namespaces
import pytest
from namespaces import SERVER, Running, Wire

from mos.errors import UsageError
from mos.io import interfaces

FRAME = bytes.fromhex("0200000000d1" "0200000000c1" "88b5") + bytes(46)


bed = namespaces.own_bed


def passes(bed, mark):
    """Whether a frame crosses, each way."""
    frames = [FRAME[:-1] + bytes([mark])]
    wires = [Wire(bed.client, "c0"), Wire(bed.server, "s0")]
    wires[0].send(frames)
    wires[1].send(frames)
    crossed = frames[0] in wires[1].wait(1) and frames[0] in wires[0].wait(1)
    for wire in wires:
        wire.close()
    return crossed


def test_a_link_goes_down_and_comes_back(bed):
    with Running(bed, "monitor") as running:
        assert passes(bed, 1)
        bed.box.run("ip", "link", "set", "m1", "down")
        assert running.hears("m1 is down")
        wire = Wire(bed.client, "c0")
        wire.send([FRAME] * 3)
        time.sleep(0.5)     # until they have come, which nobody tells
        bed.box.run("ip", "link", "set", "m1", "up")
        assert running.hears("m1 is up")
        assert passes(bed, 2)
        wire.close()
        stats = running.stop()
    assert stats["ports"]["m1"]["unsent"] == {"over_mtu": 0, "busy": 0, "down": 3, "failed": 0}


def test_a_link_that_is_down_from_the_start_is_told(bed):
    bed.box.run("ip", "link", "set", "m1", "down")
    with Running(bed, "monitor") as running:
        assert running.hears("m1 is down")
        bed.box.run("ip", "link", "set", "m1", "up")
        assert running.hears("m1 is up")
        assert passes(bed, 1)
        running.stop()
    assert not any("m0 is" in line for line in running.said)


def test_the_mtu_changes(bed):
    with Running(bed) as running:
        for device, host in (("m1", bed.box), ("m0", bed.box), ("c0", bed.client), ("s0", bed.server)):
            host.run("ip", "link", "set", device, "mtu", "9000")
        assert running.hears("m1: the MTU is 9000 now") and running.hears("m0: the MTU is 9000 now")
        wires = [Wire(bed.client, "c0"), Wire(bed.server, "s0")]
        frames = [FRAME + bytes([n]) * n for n in (10, 200, 250)] + [FRAME[:14] + bytes(9000)]
        wires[0].send(frames)
        assert wires[1].wait(4) == frames
        for wire in wires:
            wire.close()
        running.stop()


def test_an_interface_is_removed_and_made_anew(bed):
    with Running(bed, "monitor") as running:
        assert passes(bed, 1)
        bed.box.run("ip", "link", "del", "m1")
        assert running.hears("m1 was removed; packets for it are dropped until it is back")
        wire = Wire(bed.client, "c0")
        wire.send([FRAME] * 2)
        time.sleep(0.5)
        bed.cable(bed.server, "s0", "m1", SERVER)
        assert running.hears("m1 is back")
        bed.box.run("ip", "link", "set", "m1", "up")
        wire.close()
        assert passes(bed, 2)
        stats = running.stop()
    assert stats["ports"]["m1"]["unsent"]["down"] == 2
    assert stats["packets_in"] == 6


def test_what_is_not_there_is_named_with_what_is():
    with pytest.raises(UsageError, match=r"no interface is called 'lo9'; did you mean lo\? There are .*lo"):
        interfaces.must_exist("lo9")
    assert interfaces.link_state("nonesuch") is None
    assert "lo" in interfaces.names()


def test_without_permission_the_command_that_gives_it_is_named(monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(interfaces, "must_exist", lambda name: None)
    monkeypatch.setattr(interfaces, "ask", lambda *args: 1)
    with pytest.raises(UsageError, match=r"no permission to open lo: run as root \(sudo\), or once: "
                                         r"sudo setcap cap_net_raw,.*\+ep /"):
        interfaces.Sockets("lo")
