# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The Python view of a flow: at most one `Flow` object per flow, made when somebody asks and kept in `more_t.view`."""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free
from cpython.object cimport PyObject
from mos.flow.flow cimport flow_t, more_t
from mos.net.packet cimport key_t


cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        Py_ssize_t tp_weaklistoffset
    Py_ssize_t Py_REFCNT(PyObject *)
    PyTypeObject *Py_TYPE(PyObject *)


cdef class Flow:
    cdef flow_t *f          # NULL: the flow has ended
    cdef flow_t *at         # what is read: `f`, or in a copy its own memory; NULL: neither
    cdef flow_t *own
    cdef int64_t first_ns_
    cdef uint64_t later     # of a copy: the history's further letters
    cdef readonly uint64_t id
    cdef readonly object owner      # the engine that tracks it
    cdef key_t key
    cdef uint8_t client_hi
    cdef str _client
    cdef str _server
    cdef object __weakref__


cdef class Side:
    cdef Flow flow
    cdef int index          # CLIENT or SERVER


cdef str ip_text(const uint8_t *addr, int ipver)
cdef Flow flow_view_make(flow_t *f, object owner)
cdef void flow_view_end(flow_t *f) noexcept
cdef Flow flow_keep(Flow v)


cdef inline bint flow_viewed(const flow_t *f) noexcept:
    return f.more != NULL and f.more.view != NULL


cdef inline Flow flow_view(flow_t *f, object owner):
    """The one Flow of `f`. `owner` is the engine; it counts at the first call only."""
    if flow_viewed(f):
        return <Flow>f.more.view
    return flow_view_make(f, owner)


cdef inline PyObject *weak_references(PyObject *o) noexcept:
    return (<PyObject **>(<char *>o + Py_TYPE(o).tp_weaklistoffset))[0]


cdef inline void flow_view_let_go(flow_t *f) noexcept:
    """Whoever had its Flow made has returned. If nobody kept it, it goes, and with it the record that was made for it: flows
    that are looked at once need no memory for that. Another is made when somebody asks again."""
    cdef more_t *m = f.more
    if not flow_viewed(f) or Py_REFCNT(<PyObject *>m.view) > 1 or weak_references(<PyObject *>m.view) != NULL:
        return
    flow_view_end(f)
    if m.reasm[0] == NULL and m.reasm[1] == NULL and m.trouble == NULL and m.alias == NULL and m.hist == 0:
        free(m)
        f.more = NULL
