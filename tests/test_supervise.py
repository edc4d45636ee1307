"""mos/supervise.py: what passes when a run is killed, hangs, leaks or raises, between real kernels; what is left afterwards."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import test_port
from namespaces import HERE, MOS, SERVER, Running, Wire
from test_live import ASK, SERVE

from mos import privileges
from mos.supervise import anonymous, most_memory

FRAME = bytes.fromhex("0200000000d1" "0200000000c1" "88b5") + bytes(46)
# What a frame of this type asks for. The pattern keeps the interpreter busy in C, so that no other thread gets a turn.
MISBEHAVES = """
import os, re, time
from mos import on
from mos.events import PacketIn, StreamData

kept = []

@on(PacketIn, where="not udp and not tcp and not icmp")
def told(ev):
    what = bytes(ev.packet.data[12:20])
    if what == b"\\x88\\xb6hang..":
        re.match("(a+)+$", "a" * 64 + "b")
    if what == b"\\x88\\xb6leak..":
        while True:
            kept.append(bytes(1 << 20).replace(b"\\0", b"x"))
    if what == b"\\x88\\xb6exit..":
        os._exit(7)
    while what == b"\\x88\\xb6deaf..":
        try:
            time.sleep(60)
        except BaseException:
            pass

@on(StreamData)
def bad(ev): raise ValueError("no")
"""


def order(what):
    return bytes.fromhex("0200000000d1" "0200000000c1" "88b6") + what + b".." + bytes(40)


@pytest.fixture
def box(tmp_path):
    path = tmp_path / "box.py"
    path.write_text(MISBEHAVES)
    return path


class Ends:
    """Both ends of the cables; `cross` says how many of n frames, each another, come through each way."""

    def __init__(self, bed):
        self.wires = [Wire(bed.client, "c0"), Wire(bed.server, "s0")]
        self.mark = 0

    def cross(self, n=20, seconds=10):
        frames = []
        for _ in range(n):
            self.mark += 1
            frames.append(FRAME[:-2] + self.mark.to_bytes(2, "big"))
        for wire in self.wires:
            wire.send(frames)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            came = [sum(frame in wire.received for frame in frames) for wire in self.wires]
            if came == [n, n]:
                break
            time.sleep(0.02)
        return came

    def close(self):
        for wire in self.wires:
            wire.close()


@pytest.fixture
def ends(bed):
    ends = Ends(bed)
    yield ends
    ends.close()


def bridges(bed):
    return bed.box.run("ip", "-br", "link", "show", "type", "bridge").stdout.split()[:2]


def ports(bed):
    return {link.get("master") for link in json.loads(bed.box.run("ip", "-j", "link").stdout) if link["ifname"] in ("m0", "m1")}


@pytest.mark.parametrize("mode", ["full", "wire"])
@pytest.mark.parametrize("again", [True, False], ids=["again", "never"])
def test_killed_under_load_connections_go_on(bed, box, mode, again):
    """A connection that the run tracks is carried by the bridge, and again by the run if that starts again: every byte comes."""
    bed.offload(mode)
    box.write_text(test_port.COUNT)
    size = 200_000_000 if mode == "full" else 60_000_000
    serving = bed.server.start(sys.executable, HERE / "transfer.py", "serve", SERVER, 5001, size)
    assert serving.stdout.readline() == "ready\n", serving.stderr.read()
    with Running(bed, box, "--on-failure", "open") as running:
        before = sent(bed)
        sending = bed.client.start(sys.executable, HERE / "transfer.py", "send", SERVER, 5001, size)
        assert until(lambda: sent(bed) > before + size / 10)
        if not again:
            box.unlink()
        os.kill(running.worker, signal.SIGKILL)
        assert running.hears("the run was killed by SIGKILL; everything passes unseen; starting again in 1 s")
        assert sending.poll() is None, "all was sent before it began"
        said, trouble = sending.communicate(timeout=100)
        assert not trouble, trouble + "".join(running.said)
        theirs, said = serving.communicate(timeout=30)[0].strip(), said.strip()
        assert (theirs, said) == (test_port.digest("client", size), test_port.digest("server", size))
        if again:
            assert running.hears("running between", times=2)
            running.stop()
            assert not bridges(bed) and ports(bed) == {None}


def sent(bed):
    """Bytes that have come out of the client's device."""
    return json.loads(bed.client.run("ip", "-j", "-s", "link", "show", "c0").stdout)[0]["stats64"]["tx"]["bytes"]


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("passes", ["open", "closed"])
def test_what_passes_while_it_cannot_be_started_again(bed, box, ends, passes):
    n, wait = 20, 10 if passes == "open" else 0.8
    with Running(bed, box, "--on-failure", passes) as running:
        assert bridges(bed)[1] == "DOWN"
        assert ends.cross(n) == [n, n]
        kept = box.read_text()
        box.unlink()
        os.kill(running.worker, signal.SIGKILL)
        what = "everything passes unseen" if passes == "open" else "nothing passes"
        assert running.hears(f"the run was killed by SIGKILL; {what}; starting again in 1 s")
        assert ends.cross(n, wait) == ([n, n] if passes == "open" else [0, 0])
        assert running.hears(f"the run ended with status 2; {what}; starting again in 2 s")
        assert ends.cross(n, wait) == ([n, n] if passes == "open" else [0, 0])
        box.write_text(kept)
        assert running.hears("running between", times=2)
        assert ends.cross(n) == [n, n]
        stats = running.stop()
    assert stats["packets_in"] == 2 * n, "what the bridge has passed was taken, too"
    assert not bridges(bed) and ports(bed) == {None}
    assert ends.cross(5, 0.5) == [0, 0]


