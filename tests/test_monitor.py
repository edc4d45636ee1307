"""The monitor's tables, from recorded and from built conversations."""
import re

import pytest

from mbox.monitor import Monitor
from mos import UsageError
from mos.testing import icmp_echo, merge, run, tcp, udp


def table(text):
    """Title and rows (lists of cells) of the last table printed."""
    lines = text.splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("flows:"))
    return lines[last], [re.split(r" {2,}", line) for line in lines[last + 2:]]


def test_a_capture_gives_its_flows_largest_first(capsys):
    run(Monitor, "pcaps/http_two.pcap")
    title, rows = table(capsys.readouterr().out)
    assert title == "flows: 2 (tcp 2), bytes: 220654, ended (fin 2)"
    assert rows == [
        ["10.77.0.1:52396", "10.77.0.2:80", "tcp", "TIME_WAIT/CLOSED", "83", "120244", "0.035", "0", "fin"],
        ["10.77.0.1:52390", "10.77.0.2:80", "tcp", "TIME_WAIT/CLOSED", "83", "100244", "0.036", "0", "fin"]]


def test_numbers_stand_under_their_heads(capsys):
    run(Monitor, "pcaps/http_two.pcap")
    _, head, first, second = capsys.readouterr().out.splitlines()
    at = head.index("received") + len("received")
    assert first[:at].endswith(" 120244") and second[:at].endswith(" 100244")


def test_what_is_sent_again_is_counted(capsys):
    lossy = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"x" * 100, ack=False).retransmit(4).retransmit(4).ack().rst()
    run(Monitor, lossy)
    _, rows = table(capsys.readouterr().out)
    assert rows[0][3:] == ["CLOSED/CLOSED", "300", "0", "0.007", "2", "rst_client"]


def test_udp_icmp_and_ipv6_have_rows(capsys):
    run(Monitor, merge(udp("10.0.0.1:5", "10.0.0.2:53").send(b"q").reply(b"aa"), icmp_echo("10.0.0.1", "10.0.0.2"),
                       tcp("[fd00::1]:9", "[fd00::2]:80").send(b"hi")))
    title, rows = table(capsys.readouterr().out)
    assert title == "flows: 3 (icmp 1, tcp 1, udp 1), bytes: 21, ended (shutdown 3)"
    assert [row[:4] for row in rows] == [
        ["10.0.0.1", "10.0.0.2", "icmp", "-"], ["10.0.0.1:5", "10.0.0.2:53", "udp", "-"],
        ["[fd00::1]:9", "[fd00::2]:80", "tcp", "ESTABLISHED/ESTABLISHED"]]


def test_only_the_largest_are_kept(capsys):
    flows = [udp(f"10.0.0.1:{n}", "10.0.0.2:53").send(b"x" * n) for n in (5, 900, 30, 700)]
    run(Monitor(top=2), merge(*flows))
    title, rows = table(capsys.readouterr().out)
    assert title.startswith("flows: 4 (udp 4), bytes: 1635")
    assert [row[4] for row in rows] == ["900", "700"]


def test_tables_come_at_intervals_of_packet_time(capsys):
    talk = tcp("10.0.0.1:1", "10.0.0.2:80")
    for _ in range(4):
        talk.wait(1).send(b"x")
    run(Monitor(interval=1), talk)
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("at ")]
    assert len(heads) == 4 and heads[0].endswith("s, alive: 1")


def test_nothing_seen_is_said_in_one_line(capsys):
    run(Monitor, [])
    assert capsys.readouterr().out == "flows: 0, bytes: 0, ended: 0\n"


def test_two_monitors_count_apart(capsys):
    run([Monitor(), Monitor()], "pcaps/telnet.pcap")
    assert capsys.readouterr().out.count("flows: 1 (tcp 1), bytes: 103") == 2


@pytest.mark.parametrize("settings", [{"top": 0}, {"interval": -1}, {"tops": 3}])
def test_wrong_options_are_refused(settings):
    with pytest.raises(UsageError):
        Monitor(**settings)
