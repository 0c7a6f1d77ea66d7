"""One field, one grid: where a scan lies on a reference, and images on coarser pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import nnls

from ..._arrays import Array, is_tensor, to_numpy

BLURS = (3.0, 1.5, 0.75)  # px, from coarse to fine
STEPS = 12  # Gauss-Newton steps at each of them
# Spreads, in px, of the step from one row to the next, among which the rows choose, and of the
# jump that each row makes on its own, along y and along x.
LOOSE = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
JUMPS = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8])


@dataclass(frozen=True)
class Registration:
    """Place of a scanned image on a reference, by `helpers.fusion.register`.

    Attributes
    ----------
    shift : (2,) float array
        Mean (rows, columns) in pixels: pixel (y, x) of the scan shows the reference at
        (y, x) + shift.
    rows : (H, 2) float array
        The same for each row of the scan; all are `shift` where only one was asked for.
    error : (H, 2) float array
        Standard errors of `rows`, from the noise that is left.
    residual : float
        Root mean square of what the moved reference does not explain, over the spread of the
        image: 0 is perfect, 1 is no match.
    residual_before : float
        The same without any shift.
    """

    shift: np.ndarray
    rows: np.ndarray = field(repr=False)
    error: np.ndarray = field(repr=False)
    residual: float
    residual_before: float

    def move(self, reference: Array) -> np.ma.MaskedArray:
        """Reference on the grid of the scan, interpolated; masked where it has no pixels.

        Parameters
        ----------
        reference : (H, W) array
            A clean image, such as the HAADF survey: never counts.

        Returns
        -------
        (H, W) masked float array
            The HAADF to fuse with maps of the scan, whose counts stay as they are.
        """
        image = _image("reference", reference)
        if image.shape[0] != len(self.rows):
            raise ValueError(
                f"reference has {image.shape[0]} rows, but the scan has {len(self.rows)}: bring "
                "both to one grid by resample first"
            )
        y, x = _places(image.shape, self.rows)
        moved = map_coordinates(image, [y, x], order=3, mode="nearest")
        inside = (y >= 0) & (y <= image.shape[0] - 1) & (x >= 0) & (x <= image.shape[1] - 1)
        return np.ma.masked_array(moved, ~inside)

    def shift_counts(self, counts: Array) -> np.ma.MaskedArray:
        """Counts moved by whole pixels to the grid of the reference; masked where none fell.

        Parameters
        ----------
        counts : (..., H, W) array
            Maps of the scan.

        Returns
        -------
        (..., H, W) masked array
            Nothing is interpolated: each row moves by the nearest whole numbers, and rows that
            meet are added. Where two meet a pixel has the counts of both.
        """
        values = _array("counts", counts)
        if values.ndim < 2 or values.shape[-2] != len(self.rows):
            raise ValueError(
                f"counts are {' x '.join(map(str, values.shape))}, but the scan has "
                f"{len(self.rows)} rows: give its own maps"
            )
        height, width = values.shape[-2:]
        moved = np.zeros_like(values)
        seen = np.zeros(values.shape, bool)
        for y, (dy, dx) in enumerate(np.rint(self.rows).astype(int)):
            row = y + dy
            first, last = max(0, dx), min(width, width + dx)
            if 0 <= row < height and first < last:
                moved[..., row, first:last] += values[..., y, first - dx : last - dx]
                seen[..., row, first:last] = True
        return np.ma.masked_array(moved, ~seen)


def register(
    image: Array, reference: Array, *, rows: bool = False, max_shift: float | None = None
) -> Registration:
    r"""Shift of a scanned image against a reference: one for all, or one for each row.

    Parameters
    ----------
    image : (H, W) array
        Taken with the spectra, so it has their drift: the HAADF of the scan, or an image that a
        model makes of the maps.
    reference : (H, W) array
        On the same grid: a fast survey image, or the HAADF where `image` is made of the maps. Its
        contrast may differ by a factor and an offset.
    rows : bool
        Let every row of the scan have its own shift: slow drift bends the image, and jitter
        tears it.
    max_shift : float, optional
        Largest shift in pixels that is looked for; a quarter of the smaller edge by default.

    Returns
    -------
    Registration
        With the residual, the errors of the shifts, `move` for the reference and `shift_counts`
        for the maps.

    Raises
    ------
    ValueError
        Images that differ in size, are constant, masked, or not finite; a shift at the limit.

    Notes
    -----
    The highest peak of the cross-correlation, then Gauss-Newton on

    .. math:: \sum_{yx} \bigl(I_{yx} - a\,R(y + u_y, x + v_y) - b\bigr)^2 / s_{yx}^2

    from coarse to fine, with :math:`s_{yx}^2` a constant and a share of the intensity, both found
    from what is left, and at least their mean. Rows have two priors: a drift that walks from row
    to row in steps of :math:`\tau`, and jumps of :math:`\sigma_u, \sigma_v` that each row makes on
    its own. The three are chosen by the evidence of the linearised problem, so the image says how
    loose its rows are. On a lattice a shift is known up to a cell. Derived in
    :doc:`/book/fusion/08_your_file`.

    Examples
    --------
    >>> y, x = np.mgrid[:48, :48]
    >>> blob = lambda dy, dx: np.exp(-((y - 20 - dy) ** 2 + (x - 25 - dx) ** 2) / 50)
    >>> register(blob(2.5, -1.25), blob(0, 0)).shift.round(2)
    array([-2.5 ,  1.25])
    """
    moving, fixed = _image("image", image), _image("reference", reference)
    if moving.shape != fixed.shape:
        raise ValueError(
            f"image is {_size(moving)} but reference is {_size(fixed)}: bring both to one grid, "
            "resample(reference, image.shape) where they show the same field"
        )
    if min(moving.shape) < 8:
        raise ValueError(f"the images are {_size(moving)}: too small to be registered")
    limit = min(moving.shape) / 4 if max_shift is None else float(max_shift)
    if not 0 < limit <= min(moving.shape) / 2:
        raise ValueError(
            f"max_shift is {max_shift}: give pixels above 0, at most half of the smaller edge"
        )
    start = _correlate(moving, fixed, limit)
    shifts = np.tile(start, (len(moving), 1))
    before = _residual(moving, fixed, 0 * shifts)
    for blur in BLURS:
        a, b = gaussian_filter(moving, blur), gaussian_filter(fixed, blur)
        shifts, error = _gauss_newton(a, b, shifts, False, (np.sqrt(4 * np.pi) * blur) ** 2)
    if rows:
        for blur in BLURS:
            # Neighbouring rows move on their own: blur along them only.
            a, b = (gaussian_filter(i, (0, blur)) for i in (moving, fixed))
            shifts, error = _gauss_newton(a, b, shifts, True, np.sqrt(4 * np.pi) * blur)
    mean = shifts.mean(axis=0)
    if np.abs(mean).max() > limit + 1:
        raise ValueError(
            f"the best shift, {mean.round(1)} px, is beyond max_shift={limit:g}: crop the images "
            "to a common field, or allow more"
        )
    return Registration(mean, shifts, error, _residual(moving, fixed, shifts), before)


def resample(image: Array, shape: tuple[int, int], *, counts: bool = False) -> np.ndarray:
    """Image of the same field on larger pixels: means, or sums of counts.

    Parameters
    ----------
    image : (..., H, W) array
        Images, or maps of counts. Masked pixels (`numpy.ma`) have no say.
    shape : (int, int)
        Rows and columns of the result, at most those of the image.
    counts : bool
        Add up what falls into a pixel, in place of the mean. The total stays. A pixel that lies
        on a border is shared by area, exactly; then the numbers are no longer whole, and no
        longer Poisson.

    Returns
    -------
    (..., h, w) array
        Masked where the image was masked: means where no pixel is seen at all, sums where any is
        not. Sums of whole numbers by whole factors stay whole numbers.

    Raises
    ------
    ValueError
        A shape that is not two whole numbers, or finer than the image.

    Examples
    --------
    >>> resample(np.arange(6).reshape(1, 6), (1, 3), counts=True)
    array([[1, 5, 9]])
    >>> resample(np.arange(6.0).reshape(1, 6), (1, 4))
    array([[0.33..., 1.66..., 3.33..., 4.66...]])
    """
    values = _array("image", image)
    if values.ndim < 2:
        raise ValueError(f"image has shape {values.shape}: expected (..., H, W)")
    try:
        h, w = (int(n) for n in shape)
        whole = (h, w) == tuple(shape)
    except (TypeError, ValueError):
        whole = False
    if not whole or min(h, w) < 1:
        raise ValueError(f"shape is {shape!r}: give two whole numbers, rows and columns")
    height, width = values.shape[-2:]
    if h > height or w > width:
        raise ValueError(
            f"shape {h} x {w} is finer than the image, {height} x {width}: resample the finer of "
            "the two images to the grid of the other"
        )
    mask = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None
    filled = np.where(mask, 0, np.ma.getdata(values)) if mask is not None else values
    rows, columns = _overlap(height, h), _overlap(width, w)
    if counts:
        summed = _sums(filled, rows, columns)
        if filled.dtype.kind in "iub" and height % h == 0 and width % w == 0:
            summed = np.rint(summed).astype(np.int64)
        if mask is None:
            return summed
        return np.ma.masked_array(summed, _sums(mask.astype(float), rows, columns) > 1e-9)
    seen = _sums(np.ones(values.shape) if mask is None else (~mask).astype(float), rows, columns)
    means = _sums(filled, rows, columns) / np.where(seen > 1e-9, seen, 1)
    return means if mask is None else np.ma.masked_array(means, seen <= 1e-9)


def _overlap(fine: int, coarse: int) -> np.ndarray:
    """Matrix (coarse, fine): the share of every fine pixel that lies in a coarse one."""
    # In units of 1 / coarse of a fine pixel all borders are whole numbers: no rounding.
    left = np.maximum(np.arange(fine) * coarse, np.arange(coarse)[:, None] * fine)
    right = np.minimum((np.arange(fine) + 1) * coarse, (np.arange(coarse)[:, None] + 1) * fine)
    return np.maximum(right - left, 0) / coarse


def _sums(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return rows @ values.astype(float) @ columns.T


def _image(name: str, image: Array) -> np.ndarray:
    values = _array(name, image)
    if values.ndim != 2:
        raise ValueError(f"{name} has shape {values.shape}: expected (H, W)")
    if np.ma.is_masked(values):
        raise ValueError(f"{name} is masked: crop it to the pixels that are there, or fill them")
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has NaN or infinite values: crop or fill them first")
    if np.ptp(values) == 0:
        raise ValueError(f"{name} is constant: there is nothing to register by")
    return values


def _array(name: str, image: Any) -> np.ndarray:
    values = to_numpy(image) if is_tensor(image) else np.asanyarray(image)
    if values.dtype.kind not in "iufb":
        raise ValueError(f"{name} is of dtype {values.dtype}: give an array of real numbers")
    return values


def _correlate(image: np.ndarray, reference: np.ndarray, limit: float) -> np.ndarray:
    """Whole shift (rows, columns) of the highest cross-correlation."""
    window = np.hanning(image.shape[0] + 2)[1:-1, None] * np.hanning(image.shape[1] + 2)[None, 1:-1]

    def prepared(a: np.ndarray) -> np.ndarray:
        a = gaussian_filter(a, 1.0)
        a = (a - np.average(a, weights=window)) * window
        return np.fft.rfft2(a, [2 * n for n in a.shape])

    size = tuple(2 * n for n in image.shape)
    found = np.fft.irfft2(prepared(reference) * prepared(image).conj(), size)
    lags = [np.fft.fftfreq(n, 1 / n) for n in size]
    found[(np.abs(lags[0])[:, None] > limit) | (np.abs(lags[1])[None] > limit)] = -np.inf
    y, x = np.unravel_index(found.argmax(), found.shape)
    return np.array([lags[0][y], lags[1][x]])


def _places(shape: tuple[int, ...], shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    return y + shifts[:, :1], x + shifts[:, 1:]


def _gauss_newton(
    image: np.ndarray, reference: np.ndarray, shifts: np.ndarray, rows: bool, alike: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts (H, 2) that fit the image best, and their errors; one for all unless by rows.

    The blur made `alike` neighbouring pixels share their noise: there are so many fewer of them.
    """
    dy, dx = np.gradient(reference)
    found = None
    for _ in range(STEPS):
        y, x = _places(image.shape, shifts)
        inside = (y >= 0) & (y <= image.shape[0] - 1) & (x >= 0) & (x <= image.shape[1] - 1)
        if inside.sum() < 16:
            break
        warped, gy, gx = (
            map_coordinates(a, [y, x], order=3, mode="nearest") for a in (reference, dy, dx)
        )
        gain, rest = _contrast(image, warped, inside)
        weight = inside / (alike * _variance(image - rest, rest, inside))
        g = gain * np.stack([gy, gx], axis=-1)
        hessian = np.einsum("yxi,yxj,yx->yij", g, g, weight)
        target = np.einsum("yxi,yx->yi", g, rest * weight)  # of the step; below of the shifts
        if rows:
            target += np.einsum("yij,yj->yi", hessian, shifts)
            found = _likeliest(hessian, target, shifts.mean(axis=0))
            step = found.mean - shifts
        else:
            found = _Rows(hessian.sum(axis=0)[None], target.sum(axis=0)[None])
            step = found.mean
        length = float(np.abs(step).max())
        shifts = shifts + step * min(1.0, 2.0 / max(length, 1e-12))
        if length < 1e-3:
            break
    error = np.zeros(2) if found is None else found.error()
    return shifts, np.broadcast_to(error, shifts.shape).copy()


