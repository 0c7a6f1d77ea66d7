"""Tables of molecules in files: CSV for every other program, HDF5 for many rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .files import atomic_path, load_h5, save_h5

CSV, H5 = (".csv",), (".h5", ".hdf5")


def save_table(path, table, attributes=None):
    """Save a table of molecules, at once or not at all.

    Parameters
    ----------
    path : str or Path
        Ends with ``.csv``: one line for each molecule under a line of names, with every digit. Ends
        with ``.h5``: one data set for each column, in the group `molecules`.
    table : structured array or dict of arrays
        Columns of one length, such as `helpers.renderer.detect.localize` gives.
    attributes : dict, optional
        Numbers and strings for the HDF5 file, such as the pixel size.

    Raises
    ------
    ValueError
        Another ending, attributes for a CSV file, no column, or columns of different lengths.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "molecules.csv"
    >>> save_table(path, {"frame": np.array([0, 3]), "x": np.array([1.5, -2.25])})
    >>> path.read_text().split()
    ['frame,x', '0,1.5', '3,-2.25']
    >>> load_table(path)["x"].tolist()
    [1.5, -2.25]
    """
    kind = _kind(path)
    names = list(table.dtype.names if isinstance(table, np.ndarray) else table)
    columns = {name: np.asarray(table[name]) for name in names}
    lengths = {name: column.shape for name, column in columns.items()}
    if not columns or len(set(lengths.values())) > 1 or columns[names[0]].ndim != 1:
        raise ValueError(f"columns have the shapes {lengths}: give some, of one length")
    if kind in H5:
        save_h5(path, {"columns": names, "molecules": columns}, attributes)
        return
    if attributes:
        raise ValueError("a CSV file has no place for attributes: save to .h5, or leave them out")
    # Python's own text of a number is the shortest that reads back as the same number
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = [",".join(map(str, row)) for row in rows]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([",".join(names), *lines]) + "\n", encoding="utf-8")


def load_table(path):
    """Load a table of molecules.

    Parameters
    ----------
    path : str or Path
        A file of `save_table`, or any CSV file of numbers under a line of names.

    Returns
    -------
    structured array

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, another ending, or a file that is not a whole table.
    """
    if _kind(path) in H5:
        tree = load_h5(path)[0]
        if not {"columns", "molecules"} <= set(tree):
            raise ValueError(f"{path} is no table of molecules: it holds {', '.join(tree)}")
        names = list(tree["columns"])
        return np.rec.fromarrays([tree["molecules"][name] for name in names], names=names)
    text = Path(path).read_text(encoding="utf-8")
    names, *lines = text.splitlines() or [""]
    names = [name.strip() for name in names.split(",")]
    broken = [k for k, line in enumerate(lines, 2) if line.count(",") != len(names) - 1]
    if broken or not text.endswith("\n"):
        where = broken[0] if broken else len(lines) + 1
        raise ValueError(f"{path} is not a whole table (line {where}): it may be cut off")
    if not lines:
        return np.rec.fromarrays([np.zeros(0)] * len(names), names=names)
    table = np.genfromtxt(lines, delimiter=",", names=names, dtype=None, encoding="utf-8")
    return np.atleast_1d(table).view(np.recarray)


def _kind(path):
    kind = Path(path).suffix.lower()
    if kind not in CSV + H5:
        raise ValueError(f"{path} ends with {kind!r}: use .csv or .h5")
    return kind
