"""mos/io/gro.py: frames that the kernel joins before we see them and cuts again, and ports left as they were found."""
import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import namespaces
import packets
import pytest
from command import MOS
from namespaces import HERE, Running, Wire

from mos import UsageError
from mos.io.gro import Joining, joins

PORTS = ("m0", "m1")
TALK = """
import os, socket, sys
if sys.argv[1] == "server":
    listener = socket.create_server(("", 7000))
    print("ready", flush=True)
    s = listener.accept()[0]
else:
    s = socket.create_connection((sys.argv[2], 7000), timeout=20)
    s.sendall(os.urandom(4_000_000))
    s.shutdown(socket.SHUT_WR)
data = b""
while more := s.recv(1 << 20):
    data += more
if sys.argv[1] == "server":
    s.sendall(data)
print(len(data))
"""

PROGRAM = """
import asyncio, mos
from mos.io.gro import joins
async def main():
    async with mos.inline("m0:m1", on_notice=print):
        print(joins("m0"), joins("m1"))
        await asyncio.sleep(0.1)
    print(joins("m0"), joins("m1"))
asyncio.run(main())
"""
REFUSED = "--gro on: {0} cannot be set (cap_net_admin); by hand: ethtool -K {0} gro on"


@pytest.fixture
def bed():
    """Ports that take and give frames one by one, as a cable carries them."""
    for one in namespaces.made():
        one.offload("wire")
        for device in PORTS:
            one.box.run("ethtool", "-K", device, "tso", "off", "tx", "off")
        yield one


def seen(bed):
    """Of each port whether it joins frames."""
    said = [bed.box.run("ethtool", "-k", device).stdout for device in PORTS]
    return ["generic-receive-offload: on" in text for text in said]


def comes_to(bed, wanted, seconds=10):
    end = time.monotonic() + seconds
    while seen(bed) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    return seen(bed) == wanted


def there_and_back(bed):
    """4 MB to the server and back: what the client read."""
    server = bed.server.start(sys.executable, "-c", TALK, "server")
    assert server.stdout.readline() == "ready\n"
    said = bed.client.run(sys.executable, "-c", TALK, "client", namespaces.SERVER).stdout
    server.communicate(timeout=20)
    return int(said)


class Seen:
    """The TCP frames that leave a host and that come to it, from its own device."""

    def __init__(self, host, device):
        self.process = host.start(sys.executable, HERE / "both_ways.py", device, stdin=subprocess.PIPE)
        assert self.process.stdout.readline() == "ready\n"

    def end(self):
        said, wrong = self.process.communicate("", timeout=30)
        assert not wrong, wrong
        return json.loads(said)


def once(frames):
    """No sequence number was sent twice."""
    return len({frame.split()[0] for frame in frames}) == len(frames)


@pytest.mark.parametrize("safe, workers", [("off", 1), ("on", 1), ("off", 2)])
def test_what_leaves_is_what_came_frame_by_frame(bed, safe, workers):
    for _ in range(8):      # until nothing had to be sent again: that may leave otherwise, and a busy machine loses frames
        with Running(bed, "monitor", "--safe", safe, "--workers", workers) as running:
            assert seen(bed) == [True, True]
            client, server = Seen(bed.client, "c0"), Seen(bed.server, "s0")
            assert there_and_back(bed) == 4_000_000
            client, server = client.end(), server.end()
            stats = running.stop()
        assert sum(stats["ports"][device]["super_packets"] for device in PORTS) > 50 and seen(bed) == [False, False]
        if once(client["sent"]) and once(server["sent"]):
            break
    else:
        pytest.fail("each of eight transfers lost frames")
    assert not any(any(stats["ports"][device]["unsent"].values()) for device in PORTS)
    for sent, received in ((client["sent"], server["received"]), (server["sent"], client["received"])):
        assert len(sent) > 2500 and received == sent


@pytest.mark.parametrize("how, wanted", [("off", False), ("keep", True)])
def test_off_and_keep(bed, how, wanted):
    for device in PORTS:
        bed.box.run("ethtool", "-K", device, "gro", "on")
    with Running(bed, "monitor", "--gro", how) as running:
        assert seen(bed) == [wanted, wanted] and there_and_back(bed) == 4_000_000
        running.stop()
    assert seen(bed) == [True, True]


@pytest.mark.parametrize("words", [[], ["--workers", "2"], ["--on-failure", "open"], ["--keep-privileges"]])
def test_put_back_in_the_end(bed, words):
    with Running(bed, "monitor", *words) as running:
        assert seen(bed) == [True, True]
        running.stop()
    assert seen(bed) == [False, False]


@pytest.mark.parametrize("words", [[], ["--on-failure", "closed"]])
def test_put_back_by_who_is_left_if_the_run_is_killed(bed, words):
    with Running(bed, "monitor", *words) as running:
        assert seen(bed) == [True, True]
        os.kill(running.worker, signal.SIGKILL)
        if words:
            assert running.hears("running ", times=2) and comes_to(bed, [True, True])
            running.process.send_signal(signal.SIGTERM)
        running.process.wait(20)
        assert comes_to(bed, [False, False])


