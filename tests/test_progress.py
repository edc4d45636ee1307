"""mos/cli/progress.py: the bar's text, and how often it is drawn. On a terminal: test_run_cmd.py."""
import gzip
import io
from types import SimpleNamespace

from command import PCAPS

from mos.cli.progress import Progress, clock_time, line, scaled
from mos.io.source import open_source


def test_the_bar_says_share_rate_and_what_is_left():
    assert line(3000, 2.0, 50, 200) == "[#####...............]  25% 1.5k packets/s, 0:06 left"
    assert line(10, 1.0, 200, 200) == "[####################] 100% 10 packets/s, 0:00 left"


def test_without_a_known_size_there_is_no_bar():
    assert line(3000, 2.0, 50, 0) == "3000 packets, 1.5k/s"


def test_the_first_moment_divides_by_nothing():
    assert line(0, 0.0, 0, 200) == "[....................]   0% - packets/s"


def test_numbers():
    assert [scaled(n) for n in (5, 1234, 2.5e6, 3e9)] == ["5", "1.23k", "2.5M", "3G"]
    assert [clock_time(s) for s in (0.4, 59.6, 3599, 3725)] == ["0:00", "1:00", "59:59", "1:02:05"]


def test_it_is_drawn_ten_times_a_second_and_taken_away():
    now = [0.0]
    out = io.StringIO()
    bar = Progress(SimpleNamespace(progress=(1, 2)), out, clock=lambda: now[0])
    bar.clear()
    assert out.getvalue() == ""
    for step in range(100):
        now[0] = step / 100
        bar.show(step)
    assert out.getvalue().count("\r\x1b[K") == 10
    bar.clear()
    assert out.getvalue().endswith("left\r\x1b[K")


def test_what_was_lost_is_told():
    out = io.StringIO()
    Progress(SimpleNamespace(progress=(9, 0), lost=7), out, clock=lambda: 1.0).show(9)
    assert out.getvalue().endswith("9 packets, -/s, 7 lost")


def test_a_compressed_file_is_measured_as_it_is_stored(tmp_path):
    path = tmp_path / "x.pcap.gz"
    path.write_bytes(gzip.compress((PCAPS / "http_two.pcap").read_bytes()))
    with open_source(str(path)) as source:
        list(source)
        assert source.progress == (path.stat().st_size,) * 2
    with open_source(str(PCAPS / "http_two.pcap")) as source:
        assert source.progress[1] == (PCAPS / "http_two.pcap").stat().st_size
        list(source)
        assert source.progress[0] == source.progress[1]
