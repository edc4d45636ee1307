"""The extension modules, and what the C compiler needs to know. Metadata is in setup.cfg."""
import os

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = [
    "mos.io.port", "mos.io.pcap", "mos.io.writer",
    "mos.net.decode", "mos.net.frag", "mos.net.bpf",
    "mos.flow.table", "mos.flow.wheel", "mos.flow.view",
    "mos.tcp.track", "mos.tcp.reasm",
    "mos.events.views", "mos.events.bus", "mos.events.filtervm",
    "mos.state.slots", "mos.core", "mos.segment", "mos.lifetime", "mos.stack",
    "mbox.ids", "mbox.volume",
]
DIRECTIVES = dict(language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False,
                  nonecheck=False, auto_pickle=False, embedsignature=True, binding=True)
DEBUG = bool(os.environ.get("MOS_DEBUG"))   # bounds and invariants checked, no optimiser
BASE = "build/debug" if DEBUG else "build"  # apart: objects are reused by date, whatever flags made them
CFLAGS = ["-O0", "-g"] if DEBUG else ["-O3", "-g0", "-fno-strict-aliasing", "-fno-plt", "-Wno-sign-compare"]
CFLAGS = os.environ.get("MOS_CFLAGS", "").split() or CFLAGS    # of tests/sanitize/build, which builds in a tree of its own
# GCC gives up putting functions into one another where a module has many, but the run loop is to be of one piece.
ONE_PIECE = {"mos.stack": ["--param=inline-unit-growth=300", "--param=large-function-growth=2000",
                           "--param=large-stack-frame-growth=10000", "--param=max-inline-insns-single=3000"]}
if DEBUG:
    DIRECTIVES.update(boundscheck=True)     # nonecheck raises, which code without the GIL cannot


def extension(name):
    path = name.replace(".", "/") + ".pyx"
    return Extension(name, [path], extra_compile_args=CFLAGS + ONE_PIECE.get(name, []),
                     define_macros=[("MOS_DEBUG", str(int(DEBUG)))])


def landed(name):
    path = name.replace(".", "/") + ".pyx"
    if not os.path.exists(path):
        print(f"setup.py: {name} is listed but {path} is not there: not built")
    return os.path.exists(path)


if __name__ == "__main__":      # worker processes import this file again where processes are spawned
    cores = os.cpu_count() or 1
    setup(ext_modules=cythonize([extension(name) for name in MODULES if landed(name)], compiler_directives=DIRECTIVES,
                                build_dir=f"{BASE}/cython", nthreads=0 if DEBUG else cores),
          options={"build": {"build_base": BASE}, "build_ext": {"parallel": cores}})
