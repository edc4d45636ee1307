"""mbox.ids against a plain search of the whole stream, however it was cut, reordered, dropped and repeated on the way."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mbox.ids import Alert, Ids
from source_tree import ROOT

from mos import Chain, Engine, UsageError, on
from mos.events import FlowStart
from mos.testing import merge, tcp, udp

rule = st.fixed_dictionaries({
    "text": st.text("abAé", min_size=1, max_size=5), "nocase": st.booleans(),
    "direction": st.sampled_from(["to_server", "to_client", "both"])})
# Long runs in which no pattern begins, too: they are passed over sixteen bytes at a time.
piece = st.tuples(st.integers(0, 40), st.text("abABé", min_size=1, max_size=9)).map(lambda p: b"." * p[0] + p[1].encode())
pieces = st.lists(piece, max_size=8)


def write(path, rules):
    """A file of rules; texts as hexadecimal."""
    path.write_text("".join(
        f'[[rule]]\nname = "{r.get("name", i)}"\nhex = "{r["text"].encode().hex(" ")}"\nnocase = {str(r["nocase"]).lower()}\n'
        f'direction = "{r["direction"]}"\naction = "{r.get("action", "alert")}"\n' for i, r in enumerate(rules)))
    return path


def search(packets, box, **how):
    """(alerts as rule, offset, direction, flow; verdicts as code, reason) of one run."""
    alerts, verdicts = [], []

    @on(Alert)
    def got(ev):
        alerts.append((ev.rule, ev.offset, ev.direction, ev.flow.id))
    with Engine(Chain(box, [got]), on_verdict=lambda *v: verdicts.append((v[0], v[2])), **how) as engine:
        for ns, frame in packets:
            engine.feed(frame, ns)
    return alerts, verdicts


def naive(rules, streams):
    """Every occurrence, sorted: rule, offset, direction."""
    found = []
    for i, r in enumerate(rules):
        for direction, stream in streams.items():
            if r["direction"] in (direction, "both"):
                text = r["text"].encode()
                if r["nocase"]:
                    stream, text = stream.lower(), text.lower()
                found += [(str(i), at, direction) for at in range(len(stream)) if stream.startswith(text, at)]
    return sorted(found)


@settings(max_examples=150, deadline=None)
@given(rules=st.lists(rule, min_size=1, max_size=6), there=pieces, back=pieces, seed=st.integers(0, 99), shuffled=st.booleans())
def test_matches_are_those_of_a_plain_search(tmp_path_factory, rules, there, back, seed, shuffled):
    path = write(tmp_path_factory.getbasetemp() / "rules.toml", rules)
    chat = tcp("10.0.0.1:1000", "10.0.0.2:80")
    for a, b in zip(there + [b""] * len(back), back + [b""] * len(there)):
        if a:
            chat.send(a)
        if b:
            chat.reply(b)
    if shuffled:
        chat.shuffle(seed)
    alerts, verdicts = search(chat.close(), Ids(rules=path, show=False))
    expected = naive(rules, {"to_server": b"".join(there), "to_client": b"".join(back)})
    assert sorted(a[:3] for a in alerts) == expected and verdicts == []


@settings(max_examples=60, deadline=None)
@given(rules=st.lists(rule, min_size=1, max_size=4), ours=pieces, theirs=pieces)
def test_flows_do_not_mix(tmp_path_factory, rules, ours, theirs):
    path = write(tmp_path_factory.getbasetemp() / "rules.toml", rules)
    chats = [tcp(f"10.0.0.1:{1000 + i}", "10.0.0.2:80") for i in range(2)]
    for chat, texts in zip(chats, (ours, theirs)):
        for text in texts:
            chat.send(text)
    alerts, _ = search(merge(*chats), Ids(rules=path, show=False))
    for flow, texts in ((1, ours), (2, theirs)):
        assert sorted(a[:3] for a in alerts if a[3] == flow) == naive(rules, {"to_server": b"".join(texts)})


@settings(max_examples=60, deadline=None)
@given(rules=st.lists(rule, min_size=1, max_size=4), texts=pieces)
def test_datagrams_are_searched_one_by_one(tmp_path_factory, rules, texts):
    path = write(tmp_path_factory.getbasetemp() / "rules.toml", rules)
    chat, expected, at = udp("10.0.0.1:1000", "10.0.0.2:53"), [], 0
    for text in texts:
        chat.send(text)
        expected += [(r, at + offset, way) for r, offset, way in naive(rules, {"to_server": text})]
        at += len(text)
    alerts, _ = search(chat, Ids(rules=path, show=False))
    assert sorted(a[:3] for a in alerts) == sorted(expected)


def test_two_boxes_in_one_chain_keep_their_own_states():
    chat = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"xab").send(b"cde").send(b"f")
    one, two = Ids(patterns=["abcdef"], show=False), Ids(patterns=["bcd"], show=False)
    alerts, _ = search(chat, one)
    assert [a[:2] for a in alerts] == [("abcdef", 1)]
    found = []
    with Engine(Chain(one, two, [on(Alert)(lambda ev: found.append((ev.rule, ev.offset)))])) as engine:
        for ns, frame in chat:
            engine.feed(frame, ns)
    assert found == [("bcd", 2), ("abcdef", 1)]


@pytest.mark.parametrize("action", ["drop", "reset"])
def test_first_match_decides(tmp_path, action):
    rules = write(tmp_path / "r.toml", [
        {"name": "note", "text": "b", "nocase": False, "direction": "both"},
        {"name": "stop", "text": "bad", "nocase": False, "direction": "both", "action": action},
        {"name": "later", "text": "worse", "nocase": False, "direction": "both", "action": "reset"}])
    chat = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"so bad, and worse", ack=False)
    alerts, verdicts = search(chat, Ids(rules=rules, show=False), truth="inline")
    assert [a[:2] for a in alerts] == [("note", 3), ("stop", 3), ("later", 12)]
    assert verdicts == [({"drop": 3, "reset": 5}[action], "stop")]


@pytest.mark.parametrize("truth", ["tap", "inline"])
def test_what_is_dropped_is_searched_again(truth):
    chat = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"..ba").send(b"d..", ack=False)
    chat.retransmit(-1).retransmit(-1, data=b"t..").send(b"bad", ack=False)
    alerts, verdicts = search(chat, Ids(patterns=["bad"], action="drop", show=False), truth=truth)
    assert [a[1] for a in alerts] == [2, 2, 7]
    assert verdicts == [(3, "bad")] * 3


def test_search_begins_anew_behind_a_gap():
    chat = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"ab").send(b"..").send(b"cd").send(b"abcd").wait(5).send(b"!")
    alerts, _ = search(chat.lose(lambda p: p.payload == b".."), Ids(patterns=["abcd"], show=False))
    assert [a[1] for a in alerts] == [6]


def test_states_of_other_rules_begin_anew():
    box, found = Ids(patterns=["ab"], nocase=True, show=False), []

    @on(FlowStart)
    def spoil(ev):
        box.states[ev.flow] = -1
    chat = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"aB").send(b"AB")
    with Engine(Chain([spoil], box, [on(Alert)(lambda ev: found.append(ev.offset))])) as engine:
        for ns, frame in chat:
            engine.feed(frame, ns)
    assert found == [0, 2]


def test_other_direction_survives_a_gap():
    chat = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"x").reply(b"ab").send(b"..").wait(5).send(b"y").send(b"y").reply(b"cd")
    alerts, _ = search(chat.lose(lambda p: p.payload == b".."), Ids(patterns=["abcd"], show=False))
    assert [a[1:3] for a in alerts] == [(0, "to_client")]


def test_recorded_attacks(capsys):
    with Engine(Chain(Ids(rules=ROOT / "examples" / "attacks.toml"))) as engine:
        engine.run(str(ROOT / "pcaps" / "http_attacks.pcap"))
    said = capsys.readouterr().out.splitlines()
    assert [(line.split(" (")[0].split(":")[0], line.split(", ")[-1]) for line in said] == [
        ("path traversal", "alert"), ("shellshock", "alert"), ("SQL injection", "drop")]
    assert "10.77.0.1:56460" in said[0] and "to_server, byte 4," in said[0]


@pytest.mark.parametrize(("text", "said"), [
    ("", "holds [[rule]] tables"), ("[rule]\nname='x'", "holds [[rule]] tables"), ("rule = [1]", "holds [[rule]] tables"),
    ("[[rule]]\nname='x'\ncontent='y'\n[other]\n", "holds [[rule]] tables"), ("[[rule]", "is no TOML file"),
    ("[[rule]]\ncontent='x'", "rule 1 needs a name"), ("[[rule]]\nname=''\ncontent='x'", "rule 1 needs a name"),
    ("[[rule]]\nname='x'", "rule 1 (x) needs either content or hex"),
    ("[[rule]]\nname='x'\ncontent='a'\nhex='00'", "needs either content or hex"),
    ("[[rule]]\nname='x'\nhex='0g'", "is not hexadecimal"), ("[[rule]]\nname='x'\nhex='  '", "not empty"),
    ("[[rule]]\nname='x'\ncontent=''", "not empty"), ("[[rule]]\nname='x'\ncontent=5", "not empty"),
    ("[[rule]]\nname='x'\ncontents='a'", "no key 'contents'; it takes name, content"),
    ("[[rule]]\nname='x'\ncontent='a'\ndirection='up'", "direction is 'up'; choose one of to_server, to_client, both"),
    ("[[rule]]\nname='x'\ncontent='a'\naction=['drop']", "action is ['drop']; choose one of alert, drop, reset"),
    ("[[rule]]\nname='x'\ncontent='a'\nnocase=1", "nocase is true or false"),
])
def test_wrong_rules_are_told_in_one_line(tmp_path, text, said):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        Ids(rules=path)
    assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_settings_are_told_in_one_line(tmp_path):
    for how, said in (({}, "nothing to look for"), ({"rules": tmp_path / "no"}, "cannot read the rules"),
                      ({"patterns": ["x"], "action": "explode"}, "choose one of"), ({"patterns": [" "]}, "not empty"),
                      ({"pattern": ["x"]}, "did you mean 'patterns'"), ({"patterns": ["x" * 70_000]}, "more than 65536 states")):
        with pytest.raises(UsageError, match=said) as caught:
            Ids(**how)
        assert "\n" not in str(caught.value)


def test_the_largest_automaton_still_counts_right():
    text = bytes(range(33, 127)).decode() * 697     # 65,518 states, each with its own way back
    box = Ids(patterns=[text], show=False)
    chat = tcp("10.0.0.1:1", "10.0.0.2:80")
    sent = b"!" + text.encode()
    for at in range(0, len(sent), 1460):
        chat.send(sent[at:at + 1460], ack=False)
    assert [a[1] for a in search(chat, box)[0]] == [1]
