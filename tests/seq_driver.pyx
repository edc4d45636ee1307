"""Sequence-number arithmetic for Python to test."""
from mos.tcp.seq cimport seq_between, seq_diff, seq_ge, seq_gt, seq_le, seq_lt, seq_max


def compare(unsigned int a, unsigned int b):
    """diff, lt, le, gt, ge, max."""
    return seq_diff(a, b), bool(seq_lt(a, b)), bool(seq_le(a, b)), bool(seq_gt(a, b)), bool(seq_ge(a, b)), seq_max(a, b)


def between(unsigned int lo, unsigned int x, unsigned int hi):
    return bool(seq_between(lo, x, hi))
