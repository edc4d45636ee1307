"""mos.testing.run: what a handler's test gets to see."""
import pytest

from mos import DROP_FLOW, NF, ChainError, Count, HandlerError, UserEvent, derive
from mos.events import FlowEnd, FlowStart, StreamData, on
from mos.testing import run, tcp, udp

HELLO = tcp("10.0.0.1:1234", "10.0.0.2:23").send(b"hello").close()


class Seen(UserEvent):
    port: int


class Refuser(NF):
    name = "refuser"
    hits = Count("hits")

    @on(FlowStart, where="server_port == 23")
    def refuse(self, ev):
        self.hits.add()
        return DROP_FLOW("telnet")

    @derive(Seen, on=FlowStart)
    def tell(self, ev):
        yield Seen(ev.server_port)


def test_events_are_kept_in_order_with_user_defined_ones():
    result = run([], HELLO)
    assert [type(e) for e in result.of(FlowStart, StreamData, FlowEnd)] == [FlowStart, StreamData, FlowEnd]
    assert result.of(StreamData)[0].data == b"hello"
    assert result.out == HELLO.packets and result.verdicts == []


def test_a_dropped_flow_is_seen_but_does_not_leave():
    result = run(Refuser, HELLO)
    assert [e.port for e in result.of(Seen)] == [23]
    first = result.verdicts[0]
    assert (first.name, first.by, first.reason, first.packet, first.flow) == ("DROP_FLOW", "refuser", "telnet", 1, 1)
    assert result.out == [] and result.stats["dropped"] == {"refuser": len(HELLO)}
    assert result.value(Refuser.hits) == 1


def test_a_chain_may_be_functions_files_or_names(tmp_path, capsys):
    @on(FlowStart)
    def refuse(ev):
        return DROP_FLOW("no")

    assert run(refuse, HELLO).verdicts[0].by == "refuse"
    rules = tmp_path / "rules.py"
    rules.write_text("from mos import *\nfrom mos.events import *\n@on(FlowStart)\ndef no(ev): return DROP_FLOW('no')\n")
    assert run([rules, "monitor"], HELLO).verdicts[0].by == "rules"
    assert "flows: 1" in capsys.readouterr().out


def test_packets_may_be_pairs_or_a_file(tmp_path):
    path = HELLO.pcap(str(tmp_path / "hello.pcap"))
    assert run([], path).out == run([], HELLO.packets).out == HELLO.packets


def test_settings_reach_the_stack():
    answer = udp("10.0.0.1:1", "10.0.0.2:53").send(b"q").wait(300).reply(b"a")
    assert [e.reason for e in run([], answer).of(FlowEnd)] == ["idle", "shutdown"]
    assert [e.reason for e in run([], answer, timeouts={"DATAGRAM": 1000}).of(FlowEnd)] == ["shutdown"]


def test_mistakes_are_raised():
    @on(FlowStart)
    def broken(ev):
        raise KeyError("x")

    with pytest.raises(HandlerError, match="broken raised KeyError"):
        run(broken, HELLO)
    with pytest.raises(ChainError, match="no middlebox"):
        run(5, HELLO)
