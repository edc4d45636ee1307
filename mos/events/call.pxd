# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Calling a Python handler: what is done for each event, and nothing else. `mos.events.bus` has what is done now and then.

References in handler_t and Bus.slots are borrowed from the bus's lists. Nothing here is `except`: a call that failed gives
NULL, as in C, which costs no look at the state of exceptions for those that did not.
"""
from cpython.object cimport PyObject
from mos.events.bus cimport Bus, answer_t, handler_t
from mos.events.handler cimport MOS_PASS
from mos.events.kinds cimport NKINDS
from mos.events.ring cimport event_t
from mos.events.views cimport Event, view_bind, view_held, view_release

cdef extern from "Python.h":
    const size_t ALONE "PY_VECTORCALL_ARGUMENTS_OFFSET"     # the place before the arguments is the callee's to use
    PyObject *NONE "Py_None"
    void Py_DECREF(PyObject *)

cdef inline int call_python(Bus b, handler_t *h, event_t *e, answer_t *a) noexcept:
    """Call a Python handler with its reusable view; a verdict code. Whatever is raised is settled here."""
    cdef PyObject *args[3]
    cdef PyObject *result
    cdef PyObject *view = b.slots[h.index * NKINDS + e.kind]
    cdef int verdict = MOS_PASS
    if view == NULL:
        view = b.new_view(h, e, a, &verdict)
        if view == NULL:
            return verdict
    view_bind(<Event>view, e)
    args[1], args[2] = h.self, view
    if h.self != NULL:
        result = h.call(h.function, args + 1, 2 | ALONE, NULL)
    else:
        result = h.call(h.function, args + 2, 1 | ALONE, NULL)
    if result == NONE:
        Py_DECREF(result)
    else:
        verdict = b.settle_call(h, e, a, <Event>view, result)
    view_release(<Event>view)
    if view_held(<Event>view, 1):
        b.forget_view(h.index * NKINDS + e.kind)
    return verdict
