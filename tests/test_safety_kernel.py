"""A slice of safety_kernel.py: senders that cheat, mos inline, real kernels that receive."""
import namespaces


def test_no_program_reads_what_did_not_pass():
    namespaces.need()
    from safety_kernel import run
    problems, read, connections, counters = run(80)
    assert not problems, problems[:10]
    assert connections == 80 and read > 100_000 and min(counters.values()) > 0, (read, counters)
