"""mos/cli/summary.py: a run's counters as people read them."""
from mos.cli.summary import port_lines, sentence, wires

COUNTS = {"packets_in": 1, "flows": 2, "dropped": {}, "injected": 0, "seconds": 0.126}


def test_one_and_many():
    assert sentence(COUNTS, False) == "mos: 1 packet, 2 flows, 0.13 s"


def test_a_drop_says_whose_and_whether_it_was_one():
    counts = COUNTS | {"dropped": {"firewall": 2, "cap": 1}, "injected": 4}
    assert sentence(counts, True) == "mos: 1 packet, 2 flows, 3 dropped (firewall 2, cap 1), 4 injected, 0.13 s"
    assert "3 would be dropped (firewall 2, cap 1), 4 would be injected" in sentence(counts, False)


def test_ports_tell_what_was_lost_and_why():
    quiet = {"received": 5, "sent": 4, "kernel_drops": 0, "truncated": 0, "unsent": {"over_mtu": 0}}
    loud = quiet | {"kernel_drops": 7, "unsent": {"over_mtu": 1}}
    assert list(port_lines({"a": quiet, "b": loud})) == [
        "mos: a: 5 received, 4 sent", "mos: b: 5 received, 4 sent, 7 lost (ring full), 1 lost (not sent, over mtu)"]


def test_wires_are_named_as_people_see_them():
    assert wires("eth1:eth2", True) == "between eth1 and eth2" and wires("any", False) == "on a tap of any"
