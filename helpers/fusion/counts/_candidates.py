r"""Candidates: estimates of the expected counts in each pixel, of four kinds.

Gaussian filters; a probe basis; total variation, with and without the HAADF; and regressions of
the counts on patches. Each kind that uses the HAADF has a partner that does not, because a HAADF
cannot tell elements of like brightness apart. Their judge is in ``_choose``; the page
:doc:`/book/fusion/06_counts` derives them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Container, Iterable
from typing import NamedTuple, cast

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from ..model import calibrate_weights
from ..solver import fuse

GAUSSIANS = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 6.0, 10.0)  # px
PROBES = (1.5, 2.2, 2.8, 4.0)  # px
STEPS = (4, 12, 40)
CONTINUUM = 0.03  # of the mean count: what comes from no place that a probe sees sharply
TRUSTS = (0.0, 1 / 3, 3.0)  # in the HAADF
LAMBDAS = (0.003, 0.01, 0.03, 0.1)
RIDGES = (0.1, 1.0, 10.0, 100.0, 1000.0)
N_FEATURES = 400
_QUIET = threading.Lock()


class Patches(NamedTuple):
    """Patches of an image: pixels along an edge, distance between them, components kept."""

    edge: int
    step: int
    n: int


NEAR, WIDE = Patches(7, 1, 10), Patches(7, 4, 24)


class Regression(NamedTuple):
    """Names of a regression's inputs: patches of the HAADF, and of maps estimated before."""

    haadf: Patches | None
    pilot: tuple[float, int] | None  # probe and steps
    weight: float = 1.0  # of the pilot maps, where that of the HAADF is 1
    edge: int = 1  # of the pilots' patches

    def __str__(self) -> str:
        parts = []
        if self.haadf:
            parts.append("HAADF near" if self.haadf is NEAR else "HAADF wide")
        if self.pilot:
            probe, steps = self.pilot
            parts.append(f"{self.weight:g} x maps of {probe:g} px, {steps} steps, edge {self.edge}")
        return f"regression on {' and '.join(parts)}"


REGRESSIONS = (
    Regression(WIDE, None),
    Regression(WIDE, (2.8, 40), 0.1),
    Regression(NEAR, (2.8, 40), 0.3),
    Regression(NEAR, (2.2, 4), 0.3, 5),
    Regression(None, (2.8, 40)),
)


def uses_haadf(name: str) -> bool:
    """Tell whether the candidate of this name looks at the HAADF."""
    return name.startswith(("fusion", "regression on HAADF"))


def candidates(
    counts: np.ndarray, haadf: np.ndarray | None, wanted: Container[str] | None = None
) -> dict[str, np.ndarray]:
    """Every candidate, or at least those that are wanted, by name.

    Parameters
    ----------
    counts : (E, H, W) float32 array
        Counts.
    haadf : (H, W) float32 array or None
        HAADF; None leaves out the candidates that use it.
    wanted : container of str, optional
        Names of candidates; the others are made only where these need them.

    Returns
    -------
    dict of (E, H, W) float32 arrays
        Expected counts, background included. Those of a regression may be negative here and there.
    """

    def is_wanted(names: Iterable[str]) -> bool:
        return wanted is None or any(name in wanted for name in names)

    mean = counts.mean((1, 2), keepdims=True)
    found = {"flat": np.broadcast_to(mean, counts.shape)}
    for width in GAUSSIANS:
        if is_wanted([name := f"Gaussian {width:g} px"]):
            found[name] = gaussian_filter(counts, (0, width, width))

    used = [r for r in REGRESSIONS if haadf is not None or r.haadf is None]
    used = [
        r for r in used if is_wanted(n for ridge in RIDGES for n in _regression_names(r, ridge))
    ]
    pilots = {_probe_name(*r.pilot) for r in used if r.pilot}
    for width in PROBES:
        names = {steps: _probe_name(width, steps) for steps in STEPS}
        needed = [steps for steps, name in names.items() if name in pilots or is_wanted([name])]
        if needed:
            for steps, estimate in probe_basis(counts, width, needed).items():
                found[names[steps]] = estimate

    for trust in TRUSTS if haadf is not None else TRUSTS[:1]:
        kind = f"fusion, HAADF x {trust:.2g}" if trust else "total variation"
        by_name = {f"{kind}, lambda {value:g}": value for value in LAMBDAS}
        by_name = {name: value for name, value in by_name.items() if is_wanted([name])}
        if by_name:
            estimates = tv_fusions(counts, haadf, trust, list(by_name.values()))
            found |= dict(zip(by_name, estimates, strict=True))

    seen: dict[Patches, np.ndarray] = {}
    if haadf is not None:
        seen = {p: patch_features(gaussian_filter(haadf, 1.5 * (p is WIDE))[None], p)
                for p in {r.haadf for r in used if r.haadf}}  # fmt: skip
    for r in used:
        z = [seen[r.haadf]] if r.haadf else []
        if r.pilot:
            pilot = found[_probe_name(*r.pilot)]
            pilot = pilot / np.maximum(pilot.std((1, 2), keepdims=True), 1e-9)
            z.append(r.weight * patch_features(pilot, Patches(r.edge, 1, 8)))
        ridges = [ridge for ridge in RIDGES if is_wanted(_regression_names(r, ridge))]
        for ridge, estimate in zip(ridges, regress(counts, np.hstack(z), ridges), strict=True):
            plain, rest = _regression_names(r, ridge)
            found[plain] = estimate
            if is_wanted([rest]):
                # Slow changes that the patches do not show.
                found[rest] = estimate + gaussian_filter(counts - estimate, (0, 3, 3))
    return found


