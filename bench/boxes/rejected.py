"""A Python handler behind a compiled filter that lets nothing through."""
from mos import on
from mos.events import StreamData


@on(StreamData, where="server_port == 1 and client in 192.0.2.0/24")
def data(ev):
    raise AssertionError("the filter let something through")
