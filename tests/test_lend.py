"""What waits of a mapped capture's frames is not copied: it is told as from copies, and is there for as long as it waits."""
import gc
import io
import os
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mos.io.pcap import is_mapped

from mos import Chain, Engine, on
from mos.events import OutOfOrder, OverlapConflict, StreamData, StreamGap
from mos.io.source import open_source
from mos.tcp.policies import POLICIES
from mos.testing import tcp
from mos.testing.conversation import Conversation


def shuffled(draw, n=30, size=20):
    """A transfer whose segments come in any order, some twice with other bytes, longer or shifted."""
    c = tcp("10.0.0.1:1", "10.0.0.2:2")
    places = draw.sample(range(1, n), n - 1) + ([0] if draw.random() < 0.8 else [])
    for at in places:
        c.segment("client", draw.randbytes(size), offset=at * size)
        if draw.random() < 0.3:
            c.segment("client", draw.randbytes(draw.randrange(1, 3 * size)), offset=max(0, at * size - draw.randrange(size)))
    return c


def told(source, kinds=(StreamData, StreamGap, OutOfOrder), **how):
    """What was told, and the memory that reassembly took at most."""
    seen = []
    handlers = [on(kind)(lambda ev: seen.append((type(ev).__name__, ev.offset, ev.length, getattr(ev, "data", None))))
                for kind in kinds]
    with Engine(Chain(handlers), **how) as engine:
        engine.run(source)
    return seen, engine.stats()["reassembly"]["peak"]


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), policy=st.sampled_from(sorted(POLICIES)), safe=st.booleans(), shortcuts=st.booleans())
def test_as_from_copies(tmp_path_factory, seed, policy, safe, shortcuts):
    """A file is mapped, an open object is read through a buffer."""
    path = tmp_path_factory.mktemp("lend") / "in.pcap"
    shuffled(Random(seed)).pcap(path)
    how = {"overlap": policy, "shortcuts": shortcuts, "truth": "inline" if safe else "tap", "safe": "on" if safe else "off"}
    kinds = (StreamData, StreamGap, OverlapConflict)
    assert told(path, kinds, **how)[0] == told(io.BytesIO(path.read_bytes()), kinds, **how)[0]


@pytest.mark.parametrize("shortcuts", [True, False])
def test_no_copy_is_made(tmp_path, shortcuts):
    """Forty full segments wait: of each its record takes 64 bytes, and their index a few more."""
    c = tcp("10.0.0.1:1", "10.0.0.2:2")
    for at in range(1, 41):
        c.segment("client", bytes([at]) * 1400, offset=at * 1400)
    c.segment("client", b"\0" * 1400, offset=0)
    c.pcap(tmp_path / "in.pcap")
    mapped, least = told(tmp_path / "in.pcap", shortcuts=shortcuts)
    source = open_source(tmp_path / "in.pcap")
    source.lends = False
    copied, most = told(source, shortcuts=shortcuts)
    assert mapped == copied and sum(n for kind, _, n, _ in mapped if kind == "StreamData") == 41 * 1400
    assert least < 40 * 64 + 2000 < 40 * 1400 < most


def test_frames_outlive_their_source(tmp_path):
    """What a file left behind a hole is delivered after it was closed, out of the next file, and at the end."""
    c = tcp("10.0.0.1:1", "10.0.0.2:2")
    for at, byte in ((10, b"b"), (30, b"d"), (0, b"a")):
        c.segment("client", byte * 10, offset=at)
    Conversation(c.built[:-1]).pcap(tmp_path / "one")
    Conversation(c.built[-1:]).pcap(tmp_path / "two")
    data = []

    @on(StreamData)
    def seen(ev):
        data.append((ev.offset, ev.data))
    info = os.stat(tmp_path / "one")
    with Engine(Chain([seen])) as engine:
        engine.run(tmp_path / "one")
        engine.source.close()
        gc.collect()
        assert data == [] and is_mapped(info.st_dev, info.st_ino)
        engine.run(tmp_path / "two")
        assert data == [(0, b"a" * 10), (10, b"b" * 10)]
    assert data[2:] == [(30, b"d" * 10)]
    assert not is_mapped(info.st_dev, info.st_ino)
