r"""Train a flow network to align the cameras, with a frozen fusion network as one of the judges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ..cameras import SCALE, Transform, coarsen
from ..data.samples import MoviePairs, Number
from ..simulate.beamline import count
from ..simulate.recordings import TwoCameraMovie
from ._spatial import fit_transform


class Misaligned(NamedTuple):
    """A moment seen by cameras that are out of line; batches have one more axis.

    Attributes
    ----------
    lr : (3, 1, h, w) array
        Coarse frames before, at and after it, on the coarse camera's own grid.
    hr : (2, 1, 4h, 4w) array
        Key frames before and after it.
    centre : (1, 4h, 4w) array
        A sharp frame of the moment itself.
    tau : float
    flow : (2, h, w) array
        Where the coarse frame shows each place of the sharp grid: steps (x, y) in coarse pixels.
    valid : (1, h, w) array
        1 where that lies in the coarse frame, 0 elsewhere.
    """

    lr: np.ndarray
    hr: np.ndarray
    centre: np.ndarray
    tau: Number
    flow: np.ndarray
    valid: np.ndarray


class Misalignments:
    r"""Movies whose coarse camera is turned, stretched and shifted at random in every sample.

    Parameters
    ----------
    movies : sequence of TwoCameraMovie
        With their truth, both cameras on one grid.
    turn : float
        Largest rotation, in radians.
    stretch : float
        Largest change of the pixel size along x and along y, as a share of it.
    shift : float
        Largest shift of the middle of the field along x and along y, in sharp pixels.

    Notes
    -----
    The coarse frames are made from the noise-free sharp ones: blurred, looked up at 4 x 4 points in
    each coarse pixel where the transform puts it, averaged, and counted as photons. The transform
    is uniform in its four ranges.

    Examples
    --------
    >>> from helpers.xray.simulate import Experiment, simulate
    >>> movie = simulate(Experiment(shape=(32, 32), n_frames=11), seed=1007)
    >>> data = Misalignments([movie])
    >>> sample = data.draw(np.random.default_rng(0))
    >>> sample.lr.shape, sample.flow.shape
    ((3, 1, 8, 8), (2, 8, 8))
    """

    def __init__(
        self,
        movies: Sequence[TwoCameraMovie],
        *,
        turn: float = 0.05,
        stretch: float = 0.02,
        shift: float = 8.0,
    ) -> None:
        self.pairs = MoviePairs(movies)
        self.turn, self.stretch, self.shift = turn, stretch, shift

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, rng: np.random.Generator) -> Misaligned:
        """Give a random moment with a random transform, as `Misaligned`."""
        index = int(rng.integers(len(self.pairs)))
        return self.make(index, self.transform(rng), rng)

    def transform(self, rng: np.random.Generator) -> Transform:
        """Draw a transform."""
        height, width = self.pairs.movies[0].lr.shape[-2:]
        theta, *stretch = rng.uniform(-1, 1, 3) * [self.turn, self.stretch, self.stretch]
        sx, sy = (SCALE * (1 + s) for s in stretch)
        turned = Transform(float(theta), float(sx), float(sy), 0.0, 0.0)
        middle = np.array([width - 1, height - 1]) / 2
        shift = rng.uniform(-self.shift, self.shift, 2)
        tx, ty = SCALE * middle + (SCALE - 1) / 2 + shift - turned(middle)
        return Transform(float(theta), float(sx), float(sy), float(tx), float(ty))

    def make(self, index: int, transform: Transform, rng: np.random.Generator) -> Misaligned:
        """Give the moment of a sample as cameras with this transform record it."""
        number, t, _ = self.pairs.places[index]
        movie, sample = self.pairs.movies[number], self.pairs[index]
        photons = movie.experiment
        lr = count(misalign(movie.truth[t - 1 : t + 2], transform), photons.lr_photons, rng)
        centre = count(movie.truth[t], photons.hr_photons, rng)
        flow, valid = transform_to_flow(transform, lr.shape[-2:])
        return Misaligned(
            lr[:, None], sample.hr, centre[None], sample.tau, flow, valid[None].astype(np.float32)
        )


def transform_to_flow(
    transform: Transform, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Flow of a transform on the aligned coarse grid.

    Parameters
    ----------
    transform : Transform
    shape : (int, int)
        Coarse pixels (h, w).

    Returns
    -------
    flow : (2, h, w) float32 array
        Steps (x, y) in coarse pixels.
    valid : (h, w) bool array
        Where it leads into the coarse frame.

    Examples
    --------
    >>> flow, valid = transform_to_flow(Transform(tx=5.5), (2, 3))
    >>> flow[:, 0].tolist(), valid[0].tolist()
    ([[-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]], [False, True, True])
    """
    places, sharp = _grids(shape)
    found = transform.inverse(sharp)
    valid = np.all((found >= -0.5) & (found <= np.array(shape[::-1]) - 0.5), axis=-1)
    return np.moveaxis(found - places, -1, 0).astype(np.float32), valid


