"""A short slice of bench/soak.py: a mix of everything again and again through one stack, at the same memory."""
import struct
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
sys.path.append(str(BENCH))

import attacks_frames  # noqa: E402
import attacks_ordinary  # noqa: E402
import soak  # noqa: E402

PACKETS = 200_000


def test_memory_does_not_grow_and_both_balances_hold():
    """In a process of its own: the memory of other tests is not this stack's."""
    ran = subprocess.run([sys.executable, BENCH / "soak.py", "--packets", str(PACKETS)], capture_output=True, text=True,
                         timeout=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("/10 ") == 10 and ran.stdout.rstrip().endswith("both balances hold")


def test_growth_and_a_lost_packet_would_be_seen():
    assert soak.balances({"packets_in": 3, "forwarded": 1, "dropped": {"a": 1}, "held": 0, "consumed": 0, "packets_out": 2,
                          "injected": 0, "split": 0}) == ["in is not forwarded + dropped + held + consumed",
                                                          "sent is not forwarded + injected + split"]


@pytest.mark.parametrize("flip", [0x1234, 0xFFFF, 1])
def test_a_shifted_frame_has_right_checksums_and_another_name(flip, tmp_path):
    out = bytearray()
    scene = attacks_frames.Scene(out.extend, 1, victims=0)
    frame = attacks_frames.tcp(0x0A000001, 0x0A000002, 1, 2, 3, 4, 16, b"odd")
    scene.add(frame)
    scene.add(frame[:12] + bytes.fromhex("88a80001 81000002") + frame[12:])
    six = [attacks_ordinary.NET6 | 1, attacks_ordinary.NET6 | 1 << 24]
    scene.add(attacks_ordinary.datagram(6, *six, 1, 53, b"odd"))
    records = out[24:]
    whole = (soak.ctypes.c_uint8 * len(records)).from_buffer(records)
    shift = soak.shifter(tmp_path)
    assert shift(soak.ctypes.addressof(whole), len(records), 1_999_999_999, flip) == 3
    sec, ns = struct.unpack_from("<II", records)
    assert sec * 10**9 + ns == attacks_frames.START_NS + 1000 + 1_999_999_999
    moved = [a ^ flip << 8 for a in (0x0A000001, 0x0A000002)]
    want = attacks_frames.tcp(*moved, 1, 2, 3, 4, 16, b"odd")
    assert bytes(records[16:16 + len(frame)]) == want
    assert want[12:] + bytes(records[-81:-65]) in bytes(records)
    moved = [a ^ ((flip & 255) << 8 | flip >> 8) << 16 for a in six]
    assert bytes(records).endswith(attacks_ordinary.datagram(6, *moved, 1, 53, b"odd"))
