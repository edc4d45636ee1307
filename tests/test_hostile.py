"""A short slice of bench/hostile.py: every attack, its counts and its memory; no time is looked at."""
import json
import os
import random
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
sys.path.append(str(BENCH))

import hostile  # noqa: E402
from mos.flow.table import FlowTable  # noqa: E402

PACKETS = 3000


@pytest.mark.parametrize("truth", ["tap", "inline"])
@pytest.mark.parametrize("name", hostile.ATTACKS)
def test_memory_stays_within_its_cap_and_nobody_else_is_harmed(name, truth, tmp_path_factory):
    attack = hostile.ATTACKS[name]
    directory = tmp_path_factory.getbasetemp() / "hostile"
    directory.mkdir(exist_ok=True)
    path, known = hostile.capture(directory, name, attack.make, PACKETS, 1)
    row = hostile.in_child(hostile.measure, path, known, attack.extra, {**attack.settings, "truth": truth})
    assert row["harmed"] == [] and known["packets"] >= PACKETS
    assert row["stats"]["packets_in"] == known["packets"] and row["stats"]["ring_lost"] == 0
    if not os.environ.get("MOS_SANITIZE"):      # what was freed is kept from use there, to see late uses
        assert row["anon"] <= hostile.SLACK + row["flow_bytes"] + hostile.SMALL["limits"]["global"]


def test_a_harmed_victim_would_be_seen(tmp_path):
    """A table without room for the victims: they are evicted, and the report says so."""
    path, known = hostile.capture(tmp_path, "syn_flood", hostile.attacks.half_open, PACKETS, 1)
    row = hostile.in_child(hostile.measure, path, known, (), {"max_flows": 16})
    assert len(row["harmed"]) >= len(known["victims"])
    assert set(row["stats"]["caps"]) == {"flows"}


def test_the_flood_of_the_hash_collides_under_the_key_it_knows_and_no_other():
    found = hostile.colliding(random.Random(1), 64)

    def places(key):
        table, server = FlowTable(hash_key=key), hostile.attacks.SERVER.to_bytes(4, "big") + bytes(12)
        return {table._hash(src.to_bytes(4, "big") + bytes(12) + server + sport.to_bytes(2, "little") + (80).to_bytes(2, "little")
                            + bytes([6, 4]) + bytes(6)) & 4095 for src, sport in found}
    assert max(places(hostile.KNOWN_KEY)) < 16 and len(places(bytes(range(16)))) > 48


def test_rows_say_what_was_missed():
    row = {"ratio": 2.5, "bar": 2.0, "least": 0, "anon": 10, "cap": 9, "harmed": ["20000: other bytes"]}
    assert hostile.failures(row) == ["x2.50 is more than x2", "10 bytes are more than 9", "20000: other bytes"]
    assert hostile.failures({**row, "ratio": 1.0, "cap": 10, "harmed": []}) == []
    assert json.loads(json.dumps(row)) == row
