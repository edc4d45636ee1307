"""Who wins where a NEW segment overlaps an OLD one that is still queued and their bytes differ.

One row per policy, one column per relation of NEW to OLD (Novak and Sturges 2007, as Suricata and Snort implement it):
eq same range, s same start but shorter, si same start but longer, f inside with the same end, fi starts before with the
same end, d strictly inside, di strictly contains, o starts before and ends inside, oi starts inside and ends after.
Delivered bytes never change, whatever the policy.
"""
RELATIONS = ("eq", "s", "si", "f", "fi", "d", "di", "o", "oi")

NEW_WINS = {
    "first":     (),
    "last":      ("eq", "s", "si", "f", "fi", "d", "di", "o", "oi"),
    "bsd":       ("fi", "di", "o"),
    "bsd_right": ("eq", "s", "si", "f", "fi", "di", "oi"),
    "linux":     ("si", "fi", "di", "o"),
    "old_linux": ("eq", "si", "fi", "di", "o"),
    "windows":   ("fi", "di", "o"),
    "vista":     (),
    "solaris":   ("eq", "si", "fi", "di", "oi"),
    "hpux":      ("eq", "si", "fi", "di", "oi"),
    "hpux10":    ("fi", "di", "o"),
    "irix":      ("fi", "di", "o"),
    "macos":     ("fi", "di", "o"),
}
POLICIES = tuple(NEW_WINS)


def index(name):
    """Number of a policy. ValueError names the choices."""
    if name not in NEW_WINS:
        raise ValueError(f"unknown overlap policy {name!r}; choose one of {', '.join(POLICIES)}")
    return POLICIES.index(name)


def table():
    """Row by row as bytes, 1 where NEW wins: what `reasm` indexes by policy * 9 + relation."""
    return bytes(r in NEW_WINS[p] for p in POLICIES for r in RELATIONS)
