"""`python bench/connections.py`: a million connections opened and closed through firewall and NAT, between two real kernels.

Sixteen inside addresses share sixteen external ones; eight server ports, the last of which a rule resets. Nothing else may fail.
What is planned: 64,512 ports an external address are as many mappings as an inside address can have, and a closed flow keeps
its mapping for the time of its TIME_WAIT. With --timewait 60, as hosts have it, a million flows are in the table at a time.

Linux forgets a half-open connection, and resets it when the client goes on, if its own interface refuses the SYN-ACK that it
repeats after a second; a veth without a queue refuses what its peer has not taken in time, 256 frames at most. So a box that stands
still with more connections half open, or a bridge, would seem to reset some: the hosts have queues here (Linux 6.16 and later wait
with what is in them), and frames that they lost themselves are told.
"""
import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from namespaces import SERVER, Bed, Running, why_not  # noqa: E402

FIRST, PORTS, ADDRESSES = 7000, 8, 16
REFUSED = FIRST + PORTS - 1
INSIDE, OUTSIDE = [[f"10.77.0.{start + i}" for i in range(ADDRESSES)] for start in (32, 64)]
RULES = f"""
[[rule]]
name = "no service"
action = "reset"
server_port = {REFUSED}
"""
CHAIN = """
[run]
interface = "m0:m1"
max_flows = {flows}
timeouts = {{ TIME_WAIT = {timewait} }}
[[nf]]
use = "firewall"
rules = "{rules}"
[[nf]]
use = "nat"
external = {outside}
inside = ["10.77.0.32/28"]
"""


def compiled(where):
    program = str(Path(where) / "connections")
    subprocess.run(["gcc", "-O2", "-w", "-o", program, ROOT / "bench" / "connections.c"], check=True)
    return program


def prepare(bed):
    """Addresses on the client, and the way back to those that stand for them."""
    bed.offload("wire")
    for address in INSIDE:
        bed.client.run("ip", "address", "add", f"{address}/24", "dev", "c0")
    mac = json.loads(bed.client.run("ip", "-j", "link", "show", "c0").stdout)[0]["address"]
    for address in OUTSIDE:
        bed.server.run("ip", "neighbour", "replace", address, "lladdr", mac, "dev", "s0")
    for host, device in ((bed.client, "c0"), (bed.server, "s0")):
        host.run("tc", "qdisc", "replace", "dev", device, "root", "pfifo", "limit", 100_000)
        host.run("sh", "-c", "cd /proc/sys/net/ipv4; echo 1024 65535 >ip_local_port_range; echo 1 >tcp_tw_reuse; "
                 "echo 0 >tcp_syncookies; echo 65535 >tcp_max_syn_backlog; echo 65535 >../core/somaxconn")
    server = json.loads(bed.server.run("ip", "-j", "link", "show", "s0").stdout)[0]["address"]
    bed.client.run("ip", "neighbour", "replace", SERVER, "lladdr", server, "dev", "c0")
    bed.server.run("ip", "neighbour", "replace", "10.77.0.1", "lladdr", mac, "dev", "s0")


def lost_by(host, device):
    """Frames that a host lost before they had left."""
    return json.loads(host.run("ip", "-j", "-s", "link", "show", device).stdout)[0]["stats64"]["tx"]["dropped"]


def stalls(process, seconds, over):
    """Stop the box for so long, and let it run for twice as long, again and again."""
    while not over.wait(2 * seconds):
        process.send_signal(signal.SIGSTOP)
        over.wait(seconds)
        process.send_signal(signal.SIGCONT)


def run(connections, together=500, timewait=60, bed=None, stall=0):
    """Numbers of one run; `bed`: one to use and leave."""
    own = bed is None
    bed = bed or Bed()
    with tempfile.TemporaryDirectory() as where:
        program = compiled(where)
        (Path(where) / "rules.toml").write_text(RULES)
        (Path(where) / "chain.toml").write_text(CHAIN.format(
            timewait=timewait, rules=f"{where}/rules.toml", outside=json.dumps(OUTSIDE), flows=1 << 21))
        prepare(bed)
        server = bed.server.start(program, "serve", str(FIRST), str(PORTS))
        try:
            assert server.stdout.readline() == "ready\n", server.stderr.read()
            with Running(bed, "-c", f"{where}/chain.toml") as running:
                began, over = time.monotonic(), threading.Event()
                stalling = threading.Thread(target=stalls, args=(running.process, stall, over))
                if stall:
                    stalling.start()
                said = bed.client.run(program, "open", connections, together, SERVER, FIRST, PORTS, INSIDE[0], ADDRESSES,
                                      timeout=3600)
                seconds = time.monotonic() - began
                over.set()
                if stall:
                    stalling.join()
                stats = running.stop()
            lost = lost_by(bed.client, "c0") + lost_by(bed.server, "s0")
        finally:
            server.send_signal(signal.SIGKILL)
            server.communicate()
            if own:
                bed.close()
    by_port = json.loads(said.stdout)
    asked_for = sum(n for why, n in by_port[str(REFUSED)].items() if why != "done")
    failed = {port: {why: n for why, n in v.items() if why != "done"} for port, v in by_port.items() if int(port) != REFUSED}
    return {"connections": connections, "done": sum(v["done"] for v in by_port.values()), "refused by the rule": asked_for,
            "failures not asked for": sum(sum(f.values()) for f in failed.values()),
            "of these": {p: f for p, f in failed.items() if f},
            "through the rule": by_port[str(REFUSED)]["done"], "per second": round(connections / seconds),
            "CPU µs a connection": round(stats["cpu_seconds"] / connections * 1e6, 1), "peak flows": stats["peak_flows"],
            "peak memory MB": round(stats["peak_anon_bytes"] / 1e6), "dropped": stats["dropped"],
            "kernel drops": sum(side["kernel_drops"] for side in stats["ports"].values()),
            "lost by the hosts": lost,
            "unsent": sum(sum(side["unsent"].values()) for side in stats["ports"].values()),
            "ports still held": sum(c["held"] for kind, _, c in stats["stores"] if kind == "Pool")}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--connections", type=int, default=1_000_000)
    p.add_argument("--together", type=int, default=500, help="under way at a time")
    p.add_argument("--timewait", type=int, default=60, help="seconds that a closed flow stays")
    p.add_argument("--stall", type=float, default=0, metavar="SECONDS", help="stop the box for so long, again and again")
    options = p.parse_args()
    if why_not():
        sys.exit(f"bench: NOT RUN: {why_not()}")
    found = run(options.connections, options.together, options.timewait, stall=options.stall)
    for key, value in found.items():
        print(f"{key:>24}  {value}")
    sys.exit(bool(found["failures not asked for"] or found["through the rule"]))


if __name__ == "__main__":
    main()
