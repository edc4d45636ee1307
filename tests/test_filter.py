"""The filter language: text to verdict, against a plain evaluator; its errors; its listing."""
import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mos.events.filtervm import run_on

from mos.errors import FilterError
from mos.events.filter import Layout, RecordField, compile_filter, explain, parse, show
from mos.events.filter.facts import OF_TCP_FLOW, known, rejects
from mos.events.filter.names import Scope
from mos.events.filter.syntax import MAX_DEPTH, MAX_TEXT, And, Compare, In, Literal, Name, Not, Or, Range
from mos.events.spec import FLOW_FIELDS, KINDS, PACKET_FIELDS, REFUSALS, STATES

KIND = "OutOfWindow"
LAYOUT = Layout(40, {"score": RecordField("f64", 0), "delta": RecordField("i64", 8), "peer": RecordField("ip", 16),
                     "hot": RecordField("bool", 33), "note": RecordField("str", 34)})
V4 = [ip_address(a) for a in ("10.0.0.1", "10.1.2.3", "192.168.0.9", "0.0.0.0", "255.255.255.255")]
V6 = [ip_address(a) for a in ("fd00::1", "fd00::a:0:0:1", "::", "::ffff:10.0.0.1", "2001:db8::9")]
BLOCKS = [ip_network(n) for n in ("10.0.0.0/8", "10.1.0.0/16", "192.168.0.9/32", "0.0.0.0/0", "::/0", "fd00::/8", "fd00::/72",
                                  "::ffff:0:0/96", "128.0.0.0/1", "10.0.0.0/31")]
PORTS = [0, 22, 23, 80, 443, 1000, 1063, 1064, 65535]
SMALL = [0, 1, 5, 6, 63, 64, 255]
BIG = [0, 1, 100, 2**32, 2**62, 2**63 - 1]
FLOATS = [0.0, -0.0, 1.5, -1.5, 3.0, 1e300, -1e-9, float("nan"), float("inf")]

INTS = {"offset": BIG, "length": BIG, "time": [-5, *BIG], "client_port": PORTS, "dst_port": PORTS, "flow_id": BIG,
        "client_bytes": BIG, "server_packets": [0, 1, 2**32 - 1], "packet_length": [0, 60, 2**32 - 1], "protocol": SMALL,
        "window": [0, 1, 65535], "payload_length": [0, 1000], "delta": [-2**63, -1, 0, 7]}
IPS, BOOLS = ["client", "server", "src", "dst", "peer"], ["tcp", "udp", "icmp", "syn", "ack", "fin", "established",
    "to_server", "hot"]


def evaluate(tree, values):
    """The filter's meaning. `values`: what every field holds; None: absent."""
    if isinstance(tree, And):
        return all(evaluate(item, values) for item in tree.items)
    if isinstance(tree, Or):
        return any(evaluate(item, values) for item in tree.items)
    if isinstance(tree, Not):
        return not evaluate(tree.item, values)
    if isinstance(tree, Literal):
        return tree.value
    if isinstance(tree, Name):
        return bool(values[tree.name])
    left = values[tree.left.name]
    if left is None or left != left:
        return False
    if isinstance(tree, In):
        return any(i.first.value <= left <= i.last.value if isinstance(i, Range) else left in i.value
                   if hasattr(i.value, "netmask") else left == i.value for i in tree.items)
    right = tree.right.value if isinstance(tree.right, Literal) else \
        tree.right.name if tree.left.name == "cause" else values[tree.right.name]
    if right is None or right != right:
        return False
    return {"==": lambda: left == right, "!=": lambda: left != right, "<": lambda: left < right, "<=": lambda: left <= right,
            ">": lambda: left > right, ">=": lambda: left >= right}[tree.op]()


def literals(values, low, high):
    near = st.sampled_from(values).flatmap(lambda v: st.sampled_from([v - 1, v, v + 1]))
    return near.map(lambda v: Literal(min(max(v, low), high)))


