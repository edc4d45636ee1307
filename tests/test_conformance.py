"""Captures that others have answered: real kernels, tshark's bytes, Zeek's and fuzzers' files. Nothing wrong is let pass."""
import importlib.util
import json
from collections import Counter

import pytest

from mos import events
from mos.cli.flows import Recorder
from mos.errors import CaptureError, MosError
from mos.nf import Chain
from mos.run import Engine, Settings

# Where a prefix differs from first-wins without any check, the oracle's name for the reading that explains it, and ours.
RULES = {
    "absent": "a RST alone, frames that are Malformed and flags that are no TCP's open no flow",
    "acked_only": "data after a RST, or with an ACK of what was never sent, is refused (closed, ack) until its receiver's ACK "
                  "covers it, and none did",
    "base_isn": "bytes count from the ISN of the SYN-ACK, though a forged RST and FIN with other numbers came before it",
    "ignored": "a SYN in an open connection is refused (RFC 5961 section 4); the SYN-ACK that answers it would open one",
    "no_bad_tcp_checksum": "data on a SYN that no SYN-ACK covers is not delivered; the same bytes are missing without that frame",
    "no_bad_tcp_checksum+rebased": "the first frame's IP length lies, it is Malformed: the pick-up begins with the second",
    "same_end_twice": "both ends have one address and port: all bytes have one direction",
    "split": "the next connection with the same ends, another VLAN and another tunnel make flows of their own",
    "undissected_kept": "tshark gives the frame up for an option; its lengths hold, and the payload lies within them",
    "out_of_window_kept": "a segment may end beyond the window if it begins inside (RFC 9293 3.10.7.4); "
                          "this Linux takes none of it",
}


