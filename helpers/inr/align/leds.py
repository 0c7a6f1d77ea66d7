"""Alignment of an LED array: its place, its handedness, from the images alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from ..._arrays import Array, to_numpy

REACH = 0.6  # of na: how far off the array may be
LIT = 0.5  # of the brightness of the bright field
TURNS = {
    "as given": ((1, 0), (0, 1)),
    "mirrored": ((1, 0), (0, -1)),
    "transposed": ((0, 1), (1, 0)),
    "turned by 90 degrees": ((0, -1), (1, 0)),
}


@dataclass(frozen=True)
class LedAlignment:
    """Place and handedness of an LED array.

    Attributes
    ----------
    leds : (L, 2) array
        Directions for `helpers.inr.diffraction.Ptychography`: those given, turned as `turn` says,
        times `scale`, and moved by `offset`.
    offset, offset_error : (2,) array
        (y, x) of the array, as a direction, and its standard error.
    turn : str
        "as given", "mirrored", "transposed" or "turned by 90 degrees".
    contrast : dict of str -> float
        By turn: how much brighter the images' spectra are inside the two circles than outside, as
        a logarithm. The largest is `turn`.
    edge : float
        Width of the aperture's rim, as a share of na.
    scale, scale_error : float
        Of the directions, about the axis, and its standard error; 1 and 0 where it was not sought.
        An array that is farther away than it was built has a scale below 1.
    """

    leds: np.ndarray
    offset: np.ndarray
    offset_error: np.ndarray
    turn: str
    contrast: dict[str, float]
    edge: float
    scale: float = 1.0
    scale_error: float = 0.0


def leds(
    images: Array,
    directions: ArrayLike,
    *,
    wavelength: float,
    na: float,
    pixel_size: float,
    scale: bool = False,
) -> LedAlignment:
    r"""Find the place and the handedness of an LED array from its bright-field images.

    Parameters
    ----------
    images : (L, Y, X) array
        In any unit, the same for all LEDs.
    directions : (L, 2) array
        (y, x) directions as the array was built, see `helpers.inr.diffraction.led_directions`.
    wavelength : float
        In um.
    na : float
        Of the objective.
    pixel_size : float
        Of the camera, in um on the object.
    scale : bool
        Find the scale of the directions too, which tells the distance of the array: the disc of
        brightness has the radius `na`. It needs many LEDs across the aperture, and a right `na`.

    Returns
    -------
    LedAlignment

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN, or fewer than five LEDs in the bright field or in the dark.

    Notes
    -----
    The direct light of an LED enters the objective inside its aperture, so brightness over
    direction is a disc with a soft rim: its middle is the place of the array. A disc has no
    handedness. The spectrum of a bright-field image does have: it is bright inside two circles of
    radius `na` around :math:`\pm q_m` :cite:p:`eckert2018`, dark outside. Each turn of the array is
    tried with its own place. The two circles are the same for :math:`-q_m`: an array turned by
    180 degrees is never told apart. Errors are those of the jackknife over LEDs at the rim.

    Derived in :doc:`/book/inr/10_measured_leds`.

    Examples
    --------
    >>> from helpers.inr.diffraction import Ptychography, led_directions
    >>> grid = np.mgrid[-3:4, -3:4].reshape(2, -1).T
    >>> built = led_directions(4.0 * grid, 100)
    >>> model = Ptychography(
    ...     built + [0.02, 0], (48, 48), wavelength=0.5, na=0.1, pixel_size=2.0, edge=0.2)
    >>> x = np.random.default_rng(0).normal(0, 0.05, model.in_shape)
    >>> found = leds(model(x), built, wavelength=0.5, na=0.1, pixel_size=2.0)
    >>> found.turn, bool(abs(found.offset - [0.02, 0]).max() < 0.005)
    ('as given', True)
    """
    y, q = to_numpy(images).astype(float), np.asarray(directions, float)
    if y.ndim != 3 or q.shape != (len(y), 2):
        raise ValueError(f"images are {y.shape}, directions {q.shape}: give (L, Y, X) and (L, 2)")
    if not (np.isfinite(y).all() and np.isfinite(q).all()):
        raise ValueError("images or directions hold NaN: mend or leave out these LEDs")
    mean = y.mean((1, 2))
    top = np.sort(mean)[-max(1, min(9, len(mean) // 4)) :]
    brightness = mean / np.median(top)
    lit = brightness > LIT
    if lit.sum() < 5 or (~lit).sum() < 5:
        raise ValueError(
            f"{lit.sum()} of {len(y)} LEDs are in the bright field: five inside and five outside "
            "of it show the place of the array"
        )
    contrast, places = {}, {}
    spectra = _spectra(y[lit] / mean[lit, None, None])
    for name, turn in TURNS.items():
        turned = q @ np.array(turn, float).T
        places[name] = _place(turned, brightness, na, scale)
        at = (turned * places[name][4] + places[name][:2])[lit]
        contrast[name] = _contrast(spectra, at, wavelength / pixel_size, na)
    best = max(contrast, key=lambda name: contrast[name])
    turned, found = q @ np.array(TURNS[best], float).T, places[best]
    rim = np.flatnonzero(np.abs(np.hypot(*(turned * found[4] + found[:2]).T) / na - 1) < 0.5)
    left = np.array(
        [_place(np.delete(turned, n, 0), np.delete(brightness, n), na, scale, found) for n in rim]
    )
    spread = (len(left) - 1) * left.var(0) if len(left) > 1 else np.full(5, np.inf)
    error = np.sqrt(spread)
    return LedAlignment(
        leds=turned * found[4] + found[:2],
        offset=found[:2],
        offset_error=error[:2],
        turn=best,
        contrast=contrast,
        edge=float(found[2]),
        scale=float(found[4]),
        scale_error=float(error[4]) if scale else 0.0,
    )


def _place(
    q: np.ndarray,
    brightness: np.ndarray,
    na: float,
    scale: bool,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Offset (y, x), width of the rim, brightness inside and scale: a soft disc by least squares.

    A scale that is not sought is one.
    """

    def misfit(v: np.ndarray) -> np.ndarray:
        radius = np.hypot(*(q * (v[4] if scale else 1) + v[:2]).T) / na
        # smooth, so that an LED far from the rim still pulls a little
        return v[3] / (1 + np.exp(np.clip((radius - 1) / (v[2] / 4), -50, 50))) - brightness

    if start is None:
        steps = np.linspace(-REACH, REACH, 13) * na
        grid = [np.array([dy, dx, 0.3, 1.0, 1.0]) for dy in steps for dx in steps]
        start = min(grid, key=lambda v: float((misfit(v) ** 2).sum()))
    n = 5 if scale else 4
    low, high = [-np.inf, -np.inf, 0.02, 0.2, 0.5], [np.inf, np.inf, 0.8, 5, 2]
    found = least_squares(
        misfit, start[:n], bounds=(low[:n], high[:n]), x_scale=[na, na, 1, 1, 1][:n]
    ).x
    return found if scale else np.append(found, 1.0)


