# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Any BPF program that verifies, over any frame: it ends, reads nothing beyond the frame, and returns what a second machine,
written from the manual opcode by opcode, returns."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from mos.net.bpf cimport bpf_insn_t, bpf_run, bpf_t
from quick cimport held, input_t, must, piece, take

cdef enum:
    LONGEST = 48

# Every opcode that bpf(4) defines and libpcap adds (mod, xor): loads, stores, arithmetic, jumps, returns, copies.
CODES = [0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x00, 0x60, 0x01, 0x61, 0x81, 0xb1, 0x02, 0x03,
         *(4 | op << 4 | x for op in range(11) for x in (0, 8)), 5, *(5 | op << 4 | x for op in range(1, 5) for x in (0, 8)),
         0x06, 0x16, 0x07, 0x87]
cdef uint16_t[50] codes
for _i, _code in enumerate(CODES):
    codes[_i] = _code
cdef int NCODES = len(CODES)


cdef extern from *:
    """
    #include <stdint.h>
    typedef struct { const uint8_t *p; uint32_t n; int gone; } fuzz_frame;

    static uint32_t fuzz_get(fuzz_frame *f, uint64_t at, int n) {
        uint32_t v = 0;
        if (at + n > f->n) { f->gone = 1; return 0; }
        while (n--)
            v = v << 8 | f->p[at++];
        return v;
    }

    /* insn: code, jt, jf, k as four words each. */
    static uint32_t fuzz_reference(const uint32_t *insn, const uint8_t *p, uint32_t caplen, uint32_t wirelen) {
        fuzz_frame f = {p, caplen, 0};
        uint32_t a = 0, x = 0, mem[16] = {0};
        for (;; insn += 4) {
            uint32_t k = insn[3], v = insn[0] & 8 ? x : k;
            int jump = -1;
            switch (insn[0]) {
            case 0x20: a = fuzz_get(&f, k, 4); break;
            case 0x28: a = fuzz_get(&f, k, 2); break;
            case 0x30: a = fuzz_get(&f, k, 1); break;
            case 0x40: a = fuzz_get(&f, (uint64_t)x + k, 4); break;
            case 0x48: a = fuzz_get(&f, (uint64_t)x + k, 2); break;
            case 0x50: a = fuzz_get(&f, (uint64_t)x + k, 1); break;
            case 0x80: a = wirelen; break;
            case 0x00: a = k; break;
            case 0x60: a = mem[k]; break;
            case 0x01: x = k; break;
            case 0x61: x = mem[k]; break;
            case 0x81: x = wirelen; break;
            case 0xb1: x = 4 * (fuzz_get(&f, k, 1) % 16); break;
            case 0x02: mem[k] = a; break;
            case 0x03: mem[k] = x; break;
            case 0x04: case 0x0c: a = (uint32_t)((uint64_t)a + v); break;
            case 0x14: case 0x1c: a = (uint32_t)((uint64_t)a + ~v + 1); break;
            case 0x24: case 0x2c: a = (uint32_t)((uint64_t)a * v); break;
            case 0x34: case 0x3c: if (!v) return 0; a = a / v; break;
            case 0x44: case 0x4c: a |= v; break;
            case 0x54: case 0x5c: a &= v; break;
            case 0x64: case 0x6c: a = v > 31 ? 0 : (uint32_t)((uint64_t)a << v); break;
            case 0x74: case 0x7c: a = v > 31 ? 0 : a >> v; break;
            case 0x84: case 0x8c: a = ~a + 1; break;
            case 0x94: case 0x9c: if (!v) return 0; a = a - a / v * v; break;
            case 0xa4: case 0xac: a = (a | v) & ~(a & v); break;
            case 0x05: insn += (uint64_t)4 * k; break;
            case 0x15: case 0x1d: jump = a == v; break;
            case 0x25: case 0x2d: jump = a > v; break;
            case 0x35: case 0x3d: jump = a >= v; break;
            case 0x45: case 0x4d: jump = (a & v) != 0; break;
            case 0x06: return k;
            case 0x16: return a;
            case 0x07: x = a; break;
            case 0x87: a = x; break;
            }
            if (f.gone)
                return 0;
            if (jump >= 0)
                insn += 4 * insn[jump ? 1 : 2];
        }
    }
    """
    uint32_t reference "fuzz_reference"(const uint32_t *insn, const uint8_t *p, uint32_t caplen, uint32_t wirelen) noexcept nogil


cdef void fill(bpf_insn_t *i, input_t *r, uint32_t left) noexcept nogil:
    """An instruction that verifies with `left` more behind it."""
    cdef uint32_t group, how
    i.code = codes[take(r, 1) % NCODES]
    how = take(r, 1)
    i.jt = i.jf = 0
    i.k = take(r, 4) if how & 0x80 else take(r, 1)
    group = i.code & 7
    if group < 2 and i.code & 0xe0 == 0x60 or group == 2 or group == 3:
        i.k &= 15
    elif group < 2 and i.code & 0xe0 in (0x20, 0x40, 0xa0):
        i.k &= 0x7fffffff
    elif (i.code == 0x34 or i.code == 0x94) and i.k == 0:
        i.k = 7
    elif i.code == 5:
        i.k = i.k % left
    elif group == 5:
        i.jt, i.jf = <uint8_t>((how >> 4 & 7) % left), <uint8_t>((how & 15) % left)


cdef bpf_insn_t *build(input_t *r, uint32_t *n) noexcept nogil:
    """The program in the rest of an input, exactly allocated; its last instruction returns."""
    cdef uint32_t i
    cdef bpf_insn_t *code
    n[0] = <uint32_t>min(r.left // 3 + 1, <size_t>LONGEST)
    code = <bpf_insn_t *>malloc(n[0] * sizeof(bpf_insn_t))
    for i in range(n[0] - 1):
        fill(&code[i], r, n[0] - 1 - i)
    code[n[0] - 1].code = 0x06 if take(r, 1) & 1 else 0x16
    code[n[0] - 1].jt = code[n[0] - 1].jf = 0
    code[n[0] - 1].k = take(r, 1)
    return code


cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil:
    cdef input_t r
    cdef uint32_t words[4 * LONGEST]
    cdef uint32_t n = 0, i, wirelen
    cdef size_t got
    cdef uint8_t *frame
    cdef bpf_t b
    r.p, r.left = data, size
    got = take(&r, 1)
    frame = piece(&r, &got)
    wirelen = <uint32_t>got + 10
    b.insn = build(&r, &n)
    b.linktype, b.n = 1, n
    for i in range(n):
        words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3] = b.insn[i].code, b.insn[i].jt, b.insn[i].jf, b.insn[i].k
    must(bpf_run(&b, frame, <uint32_t>got, wirelen) == reference(words, frame, <uint32_t>got, wirelen), "two machines agree")
    free(b.insn)
    free(frame)
    return 0


def program(bytes data not None):
    """The instructions that an input stands for, as mos.net.bpf.verify takes them."""
    cdef input_t r
    cdef uint32_t n = 0, i
    cdef size_t got
    r.p, r.left = <const uint8_t *><const char *>data, len(data)
    got = take(&r, 1)
    free(piece(&r, &got))
    cdef bpf_insn_t *code = build(&r, &n)
    found = [(code[i].code, code[i].jt, code[i].jf, code[i].k) for i in range(n)]
    free(code)
    return found


def replay(bytes data not None):
    """What of the first lines does not hold for this input, or None."""
    return held(one_input, data)
