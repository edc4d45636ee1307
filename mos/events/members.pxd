# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Which handlers each set has, and which set has these: what attaching and detaching look up.

A set's name is the keys of its handlers, one upon the other (XOR): that of a set with one more or one less is made of it at once.
Keys are SipHash under a secret key, so nobody who chooses what is attached can choose where sets are looked for; and of 111 bits,
so that two of 65,536 sets have the same name with a probability of 2**-80. Hence names alone are compared: one line of memory.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from mos.net.siphash cimport siphash13

cdef enum:
    NUMBER = 0x1ffff        # bits of name_t.rest that in the index hold a set's number + 1, 0: free

cdef struct name_t:
    uint64_t at             # its low bits say where it is looked for
    uint64_t rest           # and above NUMBER, which is 0

cdef struct members_t:
    uint32_t words          # of 64 handlers each
    uint32_t mask           # slots of the index - 1
    uint64_t *bits          # `words` for each set
    name_t   *names         # by set
    name_t   *index         # linear probing
    name_t   *keys          # by handler

cdef inline int members_init(members_t *m, uint32_t handlers, uint32_t sets, uint64_t k0, uint64_t k1) noexcept nogil:
    """For so many handlers, and at most so many sets. -1: out of memory."""
    cdef uint64_t i
    m.words, m.mask = handlers // 64 + 1, 63
    while m.mask < 2 * sets:
        m.mask = 2 * m.mask + 1
    m.bits = <uint64_t *>calloc(sets, m.words * sizeof(uint64_t))       # pages come with their first use
    m.names = <name_t *>calloc(sets, sizeof(name_t))
    m.index = <name_t *>calloc(<size_t>m.mask + 1, sizeof(name_t))
    m.keys = <name_t *>calloc(handlers + 1, sizeof(name_t))
    if m.bits == NULL or m.names == NULL or m.index == NULL or m.keys == NULL:
        return -1
    for i in range(2 * handlers):
        (<uint64_t *>m.keys)[i] = siphash13(<const uint8_t *>&i, sizeof(i), k0, k1)
    for i in range(handlers):
        m.keys[i].rest &= ~<uint64_t>NUMBER
    return 0

cdef inline void members_free(members_t *m) noexcept nogil:
    free(m.bits)
    free(m.names)
    free(m.index)
    free(m.keys)

cdef inline bint has_member(const members_t *m, uint32_t number, uint32_t handler) noexcept nogil:
    return m.bits[<size_t>number * m.words + (handler >> 6)] >> (handler & 63) & 1

cdef inline void name_switch(const members_t *m, name_t *name, uint32_t handler) noexcept nogil:
    """The name of what has this handler if the set named has not, or has it not if that has."""
    name.at ^= m.keys[handler].at
    name.rest ^= m.keys[handler].rest

cdef inline int64_t members_find(const members_t *m, const name_t *name) noexcept nogil:
    """The number of the set with this name; -1: it has not been met."""
    cdef uint32_t at = <uint32_t>name.at & m.mask
    cdef const name_t *e = &m.index[at]
    while e.rest & NUMBER:
        if e.at == name.at and e.rest & ~<uint64_t>NUMBER == name.rest:
            return <int64_t>(e.rest & NUMBER) - 1
        at = at + 1 & m.mask
        e = &m.index[at]
    return -1

cdef inline void members_add(members_t *m, uint32_t number, const name_t *name) noexcept nogil:
    """Enter a set that was looked for in vain."""
    cdef uint32_t at = <uint32_t>name.at & m.mask
    while m.index[at].rest & NUMBER:
        at = at + 1 & m.mask
    m.names[number] = m.index[at] = name[0]
    m.index[at].rest |= number + 1

cdef inline uint64_t *members_copy(members_t *m, uint32_t to, uint32_t number) noexcept nogil:
    """Give the set `to` the handlers that another has."""
    cdef uint64_t *bits = m.bits + <size_t>to * m.words
    memcpy(bits, m.bits + <size_t>number * m.words, m.words * sizeof(uint64_t))
    return bits
