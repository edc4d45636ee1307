"""The C surface: what a handler in Cython sees and answers, and that it can be built against what is installed."""
import gc
import hashlib
import ipaddress
import json
import re
import shutil

import pytest
from driver import load
from installation import SUFFIX, clean_environment, compile_against, run
from source_tree import ROOT

from mos import (
    BYPASS,
    DETACH,
    DROP,
    DROP_FLOW,
    RESET,
    Chain,
    ChainError,
    Engine,
    FlowVar,
    HandlerError,
    MosError,
    Rewrite,
    UserEvent,
    on,
)
from mos.events import FlowEnd, FlowStart, PacketIn, Retransmission, StreamData
from mos.testing import merge, tcp, udp

driver = load("capi_driver")
CODES = {"DROP": (3, DROP), "DROP_FLOW": (4, DROP_FLOW), "RESET": (5, RESET), "BYPASS": (8, BYPASS), "DETACH": (9, DETACH)}


class Ping(UserEvent):
    n: int


class Pong(UserEvent):
    n: int


def talk():
    return tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"one").reply(b"two").send(b"three").retransmit(4).close()


def play(chain, packets, **settings):
    """Run packets through a chain; (engine, verdicts as code, position, reason, packet, flow)."""
    verdicts = []
    with Engine(chain, on_verdict=lambda code, position, reason, packet, now, flow: verdicts.append(
            (code, position, reason, packet, flow)), **settings) as engine:
        for ns, frame in packets:
            engine.feed(frame, ns)
    return engine, verdicts


class Twin:
    """What Note writes down, written down in Python."""

    def __init__(self, *events):
        self.seen = []
        self.handlers = [on(event)(self.handler()) for event in events]

    def handler(self):
        def note(ev):
            flow = ev.flow
            data = ev.data if isinstance(ev, StreamData) else ev.packet.payload if isinstance(ev, Retransmission) else None
            ends = [(None, 0)] * 2
            if flow is not None:
                ends = [(ipaddress.ip_address(a).packed, port)
                        for a, port in ((ev.client, ev.client_port), (ev.server, ev.server_port))]
            version = 0 if flow is None else 4 if len(ends[0][0]) == 4 else 6
            self.seen.append((flow.id if flow else 0, ev.to_server, data, version, *ends[0], *ends[1]))
        return note


@pytest.mark.parametrize("events", [(StreamData,), (PacketIn,), (FlowStart, StreamData, Retransmission, FlowEnd)])
def test_accessors_agree_with_python(events):
    chat = merge(talk(), talk().v6(), udp("10.0.0.9:53", "10.0.0.3:999").send(b"?").reply(b"!"))
    note, twin = driver.Note(*events), Twin(*events)
    play(Chain(note, twin.handlers), chat)
    assert note.context.seen == twin.seen
    assert len(note.context.seen) > 6 and {s[3] for s in note.context.seen} == {4, 6}


def test_events_without_a_flow_have_no_addresses():
    arp = bytes.fromhex("ffffffffffff020000000001" "0806") + bytes(28)
    note = driver.Note(PacketIn)
    play(Chain(note), [(1, arp)])
    assert note.context.seen == [(0, True, None, 0, None, 0, None, 0)]


def test_addresses_are_those_of_the_place_in_the_chain():
    @on(FlowStart, edits="header")
    def nat(ev):
        return Rewrite(server=("10.9.9.9", 8080))
    before, behind = driver.Note(StreamData), driver.Note(StreamData)
    play(Chain(before, [nat], behind), tcp("10.0.0.1:1234", "10.0.0.2:80").send(b"x"))
    assert [s[4:] for s in before.context.seen] == [(b"\x0a\0\0\1", 1234, b"\x0a\0\0\2", 80)]
    assert [s[4:] for s in behind.context.seen] == [(b"\x0a\0\0\1", 1234, b"\x0a\x09\x09\x09", 8080)]


@pytest.mark.parametrize("name", CODES)
def test_verdicts_are_those_of_python(name):
    code, verdict = CODES[name]

    @on(StreamData)
    def python(ev):
        return verdict("why") if code < 8 else verdict
    theirs, said = play(Chain([python]), talk(), truth="inline")
    ours, told = play(Chain(driver.Answer(StreamData, code, b"why")), talk(), truth="inline")
    assert told == said and (told or code >= 8)
    a, b = ours.stats(), theirs.stats()
    assert a["bus"]["misanswers"] == 0
    assert list(a["bus"]["calls"].values()) == list(b["bus"]["calls"].values())
    assert [a[k] for k in ("packets_out", "forwarded", "injected", "events")] == \
        [b[k] for k in ("packets_out", "forwarded", "injected", "events")]


@pytest.mark.parametrize(("event", "verdict", "how"), [
    *[(StreamData, v, {}) for v in (-1, 1, 2, 6, 7, 10, 1000)],
    (FlowEnd, 3, {}), (FlowEnd, 5, {}), (StreamData, 3, {"at": "receiver"}), (StreamData, 5, {"observe": True})])