def int_literals(field):
    low, high = {"client_port": (0, 65535), "dst_port": (0, 65535), "window": (0, 65535), "protocol": (0, 255)}.get(
        field, (0, 2**32 - 1) if "packet" in field or "payload" in field else (-2**63, 2**63 - 1))
    return literals(INTS[field], low, high)


@st.composite
def int_tests(draw):
    field = draw(st.sampled_from(sorted(INTS)))
    value = int_literals(field)
    op = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "field"]))
    if op == "in":
        pair = st.tuples(value, value).map(lambda p: Range(*sorted(p, key=lambda v: v.value)))
        return In(Name(field), tuple(draw(st.lists(st.one_of(value, pair), min_size=1, max_size=8))))
    if op == "field":
        return Compare(Name(field), draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="])),
                       Name(draw(st.sampled_from(sorted(INTS)))))
    return Compare(Name(field), op, draw(value))


ADDRESS = st.sampled_from(V4 + V6).map(Literal)
TESTS = st.one_of(
    st.sampled_from(BOOLS).map(Name), st.booleans().map(Literal), int_tests(),
    st.builds(Compare, st.sampled_from(BOOLS).map(Name), st.sampled_from(["==", "!="]), st.booleans().map(Literal)),
    st.builds(Compare, st.sampled_from(IPS).map(Name), st.sampled_from(["==", "!="]),
              st.one_of(ADDRESS, st.sampled_from(IPS).map(Name))),
    st.builds(In, st.sampled_from(IPS).map(Name),
              st.lists(st.one_of(ADDRESS, st.sampled_from(BLOCKS).map(Literal)), min_size=1, max_size=6).map(tuple)),
    st.builds(Compare, st.just(Name("cause")), st.sampled_from(["==", "!="]),
              st.sampled_from(REFUSALS).flatmap(lambda v: st.sampled_from([Name(v), Literal(v)]))),
    st.builds(In, st.just(Name("cause")), st.lists(st.sampled_from(REFUSALS).map(Literal), min_size=1,
        max_size=5).map(tuple)),
    st.builds(Compare, st.just(Name("score")), st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
              st.sampled_from([0, 1, 3, 1.5, -1.5, 0.001, 1e300]).map(Literal)))
TREES = st.recursive(TESTS, lambda sub: st.one_of(
    st.builds(Not, sub), st.builds(And, st.lists(sub, min_size=2, max_size=4).map(tuple)),
    st.builds(Or, st.lists(sub, min_size=2, max_size=4).map(tuple))), max_leaves=12)


def nullable(strategy):
    return st.one_of(st.none(), strategy, strategy, strategy)


def pick(**choices):
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in choices.items()})


