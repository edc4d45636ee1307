"""Small middleboxes and short ways to run them. No test in itself."""
import io
import tempfile
from pathlib import Path

from mos.events import StreamData, on
from mos.nf import Chain, FunctionsNF
from mos.run import Engine, Settings
from mos.testing import merge, tcp, udp

KEYS = (bytes(range(16)), bytes(range(1, 17)))


def box(*handlers, **attributes):
    """An NF of marked functions; attributes such as `name`, `observe`, `on_error` as an NF has them."""
    nf = FunctionsNF(list(handlers))
    for name, value in attributes.items():
        setattr(nf, name, value)
    return nf


def noting(seen, tag, kind=StreamData, answer=None, **marks):
    """A handler that notes `tag` and the direction, and answers `answer`."""
    @on(kind, **marks)
    def handler(ev):
        seen.append(tag if kind is not StreamData else (tag, "up" if ev.to_server else "down"))
        return answer
    return handler


def drive(nfs, packets, *, reverse=True, log=None, write=None, on_verdict=None, **settings):
    """Run packets through NFs one by one and close; the Engine, whose `forwarded` says which of them passed."""
    chain = nfs if isinstance(nfs, Chain) else Chain(*nfs, reverse=reverse)
    with Engine(chain, Settings(**settings), log=log, write=write, on_verdict=on_verdict) as engine:
        engine.forwarded = [engine.feed(frame, ns) for ns, frame in packets]
    return engine


def question(n=1):
    """`n` UDP questions and answers of one flow: client, server, client, …"""
    c = udp("10.0.0.1:1000", "10.0.0.2:53")
    for i in range(n):
        c.send(b"q%d" % i).reply(b"a%d" % i)
    return c


def web(*, port=1234, data=b"GET / HTTP/1.0\r\n\r\n", answer=b"HTTP/1.0 200 OK\r\n\r\n", **options):
    """A TCP conversation with one request and one answer, closed."""
    return tcp(f"10.0.0.1:{port}", "10.0.0.2:80", **options).send(data).reply(answer).close()


def flows(n):
    """`n` UDP flows at the same time, each with two questions."""
    return merge(*[udp(f"10.0.0.1:{1000 + i}", "10.0.0.2:53").send(b"1").reply(b"2").send(b"3") for i in range(n)])


def assert_balanced(stats):
    """What came in and what went out add up (both balances of `--stats`)."""
    assert stats["packets_in"] == stats["forwarded"] + sum(stats["dropped"].values()) + stats["held"] + stats["consumed"], stats
    assert stats["packets_out"] == stats["forwarded"] + stats["injected"] + stats["split"], stats
    assert stats["ring_lost"] == 0


def outcome(handlers, packets, **how):
    """Log, what left, and the counters that do not depend on the machine or the way taken; of packets, or of a capture's path."""
    out = io.StringIO()
    with tempfile.NamedTemporaryFile(suffix=".pcap") as left:
        with Engine(Chain(handlers), log=out, write=left.name, hash_key=bytes(16), **how) as engine:
            if isinstance(packets, Path):
                engine.run(packets)
            else:
                for ns, frame in packets:
                    engine.feed(frame, ns)
        frames = left.read()
    stats = engine.stats()
    stats["stages"].pop("predicted")
    passing = ("seconds", "cpu_", "peak_", "packets_per_")
    return out.getvalue(), frames, {k: v for k, v in stats.items() if not k.startswith(passing)}
