"""`mos flows`: the record of every flow, its options, and the captures whose answers are known."""
import hashlib
import json
import tomllib

import pytest
from command import PCAPS

from mos import events
from mos.cli import flows
from mos.cli.main import main
from mos.nf import Chain
from mos.run import Engine, Settings
from mos.testing import icmp_echo, merge, tcp, udp

ROWS = tomllib.loads((PCAPS / "index.toml").read_text())["capture"]
EVERY = pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
KEYS = ["id", "proto", "client", "client_port", "server", "server_port", "vlan", "tunnel", "first_ns", "last_ns", "pickup",
        "established", "end", "state", "conn_state", "history", "community_id", "rtt_ns", "refused", "to_server", "to_client"]
HALF = ["packets", "bytes", "payload", "stream", "prefix", "gaps", "retransmitted_packets", "retransmitted_bytes",
        "conflict_bytes", "out_of_order", "duplicate_acks", "zero_windows"]


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def told(capsys, tmp_path):
    """Runs `mos flows --json` on a conversation or file: (status, rows, stderr)."""
    def run(what, *options, status=0):
        path = what.pcap(tmp_path / "c.pcap") if hasattr(what, "pcap") else what
        got = main(["flows", "--json", "-r", str(path), *map(str, options)])
        out, err = capsys.readouterr()
        lines = [json.loads(x) for x in out.splitlines()]
        assert lines.pop(0) == {"schema": "mos.flow/1"}
        assert got == status
        return lines if status == 0 else (lines, err)
    return run


def trouble():
    """Bytes of both directions, a conflict, a copy, disorder, duplicate ACKs, a shut window and a gap."""
    c = tcp("10.0.0.1:1234", "10.0.0.2:80", vlan=(7, 5)).send(b"abcdef").retransmit(4, data=b"abcXef")
    c.segment("client", b"late", offset=10).segment("server", ack=7).segment("server", ack=7).overlap(4, b"ghij", shift=6).ack()
    c.window(0).window(65535).reply(b"answer").segment("client", b"tail", offset=20).rst("server", seq=90_000_000)
    return c.ack().wait(2).ack().close()


def test_a_record_has_exactly_these_keys_in_this_order(told):
    (row,) = told(trouble())
    assert list(row) == KEYS
    for way in ("to_server", "to_client"):
        assert list(row[way])[:len(HALF)] == HALF
        assert set(row[way]) - set(HALF) <= {"gap_count"}
        assert list(row[way]["prefix"]) == ["bytes", "sha256"]


def test_what_a_record_says(told):
    c = trouble()
    (row,) = told(c)
    half = row.pop("to_server"), row.pop("to_client")
    assert row == {
        "id": 1, "proto": "tcp", "client": "10.0.0.1", "client_port": 1234, "server": "10.0.0.2", "server_port": 80,
        "vlan": [7, 5], "tunnel": None, "first_ns": c.built[0].time, "last_ns": c.built[-1].time, "pickup": "syn",
        "established": True, "end": "fin", "state": {"client": "TIME_WAIT", "server": "CLOSED"}, "conn_state": "SF",
        "history": row["history"], "community_id": "1:" + row["community_id"][2:], "rtt_ns": 2_000_000,
        "refused": {"rst": [17]}}
    assert row["history"].translate(str.maketrans("", "", "tTgGwI")) == "ShADadFf"
    sent = [sum(len(p.payload) for p in c.built if p.side == side) for side in ("client", "server")]
    assert [h["payload"] for h in half] == sent
    assert [h["packets"] for h in half] == [sum(p.side == s for p in c.built) for s in ("client", "server")]
    assert [h["bytes"] for h in half] == [sum(len(p.frame()) for p in c.built if p.side == s) for s in ("client", "server")]
    up, down = half
    assert up["stream"] == 18 and up["prefix"] == {"bytes": 14, "sha256": sha(b"abcdefghijlate")} and up["gaps"] == [[14, 6]]
    assert (up["retransmitted_packets"], up["retransmitted_bytes"], up["conflict_bytes"], up["out_of_order"]) == (2, 10, 1, 2)
    assert (down["duplicate_acks"], down["zero_windows"]) == (2, 1)
    assert down["stream"] == 6 and down["prefix"]["sha256"] == sha(b"answer") and down["gaps"] == []


def test_datagrams_have_flows_too(told):
    both = merge(udp("10.0.0.1:53000", "10.0.0.2:53").send(b"q").reply(b"aa"), icmp_echo("10.0.0.1", "10.0.0.2", data=b"12345678"))
    ours, echo = sorted(told(both), key=lambda r: r["proto"], reverse=True)
    assert (ours["proto"], ours["conn_state"], ours["to_client"]["stream"]) == ("udp", "SF", 2)
    assert ours["to_server"]["prefix"] == {"bytes": 1, "sha256": sha(b"q")}
    assert (echo["proto"], echo["client_port"], echo["server_port"], echo["to_server"]["packets"]) == ("icmp", 0, 0, 1)
    assert ours["history"] == echo["history"] == "" and ours["end"] == echo["end"] == "shutdown"


def test_community_id_is_the_published_one(told):
    """The example of the Community ID specification, version 1, seed 0."""
    c = tcp("128.232.110.120:34855", "66.35.250.204:80")
    assert told(c)[0]["community_id"] == "1:LQU9qZlK+B5F3KDmev6m5PMibrg="


