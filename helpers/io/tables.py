"""Tables of molecules in files: CSV and HDF5, and those of Picasso, ThunderSTORM and Parquet.

Columns have the names of `helpers.renderer.detect.localize`: `x`, `y` in px from the centre of the
frame, the middle of a single pixel or the corner of four, and depths `z` in µm. Other programs have
depths in nm, and count from elsewhere:

- Picasso in px from the centre of the first pixel,
- ThunderSTORM in nm from the outer corner of the first pixel, frames from 1.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import __version__
from .._arrays import Array
from ._formats import _package, read_yaml
from .files import atomic_path, load_h5, save_h5

if TYPE_CHECKING:
    import pandas

Columns: TypeAlias = dict[str, np.ndarray]
CSV, H5, PARQUET = (".csv",), (".h5", ".hdf5"), (".parquet",)
FORMATS = {"picasso": H5, "thunderstorm": CSV}
ORIGIN = "x, y in px from the centre of the frame"
CORNER = "x_nm, y_nm in nm from the outer corner of the first pixel"
# our names and those of other programs; lengths are in px and become nm for ThunderSTORM
PICASSO = {
    "photons": "photons",
    "background": "bg",
    "x_std": "lpx",
    "y_std": "lpy",
    "z": "z",
    "z_std": "lpz",
    "sigma_x": "sx",
    "sigma_y": "sy",
}
THUNDERSTORM = {
    "sigma": "sigma [nm]",
    "sigma_x": "sigma1 [nm]",
    "sigma_y": "sigma2 [nm]",
    "photons": "intensity [photon]",
    "background": "offset [photon]",
    "z": "z [nm]",
    "z_std": "uncertainty_z [nm]",
}
DEPTHS = "z", "z_std"  # µm here, nm in other programs


def save_table(
    path: str | Path,
    table: np.ndarray | Mapping[str, Array] | pandas.DataFrame,
    attributes: Mapping[str, Any] | None = None,
    *,
    format: str | None = None,
    pixel_size: float | None = None,
    shape: tuple[int, int] | None = None,
    frames: int | None = None,
) -> None:
    """Save a table of molecules, at once or not at all.

    Parameters
    ----------
    path : str or Path
        Ends with ``.csv``: one line for each molecule under a line of names, with every digit. Ends
        with ``.h5``: one data set for each column, in the group `molecules`. Ends with
        ``.parquet``: the columns, and with `pixel_size` and `shape` also `x_nm`, `y_nm` from the
        outer corner of the first pixel.
    table : structured array, dict of arrays or DataFrame
        Columns of one length, such as `helpers.renderer.detect.localize` gives.
    attributes : dict, optional
        Numbers and strings for the file, such as the pixel size. For Picasso and ThunderSTORM
        ``{"sigma": 1.3}`` is the width of all molecules in px where it was not fitted.
    format : str, optional
        "picasso" for ``.hdf5`` with its ``.yaml``, "thunderstorm" for ``.csv``; left out, our own.
    pixel_size : float, optional
        Of the camera, in nm; for ThunderSTORM, and for Picasso's display.
    shape : (int, int), optional
        (Y, X) of a frame, from whose centre `x` and `y` count; needed by the other programs.
    frames : int, optional
        Length of the movie, for Picasso; one more than the last frame of the table if left out.

    Raises
    ------
    ValueError
        Another ending, attributes that the file has no place for, no column, columns of different
        lengths, or no pixel size or shape where one is needed.

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
    path, attributes = Path(path), dict(attributes or {})
    kind = _kind(path, format)
    names = list((table.dtype.names or ()) if isinstance(table, np.ndarray) else table)
    columns = {name: np.asarray(table[name]) for name in names}
    lengths = {name: column.shape for name, column in columns.items()}
    if not columns or len(set(lengths.values())) > 1 or columns[names[0]].ndim != 1:
        raise ValueError(f"columns have the shapes {lengths}: give some, of one length")
    if format is not None:
        _check_exchange(columns, format, pixel_size, shape)
    if format == "picasso":
        _save_picasso(path, columns, attributes, pixel_size, shape, frames)
    elif kind in H5:
        known = {"origin": ORIGIN, "pixel_size_nm": pixel_size, "frame_shape": shape}
        known = {name: value for name, value in known.items() if value is not None}
        save_h5(path, {"columns": names, "molecules": columns}, known | attributes)
    elif kind in PARQUET:
        _save_parquet(path, columns, attributes, pixel_size, shape)
    else:
        if format == "thunderstorm":
            columns = _with_sigma(columns, attributes)
            columns = _to_thunderstorm(columns, pixel_size, shape)
        if attributes:
            raise ValueError(
                "a CSV file has no place for attributes: save to .h5, or leave them out"
            )
        _save_csv(path, columns, quoted=format is not None)


