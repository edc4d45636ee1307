"""The stubs are worth something: a typed example passes mypy, and its one mistake is found."""
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EXAMPLE = HERE / "typing" / "handlers.py"


def test_typed_handlers_under_mypy():
    pytest.importorskip("mypy", reason="mypy is not installed: the typed example is not checked")
    result = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-incremental", str(EXAMPLE)],
                            capture_output=True, text=True, cwd=HERE.parent)
    wrong = {n for n, line in enumerate(EXAMPLE.read_text().splitlines(), 1) if "# wrong:" in line}
    found = {int(line.split(":")[1]) for line in result.stdout.splitlines() if ": error:" in line}
    assert found == wrong, result.stdout