def test_impossible_answers_count_as_pass(event, verdict, how):
    engine, verdicts = play(Chain(driver.Answer(event, verdict, b"no", **how)), talk(), truth="inline")
    stats = engine.stats()
    assert verdicts == []
    assert stats["forwarded"] == stats["packets_in"] == stats["packets_out"]
    assert stats["bus"]["misanswers"] == sum(stats["bus"]["calls"].values()) > 0


def test_answer_at_a_flows_end_spares_the_packet_that_ended_it():
    """The first packet of the next connection ends the old one; what is said to that FlowEnd is not about the new packet."""
    chat = talk().wait(1000)
    again = tcp("10.0.0.1:1234", "10.0.0.2:80", isn=(900_000, 900_000), start_ns=chat.clock)
    engine, verdicts = play(Chain(driver.Answer(FlowEnd, 4)), merge(chat, again))
    assert verdicts == [] and engine.stats()["bus"]["calls"]["answer.answer"] == 2


def test_reason_is_that_of_the_strongest_answer():
    @on(StreamData)
    def mild(ev):
        return DROP("mild")
    hard = driver.Answer(StreamData, 5, b"hard")
    packets = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"x", ack=False)
    for chain in (Chain(Both([mild], hard)), Chain(Both(hard, [mild]))):
        assert [v[:3] for v in play(chain, packets)[1]] == [(5, 0, "hard")]
    assert [v[2] for v in play(Chain(driver.Answer(StreamData, 3, b"\xff")), packets)[1]] == ["\ufffd"]


def Both(*nfs):
    """Several NFs at one position."""
    from mos.nf import NF, as_nf
    nfs = [as_nf(n) for n in nfs]
    box = NF()
    box.handlers = lambda: [h for n in nfs for h in n.handlers()]
    return box


def test_published_events_reach_subscribers_and_carry_their_cause():
    got = []

    @on(Ping)
    def python(ev):
        got.append((ev.n, ev.flow.id, ev.to_server, ev.time))
    numbers = iter(range(100))
    box = driver.Publish(StreamData, lambda: Ping(n=next(numbers)), publishes=Ping)
    play(Chain(box, [python]), talk())
    assert [g[:3] for g in got] == [(0, 1, True), (1, 1, False), (2, 1, True)]
    assert sorted(g[3] for g in got) == [g[3] for g in got] and not box.context.raised


def test_answers_to_published_events_count():
    @on(Ping)
    def python(ev):
        return RESET("by subscriber")
    box = driver.Publish(StreamData, lambda: Ping(n=1), verdict=3, publishes=Ping)
    verdicts = play(Chain(box, [python]), talk())[1]
    assert verdicts[0][:2] == (5, 1)


def test_subscribers_of_published_events_may_raise():
    @on(Ping)
    def python(ev):
        raise ValueError("no")
    with pytest.raises(HandlerError, match="python.python raised ValueError at packet 4, Ping: no"):
        play(Chain(driver.Publish(StreamData, lambda: Ping(n=1), publishes=Ping), [python]), talk())


def test_only_user_events_are_published():
    box = driver.Publish(StreamData, lambda: "text")
    assert not play(Chain(box), talk())[1]
    assert len(box.context.raised) == 3 and isinstance(box.context.raised[0], MosError)


def test_chain_knows_what_native_handlers_publish():
    @on(Pong)
    def python(ev):
        pass
    with pytest.raises(ChainError, match="Pong, which no NF of this chain publishes"):
        Chain(driver.Publish(StreamData, lambda: Ping(n=1), publishes=Ping), [python])


def test_engine_keeps_what_handlers_point_at():
    engine = Engine(Chain(driver.Answer(StreamData, 3, b"kept alive")), on_verdict=lambda *v: seen.append(v[2]))
    engine.chain.nfs = engine.chain.subscriptions = ()
    seen = []
    gc.collect()
    clutter = [driver.Context(0, b"another text") for _ in range(100)]
    for ns, frame in talk():
        engine.feed(frame, ns)
    engine.close()
    assert set(seen) == {"kept alive"} and len(clutter) == 100


def test_variables_are_found_in_every_chain_at_once():
    box = driver.CountEvents(StreamData)
    wide = FlowVar(bytes, size=1000)
    results = []

    @on(StreamData)
    def fill(ev):
        wide[ev.flow] = b"\xff" * 1000

    @on(FlowEnd)
    def read(ev):
        results.append(box.seen[ev.flow])
    one, two = Engine(Chain([fill], box, [read])), Engine(Chain(box, [read]))
    for ns, frame in talk():
        one.feed(frame, ns)
        two.feed(frame, ns)
    one.close()
    two.close()
    assert results == [3, 3] and driver.undeclared()


def test_slots_by_offset_and_by_index_are_the_same_place():
    box = driver.Compare(StreamData)
    play(Chain(box), talk())
    assert box.sizes.same == [True] * 3


