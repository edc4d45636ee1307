"""Numbers from the wire at every alignment."""
import struct

from hypothesis import given
from hypothesis import strategies as st
from mos.net.decode import Decoder
from packets import tcp4

# (link type, header), by length modulo 8
HEADERS = ((101, b""), (9, b"\x21"), (9, b"\0\x21"), (9, b"\xff\3\x21"), (0, b"\2\0\0\0"),
           (204, b"\0\xff\3\0\x21"), (1, bytes(12) + b"\x08\0"), (204, b"\0\x02\x81\0\0\1\xff"))


@given(st.sampled_from(HEADERS), st.tuples(*[st.integers(0, 2**16 - 1)] * 4), st.tuples(*[st.integers(0, 2**32 - 1)] * 4))
def test_fields_at_any_alignment(link, words, longs):
    linktype, header = link
    (sport, dport, wnd, urg), (seq, ack, tsval, tsecr) = words, longs
    options = b"\1\1\x08\x0a" + struct.pack("!II", tsval, tsecr)
    r = Decoder().parse(header + tcp4(sport=sport, dport=dport, seq=seq, ack=ack, wnd=wnd, urg=urg, options=options), linktype)
    assert (r["sport"], r["dport"], r["wnd"], r["urg"]) == words
    assert (r["seq"], r["ack"], r["tsval"], r["tsecr"]) == longs
