"""The command as tests run it: as a process of its own where that matters, else in this one."""
import json
import subprocess
import sys

from source_tree import ROOT

PCAPS = ROOT / "pcaps"
MOS = [sys.executable, "-m", "mos"]

COUNTER = '''
"""Counts flows."""
from mos import DROP_FLOW, NF, Count, FlowVar, on, option
from mos.events import FlowEnd, FlowStart, StreamData

class Counter(NF):
    "Counts flows and bytes."
    port: int = option(0, help="server port to drop")
    seen = FlowVar(int)
    hits = Count()

    @on(FlowStart)
    def begin(self, ev):
        self.hits.add()
        if ev.flow.server_port == self.port:
            return DROP_FLOW("port")

    @on(StreamData)
    def data(self, ev):
        self.seen[ev.flow] += ev.length

    @on(FlowEnd)
    def end(self, ev):
        print(self.label(), self.seen[ev.flow])

    def stop(self, engine):
        print(self.label(), "flows", engine.value(self.hits))
'''


def mos(*words, **kwargs):
    """Run `mos WORDS` to its end: CompletedProcess with text in stdout and stderr."""
    return subprocess.run([*MOS, *map(str, words)], **{"capture_output": True, "text": True, "timeout": 60} | kwargs)


def counts(stats):
    """The line that `--stats` printed, checked: in = forwarded + dropped + held + consumed, out = forwarded + injected + split."""
    c = json.loads(stats.strip().split("\n")[-1])
    assert c["packets_in"] == c["forwarded"] + sum(c["dropped"].values()) + c["held"] + c["consumed"]
    assert c["packets_out"] == c["forwarded"] + c["injected"] + c["split"]
    return c
