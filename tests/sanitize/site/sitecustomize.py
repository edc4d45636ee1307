"""Imported by every interpreter under tests/sanitize/run: UndefinedBehaviorSanitizer writes where `log_path` says.

Beside AddressSanitizer it does not by itself: the call that sets the file reaches the first of the two libraries only.
"""
import ctypes
import os
import re

where = re.search(r"\blog_path=([^:]+)", os.environ.get("UBSAN_OPTIONS", ""))
if where:
    ctypes.CDLL(os.environ["MOS_UBSAN"]).__sanitizer_set_report_path(where[1].encode())
