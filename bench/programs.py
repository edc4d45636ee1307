"""What is compiled for a run, and what else has to be installed."""
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARIES = {"nids": ["-lnids", "-lpcap"]}
INSTALL = {"nids": "apt install libnids-dev", "tshark": "apt install tshark", "calls": "pip install Cython"}


class Programs:
    """Compiles into `folder`. `missing` is {what: why it is not there}."""

    def __init__(self, folder):
        self.folder = folder
        self.missing = {}
        folder.mkdir(parents=True, exist_ok=True)

    def c(self, name):
        """The path of bench/NAME.c's program, compiled if its source is newer; None if it cannot be."""
        source, program = HERE / f"{name}.c", self.folder / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            words = ["cc", "-O3", "-march=native", "-o", program, source, *LIBRARIES.get(name, [])]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                self.missing[name] = INSTALL.get(name) or done.stderr.strip()
                return None
        return program

    def cython(self, name):
        """Compile bench/NAME.pyx as a module in the folder; its name, or None."""
        source = HERE / f"{name}.pyx"
        built = list(self.folder.glob(f"{name}.*.so"))
        if not built or built[0].stat().st_mtime < source.stat().st_mtime:
            shutil.copy(source, self.folder)
            done = subprocess.run([sys.executable, "-m", "Cython.Build.Cythonize", "-q", "-i", f"{name}.pyx"], cwd=self.folder,
                                  capture_output=True, text=True)
            if done.returncode:
                self.missing[name] = INSTALL[name]
                return None
        return name

    def module(self, name):
        """Whether Python finds `name`."""
        if importlib.util.find_spec(name) is None:
            self.missing[name] = f"pip install {name}"
            return False
        return True

    def command(self, name):
        if shutil.which(name) is None:
            self.missing[name] = INSTALL[name]
            return False
        return True
