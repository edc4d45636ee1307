"""Overlap policies: the table against Suricata's, and what reassembly makes of it."""
import json

import pytest
from mos.tcp.reasm import Reassembler
from test_reasm import Model

from mos.tcp.policies import NEW_WINS, POLICIES, RELATIONS, table


@pytest.fixture(scope="module")
def overlap(corpora):
    return corpora / "overlap"


def name_of(policy):
    """Suricata's name in ours. Windows 2003 behaves as the Windows before it, so it has no row of its own."""
    return {"hpux11": "hpux", "windows2k3": "windows"}.get(policy, policy.replace("-", "_"))


OURS = {p: {r: "new" if r in NEW_WINS[p] else "old" for r in RELATIONS} for p in POLICIES}


def test_rows_equal_suricatas(overlap):
    rows = json.loads((overlap / "policy_table.json").read_text())["suricata"]
    for policy, row in rows.items():
        assert OURS[name_of(policy)] == row, policy
    assert set(POLICIES) - {name_of(p) for p in rows} == {"bsd_right"}     # Suricata takes it for bsd


def test_the_table_is_row_by_row():
    assert table() == bytes(OURS[p][r] == "new" for p in POLICIES for r in RELATIONS)


@pytest.mark.parametrize("policy", POLICIES)
def test_delivered_bytes_never_change(policy):
    real = Reassembler(policy)
    assert real.write(0, b"abcd") == b"abcd"
    assert real.write(0, b"ABCDEF") == b"EF"


# NEW against OLD = [10, 20): one example of each relation.
EXAMPLES = {"eq": (10, 20), "s": (10, 15), "si": (10, 25), "f": (15, 20), "fi": (5, 20), "d": (12, 18), "di": (5, 25),
            "o": (5, 15), "oi": (15, 25)}


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_winner_of_each_relation(policy, relation):
    a, b = EXAMPLES[relation]
    real = Reassembler(policy)
    real.write(10, b"o" * 10)
    real.write(a, b"n" * (b - a))
    low = min(a, 10)
    got = real.write(0, b"." * low)[low:]
    assert chr(got[max(a, 10) - low]) == OURS[policy][relation][0]


def test_every_step_of_suricatas_overlap_vectors(overlap):
    vectors = json.loads((overlap / "suricata_policy_vectors.json").read_text())["vectors"]
    assert len(vectors) == 15
    for v in vectors:
        for last in range(len(v["steps"])):
            want = bytes.fromhex(v["steps"][last]["expected_buffer_hex"])
            real = Reassembler(name_of(v["policy"]))
            for step in v["steps"][:last + 1]:
                assert real.write(step["offset"], step["data"].encode()) == b""
            got = real.write(0, b"|")
            while real.state["queued"]:
                hole, more = real.skip()
                got += bytes(hole) + more
            assert got[1:] == want, (v["name"], last)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sequence", ["novak", "shankar"])
def test_the_classic_overlap_sequences(overlap, policy, sequence):
    segments = json.loads((overlap / "scenarios.json").read_text())[sequence]["segments_in_send_order"]
    model, real = Model(policy), Reassembler(policy)
    for i, (a, b) in enumerate(segments):
        data = bytes([65 + i]) * (b + 1 - a)
        assert real.write(a + 1, data) == model.write(a + 1, data) == b""
    assert real.write(0, b"|") == model.write(0, b"|")