@st.composite
def events(draw):
    """(what every field holds, run_on's arguments) of a random event; the packet is of the flow, or a stranger's."""
    ends = draw(st.sampled_from([V4, V6]))
    flow = draw(nullable(pick(client=ends, server=ends, client_port=PORTS, server_port=PORTS, proto=[6, 17, 1, 58], id=BIG,
                              flags=[0, 1, 2, 3], client_bytes=BIG, server_packets=INTS["server_packets"])))
    packet = draw(nullable(pick(src=ends, dst=ends, src_port=PORTS, dst_port=PORTS, proto=[6, 17, 1, 58], status=[0, 0, 0, 1],
                                wirelen=INTS["packet_length"], payload_len=[0, 1000], tcp_flags=[0, 2, 16, 18, 1],
                                wnd=[0, 1, 65535])))
    record = draw(nullable(pick(score=FLOATS, delta=INTS["delta"], peer=[None, *V4, *V6], hot=[0, 1, 2])))
    event = draw(pick(offset=BIG, length=BIG, now=INTS["time"], cause=range(len(REFUSALS)), to_server=[0, 1]))
    v = dict.fromkeys([*INTS, *IPS, *BOOLS, "score"])
    v |= {**event, "time": event["now"], "cause": REFUSALS[event["cause"]]}
    if packet:
        flags = packet["tcp_flags"] if (packet["status"], packet["proto"]) == (0, 6) else 0
        v |= dict(packet_length=packet["wirelen"], protocol=packet["proto"], dst_port=0,
                  **{f: bool(flags & bit) for f, bit in (("syn", 2), ("ack", 16), ("fin", 1))})
        if packet["status"] == 0:
            v |= dict(src=packet["src"], dst=packet["dst"], payload_length=packet["payload_len"],
                      dst_port=packet["dst_port"] if packet["proto"] in (6, 17) else 0)
            if packet["proto"] == 6:
                v |= dict(window=packet["wnd"])
            else:
                v |= dict(syn=None, ack=None, fin=None)
        else:
            v |= dict(syn=None, ack=None, fin=None)
    if flow:
        v |= dict(client=flow["client"], server=flow["server"], flow_id=flow["id"], client_bytes=flow["client_bytes"],
                  server_packets=flow["server_packets"], established=bool(flow["flags"] & 2),
                  client_port=flow["client_port"] if flow["proto"] in (6, 17) else 0)
    proto = flow["proto"] if flow else packet["proto"] if packet else None
    if proto is not None:
        v |= dict(tcp=proto == 6, udp=proto == 17, icmp=proto in (1, 58))
    raw = None
    if record:
        v |= dict(record, hot=bool(record["hot"]))
        peer = record["peer"]
        raw = struct.pack("<dq16sBB6x", record["score"], record["delta"], peer.packed if peer else b"", peer.version if peer
                          else 0, record["hot"])

    def packed(part):
        return part and {k: x.packed if hasattr(x, "packed") else x for k, x in part.items()}
    return v, dict(event, flow=packed(flow), packet=packed(packet), record=raw)


@settings(max_examples=300, deadline=None)
@given(TREES, st.lists(events(), min_size=1, max_size=4))
def test_verdict_is_the_evaluators(tree, cases):
    f = compile_filter(show(tree), KIND, LAYOUT)
    for values, arguments in cases:
        assert run_on(f, **arguments) == evaluate(tree, values), show(tree)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_text_round_trip(tree):
    again = parse(show(tree))
    assert show(again) == show(tree) and show(parse(show(again))) == show(again)
    assert parse(show(again)) == again


def passes(text, kind="Event", **arguments):
    return run_on(compile_filter(text, kind), **arguments)


FLOW = dict(client=b"\x0b\0\0\1", server=b"\x0a\0\0\2", client_port=40000, server_port=23, proto=6)


@pytest.mark.parametrize("text, expected", [
    ("server_port == 23 and not client in 10.0.0.0/8", True), ("server_port == 23 && !(client in 11.0.0.0/8)", False),
    ("tcp or udp and server_port == 1", True), ("(tcp or udp) and server_port == 1", False),
    ("not tcp or true", True), ("not (tcp or true)", False), ("not not tcp", True), ("23 == server_port", True),
    ("22 < server_port", True), ("23 < server_port", False), ("server_port in {22, 23}", True),
    ("server_port in 20..22", False), ("server_port in {1, 20..23, 80}", True), ("server_port not in {23}", False),
    ("client_port == 40k", True), ("client_port == 4e4", True), ("client_port == 0x9c40", True),
    ("client_port < 0.04M", False),
    ("client in 11.0.0.1", True), ("client == ::ffff:11.0.0.1", False), ("client in {fd00::/8, 11.0.0.0/24}", True),
    ("client != fd00::1", True), ("client in ::/0", False), ("client != server", True), ("client_port > server_port", True),
    ("tcp == false", False), ("udp == false", True), ("udp != false", False), ("tcp\nand\n\tserver_port==23", True),
    # absent: no packet here
    ("syn", False), ("not syn", True), ("syn == false", False), ("window != 5", False), ("not window == 5", True),
    ("window not in {5}", True), ("src != 1.2.3.4", False), ("packet_length >= 0", False), ("src == client", False)])
