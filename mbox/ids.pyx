"""ids: literal patterns in streams and datagrams, found across segment borders, in one pass however many there are.

    mos run ids -r trace.pcap --set ids.patterns=/etc/passwd,cmd.exe
    mos run ids -r trace.pcap --set ids.rules=rules.toml

    [[rule]]
    name = "shellshock"
    content = "() {"            # text, or hex = "28 29 20 7b"
    direction = "to_server"     # or to_client, both (default)
    nocase = false              # ASCII letters only
    action = "drop"             # or reset, alert (default)

Every match is published as an `Alert`. The first match of a packet whose action is not alert decides: drop refuses the packet
(what comes again is searched again), reset ends the flow. After a gap in the stream the search begins anew behind it.
"""
import tomllib
from pathlib import Path

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from mos cimport (
    IPPROTO_TCP, MOS_DROP, MOS_PASS, MOS_RESET, action_t, event_t, import_mos, mos_capsule, mos_payload, mos_publish,
    mos_to_server, mos_var, mos_var_write)

from mos import NF, FlowVar, Native, Text, UsageError, UserEvent, on, option
from mos.events import StreamData, StreamGap

import_mos()

# A state is 16 bits, so that the four a flow keeps (two automata, two directions) are one integer slot. That is room for 64 KB
# of patterns that share no beginning; the table is then 64 MB at the worst (every byte value in use).
cdef enum:
    STATES_MAX = 65536

DIRECTIONS = {"to_server": 2, "to_client": 1, "both": 3}
ACTIONS = {"alert": MOS_PASS, "drop": MOS_DROP, "reset": MOS_RESET}
KEYS = ("name", "content", "hex", "direction", "nocase", "action")

cdef struct rule_t:
    uint32_t length
    uint8_t  verdict
    const char *name

# An Aho-Corasick automaton with every transition written out: a row of `next` per state, a column per class of bytes.
cdef struct machine_t:
    uint16_t *next
    uint8_t  column[256]    # 0: in no pattern
    uint32_t shift          # a row has 1 << shift columns
    uint32_t states
    uint32_t first          # states from here on end a pattern
    uint16_t *shorter       # by state - first: the longest proper suffix that ends one too, 0: none
    uint32_t *start         # by state - first: its own patterns are rules[start[i]:start[i + 1]]
    uint32_t *rules

cdef extern from *:
    """
    /* Most bytes begin no pattern: while nothing has begun they are passed over, sixteen at a time. */
    typedef unsigned char mos_bytes __attribute__((vector_size(16)));
    typedef struct { unsigned char any[256]; mos_bytes one[8]; unsigned int n; } mos_starts;
    static inline void mos_starts_add(mos_starts *s, unsigned char byte) {
        if (s->any[byte]) return;
        s->any[byte] = 1;
        if (s->n < 8) memset(&s->one[s->n], byte, sizeof(mos_bytes));
        s->n += 1;
    }
    static inline unsigned long mos_starts_find(const mos_starts *s, const unsigned char *d, unsigned long i, unsigned long n) {
        unsigned int k;
        while (s->n <= 8 && i + sizeof(mos_bytes) <= n) {
            mos_bytes here, hit = {0};
            unsigned long found[2];
            memcpy(&here, d + i, sizeof here);
            for (k = 0; k < s->n; k++) hit |= (mos_bytes)(here == s->one[k]);
            memcpy(found, &hit, sizeof hit);
            if (found[0] | found[1]) break;
            i += sizeof here;
        }
        while (i < n && !s->any[d[i]]) i++;
        return i;
    }
    """
    ctypedef struct starts_t "mos_starts":
        uint32_t n
    void starts_add "mos_starts_add"(starts_t *s, uint8_t byte) noexcept nogil
    uint64_t starts_find "mos_starts_find"(const starts_t *s, const uint8_t *d, uint64_t i, uint64_t n) noexcept nogil

cdef struct way_t:          # what is looked for in one direction
    machine_t *exact
    machine_t *folded       # of the rules with nocase
    starts_t  starts        # bytes that begin a pattern

cdef struct ids_t:
    way_t    ways[2]        # to client, to server
    machine_t machines[4]   # as many as the ways do not share
    rule_t   *rules
    uint32_t states         # FlowVar.index
    void     *owner         # the Context


