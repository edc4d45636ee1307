"""The log: a line per event and verdict, as the schema says, the same bytes for any hash key."""
import io
import json
import re
from pathlib import Path

import pytest

from mos import DROP, Chain, Engine, UserEvent, derive, on
from mos.events import FlowEnd, StreamData
from mos.events.spec import LEAVES

ROOT = Path(__file__).parent.parent
CAPTURES = sorted(p for p in (ROOT / "pcaps").iterdir() if p.suffix in (".pcap", ".pcapng"))
SCHEMA = json.loads((ROOT / "mos" / "events" / "schema.json").read_text())


class Told(UserEvent):
    size: int


@on(StreamData, where="length > 1000")
def drop_large(ev):
    return DROP("large")


@derive(Told, on=FlowEnd)
def tell(ev):
    yield Told(size=ev.flow.client_bytes)


def logged(capture, key, *handlers):
    out = io.StringIO()
    with Engine(Chain(*[[h] for h in handlers]), log=out, hash_key=key) as engine:
        engine.run(capture)
    return out.getvalue()


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.name)
def test_two_runs_and_two_hash_keys_log_the_same(capture):
    first = logged(capture, b"k" * 16, drop_large, tell)
    assert first == logged(capture, b"k" * 16, drop_large, tell) == logged(capture, b"another key 16 b", drop_large, tell)


@pytest.mark.parametrize("capture", CAPTURES[:6], ids=lambda p: p.name)
def test_lines_are_json_in_order_of_time(capture):
    lines = [json.loads(line) for line in logged(capture, b"k" * 16).splitlines()]
    known = {k.name for k in LEAVES}
    assert lines and {line["event"] for line in lines} <= known
    assert [line["ns"] for line in lines] == sorted(line["ns"] for line in lines)
    for line in lines:
        assert set(line) >= {"event", "ns", "flow"}


def test_every_leaf_is_in_the_schema():
    text = json.dumps(SCHEMA)
    assert all(f'"{k.name}"' in text for k in LEAVES)


def test_verdicts_and_user_events_have_lines_of_their_own():
    lines = [json.loads(x) for x in logged(ROOT / "pcaps" / "http_download.pcapng", b"k" * 16, drop_large, tell).splitlines()]
    verdict = next(x for x in lines if x["event"] == "Verdict")
    assert (verdict["verdict"], verdict["by"], verdict["reason"]) == ("DROP", "drop_large", "large")
    told = next(x for x in lines if x["event"] == "Told")
    assert told["size"] > 0 and told["flow"] == 3     # the number of its first packet


def misfit(line, rule):
    """Why a value does not fit a JSON schema; only what schema.json uses is known here."""
    kinds = {"object": dict, "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    unknown = set(rule) - {"$schema", "title", "description", "type", "required", "properties", "oneOf", "const",
                          "enum", "pattern", "not"}
    assert not unknown, unknown
    if "type" in rule:
        wanted = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        if not any(isinstance(line, kinds[k]) and (k == "boolean" or not isinstance(line, bool)) for k in wanted):
            return f"{line!r} is no {wanted}"
    if "const" in rule and line != rule["const"] or "enum" in rule and line not in rule["enum"]:
        return f"{line!r} is not {rule}"
    if "pattern" in rule and not re.search(rule["pattern"], line):
        return f"{line!r} does not match"
    if "not" in rule and misfit(line, rule["not"]) is None:
        return f"{line!r} is {rule['not']}"
    for name in rule.get("required", ()):
        if name not in line:
            return f"{name} is missing"
    for name, inner in rule.get("properties", {}).items():
        wrong = misfit(line[name], inner) if name in line else None
        if wrong:
            return f"{name}: {wrong}"
    if "oneOf" in rule:
        fits = [r["title"] for r in rule["oneOf"] if misfit(line, r) is None]
        if len(fits) != 1:
            return f"fits {fits}"
    return None


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.name)
def test_every_line_is_as_the_schema_says(capture):
    for text in logged(capture, b"k" * 16, drop_large, tell).splitlines():
        line = json.loads(text)
        assert misfit(line, SCHEMA) is None, f"{text}: {misfit(line, SCHEMA)}"


def test_the_check_would_notice():
    good = json.loads(logged(CAPTURES[0], b"k" * 16).splitlines()[0])
    for name in (*good, "event"):
        assert misfit({k: v for k, v in good.items() if k != name}, SCHEMA)
        assert misfit(good | {name: {"an": "object"}}, SCHEMA)
