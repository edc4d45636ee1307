"""`python bench/inline.py`: mos between two network namespaces against the kernel's bridge and a forwarder in C, in turns.

Traffic is iperf3's, at wire size and with super-packets, and with --testbed DIR a flood of 64-byte datagrams and round trips,
too: DIR holds fwd.c (fwd IFA IFB OPTION=VALUE…, the forwarder to compare with), udpgen.c and pp.c; they are compiled, not
copied. Rates are medians over the rounds; a packet's CPU time is the forwarder's own, which a busy machine disturbs less.
"""
import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from namespaces import SERVER, Bed, Running, why_not  # noqa: E402

RULES = ROOT / "examples" / "inline" / "rules.toml"
BOXES = {"mos": [], "mos monitor": ["monitor"], "mos firewall": ["firewall", "--set", f"firewall.rules={RULES}"]}
SIX = ["firewall", "monitor", "accounting", "portscan", "ids", "volume"]
SETTINGS = {"firewall": ["--set", "firewall.rules={where}/web.toml"], "ids": ["--set", f"ids.rules={ROOT}/examples/attacks.toml"]}
ALONE = {f"mos, {box}": [box, *SETTINGS.get(box, ())] for box in SIX}
BOXES |= {"mos six": [*SIX, *SETTINGS["firewall"], *SETTINGS["ids"]], **ALONE, "mos, 2 workers": ["--workers", "2"]}
FORWARDERS = {"C ring": "mode=v2 tx=mmsg bypass=1", "C super": "mode=raw tx=send bypass=1 vnet=1",
              "C super, many": "mode=mmsg tx=mmsg bypass=1 vnet=1"}
# mos in an event loop's turns: what each batch waits for is the loop.
LOOPS = {"mos asyncio": "asyncio", "mos uvloop": "uvloop"}
LOOP = """
import asyncio, sys, mos
async def main():
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    async with mos.inline("m0:m1"):
        loop.add_signal_handler(15, over.set)
        loop.call_soon(lambda: print("running", flush=True))
        await over.wait()
__import__(sys.argv[1]).run(main())
"""
# Load: what the hosts leave to their cards, arms, what is wanted of whom against whom: so many times at least, latency at most.
LOADS = {
    "tcp": ("wire", ["bridge", "C ring", "mos", "mos monitor"], [("mos monitor", "C ring", 0.9)]),
    "super": ("full", ["bridge", "C super", "C super, many", "mos", "mos monitor"],
              [("mos monitor", "C super", 0.9), ("mos monitor", "C super, many", 0.9)]),
    "udp": ("wire", ["bridge", "C ring", "mos", "mos monitor", "mos firewall"],
            [("mos", "C ring", 0.9), ("mos firewall", "C ring", 0.8)]),
    "web": ("full", ["bridge", "C super", "mos", "mos six"], [("mos six", "bridge", 0.75)]),
    "boxes": ("full", ["bridge", "C super, many", "mos", *ALONE, "mos six"], []),
    "workers": ("full", ["mos", "mos, 2 workers"], []),
    "trip": ("wire", ["bridge", "C ring", "mos", "mos monitor", *LOOPS], [("mos", "C ring", 1.15), ("mos uvloop", "C ring", 1.5)]),
}
KNOCK = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('{SERVER}', 9))"
# Whoever gets the flood takes it and drops it: without, his kernel answers each datagram that nobody wanted, at our cost.
SINK = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9)); time.sleep(86400)"
REQUESTS = "requests/s of 1 KB, kept connections"
ASKED = ("boxes", "workers")        # loads that are measured only if --only names them
UNITS = {"tcp": "Mbit/s", "super": "Mbit/s", "udp": "packets/s", "web": REQUESTS, "boxes": REQUESTS, "workers": REQUESTS,
         "trip": "µs p50 / p99"}
NGINX = """
daemon off; pid {dir}/pid; error_log {dir}/error; worker_processes 1; events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000; server {{ listen {server}:8080; location / {{ return 200 "{page}"; }} }} }}
"""


