"""mos/cli/events_cmd.py"""
import json
import re
import shutil
import subprocess

import pytest

from mos.cli.main import main
from mos.events import spec

PUBLISHER = """
from mos import UserEvent, derive, on
from mos.events import FlowEnd, StreamData

class Beacon(UserEvent):
    period: int

@derive(Beacon, on=FlowEnd)
def find(ev): yield Beacon(1)

@on(Beacon, where="period > 0")
def heard(ev): pass

Big = StreamData.where("length > 1000")

@on(Big, where="to_server", at="acked")
def big(ev): pass
"""


@pytest.fixture
def box(tmp_path):
    path = tmp_path / "beacons.py"
    path.write_text(PUBLISHER)
    return str(path)


def test_the_catalogue_has_every_event_and_its_fields(capsys):
    assert main(["events"]) == 0
    out = capsys.readouterr().out
    for kind in spec.KINDS:
        assert re.search(rf"^ *{kind.name}  +\S", out, re.M)
        assert all(f.name in out for f in kind.fields)
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("kind", spec.KINDS, ids=lambda k: k.name)
def test_the_contract_is_complete(kind, capsys):
    assert main(["events", kind.name]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert " ".join(kind.doc.split()) in out and kind.rfc in out and kind.mos in out and kind.zeek in out
    for field in spec.fields_of(kind.name):
        assert f"{field.name} {field.type} " in out and all(v in out for v in field.values)
    assert ("may answer" in out) == kind.fires


def test_an_unknown_event_tells_the_near_miss(capsys):
    assert main(["events", "StreamDat"]) == 2
    assert main(["events", "flowend"]) == 2
    assert capsys.readouterr().err.splitlines() == ["mos: no event is called 'StreamDat'; did you mean StreamData?",
                                                    "mos: no event is called 'flowend'; did you mean FlowEnd?"]


def test_the_catalogue_as_json(capsys):
    assert main(["events", "--json"]) == 0
    assert [e["name"] for e in json.loads(capsys.readouterr().out)] == [k.name for k in spec.KINDS]


def test_a_chain_tells_who_subscribes_and_publishes(box, capsys):
    assert main(["events", "--chain", box, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["chain"]
    handlers = {h["handler"]: h for h in entry["handlers"]}
    assert entry["name"] == "beacons"
    assert (handlers["find"]["event"], handlers["find"]["publishes"]) == ("FlowEnd", "Beacon")
    assert (handlers["heard"]["event"], handlers["heard"]["where"]) == ("Beacon", ["period > 0"])
    assert (handlers["big"]["where"], handlers["big"]["at"]) == (["length > 1000", "to_server"], "acked")
    assert main(["events", "--chain", box]) == 0
    assert "FlowEnd -> find publishes Beacon" in capsys.readouterr().out


def test_a_chain_as_a_graph(box, capsys):
    assert main(["events", "--chain", f'a={box}', "--dot"]) == 0
    out = capsys.readouterr().out
    assert 'stack -> "event FlowEnd"' in out and '"box a" -> "event Beacon"' in out
    assert '"event Beacon" -> "box a" [label="period > 0"]' in out
    assert "stack -> \"event Beacon\"" not in out
    if shutil.which("dot"):
        assert b"<svg" in subprocess.run(["dot", "-Tsvg"], input=out.encode(), capture_output=True, check=True, timeout=60).stdout


def test_words_that_go_together(capsys):
    for words in (["--dot"], ["--chain"], ["FlowEnd", "--set", "a.b=c"]):
        assert main(["events", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
