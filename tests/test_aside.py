"""Captures read by one of several workers: what the others take is put aside unread.

Time and ordinals go on as if it were not.
"""
import gzip
import struct

import pytest
from captures import Frame, write

from mos import Engine, on
from mos.events import FlowEnd, FlowStart, StreamData, Timer
from mos.testing import merge, tcp, udp

SECOND = 10**9


def log_of(path, worker=0, workers=0, **settings):
    """[(place in the run, what)] and counters of one stack."""
    log = []

    def note(what):
        log.append((engine.stack.place, what))

    @on(FlowStart)
    def start(ev):
        note(("start", ev.client_port))
        for seconds in (0.001, 0.004, 0.04):        # due while packets of others go by
            ev.flow.timer(seconds, ev.client_port)

    @on(Timer)
    def timer(ev):
        note(("timer", ev.value, ev.time))

    @on(StreamData)
    def data(ev):
        note(("data", ev.client_port, ev.offset, ev.time, ev.packet.number))

    @on(FlowEnd)
    def end(ev):
        note(("end", ev.client_port, ev.reason, ev.time))
    engine = Engine([start, timer, data, end], **settings)
    with engine:
        if workers:
            engine.stack.share(worker, workers)
        engine.run(str(path))
    return log, engine.stats(), engine.stack.packets


def mix(n=60):
    """Short and long, IPv4 and IPv6, fragments and UDP, which have to be decoded to tell whose they are; silences between."""
    talks = []
    for i in range(n):
        talk = tcp(f"10.0.0.1:{1000 + i}", "192.168.7.9:80", start_ns=SECOND * 1000 + i * 1_300_000)
        talk.send(b"ask").reply(b"answer" * (40 if i % 7 else 400)).wait(0.3 if i % 5 else 400).send(b"x")
        talks.append(talk.v6() if i % 4 == 0 else talk.close() if i % 3 else talk)
        other = udp(f"10.9.0.1:{3000 + i}", "10.0.0.2:53", start_ns=SECOND * 1000 + i * 2_000_000).send(b"q" * 900).reply(b"a")
        talks.append(other.fragment([1], 400) if i % 6 == 0 else other)
    return merge(*talks)


@pytest.fixture(scope="module", params=["pcap", "pcapng", "streamed"])
def capture(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("aside") / "mix"
    if request.param == "pcapng":
        packets = mix().packets
        write(path, [Frame(i + 1, 1, ns, frame, len(frame)) for i, (ns, frame, *_) in enumerate(packets)])
    elif request.param == "streamed":
        path = path.with_suffix(".gz")
        path.write_bytes(gzip.compress(mix().pcap_bytes()))
    else:
        path.write_bytes(mix().pcap_bytes())
    return path


@pytest.mark.parametrize("workers", [2, 3, 40])
@pytest.mark.parametrize("settings", [{}, {"bpf": "not udp"}, {"shortcuts": False}], ids=["", "filter", "long ways"])
def test_the_workers_logs_together_are_that_of_one(capture, workers, settings):
    whole, stats, packets = log_of(capture, **settings)
    parts = [log_of(capture, i, workers, **settings) for i in range(workers)]
    assert sorted([entry for part, _, _ in parts for entry in part], key=lambda e: e[0]) == whole and len(whole) > 300
    assert {n for _, _, n in parts} == {packets}
    for key in ("packets_in", "bytes_in", "forwarded", "flows"):
        assert sum(part[key] for _, part, _ in parts) == stats[key]


def test_a_run_stops_at_its_packet(capture):
    for until in (1, 64, 65, 200):
        logs = []
        for worker in range(2):
            engine = Engine([])
            engine.stack.share(worker, 2)
            engine.run(str(capture), until=until)
            logs.append(engine.stats()["packets_in"])
            assert engine.stack.packets == until
        assert sum(logs) == until


def test_a_worker_without_packets_comes_to_the_end(tmp_path):
    """More of them in a row than are put aside at a time, so that a batch would be empty."""
    talk = tcp("10.0.0.1:1000", "10.0.0.2:80")
    for _ in range(1500):
        talk.send(b"x" * 10)
    path = tmp_path / "one"
    path.write_bytes(talk.pcap_bytes())
    found = []
    for worker in range(2):
        _, stats, packets = log_of(path, worker, 2)
        assert packets == len(talk.packets) > 2 * 1024
        found.append((stats["packets_in"], stats["bytes_in"]))
    assert sorted(found) == [(0, 0), (packets, sum(len(frame) for _, frame, *_ in talk.packets))]


def test_damage_is_told_by_every_worker_after_the_packets_before_it(tmp_path):
    talk = mix(12)
    path = tmp_path / "damaged"
    path.write_bytes(talk.pcap_bytes() + struct.pack("<IIII", 5000, 0, 1 << 30, 1 << 30))
    for worker in range(3):
        engine = Engine([])
        engine.stack.share(worker, 3)
        with pytest.raises(Exception, match=f"after {len(talk.packets)} packets"):
            engine.run(str(path))
        assert engine.stack.packets == len(talk.packets)