class Alert(UserEvent):
    """A rule matched: its name and action, the stream offset of the match's first byte, to_server or to_client."""
    rule: str = Text(64, cut=True)
    offset: int
    direction: str = Text(9)
    action: str = Text(5)


cdef class Trie:
    """Patterns on their way into a machine_t: {byte: state} and rules per state."""
    cdef list children, own, order, fail

    def __init__(self):
        self.children, self.own = [{}], [[]]

    def add(self, bytes text, rule):
        state = 0
        for byte in text:
            if byte not in self.children[state]:
                if len(self.children) == STATES_MAX:
                    raise UsageError(f"ids: the patterns need more than {STATES_MAX} states: drop some, or run two boxes")
                self.children[state][byte] = len(self.children)
                self.children.append({})
                self.own.append([])
            state = self.children[state][byte]
        self.own[state].append(rule)

    def link(self):
        """Breadth first, each state's longest proper suffix that is a state too."""
        self.fail, self.order = [0] * len(self.children), [0]
        for state in self.order:
            for byte, child in self.children[state].items():
                self.order.append(child)
                if state:
                    up = self.fail[state]
                    while up and byte not in self.children[up]:
                        up = self.fail[up]
                    self.fail[child] = self.children[up].get(byte, 0)

    cdef int write(self, machine_t *m, bint fold) except -1:
        """Number the states so that those that end a pattern come last, and write the table."""
        cdef uint32_t row, i = 0, n = 0
        self.link()
        ends = [bool(own) for own in self.own]
        for state in self.order:
            ends[state] = ends[state] or ends[self.fail[state]]
        order = sorted(self.order, key=lambda state: ends[state])
        number = {state: k for k, state in enumerate(order)}
        bytes_used = sorted({byte for children in self.children for byte in children})
        columns = {byte: 1 + k for k, byte in enumerate(bytes_used)}
        m.shift = len(columns).bit_length()
        m.states = len(ends)
        m.first = m.states - sum(ends)
        m.next = <uint16_t *>calloc(len(ends) << m.shift, sizeof(uint16_t))
        m.shorter = <uint16_t *>calloc(sum(ends) + 1, sizeof(uint16_t))
        m.start = <uint32_t *>calloc(sum(ends) + 1, sizeof(uint32_t))
        m.rules = <uint32_t *>calloc(sum([len(own) for own in self.own]) + 1, sizeof(uint32_t))
        if m.next == NULL or m.shorter == NULL or m.start == NULL or m.rules == NULL:
            raise MemoryError("no memory for the patterns")
        for byte in range(256):
            m.column[byte] = columns.get(byte + 32 if fold and 65 <= byte <= 90 else byte, 0)
        for state in self.order:
            row = number[state] << m.shift
            if state:
                memcpy(&m.next[row], &m.next[<uint32_t>number[self.fail[state]] << m.shift], sizeof(uint16_t) << m.shift)
            for byte, child in self.children[state].items():
                m.next[row + <uint32_t>columns[byte]] = number[child]
        for state in order[m.first:]:
            suffix = self.fail[state]
            if self.own[suffix]:
                m.shorter[i] = number[suffix]
            elif ends[suffix]:
                m.shorter[i] = m.shorter[<uint32_t>number[suffix] - m.first]
            for rule in self.own[state]:
                m.rules[n] = rule
                n += 1
            i += 1
            m.start[i] = n
        return 0


cdef class Context:
    """The rules as the handler reads them."""
    cdef ids_t c
    cdef list names, actions

    def __init__(self, rules, states):
        self.names = [rule["name"].encode() for rule in rules]
        self.actions = [rule["action"] for rule in rules]
        self.c.owner = <void *>self
        self.c.states = states.index
        self.c.rules = <rule_t *>calloc(len(rules) + 1, sizeof(rule_t))
        if self.c.rules == NULL:
            raise MemoryError("no memory for the rules")
        for i, rule in enumerate(rules):
            self.c.rules[i].length = len(rule["text"])
            self.c.rules[i].verdict = ACTIONS[rule["action"]]
            self.c.rules[i].name = <const char *>(<bytes>self.names[i])
        built = {}
        for way in range(2):
            self.c.ways[way].exact = self.machine(rules, way, False, built)
            self.c.ways[way].folded = self.machine(rules, way, True, built)
            collect(&self.c.ways[way])

    cdef machine_t *machine(self, rules, way, bint fold, dict built) except NULL:
        """The automaton of the rules for one direction; one for both if they are the same."""
        cdef machine_t *m
        mine = tuple([i for i, r in enumerate(rules) if r["nocase"] == fold and DIRECTIONS[r["direction"]] >> way & 1])
        if (mine, fold) not in built:
            trie = Trie()
            for i in mine:
                trie.add(rules[i]["text"].lower() if fold else rules[i]["text"], i)
            m = &self.c.machines[<int>len(built)]
            built[mine, fold] = len(built)
            (<Trie>trie).write(m, fold)
        return &self.c.machines[<int>built[mine, fold]]

    def __dealloc__(self):
        for m in range(4):
            release(&self.c.machines[m])
        free(self.c.rules)


