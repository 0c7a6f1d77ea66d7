"""Tilt angles and alignments of a tilt series, in the text files of IMOD."""

from __future__ import annotations

from pathlib import Path

import numpy as np

TILTS = (".tlt", ".rawtlt")


def load_tilt_angles(path: str | Path) -> np.ndarray:
    r"""Load the tilt angles of a series, in the order of its images.

    Parameters
    ----------
    path : str or Path
        ``.tlt`` or ``.rawtlt``: one angle a line. An ``.mrc`` file of a microscope that writes
        them in front of the images. An ``.xf`` file has no tilts but the alignment
        of each image (`load_alignment`): then the angles are those of the ``.tlt`` or ``.rawtlt``
        with its name, and there must be as many.

    Returns
    -------
    array (N,)
        In degrees, float64.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, another ending, a line that is no angle, or not as many angles as
        alignments.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "series.rawtlt"
    >>> _ = path.write_text("-60.0\n-57.5\n")
    >>> load_tilt_angles(path)
    array([-60. , -57.5])
    """
    path = Path(path)
    if path.suffix.lower() == ".xf":
        n_images = len(load_alignment(path))
        beside = [path.with_suffix(end) for end in TILTS]
        found = next((p for p in beside if p.exists()), None)
        if found is None:
            names = " or ".join(p.name for p in beside)
            raise FileNotFoundError(f"{path} has alignments, no tilts: put {names} beside it")
        angles = load_tilt_angles(found)
        if len(angles) != n_images:
            raise ValueError(f"{found} has {len(angles)} angles but {path.name} {n_images} images")
        return angles
    if path.suffix.lower() == ".mrc":
        return _from_header(path)
    if path.suffix.lower() not in TILTS:
        raise ValueError(f"{path}: give a file that ends on {', '.join((*TILTS, '.xf', '.mrc'))}")
    angles = _numbers(path, 1)[:, 0]
    if (np.abs(angles) > 180).any():
        raise ValueError(f"{path} has the angle {angles[np.abs(angles) > 180][0]:g}: degrees?")
    return angles


def _from_header(path: Path) -> np.ndarray:
    """Angles of the first FEI format: for each image 32 numbers, the first of them the tilt."""
    with open(path, "rb") as file:
        header = file.read(1024)
        if len(header) < 1024:
            raise ValueError(f"{path} stops within its header: copy it again")
        n, size = int(np.frombuffer(header, "<i4", 1, 8)[0]), np.frombuffer(header, "<i4", 1, 92)
        extended = file.read(int(size[0]))
    known = header[104:108].strip(b"\0 ") == b"" and len(extended) >= 128 * n > 0
    angles = np.frombuffer(extended, "<f4")[: 32 * n : 32].astype(float) if known else np.zeros(1)
    if not known or not np.isfinite(angles).all() or np.abs(angles).max() > 180 or not angles.any():
        raise ValueError(
            f"{path} has no tilts that can be read in front of its images: give a .tlt or .rawtlt"
        )
    return angles


def load_alignment(path: str | Path) -> np.ndarray:
    """Load the alignment of each image of a series from an ``.xf`` file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    array (N, 2, 3)
        ``[A | d]`` of each image, in px and from its centre: what lies at p in the image lies at
        ``A @ p + d`` in the aligned one.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, or a line without six numbers.
    """
    rows = _numbers(Path(path), 6)
    return np.concatenate([rows[:, :4].reshape(-1, 2, 2), rows[:, 4:, None]], axis=2)


def _numbers(path: Path, n: int) -> np.ndarray:
    """Rows of n finite numbers of a text file; lines without anything are left out."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the name and the folder")
    rows = []
    for k, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        if not line.strip():
            continue
        if len(row) != n or not np.isfinite(row).all():
            what = "an angle" if n == 1 else f"{n} numbers"
            raise ValueError(f"{path}, line {k} is {line.strip()!r}: {what} is expected")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty: one line an image is expected")
    return np.array(rows)