def test_a_run_that_hangs_is_seen_from_outside(bed, box, ends):
    with Running(bed, box, "--on-failure", "open", "--hang-after", "3") as running:
        time.sleep(4)                 # nothing comes: that is no hang
        assert not any("hangs" in line for line in running.said)
        ends.wires[0].send([order(b"hang")])
        assert running.hears("the run hangs: no packet was worked off for 3.")
        assert running.hears("(--hang-after 3); it was killed; everything passes unseen")
        assert running.hears('box.py", line 12 in told')        # where it hung
        assert running.hears("running between", times=2)
        assert ends.cross() == [20, 20], running.said
        running.stop()


def test_a_second_signal_ends_what_hangs(bed, box, ends):
    with Running(bed, box, "--on-failure", "closed", "--hang-after", "60") as running:
        ends.wires[0].send([order(b"deaf")])
        time.sleep(0.5)
        for _ in range(2):
            running.process.send_signal(signal.SIGINT)
            time.sleep(0.5)         # or the two are one
        assert running.process.wait(20) == 128 + signal.SIGKILL
        assert running.hears("the run did not end within 2 s; it was killed")
    assert not bridges(bed)


def test_a_run_that_takes_too_much_memory_is_ended(bed, box, ends):
    with Running(bed, box, "--on-failure", "closed", "--max-memory", "300M", "--hang-after", "60") as running:
        ends.wires[0].send([order(b"leak")])
        assert running.hears("MB (--max-memory 300M); it was killed; nothing passes")
        assert running.hears("running between", times=2)
        assert ends.cross() == [20, 20]
        running.stop()


@pytest.mark.parametrize("passes", ["open", "closed"])
def test_the_packet_of_a_handler_that_raises(bed, box, passes):
    serving = bed.server.start(sys.executable, "-c", SERVE)
    try:
        assert serving.stdout.readline() == "ready\n"
        with Running(bed, box, "--on-failure", passes) as running:
            said = bed.client.run(sys.executable, "-c", ASK, 80).stdout.strip()
            assert said == ("hello from 10.77.0.1" if passes == "open" else "TimeoutError")
            running.stop()
    finally:
        serving.kill()
        serving.communicate()


def test_outputs_of_a_run_that_is_started_again_are_others(bed, box, ends, tmp_path):
    with Running(bed, box, "--on-failure", "closed", "--log", tmp_path / "log.jsonl") as running:
        ends.wires[0].send([order(b"exit")])
        assert running.hears("the run ended with status 7; nothing passes")
        assert running.hears("running between", times=2)
        running.stop()
    assert (tmp_path / "log.2.jsonl").exists()


