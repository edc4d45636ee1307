# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""802.11 data frames, and the capture headers before them."""
from libc.stdint cimport uint8_t, uint32_t
from mos.net.bytes cimport be16, be32, le16, le32
from mos.net.walk cimport BAD_LINK, STEP_LLC, STEP_OTHER, STEP_WLAN, bad, short_of, skip, walk_t

cdef enum:
    WLAN_TO_DS = 0x01           # second byte of the frame control field
    WLAN_FROM_DS = 0x02
    WLAN_PROTECTED = 0x40
    WLAN_ORDER = 0x80           # with QoS: an HT control field follows
    RADIOTAP_TSFT = 1
    RADIOTAP_FLAGS = 2
    RADIOTAP_PADDED = 0x20      # flags: the 802.11 header is padded to 4 bytes

cdef inline int wlan(walk_t *w, bint padded) noexcept nogil:
    """An unencrypted 802.11 data frame (IEEE 802.11 9.2.4, 9.3.2.1). Aggregates (A-MSDU) are not taken apart."""
    cdef uint32_t n = 24
    if w.cap < 24:              # control frames are shorter
        return STEP_OTHER if w.cap >= 1 and w.p[0] & 0x0c != 0x08 else short_of(w, 24, BAD_LINK)
    cdef uint8_t kind = w.p[0]
    cdef uint8_t flags = w.p[1]
    if kind & 0x0f != 0x08 or kind & 0x40 or flags & WLAN_PROTECTED:    # not data, no data, encrypted
        return STEP_OTHER
    if flags & WLAN_TO_DS and flags & WLAN_FROM_DS:
        n += 6
    if kind & 0x80:
        n += 2
        if w.cap < n:
            return short_of(w, n, BAD_LINK)
        if w.p[n - 2] & 0x80:
            return STEP_OTHER
        if flags & WLAN_ORDER:
            n += 4
    if padded:
        n = (n + 3) & ~<uint32_t>3
    if w.cap < n:
        return short_of(w, n, BAD_LINK)
    if le16(w.p + 22) & 15:     # a later fragment of an MSDU has no LLC header
        return STEP_OTHER
    skip(w, n)
    return STEP_LLC

cdef inline int radiotap(walk_t *w) noexcept nogil:
    """Radiotap (radiotap.org): only the flags field is read, for the padding bit."""
    if w.cap < 8:
        return short_of(w, 8, BAD_LINK)
    cdef uint32_t length = le16(w.p + 2)
    cdef uint32_t at = 8
    cdef uint32_t present = le32(w.p + 4)
    cdef uint32_t more = present
    cdef bint padded = False
    if w.p[0] != 0 or length < 8:
        return bad(w, BAD_LINK)
    if w.cap < length:
        return short_of(w, length, BAD_LINK)
    while more >> 31 and at + 4 <= length:
        more = le32(w.p + at)
        at += 4
    if present & RADIOTAP_TSFT:
        at = ((at + 7) & ~<uint32_t>7) + 8
    if present & RADIOTAP_FLAGS and at < length:
        padded = w.p[at] & RADIOTAP_PADDED != 0
    skip(w, length)
    return wlan(w, padded)

cdef inline int avs(walk_t *w) noexcept nogil:
    """An AVS header says its length."""
    if w.cap < 8:
        return short_of(w, 8, BAD_LINK)
    cdef uint32_t length = be32(w.p + 4)
    if length < 8 or length > w.len:
        return bad(w, BAD_LINK)
    if w.cap < length:
        return short_of(w, length, BAD_LINK)
    skip(w, length)
    return STEP_WLAN

cdef inline int prism(walk_t *w) noexcept nogil:
    """A Prism header is 144 bytes; some drivers write AVS under the same link type."""
    if w.cap >= 4 and be16(w.p) == 0x8021 and w.p[2] >> 4 == 1:
        return avs(w)
    if w.cap < 144:
        return short_of(w, 144, BAD_LINK)
    skip(w, 144)
    return STEP_WLAN