class Programs:
    """The testbed's programs, compiled."""

    def __init__(self, where):
        self.dir = Path(tempfile.mkdtemp())
        (self.dir / "web.toml").write_text('[[rule]]\nname = "web"\naction = "pass"\nserver_port = 8080\n')
        for name in ("fwd", "udpgen", "pp") if where else ():
            subprocess.run(["gcc", "-O2", "-w", "-o", self.dir / name, Path(where) / f"{name}.c"], check=True)
        self.there = bool(where)

    def __getattr__(self, name):
        return str(self.dir / name)


class Bridge:
    """The kernel's own."""

    def __init__(self, bed):
        self.bed = bed
        bed.box.run("ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
        for device in ("m0", "m1"):
            bed.box.run("ip", "link", "set", device, "master", "br0")
        bed.box.run("ip", "link", "set", "br0", "up")

    def stop(self):
        self.bed.box.run("ip", "link", "del", "br0")


class Forwarder:
    def __init__(self, bed, program, options):
        self.process = bed.box.start(program, "m0", "m1", *options.split())
        time.sleep(0.3)

    def stop(self):
        """CPU ns a packet."""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=20)[0]
        packets = sum(map(int, re.findall(r" in=(\d+)", said)))
        return sum(map(float, re.findall(r"(?:user|sys)=([\d.]+)", said))) / max(packets, 1) * 1e9


class Mos:
    def __init__(self, bed, words):
        self.running = Running(bed, *words)

    def stop(self):
        """CPU ns a packet."""
        stats = self.running.stop()
        return stats["cpu_seconds"] / max(stats["packets_in"], 1) * 1e9


class InLoop:
    def __init__(self, bed, loop):
        self.process = bed.box.start(sys.executable, "-c", LOOP, loop, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert self.process.stdout.readline() == "running\n", self.process.stderr.read()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=20)


def start(arm, bed, programs):
    if arm in LOOPS:
        return InLoop(bed, LOOPS[arm])
    if arm == "bridge":
        return Bridge(bed)
    if arm in FORWARDERS:
        return Forwarder(bed, programs.fwd, FORWARDERS[arm])
    return Mos(bed, [word.format(where=programs.dir) for word in BOXES[arm]])


def received(bed):
    return json.loads(bed.server.run("ip", "-j", "-s", "link", "show", "s0").stdout)[0]["stats64"]["rx"]["packets"]


def requests(bed, where, seconds):
    """wrk's requests a second to nginx."""
    (where / "nginx.conf").write_text(NGINX.format(dir=where, server=SERVER, page="x" * 1024))
    server = bed.server.start("nginx", "-c", where / "nginx.conf")
    try:
        while "8080" not in bed.server.run("ss", "-ltn").stdout:
            time.sleep(0.02)
        said = bed.client.run("wrk", "-t", 1, "-c", 32, "-d", seconds, f"http://{SERVER}:8080/").stdout
    finally:
        server.terminate()
        server.communicate()
    assert "Non-2xx" not in said and "Socket errors" not in said, said
    return float(re.search(r"Requests/sec: +([\d.]+)", said)[1])


def load(name, bed, programs, seconds):
    """One measurement: a rate, or for round trips their median and 99th percentile."""
    if name == "udp":
        macs = [json.loads(host.run("ip", "-j", "link", "show", device).stdout)[0]["address"]
                for host, device in ((bed.server, "s0"), (bed.client, "c0"))]
        before = received(bed)
        bed.client.run(programs.udpgen, "c0", *macs, "10.77.0.1", SERVER, seconds, 60)
        return ((received(bed) - before) / seconds,)
    if name == "trip":
        server = bed.server.start(programs.pp, "s", 5000)
        said = bed.client.run(programs.pp, "c", SERVER, 5000, 2000 * seconds).stdout
        server.kill()
        server.communicate()
        return tuple(float(re.search(rf"{p}=([\d.]+)", said)[1]) for p in ("p50", "p99"))
    if UNITS[name] == REQUESTS:
        return (requests(bed, programs.dir, seconds),)
    server = bed.server.start("iperf3", "-s", "-1")
    while "5201" not in bed.server.run("ss", "-ltn").stdout:
        time.sleep(0.02)
    said = bed.client.run("iperf3", "-c", SERVER, "-t", seconds, "-J").stdout
    server.communicate(timeout=20)
    return (json.loads(said)["end"]["sum_received"]["bits_per_second"] / 1e6,)


