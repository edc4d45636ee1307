"""Imported by every interpreter under tests/sanitize/run, so that all of them are under the sanitizers, and nothing else.

capinfos hangs with AddressSanitizer's runtime, so what is started has none but by ../python, which is sys.executable.
UndefinedBehaviorSanitizer writes where `log_path` says: beside AddressSanitizer it does not by itself, since the call that sets
the file reaches only the first of the two libraries.
"""
import ctypes
import os
import re
import sys
from pathlib import Path

os.environ.pop("LD_PRELOAD", None)
os.environ["MOS_PYTHON"] = sys.executable
sys.executable = str(Path(__file__).parent.parent / "python")
where = re.search(r"\blog_path=([^:]+)", os.environ.get("UBSAN_OPTIONS", ""))
if where:
    ctypes.CDLL(os.environ["MOS_UBSAN"]).__sanitizer_set_report_path(where[1].encode())
