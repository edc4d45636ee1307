"""What each mode makes of a checksum that is right, absent, left to the NIC, or wrong."""
import pytest
from mos.net.decode import Decoder
from packets import TCP, A, B, ether, ip4, tcp

GOOD, BAD_IP, BAD_L4, PARTIAL, UNKNOWN = 0, 1, 2, 4, 8
WHOLE = ether(ip4(tcp(b"payload", src=A, dst=B), TCP, A, B))
SUM = slice(14 + 20 + 16, 14 + 20 + 18)
PSEUDO = sum(WHOLE[i] << 8 | WHOLE[i + 1] for i in range(26, 34, 2)) + TCP + len(WHOLE) - 34


def with_sum(value):
    return WHOLE[:SUM.start] + value.to_bytes(2, "big") + WHOLE[SUM.stop:]


@pytest.mark.parametrize("plainly", [True, False])
@pytest.mark.parametrize("frame, verify, auto", [
    (WHOLE, GOOD, GOOD),
    (with_sum(0), BAD_L4, PARTIAL),
    (with_sum((PSEUDO >> 16) + (PSEUDO & 0xffff)), BAD_L4 | PARTIAL, PARTIAL),
    (with_sum(0x1234), BAD_L4, BAD_L4),
    (WHOLE[:24] + b"\x12\x34" + WHOLE[26:], BAD_IP, BAD_IP),
    (WHOLE[:24] + b"\0\0" + WHOLE[26:], BAD_IP, GOOD),
    (WHOLE[:-1], UNKNOWN, UNKNOWN),
], ids=["right", "absent", "left to the NIC", "wrong", "wrong header", "absent header", "cut"])
def test_modes(frame, verify, auto, plainly):
    for mode, csum in (("verify", verify), ("auto", auto), ("off", UNKNOWN)):
        assert Decoder(checksum=mode, plainly=plainly).parse(frame, wirelen=len(WHOLE))["csum"] == csum, mode


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\0\0\0"], ids=len)
def test_any_bit_makes_it_wrong(payload):
    """Of addresses, ports and all of a segment, with and without bytes."""
    d = Decoder(checksum="verify")
    frame = ether(ip4(tcp(payload, src=A, dst=B), TCP, A, B))
    assert d.parse(frame)["csum"] == GOOD
    for bit in [*range(26 * 8, 46 * 8), *range(47 * 8, (54 + len(payload)) * 8)]:       # not the header's length
        wrong = bytearray(frame)
        wrong[bit // 8] ^= 1 << bit % 8
        assert d.parse(bytes(wrong))["csum"] & BAD_L4, bit