def rounds(name, arms, bed, programs, options):
    """Arm: its measurements and CPU times, round by round."""
    found = {arm: ([], []) for arm in arms}
    for _ in range(options.rounds):
        for arm in arms:
            running = start(arm, bed, programs)
            try:
                bed.client.run(sys.executable, "-c", KNOCK)     # so that neighbours are known
                found[arm][0].append(load(name, bed, programs, options.seconds))
            finally:
                cpu = running.stop()
            if cpu:
                found[arm][1].append(cpu)
    return found


def report(name, found, wanted):
    """Print a table of medians, and whether each bar is met; the arms whose bars are missed."""
    medians = {arm: [statistics.median(v) for v in zip(*values)] for arm, (values, _) in found.items()}
    print(f"\n{name}, {UNITS[name]}")
    for arm, values in medians.items():
        cpu = found[arm][1]
        spread = [v[0] for v in found[arm][0]]
        said = " / ".join(f"{v:,.0f}" if v >= 1000 else f"{v:.1f}" for v in values)
        busy = f"   {statistics.median(cpu):,.0f} ns CPU a packet" if cpu else ""
        print(f"  {arm:14} {said:>16}   from {min(spread):,.0f} to {max(spread):,.0f}{busy}")
    for arm, other, bar in wanted:
        if arm in medians and other in medians:
            for i, (a, b) in enumerate(zip(medians[arm], medians[other])):
                met = a / b <= bar if name == "trip" else a / b >= bar
                asked = f"{'<=' if name == 'trip' else '>='} {bar}"
                print(f"  {arm} : {other}{', p99' if i else ''}: {a / b:.2f}, wanted {asked}: {'met' if met else 'MISSED'}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--testbed", metavar="DIR", help="where fwd.c, udpgen.c and pp.c are")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=3, help="of each measurement")
    p.add_argument("--only", default="", help=f"loads, of {', '.join(LOADS)}; {' and '.join(ASKED)} only if they are named")
    options = p.parse_args()
    if why_not() or not shutil.which("iperf3"):
        sys.exit(f"bench: NOT RUN: {why_not() or 'no iperf3: apt-get install iperf3'}")
    programs, bed = Programs(options.testbed), Bed()
    for host in (bed.client, bed.server):   # bbr paces by timers, which a busy machine serves late, and without TSO each frame
        host.run("sh", "-c", "echo reno >/proc/sys/net/ipv4/tcp_congestion_control")
    sink = bed.server.start(sys.executable, "-c", SINK)
    try:
        for name, (mode, arms, wanted) in LOADS.items():
            if name not in (options.only.split(",") if options.only else [n for n in LOADS if n not in ASKED]):
                continue
            if UNITS[name] == REQUESTS and not (shutil.which("nginx") and shutil.which("wrk")):
                print("\nweb: SKIPPED: apt-get install nginx wrk")
                continue
            if name in ("udp", "trip") and not programs.there:
                print(f"\n{name}: SKIPPED: --testbed DIR has its programs")
                continue
            arms = [arm for arm in arms if programs.there or arm not in FORWARDERS]
            bed.offload(mode)
            report(name, rounds(name, arms, bed, programs, options), wanted)
    finally:
        sink.kill()
        sink.communicate()
        bed.close()
        shutil.rmtree(programs.dir)


if __name__ == "__main__":
    main()
