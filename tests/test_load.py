"""mos/cli/load.py: names, files and chain files to NFs; and what two instances of one box share (nothing)."""
import gc
import sys

import pytest
from command import COUNTER, PCAPS

from mos.cli import load
from mos.cli.report import UserCodeError
from mos.errors import ChainError, FilterError, UsageError
from mos.nf import Chain
from mos.run import Engine

FUNCTIONS = "from mos import FlowVar, on\nfrom mos.events import FlowEnd\n{state}\n@on(FlowEnd)\ndef end(ev): print(__name__)\n"


@pytest.fixture
def counter(tmp_path):
    path = tmp_path / "counter.py"
    path.write_text(COUNTER)
    return str(path)


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_rests_while_code_is_loaded_and_then_goes_on_as_it_was(on):
    was = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with pytest.raises(UsageError), load.uncollected():
            assert not gc.isenabled()
            raise UsageError("stop")
        assert gc.isenabled() == on
    finally:
        (gc.enable if was else gc.disable)()


def test_words():
    assert load.parse_box("nat") == load.Box("nat")
    assert load.parse_box("edge=nat") == load.Box("nat", "edge")
    assert load.parse_box("edge=./a=b.py:C") == load.Box("./a=b.py:C", "edge")
    assert load.split("x.py:Blocker") == ("x.py", "Blocker")
    assert load.split("x.py") == ("x.py", None)


def test_every_instance_has_a_name_of_its_own():
    boxes = load.name_boxes([load.parse_box(w) for w in ("nat", "a=nat", "nat", "./my.rules.py", "./x.py:Big", "nat-2=nat")])
    assert [b.name for b in boxes] == ["nat", "a", "nat-3", "my_rules", "big", "nat-2"]
    with pytest.raises(UsageError, match="two middleboxes are called a"):
        load.name_boxes([load.parse_box("a=nat"), load.parse_box("a=x")])


def test_settings_reach_one_instance(counter):
    chain, _ = load.load_chain([f"a={counter}", f"b={counter}"], settings=["b.port=23"])
    assert [(nf.label(), nf.port) for nf in chain.nfs] == [("a", 0), ("b", 23)]


@pytest.mark.parametrize("word, expected", [
    ("b.port=1", "no middlebox of this chain is called 'b'; there are counter"),
    ("counte.port=1", "did you mean counter?"),
    ("counter.prt=1", "counter has no option 'prt'; did you mean 'port'?"),
    ("counter.port=x", "counter.port takes int, not 'x'"),
    ("port=1", "--set takes BOX.OPTION=VALUE"),
    ("counter.port", "--set takes BOX.OPTION=VALUE"),
])
def test_wrong_settings_name_the_right_ones(counter, word, expected):
    with pytest.raises(UsageError) as raised:
        load.load_chain([counter], settings=[word])
    assert expected in str(raised.value)


def test_two_instances_of_a_class_share_no_state(counter, capsys):
    chain, _ = load.load_chain([f"a={counter}", f"b={counter}"], settings=["a.port=80"])
    with Engine(chain) as engine:
        engine.run(str(PCAPS / "http_two.pcap"))
    a, b = chain.nfs
    assert (engine.value(a.hits), engine.value(b.hits)) == (2, 0)
    assert len({d for nf in (a, b) for d in nf.declarations()}) == 4


def test_one_instance_keeps_the_declarations_of_its_class(counter):
    chain, _ = load.load_chain([counter])
    box = chain.nfs[0]
    assert box.hits is type(box).hits


def test_a_class_inherits_state(tmp_path):
    path = tmp_path / "derived.py"
    path.write_text(COUNTER + "\nclass Derived(Counter):\n    more = FlowVar(int)\n")
    chain, _ = load.load_chain([f"{path}:Derived"])
    assert [d.name for d in chain.nfs[0].declarations()] == ["seen", "hits", "more"]


def test_state_of_a_module_cannot_be_shared_by_two_instances(tmp_path):
    path = tmp_path / "shared.py"
    path.write_text(FUNCTIONS.format(state="n = FlowVar(int)"))
    with pytest.raises(ChainError, match="shared and shared-2 would share FlowVar 'n'"):
        load.load_chain([str(path), str(path)])
    load.load_chain([str(path)])


def test_module_state_beside_a_class_cannot_be_shared_either(tmp_path):
    path = tmp_path / "mixed.py"
    path.write_text(COUNTER + "\ntotal = Count()\n")
    with pytest.raises(ChainError, match="would share Count 'total'"):
        load.load_chain([str(path), str(path)])


