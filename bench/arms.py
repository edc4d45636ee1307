"""The arms: every command that is measured, on what, and for which question (group)."""
import sys
from pathlib import Path

from bench.measure import Arm

HERE = Path(__file__).resolve().parent
STAGES = ("small", "bulk", "messy", "churn")
CHAIN = (1, 2, 4, 7, 8)
PEERS = {           # program: (module or command it needs, file, capture: slice of it, where all of it would take minutes)
    "struct loop": (None, "struct_loop.py", {}),
    "dpkt loop": ("dpkt", "dpkt_loop.py", dict.fromkeys(STAGES, "slice")),
    "nfstream": ("nfstream", "nfstream_flows.py", {"small": "tenth", "churn": "tenth"}),
    "scapy": ("scapy", "scapy_session.py", dict.fromkeys(STAGES, "sliver")),
    "pyshark": ("pyshark", "pyshark_loop.py", dict.fromkeys(STAGES, "crumb")),
}


def mos(*words, checksum="off"):
    """Checksums off, as the floors and libnids have them here; on, each payload byte is read once more."""
    return (sys.executable, "-m", "mos", "run", *words, "-r", "{file}", "--stats", "--checksum", checksum)


def box(name):
    return str(HERE / "boxes" / f"{name}.py")


def chain(n, what):
    """n boxes of a kind, each with a name of its own."""
    return mos(*[f"b{i}={what}" for i in range(n)])


def ours(name, capture, words, *groups):
    return Arm(name, capture, words, "mos", "stderr", groups)


def sliced(peer, capture):
    """What of a capture a peer is given."""
    part = PEERS[peer][2].get(capture)
    return f"{capture}/{part}" if part else capture


def floors(programs):
    program = programs.c("floor")
    groups = "stages", "python", "levels"
    return [Arm(f"floor {roman}", capture, (program, level, "{file}", "{flows}"), "floor", "stdout", groups)
            for capture in STAGES for roman, level in (("iii", 3), ("iv", 4))] if program else []


def stages():
    """What each level of the stack costs."""
    found = []
    for capture in STAGES:
        found += [
            ours("flows", capture, mos("--level", "flow"), "stages", "levels"),
            ours("no box", capture, mos(), "stages", "levels"),
            ours("connections", capture, mos(box("connections")), "stages", "python", "levels"),
            ours("volume", capture, mos("volume"), "stages", "python", "levels", "chain", "peers", "workers"),
            ours("volume, checksums", capture, mos("volume", checksum="auto"), "stages"),
        ]
    return found


def python():
    """Handlers in Python, and what stands in front of them."""
    found = []
    for capture in ("small", "bulk"):
        found += [
            ours("data, empty handler", capture, mos(box("data")), "python"),
            ours("data, sum of lengths", capture, mos(box("lengths")), "python"),
            ours("volume + all rejected", capture, mos("volume", box("rejected")), "python"),
        ]
    return found


def levels():
    return [ours("volume, copies kept", "bulk", mos("volume", box("conflicts")), "levels")]


def chains():
    """n light boxes on one stack; one stack each is n times the one."""
    found = []
    for n in CHAIN:
        if n > 1:
            found.append(ours(f"{n} volume", "bulk", chain(n, "volume"), "chain"))
        found.append(ours(f"{n} connections", "bulk", chain(n, box("connections")), "chain"))
    return found


def flows():
    """As many packets in a thousand flows and in a million; and more of them in a million, to tell packets from new flows."""
    return [ours("volume", "few", mos("volume"), "flows")] + [
        ours(name, capture, words, "flows") for capture in ("many", "many, longer")
        for name, words in (("volume", mos("volume")), ("volume + own sets", mos("volume", box("attached"))))]


def peers(programs):
    """What else is there. Who is missing is in programs.missing."""
    found = []
    nids = programs.c("nids")
    for capture in STAGES if nids else ():
        found.append(Arm("libnids", capture, (nids, "{file}", "{flows}"), "nids", "stdout", ("peers", "stages")))
    for name, (needs, file, _) in PEERS.items():
        if needs and not programs.module(needs) or name == "pyshark" and not programs.command("tshark"):
            continue
        for capture in STAGES:
            words = (sys.executable, str(HERE / "peers" / file), "{file}")
            found.append(Arm(name, sliced(name, capture), words, name, "stdout", ("peers",), True))
    if programs.command("tshark"):
        for capture in STAGES:
            words = ("tshark", "-n", "-q", "-z", "conv,tcp", "-r", "{file}")
            found.append(Arm("tshark conv", f"{capture}/slice", words, "tshark", None, ("peers",), True))
    return found


def calls(programs):
    """The bare call. It has no capture: it says itself what a call takes."""
    if not programs.cython("calls"):
        return []
    words = (sys.executable, "-c", f"import sys; sys.path.insert(0, {str(programs.folder)!r}); import calls; calls.main()")
    paired = (sys.executable, str(HERE / "paired.py"), str(programs.folder), "{file}")
    return [Arm("bare call", "empty", words, "calls", "stdout", ("python",))] + [
        Arm("in turns", capture, paired, "paired", "stdout", ("python",), True) for capture in ("small", "bulk")]


def workers():
    """One capture, two processes: wall time counts. And two runs that have nothing to do with each other: what the machine has for
    two."""
    twice = ("sh", "-c", '"$@" >/dev/null 2>&1 & "$@" && wait $!', "sh", *mos("volume"))
    return [arm for capture in ("small", "churn") for arm in (
        ours("volume, 2 workers", capture, (*mos("volume"), "--workers", "2"), "workers"),
        Arm("volume, two runs", capture, twice, "two", "stderr", ("workers",)))]


def everything(programs):
    return (floors(programs) + stages() + peers(programs) + python() + levels() + chains() + flows() + workers()
            + calls(programs))
