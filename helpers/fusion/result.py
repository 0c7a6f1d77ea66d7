"""Result of a fusion, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import Array, to_numpy
from ..io import files as io
from ..io._calibration import is_labelled, labelled

HDF5 = b"\x89HDF\r\n\x1a\n"  # the first bytes of every such file


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
    def total(self) -> np.ndarray:
        """The sum of the three terms."""
        return self.haadf + self.chem + self.tv

    def __getitem__(self, name: str) -> np.ndarray:
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

    maps: Array | dict[str, Array]
    haadf: Array
    cost: Cost
    converged: bool | np.ndarray
    n_iter: int | np.ndarray
    settings: dict[str, Any]

    def save(
        self,
        folder: str | Path,
        *,
        pixel_size: float | None = None,
        unit: str = "nm",
        raw: Mapping[str, Array] | None = None,
    ) -> Path:
        """Write one tif per map, one for the HAADF, and ``fusion.h5`` with everything.

        Parameters
        ----------
        folder : path
            Made if it is not there. Files of the same names are replaced, and not before all
            their successors are whole on disk; the maps of an earlier fusion whose elements this
            one has not are removed.
        pixel_size : float, optional
            Edge of a pixel, in `unit`. Left out, that of the DataArrays that were fused.
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
        ValueError
            An element whose key cannot be the name of a file.
        FileExistsError
            `folder` is a file.
        PermissionError
            The folder cannot be made or written.
        """
        if pixel_size is None and is_labelled(self.haadf):
            known = labelled(self.haadf)[2]
            pixel_size, unit = known.pixel_size, known.unit
        maps = dict(zip(self._names(), self._stack(), strict=True))
        tree: dict[str, Any] = {
            "maps": maps,
            "haadf": to_numpy(self.haadf),
            "cost": {name: self.cost[name] for name in ("haadf", "chem", "tv", "total")},
            "converged": np.asarray(self.converged),
            "n_iter": np.asarray(self.n_iter),
        }
        if raw:
            tree["raw"] = {name: to_numpy(image) for name, image in raw.items()}
        attributes = {"settings": json.dumps(self.settings)}
        return write(folder, maps, tree["haadf"], tree, attributes, pixel_size, unit)

    def export_guide(self, folder: str | Path, *, raw: Mapping[str, Array]) -> Path:
        """Write the files of the guide's `save_data`, for programs that read them.

        ``haadf_recon.tif``, ``<element>_signal.tif`` and ``Fused_Reconstruction.h5`` with
        ``raw_haadf`` and ``fused_haadf`` (flat), ``raw_<element>``, ``fused_<element>``,
        ``costHAADF``, ``costChem``, ``costTV``, ``lambdaHAADF``, ``lambdaChem``, ``lambdaTV`` and
        ``gamma``.

        Parameters
        ----------
        folder : path
            Made if it is not there.
        raw : dict of arrays
            What was fused: ``"haadf"`` and one map for each element.

        Returns
        -------
        pathlib.Path
            The path of ``Fused_Reconstruction.h5``.

        Raises
        ------
        ValueError
            A batch, an image missing in `raw`, or a key that cannot be the name of a file.

        Notes
        -----
        The curves are the terms without their lambdas, the second with the guide's sign, which
        rises as the fit gets better. Background, iterations and weights have no place in that
        layout: `save` keeps everything.
        """
        if self.cost.total.ndim != 1:
            raise ValueError("the guide's files hold one field: export those of a batch one by one")
        names = self._names()
        check_file_names(names)
        if missing := [name for name in ("haadf", *names) if name not in raw]:
            raise ValueError(f"raw lacks {', '.join(missing)}: give what was fused, and 'haadf'")
        folder = made_folder(folder)
        maps = dict(zip(names, self._stack(), strict=True))
        lambdas = {k: self.settings[f"lambda_{k.lower()}"] for k in ("haadf", "chem", "tv")}
        tree: dict[str, Any] = {
            "raw_haadf": to_numpy(raw["haadf"]).ravel(),
            "fused_haadf": to_numpy(self.haadf).ravel(),
            "gamma": np.asarray(self.settings["gamma"]),
        }
        for key, sign in {"HAADF": 1, "Chem": -1, "TV": 1}.items():
            weight = np.asarray(lambdas[key.lower()])
            tree[f"lambda{key}"] = weight
            # With one lambda for each element the curve keeps them.
            by = float(weight) if weight.ndim == 0 and weight > 0 else 1.0
            tree[f"cost{key}"] = (sign * self.cost[key.lower()] / by).astype(np.float32)
        for name, image in maps.items():
            tree |= {f"raw_{name}": to_numpy(raw[name]), f"fused_{name}": image}
        with ExitStack() as together:

            def place(name: str) -> Path:
                return together.enter_context(io.atomic_path(folder / name))

            io.save_tif(place("haadf_recon.tif"), to_numpy(self.haadf))
            for name, image in maps.items():
                io.save_tif(place(f"{name}_signal.tif"), image)
            io.save_h5(place("Fused_Reconstruction.h5"), tree)
        return folder / "Fused_Reconstruction.h5"

    @classmethod
    def load(cls, path: str | Path) -> Fusion:
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
        if path.is_file() and path.suffix not in (".h5", ".hdf5") and _head(path) != HDF5:
            raise ValueError(f"{path} is no HDF5 file: give fusion.h5, or its folder")
        tree, attributes = io.load_h5(path)
        missing = {"maps", "haadf", "cost", "settings", "elements"} - set(tree) - set(attributes)
        if missing:
            raise ValueError(f"{path} holds no fusion: it has no {', '.join(sorted(missing))}")
        settings = json.loads(attributes["settings"])
        names = json.loads(attributes["elements"])
        maps = {name: tree["maps"][name] for name in names}
        cost = Cost(*(tree["cost"][name] for name in ("haadf", "chem", "tv")))
        kept: Any = maps
        if settings["elements"] is None:
            kept = np.stack(list(maps.values()), axis=-3)
        converged: Any = np.asarray(tree["converged"])
        n_iter: Any = np.asarray(tree["n_iter"])
        if not converged.ndim:
            converged, n_iter = bool(converged), int(n_iter)
        return cls(kept, tree["haadf"], cost, converged, n_iter, settings)

    def _names(self) -> list[str]:
        if isinstance(self.maps, dict):
            return [str(key) for key in self.maps]
        return [f"map_{e}" for e in range(self.maps.shape[-3])]

    def _stack(self) -> list[np.ndarray]:
        if isinstance(self.maps, dict):
            return [to_numpy(m) for m in self.maps.values()]
        return list(np.moveaxis(to_numpy(self.maps), -3, 0))


def made_folder(folder: str | Path) -> Path:
    """Make a folder of results, if it is not there."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give the name of a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(f"the folder {folder} cannot be made: {error}") from error
    return folder


