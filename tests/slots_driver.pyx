"""Flows with slots and the life of a packet, driven from Python without a stack. Built by the tests that use it."""
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport calloc, free
from mos.flow.flow cimport flow_alone, flow_alone_free, flow_cold, flow_t
from mos.flow.view cimport Flow, flow_view, flow_view_end
from mos.state.blocks cimport (SLOTS_MAX, OBJECTS_MAX, block_t, mos_slot, mos_slot_write, slots_abort, slots_close, slots_commit,
                               slots_open, undo_begin)
from mos.state.slots cimport SlotSpace, slot_offset

LIMITS = SLOTS_MAX, OBJECTS_MAX


class Engine:
    """Owner of flows; `slots` is its space."""

    def __init__(self, space):
        self.slots = space


cdef class Flows:
    """A stack of flows that share `space`. Flows are named by small integers."""
    cdef flow_t **f
    cdef int n
    cdef readonly SlotSpace space
    cdef readonly object engine

    def __cinit__(self, SlotSpace space, int n=4):
        self.space, self.engine, self.n = space, Engine(space), n
        self.f = <flow_t **>calloc(n, sizeof(flow_t *))
        for i in range(n):
            self.f[i] = flow_alone()

    def __dealloc__(self):
        for i in range(self.n):
            flow_view_end(self.f[i])
            free(self.f[i].more)
            flow_alone_free(self.f[i])
        free(self.f)

    def open(self, int i):
        flow_cold(self.f[i]).id = i + 1
        assert slots_open(self.space.c, self.f[i]) == 0
        return self.view(i)

    def view(self, int i):
        flow_cold(self.f[i]).id = i + 1
        return flow_view(self.f[i], self.engine)

    def end(self, int i):
        flow_view_end(self.f[i])
        with nogil:
            slots_close(self.space.c, self.f[i])

    def begin(self, i):
        undo_begin(self.space.u, NULL if i is None else self.f[<int>i])

    def commit(self):
        with nogil:
            slots_commit(self.space.u)

    def abort(self):
        with nogil:
            slots_abort(self.space.u)

    def version(self, int i):
        return (<block_t *>self.f[i].slots).version, self.space.u.flow == self.f[i] and self.space.u.dirty

    def address(self, int i):
        return <size_t>self.f[i].slots

    def c_add(self, int i, var, int64_t n):
        """What a C handler does with an int."""
        cdef uint32_t offset = slot_offset(self.space, var)
        cdef int64_t *p
        with nogil:
            p = <int64_t *>mos_slot_write(self.f[i], offset)
            if p != NULL:
                p[0] += n
        p = <int64_t *>mos_slot(self.f[i], offset)
        return None if p == NULL else p[0]