cdef void collect(way_t *w) noexcept:
    """The bytes after which one of its automata is no longer where it begins."""
    cdef int byte
    memset(&w.starts, 0, sizeof(w.starts))
    for byte in range(256):
        if step(w.exact, 0, <uint8_t>byte) or step(w.folded, 0, <uint8_t>byte):
            starts_add(&w.starts, <uint8_t>byte)


cdef void release(machine_t *m) noexcept:
    free(m.next)
    free(m.shorter)
    free(m.start)
    free(m.rules)


cdef inline uint32_t step(const machine_t *m, uint32_t state, uint8_t byte) noexcept nogil:
    return m.next[(state << m.shift) + m.column[byte]]


cdef int search(void *ctx, const event_t *e, action_t *a) noexcept nogil:
    """StreamData: run its bytes through both automata, on from where the direction's last bytes left them."""
    cdef ids_t *c = <ids_t *>ctx
    cdef const way_t *w = &c.ways[mos_to_server(e)]
    cdef uint64_t n = 0, i = 0, old = 0, new
    cdef const uint8_t *data = mos_payload(e, &n)
    cdef bint stream = e.flow != NULL and e.flow.key.proto == IPPROTO_TCP
    cdef uint64_t *slot = <uint64_t *>mos_var(e.flow, c.states) if stream else NULL
    cdef int way = 0 if mos_to_server(e) else 32, verdict = MOS_PASS
    cdef uint32_t exact, folded
    if slot != NULL:
        old = slot[0]
    exact, folded = (old >> way) & 0xffff, (old >> way >> 16) & 0xffff
    if exact >= w.exact.states or folded >= w.folded.states:    # a slot can be written from Python, or be of other rules
        exact = folded = 0
    while i < n:
        if exact | folded == 0:
            i = starts_find(&w.starts, data, i, n)
            if i == n:
                break
        exact = step(w.exact, exact, data[i])
        folded = step(w.folded, folded, data[i])
        if exact >= w.exact.first:
            verdict = matched(c, w.exact, exact, e, a, i, verdict)
        if folded >= w.folded.first:
            verdict = matched(c, w.folded, folded, e, a, i, verdict)
        i += 1
    new = (old & ~(<uint64_t>0xffffffff << way)) | (<uint64_t>(folded << 16 | exact) << way)
    if slot != NULL and new != old:
        (<uint64_t *>mos_var_write(e.flow, c.states))[0] = new
    return verdict


cdef int restart(void *ctx, const event_t *e, action_t *a) noexcept nogil:
    """StreamGap: what was begun before the hole cannot be ended behind it."""
    cdef uint64_t *slot = <uint64_t *>mos_var_write(e.flow, (<ids_t *>ctx).states)
    if slot != NULL:
        slot[0] &= <uint64_t>0xffffffff << (32 if mos_to_server(e) else 0)
    return MOS_PASS


cdef int matched(ids_t *c, const machine_t *m, uint32_t state, const event_t *e, action_t *a, uint64_t i,
                 int verdict) noexcept nogil:
    """Byte `i` of the event ends at least one pattern: report the longest first; the verdict so far, or the first one now."""
    cdef uint32_t k
    cdef const rule_t *r
    while state:
        for k in range(m.start[state - m.first], m.start[state - m.first + 1]):
            r = &c.rules[m.rules[k]]
            if verdict == MOS_PASS and r.verdict != MOS_PASS:
                verdict = r.verdict
                a.why = r.name
            report(c, m.rules[k], <int64_t>(e.offset + i + 1 - r.length), e, a)
        state = m.shorter[state - m.first]
    return verdict


