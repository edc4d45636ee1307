"""What users may rely on: names at run time, in __all__ and in the stubs agree; importing the package costs little."""
import ast
import importlib
import inspect
import json
import subprocess
import sys
import types

import pytest
from source_tree import ROOT

PUBLIC = [m for m in ("mos", "mos.events", "mos.errors", "mos.testing")
          if (ROOT / m.replace(".", "/")).is_dir() or (ROOT / f"{m.replace('.', '/')}.py").is_file()]

# What `import mos` may not pull in: each is slow to load, starts something, or is wanted by few.
HEAVY = {"argparse", "asyncio", "concurrent", "ctypes", "decimal", "distutils", "email", "hashlib", "http", "importlib.metadata",
         "logging", "mbox", "multiprocessing", "numpy", "pcapy", "pickle", "pkg_resources", "random", "rich", "setuptools",
         "socket", "sqlite3", "ssl", "subprocess", "tempfile", "unittest", "urllib.request", "uvloop", "xml", "zstandard"}
STDLIB_AT_MOST = 80     # modules; dataclasses, typing, pathlib and what they import are 64


def names_at_run_time(module):
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return set(listed)
    return {n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", None) == module.__name__}


def names_in_stub(path):
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.module != "typing":
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.AnnAssign):
            found.add(node.target.id)
    return {n for n in found if not n.startswith("_")}


@pytest.mark.parametrize("name", PUBLIC)
def test_names_exist_and_are_documented(name):
    module = importlib.import_module(name)
    assert not name.startswith("mos.") or inspect.getdoc(module), f"{name} says nothing of itself"
    bare = []
    for public in names_at_run_time(module):
        value = getattr(module, public)
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) and not inspect.getdoc(value):
            bare.append(public)
    assert not bare, f"{name}: without a docstring: {bare}"


@pytest.mark.parametrize("name", PUBLIC)
def test_all_lists_every_public_name(name):
    module = importlib.import_module(name)
    held = {n for n, v in vars(module).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)
            and str(getattr(v, "__module__", "")).split(".")[0] in {"mos", "mbox"}}
    assert held <= names_at_run_time(module), f"not in {name}.__all__: {sorted(held - names_at_run_time(module))}"


@pytest.mark.parametrize("name", [n for n in PUBLIC if (ROOT / n.replace(".", "/") / "__init__.pyi").is_file()])
def test_stub_names_the_same(name):
    stub = names_in_stub(ROOT / name.replace(".", "/") / "__init__.pyi")
    assert names_at_run_time(importlib.import_module(name)) <= stub


def test_import_is_light():
    """No event loop, no plug-ins, nothing outside the standard library, and little of that."""
    ask = ("import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]); import mos; import json; "
           "print(json.dumps(sorted(set(sys.modules) - before - {'json'})))")
    ran = subprocess.run([sys.executable, "-S", "-E", "-c", ask, str(ROOT)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    loaded = {m for m in json.loads(ran.stdout) if not m.startswith("json")}
    heavy = {m for m in loaded if m in HEAVY or m.split(".")[0] in HEAVY}
    assert not heavy, f"import where it is used instead: {sorted(heavy)}"
    others = {m for m in loaded if m.split(".")[0] != "mos"}
    assert len(others) <= STDLIB_AT_MOST, sorted(others)
