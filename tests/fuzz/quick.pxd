# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What the quick targets share: numbers off an input, copies of exact size, and what must hold.

A quick target is a module quick_<name>.pyx whose `one_input` runs without Python, hundreds of thousands of times a second.
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    static const char *fuzz_broken;
    static int fuzz_gentle;
    /* Aborts, so that libFuzzer keeps the input; while it is replayed, remembers the first thing that did not hold. */
    static inline int fuzz_must(int holds, const char *what) {
        if (__builtin_expect(holds, 1))
            return 1;
        if (!fuzz_gentle) {
            fprintf(stderr, "does not hold: %s\\n", what);
            abort();
        }
        if (!fuzz_broken)
            fuzz_broken = what;
        return 0;
    }
    static inline void fuzz_touch(const uint8_t *p, size_t n) {
        volatile uint8_t sum = 0;
        while (n--)
            sum ^= p[n];
    }
    """
    const char *broken "fuzz_broken"
    bint gentle "fuzz_gentle"
    bint must "fuzz_must"(bint holds, const char *what) noexcept nogil
    void touch "fuzz_touch"(const uint8_t *p, size_t n) noexcept nogil   # reads all of it: a sanitizer sees what is not there

cdef struct input_t:
    const uint8_t *p
    size_t left

cdef inline uint32_t take(input_t *r, int n) noexcept nogil:
    """The next n bytes as a number, most significant first; zeros behind the end."""
    cdef uint32_t v = 0
    while n:
        v <<= 8
        if r.left:
            v |= r.p[0]
            r.p += 1
            r.left -= 1
        n -= 1
    return v

cdef inline uint8_t *exact(const uint8_t *p, size_t n) noexcept nogil:
    """A copy in a malloc of its own size, to be freed."""
    cdef uint8_t *copy = <uint8_t *>malloc(n)
    if copy != NULL and n:
        memcpy(copy, p, n)
    return copy

cdef inline uint8_t *piece(input_t *r, size_t *n) noexcept nogil:
    """The next n bytes, or as many as there are, as an exact copy."""
    cdef uint8_t *copy
    n[0] = min(n[0], r.left)
    copy = exact(r.p, n[0])
    r.p += n[0]
    r.left -= n[0]
    return copy

cdef inline str held(int (*target)(const uint8_t *, size_t) noexcept nogil, bytes data):
    """Run one input; None, or what did not hold."""
    global broken, gentle
    broken, gentle = NULL, True
    target(<const uint8_t *><const char *>data, <size_t>len(data))
    gentle = False
    return None if broken == NULL else broken.decode()
