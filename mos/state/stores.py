"""What a running stack keeps for the kinds that are not per flow: one store per declaration and stack."""
from array import array
from collections import OrderedDict
from types import MappingProxyType

from mos.errors import UsageError

KEY_MAX = 1024      # bytes of an encoded key: no name or address tuple is longer, and keys are what an attacker sends
LABEL_MAX = 128     # characters of a label; the rest is cut off, a label being there to be read
OTHER = "other"     # label of what comes after the last label there is room for


_PLAIN = frozenset((str, bytes, int))


def key_bytes(key):
    """A key of a Map as bytes that no other key shares.

    Dicts keyed by ints or tuples of them can be flooded with keys that collide, because their hash has no secret; that of
    bytes is SipHash with a key drawn at start. Raises TypeError for other types, ValueError beyond KEY_MAX.
    """
    kind = type(key)
    if kind not in _PLAIN and not (kind is tuple and _PLAIN.issuperset(map(type, key))):
        key = _plain(key)
    raw = ascii(key).encode("ascii")    # of the plain types alone: no two of them look alike
    if len(raw) > KEY_MAX:
        raise ValueError(f"a key of a Map takes at most {KEY_MAX} bytes, not {len(raw)}: cut it, or hash it")
    return raw


def _plain(key):
    """`key` without subclasses: True is 1."""
    if isinstance(key, tuple):
        return tuple([_plain(part) for part in key])
    if isinstance(key, int):
        return int(key)
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, bytes):
        return bytes(key)
    raise TypeError(f"keys of a Map are str, bytes, int or tuples of those, not {type(key).__name__}")


