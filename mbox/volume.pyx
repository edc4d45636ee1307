"""volume: bytes delivered in order, in each direction, counted in C. The least that a box can do with streams.

what      Adds up the new in-order bytes of every flow as they are delivered, and the bytes that were given up. Payload of UDP
          and ICMP counts as it comes. Its handlers are C and never take the GIL, so the run measures the stack alone.
options   show  print the totals at the end (default); false: only count
events    StreamData, StreamGap; answers nothing
state     totals per direction
example   mos run volume -r pcaps/http_two.pcap --stats
"""
from libc.stdint cimport uint64_t
from mos cimport MOS_PASS, action_t, event_t, import_mos, mos_capsule, mos_to_server

from mos import NF, Count, Native, option
from mos.events import StreamData, StreamGap

import_mos()

DIRECTIONS = ("to_client", "to_server")

cdef struct way_t:
    uint64_t bytes
    uint64_t chunks
    uint64_t missing

cdef class Context:         # the memory that the handlers' ctx points at
    cdef way_t ways[2]      # by mos_to_server


cdef int add(void *ctx, const event_t *e, action_t *a) noexcept nogil:
    """StreamData: its bytes have arrived."""
    cdef way_t *way = &(<way_t *>ctx)[mos_to_server(e)]
    way.bytes += e.length
    way.chunks += 1
    return MOS_PASS


cdef int skip(void *ctx, const event_t *e, action_t *a) noexcept nogil:
    """StreamGap: its bytes will not come."""
    (<way_t *>ctx)[mos_to_server(e)].missing += e.length
    return MOS_PASS


class Volume(NF):
    """Counts what reaches the other end in order."""
    name = "volume"
    show: bool = option(True, help="print the totals at the end")

    def __init__(self, **settings):
        super().__init__(**settings)
        self.context = Context()
        self.bytes = Count("volume_bytes", "direction")
        self.chunks = Count("volume_chunks", "direction")
        self.missing = Count("volume_missing", "direction")

    def handlers(self):
        cdef Context context = self.context
        return [Native(StreamData, mos_capsule(add, &context.ways[0]), name="add", owner=context, answers=False),
                Native(StreamGap, mos_capsule(skip, &context.ways[0]), name="skip", owner=context), *super().handlers()]

    def settle(self, engine):
        """The totals as declared state."""
        cdef Context context = self.context
        for i, direction in enumerate(DIRECTIONS):
            self.bytes.add(context.ways[i].bytes, direction)
            self.chunks.add(context.ways[i].chunks, direction)
            self.missing.add(context.ways[i].missing, direction)

    def stop(self, engine):
        """A line for each direction."""
        found = [engine.value(count) for count in (self.bytes, self.chunks, self.missing)]
        for direction in reversed(DIRECTIONS) if self.show else ():
            print("{}: {} bytes in {} events, {} bytes missing".format(direction, *[count[direction] for count in found]))
