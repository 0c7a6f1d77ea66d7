"""Result of a pupil retrieval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..._arrays import to_numpy
from ..._deprecated import renamed_attribute
from ...optics._zernike import disc
from ...optics.pupil import Pupil
from ..mle.goodness import deviance_moments, standardized_deviance
from ._checks import GAUGE, PLACE
from .bundle_adjustment import Bundle


@dataclass(frozen=True)
class PupilFit:
    """Result of `retrieve` and `retrieve_from_blinks`: wavefront, places, bounds, goodness.

    Attributes
    ----------
    pupil : Pupil
        The instrument with the retrieved Zernikes, ready for a renderer.
    coefficients : dict of int -> float
        OSA index -> waves RMS, of the modes that were fitted.
    covariance : (K, K) array
        Cramér-Rao bound on the covariance of the coefficients, in their order, waves squared.
        Everything else that was fitted counts as unknown.
    crlb_std : dict
        Standard deviations by the Cramér-Rao bound: by OSA index in waves, and by name for x, y,
        z, photons, background.
    wavefront : (M, M) array
        In waves, NaN outside the pupil; whatever the pupil was given is included.
    x, y, z : float, or array (B,) for several emitters
        In px from the image centre; in µm, on top of the z of the planes.
    photons, background : float, or array (B,)
        Photo-electrons in each image, and in each pixel. With `each_plane` (P,), or (B, P).
    deviance : float, or array (B,)
        Twice the log-likelihood lost against a model that explains every pixel.
    goodness : float, or array (B,)
        How far that is from what noise alone gives, in standard deviations.
    expected : array
        The images as the fit explains them, in the shape of the data.
    gauge : dict of int -> float
        OSA index -> waves RMS at which the mode was held, because x, y, z or nothing at all does
        the same: piston, tilts, defocus.
    n_masked : int
        Pixels that were left out, by the mask or as saturated.
    saturation : float or None
        The level from which pixels were left out as saturated.
    converged : bool
        The next step would be shorter than `tol`.
    n_iter : int
        Steps tried.
    blur, blur_std : float
        Standard deviation in px of the blur beyond the pupil, and its bound: 0 where it was given.
    misfit : float
        Root mean square of what the fit leaves, over that of the light: what noise does not
        explain is the model's.
    history : (n_iter + 1,) array
        Deviance of everything, before each step and at the end.
    settings : dict
        What the fit ran with.
    """

    pupil: Pupil
    coefficients: dict
    covariance: np.ndarray
    crlb_std: dict[int | str, Any]
    wavefront: np.ndarray
    x: float | np.ndarray
    y: float | np.ndarray
    z: float | np.ndarray
    photons: float | np.ndarray
    background: float | np.ndarray
    deviance: float | np.ndarray
    goodness: float | np.ndarray
    expected: np.ndarray = field(repr=False)
    gauge: dict
    n_masked: int
    saturation: float | None
    converged: bool
    n_iter: int
    history: np.ndarray = field(repr=False)
    settings: dict = field(repr=False)
    blur: float = 0.0
    blur_std: float = 0.0
    misfit: float = math.nan

    crlb = renamed_attribute("crlb_std")

    @property
    def crlb_rms(self) -> float:
        """Least wavefront error to expect: root of the summed variances, in waves RMS."""
        return math.sqrt(np.trace(self.covariance))


def by_mode(modes: Sequence[int], coefficients: torch.Tensor) -> dict[int, float]:
    """Dict of OSA index -> number from a tensor (K,)."""
    return dict(zip(modes, to_numpy(coefficients).astype(float).tolist(), strict=False))


def result_of(
    bundle: Bundle,
    coefficients: torch.Tensor,
    places: torch.Tensor,
    deviance: torch.Tensor,
    history: Sequence[float],
    converged: bool,
    level: float | None,
    settings: Mapping[str, Any],
    single: bool,
) -> PupilFit:
    """The report on the state in which a fit ended; `single` for one bead."""
    covariance, of_places = bundle.covariance(coefficients, places)
    bundle.set(coefficients)
    pupil, modes = bundle.renderer.pupil, bundle.renderer.modes
    found = {j: pupil.zernikes[j] for j in modes}
    inside = disc(pupil.samples) > 0
    spread = of_places.diagonal(dim1=1, dim2=2).sqrt()

    def per_emitter(values):
        values = to_numpy(values)
        if values.ndim > 1:
            return values[0] if single else values
        return float(values[0]) if single else values

    n, k = len(bundle.planes), len(modes)
    each = places.shape[1] > len(PLACE)
    parts: dict[str, Any] = {"x": 0, "y": 1, "z": 2, "photons": 3, "background": 4}
    if each:
        parts |= {"photons": slice(3, 3 + n), "background": slice(3 + n, None)}
    bounds = covariance.diagonal().sqrt()
    crlb: dict[Any, Any] = by_mode(modes, bounds[:k])
    crlb |= {name: per_emitter(spread[:, part]) for name, part in parts.items()}
    expected = bundle.rates(coefficients, places)
    base = places[:, parts["background"]].reshape(len(places), -1, 1, 1)
    light = (bundle.images - base) * bundle.mask
    wrong = (bundle.images - expected) * bundle.mask
    mean, variance = (
        (moment * bundle.mask).flatten(1).sum(1)
        for moment in deviance_moments(bundle.noise, expected)
    )
    n_free = places.shape[1] + len(coefficients) / len(places)
    return PupilFit(
        pupil=pupil,
        coefficients=found,
        covariance=to_numpy(covariance[:k, :k]),
        crlb_std=crlb,
        wavefront=np.where(inside, to_numpy(pupil.wavefront()), np.nan),
        **{name: per_emitter(places[:, part]) for name, part in parts.items()},
        deviance=per_emitter(deviance),
        goodness=per_emitter(standardized_deviance(deviance, mean, variance, n_free)),
        expected=to_numpy(expected.squeeze(0 if single else 1)),
        gauge={j: pupil.zernikes.get(j, 0.0) for j in GAUGE},
        n_masked=int(bundle.mask.numel() - bundle.mask.sum()),
        saturation=level,
        converged=bool(converged),
        n_iter=len(history) - 1,
        history=np.array(history),
        settings={**settings, "modes": modes, "device": str(places.device)},
        blur=float(getattr(bundle, "blur", 0.0)),
        blur_std=float(bounds[k]) if len(bounds) > k else 0.0,
        misfit=float(wrong.norm() / light.norm()),
    )