class PoolStore:
    """Free numbers in two lists, even and odd, oldest first: given back last, taken last. All operations are O(1)."""

    def __init__(self, lo, hi):
        n = hi - lo + 1
        self.lo, self.hi = lo, hi
        # Lists run through arrays by index (number - lo); entries n and n + 1 are the ends of the even and the odd list.
        self.after = array("i", range(2, n + 4))
        self.before = array("i", range(-2, n))
        self.left = [0, 0]
        self.turn = lo & 1      # parity of the next number when none is asked for
        self.exhausted = 0      # takes that found nothing
        for parity in (0, 1):
            first = (parity - lo) & 1
            end, count = n + parity, -(-(n - first) // 2)
            last = first + 2 * (count - 1) if count else end
            self.left[parity] = count
            self.after[end], self.before[end] = (first, last) if count else (end, end)
            if count:
                self.before[first] = self.after[last] = end

    def take(self, prefer=None, parity=None):
        if prefer is not None and self.lo <= prefer <= self.hi and self.before[prefer - self.lo] >= 0 \
                and (parity is None or not (prefer ^ parity) & 1):
            return self._claim(prefer - self.lo)
        which = self.turn if parity is None else parity & 1
        if not self.left[which] and parity is None:
            which ^= 1
        if not self.left[which]:
            self.exhausted += 1
            return None
        if parity is None:
            self.turn = which ^ 1
        return self._claim(self.after[self.hi - self.lo + 1 + which])

    def _claim(self, i):
        before, after = self.before[i], self.after[i]
        self.after[before], self.before[after] = after, before
        self.before[i] = -1     # held
        self.left[(i + self.lo) & 1] -= 1
        return i + self.lo

    def give(self, x):
        if not self.lo <= x <= self.hi:
            raise UsageError(f"{x} does not belong to this Pool, which has {self.lo} to {self.hi}")
        i, which = x - self.lo, x & 1
        if self.before[i] >= 0:
            raise UsageError(f"{x} was given back to the Pool already: whoever takes a number gives it once")
        end = self.hi - self.lo + 1 + which
        last = self.before[end]
        self.after[i], self.before[i] = end, last
        self.after[last] = self.before[end] = i
        self.left[which] += 1

    def holds(self, x):
        return self.lo <= x <= self.hi and self.before[x - self.lo] < 0

    @property
    def free(self):
        return self.left[0] + self.left[1]

    def share(self):
        """Nothing: no process could tell which numbers another one holds."""

    def value(self):
        """Numbers handed out."""
        return self.hi - self.lo + 1 - self.free

    def counters(self):
        return {"held": self.value(), "free": self.free, "exhausted": self.exhausted}


class CountStore:
    """A sum, or a sum per label."""

    def __init__(self, names, bound):
        self.names, self.bound = names, bound
        self.total = 0
        self.labels = {}
        self.others = 0         # additions that went to OTHER for want of room

    def add(self, n, label):
        if not label and not self.names:
            self.total += n
            return
        if len(label) != (len(self.names) or 1):
            raise UsageError(f"this Count has the labels ({', '.join(self.names) or 'label'}), so add() takes n and "
                             f"{len(self.names) or 1} more, not {len(label)}")
        texts = tuple([str(part)[:LABEL_MAX] for part in label])
        if texts not in self.labels and len(self.labels) >= self.bound:
            texts = (OTHER,) * len(texts)
            self.others += 1
        self.labels[texts] = self.labels.get(texts, 0) + n

    def share(self):
        """What another process needs to know of it."""
        return self.total, dict(self.labels), self.others

    def absorb(self, before, parts, merge):
        """Take in what several copies, all `before` once, have become: `parts` are what they share."""
        for total, labels, others in parts:
            self.total += total - before[0]
            self.others += others - before[2]
            for label, n in labels.items():
                self.add(n - before[1].get(label, 0), label)

    def value(self):
        """An int, or {label: int} once there are labels ((label, …) with several names); "" is what came without."""
        if not self.labels and not self.names:
            return self.total
        found = {label[0] if len(label) == 1 else label: n for label, n in self.labels.items()}
        return {"": self.total, **found} if self.total else found

    def counters(self):
        return {"labels": len(self.labels), "other": self.others}


class MapStore:
    """Entries [value, time, key] by encoded key, least recently used first. `clock.now` is packet time, ns."""

    def __init__(self, clock, cap, expire_ns, on_create, default):
        self.clock, self.cap, self.expire_ns, self.on_create, self.default = clock, cap, expire_ns, on_create, default
        self.entries = OrderedDict()
        self.ages = OrderedDict()   # encoded keys by the time that expiry counts from; empty without expiry
        self.evicted = self.expired = 0

    def _purge(self):
        """Drop what has expired: each entry once, so amortised O(1)."""
        limit = self.clock.now - (self.expire_ns or 0)
        while self.ages:
            raw = next(iter(self.ages))
            if self.entries[raw][1] > limit:
                break
            del self.entries[raw], self.ages[raw]
            self.expired += 1

    def _find(self, key):
        """Encoded key, and its entry or None."""
        raw = key_bytes(key)
        if self.ages:
            self._purge()
        return raw, self.entries.get(raw)

    def get(self, key, otherwise=None):
        raw, entry = self._find(key)
        if entry is None:
            return otherwise
        self.entries.move_to_end(raw)
        return entry[0]

    def __getitem__(self, key):
        raw, entry = self._find(key)
        if entry is not None:
            self.entries.move_to_end(raw)
            return entry[0]
        if not callable(self.default):
            return self.default
        value = self.default()
        self._put(raw, key, value)
        return value

    def __setitem__(self, key, value):
        self._put(self._find(key)[0], key, value)

    def _put(self, raw, key, value):
        entry = self.entries.get(raw)
        if entry is not None:
            entry[0] = value
            self.entries.move_to_end(raw)
            if self.on_create:
                return
            entry[1] = self.clock.now
        else:
            if len(self.entries) >= self.cap:
                self.ages.pop(self.entries.popitem(last=False)[0], None)
                self.evicted += 1
            self.entries[raw] = [value, self.clock.now, key]
        if self.expire_ns is not None:
            self.ages[raw] = None
            self.ages.move_to_end(raw)

    def add(self, key, n):
        raw, entry = self._find(key)
        start = entry[0] if entry is not None else self.default() if callable(self.default) else self.default
        value = n if start is None else start + n
        self._put(raw, key, value)
        return value

    def pop(self, key, otherwise):
        raw, entry = self._find(key)
        if entry is None:
            return otherwise
        del self.entries[raw]
        self.ages.pop(raw, None)
        return entry[0]

    def __contains__(self, key):
        return self._find(key)[1] is not None

    def __len__(self):
        self._purge()
        return len(self.entries)

    def items(self):
        """[(key, value)], least recently used first."""
        self._purge()
        return [(key, value) for value, _, key in self.entries.values()]

    def share(self):
        """What another process needs to know of it."""
        self._purge()
        return [(time, key, value) for value, time, key in self.entries.values()], self.evicted, self.expired

    def absorb(self, before, parts, merge):
        """As CountStore's. `merge` is "sum", "max" or "min", or makes of two values of a key one."""
        known = {key_bytes(key): value for _, key, value in before[0]}
        combine = {"max": max, "min": min}.get(merge, merge)
        found = {}
        for entries, evicted, expired in parts:
            self.evicted += evicted - before[1]
            self.expired += expired - before[2]
            for time, key, value in entries:
                raw = key_bytes(key)
                if raw in found:
                    was, at, _ = found[raw]
                    both = was + value - known.get(raw, 0) if merge == "sum" else combine(was, value)
                    found[raw] = both, max(at, time), key
                else:
                    found[raw] = value, time, key
        self.entries.clear()
        self.ages.clear()
        for raw, (value, time, key) in sorted(found.items(), key=lambda item: item[1][1]):
            self._put(raw, key, value)
            self.entries[raw][1] = time

    def value(self):
        """{key: value}, least recently used first. For after a run: a dict of the bare keys can be flooded."""
        return dict(self.items())

    def counters(self):
        return {"size": len(self), "evicted": self.evicted, "expired": self.expired}


class TableStore:
    """A dict that is never changed, only replaced: who holds a snapshot keeps seeing what it saw."""

    def __init__(self, initial):
        self.replaced = -1
        self.replace(initial)

    def replace(self, mapping):
        self.now = MappingProxyType(dict(mapping))
        self.replaced += 1

    def share(self):
        """What another process needs to know of it."""
        return dict(self.now), self.replaced

    def absorb(self, before, parts, merge):
        """As CountStore's: all copies hold the same, or the first that was replaced is taken."""
        for now, replaced in parts:
            if replaced != before[1]:
                return self.replace(now)

    def value(self):
        """{key: value}."""
        return dict(self.now)

    def counters(self):
        return {"size": len(self.now), "replaced": self.replaced}
