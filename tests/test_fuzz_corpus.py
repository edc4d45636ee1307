"""Everything the fuzzers have found worth keeping is tried again: each input must hold its target's first line."""
import shutil

import pytest
from driver import load
from fuzz.seeds import seeds
from fuzz.targets import CORPUS, TARGETS
from mos.events.filtervm import Filter
from mos.net.bpf import verify

QUICK = sorted(p.stem for p in CORPUS.parent.glob("quick_*.pyx"))
KEPT = sorted(p for p in CORPUS.rglob("*") if p.is_file())
MAX_BYTES = 500_000     # of the corpus: it is in every clone


def kept(target):
    found = [p for p in KEPT if p.parent.name == target]
    assert found, f"no input of {target} is kept"
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_kept_inputs(target):
    for path in kept(target):
        try:
            TARGETS[target](path.read_bytes())
        except Exception as e:
            e.add_note(f"input {path}")
            raise


@pytest.mark.parametrize("target", TARGETS)
def test_first_inputs(target):
    found = [(name, data) for t, name, data in seeds() if t == target]
    assert found
    for name, data in found:
        try:
            TARGETS[target](data)
        except Exception as e:
            e.add_note(f"seed {name}")
            raise


@pytest.mark.parametrize("target", QUICK)
def test_kept_inputs_of_quick_targets(target):
    """Twice each: an input that finds a target other than as new cannot be tried again alone."""
    replay = load(f"fuzz/{target}").replay
    broken = {path.name: what for path in kept(target) for _ in range(2) if (what := replay(path.read_bytes()))}
    assert not broken


def test_quick_programs_are_ones_that_verify():
    """What the quick targets run without asking the verifiers is what these let through."""
    bpf, programs = load("fuzz/quick_bpf"), load("fuzz/quick_programs")
    for path in kept("quick_bpf"):
        verify(bpf.program(path.read_bytes()))
    for path in kept("quick_programs"):
        Filter("quick", "Event", *programs.program(path.read_bytes()))


def test_a_quick_target_tells_what_does_not_hold(tmp_path):
    """With a model of the other policy the same inputs must not agree."""
    right = (CORPUS.parent / "quick_fragments.pyx").read_text()
    wrong = right.replace("f.policy == FRAG_LAST and", "f.policy != FRAG_LAST and")
    assert wrong != right
    (tmp_path / "quick_wrong.pyx").write_text(wrong)
    shutil.copy(CORPUS.parent / "quick.pxd", tmp_path)
    replay = load(tmp_path / "quick_wrong").replay
    assert "what is stored is what the policy says" in {replay(path.read_bytes()) for path in kept("quick_fragments")}


def test_the_corpus_is_small_and_each_part_has_a_target():
    assert sum(p.stat().st_size for p in KEPT) < MAX_BYTES
    assert {p.parent.name for p in KEPT} == {*TARGETS, *QUICK}
