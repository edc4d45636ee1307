"""Records are called for a batch ahead: that never reads what is not there, whatever lengths a capture claims."""
import struct

import pytest

from mos import CaptureError, Chain, Engine
from mos.testing import tcp

RECORD = struct.Struct("<4I")


def capture(flows):
    """The parts of a pcap of short connections: its header, then each record."""
    parts = [struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1)]
    for i in range(flows):
        for ns, frame in tcp(f"10.0.0.{i + 1}:{i + 1}", "10.0.1.1:80").send(b"x" * 40 * i).reply(b"y").close().packets:
            parts.append(RECORD.pack(ns // 10**9, ns % 10**9 // 1000, len(frame), len(frame)) + frame)
    return parts


def taken(path, data, **how):
    """How many packets a run takes of a file that holds `data`, and what it says."""
    path.write_bytes(data)
    with Engine(Chain(), checksum="off", **how) as engine:
        try:
            engine.run(path)
            said = None
        except CaptureError as e:
            said = str(e).partition(" ")[2]
        return engine.stats()["packets_in"], said


@pytest.mark.parametrize("level", ["flow", "tcp"])
def test_a_capture_may_end_anywhere(tmp_path, level):
    """At the end of a page too, behind which nothing is mapped."""
    parts = capture(40)
    data = b"".join(parts)
    for end in [*range(24, 400), *range(4096 - 40, 4096 + 40), *range(8192 - 40, 8192 + 40)]:
        whole, at = 0, 24
        while at + 16 <= end and at + 16 + RECORD.unpack_from(data, at)[2] <= end:
            at += 16 + RECORD.unpack_from(data, at)[2]
            whole += 1
        packets, said = taken(tmp_path / "in.pcap", data[:end], level=level)
        assert packets == whole and (said is None) == (at == end), end


@pytest.mark.parametrize("level", ["flow", "tcp"])
@pytest.mark.parametrize("claimed", [0, 1, 13, 0xffff, 1 << 20, 0x7fffffff, 0x80000000, 0xffffffff])
def test_a_record_may_claim_any_length(tmp_path, level, claimed):
    parts = capture(40)
    for at in (1, 2, 100, 127, 128, 129, 200, len(parts) - 1):
        wrong = parts[at][:8] + struct.pack("<I", claimed) + parts[at][12:]
        short = taken(tmp_path / "in.pcap", b"".join([*parts[:at], wrong, *parts[at + 1:]]), level=level)
        assert short == taken(tmp_path / "in.pcap", b"".join([*parts[:at], wrong, *parts[at + 1:]]), level=level, shortcuts=False)
        assert short[0] >= at - 1