@pytest.fixture(scope="session")
def checker(corpora):
    """The comparison that came with the captures."""
    path = corpora.parent / "tools" / "check_flows.py"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the captures with known answers: their comparison cannot run")
    spec = importlib.util.spec_from_file_location("check_flows", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flows_of(path, hash_key=None, **settings):
    """What `mos flows --json` prints for a capture: (exit status, objects, standard error)."""
    rows, err, status = [], "", 0
    engine = Engine(Chain(Recorder(rows.append)), Settings(**{"checksum": "off", "hash_key": hash_key} | settings))
    try:
        engine.run(str(path))
    except CaptureError as e:
        err, status = f"mos: {e}", 1
    engine.close()
    stats = engine.stats()
    assert not stats["ring_lost"] and not stats["reassembly"]["bytes"], path
    assert stats["packets_in"] == stats["forwarded"] == stats["packets_out"]
    return status, json.loads(json.dumps(rows)) + [{"packets_in": stats["packets_in"]}], err


def command(folder, row, kind):
    try:
        return flows_of(f"{folder}/{row['file']}")
    except MosError as e:
        return 1, [], f"mos: {e}"


@pytest.fixture(scope="session")
def reports(checker, corpora):
    return {kind: checker.check_set(command, str(corpora), only=kind, workers=1, quiet=True)[kind]
            for kind in ("main", "packetdrill", "hostile")}


LEAST = {"main": ("agree", 1800), "packetdrill": ("agree", 380), "hostile": ("agree", 236)}


@pytest.mark.parametrize("kind", LEAST)
def test_nothing_is_wrong(kind, reports):
    report = reports[kind]
    assert not report["notes"], "\n".join(report["notes"][:40])
    assert not report.get("wrong") and not report.get("rst_wrong")
    name, count = LEAST[kind]
    assert report[name] >= count


def test_every_other_reading_has_its_rule(reports):
    tallies = sum((Counter({k: n for k, n in r.items() if k.startswith("explained:")}) for r in reports.values()), Counter())
    for reason, n in sorted(tallies.items()):
        print(f"{n:4} {reason.partition(':')[2]}: {RULES.get(reason.partition(':')[2])}")
    assert {reason.partition(":")[2] for reason in tallies} == set(RULES)


def rows(corpora):
    return [r for r in json.loads((corpora / "index.json").read_text())["files"] if r.get("oracle")]


def test_the_hash_key_shows_nowhere(corpora):
    for row in rows(corpora):
        first, second = (flows_of(corpora / row["file"], key * 16) for key in (b"\0", b"k"))
        assert first == second, row["file"]


# Where the oracle compares bytes that no receiver takes. This may only shrink.
NOT_TAKEN = {
    ("malformed__ndpi__fuzz-2006-06-26-2594.pcap", "192.168.1.2", 2720): "a fuzzed segment is refused and never acknowledged",
}


def test_conflicting_bytes_are_counted_as_the_oracle_counts_them(corpora):
    compared = 0
    left = set(NOT_TAKEN)
    for row in rows(corpora):
        streams = json.loads((corpora / row["oracle"]).read_text())["streams"]
        found = [f for f in flows_of(corpora / row["file"])[1] if f.get("proto") == "tcp"]
        for s in streams:
            ends = {tuple(s["a"]), tuple(s["b"])}
            one = [f for f in found if {(f["client"], f["client_port"]), (f["server"], f["server_port"])} == ends]
            if len(one) != 1 or sum({tuple(t["a"]), tuple(t["b"])} == ends for t in streams) != 1:
                continue
            for sender, half in ((s["a"], s["a_to_b"]), (s["b"], s["b_to_a"])):
                way = "to_server" if (one[0]["client"], one[0]["client_port"]) == tuple(sender) else "to_client"
                if one[0][way]["conflict_bytes"] != half["model"]["conflict_bytes"] and (row["file"], *sender) in left:
                    left.remove((row["file"], *sender))
                    continue
                assert one[0][way]["conflict_bytes"] == half["model"]["conflict_bytes"], (row["file"], sender)
                compared += half["model"]["conflict_bytes"] > 0
    assert compared >= 7 - len(NOT_TAKEN)
    assert not left, "no exception any more: take it off the list"


# Frames with a wrong TCP checksum that we refuse for something else. This may only shrink.
NOT_BY_CHECKSUM = {
    ("tunnel-ip__ndpi__6in4tunnel.pcap", 45): "TCP quoted in an ICMPv6 error, cut short by whoever quoted it: it is no segment",
}


def refused_tcp_frames(path):
    """The numbers of the TCP frames that BadChecksum names, up to where the capture breaks off."""
    refused = set()

    @events.on(events.BadChecksum, where="layer == 'transport'")
    def bad(ev):
        if ev.packet.protocol == 6:
            refused.add(ev.packet.number)

    try:
        with Engine(Chain([bad]), Settings(checksum="verify")) as engine:
            engine.run(str(path))
    except CaptureError:
        pass
    return refused


def test_wrong_checksums_are_refused_and_no_others(corpora):
    """Every frame that tshark finds wrong is refused, those among them whose lengths lie too."""
    left = set(NOT_BY_CHECKSUM)
    for row in rows(corpora):
        wrong = set(json.loads((corpora / row["oracle"]).read_text())["bad_tcp_checksum_frames"])
        refused = refused_tcp_frames(corpora / row["file"])
        assert not refused - wrong, row["file"]
        others = {(row["file"], n) for n in wrong - refused}
        assert others <= left, row["file"]
        left -= others
    assert not left, "no exception any more: take it off the list"


def test_refused_frames_are_in_the_record(corpora):
    """`refused.checksum` of mos flows names the same frames as the event."""
    name = next(r["file"] for r in rows(corpora) if r["file"].startswith("checksum__zeek__localhost"))
    oracle = json.loads((corpora / next(r["oracle"] for r in rows(corpora) if r["file"] == name)).read_text())
    listed = [n for f in flows_of(corpora / name, checksum="verify")[1] for n in f.get("refused", {}).get("checksum", ())]
    assert sorted(listed) == sorted(oracle["bad_tcp_checksum_frames"]) != []


@pytest.mark.parametrize("truth", ["tap", "inline"])
@pytest.mark.parametrize("kind", ["", "hostile", "packetdrill"])
def test_nothing_breaks_whatever_is_asked_of_it(corpora, kind, truth):
    """Every event wanted, every check on, tiny limits: no crash, no lost event, memory given back."""
    names = json.loads((corpora / kind / "index.json").read_text())["files"]

    @events.on(events.Event)
    def watch(ev):
        _ = ev.flow

    for row in names:
        engine = Engine(Chain([watch]), Settings(truth=truth, checksum="verify", max_flows=3, overlap="last",
                                                limits={"bytes": 3000, "segments": 3, "doubtful": 200, "keep": 100}))
        try:
            engine.run(str(corpora / row["file"]))
        except CaptureError:
            pass
        engine.close()
        stats = engine.stats()
        assert not stats["ring_lost"] and not stats["reassembly"]["bytes"], row["file"]
        assert stats["events"].get("FlowEnd", 0) == stats["flows"], row["file"]
        went = stats["forwarded"] + sum(stats["dropped"].values()) + stats["held"] + stats["consumed"]
        assert stats["packets_in"] == went, row["file"]
        assert stats["packets_out"] == stats["forwarded"] + stats["injected"] + stats["split"], row["file"]