QUOTA = """
import json, sys
sys.path.insert(0, ".")
import quota
from mos import Chain, DROP_FLOW, Engine, FlowVar, on
from mos.events import FlowEnd, StreamData
from mos.testing import merge, tcp, udp

spent = FlowVar(int)

@on(StreamData)
def python(ev):
    if spent.add(ev.flow, len(ev.data)) > 100:
        return DROP_FLOW("quota used up")

def chat(port, n):
    c = tcp(f"10.0.0.1:{port}", "10.0.0.2:80")
    for i in range(n):
        c.send(b"x" * 30).reply(b"y" * 10)
    return c.close()

def play(box):
    found = []
    events = on(FlowEnd)(lambda ev: found.append((ev.flow.id, ev.reason, ev.client_port)))
    with Engine(Chain(box, [events]), truth="inline", on_verdict=lambda *v: found.append(v[:4] + v[5:])) as engine:
        for ns, frame in merge(chat(1000, 2), chat(1001, 9), udp("10.0.0.1:5", "10.0.0.2:5").send(bytes(99)).reply(bytes(9))):
            engine.feed(frame, ns)
    stats = engine.stats()
    return found, [stats[k] for k in ("packets_in", "forwarded", "events")], list(stats["dropped"].values())

print(json.dumps([play(quota.Quota(limit=100)), play([python])]))
"""


@pytest.mark.timeout(300)
def test_example_does_what_python_does_where_mos_is_installed(installed, tmp_path):
    shutil.copy(ROOT / "examples" / "capi" / "quota.pyx", tmp_path)
    compile_against(installed, tmp_path / "quota.pyx", tmp_path)
    said = run(installed, "-c", QUOTA, cwd=tmp_path, env=clean_environment())
    theirs, python = json.loads(said)
    assert theirs == python
    assert any("quota used up" in entry for entry in theirs[0])


@pytest.fixture(scope="session")
def declarations(installed, tmp_path_factory):
    """A copy of the installed declarations, to be changed."""
    site = next((installed.parent.parent / "lib").glob("python*/site-packages"))
    home = tmp_path_factory.mktemp("declarations")
    for path in (site / "mos").rglob("*.pxd"):
        copy = home / path.relative_to(site)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return home


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("file", "old", "new"), [
    ("handler.pxd", "MOS_ABI = ", "MOS_ABI = 9"),
    ("ring.pxd", "    int64_t  arg ", "    int64_t  more\n    int64_t  arg "),
], ids=["number", "size"])
def test_module_built_for_another_core_is_refused(installed, declarations, tmp_path, file, old, new):
    shutil.copytree(declarations, tmp_path / "site")
    changed = tmp_path / "site" / "mos" / "events" / file
    assert old in changed.read_text()
    changed.write_text(changed.read_text().replace(old, new))
    (tmp_path / "stranger.pyx").write_text("# cython: language_level=3\nfrom mos cimport import_mos\nimport_mos()\n")
    compile_against(installed, tmp_path / "stranger.pyx", tmp_path, site=tmp_path / "site")
    ask = "try:\n    import stranger\nexcept ImportError as e:\n    print(e)"
    said = run(installed, "-c", ask, cwd=tmp_path, env=clean_environment())
    assert said.count("\n") == 1 and re.search(r"mos ABI \d+ .*rebuild", said)
    assert (tmp_path / f"stranger{SUFFIX}").exists()


def test_no_class_in_the_public_declarations():
    """A cdef class there would tie users' modules to its layout and to a module at run time."""
    reached, waiting = set(), {"mos/__init__.pxd"}
    while waiting:
        path = waiting.pop()
        reached.add(path)
        text = (ROOT / path).read_text()
        assert not re.search(r"^cdef class", text, re.M), path
        for module in re.findall(r"^from (mos\.[\w.]+) cimport", text, re.M):
            waiting |= {module.replace(".", "/") + ".pxd"} - reached
    assert len(reached) > 5


LAYOUT = 3, "5b70b7d5ffded981"      # MOS_ABI, and a digest of the structs and enums that it stands for


def test_the_abi_number_goes_up_with_what_is_compiled_into_modules():
    """Sizes alone would let a module read one field for another."""
    blocks = []
    for path in ("net/packet.pxd", "flow/flow.pxd", "events/ring.pxd", "events/handler.pxd", "events/kinds.pxd"):
        text = re.sub(r"[ ]*#[^\n]*", "", (ROOT / "mos" / path).read_text())
        blocks += re.findall(r"^cdef (?:struct|enum)\b.*?(?=^\S)", text + "\n.", re.M | re.S)
    text = re.sub(r"\bMOS_ABI = \d+", "", "".join(blocks))
    number = int(re.search(r"MOS_ABI = (\d+)", (ROOT / "mos/events/handler.pxd").read_text())[1])
    digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]
    assert len(blocks) > 15 and "cdef struct event_t" in text
    assert (number, digest) == LAYOUT, "what is compiled into users' modules has changed: raise MOS_ABI, then LAYOUT"
    assert f"`MOS_ABI` is {number}." in (ROOT / "docs" / "capi.md").read_text()