def load_table(
    path: str | Path,
    *,
    pixel_size: float | None = None,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Load a table of molecules.

    Parameters
    ----------
    path : str or Path
        A file of `save_table`, of Picasso (``.hdf5`` beside its ``.yaml``) or of ThunderSTORM
        (``.csv``), or any CSV file of numbers under a line of names.
    pixel_size : float, optional
        nm; needed for a file of ThunderSTORM.
    shape : (int, int), optional
        (Y, X) of a frame; needed for a file of ThunderSTORM.

    Returns
    -------
    structured array
        With the columns of `helpers.renderer.detect.localize` as far as the file has them: `x`,
        `y` in px from the centre of the frame, frames from 0.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, another ending, or a file that is not a whole table.
    """
    path = Path(path)
    kind = _kind(path, None)
    if kind in PARQUET:
        return _load_parquet(path)
    if kind in H5:
        if picasso := _load_picasso(path):
            return _records(picasso)
        tree = load_h5(path)[0]
        if not {"columns", "molecules"} <= set(tree):
            raise ValueError(f"{path} is no table of molecules: it holds {', '.join(tree)}")
        return _records({name: tree["molecules"][name] for name in tree["columns"]})
    columns = _load_csv(path)
    if {"x [nm]", "y [nm]"} <= set(columns):
        _check_exchange({"frame", "x", "y"}, "thunderstorm", pixel_size, shape)
        columns = _from_thunderstorm(columns, pixel_size, shape)
    return _records(columns)


def _kind(path: Path, format: str | None) -> str:
    kind = path.suffix.lower()
    known = FORMATS.get(format, CSV + H5 + PARQUET) if format is not None else CSV + H5 + PARQUET
    if format is not None and format not in FORMATS:
        raise ValueError(f"format is {format!r}: use {', '.join(FORMATS)}, or leave it out")
    if kind not in known:
        raise ValueError(f"{path} ends with {kind!r}: use {' or '.join(known)}")
    return kind


def _check_exchange(
    columns: Collection[str], format: str, pixel_size: float | None, shape: Sequence[int] | None
) -> None:
    if missing := {"frame", "x", "y"} - set(columns):
        raise ValueError(f"the table has no {', '.join(sorted(missing))}: {format} needs them")
    if shape is None or len(shape) != 2:
        raise ValueError(f"{format} counts from a corner of the frame: give its shape=(Y, X)")
    if format == "thunderstorm" and not (pixel_size or 0) > 0:
        raise ValueError("thunderstorm has positions in nm: give the camera's pixel_size= in nm")


def _records(columns: Mapping[str, np.ndarray]) -> np.recarray:
    return np.rec.fromarrays(list(columns.values()), names=list(columns))  # type: ignore[call-overload]


def _centre(shape: Sequence[int]) -> tuple[float, float]:
    """X and y of the frame's centre from the centre of its first pixel."""
    return (shape[1] - 1) / 2, (shape[0] - 1) / 2


def _with_sigma(columns: Columns, attributes: dict[str, Any]) -> Columns:
    """Columns with a known width of all molecules as one more; taken out of the attributes."""
    sigma = attributes.pop("sigma", None)
    if sigma is None or {"sigma", "sigma_x"} & set(columns):
        return columns
    return columns | {"sigma": np.full(len(columns["frame"]), float(sigma))}


def _save_picasso(
    path: Path,
    columns: Columns,
    attributes: dict[str, Any],
    pixel_size: float | None,
    shape: Any,
    frames: int | None,
) -> None:
    import h5py

    rest = _with_sigma(dict(columns), attributes)
    frame = rest.pop("frame").astype("u4")
    middle = _centre(shape)
    found = {"frame": frame}
    found |= {a: (rest.pop(a) + m).astype("f4") for a, m in zip("xy", middle, strict=True)}
    if "sigma" in rest:
        rest["sigma_x"] = rest["sigma_y"] = rest.pop("sigma")
    for ours, theirs in PICASSO.items():
        if ours in rest:
            scale = 1000 if ours in DEPTHS else 1
            found[theirs] = (rest.pop(ours) * scale).astype("f4")
    found |= {name: column for name, column in rest.items() if column.dtype.kind in "iufb"}
    last = int(frame.max()) + 1 if len(frame) else 1
    info: dict[str, Any] = {"Width": int(shape[1]), "Height": int(shape[0])}
    info |= {"Frames": last if frames is None else int(frames)}
    info |= {} if pixel_size is None else {"Pixelsize": float(pixel_size)}
    made = {"Generated by": f"helpers {__version__}", **attributes}
    if pixel_size is not None:
        made["Pixelsize"] = float(pixel_size)
    text = "---\n".join(
        "".join(f"{name}: {json.dumps(value)}\n" for name, value in document.items())
        for document in (info, made)
    )
    with atomic_path(path) as temporary, atomic_path(path.with_suffix(".yaml")) as described:
        described.write_text(text, encoding="utf-8")
        with h5py.File(temporary, "w") as file:
            file["locs"] = _records(found)


def _load_picasso(path: Path) -> Columns | None:
    """Columns of a file of Picasso; None if it is not one."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("locs"), h5py.Dataset):
                return None
            locs = file["locs"][()]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: check the name and the folder") from None
    except OSError:
        return None  # `load_h5` says what is broken
    info: dict[str, Any] = {}
    for document in read_yaml(path.with_suffix(".yaml"), f"{path} is a table of Picasso"):
        info = document | info
    try:
        middle = _centre((int(info["Height"]), int(info["Width"])))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.with_suffix('.yaml')} does not say {error} of a frame") from error
    columns = {name: locs[name] for name in locs.dtype.names}
    for axis, m in zip("xy", middle, strict=True):
        columns[axis] = columns[axis].astype(float) - m
    ours = {theirs: name for name, theirs in PICASSO.items()}
    found = {ours.get(name, name): column for name, column in columns.items()}
    return found | {name: found[name] / 1000 for name in DEPTHS if name in found}


def _to_thunderstorm(columns: Columns, pixel_size: Any, shape: Any) -> Columns:
    rest = dict(columns)
    found = {"id": np.arange(1, len(rest["frame"]) + 1), "frame": rest.pop("frame") + 1}
    for axis, m in zip("xy", _centre(shape), strict=True):
        found[f"{axis} [nm]"] = (rest.pop(axis) + m + 0.5) * pixel_size
    for ours, theirs in THUNDERSTORM.items():
        if ours in rest:
            found[theirs] = rest.pop(ours) * _scale(ours, theirs, pixel_size)
    if {"x_std", "y_std"} <= set(rest):
        squares = (rest.pop("x_std") ** 2 + rest.pop("y_std") ** 2) / 2
        found["uncertainty_xy [nm]"] = np.sqrt(squares) * pixel_size
    return found | {name: column for name, column in rest.items() if column.dtype.kind in "iufb"}


def _scale(ours: str, theirs: str, pixel_size: float) -> float:
    """A column of ThunderSTORM over ours: µm and px become nm."""
    if ours in DEPTHS:
        return 1000.0
    return pixel_size if theirs.endswith("[nm]") else 1.0


def _from_thunderstorm(columns: Columns, pixel_size: Any, shape: Any) -> Columns:
    rest = dict(columns)
    rest.pop("id", None)
    found = {"frame": np.asarray(rest.pop("frame")).astype(int) - 1}
    for axis, m in zip("xy", _centre(shape), strict=True):
        found[axis] = rest.pop(f"{axis} [nm]") / pixel_size - m - 0.5
    for ours, theirs in THUNDERSTORM.items():
        if theirs in rest:
            found[ours] = rest.pop(theirs) / _scale(ours, theirs, pixel_size)
    for name in ("uncertainty_xy [nm]", "uncertainty [nm]"):
        if name in rest:
            found["x_std"] = found["y_std"] = rest.pop(name) / pixel_size
    return found | rest


def _save_parquet(
    path: Path,
    columns: Columns,
    attributes: dict[str, Any],
    pixel_size: float | None,
    shape: Sequence[int] | None,
) -> None:
    parquet = _package("pyarrow.parquet", path, "pyarrow")
    import pyarrow

    notes: dict[str, Any] = {"origin": ORIGIN, "helpers_version": __version__}
    if pixel_size is not None and shape is not None:
        for axis, m in zip("xy", _centre(shape), strict=True):
            columns = columns | {f"{axis}_nm": (columns[axis] + m + 0.5) * pixel_size}
        notes["origin"] = f"{ORIGIN}; {CORNER}"
    notes |= {"pixel_size_nm": pixel_size, "frame_shape": shape} | attributes
    notes = {name: value for name, value in notes.items() if value is not None}
    table = pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()})
    table = table.replace_schema_metadata({"molecules": json.dumps(notes)})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)


def _load_parquet(path: Path) -> np.recarray:
    parquet = _package("pyarrow.parquet", path, "pyarrow")
    import pyarrow

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the name and the folder")
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file ({error}): save it again") from error
    return _records({name: table[name].to_numpy() for name in table.column_names})


def _save_csv(path: Path, columns: Columns, quoted: bool) -> None:
    # Python's own text of a number is the shortest that reads back as the same number
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = [",".join(map(str, row)) for row in rows]
    head = ",".join(f'"{name}"' if quoted else name for name in columns)
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


def _load_csv(path: Path) -> Columns:
    text = Path(path).read_text(encoding="utf-8")
    head, *lines = text.splitlines() or [""]
    names = [name.strip().strip('"') for name in head.split(",")]
    broken = [k for k, line in enumerate(lines, 2) if line.count(",") != len(names) - 1]
    if broken or not text.endswith("\n"):
        where = broken[0] if broken else len(lines) + 1
        raise ValueError(f"{path} is not a whole table (line {where}): it may be cut off")
    if not lines:
        return {name: np.zeros(0) for name in names}
    plain = [f"c{k}" for k in range(len(names))]  # names of other programs have spaces
    table = np.genfromtxt(lines, delimiter=",", names=plain, dtype=None, encoding="utf-8")
    table = np.atleast_1d(table)
    return {name: table[column] for name, column in zip(names, plain, strict=True)}