def _probe_name(width: float, steps: int) -> str:
    return f"probe {width:g} px, {steps} steps"


def _regression_names(r: Regression, ridge: float) -> tuple[str, str]:
    name = f"{r}, ridge {ridge:g}"
    return name, f"{name}, and the rest"


def probe_basis(counts: np.ndarray, width: float, steps: Iterable[int]) -> dict[int, np.ndarray]:
    """Amplitudes that are not negative, seen through a Gaussian probe, after each of `steps`.

    Expectation maximisation for Poisson counts, stopped early. It is `helpers.lucy` for a blur
    that is two small matrices, which is the fastest way here.
    """
    down, across = (_blur(n, width) for n in counts.shape[-2:])
    mean = np.maximum(counts.mean((1, 2), keepdims=True), 1e-9)
    amplitude = np.broadcast_to(mean, counts.shape)
    reach = down.T @ np.ones_like(counts) @ across
    found = {}
    for step in range(1, max(steps) + 1):
        expected = down @ amplitude @ across.T + CONTINUUM * mean
        amplitude = amplitude * (down.T @ (counts / expected) @ across) / reach
        if step in steps:
            found[step] = down @ amplitude @ across.T + CONTINUUM * mean
    return found


def _blur(n: int, width: float) -> np.ndarray:
    """Matrix of a Gaussian filter along one axis; its transpose is the adjoint, rims included."""
    return cast(np.ndarray, gaussian_filter1d(np.eye(n, dtype=np.float32), width, axis=0))


def tv_fusions(
    counts: np.ndarray, haadf: np.ndarray | None, trust: float, lambdas: Iterable[float]
) -> list[np.ndarray]:
    """`helpers.fusion.fuse` with gamma 1 and calibrated weights, for each weight of the TV."""
    scale = 4 * float(counts.mean())
    maps = counts / scale
    h, weights = np.zeros(counts.shape[1:], np.float32), np.ones(len(counts))
    # The filters of warnings belong to all threads, and replicates run in several.
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of units and saturation: said once, before
        if haadf is not None and trust:
            smooth = gaussian_filter(maps, (0, 2, 2)) - CONTINUUM
            fit = calibrate_weights(haadf, np.maximum(smooth, 0), gamma=1, smooth=1)
            h, weights = haadf - np.float32(fit.offset), fit.weights
        return [
            (cast(np.ndarray, result.maps) + CONTINUUM) * scale
            for value in lambdas
            for result in [fuse(
                h, maps, [1] * len(counts), gamma=1, weights=weights, lambda_haadf=trust,
                lambda_tv=value, background=CONTINUUM, n_iter=30, device="cpu",
            )]
        ]  # fmt: skip


def patch_features(images: np.ndarray, patches: Patches) -> np.ndarray:
    """Principal components of the patch around every pixel, (H W, n), of spread 1 in all."""
    edge, step, n = patches
    reach = edge // 2 * step
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    offsets = range(0, edge * step, step)
    shifted = [
        image[i : i + height, j : j + width].ravel()
        for image in padded
        for i in offsets
        for j in offsets
    ]
    x = np.stack(shifted, axis=1)
    x = x - x.mean(0)
    x = x @ np.linalg.eigh(x.T @ x)[1][:, ::-1][:, :n]
    return cast(np.ndarray, x / np.sqrt(max(x.var(0).sum(), 1e-12)))


def regress(counts: np.ndarray, z: np.ndarray, ridges: Iterable[float]) -> list[np.ndarray]:
    r"""Ridge regression of the counts on random Fourier features of `z`, for each of `ridges`.

    The features :math:`\cos(\omega^T z + b)` stand for a Gaussian kernel :cite:p:`rahimi2007`.
    Pixels with like patches get like counts, wherever they are: an average over the whole field.
    """
    # The features are fixed, not random from call to call: counts alone decide.
    rng = np.random.default_rng(0)
    reach = 1.2 * np.sqrt(2 * max(z.var(0).sum(), 1e-12))
    omega = rng.normal(size=(z.shape[1], N_FEATURES)) / reach
    phase = rng.uniform(0, 2 * np.pi, N_FEATURES)
    # In place: new room for so many numbers takes longer than their cosines.
    features = z @ omega.astype(np.float32)
    features += phase.astype(np.float32)
    np.cos(features, out=features)
    features *= np.float32(np.sqrt(2 / N_FEATURES))
    y = counts.reshape(len(counts), -1)
    mean = y.mean(1, keepdims=True)
    values, vectors = np.linalg.eigh((features.T @ features).astype(float))
    right = vectors.T @ (features.T @ (y - mean).T)
    plain = []
    for ridge in ridges:
        by_feature = vectors @ (right / (np.maximum(values, 0) + ridge)[:, None])
        estimate = mean + (features @ by_feature.astype(np.float32)).T
        plain.append(estimate.reshape(counts.shape))
    return plain