def flow_to_transform(flow: np.ndarray | torch.Tensor) -> Transform:
    r"""Fit the five numbers of a transform to a flow, robustly.

    Parameters
    ----------
    flow : (2, h, w) array or tensor
        Steps (x, y) in coarse pixels.

    Returns
    -------
    Transform

    Raises
    ------
    ValueError
        A flow that leads out of the coarse frame nearly everywhere.

    Notes
    -----
    A closed formula exists: slopes of x on x and of y on y, then a rotation. It holds only where
    x and y of the places are not correlated, on a whole rectangle, and one gross error spoils it.
    So the places that lead into the coarse frame go as pairs into
    `helpers.xray.calibrate.fit_transform`. See :doc:`/book/xray/02_calibrate`.

    Examples
    --------
    >>> turned = Transform(0.03, 4.05, 3.98, -4.0, 6.0)
    >>> found = flow_to_transform(transform_to_flow(turned, (24, 24))[0])
    >>> round(found.theta, 4), round(found.sx, 3), round(found.tx, 2)
    (0.03, 4.05, -4.0)
    """
    flow = np.asarray(flow.detach().cpu() if isinstance(flow, torch.Tensor) else flow, float)
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise ValueError(f"flow has shape {flow.shape}: give (2, h, w)")
    places, sharp = _grids(flow.shape[1:])
    found = places + np.moveaxis(flow, 0, -1)
    limits = np.array(flow.shape[:0:-1]) - 0.5
    inside = ((found >= -0.5) & (found <= limits)).all(-1)
    if inside.sum() < 12:
        raise ValueError("the flow leads out of the coarse frame: the cameras share no field")
    return fit_transform(found[inside], sharp[inside])[0]


def misalign(frames: np.ndarray, transform: Transform, sigma: float = 2.2) -> np.ndarray:
    """See sharp frames (N, Y, X) through a coarse camera of blur `sigma` sharp px, without noise.

    Beyond the border the frames go on as their last row.
    """
    blurred = torch.from_numpy(coarsen(np.asarray(frames, np.float32), sigma, scale=1))
    height, width = blurred.shape[-2:]
    y, x = ((np.arange(n) + 0.5) / SCALE - 0.5 for n in (height, width))
    points = transform(np.stack(np.meshgrid(x, y), axis=-1))
    grid = torch.from_numpy((2 * points + 1) / [width, height] - 1).float()
    seen = F.grid_sample(
        blurred[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return F.avg_pool2d(seen[0], SCALE).numpy()


def _grids(shape: Any) -> tuple[np.ndarray, np.ndarray]:
    """Coarse pixels (h, w, 2), x before y, and the centres of their places on the sharp grid."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    places = np.stack([x, y], axis=-1).astype(float)
    return places, SCALE * places + (SCALE - 1) / 2
