# cython: language_level=3
"""What a call from Cython into Python costs by itself: the yardstick for Python handlers."""
import json
import time


def calls(long n):
    """ns of CPU time for a call of a Python function that does nothing, with an argument used again each time."""
    scope = {}
    exec("def handler(ev):\n    pass\n", scope)
    handler, argument = scope["handler"], object()
    cdef long i
    start = time.process_time_ns()
    for i in range(n):
        handler(argument)
    return (time.process_time_ns() - start) / n


def main():
    print(json.dumps({"ns": min([calls(5_000_000) for _ in range(3)])}))
