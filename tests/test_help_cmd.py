"""mos/cli/help_cmd.py"""
import pytest
from command import COUNTER

from mos.cli import load
from mos.cli.help_cmd import manual
from mos.cli.main import main
from mos.errors import UsageError


@pytest.fixture
def box(tmp_path):
    def write(text):
        (tmp_path / "box.py").write_text(text)
        return str(tmp_path / "box.py")
    return write


def test_a_manual_has_text_options_and_events(box):
    text = "\n".join(manual(box(COUNTER)))
    assert "Counts flows.\n" in text and "Counts flows and bytes." in text
    assert "--set box.port=INT" in text and "server port to drop (int, default 0)" in text
    assert all(f"  {event}  ({handler})" in text for event, handler in
               (("FlowStart", "begin"), ("StreamData", "data"), ("FlowEnd", "end")))


def test_required_options_need_no_value_here(box):
    text = "\n".join(manual(box(COUNTER.replace('option(0, help="server port to drop")', 'option(required=True)'))))
    assert "(int, required)" in text


def test_a_file_of_functions(box):
    text = "\n".join(manual(box('"""Hears."""\nfrom mos import UserEvent, derive, on\nfrom mos.events import FlowEnd\n'
                                'class Beacon(UserEvent):\n    period: int\n'
                                '@derive(Beacon, on=FlowEnd, where="tcp")\ndef find(ev): yield Beacon(1)\n')))
    assert "Hears." in text and "It takes no options." in text
    assert "FlowEnd.where('tcp')  (find)" in text and "publishes:\n  Beacon(period)" in text


def test_inherited_handlers_are_shown_once(box):
    text = "\n".join(manual(box(COUNTER + "\nclass Derived(Counter):\n    def begin(self, ev): pass\n") + ":Derived"))
    assert "(begin)" not in text and text.count("(data)") == 1


def test_the_overview_lists_ready_ones(capsys):
    assert main(["help"]) == 0
    out = capsys.readouterr().out
    assert "usage: mos" in out and all(name in out for name in load.ready())


@pytest.mark.parametrize("name", load.ready() or [pytest.param("", marks=pytest.mark.skip(reason="no ready middleboxes are here"))])
def test_every_ready_one_has_a_manual(name, capsys):
    assert main(["help", name]) == 0
    out = capsys.readouterr().out
    assert f"mos run {name}" in out and "subscribes to:" in out


def test_help_on_a_command_is_that_of_the_command(capsys):
    assert main(["help", "run"]) == 0
    assert "usage: mos run" in capsys.readouterr().out


def test_an_unknown_one():
    with pytest.raises(UsageError, match="no middlebox is called 'zzz'"):
        manual("zzz")
