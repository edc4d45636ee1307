"""conn_state and history, by conversation and against Zeek's own logs."""
import json

import pytest

from mos.cli.flows import Recorder
from mos.nf import Chain
from mos.run import Engine, Settings
from mos.testing import icmp_echo, tcp, udp

A, B = "10.0.0.1:1234", "10.0.0.2:80"


def conn(**options):
    return tcp(A, B, **options)


def unopened():
    return tcp(A, B, handshake=False)


def rows_of(packets, **settings):
    rows = []
    with Engine(Chain(Recorder(rows.append)), Settings(**{"checksum": "off"} | settings)) as engine:
        for ns, frame in packets:
            engine.feed(frame, ns)
    return rows


STATES = {
    "S0": [lambda: unopened().syn(), lambda: unopened().syn().retransmit(1).wait(3).retransmit(1)],
    "S1": [lambda: conn(), lambda: conn().send(b"a").reply(b"b"), lambda: unopened().syn().syn("server")],
    "SF": [lambda: conn().send(b"a").close(), lambda: conn().close("server"), lambda: conn().fin().reply(b"x").close("server")],
    "REJ": [lambda: unopened().syn().rst("server", ack=1)],
    "S2": [lambda: conn().send(b"a").fin()],
    "S3": [lambda: conn().reply(b"a").fin("server")],
    "RSTO": [lambda: conn().send(b"a").rst(), lambda: conn().fin("server").rst(), lambda: unopened().syn().syn("server").rst()],
    "RSTR": [lambda: conn().send(b"a").rst("server"), lambda: conn().fin().rst("server")],
    "RSTOS0": [lambda: unopened().syn().rst("client")],
    "RSTRH": [lambda: unopened().syn().syn("server").rst("server").lose(1)],
    "SH": [lambda: conn().send(b"a").fin().lose(lambda p: p.side == "server")],
    "SHR": [lambda: conn().reply(b"a").fin("server").lose(lambda p: p.side == "client")],
    "OTH": [lambda: conn().send(b"a").lose([1, 2, 3]), lambda: conn().reply(b"a").lose([1, 2, 3]),
            lambda: conn().lose(lambda p: p.side == "client")],
}


@pytest.mark.parametrize("state", STATES)
def test_each_state(state):
    for conversation in STATES[state]:
        (row,) = rows_of(conversation())
        assert row["conn_state"] == state, row["history"]


def test_all_of_zeeks_states_are_there():
    assert len(STATES) == 13


def test_datagrams():
    quiet, answered = udp("10.0.0.1:53000", "10.0.0.2:53").send(b"q"), udp("10.0.0.1:53000", "10.0.0.2:53").send(b"q").reply(b"a")
    assert [rows_of(c)[0]["conn_state"] for c in (quiet, answered, icmp_echo("10.0.0.1", "10.0.0.2"))] == ["S0", "SF", "SF"]


@pytest.mark.parametrize("conversation,history", [
    (lambda: conn(), "ShA"), (lambda: conn().send(b"a").reply(b"b").close(), "ShADadFf"),
    (lambda: conn().send(b"a").rst("server"), "ShADar"), (lambda: unopened().syn().rst("server", ack=1), "Sr"),
    (lambda: conn().send(b"a").retransmit(4), "ShADaT"), (lambda: conn().window(0), "ShAaw"),
    (lambda: conn().lose(1), "hA"), (lambda: conn().send(b"a").lose([1, 2, 3]), "Da")])
def test_history(conversation, history):
    assert rows_of(conversation())[0]["history"] == history


# Where Zeek and we tell of different connections, not differently of one.
ZEEKS_OWN = {
    "retransmission__zeek__retransmit-timeout": "that test cuts the connection by a time-out of its own",
    "checksum__zeek__localhost-bad-chksum": "that test trusts the checksums of one network only; we know no such setting",
    "tunnel-teredo__zeek__Teredo": "FINs and RSTs minutes after the rest are connections of their own to Zeek; one server "
                                   "relays on a port that is not Teredo's",
}
TIMING = str.maketrans("", "", "^gGtTwWcC")     # letters whose place depends on when a tool gives up or counts


def zeek_rows(corpora):
    for row in json.loads((corpora / "index.json").read_text())["files"]:
        for test in (row.get("known_answers") or {}).get("zeek_btest") or ():
            command = test["exec"][0]
            for log in test.get("conn_logs", {}).values():
                for line in log:
                    if line["proto"] == "tcp":
                        yield row["file"], "off" if " -C" in command else "verify", line


def letters(history, zeeks):
    """What both define. Behind a hole a FIN counts when the hole is given up, and that is timing too."""
    shown = history.translate(TIMING)
    return (shown.replace("F", "").replace("f", ""), {"F", "f"} & set(shown)) if "g" in zeeks.lower() else shown


def test_zeek_agrees(corpora):
    compared, seen = 0, {}
    for file, checksum, line in zeek_rows(corpora):
        if any(file.startswith(name) for name in ZEEKS_OWN):
            continue
        if (file, checksum) not in seen:
            rows = []
            with Engine(Chain(Recorder(rows.append)), Settings(checksum=checksum)) as engine:
                engine.run(str(corpora / file))
            seen[file, checksum] = rows
        ends = line["id.orig_h"], int(line["id.orig_p"]), line["id.resp_h"], int(line["id.resp_p"])
        got = [r for r in seen[file, checksum] if (r["client"], r["client_port"], r["server"], r["server_port"]) == ends]
        mine = [(r["conn_state"], letters(r["history"], line["history"])) for r in got]
        assert (line["conn_state"], letters(line["history"], line["history"])) in mine, (file, ends, mine, line["history"])
        packets = [(r["to_server"]["packets"], r["to_client"]["packets"]) for r in got]
        assert "orig_pkts" not in line or (int(line["orig_pkts"]), int(line["resp_pkts"])) in packets, (file, ends)
        compared += 1
    assert compared >= 24
