"""mos/box.py: a chain in an asyncio program, on asyncio and on uvloop, in the loop and in a thread of its own."""
import asyncio
import json
import os
import re
import sys
import threading
import time

import pytest
import test_live
from mos.io.port import Memory
from namespaces import HERE

import mos
from mos import DROP_FLOW, HandlerError, UsageError, on
from mos.events import FlowEnd, FlowStart, PacketIn, StreamData, Timer
from mos.testing import tcp, udp

LOOPS = ["asyncio", "uvloop"]
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


@pytest.fixture(params=LOOPS)
def run(request):
    """`asyncio.run`, or uvloop's."""
    return pytest.importorskip(request.param, reason=f"{request.param} is NOT tried: pip install {request.param}").run


@pytest.fixture(params=[False, True], ids=["loop", "thread"])
def thread(request):
    return request.param


def frames(n=3):
    """(ts, side, frame) of `n` conversations one after the other."""
    return [(ts + i * SECOND, int(frame[26:30] != bytes([10, 0, 0, 1])), frame) for i in range(n) for ts, frame in
            tcp(f"10.0.0.1:{1000 + i}", "10.0.0.2:80").send(b"ask%d" % i).reply(b"answer").close()]


def test_events_are_iterated_and_frames_forwarded(run, thread):
    port = Memory(frames())

    async def main():
        told = []
        async with mos.inline(port, thread=thread) as box:
            async for ev in box.events(FlowEnd, StreamData, where="tcp"):
                told.append(ev.reason if isinstance(ev, FlowEnd) else ev.data)
        return told
    told = run(main())
    assert len(port.sent) == len(frames()) and all(side == 1 - port.packets[i][1] for i, (side, _) in enumerate(port.sent))
    assert told.count(b"answer") == 3 and {b"ask0", b"ask1", b"ask2"} <= {*told} and len(told) == 9


