"""`pip install --no-build-isolation .`: compiled against the mos that is installed, and found by `mos run quota`."""
from Cython.Build import cythonize
from setuptools import setup

setup(name="quota", version="1.0", install_requires=["mosbox"], ext_modules=cythonize("quota.pyx"),
      entry_points={"mos.middleboxes": ["quota = quota:Quota"]})
