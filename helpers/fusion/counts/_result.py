"""Result of a fusion of counts, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...io import files as io
from ..result import write
from ._choose import Score


@dataclass(frozen=True)
class CountFusion:
    """Result of `helpers.fusion.fuse_counts`.

    Attributes
    ----------
    maps : dict of (H, W) float32 array
        Expected counts of each element, without background. Their sum is that of the net counts.
    background : dict of (H, W) array
        Expected counts that do not belong to the element.
    totals : dict of (float, float)
        Net counts of the field and their standard error: that of the counts, and that of the
        background where it was estimated.
    weights : dict of dict of float
        For each element, the candidates that were mixed and their weights.
    score : dict of dict of Score
        For each element, ``gain`` and standard ``error``, in nats, of the log-likelihood of counts
        that no candidate saw, over that of a "flat" map and of the best "Gaussian" filter.
    haadf : (H, W) array
        Sum of the maps and a constant that explains the HAADF best, in its unit.
    unexplained : (H, W) array
        HAADF minus `haadf`: noise, thickness and channelling, or an element without a map.
    settings : dict
        Every setting of the run, as plain numbers and strings, and where the background is from.
    counts : dict of (H, W) array
        The counts that were given.
    image : (H, W) array
        The HAADF that was given.
    """

    maps: dict[str, np.ndarray]
    background: dict[str, np.ndarray]
    totals: dict[str, tuple[float, float]]
    weights: dict[str, dict[str, float]]
    score: dict[str, dict[str, Score]]
    haadf: np.ndarray
    unexplained: np.ndarray
    settings: dict[str, Any]
    counts: dict[str, np.ndarray]
    image: np.ndarray

    def composition(
        self, factors: Mapping[str, float] | None = None
    ) -> dict[str, tuple[float, float]]:
        r"""Share of each element in the field, and its standard error.

        Parameters
        ----------
        factors : dict of float, optional
            Amount that one net count stands for: Cliff-Lorimer factors. Default: 1, which gives
            shares of the counts.

        Returns
        -------
        dict of (float, float)
            Shares, which add up to one, in the unit of the factors (atoms or weight).

        Raises
        ------
        ValueError
            A factor that is missing or not above 0, or no net counts at all.

        Notes
        -----
        :math:`c_e = k_e N_e / \sum_j k_j N_j` :cite:p:`cliff1975`; errors are those of the counts
        alone, to first order. Factors have errors of their own, often ten percent.
        """
        k = dict.fromkeys(self.totals, 1.0) if factors is None else factors
        if missing := [name for name in self.totals if name not in k]:
            raise ValueError(f"factors lack {missing}: give one for each of {list(self.totals)}")
        if bad := [name for name in self.totals if not 0 < k[name] < np.inf]:
            raise ValueError(f"the factors of {bad} are {[k[b] for b in bad]}: give one above 0")
        amount = {name: k[name] * net for name, (net, _) in self.totals.items()}
        total = sum(amount.values())
        if not total > 0:
            raise ValueError("there are no net counts: the background takes all of them")
        share = {name: a / total for name, a in amount.items()}
        variance = {
            name: (k[name] * error / total) ** 2 for name, (_, error) in self.totals.items()
        }
        every = sum(variance.values())
        return {
            name: (c, float(np.sqrt((1 - 2 * c) * variance[name] + c**2 * every)))
            for name, c in share.items()
        }

    def save(
        self, folder: str | Path, *, pixel_size: float | None = None, unit: str = "nm"
    ) -> Path:
        """Write one tif per map, one for the HAADF, and ``fusion.h5`` with everything.

        Parameters
        ----------
        folder : path
            Made if it is not there; the files of an earlier fusion in it are replaced.
        pixel_size : float, optional
            Edge of a pixel, in `unit`.
        unit : str
            Unit of `pixel_size`.

        Returns
        -------
        pathlib.Path
            The path of ``fusion.h5``, which `CountFusion.load` reads.

        Raises
        ------
        ValueError
            An element whose key cannot be the name of a file.
        FileExistsError
            `folder` is a file.
        PermissionError
            The folder cannot be made or written.
        """
        tree = {name: getattr(self, name) for name in _ARRAYS}
        attributes = {name: json.dumps(getattr(self, name)) for name in _PLAIN}
        maps = {name: image.astype(np.float32) for name, image in self.maps.items()}
        haadf = self.haadf.astype(np.float32)
        return write(folder, maps, haadf, tree, attributes, pixel_size, unit)

    @classmethod
    def load(cls, path: str | Path) -> CountFusion:
        """Read what `save` wrote, from the folder or its ``fusion.h5``.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            The file is not a fusion of counts, or is damaged.
        """
        path = Path(path)
        path = path / "fusion.h5" if path.is_dir() else path
        tree, attributes = io.load_h5(path)
        if missing := ({*_ARRAYS, *_PLAIN, "elements"} - set(tree) - set(attributes)):
            raise ValueError(
                f"{path} holds no fusion of counts: it has no {', '.join(sorted(missing))}; "
                "Fusion.load reads that of fuse"
            )
        names = json.loads(attributes["elements"])
        found = {name: tree[name] for name in _ARRAYS}
        for name, value in found.items():
            if isinstance(value, dict):
                found[name] = {element: value[element] for element in names}
        plain = {name: json.loads(attributes[name]) for name in _PLAIN}
        plain["totals"] = {name: tuple(value) for name, value in plain["totals"].items()}
        plain["score"] = {
            name: {over: Score(*value) for over, value in each.items()}
            for name, each in plain["score"].items()
        }
        return cls(**found, **plain)


_ARRAYS = ("maps", "background", "haadf", "unexplained", "counts", "image")
_PLAIN = ("totals", "weights", "score", "settings")
