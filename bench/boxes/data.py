"""A Python handler on every data event that does nothing: what the call alone adds."""
from mos import on
from mos.events import StreamData


@on(StreamData)
def data(ev):
    pass
