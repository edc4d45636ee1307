"""firewall: which flows may be, by rules in a file; the state is the flow, so answers need no rule. mOS: simple_firewall.

what      The first rule that a flow's first packet matches decides for all of the flow, both ways. The verdict's reason is
          the rule's name. With default=drop IP packets that belong to no flow (stray resets, other protocols) go as well.
options   rules      TOML file of [[rule]] tables (required); every key but `action` may be left out:
                       action = "pass", "drop", or "reset" (drop, and tell both ends of a TCP connection)
                       proto = "tcp", "udp", "icmp"; client, server = "10.0.0.0/8"; client_port, server_port = 22, "1000-2000"
                       where = a filter (docs/filters.md) that must hold besides; name = what the log calls it
                     all but action, where and name take one value or a list of alternatives
          default    "pass" (as it is) or "drop" what no rule matches
          midstream  "pass" (as it is: rules decide, by who seems to be the client) or "drop" TCP flows without their SYN
events    FlowStart, and of packets without a flow PacketIn, Orphan, Malformed, BadChecksum; answers DROP, DROP_FLOW, RESET
state     none of its own; a count per rule
example   mos run firewall -r pcaps/telnet.pcap -w out.pcap --set firewall.rules=rules.toml
"""
import difflib
import tomllib
from ipaddress import ip_network
from pathlib import Path

from mos import DROP, DROP_FLOW, NF, RESET, Count, UsageError, compile_filter, option
from mos.events import BadChecksum, FlowStart, Malformed, Orphan, PacketIn, on

VERDICTS = {"pass": None, "drop": DROP_FLOW, "reset": RESET}


class Firewall(NF):
    """Passes, drops or resets flows by the first rule that matches."""
    name = "firewall"
    rules: Path = option(help="TOML file of [[rule]] tables", required=True)
    default: str = option("pass", "pass or drop what no rule matches")
    midstream: str = option("pass", "pass or drop TCP flows that are picked up without their SYN")

    def __init__(self, **settings):
        super().__init__(**settings)
        for name in ("default", "midstream"):
            one_of(f"firewall.{name}", getattr(self, name), ("pass", "drop"))
        self.list = load(self.rules)
        self.hits = Count("firewall_flows", "rule", bound=len(self.list) + 3)

    @on(FlowStart)
    def decide(self, ev):
        if ev.midstream and self.midstream == "drop":
            return self.sentence(DROP_FLOW, "mid-stream")
        for rule, name, verdict in self.list:
            if rule.matches(ev):
                return self.sentence(verdict, name)
        return self.sentence(DROP_FLOW if self.default == "drop" else None, "default")

    @on(PacketIn, where="ip_version > 0 and not protocol in {1, 6, 17, 58} and not flow_id > 0")
    @on(BadChecksum, where="not flow_id > 0")
    @on(Orphan, where="cause != stopped")
    @on(Malformed)
    def stray(self, ev):
        if self.default == "drop":
            return self.sentence(DROP, "no flow")

    def sentence(self, verdict, reason):
        self.hits.add(1, reason)
        return verdict and verdict(reason)


def load(path):
    """[(filter, name, verdict or None)] of a rules file. Raises UsageError with file and rule."""
    try:
        text = tomllib.loads(path.read_text())
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: {e}") from None
    for key in text:
        one_of(f"{path}: a table", key, ("rule",))
    tables = text.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise UsageError(f"{path}: rules are tables; write [[rule]] above each")
    return [rule(f"{path}, rule {n}", f"rule {n}", table) for n, table in enumerate(tables, 1)]


def rule(place, name, table):
    """One table as (filter, name, verdict)."""
    for key in table:
        one_of(f"{place}: a key", key, ("action", "name", "where", *TERMS))
    if "action" not in table:
        raise UsageError(f"{place}: it has no action; give action = {', '.join(map(repr, VERDICTS))}")
    verdict = VERDICTS[one_of(f"{place}: action", table["action"], VERDICTS)]
    terms = [TERMS[key](f"{place}: {key}", key, as_list(f"{place}: {key}", table[key])) for key in TERMS if key in table]
    try:
        if "where" in table:
            terms.append(f"({compile_filter(str(table['where']), FlowStart).text})")
        return compile_filter(" and ".join(terms) or "true", FlowStart), str(table.get("name", name)), verdict
    except UsageError as e:
        raise UsageError(f"{place}: {e}") from None


def protocols(place, key, values):
    return "(" + " or ".join(one_of(place, v, ("tcp", "udp", "icmp")) for v in values) + ")"


def addresses(place, key, values):
    try:
        return f"{key} in {{{', '.join(str(ip_network(str(v))) for v in values)}}}"
    except ValueError as e:
        raise UsageError(f"{place}: {e}") from None


def ports(place, key, values):
    """`server_port in {22, 1000..2000}`: ports are numbers, or texts such as "22" and "1000-2000"."""
    spans = [str(v).split("-") for v in values]
    for value, span in zip(values, spans):
        numbers = [int(s) for s in span if s.strip().isdecimal()]
        if len(numbers) != len(span) or len(span) > 2 or sorted(numbers) != numbers or numbers[-1] > 65535:
            raise UsageError(f"{place}: {value!r} is no port (0 to 65535) and no range such as \"1000-2000\"")
    return f"(tcp or udp) and {key} in {{{', '.join('..'.join(s.strip() for s in span) for span in spans)}}}"


TERMS = {"proto": protocols, "client": addresses, "server": addresses, "client_port": ports, "server_port": ports}


def as_list(place, value):
    if value == []:
        raise UsageError(f"{place} is an empty list; leave the key out to match any")
    return value if isinstance(value, list) else [value]


def one_of(place, value, known):
    """`value`, which is among `known`; else UsageError with the near-miss."""
    if isinstance(value, str) and value in known:
        return value
    near = difflib.get_close_matches(str(value), known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose {', '.join(known)}"
    raise UsageError(f"{place} cannot be {value!r}; {hint}")
