"""Handlers as users write them, for mypy: every line must type-check, and the lines marked so must not."""
from mos import DROP_FLOW, NF, Chain, Engine, FlowVar, on, option
from mos.events import FlowEnd, FlowStart, StreamData

seen = FlowVar(int)


@on(StreamData, where="length > 10")
def count(ev: StreamData) -> None:
    seen[ev.flow] += ev.length


@on(FlowEnd)
def end(ev: FlowEnd) -> None:
    print(ev.reason.upper(), ev.flow.client_port + 1)


class Refuse(NF):
    ports: list[int] = option([23], help="server ports to refuse")

    @on(FlowStart)
    def judge(self, ev: FlowStart) -> object:
        return DROP_FLOW("refused") if ev.server_port in self.ports else None


with Engine(Chain(count, end, Refuse(ports=[80]))) as engine:
    engine.run("x.pcap")


@on(FlowStart)
def mistaken(ev: FlowStart) -> None:
    print(ev.reason)    # wrong: attr-defined
