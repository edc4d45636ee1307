"""mos/cli/explain_cmd.py"""
import pytest

from mos.cli.explain_cmd import caret
from mos.cli.main import main


def test_the_program_is_shown(capsys):
    assert main(["explain", "server_port == 23 and length > 1k", "--event", "StreamData"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("filter on StreamData: server_port == 23") and "true: accept, false: reject" in out


@pytest.mark.parametrize("text", ["server_port == 23 and sever_port == 2", "tcp and\n\tserver_prt == 1", "tcp and", "tcp ="])
def test_the_caret_stands_under_the_column(text, capsys):
    assert main(["explain", text]) == 2
    said = capsys.readouterr()
    message, line, mark = said.err.rstrip("\n").split("\n")
    assert said.out == "" and message.startswith("mos: filter, ")
    column = int(message.partition("column ")[2].partition(":")[0])
    assert line.removeprefix("  ") in text.split("\n") and len(mark) == column + 2 and mark.endswith("^")
    assert not mark.strip("\t ^")


def test_a_field_of_another_event_names_it(capsys):
    assert main(["explain", "midstream"]) == 2
    assert "try --event FlowStart" in capsys.readouterr().err


def test_an_unknown_event_has_no_caret(capsys):
    assert main(["explain", "tcp", "--event", "FlowStrt"]) == 2
    assert capsys.readouterr().err == "mos: no event is called 'FlowStrt': FlowStart?\n"


def test_tabs_keep_the_caret_in_place():
    assert caret("\ttcp x", "filter, column 6: no") == ["  \ttcp x", "  \t    ^"]