def _spectra(images: np.ndarray) -> np.ndarray:
    """Logarithms of the power spectra (N, Y, X), each less its median."""
    windows = [np.hanning(n + 2)[1:-1] for n in images.shape[1:]]
    flat = (images - images.mean((1, 2), keepdims=True)) * windows[0][:, None] * windows[1]
    power = np.log(np.abs(np.fft.fft2(flat)) ** 2 + 1e-12)
    return power - np.median(power, (1, 2), keepdims=True)


def _contrast(spectra: np.ndarray, q: np.ndarray, period: float, na: float) -> float:
    """Mean logarithm of the spectra inside the two circles over that outside."""
    ky, kx = (np.fft.fftfreq(n) * period for n in spectra.shape[1:])
    inside = np.zeros(spectra.shape, bool)
    for dy in (-period, 0, period):  # a coarse camera folds what is beyond its limit
        for dx in (-period, 0, period):
            for sign in (1, -1):
                y = (ky + dy)[None, :, None] - sign * q[:, 0, None, None]
                x = (kx + dx)[None, None, :] - sign * q[:, 1, None, None]
                inside |= y**2 + x**2 < na**2
    far = np.hypot(*q.T) > 0.4 * na  # an LED near the axis has one circle
    per_led = [
        s[i].mean() - s[~i].mean()
        for s, i in zip(spectra[far], inside[far], strict=True)
        if i.any() and not i.all()
    ]
    return float(np.mean(per_led)) if per_led else 0.0