def test_meaning(text, expected):
    assert passes(text, flow=FLOW) is expected


@pytest.mark.parametrize("text, true, false", [
    ("server_port in {1000, 1002, 1063}", [1000, 1002, 1063], [999, 1001, 1064, 1066, 936, 0, 65535]),
    ("server_port in {1000, 1002, 1064}", [1000, 1002, 1064], [999, 1001, 1063, 1065, 1066]),
    ("server_port in {1..9, 2..3, 500}", [1, 9, 500], [0, 10, 499]),
    ("server_port in {5, 4, 7..8}", [4, 5, 7, 8], [3, 6, 9]),
    ("server_port > client_port", [1001, 65535], [1000, 999]), ("server_port >= client_port", [1000, 1001], [999]),
    ("server_port < client_port", [999], [1000]), ("server_port <= client_port", [999, 1000], [1001]),
    ("server_port > 5", [6], [5]), ("server_port >= 5", [5], [4]), ("server_port < 5", [4], [5]),
    ("server_port <= 5", [5], [6])])
def test_bounds_of_numbers(text, true, false):
    for value in true + false:
        assert passes(text, flow=dict(FLOW, client_port=1000, server_port=value)) == (value in true), value


@pytest.mark.parametrize("text, true, false", [
    ("client in fd00::/72", ["fd00::", "fd00::ff:ffff:ffff:ffff"], ["fd00::100:0:0:0", "fd00:0:0:1::", "fc00::"]),
    ("client == fd00::1", ["fd00::1"], ["fd00::2", "fd00::", "fd00::1:0:0:1"]),
    ("client in 10.0.0.0/31", ["10.0.0.0", "10.0.0.1"], ["10.0.0.2", "11.0.0.0", "a00::", "9.255.255.255"]),
    ("client in ::/0", ["::", "a00::"], ["0.0.0.0"]), ("client in 0.0.0.0/0", ["0.0.0.0", "10.0.0.1"], ["::"]),
    ("client == server", ["10.0.0.2", "a00:2::"], ["10.0.0.3", "a00:2::1"]),
    ("client == src", ["10.0.0.2"], ["10.0.0.3", "a00:2::"])])
def test_bounds_of_addresses(text, true, false):
    for value in true + false:
        packed = ip_address(value).packed
        server = FLOW["server"].ljust(len(packed), b"\0")
        packet = dict(src=FLOW["server"], dst=b"\1\2\3\4")
        assert passes(text, flow=dict(FLOW, client=packed, server=server), packet=packet) == (value in true), value


def test_bounds_of_fractions():
    for value in (-1e300, -2.0, -1.5, -1.0, -0.5, -0.0, 0.0, 1e-300, 0.5, 1.5, 1e300):
        record = struct.pack("<d", value) + bytes(32)
        for limit in (-1.5, -1.0, 0, 0.5, 1.5):
            for op, truth in (("<", value < limit), ("<=", value <= limit), ("==", value == limit), (">", value > limit)):
                assert run_on(compile_filter(f"score {op} {limit}", "Event", LAYOUT), record=record) == truth, (value,
                    op, limit)


@pytest.mark.parametrize("text, kind, event", [
    ("reason == 'idle'", "FlowEnd", dict(cause=4)), ("reason in {idle, fin}", "FlowEnd", dict(cause=4)),
    ("new == ESTABLISHED", "TcpStateChange", dict(new=STATES.index("ESTABLISHED"))),
    ("old != new", "TcpStateChange", dict(new=1)),
    ('cause in {syn, "rst"}', "OutOfWindow", dict(cause=1)), ("side == server", "ZeroWindow", dict(side=1)),
    ("window == 77", "WindowUpdate", dict(length=77)), ("ack > 5 and count == 3", "DuplicateAck", dict(offset=6, length=3)),
    ("midstream", "FlowStart", dict(flags=4)), ("redelivered and not doubtful", "StreamData", dict(flags=1)),
    ("to_server and time > 1e9", "Timer", dict(to_server=1, now=10**9 + 1))])
