"""The log: one JSON object a line, event by event, as schema.json has it. Two runs and two hash keys give the same bytes."""
import json
import sys

from mos.errors import UsageError
from mos.events.views import event_fields

VERDICTS = {1: "EDIT", 2: "HOLD", 3: "DROP", 4: "DROP_FLOW", 5: "RESET"}


class Log:
    """Writes every event of a run, whoever subscribes to it, and every verdict but PASS with who gave it and why."""

    def __init__(self, target, names=()):
        self.names = names
        self.owned = isinstance(target, (str, bytes)) or hasattr(target, "__fspath__")
        if target == "-":
            self.owned, target = False, sys.stdout
        try:
            self.file = open(target, "w", encoding="utf-8", newline="\n") if self.owned else target
        except OSError as e:
            raise UsageError(f"cannot write the log {target}: {e.strerror}") from e
        self.encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

    def event(self, ev):
        """One event as one line."""
        flow = ev.flow
        line = {"event": type(ev).__name__, "ns": ev.time, "flow": None if flow is None else flow.id}
        line.update(event_fields(ev))
        self.file.write(self.encode(line) + "\n")

    def verdict(self, code, position, reason, packet, now, flow):
        """One verdict as one line."""
        by = self.names[position] if position < len(self.names) else "stack"
        self.file.write(self.encode({"event": "Verdict", "ns": now, "flow": flow, "verdict": VERDICTS[code], "by": by,
                                     "reason": reason, "packet": packet}) + "\n")

    def close(self):
        """Flush, and close what was opened here."""
        self.file.flush()
        if self.owned:
            self.file.close()
