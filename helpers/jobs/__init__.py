"""Jobs: work from files to files, for the command ``cmx`` and for scripts.

A job is one typed function. Its signature and its docstring give the options of the command, its
help, the commented TOML file of ``cmx init`` and the check of such a file.
"""

from ._command import find

__all__ = ["find"]
