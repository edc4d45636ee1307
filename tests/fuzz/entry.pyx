# cython: language_level=3
"""libFuzzer's way into the targets: `one_input` in this module's __pyx_capi__, which main.c calls for every input."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.stdlib cimport abort

import os
import sys
import traceback

from fuzz.targets import TARGETS

target = TARGETS[os.environ["MOS_FUZZ"]]


cdef api int one_input(const uint8_t *data, size_t n) noexcept with gil:
    """-1: do not keep it. A target that raises ends the process, and libFuzzer keeps the input."""
    try:
        target(PyBytes_FromStringAndSize(<const char *>data, n))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        abort()
    return 0
