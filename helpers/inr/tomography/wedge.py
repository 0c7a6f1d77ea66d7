"""The wedge of frequencies that a tilt series has not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .operator import checked_angles, checked_shape


def missing_wedge(
    shape: Sequence[int], angles_deg: ArrayLike | None = None, *, max_tilt: float | None = None
) -> np.ndarray:
    r"""Mark the frequencies that a tilt series has not measured.

    Parameters
    ----------
    shape : (int, int, int)
        Voxels (Z, Y, X).
    angles_deg : sequence of float, optional
        The tilts. Then gaps between neighbouring tilts count as missing, too.
    max_tilt : float, optional
        Instead of `angles_deg`: the largest tilt to both sides, in degrees, of a series without
        gaps.

    Returns
    -------
    (Z, Y, X) bool array
        True where there are no data, in the order of `numpy.fft.fftn` (zero frequency first).

    Raises
    ------
    ValueError
        Both or neither of `angles_deg` and `max_tilt`, or a `max_tilt` outside 0 to 90.

    Notes
    -----
    The transform of the projection at :math:`\theta` is the volume's on the plane
    :math:`(k_z, k_x) = k_s (\sin\theta, \cos\theta)`. An object of diameter D ties together
    frequencies less than 1/D apart, so a plane tells of a slab of that thickness; D is here the
    longer side of the slice (Z, X) :cite:p:`crowther1970`. Derived in
    :doc:`/book/inr/06_tomography`.

    Examples
    --------
    >>> missing_wedge((32, 4, 32), max_tilt=60).mean().round(2).item()
    0.26
    """
    shape = checked_shape(shape)
    if (angles_deg is None) == (max_tilt is None):
        raise ValueError("give either angles_deg or max_tilt")
    kz = np.fft.fftfreq(shape[0])[:, None, None]
    kx = np.fft.fftfreq(shape[2])[None, None, :]
    half = 0.5 / max(shape[0], shape[2])
    if max_tilt is not None:
        if not 0 < max_tilt <= 90:
            raise ValueError(f"max_tilt is {max_tilt}: give degrees between 0 and 90")
        edge = math.radians(max_tilt)
        outside = np.abs(kz) * math.cos(edge) - np.abs(kx) * math.sin(edge) > half
    else:
        angles = np.deg2rad(checked_angles(angles_deg))[:, None, None, None]
        outside = (np.abs(kz * np.cos(angles) - kx * np.sin(angles)) > half).all(0)
    return np.broadcast_to(outside, shape).copy()
