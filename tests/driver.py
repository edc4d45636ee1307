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
    [Extension({name!r}, [{source!r}], extra_compile_args={flags!r}, extra_link_args={flags!r})],
    build_dir={out!r}, quiet=True, include_path=[{beside!r}],
    compiler_directives=dict(language_level=3, cdivision=True, embedsignature=False)))
"""


def built(path, flags=None, cc=None):
    """The library of tests/<path>.pyx. Raises CalledProcessError with the compiler's text if it does not compile."""
    flags = os.environ.get("MOS_CFLAGS", "").split() if flags is None else flags
    source = ROOT / "tests" / f"{path}.pyx"
    digest = hashlib.sha256(repr((flags, cc)).encode())
    for part in [source, *sorted(source.parent.glob("*.pxd")), *sorted((ROOT / "mos").rglob("*.pxd"))]:
        digest.update(part.read_bytes())
    out = ROOT / "build" / "tests" / f"{source.stem}-{digest.hexdigest()[:16]}"
    library = out / (source.stem + sysconfig.get_config_var("EXT_SUFFIX"))
    if not library.exists():
        code = BUILD.format(out=str(out), name=source.stem, source=os.path.relpath(source, ROOT),
                            beside=str(source.parent), flags=flags)
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
                       env=os.environ | ({"CC": cc} if cc else {}))
    return library


def load(path):
    """The module of tests/<path>.pyx. Raises like `built`."""
    library = built(path)
    spec = importlib.util.spec_from_file_location(Path(path).name, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
