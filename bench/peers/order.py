"""In-order bytes as a short script would do it: the fast path stands in each loop, this is for what is not in order."""
import json


class Half:
    """One direction of a flow: the sequence number expected, what came early, bytes delivered."""
    __slots__ = ("next", "early", "bytes", "fin")

    def __init__(self):
        self.next = None
        self.early = {}
        self.bytes = 0
        self.fin = False


def late(half, seq, data):
    """Data that is not exactly what was expected: overlapping, early, or what early data waited for."""
    early = half.early
    if seq not in early or len(early[seq]) < len(data):
        early[seq] = data
    progress = True
    while progress and early:
        progress = False
        for at in sorted(early, key=lambda s: (s - half.next + 0x80000000) & 0xffffffff):
            old = (half.next - at) & 0xffffffff
            if old >= 0x80000000:
                break
            fresh = early.pop(at)[old:]
            half.bytes += len(fresh)
            half.next = (half.next + len(fresh)) & 0xffffffff
            progress = True


def report(packets, flows, to_server, to_client):
    print(json.dumps({"packets": packets, "flows": flows, "to_server": to_server, "to_client": to_client}))
