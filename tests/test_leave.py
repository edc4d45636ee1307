"""What leaves: counted, in order, and nothing else."""
import dpkt
from boxes import assert_balanced, box, drive, web

from mos.events import StreamData, on
from mos.events.verdict import RESET
from mos.io.source import open_source


def test_all_that_leaves_is_what_came_and_what_is_counted_as_ours(tmp_path):
    @on(StreamData, where="not to_server")
    def no(ev):
        return RESET
    c = web()
    engine = drive([box(no)], c, write=str(tmp_path / "out.pcap"))
    out = [record[2] for record in open_source(tmp_path / "out.pcap")]
    stats = engine.stats()
    assert_balanced(stats)
    passed = engine.forwarded.index(False)
    assert out[:passed] == [frame for _, frame in c][:passed] and not any(engine.forwarded[passed:])
    ours = [dpkt.ethernet.Ethernet(frame).data.data for frame in out[passed:]]
    assert len(ours) == stats["injected"] and all(s.flags & dpkt.tcp.TH_RST for s in ours)
    assert [s.dport for s in ours[:2]] == [1234, 80]    # on to the packet's receiver first, then back to its sender