def test_verdicts_hold_and_async_handlers_observe(run, thread):
    port = Memory(frames())
    told = []

    @on(FlowStart, where="client_port == 1001")
    def refuse(ev):
        return DROP_FLOW("no")

    @on(StreamData)
    async def look(ev):
        await asyncio.sleep(0)
        told.append(ev.data)

    async def main():
        async with mos.inline(port, [refuse, look], thread=thread) as box:
            await box.wait()
            return await box.stats()
    stats = run(main())
    assert told == [b"ask0", b"answer", b"ask2", b"answer"]     # those queued at the end, too
    assert stats["dropped"] == {"refuse": len(frames()) // 3} and stats["observers"]["look.look"]["told"] == 4


def test_slow_readers_lose_events_not_packets(run):
    port = Memory(frames(20))

    async def main():
        async with mos.inline(port, queue=2) as box:
            slow, all_of_it = box.events(PacketIn), box.events(FlowEnd, queue=100)
            await box.wait()
            return [ev.packet.number async for ev in slow], [ev async for ev in all_of_it], (await box.stats())["observers"]
    numbers, ends, told = run(main())
    assert numbers == [1, 2] and len(ends) == 20 and len(port.sent) == len(frames(20))
    slow, other = told.values()
    assert slow == {"told": 2, "dropped": len(frames(20)) - 2, "waiting": 0, "errors": 0} and other["dropped"] == 0


def test_time_goes_by_without_packets(run):
    datagram = udp("10.0.0.1:5", "10.0.0.2:53", start_ns=START).send(b"x").packets[0][1]
    port = Memory([(START, 0, datagram), (START + 200 * SECOND, 0, None)])

    async def main():
        async with mos.inline(port) as box:
            return [(ev.reason, ev.time) async for ev in box.events(FlowEnd)]
    assert run(main()) == [("idle", START + 200 * SECOND)]


def test_a_handler_that_raises_ends_it_where_asked_to(run, thread):
    @on(PacketIn)
    def bad(ev):
        raise ValueError("no")

    @on(PacketIn)
    async def later(ev):
        raise KeyError("later")

    async def main(handler, reached):
        async with mos.inline(Memory(frames()), handler, thread=thread, raise_errors=True) as box:
            await box.wait()
            reached.append(1)
            await asyncio.sleep(10)     # interrupted at the latest here
            reached.append(2)
    for handler, text in ((bad, "bad.bad raised ValueError at packet 1"), (later, "later.later raised KeyError at packet 1")):
        reached = []
        with pytest.raises(HandlerError, match=text):
            run(main(handler, reached))
        assert 2 not in reached
    assert not [t for t in threading.enumerate() if t.name.startswith("mos")]


def test_cancelling_and_leaving_close_everything(run, thread):
    """`abandoned`: NFs are not told of an end that was none."""
    stopped = []

    class Says(mos.NF):
        @on(FlowEnd)
        def end(self, ev):
            stopped.append(ev.reason)

    async def body(leave):
        ticks = [(START + SECOND + i, 0, None) for i in range(1_000_000)]      # a second of them
        async with mos.inline(Memory(frames(1)[:3] + ticks), Says(), thread=thread) as box:
            events = box.events(FlowStart)
            await events.__anext__()
            if leave == "raise":
                raise RuntimeError("body")
            if leave == "return":
                return
            await asyncio.sleep(60)

    async def cancelled():
        task = asyncio.ensure_future(body("wait"))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1
    with pytest.raises(RuntimeError, match="body"):
        run(body("raise"))
    assert stopped == []
    run(body("return"))
    assert stopped == ["shutdown"]
    run(cancelled())
    assert stopped == ["shutdown"]
    assert not [t for t in threading.enumerate() if t.name.startswith("mos")]


def test_call_runs_where_the_stack_does(run, thread):
    port = Memory(frames(1)[:4] + [(START + i * SECOND // 1000, 0, None) for i in range(300_000)])
    fired = []

    @on(Timer)
    def fire(ev):
        fired.append(ev.value)

    async def main():
        async with mos.inline(port, fire, thread=thread) as box:
            ev = await box.events(FlowStart).__anext__()
            if thread:
                with pytest.raises(mos.MosError, match="box.call"):
                    ev.flow.timer(1)
            await box.call(ev.flow.timer, 1, "mine")
            with pytest.raises(ZeroDivisionError):
                await box.call(lambda: 1 / 0)
            await box.wait()
    run(main())
    assert fired == ["mine"]


def test_what_is_wrong_is_said():
    async def late():
        async with mos.inline(Memory(frames())) as box:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            box.events(FlowEnd)

    async def wrong(**how):
        async with mos.inline(Memory([])) as box:
            box.events(FlowEnd, **how)

    async def twice():
        box = mos.inline(Memory([]))
        async with box:
            pass
        async with box:
            pass

    async def nonesuch():
        async with mos.inline("nonesuch:lo"):
            pass

    async def broken():
        class Bad(mos.NF):
            @on(PacketIn)
            def see(self, ev): ...

            def start(self, engine):
                raise UsageError("no start")
        async with mos.inline(Memory(frames()), Bad()) as box:
            await box.wait()
    for coroutine, text in ((late(), "too late"), (wrong(where="nonesuch == 3"), "nonesuch"),
                            (wrong(at="acked"), "for stream events"), (twice(), "once"), (nonesuch(), "no interface"),
                            (broken(), "no start")):
        with pytest.raises(UsageError, match=text):
            asyncio.run(coroutine)
    with pytest.raises(UsageError, match="too early"):
        mos.inline(Memory([])).events()
    with pytest.raises(UsageError, match="no middlebox"):
        mos.inline(Memory([]), [3])


server = test_live.server

LIVE = """
import asyncio, json, sys, time
import mos
from mos import RESET, on
from mos.events import FlowEnd, FlowStart, StreamData

@on(FlowStart, where="server_port == 82")
def reset(ev): return RESET("no")

@on(StreamData)
async def look(ev): print(json.dumps(["data", ev.data.decode('latin-1')]), flush=True)

async def main(thread):
    ticks = 0
    async with mos.inline("m0:m1", [reset, look], thread=thread, timeouts={"DATAGRAM": 1}) as box:
        events = box.events(FlowEnd)
        print("running", flush=True)
        asyncio.get_running_loop().add_reader(0, box.stop)
        async for ev in events:
            print(json.dumps([ev.reason, ev.server_port, await box.call(lambda: box.engine.clock) - ev.time]), flush=True)
        print(json.dumps(await box.stats()), flush=True)

__import__(sys.argv[1]).run(main(sys.argv[2] == "True"))
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_between_real_hosts(bed, server, loop, thread):
    """Data passes, RESET holds, an idle flow ends though nothing comes, and it ends when it is told to."""
    pytest.importorskip(loop, reason=f"{loop} is NOT tried")
    bed.offload("full")
    process = bed.box.start(sys.executable, "-c", LIVE, loop, str(thread), stdin=-1, cwd=HERE.parent)
    try:
        assert process.stdout.readline() == "running\n", process.stderr.read()
        knock = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('10.77.0.2', 9))"
        bed.client.run(sys.executable, "-c", knock)
        assert test_live.ask(bed, 80) == "hello from 10.77.0.1"
        assert test_live.ask(bed, 82) == "ConnectionRefusedError"
        idle = []
        while "idle" not in idle:
            idle = json.loads(process.stdout.readline())
        assert idle[1] == 9
        process.stdin.write("\n")
        process.stdin.flush()
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    lines = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0 and not err, err
    assert lines[-1]["dropped"] == {"reset": lines[-1]["dropped"]["reset"]} and lines[-1]["observers"]["look.look"]["errors"] == 0
    assert not any(sum(side["unsent"].values()) for side in lines[-1]["ports"].values())


def test_an_interface_may_go_and_come_back(bed):
    """The loop's descriptor stays, and nothing spins meanwhile."""
    bed.box.run("ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
    program = LIVE.replace("m0:m1", "x0:x1").replace("thread=thread,", "thread=thread, on_notice=lambda t: print(t, flush=True),")
    process = bed.box.start(sys.executable, "-c", program, "asyncio", "False", stdin=-1, cwd=HERE.parent)
    try:
        assert process.stdout.readline() == "running\n", process.stderr.read()
        for words, said in ((["add"], None), (["del", "x0"], "x0 was removed"),
                            (["add", "x0", "type", "veth", "peer", "name", "x1"], "x0 is back")):
            if said is None:
                continue
            bed.box.run("ip", "link", *words)
            line = ""
            while said not in line:
                line = process.stdout.readline()
                assert line, process.stderr.read()
        bed.box.run("ip", "link", "set", "x0", "up")
        bed.box.run("ip", "link", "set", "x1", "up")
        time.sleep(0.5)
        process.stdin.write("\n")
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert json.loads(out.splitlines()[-1])["ports"].keys() == {"x0", "x1"}


def test_the_example(bed, server):
    process = bed.box.start(sys.executable, HERE.parent / "examples" / "inline" / "watch.py", "m0:m1", "3",
                            env=os.environ | {"PYTHONPATH": str(HERE.parent)})
    assert process.stdout.readline() == "running\n", process.stderr.read()
    assert test_live.ask(bed, 80) == "hello from 10.77.0.1"
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "10.77.0.1 asked 10.77.0.2: hello" in out and re.search(r":80 ended: (fin|shutdown)", out)
    assert "dropped for slow readers: 0" in out
