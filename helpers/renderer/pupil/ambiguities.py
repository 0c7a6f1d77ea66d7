r"""Ambiguities of phase retrieval, and the comparison of two pupils without them.

Piston is invisible. A tilt moves the image like the emitter, defocus nearly so. And an aberration
has a twin: with the wavefront turned by half a turn and inverted, and z turned round, every image
stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..._arrays import to_numpy
from ...optics._zernike import disc, pupil_axis, zernike
from ...optics.pupil import Pupil


@dataclass(frozen=True)
class Alignment:
    """Result of `align`: the error of a wavefront, and the offsets of its positions.

    Attributes
    ----------
    rms : float
        What is left between the two wavefronts, in waves RMS: the error of a retrieval.
    remainder : (M, M) array
        Its map, in waves; NaN outside the pupil.
    x, y : float
        By how many px the positions that go with the estimate are too large.
    z : float
        The same for depths, in µm, after `flipped` is undone.
    flipped : bool
        The estimate was replaced by its twin, see `twin`: turn the sign of its depths round first,
        then subtract `z`.
    """

    rms: float
    remainder: np.ndarray
    x: float
    y: float
    z: float
    flipped: bool


def twin(pupil: Pupil) -> Pupil:
    r"""The other pupil that explains the same images, with every z turned round.

    Parameters
    ----------
    pupil : Pupil
        With one index.

    Returns
    -------
    Pupil
        Zernikes of even azimuthal order m inverted, odd ones kept; a phase map likewise.

    Raises
    ------
    ValueError
        The pupil has a second index, whose boundary tells above from below.

    Notes
    -----
    The field :math:`U(r)` is the Fourier transform of :math:`P(u)`. That of
    :math:`P^*(-u)` is :math:`U^*(r)`, which has the same modulus. With a symmetric amplitude this
    is the pupil of :math:`-W(-u)` at :math:`-z`; x and y stay. Derived in
    :doc:`/book/renderer/04_pupil`.

    Examples
    --------
    >>> from helpers.optics import Pupil, psf_from_pupil
    >>> one = Pupil(1.4, 0.67, 1.518, 0.1, zernikes={5: 0.08, 7: 0.05})
    >>> twin(one).zernikes
    {5: -0.08, 7: 0.05}
    >>> above = psf_from_pupil(one, (15, 15), 0.3, 0.2, 0.4)
    >>> np.allclose(above, psf_from_pupil(twin(one), (15, 15), 0.3, 0.2, -0.4))
    True
    """
    if pupil.medium_index is not None:
        raise ValueError(
            "this pupil has a medium_index: its boundary tells above from below, so there is no "
            "twin"
        )
    zernikes = {j: c if zernike(j).m % 2 else -c for j, c in (pupil.zernikes or {}).items()}
    phase_map = pupil.phase_map
    if phase_map is not None:
        phase_map = -np.flip(to_numpy(phase_map), (-2, -1))
    return replace(pupil, zernikes=zernikes or None, phase_map=phase_map)


def align(estimate: Pupil, reference: Pupil, *, allow_twin: bool = False) -> Alignment:
    r"""Compare two pupils up to what images cannot tell.

    Parameters
    ----------
    estimate, reference : Pupil
        Of the same instrument.
    allow_twin : bool
        Compare with the twin of the estimate, too, and take the better one. For pupils from
        blinks; a bead stack whose stage moved as it says has no twin.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        Instruments that differ.

    Notes
    -----
    The difference of the wavefronts is written, by least squares over the disc, as

    .. math:: W_e - W_r = c + \frac{\mathrm{NA}\, p}{\lambda}\,(\Delta x\, u + \Delta y\, v)
        - \frac{k_z}{2 \pi}\, \Delta z + \text{remainder} ,

    since positions larger by :math:`\Delta x, \Delta y, \Delta z` undo the first terms (p is the
    side of a pixel). Defocus is taken as :math:`k_z`, which is what z changes; at a high
    aperture the Zernike of defocus is only a part of it. Derived in
    :doc:`/book/renderer/04_pupil`.

    Examples
    --------
    >>> from helpers.optics import Pupil
    >>> truth = Pupil(1.4, 0.67, 1.518, 0.1, zernikes={5: 0.08})
    >>> tilted = Pupil(1.4, 0.67, 1.518, 0.1, zernikes={2: 0.1, 5: -0.08})
    >>> found = align(tilted, truth, allow_twin=True)
    >>> round(found.rms, 6), round(found.x, 3), found.flipped
    (0.0, 0.957, True)
    """
    for name in ("na", "wavelength", "index", "pixel_size", "samples", "medium_index"):
        ours, theirs = getattr(estimate, name), getattr(reference, name)
        if ours != theirs:
            raise ValueError(
                f"{name} is {ours} in the estimate but {theirs} in the reference: compare pupils "
                "of one instrument"
            )
    target = to_numpy(reference.wavefront())
    candidates = [(False, estimate)] + ([(True, twin(estimate))] if allow_twin else [])
    found = [
        _aligned(to_numpy(pupil.wavefront()) - target, reference, flipped)
        for flipped, pupil in candidates
    ]
    return min(found, key=lambda alignment: alignment.rms)


def _aligned(difference, pupil, flipped):
    u = pupil_axis(pupil.samples)
    lateral = pupil.na * pupil.pixel_size / pupil.wavelength
    squared = pupil.na**2 * (u[:, None] ** 2 + u**2).clip(max=1)
    index = pupil.medium_index or pupil.index
    axial = np.sqrt((index**2 - squared).clip(min=0)) / pupil.wavelength
    one = np.ones_like(difference)
    terms = np.stack([one, lateral * u * one, lateral * u[:, None] * one, -axial])
    weights = disc(pupil.samples)
    factors = _weighted_fit(difference, terms, weights)
    remainder = difference - np.tensordot(factors, terms, 1)
    rms = float(np.sqrt(np.average(remainder**2, weights=weights)))
    remainder = np.where(weights > 0, remainder, np.nan)
    _, x, y, z = factors.tolist()
    return Alignment(rms, remainder, x, y, z, flipped)


def _weighted_fit(values, terms, weights):
    """Least-squares factors of `terms` (K, M, M) where the weights are positive."""
    use = weights > 0
    root = np.sqrt(weights[use])
    return np.linalg.lstsq((terms[:, use] * root).T, values[use] * root)[0]
