"""`pip install --no-build-isolation .`: compiled against the mos that is installed."""
from Cython.Build import cythonize
from setuptools import setup

setup(name="quota", version="1.0", install_requires=["mosbox"], ext_modules=cythonize("quota.pyx"))
