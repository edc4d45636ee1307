"""mbox.volume against what conversations and captures hold."""
import pytest
from mbox.volume import Volume

from mos.testing import merge, run, tcp, udp


def totals(result):
    volume = next(nf for nf in result.engine.chain.nfs if isinstance(nf, Volume))
    found = [result.value(count) for count in (volume.bytes, volume.chunks, volume.missing)]
    return {way: tuple(count[way] for count in found) for way in ("to_server", "to_client")}


@pytest.mark.parametrize("capture, up, down", [("http_two.pcap", 166, 220488), ("http_lossy_server.pcap", 85, 100244)])
def test_a_capture_holds_what_its_streams_hold(capture, up, down):
    found = totals(run(Volume, f"pcaps/{capture}"))
    assert (found["to_server"][0], found["to_client"][0]) == (up, down)


def test_each_byte_counts_once_and_holes_are_told():
    talk = merge(tcp("10.0.0.1:1", "10.0.0.2:80").send(b"x" * 500, ack=False).retransmit(4).ack().reply(b"y" * 70),
                 udp("10.0.0.1:2", "10.0.0.2:53").send(b"q").reply(b"aaaa"))
    assert totals(run(Volume, talk)) == {"to_server": (501, 2, 0), "to_client": (74, 2, 0)}
    lossy = tcp("10.0.0.1:1", "10.0.0.2:80").send(b"lost").send(b"seen").lose(4)
    assert totals(run(Volume, lossy))["to_server"] == (4, 1, 4)


def test_each_instance_counts_for_itself_and_prints_unless_told_not_to(capsys):
    result = run([Volume(), Volume(show=False)], udp("10.0.0.1:2", "10.0.0.2:53").send(b"q"))
    assert [result.value(nf.bytes)["to_server"] for nf in result.engine.chain.nfs if isinstance(nf, Volume)] == [1, 1]
    assert capsys.readouterr().out == ("to_server: 1 bytes in 1 events, 0 bytes missing\n"
                                       "to_client: 0 bytes in 0 events, 0 bytes missing\n")
