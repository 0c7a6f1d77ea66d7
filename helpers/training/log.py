r"""Where a training keeps its record, how it is judged, and how the record is read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..datasets import cache_folder

PACKAGE = Path(__file__).resolve().parents[1]


def runs_folder(folder=None):
    """Choose where runs are written.

    Parameters
    ----------
    folder : str or Path, optional

    Returns
    -------
    Path
        `folder`, else the environment variable ``HELPERS_RUNS_DIR``, else ``runs`` in the user's
        cache, which has its place on every system.

    Raises
    ------
    ValueError
        The folder is inside the package: what is installed stays as it is.

    Examples
    --------
    >>> runs_folder("my_runs").name
    'my_runs'
    """
    chosen = folder or os.environ.get("HELPERS_RUNS_DIR") or cache_folder() / "runs"
    chosen = Path(chosen).expanduser().resolve()
    if chosen.is_relative_to(PACKAGE):
        raise ValueError(
            f"runs would be written to {chosen}, inside the package: give another folder, or set "
            "HELPERS_RUNS_DIR"
        )
    return chosen


def side_by_side(images, expected):
    """Image, expected image and what is left, a row for each, in one grey scale (1, rows, columns).

    Parameters
    ----------
    images, expected : tensor (B, Y, X) or (B, Z, Y, X)
        Of a volume the brightest along z is shown.

    Examples
    --------
    >>> import torch
    >>> side_by_side(torch.rand(4, 8, 9), torch.rand(4, 8, 9)).shape
    torch.Size([1, 32, 27])
    """
    import torch

    rows = []
    for image, guess in zip(images, expected, strict=True):
        low, high = image.amin(), image.amax()
        shown = [image, guess, image - guess + low]
        shown = [(part - low) / (high - low).clamp(min=1e-12) for part in shown]
        rows.append(torch.cat([part.amax(0) if part.ndim == 3 else part for part in shown], 1))
    return torch.cat(rows).clamp(0, 1)[None].cpu()


def read_curves(folder):
    """Read the curves of a run back from its event files.

    Parameters
    ----------
    folder : str or Path
        Of one run, such as ``Training.folder``.

    Returns
    -------
    dict
        By name, such as ``"loss"`` or ``"metric/x"``: (steps, values), two arrays.

    Raises
    ------
    FileNotFoundError
        There is no event file.

    Notes
    -----
    The same that ``tensorboard --logdir`` shows. Event files hold values in single precision.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = Path(folder)
    if not any(folder.glob("events.out.tfevents.*")):
        raise FileNotFoundError(f"{folder} has no event file: give the folder of one run")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    curves = {}
    for name in events.Tags()["scalars"]:
        scalars = events.Scalars(name)
        steps = np.array([event.step for event in scalars])
        curves[name] = steps, np.array([event.value for event in scalars])
    return curves
