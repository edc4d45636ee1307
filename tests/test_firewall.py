"""The firewall: rules, their order, their mistakes; what it lets out."""
import dpkt
import pytest

from mbox.firewall import Firewall
from mos import UsageError
from mos.events import FlowStart, StreamData
from mos.testing import icmp_echo, merge, run, tcp, udp


@pytest.fixture
def firewall(tmp_path):
    def make(text, **settings):
        path = tmp_path / "rules.toml"
        path.write_text(text)
        return Firewall(rules=path, **settings)
    return make


NO_TELNET = """
[[rule]]
name = "no telnet"
action = "drop"
proto = "tcp"
server_port = 23
"""


def reasons(result):
    return [v.reason for v in result.verdicts if v.reason]


def telnet(frame):
    tcp_ = dpkt.ethernet.Ethernet(frame).data.data
    return isinstance(tcp_, dpkt.tcp.TCP) and 23 in (tcp_.sport, tcp_.dport)


def test_no_telnet_leaves(firewall):
    result = run(firewall(NO_TELNET), "pcaps/telnet.pcap")
    assert reasons(result) == ["no telnet"]
    assert result.out and not any(telnet(frame) for _, frame in result.out)
    assert not result.of(StreamData)
    assert result.stats["dropped"]["firewall"] + len(result.out) == result.stats["packets_in"]


def test_other_traffic_leaves_as_it_came(firewall):
    result = run(firewall(NO_TELNET), "pcaps/http_two.pcap")
    assert result.verdicts == [] and len(result.out) == 220


def test_the_first_match_wins_and_answers_need_no_rule(firewall):
    box = firewall("""
[[rule]]
action = "pass"
client = "10.0.0.0/24"
server_port = ["20-25", 80]
[[rule]]
action = "drop"
client = ["10.0.0.0/8", "fd00::/8"]
name = "others"
""", default="drop")
    good = tcp("10.0.0.1:1", "192.0.2.1:23").send(b"q").reply(b"a").close()
    bad = merge(tcp("10.0.0.1:2", "192.0.2.1:26").send(b"q"), tcp("10.0.1.1:2", "192.0.2.1:80").send(b"q"),
                tcp("[fd00::1]:2", "[fd01::1]:80").send(b"q"))
    stranger = udp("198.51.100.1:5", "192.0.2.1:53").send(b"q")
    result = run(box, merge(good, bad, stranger))
    assert sorted(reasons(result)) == ["default", "others", "others", "others"]
    assert result.out == good.packets
    assert result.value(box.hits) == {"rule 1": 1, "others": 3, "default": 1}


def test_where_is_any_filter(firewall):
    box = firewall('[[rule]]\naction = "drop"\nproto = ["udp", "icmp"]\nwhere = "server_port == 53 or icmp"\n')
    result = run(box, merge(udp("10.0.0.1:5", "10.0.0.2:53").send(b"q"), udp("10.0.0.1:5", "10.0.0.2:54").send(b"q"),
                            icmp_echo("10.0.0.1", "10.0.0.2"), tcp("10.0.0.1:5", "10.0.0.2:53")))
    assert reasons(result) == ["rule 1", "rule 1"] and len(result.out) == 4


def test_reset_tells_both_ends(firewall):
    box = firewall('[[rule]]\naction = "reset"\nserver_port = 80\n')
    result = run(box, tcp("10.0.0.1:1", "10.0.0.2:80").send(b"q"))
    flags = [dpkt.ethernet.Ethernet(frame).data.data.flags & dpkt.tcp.TH_RST for _, frame in result.out]
    assert result.verdicts[0].name == "RESET" and flags and all(flags)


def test_midstream_flows(firewall):
    middle = tcp("10.0.0.1:40000", "10.0.0.2:80").send(b"q").reply(b"a").lose([1, 2, 3])
    assert run(firewall(NO_TELNET), middle).out == middle.packets
    dropped = run(firewall(NO_TELNET, midstream="drop"), middle)
    assert dropped.out == [] and reasons(dropped) == ["mid-stream"]


def test_packets_without_a_flow_follow_the_default(firewall):
    stray = tcp("10.0.0.1:1", "10.0.0.2:80", handshake=False).rst("server")
    assert run(firewall(NO_TELNET), stray).out == stray.packets
    closed = run(firewall("", default="drop"), stray)
    assert closed.out == [] and reasons(closed) == ["no flow"]


def test_a_wrong_checksum_is_no_way_past_a_drop(firewall):
    talk = tcp("10.0.0.1:1", "10.0.0.2:23").send(b"secret").corrupt(4)
    assert run(firewall(NO_TELNET), talk, checksum="verify").out == []


def test_the_names_are_those_behind_a_nat(firewall):
    from mbox.nat import Nat
    box = firewall('[[rule]]\nname = "ours"\naction = "drop"\nclient = "192.0.2.1"\n')
    result = run([Nat(external="192.0.2.1"), box], tcp("10.0.0.1:1", "8.8.8.8:80").send(b"q"))
    assert reasons(result) == ["ours"] and len(result.of(FlowStart)) == 1


@pytest.mark.parametrize("text, said", [
    ('[[rule]]\nactoin = "drop"', r"rules.toml, rule 1: a key cannot be 'actoin'; did you mean 'action'\?"),
    ('[[rule]]\naction = "pass"\n[[rule]]\naction = "dorp"', r"rule 2: action cannot be 'dorp'; did you mean 'drop'\?"),
    ('[[rule]]\naction = ["drop"]', "rule 1: action cannot be"),
    ('[[rule]]\nproto = "tcp"', "rule 1: it has no action"),
    ('[[rule]]\naction = "drop"\nproto = "tpc"', r"rule 1: proto cannot be 'tpc'; did you mean 'tcp'\?"),
    ('[[rule]]\naction = "drop"\nclient = "10.0.0.1/8"', "rule 1: client: 10.0.0.1/8 has host bits set"),
    ('[[rule]]\naction = "drop"\nclient = 5', "rule 1: client: '5' does not appear"),
    ('[[rule]]\naction = "drop"\nserver = []', "rule 1: server is an empty list"),
    ('[[rule]]\naction = "drop"\nserver_port = "90-80"', "rule 1: server_port: '90-80' is no port"),
    ('[[rule]]\naction = "drop"\nserver_port = 65536', "rule 1: server_port: 65536 is no port"),
    ('[[rule]]\naction = "drop"\nserver_port = true', "rule 1: server_port: True is no port"),
    ('[[rule]]\naction = "drop"\nwhere = "sever_port == 5"', "rule 1: .*sever_port"),
    ('[[rule]]\naction = "drop"\nwhere = "tcp) or (udp"', "rule 1: "),
    ('[rule]\naction = "drop"', r"rules are tables; write \[\[rule\]\]"),
    ('[[rules]]\naction = "drop"', r"a table cannot be 'rules'; did you mean 'rule'\?"),
    ('[[rule]\n', "rules.toml: "),
])
def test_a_wrong_rule_is_named_in_one_line(firewall, text, said):
    with pytest.raises(UsageError, match=said) as caught:
        firewall(text)
    assert "\n" not in str(caught.value)


def test_wrong_options_are_refused(firewall, tmp_path):
    with pytest.raises(UsageError, match="firewall needs the option 'rules'|Firewall needs the option 'rules'"):
        Firewall()
    with pytest.raises(UsageError, match="cannot read .*absent.toml: No such file"):
        Firewall(rules=tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="did you mean 'drop'"):
        firewall("", default="dropp")
