"""Wants to know of retransmissions with other content: the stack must keep a copy of what was delivered to compare."""
from mos import on
from mos.events import OverlapConflict


@on(OverlapConflict)
def conflict(ev):
    raise AssertionError("the workloads hold no conflict")