def write(
    folder: str | Path,
    maps: Mapping[str, np.ndarray],
    haadf: np.ndarray,
    tree: Mapping[str, Any],
    attributes: Mapping[str, Any],
    pixel_size: float | None,
    unit: str,
) -> Path:
    """Write a tif for each map and the HAADF, and ``fusion.h5``, in place of an earlier fusion."""
    names = list(maps)
    check_file_names(names)
    folder = made_folder(folder)
    earlier = elements_of(folder / "fusion.h5")
    attributes = {**attributes, "elements": json.dumps(names)}
    if pixel_size is not None:
        attributes |= {"pixel_size": float(pixel_size), "unit": unit}
    with ExitStack() as together:  # all files or none

        def place(name: str) -> Path:
            return together.enter_context(io.atomic_path(folder / name))

        for name, image in {**maps, "haadf": haadf}.items():
            io.save_tif(place(f"{name}.tif"), image, pixel_size=pixel_size, unit=unit)
        io.save_h5(place("fusion.h5"), tree, attributes)
    for name in set(earlier) - set(names):
        (folder / f"{name}.tif").unlink(missing_ok=True)
    return folder / "fusion.h5"


def check_file_names(names: list[str]) -> None:
    """Refuse what would lie outside the folder, or take the place of another file."""
    taken = {"haadf", "fusion"}
    for name in names:
        if not name or name.startswith(".") or set(name) & set('/\\:*?"<>|\0'):
            raise ValueError(f"the map {name!r} cannot be saved: its key must be a file's name")
        if name.casefold() in taken:
            raise ValueError(f"the map {name!r} would take the place of another file: rename it")
        taken.add(name.casefold())


def elements_of(path: Path) -> list[str]:
    """Elements of a fusion that was saved here before; none if there is none, or it is damaged."""
    try:
        names = json.loads(io.load_h5(path)[1]["elements"])
        check_file_names(names)
        return names
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(HDF5))
