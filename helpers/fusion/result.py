"""What a fusion gives back, and how it is kept on disk."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import to_numpy
from ..io import files as io


@dataclass(frozen=True)
class Cost:
    """The terms that were minimised, at the start and after every iteration.

    Each is (n_iter + 1,) float64, or (B, n_iter + 1) for a batch, and carries its lambda, so that
    ``total = haadf + chem + tv``.
    """

    haadf: np.ndarray
    chem: np.ndarray
    tv: np.ndarray

    @property
    def total(self):
        """The sum of the three terms."""
        return self.haadf + self.chem + self.tv

    def __getitem__(self, name):
        return getattr(self, name)


@dataclass(frozen=True)
class Fusion:
    """Result of `helpers.fusion.fuse`.

    Attributes
    ----------
    maps : (..., E, H, W) array or tensor, or dict of (..., H, W)
        The fused maps, of the kind that was given.
    haadf : (..., H, W) array or tensor
        The HAADF image that the model expects from the fused maps.
    cost : Cost
        ``haadf``, ``chem``, ``tv`` and ``total``, at the start and after every iteration.
    converged : bool, or (B,) array of bool
        The total cost changed by less than the tolerance over the last ten iterations.
    n_iter : int, or (B,) array of int
        Iterations made.
    settings : dict
        Every setting of the run, as plain numbers and strings.
    """

    maps: Any
    haadf: Any
    cost: Cost
    converged: Any
    n_iter: Any
    settings: dict

    def save(self, folder, *, pixel_size=None, unit="nm", raw=None):
        """Write one tif per map, one for the HAADF, and ``fusion.h5`` with everything.

        Parameters
        ----------
        folder : path
            Made if it is not there. Files of the same names are replaced, and not before all
            their successors are whole on disk.
        pixel_size : float, optional
            Edge of a pixel, in `unit`.
        unit : str
            Unit of `pixel_size`.
        raw : dict of arrays, optional
            The measured images, kept beside the result in ``fusion.h5``.

        Returns
        -------
        pathlib.Path
            The path of ``fusion.h5``, which `Fusion.load` reads.

        Raises
        ------
        FileExistsError
            `folder` is a file.
        PermissionError
            The folder cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file: give the name of a folder")
        folder.mkdir(parents=True, exist_ok=True)
        names = self._names()
        maps = dict(zip(names, self._stack(), strict=True))
        tree = {
            "maps": maps,
            "haadf": to_numpy(self.haadf),
            "cost": {name: self.cost[name] for name in ("haadf", "chem", "tv", "total")},
            "converged": np.asarray(self.converged),
            "n_iter": np.asarray(self.n_iter),
        }
        if raw:
            tree["raw"] = {name: to_numpy(image) for name, image in raw.items()}
        attributes = {"settings": json.dumps(self.settings), "elements": json.dumps(names)}
        if pixel_size is not None:
            attributes |= {"pixel_size": float(pixel_size), "unit": unit}
        with ExitStack() as together:

            def place(name):
                return together.enter_context(io.atomic_path(folder / name))

            for name, image in {**maps, "haadf": tree["haadf"]}.items():
                io.save_tif(place(f"{name}.tif"), image, pixel_size=pixel_size, unit=unit)
            io.save_h5(place("fusion.h5"), tree, attributes)
        return folder / "fusion.h5"

    @classmethod
    def load(cls, path):
        """Read a fusion that `save` wrote.

        Parameters
        ----------
        path : path
            The folder, or its ``fusion.h5``.

        Returns
        -------
        Fusion
            With NumPy arrays; the maps are a dict if they were one.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            The file is not a fusion, or is damaged.
        """
        path = Path(path)
        path = path / "fusion.h5" if path.is_dir() else path
        tree, attributes = io.load_h5(path)
        missing = {"maps", "haadf", "cost", "settings", "elements"} - set(tree) - set(attributes)
        if missing:
            raise ValueError(f"{path} holds no fusion: it has no {', '.join(sorted(missing))}")
        settings = json.loads(attributes["settings"])
        names = json.loads(attributes["elements"])
        maps = {name: tree["maps"][name] for name in names}
        cost = Cost(*(tree["cost"][name] for name in ("haadf", "chem", "tv")))
        if settings["elements"] is None:
            maps = np.stack(list(maps.values()), axis=-3)
        converged, n_iter = np.asarray(tree["converged"]), np.asarray(tree["n_iter"])
        if not converged.ndim:
            converged, n_iter = bool(converged), int(n_iter)
        return cls(maps, tree["haadf"], cost, converged, n_iter, settings)

    def _names(self):
        if isinstance(self.maps, dict):
            return [str(key) for key in self.maps]
        return [f"map_{e}" for e in range(self.maps.shape[-3])]

    def _stack(self):
        if isinstance(self.maps, dict):
            return [to_numpy(m) for m in self.maps.values()]
        return list(np.moveaxis(to_numpy(self.maps), -3, 0))