@pytest.mark.parametrize("words", [("--on-failure", "open", "-c", "nonesuch.toml"), ("nonesuch", "--on-failure", "closed"),
                                   ("nat", "--on-failure", "open", "--set", "nat.external=192.0.2.1")])
def test_what_cannot_start_is_not_started_again(bed, words):
    ran = bed.box.run(*MOS, "run", *words, "-i", "m0:m1", check=False, env=os.environ | {"PYTHONPATH": str(HERE.parent)})
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1, ran.stderr
    assert ("nat rewrites packets" in ran.stderr) == ("nat" in words)
    assert not bridges(bed) and ports(bed) == {None}


def test_a_rewriting_chain_may_accept_to_lose_flows(bed):
    with Running(bed, "nat", "--on-failure", "open=new-flows", "--set", "nat.external=192.0.2.1") as running:
        running.stop(signal.SIGINT)


def test_nothing_passes_when_the_supervisor_dies_and_the_next_one_clears_up(bed, box, ends):
    with Running(bed, box, "--on-failure", "open") as running:
        child = running.worker
        running.process.kill()
        assert until(lambda: not os.path.exists(f"/proc/{child}"))
        assert ends.cross(5, 0.5) == [0, 0]
        assert bridges(bed)[1] == "DOWN"
    with Running(bed, box, "--on-failure", "closed") as running:
        assert ends.cross() == [20, 20]
        again = bed.box.run(*MOS, "run", "-i", "m1:m0", "--on-failure", "open", check=False,
                            env=os.environ | {"PYTHONPATH": str(HERE.parent)})
        assert again.returncode == 2 and "another mos run stands behind m1 and m0 already" in again.stderr
        assert ends.cross() == [20, 20]
        running.stop()
    assert not bridges(bed)


def test_it_may_do_what_starting_again_takes_and_its_child_nothing(bed):
    with Running(bed, "--on-failure", "open") as running:
        bits = privileges.BITS
        allowed = sum(1 << bits[name] for name in (*privileges.PORTS, "cap_dac_override"))
        own = privileges.held("CapPrm", running.process.pid)
        assert own & ~allowed == 0 and own >> bits["cap_net_admin"] & 1
        assert privileges.held("CapPrm", running.worker) == 0
        with open(f"/proc/{running.worker}/oom_score_adj") as f:
            assert f.read() == "500\n"
        running.stop()


def test_it_ends_in_time_whatever_has_failed(bed, box, ends):
    """--for counts from the first start."""
    with Running(bed, box, "--on-failure", "closed", "--for", "5") as running:
        ends.wires[0].send([order(b"exit")])
        running.wait()
    assert sum("running between" in line for line in running.said) == 2


def test_memory():
    grows = subprocess.Popen([sys.executable, "-c", "x = b'x' * (64 << 20); print(flush=True); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    grows.stdout.readline()
    assert 64 << 20 < anonymous(grows.pid) < 128 << 20
    grows.communicate(b"\n")
    assert anonymous(grows.pid) == 0
    assert 1 << 24 < most_memory() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def is_gone(pid):
    """Not there, or dead and not yet buried by whoever does that here."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_workers_are_watched_each(bed, box, ends):
    """The worker that hangs takes all with it: frames without a flow go to one of them."""
    with Running(bed, box, "--on-failure", "open", "--hang-after", "3", "--workers", "2") as running:
        assert ends.cross() == [20, 20]
        first = running.worker
        with open(f"/proc/{first}/task/{first}/children") as f:
            workers = f.read().split()
        assert len(workers) == 2
        ends.wires[0].send([order(b"hang")])
        assert running.hears("the run hangs") and running.hears("running between", times=2)
        assert all(is_gone(pid) for pid in (first, *workers))
        assert ends.cross() == [20, 20]
        os.kill(running.worker, signal.SIGKILL)
        assert running.hears("killed by SIGKILL; everything passes unseen") and running.hears("running between", times=3)
        assert ends.cross() == [20, 20]
        running.stop()
