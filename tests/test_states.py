"""The state machine as data: its snapshots, and that it is whole."""
from pathlib import Path

from mos.events import spec
from mos.tcp.states import INPUTS, STATES, TRANSITIONS, dot, matrix

SNAPSHOTS = Path(__file__).parent / "snapshots"


def table():
    """State by input as text; a dot where nothing changes."""
    width = [max(len(i), 12) for i in INPUTS]
    rows = [["", *INPUTS]] + [[s, *(TRANSITIONS.get((s, i), ".") for i in INPUTS)] for s in STATES]
    return "\n".join(f"{r[0]:13}" + " ".join(f"{c:{w}}" for c, w in zip(r[1:], width)).rstrip() for r in rows) + "\n"


def test_the_matrix_is_as_reviewed():
    assert table() == (SNAPSHOTS / "states.txt").read_text()


def test_the_graph_is_as_reviewed():
    assert dot() == (SNAPSHOTS / "states.dot").read_text()


def test_names_are_those_of_states_and_inputs():
    for (old, cause), new in TRANSITIONS.items():
        assert old in STATES and new in STATES and cause in INPUTS and old != new
    assert STATES == spec.STATES


def test_every_state_can_be_reached_and_left():
    reached = {"CLOSED", "LISTEN"}
    while more := {new for (old, _), new in TRANSITIONS.items() if old in reached} - reached:
        reached |= more
    assert reached == set(STATES)
    ends = {"CLOSED"}
    while more := {old for (old, _), new in TRANSITIONS.items() if new in ends} - ends:
        ends |= more
    assert ends == set(STATES)


def test_the_bytes_are_the_table():
    got = matrix()
    assert len(got) == len(STATES) * len(INPUTS)
    for i, s in enumerate(STATES):
        for j, cause in enumerate(INPUTS):
            assert STATES[got[i * len(INPUTS) + j]] == TRANSITIONS.get((s, cause), s)


def test_every_input_counts_somewhere_but_the_syn_ack_of_its_sender():
    """A server moves when the SYN reaches it; that it answers is no news."""
    assert set(INPUTS) - {cause for _, cause in TRANSITIONS} == {"SND_SYN_ACK"}
