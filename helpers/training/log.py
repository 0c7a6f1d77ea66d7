r"""Record of a training: its folder, its pictures, and its curves read back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ..datasets import cache_folder

PACKAGE = Path(__file__).resolve().parents[1]


def runs_folder(folder: str | Path | None = None) -> Path:
    """Choose where runs are written: `folder`, else ``HELPERS_RUNS_DIR``, else the user's cache.

    A folder inside the package is an error: what is installed stays as it is.

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


def side_by_side(images: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Image, expected image and what is left, a row for each, in one grey scale (1, rows, columns).

    Of a volume the brightest along z is shown.

    Examples
    --------
    >>> import torch
    >>> side_by_side(torch.rand(4, 8, 9), torch.rand(4, 8, 9)).shape
    torch.Size([1, 32, 27])
    """
    rows = []
    for image, guess in zip(images, expected, strict=True):
        low, high = image.amin(), image.amax()
        shown = [image, guess, image - guess + low]
        shown = [(part - low) / (high - low).clamp(min=1e-12) for part in shown]
        rows.append(torch.cat([part.amax(0) if part.ndim == 3 else part for part in shown], 1))
    return torch.cat(rows).clamp(0, 1)[None].cpu()


def read_curves(folder: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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
    The same that ``tensorboard --logdir`` shows. Event files hold values in single precision. Each
    process that goes on with a run writes a file of its own; what is in an earlier one from the
    step on at which a later one begins was made again, and is left out. The order is that of the
    steps: names of the files are times of whole seconds, and clocks differ.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = Path(folder)
    files = list(folder.glob("events.out.tfevents.*"))
    if not files:
        raise FileNotFoundError(f"{folder} has no event file: give the folder of one run")
    parts = []
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        scalars = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
        made = [event for each in scalars.values() for event in each]
        if made:
            first = min((event.step, event.wall_time) for event in made)
            parts.append((first, scalars))
    parts.sort(key=lambda part: part[0])
    ends = [first for (first, _), _ in parts[1:]] + [np.inf]
    curves: dict[str, list[tuple[int, float]]] = {}
    for end, (_, scalars) in zip(ends, parts, strict=True):
        for name, events in scalars.items():
            curves.setdefault(name, []).extend((e.step, e.value) for e in events if e.step < end)
    return {
        name: (np.array([step for step, _ in points]), np.array([value for _, value in points]))
        for name, points in curves.items()
        if points
    }
