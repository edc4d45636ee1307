"""Overlap policies per run, per receiving host's network and per flow."""
import pytest

from mos import Chain, Engine, UsageError, on
from mos.events import FlowStart, StreamData
from mos.testing import tcp


def delivered(conversation, first=None, **settings):
    """What reached the server; `first` is called with each FlowStart."""
    out = []

    @on(FlowStart)
    def start(ev):
        if first is not None:
            first(ev)

    @on(StreamData, where="to_server")
    def data(ev):
        out.append(ev.data)
    with Engine(Chain([start, data]), **settings) as engine:
        for ns, frame in conversation.packets:
            engine.feed(frame, ns)
    return b"".join(out)


def overlapping(server="10.0.0.2:80"):
    """Bytes 1-2 twice, with different content, before byte 0."""
    c = tcp("10.0.0.1:1234", server)
    c.segment("client", b"AA", offset=1).segment("client", b"BB", offset=1).segment("client", b"x", offset=0)
    return c


def test_policy_of_the_run():
    assert delivered(overlapping()) == b"xAA"
    assert delivered(overlapping(), overlap="last") == b"xBB"


def test_policy_by_the_receiving_hosts_network():
    rule = "first,10.0.0.2/32=last"
    assert delivered(overlapping(), overlap=rule) == b"xBB"
    assert delivered(overlapping("10.0.0.3:80"), overlap=rule) == b"xAA"
    assert delivered(overlapping(), overlap="first,10.0.0.1/32=last") == b"xAA"


def test_policy_of_one_flow():
    assert delivered(overlapping(), lambda ev: ev.flow.set_overlap_policy("last")) == b"xBB"


@pytest.mark.parametrize("text, word", [("frist", "frist"), ("first,10.0.0.1/8=last", "host bits"), ("x=last", "NETWORK=POLICY")])
def test_mistakes_are_named(text, word):
    with pytest.raises(UsageError, match=word):
        Engine(Chain(), overlap=text)
