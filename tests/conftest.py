"""What all tests share: where captures and second opinions are, and a last line about what was not checked without them."""
import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from installation import installed, sdist, wheel  # noqa: F401 - fixtures
from namespaces import bed  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parent.parent
# Programs that a test starts elsewhere run this tree too, not a copy that happens to be installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

# A shell without job control starts background jobs with Ctrl-C ignored, and what they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, so that a red run is red for its change; HYPOTHESIS_PROFILE=explore looks further. No deadline:
# under a sanitizer, or on a busy machine, an example may take a second.
settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

CORPORA = Path(os.environ.get("MOS_CORPORA") or ROOT.parent / "shared" / "corpora")
NO_CORPORA = "no captures with known answers: set MOS_CORPORA to their directory"
NO_TSHARK = "no tshark: apt-get install tshark"


@pytest.fixture(scope="session")
def corpora():
    """Directory of captures that others have answered."""
    if not (CORPORA / "index.json").is_file():
        pytest.skip(NO_CORPORA)
    return CORPORA


@pytest.fixture(scope="session")
def tshark():
    """Path of tshark, the second opinion."""
    path = shutil.which("tshark")
    if path is None:
        pytest.skip(NO_TSHARK)
    return path


def pytest_terminal_summary(terminalreporter):
    absent = [reason for reason, there in ((NO_CORPORA, (CORPORA / "index.json").is_file()),
                                           (NO_TSHARK, shutil.which("tshark"))) if not there]
    skipped = len(terminalreporter.stats.get("skipped", ()))
    if absent or skipped:
        terminalreporter.section("NOT CHECKED", sep="!", yellow=True, bold=True)
        for reason in absent:
            terminalreporter.line(reason, yellow=True, bold=True)
        terminalreporter.line(f"{skipped} skipped, each named below with its reason", yellow=True)