def test_functions_without_state_may_be_used_twice(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text(FUNCTIONS.format(state=""))
    chain, _ = load.load_chain([str(path), f"b={path}"])
    assert chain.names == ["plain", "b"]


def test_one_nf_cannot_stand_in_a_chain_twice(counter):
    nf = load.build(load.name_boxes([load.Box(counter)])[0])
    with pytest.raises(ChainError, match="make two of them"):
        Chain(nf, nf)


@pytest.mark.parametrize("text, error, expected", [
    ("def f(:\n", UsageError, "rules.py:1: invalid syntax: def f(:"),
    ("x = 1\n", UsageError, "no handler found"),
    ("from mos import on\nfrom mos.events import FlowEnd\n@on(FlowEnd, wher='tcp')\ndef f(ev): pass\n", UsageError,
     "rules.py:3: @on has no argument 'wher'; did you mean where?"),
    ("from mos import on\nfrom mos.events import FlowEnd\n@on(FlowEnd, where='tpc')\ndef f(ev): pass\n", FilterError,
     "rules.f: filter, column 1"),
    ("import nothing_of_that_name\n", UserCodeError, "ModuleNotFoundError"),
    ("1/0\n", UserCodeError, "ZeroDivisionError"),
    ("raise SystemExit\n", UserCodeError, "SystemExit"),
    ("open('/nonexistent/x')\n", UsageError, "cannot open /nonexistent/x"),
    ("\0\n", UsageError, "rules.py"),
])
def test_a_file_that_is_wrong(tmp_path, text, error, expected):
    (tmp_path / "rules.py").write_text(text)
    with pytest.raises(error) as raised:
        load.load_chain([str(tmp_path / "rules.py")])
    assert expected in str(raised.value)
    assert not [m for m in sys.modules.values() if getattr(m, "__file__", None) == str(tmp_path / "rules.py")] \
        or "handler" in expected or error is FilterError


def test_a_file_that_is_not_there():
    with pytest.raises(UsageError, match="cannot open .*nothere.py: No such file"):
        load.load_chain(["./nothere.py"])


def test_a_file_may_import_its_neighbour_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "neighbour_of_rules.py").write_text("word = 1\n")
    (tmp_path / "rules.py").write_text("import neighbour_of_rules\n" + FUNCTIONS.format(state=""))
    load.load_chain([str(tmp_path / "rules.py")])
    assert not list(tmp_path.glob("__pycache__/rules*"))


def test_a_file_called_like_a_module_of_python_hides_nothing(tmp_path):
    import json
    (tmp_path / "json.py").write_text(FUNCTIONS.format(state=""))
    chain, _ = load.load_chain([str(tmp_path / "json.py")])
    assert chain.names == ["json"] and sys.modules["json"] is json


def test_a_class_is_picked_by_name(tmp_path, counter):
    path = tmp_path / "two.py"
    path.write_text(COUNTER + "\nclass Other(Counter):\n    pass\n")
    with pytest.raises(UsageError, match="say which, two:Counter, two:Other"):
        load.load_chain([str(path)])
    assert load.load_chain([f"{path}:Other"])[0].names == ["other"]
    with pytest.raises(UsageError, match="did you mean 'Other'"):
        load.load_chain([f"{path}:Othr"])


def test_unknown_names_tell_the_near_miss(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "ready", lambda: ["firewall", "monitor"])
    with pytest.raises(UsageError, match="did you mean firewall"):
        load.load_chain(["firewal"])
    with pytest.raises(UsageError, match="there are firewall, monitor"):
        load.load_chain(["zzz"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.py").write_text("")
    with pytest.raises(UsageError, match="write rules.py"):
        load.load_chain(["rules"])


def test_ready_ones_come_before_installed_ones_and_installed_ones_by_name_only(tmp_path, monkeypatch, counter):
    dist = tmp_path / "boxes-1.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: boxes\nVersion: 1\n")
    (dist / "entry_points.txt").write_text("[mos.middleboxes]\nfar = far_box:Far\n"
                                           "broken = far_box:Nothing\ngone = no_such_module_x:F\n")
    (tmp_path / "far_box.py").write_text(COUNTER.replace("class Counter", "class Far"))
    monkeypatch.syspath_prepend(str(tmp_path))
    chain, _ = load.load_chain(["far", "x=far"], settings=["x.port=5"])
    assert chain.names == ["far", "x"] and chain.nfs[1].port == 5
    for name in ("broken", "gone"):
        with pytest.raises(UsageError, match="cannot be loaded"):
            load.load_chain([name])
    assert "no_such_module_x" not in sys.modules


def test_a_chain_file(tmp_path, counter):
    path = tmp_path / "chain.toml"
    path.write_text('[run]\ntruth = "inline"\n[[nf]]\nuse = "./counter.py"\nname = "edge"\nport = 23\n'
                    '[[nf]]\nuse = "counter.py"\nset = {port = 80}\n')
    chain, run = load.load_chain([], str(path), ["edge.port=24"])
    assert [(nf.label(), nf.port) for nf in chain.nfs] == [("edge", 24), ("counter", 80)]
    assert run == {"truth": "inline"}


def test_paths_in_a_chain_file_start_from_it(tmp_path):
    (tmp_path / "box.py").write_text(
        "from pathlib import Path\n" + COUNTER.replace("port: int = option(0,", "port: Path = option('x',"))
    (tmp_path / "chain.toml").write_text('[[nf]]\nuse = "./box.py"\nport = "rules.toml"\n')
    chain, _ = load.load_chain([], str(tmp_path / "chain.toml"))
    assert chain.nfs[0].port == tmp_path / "rules.toml"


@pytest.mark.parametrize("text, expected", [
    ("[[nf]]\nname = 'x'\n", "[[nf]] 1 needs use"),
    ("[[nf]]\nuse = 3\n", "[[nf]] 1 needs use"),
    ("[[nf]]\nuse = 'x'\nname = 'a b'\n", "name is 'a b'"),
    ("[[nf]]\nuse = 'x'\nset = 3\n", "set is a table"),
    ("[nf]\nuse = 'x'\n", "write [[nf]]"),
    ("[rnu]\n", "unknown table [rnu]; did you mean run?"),
    ("x = [\n", "is no TOML"),
])
def test_wrong_chain_files(tmp_path, text, expected):
    path = tmp_path / "chain.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        load.load_chain([], str(path))
    assert expected in str(raised.value)


def test_a_chain_is_in_one_place(tmp_path):
    with pytest.raises(UsageError, match="leave out nat, or -c"):
        load.load_chain(["nat"], "chain.toml")
    with pytest.raises(UsageError, match="cannot open"):
        load.load_chain([], str(tmp_path / "none.toml"))
