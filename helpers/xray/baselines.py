"""Fusion without learning: what a network must beat.

Each baseline is called as the networks are, ``f(lr, hr, tau, camera)``, on tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from .cameras import BOOK_CAMERA, CoarseCamera, pad_up
from .cameras import bicubic as enlarge

__all__ = [
    "adaptive_blend",
    "bayesian_fusion",
    "bicubic",
    "detail_injection",
    "linear",
    "nearest_key",
]

Camera = CoarseCamera | None


def bicubic(
    lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: Camera = None
) -> torch.Tensor:
    """The coarse frame of the same time, enlarged; the sharp camera is not used.

    Parameters
    ----------
    lr : (B, 3, 1, h, w) tensor
        Coarse frames before, at and after the wanted time.
    hr : (B, 2, 1, Y, X) tensor
        Sharp key frames before and after it; Y is the scale of the camera times h.
    tau : (B,) tensor
        Place of the wanted time between the key frames, 0 to 1.
    camera : CoarseCamera, optional
        The coarse camera. Default: that of the book.

    Returns
    -------
    (B, 1, Y, X) tensor

    Raises
    ------
    ValueError
        Shapes that do not fit together.

    Examples
    --------
    >>> import torch
    >>> lr, hr = torch.ones(1, 3, 1, 4, 4), torch.ones(1, 2, 1, 16, 16)
    >>> bicubic(lr, hr, torch.tensor([0.5])).shape
    torch.Size([1, 1, 16, 16])
    """
    check_inputs(lr, hr, tau, camera)
    camera = _known(camera)
    return _enlarged(camera.transmission(lr[:, 1]), hr, camera)


def nearest_key(
    lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: Camera = None
) -> torch.Tensor:
    """The key frame that is nearer in time; the earlier one when both are as near.

    Parameters and result as for `bicubic`.
    """
    check_inputs(lr, hr, tau, camera)
    later = (tau > 0.5).to(hr).view(-1, 1, 1, 1)
    return (1 - later) * hr[:, 0] + later * hr[:, 1]


def linear(
    lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: Camera = None
) -> torch.Tensor:
    """The key frames mixed linearly in time.

    Parameters and result as for `bicubic`.

    Examples
    --------
    >>> import torch
    >>> hr = torch.stack([torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)], dim=1)
    >>> float(linear(torch.zeros(1, 3, 1, 1, 1), hr, torch.tensor([0.25])).mean())
    0.25
    """
    check_inputs(lr, hr, tau, camera)
    later = tau.to(hr).view(-1, 1, 1, 1)
    return (1 - later) * hr[:, 0] + later * hr[:, 1]


def detail_injection(
    lr: torch.Tensor,
    hr: torch.Tensor,
    tau: torch.Tensor,
    camera: Camera = None,
    *,
    sigma: float | None = None,
) -> torch.Tensor:
    r"""The key frames mixed in time, corrected so that the coarse camera sees what it saw.

    Parameters and result as for `bicubic`; `sigma` stands for ``camera=CoarseCamera(sigma)``.

    Notes
    -----
    With the mix :math:`m = (1 - \tau) h_0 + \tau h_1`, the coarse camera :math:`A` and cubic
    interpolation :math:`U`, the result is :math:`m + U (y_t - A m)`: coarse content from the
    coarse frame, detail from the key frames. Derived in :doc:`/book/xray/05_fuse`.

    Examples
    --------
    >>> import torch
    >>> hr = torch.rand(1, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> tau = torch.tensor([0.5])
    >>> mix = linear(torch.zeros(1, 3, 1, 4, 4), hr, tau)
    >>> seen = CoarseCamera(2.2)(mix)[:, None].expand(1, 3, 1, 4, 4)
    >>> torch.equal(detail_injection(seen, hr, tau), mix)
    True
    """
    camera = _known(camera) if sigma is None else CoarseCamera(sigma)
    mixed = linear(lr, hr, tau, camera)
    seen = camera.transmission(lr[:, 1]) - camera.transmission(camera(mixed))
    return mixed + _enlarged(seen, hr, camera)


def adaptive_blend(
    lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: Camera = None
) -> torch.Tensor:
    r"""The key frames mixed where they still hold, the coarse frame where they do not.

    Parameters and result as for `bicubic`.

    Notes
    -----
    A key frame :math:`h_k` is outdated where the coarse camera sees something else than it would
    see of the key frame: where :math:`r_k = |y - A h_k|` exceeds the noise
    :math:`s = \sqrt{A h_k / N}`. The weights of the key frames and of the enlarged coarse frame are

    .. math:: w_k = p_k\, e^{-U \max(0,\, r_k - s) / d} , \qquad w_2 = 0.03 ,

    with p the distance in time to the other key frame, as in a linear mix, and
    :math:`d^2 = 0.01^2 + s^2`. The mean m with these weights is then corrected as in
    `detail_injection`, by the share of :math:`y - A m` that is not noise (a Wiener factor
    :math:`\langle r^2 - s^2 \rangle / \langle r^2 \rangle` over 5 x 5 coarse pixels). Derived in
    :doc:`/book/xray/05_fuse`.

    Examples
    --------
    >>> import torch
    >>> hr = torch.rand(1, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> lr = CoarseCamera(2.2)(hr[:, [0, 0, 0]])
    >>> blend = adaptive_blend(lr, hr, torch.tensor([0.5]))
    >>> bool((blend - hr[:, 0]).abs().mean() < (blend - hr[:, 1]).abs().mean())
    True
    """
    y, keys, camera, plain = _in_transmission(lr, hr, tau, camera)
    expected = plain(keys)
    noise = _noise(expected, camera)
    beyond = ((y - expected).abs() - noise).clamp_min(0) / (WIDTH**2 + noise**2).sqrt()
    later = tau.to(hr).view(-1, 1, 1, 1)
    near = torch.cat([1 - later, later], dim=1).clamp_min(0.02)
    weights = near * torch.exp(-_enlarged(beyond, hr, camera).clamp_min(0))
    weights = torch.cat([weights, torch.full_like(weights[:, :1], DOUBT)], dim=1)
    frames = torch.cat([keys, _enlarged(y, hr, camera)], dim=1)
    mixed = (weights * frames).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    rest, seen = y - plain(mixed), _noise(plain(mixed), camera)
    power, floor = (_local_mean(part**2) for part in (rest, seen))
    share = (1 - floor / power.clamp_min(1e-12)).clamp(0, 1)
    return mixed + _enlarged(share * rest, hr, camera)


def bayesian_fusion(
    lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: Camera = None
) -> torch.Tensor:
    r"""The most probable sharp frame, if changes since the key frames are Gaussian.

    Parameters and result as for `bicubic`; `tau` is not used: how much has changed since a key
    frame is read from the coarse frame.

    Notes
    -----
    Both key frames and the coarse frame observe the sharp frame x, the former up to changes
    :math:`c_k`, the latter through its camera and up to photon noise,

    .. math:: h_k = x + c_k , \qquad y = A x + n , \qquad n \sim \mathcal N(0, S) ,

    with changes of variance :math:`v_k` at each pixel and a correlation
    :math:`R = e^{-d^2 / 2 \ell^2}` over the distance d. Then x has the prior mean
    :math:`m = V (h_0 / v_0 + h_1 / v_1)` with :math:`1 / V = 1 / v_0 + 1 / v_1`, the prior
    covariance :math:`C = V^{1/2} R V^{1/2}`, and the posterior mean, which is its maximum,

    .. math:: \hat x = m + C A^{\mathsf T} (A C A^{\mathsf T} + S)^{-1} (y - A m) ,

    by conjugate gradients on the coarse grid. Nothing is set by hand:

    - the width :math:`\ell` is that of the autocorrelation of :math:`h_1 - h_0`, one and two pixels
      from its middle, where noise has no part;
    - the variance that the camera sees, :math:`v_k \ell^2 / (\ell^2 + 2 \sigma^2 + s^2 / 6)` for
      pixels of side s, is found from :math:`y - A h_k` by five steps of expectation-maximisation,
      each a mean over 3 x 3 coarse pixels.

    It is a maximum a posteriori fusion with the covariance in time from the coarse frames, as
    :cite:t:`xue2017` have for satellites, here with the camera's blur and its noise. Derived in
    :doc:`/book/xray/05_fuse`.

    Examples
    --------
    >>> import torch
    >>> hr = torch.rand(1, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> lr = CoarseCamera(2.2)(hr[:, [0, 0, 0]])
    >>> fused = bayesian_fusion(lr, hr, torch.tensor([0.5]))
    >>> bool((fused - hr[:, 0]).abs().mean() < (fused - hr[:, 1]).abs().mean())
    True
    """
    y, keys, camera, plain = _in_transmission(lr, hr, tau, camera)
    shape = keys.shape[-2], keys.shape[-1]
    width = _width_of_changes(keys)
    sigma = torch.as_tensor(camera.sigma).to(keys).view(-1, 1, 1, 1)
    share = width**2 / (width**2 + 2 * sigma**2 + camera.scale**2 / 6)
    changed = _variance_of_changes(y - plain(keys), _noise(plain(keys), camera) ** 2)
    precision = 1 / (_enlarged(changed, hr, camera).clamp_min(1e-8) / share)
    mean = (precision * keys).sum(1, keepdim=True) / precision.sum(1, keepdim=True)
    spread = precision.sum(1, keepdim=True) ** -0.5
    rows, columns = (_correlation(n, width) for n in shape)

    def covariance(x: torch.Tensor) -> torch.Tensor:
        return spread * (rows @ (spread * x) @ columns)

    noise = _noise(plain(mean), camera) ** 2
    z = _conjugate_gradients(
        lambda z: plain(covariance(plain.adjoint(z, shape))) + noise * z,
        y - plain(mean),
        noise + share * plain(spread**2),
    )
    return mean + covariance(plain.adjoint(z, shape))


def _width_of_changes(keys: torch.Tensor) -> torch.Tensor:
    """Width (B, 1, 1, 1) of the autocorrelation of what differs between two key frames."""
    d = keys[:, 1] - keys[:, 0]
    near, far = (
        (d[:, k:] * d[:, :-k]).mean((1, 2)) + (d[..., k:] * d[..., :-k]).mean((1, 2))
        for k in (1, 2)
    )
    # from 0.7 to 5.5 px; noise alone, or no difference at all, has no width
    falls = (near / far.clamp_min(1e-12)).clamp(1.05, 20).log()
    return (1.5 / falls).sqrt().view(-1, 1, 1, 1)


def _variance_of_changes(rest: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Variance of what is in `rest` beside noise of a known variance, pixel by pixel."""
    found = (rest**2 - noise).mean((-2, -1), keepdim=True).clamp_min(1e-6)
    for _ in range(5):
        share = found / (found + noise)
        found = _near_mean((share * rest) ** 2 + share * noise)
    return found


def _near_mean(image: torch.Tensor) -> torch.Tensor:
    """Mean over 3 x 3 pixels with the weights 1, 2, 1."""
    once = F.avg_pool2d(image, 2, 1, 1, count_include_pad=False)
    return F.avg_pool2d(once, 2, 1)


def _correlation(n: int, width: torch.Tensor) -> torch.Tensor:
    """Matrix (B, 1, n, n) of correlations between pixels along one axis."""
    place = torch.arange(n, device=width.device, dtype=width.dtype)
    return torch.exp(-((place[:, None] - place) ** 2) / (2 * width**2))


def _conjugate_gradients(
    apply: Callable[[torch.Tensor], torch.Tensor],
    right: torch.Tensor,
    scale: torch.Tensor,
    n_iter: int = 20,
) -> torch.Tensor:
    """Solution of ``apply(z) = right`` for each image; `scale` is about the diagonal."""
    z, rest = torch.zeros_like(right), right
    step = better = rest / scale
    power = (rest * better).sum((-2, -1), keepdim=True)
    for _ in range(n_iter):
        applied = apply(step)
        length = power / (step * applied).sum((-2, -1), keepdim=True).clamp_min(1e-30)
        z, rest = z + length * step, rest - length * applied
        better = rest / scale
        before, power = power, (rest * better).sum((-2, -1), keepdim=True)
        step = better + power / before.clamp_min(1e-30) * step
    return z


WIDTH = 0.01  # transmission that a key frame may be off before it is doubted
DOUBT = 0.03  # weight of the enlarged coarse frame


def _in_transmission(
    lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: Camera
) -> tuple[torch.Tensor, torch.Tensor, CoarseCamera, CoarseCamera]:
    """Coarse frame at the moment, key frames, their camera, and the one that sees transmission."""
    check_inputs(lr, hr, tau, camera)
    camera = _known(camera)
    plain = replace(camera, gain=1.0, offset=0.0)
    return camera.transmission(lr[:, 1]), hr[:, :, 0], camera, plain


def _known(camera: Camera) -> CoarseCamera:
    return BOOK_CAMERA if camera is None else camera


def _noise(expected: torch.Tensor, camera: CoarseCamera) -> torch.Tensor:
    """Standard deviation of the photon noise at a transmission."""
    photons = camera.photons if camera.photons is not None else BOOK_CAMERA.photons
    count = torch.as_tensor(photons).to(expected).view(-1, *(1,) * (expected.ndim - 1))
    return (expected.clamp_min(0.02) / count).sqrt()


def _local_mean(image: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(image, 5, 1, 2, count_include_pad=False)


def _enlarged(image: torch.Tensor, hr: torch.Tensor, camera: CoarseCamera) -> torch.Tensor:
    """A coarse image (B, C, h, w), enlarged to the size of the key frames."""
    large: torch.Tensor = pad_up(enlarge(image, camera.scale), (hr.shape[-2], hr.shape[-1]))
    return large


def check_inputs(
    lr: torch.Tensor, hr: torch.Tensor, tau: torch.Tensor, camera: Camera = None
) -> None:
    """Raise a ValueError unless lr, hr and tau are one batch of the shapes that `bicubic` names."""
    if lr.ndim != 5 or lr.shape[1:3] != (3, 1):
        raise ValueError(f"lr is {tuple(lr.shape)}: give (B, 3, 1, h, w)")
    batch, scale = lr.shape[0], _known(camera).scale
    fits = hr.ndim == 5 and tuple(hr.shape[:3]) == (batch, 2, 1)
    sides = zip(hr.shape[-2:], lr.shape[-2:], strict=True)
    if not fits or any(not 0 <= n - round(scale * m) < scale for n, m in sides):
        want = (batch, 2, 1, *(round(scale * m) for m in lr.shape[-2:]))
        raise ValueError(f"hr is {tuple(hr.shape)} for lr {tuple(lr.shape)}: give {want}")
    if tuple(tau.shape) != (batch,):
        raise ValueError(f"tau is {tuple(tau.shape)}: give one number for each of {batch}")
