"""The bill: what is charged, what is free, who rides for free."""
import pytest

from mbox.accounting import Accounting, FreeRide
from mos import DROP, UsageError
from mos.events import StreamData, on
from mos.testing import merge, run, tcp, udp


def bill(result):
    accounting = next(nf for nf in result.engine.chain.nfs if isinstance(nf, Accounting))
    return {who: (a.flows, a.up, a.down, a.resent, a.tunnelled) for who, a in result.value(accounting.accounts).items()}


@pytest.mark.parametrize("capture, up, down", [
    ("http_lossy.pcapng", 85, 150244), ("http_lossy_server.pcap", 85, 100244), ("http_two.pcap", 166, 220488),
    ("dns.pcap", 255, 2610)])
def test_a_capture_costs_what_its_streams_hold(capture, up, down):
    assert bill(run(Accounting, f"pcaps/{capture}"))["10.77.0.1"][1:3] == (up, down)


def test_bytes_on_a_syn_are_charged():
    assert bill(run(Accounting, "pcaps/http_fastopen.pcap"))["10.77.0.1"][:3] == (3, 252, 6720)


def test_what_is_sent_again_is_free():
    talk = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"x" * 500, ack=False).retransmit(4).retransmit(4).ack().reply(b"y" * 70)
    assert bill(run(Accounting, talk)) == {"10.0.0.1": (1, 500, 70, 1000, 0)}


def test_subscribers_have_accounts_of_their_own(capsys):
    result = run(Accounting, merge(udp("10.0.0.1:1", "8.8.8.8:53").send(b"q").reply(b"aaaa"),
                                   udp("10.0.0.2:1", "8.8.8.8:53").send(b"qq").reply(b"aaaaaaa")))
    assert bill(result) == {"10.0.0.1": (1, 1, 4, 0, 0), "10.0.0.2": (1, 2, 7, 0, 0)}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["subscriber", "10.0.0.2", "10.0.0.1"]
    assert lines[3] == "subscribers: 2, charged: 14, resent free: 0, tunnelled: 0"


def test_other_bytes_in_a_retransmission_are_a_free_ride():
    ride = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"innocent").retransmit(4, data=b"innoTUNN").ack()
    flagged = run(Accounting, ride)
    assert [(e.subscriber, e.offset, e.length) for e in flagged.of(FreeRide)] == [("10.0.0.1", 4, 4)]
    assert bill(flagged) == {"10.0.0.1": (1, 8, 0, 8, 4)} and flagged.verdicts == []
    dropped = run(Accounting(action="drop"), ride)
    assert [(v.name, v.reason, v.packet) for v in dropped.verdicts] == [("DROP", "other data in a retransmission", 6)]


def test_a_dropped_packet_costs_nothing_until_it_passes():
    seen = []

    @on(StreamData)
    def once(ev):
        seen.append(ev.redelivered)
        return DROP("first time") if len(seen) == 1 else None

    talk = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"x" * 100, ack=False).retransmit(4).ack()
    assert bill(run([once, Accounting()], talk))["10.0.0.1"][1] == 100 and seen == [False, True]
    talk = udp("10.0.0.1:1", "10.0.0.2:53").send(b"qqqq").send(b"qq")
    seen.clear()
    assert bill(run([Accounting(), once], talk))["10.0.0.1"][1] == 2


def test_over_its_quota_a_subscriber_is_dropped():
    big = tcp("10.0.0.1:1", "10.0.0.2:80").reply(b"x" * 5000).close()
    after = udp("10.0.0.1:5", "10.0.0.2:53", start_ns=1_700_000_001_000_000_000).send(b"q")
    other = udp("10.0.0.3:5", "10.0.0.2:53", start_ns=1_700_000_001_000_000_000).send(b"q")
    result = run(Accounting(quota=2000), merge(big, after, other))
    assert bill(result) == {"10.0.0.1": (2, 0, 2920, 0, 0), "10.0.0.3": (1, 1, 0, 0, 0)}
    assert [v.reason for v in result.verdicts if v.reason] == ["quota used up"] * 2


@pytest.mark.parametrize("options", [{"action": "forgive"}, {"quota": -1}, {"top": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(UsageError, match="accounting takes"):
        Accounting(**options)
