"""What a user can type, catch or subscribe to has its line in the documentation, whose links and paths lead somewhere."""
import re
import sys
import types

import pytest
from source_tree import ROOT

import mos
import mos.errors
import mos.events
from mos.cli.main import COMMANDS, main
from mos.events.spec import LEAVES

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "bench" / "README.md", ROOT / "pcaps" / "README.md",
         *sorted((ROOT / "docs").glob("*.md"))]
ALL = "\n".join(page.read_text() for page in PAGES)


@pytest.mark.parametrize("command", COMMANDS)
def test_options(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert not {o for o in options if not re.search(rf"{o}(?![\w-])", ALL)}


def test_errors():
    ours = [n for n, v in vars(mos.errors).items() if isinstance(v, type) and issubclass(v, mos.errors.MosError)]
    assert len(ours) > 5 and not {n for n in ours if f"`{n}`" not in ALL}


def test_events_are_in_the_first_page_and_in_the_reference():
    names = [kind.name for kind in LEAVES]
    assert len(names) > 15
    for page in (ROOT / "README.md", ROOT / "docs" / "events.md"):
        assert not {n for n in names if n not in page.read_text()}, page


def test_what_can_be_imported():
    blocks = re.findall(r"^```\w*\n.*?^```", ALL, re.M | re.S)
    spans = re.findall(r"`[^`\n]+`", re.sub(r"^```\w*\n.*?^```", "", ALL, flags=re.M | re.S))
    assert not {n for n in mos.__all__ if not re.search(rf"(?<!\w){n}(?!\w)", "\n".join(blocks + spans))}


def test_examples_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "writing.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    module = types.ModuleType("examples")
    monkeypatch.setitem(sys.modules, "examples", module)
    for block in blocks:
        exec(compile("\n" * page[:page.index(block)].count("\n") + block, "docs/writing.md", "exec"), vars(module))
    assert len(blocks) == 7 and "2\n" in capsys.readouterr().out


def anchors(page):
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", page.read_text(), re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths(page):
    for to, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#?([^)]*)\)", page.read_text()):
        target = page.parent / to if to else page
        assert target.exists(), to
        assert not anchor or anchor in anchors(target), f"{to}#{anchor}"
    paths = re.findall(r"`((?:mos|mbox|tests|bench|examples|docs|tools|pcaps)/[\w./-]+)`", page.read_text())
    assert not [p for p in paths if not (ROOT / p).exists()]
