# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The declared state of one stack, and which stack runs on this thread. Its blocks are in blocks.pxd."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from mos.state.blocks cimport layout_t, undo_t

cdef class SlotSpace:
    cdef layout_t *c
    cdef undo_t *u
    cdef public int64_t now             # packet time, ns: what Map expires by; the stack sets it
    cdef readonly str chain
    cdef readonly tuple declarations    # in order, each once
    cdef readonly tuple layout          # (name, type, offset, width) of every slot
    cdef readonly dict stores           # declaration -> its data; the kinds that are not per flow
    cdef list outer                     # who was running, per `with`

cdef int slot_offset(SlotSpace space, object var) except -1
cdef PyObject *state_enter(SlotSpace space) noexcept nogil
cdef void state_leave(PyObject *outer) noexcept nogil