def test_streams_are_written_a_file_each(told, tmp_path):
    c = tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"question").reply(b"answer" * 1000).close()
    told(c, "--streams", tmp_path / "out")
    files = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert files == {"1-tcp-10.0.0.1.1234-10.0.0.2.80-to_server": b"question",
                     "1-tcp-10.0.0.1.1234-10.0.0.2.80-to_client": b"answer" * 1000}


def test_the_filter_the_pickup_and_the_policy_are_passed_on(told):
    c = merge(tcp("10.0.0.1:1001", "10.0.0.2:80").send(b"x"), tcp("10.0.0.1:1002", "10.0.0.2:22").send(b"y").lose([1, 2, 3]))
    assert [r["client_port"] for r in told(c, "-f", "port 80")] == [1001]
    assert [r["client_port"] for r in told(c, "--pickup", "off")] == [1001]
    assert [r["to_server"]["stream"] for r in told(c, "--pickup", "state") if r["client_port"] == 1002] == [0]
    clash = tcp("10.0.0.1:1", "10.0.0.2:80").segment("client", b"old", offset=1).segment("client", b"NEW", offset=1)
    clash.segment("client", b"_", offset=0).ack()
    assert told(clash)[0]["to_server"]["prefix"]["sha256"] == sha(b"_old")
    assert told(clash, "--overlap", "last")[0]["to_server"]["prefix"]["sha256"] == sha(b"_NEW")


def test_checksums(told):
    c = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"good").send(b"evil", ack=False).corrupt(6)
    assert told(c, "--checksum", "verify")[0]["refused"] == {"checksum": [6]}
    assert told(c, "--checksum", "verify")[0]["to_server"]["stream"] == 4
    assert told(c, "--checksum", "off")[0]["to_server"]["stream"] == 8
    ip = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"good", ack=False).corrupt(4, layer="ip")
    assert told(ip, "--checksum", "verify")[0]["refused"] == {"ip_checksum": [4]}
    alone = tcp("10.0.0.1:1", "10.0.0.2:80", handshake=False).syn().corrupt(1)
    assert [(r["id"], r["end"], r["refused"]) for r in told(alone, "--checksum", "verify")] == [(0, "stopped", {"checksum": [1]})]


def test_damage_is_reported_after_what_was_good(told, tmp_path):
    data = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"good").pcap_bytes()
    broken = tmp_path / "broken.pcap"
    broken.write_bytes(data[:-10])
    rows, err = told(broken, status=1)
    assert rows[0]["to_server"]["stream"] == 4 and err.startswith(f"mos: {broken} is cut short: ") and err.count("\n") == 1


def test_the_table(capsys, tmp_path):
    c = merge(tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"abc").close(), udp("[fd77::1]:53000", "[fd77::2]:53").send(b"q"))
    assert main(["flows", "-r", str(c.pcap(tmp_path / "c.pcap"))]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "proto", "client", "server", "state", "end", "to", "server", "to", "client", "gaps"]
    assert lines[0].split() == ["1", "tcp", "10.0.0.1:1234", "10.0.0.2:80", "SF", "fin", "3", "0", "0"]
    assert lines[1].split()[:2] == ["2", "udp"] and len(lines) == 2


def test_a_gap_list_is_bounded_and_its_length_is_not(monkeypatch):
    monkeypatch.setattr(flows, "MAX_GAPS", 3)
    half = flows.Half()
    for i in range(5):
        half.gap(i * 10, 4)
    assert half.gaps == [[0, 4], [10, 4], [20, 4]] and half.gap_count == 5


@pytest.fixture(scope="module")
def results():
    """{file: (rows, stats)} of every capture of ours."""
    found = {}
    for row in ROWS:
        rows = []
        with Engine(Chain(flows.Recorder(rows.append), watch_all()), Settings()) as engine:
            engine.run(str(PCAPS / row["file"]))
        found[row["file"]] = rows, engine.stats()
    return found


def watch_all():
    @events.on(events.Event)
    def watch(ev):
        pass
    return watch


def name(flow, side):
    address, port = flow[side], flow[side + "_port"]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@EVERY
def test_streams_of_our_captures(row, results):
    """Each stream is what tshark found, whole and without a gap."""
    rows, _ = results[row["file"]]
    ends = {(name(f, "client"), name(f, "server")): f for f in rows if f["proto"] == "tcp"}
    assert len(ends) == row["flows"]["tcp"]
    for stream in row.get("stream", ()):
        flow = ends[stream["client"], stream["server"]]
        for way in ("to_server", "to_client"):
            if way in stream:
                want = {"bytes": stream[way]["length"], "sha256": stream[way]["sha256"]}
                assert flow[way]["prefix"] == want and not flow[way]["gaps"]
                assert flow[way]["stream"] == want["bytes"]


@EVERY
def test_events_of_our_captures(row, results):
    _, stats = results[row["file"]]
    for kind, want in row["events"].items():
        if isinstance(want, dict):
            assert want.items() <= stats["ended"].items()
        else:
            assert stats["events"].get(kind, 0) == want, kind
    assert stats["packets_in"] == row["packets"] == stats["forwarded"]