@pytest.mark.parametrize("words", [[], ["--keep-privileges"]])
def test_a_port_that_was_made_anew_joins_too(bed, words):
    with Running(bed, "monitor", *words) as running:
        bed.box.run("ip", "link", "del", "m1")
        assert running.hears("m1 was removed")
        bed.cable(bed.server, "s0", "m1", namespaces.SERVER)
        assert running.hears("m1 is back") and comes_to(bed, [True, True])
        running.stop()
    assert seen(bed) == [False, False]


def burst(wrap):
    """Neighbouring segments, each in a packet of `wrap`."""
    inner = [packets.ip4(packets.tcp(bytes(1000), seq=1 + 1000 * i), ident=i, frag=0x4000) for i in range(60)]
    return [packets.ether(wrap(ip, i)) for i, ip in enumerate(inner)]


IN_IP = {"alone": lambda ip, i: ip, "ip4": lambda ip, i: packets.ip4(ip, 4, ident=i, frag=0x4000),
         "ip6": lambda ip, i: packets.ip6(ip, 4)}


@pytest.mark.parametrize("workers, words", [(1, []), (2, []), (1, ["--keep-privileges"])])
@pytest.mark.parametrize("tunnel", IN_IP)
def test_what_cannot_be_cut_again_is_not_joined_for_long(bed, tunnel, workers, words):
    """m0 is looked at by a thread of the kernel's, which finds several frames at a time."""
    for device in PORTS[:workers]:      # also where joining was on before
        bed.box.run("ethtool", "-K", device, "gro", "on")
    before, text = seen(bed), "m0 and m1 join no frames any more: inside tunnels there were joined ones, which are lost"
    wires = [Wire(bed.client, "c0"), Wire(bed.server, "s0")]
    try:
        with Running(bed, "monitor", "--workers", workers, *words) as running:
            bed.box.run("unshare", "-m", "sh", "-c", "mount -t sysfs none /sys; echo 1 >/sys/class/net/m0/threaded")
            end = time.monotonic() + 10
            while not running.hears(text, 0.2) and time.monotonic() < end and tunnel != "alone":
                wires[0].send(burst(IN_IP[tunnel]))
            assert running.hears(text, 0) == (tunnel != "alone") and comes_to(bed, [tunnel == "alone"] * 2)
            told = len(wires[1].received)
            wires[0].send(burst(IN_IP[tunnel]))
            assert wires[1].wait(told + 60)[told:] == burst(IN_IP[tunnel])
            stats = running.stop()
        assert seen(bed) == before
        assert tunnel == "alone" or stats["ports"]["m0"]["super_packets"]
    finally:
        for wire in wires:
            wire.close()


def test_who_may_not_is_told_the_command(bed):
    """With the privilege to open ports alone."""
    few = ["capsh", "--drop=cap_net_admin", "--", "-c", 'exec "$@"', "sh"]
    if subprocess.run(["which", "capsh"], capture_output=True).returncode:
        pytest.skip("NOT RUN: apt-get install libcap2-bin")
    with Running(bed, "monitor", before=few) as running:
        assert running.hears(REFUSED.format("m0")) and running.hears(REFUSED.format("m1"))
        assert seen(bed) == [False, False] and there_and_back(bed) == 4_000_000
        running.stop()
    said = bed.box.run(*few, sys.executable, "-c", PROGRAM, env=os.environ | {"PYTHONPATH": str(HERE.parent)}).stdout
    assert said.splitlines() == ["False False", REFUSED.format("m0"), REFUSED.format("m1"), "False False"]


def test_in_a_program_of_ones_own(bed):
    said = bed.box.run(sys.executable, "-c", PROGRAM, env=os.environ | {"PYTHONPATH": str(HERE.parent)}).stdout
    assert said == "True True\nFalse False\n"


@pytest.mark.parametrize("words, reason", [
    (["-i", "lo", "--gro", "on"], "--gro is for two interfaces (-i A:B): a tap or a capture leaves frames as they come"),
    (["-i", "lo:lo", "--gro", "maybe"], "--gro is 'maybe'; choose one of on, off, keep")])
def test_what_cannot_be_asked_for(words, reason):
    ran = subprocess.run([*MOS, "run", "monitor", *words], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 2 and ran.stderr == f"mos: {reason}\n"


def test_nothing_is_set_that_is_not_there():
    one = Joining(["no-such-port"], "on")
    one.set()
    one.restore()
    assert joins("no-such-port") is None and not one.refused and not one.before
    with pytest.raises(UsageError, match="gro is 'often'; choose one of on, off, keep"):
        import mos
        asyncio.run(mos.inline("a:b", gro="often").__aenter__())
