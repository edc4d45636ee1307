"""Everything the fuzzers have found worth keeping is tried again: each input must hold its target's first line."""
import pytest
from fuzz.seeds import seeds
from fuzz.targets import CORPUS, TARGETS

KEPT = sorted(p for p in CORPUS.rglob("*") if p.is_file())
MAX_BYTES = 500_000     # of the corpus: it is in every clone


@pytest.mark.parametrize("target", TARGETS)
def test_kept_inputs(target):
    kept = [p for p in KEPT if p.parent.name == target]
    assert kept, f"no input of {target} is kept"
    for path in kept:
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


def test_the_corpus_is_small_and_each_part_has_a_target():
    assert sum(p.stat().st_size for p in KEPT) < MAX_BYTES
    assert {p.parent.name for p in KEPT} == set(TARGETS)
