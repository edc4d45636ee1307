"""The extension modules, and what the C compiler needs to know. Metadata is in setup.cfg."""
import os

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = [
    "mos.io.parse", "mos.io.pcap", "mos.io.writer",
    "mos.net.decode", "mos.net.frag", "mos.net.bpf",
    "mos.flow.table", "mos.flow.wheel", "mos.flow.view",
    "mos.tcp.classify", "mos.tcp.track", "mos.tcp.reasm",
    "mos.events.views", "mos.events.bus", "mos.events.filtervm",
    "mos.state.slots", "mos.nf", "mos.stack",
    "mbox.ids",
]
DIRECTIVES = dict(language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False,
                  nonecheck=False, auto_pickle=False, embedsignature=True, binding=True)
DEBUG = bool(os.environ.get("MOS_DEBUG"))   # bounds and invariants checked, no optimiser
CFLAGS = ["-O0", "-g"] if DEBUG else ["-O3", "-fno-strict-aliasing", "-fno-plt"]
if DEBUG:
    DIRECTIVES.update(boundscheck=True, nonecheck=True)


def extension(name):
    path = name.replace(".", "/") + ".pyx"
    return Extension(name, [path], extra_compile_args=CFLAGS, define_macros=[("MOS_DEBUG", str(int(DEBUG)))])


setup(ext_modules=cythonize(
    [extension(name) for name in MODULES if os.path.exists(name.replace(".", "/") + ".pyx")],
    compiler_directives=DIRECTIVES, build_dir="build/cython", nthreads=0 if DEBUG else os.cpu_count() or 1))
