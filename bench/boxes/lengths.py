"""The least useful Python handler on every data event: one attribute, one sum."""
from mos import on
from mos.events import StreamData

total = [0]


@on(StreamData)
def data(ev):
    total[0] += ev.length
