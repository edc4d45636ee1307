"""802.11 data frames: every header length, behind every capture header."""
import struct

import pytest
from mos.net.decode import Decoder
from packets import tcp4

PACKET = tcp4(b"air")
BODY = b"\xaa\xaa\x03\0\0\0\x08\0" + PACKET


def data(kind=0x08, flags=0x01, qos=b"", wds=b"", ht=b"", sequence=0, pad=b""):
    return struct.pack("<BBH18sH", kind, flags, 0, bytes(18), sequence) + wds + qos + ht + pad + BODY


def radiotap(fields, present, more=()):
    words = struct.pack(f"<{1 + len(more)}I", present | (1 << 31 if more else 0), *more)
    return struct.pack("<BBH", 0, 0, 4 + len(words) + len(fields)) + words + fields


def flow(frame, linktype=105):
    r = Decoder().parse(frame, linktype)
    return r["status"] == "flow" and r["payload"] == b"air"


@pytest.mark.parametrize("frame", [
    data(), data(flags=0x02), data(0x88, qos=b"\0\0"), data(flags=0x03, wds=bytes(6)),
    data(0x88, flags=0x03, wds=bytes(6), qos=b"\5\0"), data(0x88, flags=0x81, qos=b"\0\0", ht=bytes(4))])
def test_header_lengths(frame):
    assert flow(frame)


@pytest.mark.parametrize("frame", [
    data(0x80), data(0xb4)[:16], data(0x48), data(0xc8, qos=b"\0\0"), data(flags=0x41), data(0x88, qos=b"\x80\0"),
    data(sequence=1)], ids=["beacon", "rts", "null", "qos null", "encrypted", "a-msdu", "later fragment"])
def test_frames_without_a_packet(frame):
    assert Decoder().parse(frame, 105)["status"] == "other"


@pytest.mark.parametrize("head, padded", [
    (radiotap(b"", 0), False), (radiotap(b"\0", 2), False), (radiotap(b"\x20", 2), True),
    (radiotap(bytes(8) + b"\x20", 3), True), (radiotap(bytes(4) + bytes(8) + b"\x20", 3, more=[0]), True),
    (radiotap(bytes(4) + b"\x20", 2, more=[1 << 31, 0]), False)])
def test_radiotap(head, padded):
    assert flow(head + data(0x88, qos=b"\0\0", pad=b"\0\0" if padded else b""), 127)


def test_other_capture_headers():
    avs = struct.pack("!II", 0x80211001, 64) + bytes(56)
    assert flow(avs + data(), 163)
    assert flow(avs + data(), 119)
    assert flow(struct.pack("<II", 0x44, 144) + bytes(136) + data(), 119)


@pytest.mark.parametrize("frame, linktype", [
    (b"\1\0\x08\0" + bytes(4) + data(), 127), (b"\0\0\x07\0" + bytes(4) + data(), 127),
    (struct.pack("!II", 0x80211001, 7) + data(), 163), (struct.pack("!II", 0x80211001, 900) + data(), 163)])
def test_refused(frame, linktype):
    assert Decoder().parse(frame, linktype)["status"] == "malformed"