def test_fields_of_kinds(text, kind, event):
    assert passes(text, kind, **event) and not passes(text, kind)


def test_every_declared_field_compiles():
    trial = {"int": "{} == 1", "bool": "{}", "ip": "{} == ::1"}
    for kind in KINDS:
        scope = Scope(kind.name)
        for name, field in scope.fields.items():
            compile_filter(trial.get(field.type, "{} == " + (field.values or ("",))[0]).format(name), kind.name)
    assert {f.name for f in FLOW_FIELDS + PACKET_FIELDS} <= set(Scope("Event").fields)
    assert "offset" not in Scope("FlowEvent").fields and "offset" in Scope("StreamData").fields


ERRORS = [
    ("client > 5", "Event", 1, "no order"), ("server_port == 10.0.0.1", "Event", 16, "whole number, not an address"),
    ("client == 10.0.0.0/8", "Event", 11, "use `in`"), ("client in 10.0.0.1/8", "Event", 11, "10.0.0.0/8"),
    ("client in 10/8", "Event", 13, "written whole"), ("client == 5", "Event", 11, "an address, not a number"),
    ("client in fe80::1%eth0", "Event", 15, ""), ("client == 10.0.0.256", "Event", 11, "not an IP address"),
    ("data ~ 'x'", "StreamData", 6, "segment, not the stream"), ("data == 'x'", "StreamData", 1, "cannot stand in a filter"),
    ("reason == idl", "FlowEnd", 11, "idle[?]"), ("new == established", "TcpStateChange", 8, "ESTABLISHED[?]"),
    ("idle", "FlowEnd", 1, "reason == idle"), ("reason == 3", "FlowEnd", 11, "not a number"),
    ("reason", "FlowEnd", 1, "not a flag"),
    ("reason in fin..idle", "FlowEnd", 11, "list them"),
    ("offset > 5", "FlowEnd", 1, "field of .*StreamData.*, not of FlowEnd"),
    ("servr_port == 3", "Event", 1, "server_port[?]"), ("server_port = 3", "Event", 13, "=="),
    ("tcp AND udp", "Event", 5, "'and'"),
    ("server_port in 5", "Event", 16, "use =="), ("server_port in {}", "Event", 17, "expected"), ("(tcp", "Event", 5, "[)]"),
    ("server_port in {1 2}", "Event", 19, "'}' or ','"), ("server_port == 70000", "Event", 16, "0 to 65535"),
    ("server_port in 5..3", "Event", 16, "empty"), ("client_bytes > 1.5", "Event", 16, "fraction"),
    ("client_bytes > 1e999", "Event", 16, "too large"), ("flow_id > " + "9" * 50, "Event", 11, "too long"),
    ("1 < server_port < 5", "Event", 17, "chain"), ("5 < 6", "Event", 1, "field"), ("5", "Event", 1, "alone"),
    ("", "Event", 1, "nothing"),
    ("not", "Event", 4, "expected"), ("client == src_port", "Event", 11, "not comparable"),
    ("syn == ack", "Event", 8, "and, or, not"),
    ("syn in {true}", "Event", 1, "stands alone"), ("tcp == 1", "Event", 8, "true or false"),
    ("client == 'x", "Event", 11, "quote"),
    ("src in 1.2.3.4..1.2.3.9", "Event", 8, "CIDR"), ("server_port == true", "Event", 16, "not a truth value"),
    ("server_port in {client_port}", "Event", 17, "values, not fields"), ("tcp & udp", "Event", 5, "'and'"),
    ("(" * 200 + "tcp" + ")" * 200, "Event", MAX_DEPTH + 1, "deep"),
    ("not " * 5000 + "tcp", "Event", 4 * MAX_DEPTH + 1, "deep")]


