"""Builds a test's own Cython module beside the extension modules' build products, once per content."""
import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = """
from Cython.Build import cythonize
from setuptools import Extension, setup
setup(script_args=["build_ext", "-q", "--build-lib", {out!r}, "--build-temp", {out!r}], ext_modules=cythonize(
    [Extension({name!r}, [{source!r}], extra_compile_args={flags!r})], build_dir={out!r}, quiet=True, include_path=[{beside!r}],
    compiler_directives=dict(language_level=3, cdivision=True, embedsignature=False)))
"""


def load(path):
    """The module of tests/<path>.pyx. Raises CalledProcessError with the compiler's text if it does not compile."""
    source = ROOT / "tests" / f"{path}.pyx"
    name = source.stem
    digest = hashlib.sha256()
    for path in [source, *sorted(source.parent.glob("*.pxd")), *sorted((ROOT / "mos").rglob("*.pxd"))]:
        digest.update(path.read_bytes())
    out = ROOT / "build" / "tests" / f"{name}-{digest.hexdigest()[:16]}"
    library = out / (name + sysconfig.get_config_var("EXT_SUFFIX"))
    if not library.exists():
        code = BUILD.format(out=str(out), name=name, source=os.path.relpath(source, ROOT), beside=str(source.parent),
                            flags=os.environ.get("MOS_CFLAGS", "").split())
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    spec = importlib.util.spec_from_file_location(name, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
