"""Zernike polynomials: the aberrations of a round pupil, one number each.

Indices are those of OSA/ANSI unless a name says Noll. Every polynomial has unit RMS over the disc.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .._arrays import Number


@dataclass(frozen=True)
class Zernike:
    """One Zernike polynomial; see `zernike`.

    Attributes
    ----------
    j, n, m : int
        OSA/ANSI index, radial order, azimuthal order.
    """

    j: int
    n: int
    m: int

    def __call__(self, u: Number, v: Number) -> Number:
        """Values at pupil coordinates, arrays or tensors that broadcast; defined everywhere."""
        squared, q = u**2 + v**2, abs(self.m)
        radial: Any = 0.0
        for k in range((self.n - q) // 2 + 1):  # radial polynomial over rho^|m|
            sign = -1 if k % 2 else 1
            top = sign * math.factorial(self.n - k) / math.factorial(k)
            below = math.factorial((self.n + q) // 2 - k) * math.factorial((self.n - q) // 2 - k)
            radial = radial + top / below * squared ** ((self.n - q) // 2 - k)
        # rho^|m| times a cosine or sine of |m| phi is a polynomial of u and v, without a pole
        cosine, sine = squared * 0 + 1, squared * 0
        for _ in range(q):
            cosine, sine = cosine * u - sine * v, sine * u + cosine * v
        size = math.sqrt((self.n + 1) * (2 if self.m else 1))
        return size * radial * (cosine if self.m >= 0 else sine)

    def grid(self, samples: int) -> np.ndarray:
        """Values (samples, samples) at the cells of a pupil, float64 array, v along axis 0.

        Cells outside the pupil hold values, too: weigh them with `disc`.
        """
        u = pupil_axis(samples)
        return self(u[None, :], u[:, None])


def zernike(j: int) -> Zernike:
    r"""Zernike polynomial of OSA/ANSI index j, of unit RMS over the unit disc.

    Parameters
    ----------
    j : int
        0 piston, 1 and 2 tilts, 4 defocus, 3 and 5 astigmatism, 7 and 8 coma, 12 spherical.

    Returns
    -------
    Zernike
        ``zernike(j)(u, v)`` on coordinates, ``zernike(j).grid(samples)`` on the cells of a pupil.

    Raises
    ------
    ValueError
        j is negative or not whole.

    Notes
    -----
    With :math:`n = \lceil(-3 + \sqrt{9 + 8j})/2\rceil` and :math:`m = 2j - n(n + 2)`,

    .. math:: Z_j = \sqrt{(2 - \delta_{m0})(n + 1)}\, R_n^{|m|}(\rho)
        \begin{cases}\cos m\varphi & m \ge 0\\ \sin |m|\varphi & m < 0\end{cases},

    :math:`\varphi` counted from the u (x) axis. The RMS of a sum is then the Euclidean norm of
    its coefficients without piston :cite:p:`noll1976`. Derived in
    :doc:`/book/renderer/01_point_spread`.

    Examples
    --------
    >>> round(float(zernike(4)(0.0, 0.0)), 3)
    -1.732
    >>> zernike(5).n, zernike(5).m
    (2, 2)
    """
    if j != int(j) or j < 0:
        raise ValueError(f"j is {j}: give a whole OSA index, from 0")
    j = int(j)
    n = (math.isqrt(8 * j + 1) - 1) // 2  # of j from n(n + 1)/2 to n(n + 3)/2
    return Zernike(j, n, 2 * j - n * (n + 2))


def noll_to_osa(noll: int) -> int:
    """OSA/ANSI index of Noll's index, which counts from 1.

    Examples
    --------
    >>> [noll_to_osa(k) for k in range(1, 12)]
    [0, 2, 1, 4, 3, 5, 7, 8, 6, 9, 12]
    """
    if noll != int(noll) or noll < 1:
        raise ValueError(f"Noll's index is {noll}: give a whole number, from 1")
    noll = int(noll)
    n = (math.isqrt(8 * noll - 7) - 1) // 2
    place = noll - n * (n + 1) // 2 - 1  # within the radial order, from 0
    q = 2 * ((place + 1) // 2) if n % 2 == 0 else 2 * (place // 2) + 1
    m = q if noll % 2 == 0 else -q  # even indices are cosines
    return (n * (n + 2) + m) // 2


def pupil_axis(samples: int) -> np.ndarray:
    """Centres of `samples` cells across the pupil, from -1 + 1/samples to 1 - 1/samples.

    Examples
    --------
    >>> pupil_axis(4).tolist()
    [-0.75, -0.25, 0.25, 0.75]
    """
    return (np.arange(samples) * 2 + 1 - samples) / samples


@lru_cache(maxsize=32)
def disc(samples: int) -> np.ndarray:
    """Share of each cell that lies inside the unit disc, (samples, samples), between 0 and 1.

    Examples
    --------
    >>> round(float(disc(32).mean() * 4), 3)
    3.142
    """
    fine = 16  # parts of a cell along each axis
    inside = pupil_axis(samples * fine)
    inside = (inside[:, None] ** 2 + inside**2 <= 1).astype(float)
    share = inside.reshape(samples, fine, samples, fine).mean((1, 3))
    share.flags.writeable = False
    return share