def _variance(model: np.ndarray, rest: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Variance of each pixel: a constant and a share of the intensity, at least the mean of all.

    In the dark the counts say little noise, but the gradient there is that of the reference's own
    noise, and would pass for structure that holds a row.
    """
    columns = np.stack([np.ones(inside.sum()), np.maximum(model[inside], 0)], axis=1)
    (constant, share), _ = nnls(columns, rest[inside] ** 2)
    found = constant + share * np.maximum(model, 0)
    return np.maximum(found, np.mean(rest[inside] ** 2) + 1e-12 * float(model.var()))


def _likeliest(hessian: np.ndarray, target: np.ndarray, centre: np.ndarray) -> _Rows:
    """Shifts under the steps and jumps that have the most evidence.

    One of the three is changed for the better at a time, until none changes.
    """
    tried: dict[tuple[float, ...], _Rows] = {}

    def rows(choice: tuple[float, ...]) -> _Rows:
        if choice not in tried:
            tried[choice] = _Rows(hessian, target, centre, choice[0], choice[1:])
        return tried[choice]

    choice: tuple[float, ...] = (float(LOOSE[0]), 0.0, 0.0)
    last: tuple[float, ...] = ()
    while choice != last:
        last = choice
        for k, values in enumerate((LOOSE, JUMPS, JUMPS)):
            options = [(*choice[:k], float(value), *choice[k + 1 :]) for value in values]
            choice = max(options, key=lambda option: rows(option).evidence)
    return rows(choice)


class _Rows:
    """Shifts of rows that walk from one to the next and jump, each on its own.

    A row that is moved by s has the log likelihood -s H s / 2 + t s. With jumps of the covariance
    S it says of the walk (H^-1 + S)^-1 =: A H and A t, where A = (1 + H S)^-1. The precision of
    the walk is block tridiagonal with blocks of two, so three diagonals hold it.
    """

    def __init__(
        self,
        hessian: np.ndarray,
        target: np.ndarray,
        centre: np.ndarray | float = 0.0,
        step: float = 1.0,
        jumps: Sequence[float] = (0.0, 0.0),
    ) -> None:
        n, tight, spread = len(hessian), 1 / step**2, np.diag(np.square(jumps))
        freed = np.linalg.inv(np.eye(2) + hessian @ spread)
        seen, heard = freed @ hessian, np.einsum("yij,yj->yi", freed, target)
        band = np.zeros((3, 2 * n))  # the upper form of scipy: band[2] is the diagonal
        weight = np.zeros(n)
        weight[1:] += tight
        weight[:-1] += tight
        anchor = 1e-4  # holds what the image does not: a spread of 100 px
        for i in range(2):
            band[2, i::2] = seen[:, i, i] + weight + anchor
        band[1, 1::2] = seen[:, 0, 1]
        band[0, 2:] = -tight
        rhs = (heard + anchor * centre).ravel()
        self.factor = cholesky_banded(band)
        walk = cho_solve_banded((self.factor, False), rhs)
        # A walk has n - 1 free steps in two directions.
        self.evidence = float(
            0.5 * rhs @ walk - np.log(self.factor[2]).sum() + (n - 1) * np.log(tight)
            + 0.5 * np.einsum("yi,ij,yj", target, spread, heard)
            + 0.5 * np.log(np.linalg.det(freed)).sum()
        )  # fmt: skip
        self.jumps = spread @ freed  # covariance of a jump when the walk is known
        self.kept = np.eye(2) - self.jumps @ hessian
        self.mean = np.einsum("yij,yj->yi", self.kept, walk.reshape(n, 2))
        self.mean += np.einsum("yij,yj->yi", self.jumps, target)

    def error(self) -> np.ndarray:
        """Standard errors (H, 2)."""
        inverse = cho_solve_banded((self.factor, False), np.eye(self.factor.shape[1]))
        blocks = inverse.reshape(len(self.mean), 2, len(self.mean), 2)
        walk = blocks[np.arange(len(self.mean)), :, np.arange(len(self.mean))]
        covariance = self.kept @ walk @ self.kept.transpose(0, 2, 1) + self.jumps
        return np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))


def _contrast(
    image: np.ndarray, warped: np.ndarray, inside: np.ndarray
) -> tuple[float, np.ndarray]:
    """Gain of the warped reference, and what it leaves of the image with its best offset."""
    a, b = warped[inside], image[inside]
    spread = float(a.var())
    gain = float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 0 else 0.0
    return gain, image - b.mean() - gain * (warped - a.mean())


def _residual(image: np.ndarray, reference: np.ndarray, shifts: np.ndarray) -> float:
    y, x = _places(image.shape, shifts)
    inside = (y >= 0) & (y <= image.shape[0] - 1) & (x >= 0) & (x <= image.shape[1] - 1)
    warped = map_coordinates(reference, [y, x], order=3, mode="nearest")
    _, rest = _contrast(image, warped, inside)
    return float(np.sqrt(np.mean(rest[inside] ** 2)) / image[inside].std())


def _size(image: np.ndarray) -> str:
    return " x ".join(map(str, image.shape))