cdef void report(ids_t *c, uint32_t rule, int64_t offset, const event_t *e, action_t *a) noexcept with gil:
    cdef Context owner = <Context>c.owner
    mos_publish(e, a, Alert(rule=owner.names[rule].decode(), offset=offset, action=owner.actions[rule],
                            direction="to_server" if mos_to_server(e) else "to_client"))


def read_rules(path):
    """The rules of a TOML file, as dicts of name, text, direction, nocase and action. Raises UsageError, one line."""
    try:
        with open(path, "rb") as f:
            found = tomllib.load(f)
    except OSError as e:
        raise UsageError(f"cannot read the rules {path}: {e.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} is no TOML file: {e}") from None
    rules = found.get("rule")
    if set(found) != {"rule"} or not isinstance(rules, list) or not all(isinstance(r, dict) for r in rules):
        raise UsageError(f"{path}: a file of rules holds [[rule]] tables and nothing else")
    return [check(rule, f"{path}: rule {i + 1}") for i, rule in enumerate(rules)]


def check(given, where):
    """One rule with its defaults filled in. Raises UsageError."""
    for key in given:
        if key not in KEYS:
            raise UsageError(f"{where} has no key {key!r}; it takes {', '.join(KEYS)}")
    rule = {"direction": "both", "nocase": False, "action": "alert", **given}
    if not isinstance(rule.get("name"), str) or not rule["name"] or "\0" in rule["name"]:
        raise UsageError(f"{where} needs a name")
    where = f"{where} ({rule['name']})"
    for key, choices in (("direction", DIRECTIONS), ("action", ACTIONS)):
        if rule[key] not in tuple(choices):
            raise UsageError(f"{where}: {key} is {rule[key]!r}; choose one of {', '.join(choices)}")
    if not isinstance(rule["nocase"], bool):
        raise UsageError(f"{where}: nocase is true or false, not {rule['nocase']!r}")
    if ("content" in rule) == ("hex" in rule):
        raise UsageError(f"{where} needs either content or hex")
    text = rule.pop("content") if "content" in rule else rule.pop("hex")
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{where}: what to look for must be a text that is not empty, not {text!r}")
    try:
        rule["text"] = bytes.fromhex(text) if "hex" in given else text.encode()
    except ValueError as e:
        raise UsageError(f"{where}: {text!r} is not hexadecimal: {e}") from None
    return rule


class Ids(NF):
    """Find literal patterns in what flows carry; publish an Alert for each, drop or reset where a rule says so."""
    patterns: list[str] = option((), help="texts to look for in both directions")
    action: str = option("alert", help="what a match of `patterns` does: alert, drop or reset")
    nocase: bool = option(False, help="`patterns` are the same in upper and lower case (ASCII)")
    rules: Path = option(None, help="TOML file of [[rule]] tables: name, content or hex, direction, nocase, action")
    show: bool = option(True, help="print each alert")

    def __init__(self, **settings):
        super().__init__(**settings)
        given = {"action": self.action, "nocase": self.nocase}
        rules = [check({"name": text, "content": text, **given}, "ids.patterns") for text in self.patterns]
        rules += read_rules(self.rules) if self.rules is not None else []
        if not rules:
            raise UsageError("ids has nothing to look for: --set ids.patterns=TEXT,… or --set ids.rules=FILE")
        self.states = FlowVar(int, name="ids_states")
        self.context = Context(rules, self.states)
        self.answers = any(rule["action"] != "alert" for rule in rules)

    def declarations(self):
        """Each box its own states: two with different rules may stand in one chain."""
        return [*super().declarations(), self.states]

    def handlers(self):
        cdef Context context = self.context
        own = [Native(StreamData, mos_capsule(search, &context.c), name="search", publishes=Alert, owner=context,
                      answers=self.answers),
               Native(StreamGap, mos_capsule(restart, &context.c), name="restart", owner=context)]
        return own + (super().handlers() if self.show else [])

    @on(Alert, observe=True)
    def print_alert(self, alert):
        """One line per match."""
        print(f"{alert.rule}: {alert.flow} {alert.direction}, byte {alert.offset}, {alert.action}")
