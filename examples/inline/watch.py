"""python watch.py A:B [SECONDS]: between two interfaces in an asyncio program; on uvloop where that is installed.

The firewall's answer is given before the packet is forwarded. What is async is told afterwards, and no packet waits for it.
"""
import asyncio
import sys

import mos
from mos import RESET, on
from mos.events import FlowEnd, FlowStart, StreamData


@on(FlowStart, where="server_port == 8080")
def second_server(ev):
    return RESET("no second web server")


@on(StreamData, where="to_server and length > 3")
async def request(ev):
    await asyncio.sleep(0.01)           # a database, a message bus …
    print(f"{ev.client} asked {ev.server}: {ev.data[:40].splitlines()[0].decode('latin-1')}", flush=True)


async def main(interfaces, seconds):
    async with mos.inline(interfaces, [second_server, request]) as box:
        ends = box.events(FlowEnd, where="tcp")
        print("running", flush=True)
        asyncio.get_running_loop().call_later(seconds, box.stop)
        async for ev in ends:
            print(f"{ev.flow} ended: {ev.reason}", flush=True)
        told = (await box.stats())["observers"]
        print(f"dropped for slow readers: {sum(reader['dropped'] for reader in told.values())}")


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1e9))
