"""The package behind the book: mathematics on the ground floor, one package per method.

Importing it is cheap: torch, numba and matplotlib are loaded by the modules that use them.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("computational-microscopy-helpers")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