@pytest.mark.parametrize("text, kind, column, why", ERRORS)
def test_errors_name_the_column(text, kind, column, why):
    with pytest.raises(FilterError, match=rf"^filter, column {column}: .*{why}") as caught:
        compile_filter(text, kind)
    assert "\n" not in str(caught.value)


def test_other_errors():
    with pytest.raises(FilterError, match="FlowStart[?]"):
        compile_filter("tcp", "FlowStrt")
    with pytest.raises(FilterError, match="line 2, column 6.*'servre'.*server[?]"):
        compile_filter("tcp\n and servre == 4")
    with pytest.raises(FilterError, match="use a Table"):
        compile_filter("tcp or " * (MAX_TEXT // 7) + "tcp   ")
    with pytest.raises(FilterError, match="use a Table"):
        compile_filter(" or ".join(["tcp"] * 5000))
    with pytest.raises(FilterError, match="'note' cannot stand"):
        compile_filter("note == 'x'", "AppEvent", LAYOUT)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(
    "tcp client server_port time and or not in ( ) { } , .. == < 5 1.5 1e3 2k 10.0.0.0/8 ::1 'a' true ~ = & idle".split()),
    max_size=12).map(" ".join)))
def test_any_text_compiles_or_is_refused(text):
    try:
        compile_filter(text, "FlowEnd")
    except FilterError as error:
        assert "\n" not in str(error) and str(error).startswith("filter, ")


def test_constants_fold_and_sets_shrink():
    def program(text, kind="Event"):
        return compile_filter(text, kind).program
    assert program("true") == program("time <= 9223372036854775807") == program("tcp and false or true") == ()
    assert run_on(compile_filter("true")) and not run_on(compile_filter("not true"))
    assert len(program("tcp and true")) == len(program("not not tcp or false")) == 1
    assert len(program("server_port in {1, 2..9, 10, 60}")) == len(program("server_port in {1, 500, 60000}")) == 1
    assert len(program("client in {10.0.0.0/9, 10.128.0.0/9, 10.1.2.3}")) == 1


def test_explain():
    assert explain("server_port == 23 and not client in 10.0.0.0/8 or syn", "FlowStart").splitlines() == [
        "filter on FlowStart: server_port == 23 and not client in 10.0.0.0/8 or syn",
        "   0  range   server_port == 23     true: 1, false: 2",
        "   1  net     client in 10.0.0.0/8  true: 2, false: accept",
        "   2  bits    syn                   true: accept, false: reject",
        "without a flow absent, hence its test false: server_port, client",
        "without a TCP packet absent, hence its test false: syn"]
    assert explain("not true", "FlowEnd").splitlines()[1] == "always rejects"


@settings(max_examples=500, deadline=None)
@given(TREES, st.lists(events(), min_size=1, max_size=4), st.sampled_from(BIG[1:]))
def test_what_is_known_of_tcp_flows_beforehand_is_so(tree, cases, number):
    before = known(parse(show(tree)), OF_TCP_FLOW)
    for values, _ in cases:
        values |= dict(tcp=True, udp=False, icmp=False, protocol=6, flow_id=number)
        assert before is None or before == evaluate(tree, values), show(tree)


@pytest.mark.parametrize("text, never", [
    ("udp and not to_server and server_packets == 1", True), ("udp or server_port == 1", False), ("not tcp", True),
    ("ip_version == 4 and not flow_id > 0", True), ("protocol not in {1, 6, 17}", True), ("protocol in 5..7", False),
    ("server_port == 80", False), ("not (tcp and ack)", False), ("protocol > 6", True), ("protocol >= 6", False), ("false", True)])
def test_filters_that_no_packet_of_a_tcp_flow_can_pass(text, never):
    assert rejects(text, OF_TCP_FLOW) is never
