"""Blur against direct sums, Richardson-Lucy and MAP-TV against their theory and each other."""

import warnings

import numpy as np
import pytest
import torch
from scipy.signal import convolve

from helpers.metrics import psnr
from helpers.optics import Pupil
from helpers.renderer import deconvolve
from helpers.renderer.deconvolve import Blur, choose_weight, map_tv, richardson_lucy
from helpers.renderer.simulate import bars, tubes, widefield
from helpers.renderer.simulate.volumes import ABERRATION
from helpers.tv import tv

SHAPE, SEED = (12, 40, 40), 2001


def kernel_of(shape, zernikes=None):
    pupil = Pupil(1.3, 0.6, 1.515, 0.08, samples=80, zernikes=zernikes)
    size = [2 * n - 1 for n in shape]
    return deconvolve.widefield_kernel(pupil, size, 0.2, planes=shape[0]).astype(np.float32)


@pytest.fixture(scope="module")
def scene():
    return recorded(SEED)


def recorded(seed):
    stack = widefield(bars(SHAPE, seed=seed), seed=seed)
    return stack, Blur(kernel_of(SHAPE, ABERRATION), SHAPE)


@pytest.fixture(scope="module")
def map_fit(scene):
    return fitted(*scene)


def fitted(stack, op):
    choice = choose_weight(op, stack.counts, stack.background, device="cpu")
    return choice, map_tv(op, stack.counts, choice.weight, stack.background, device="cpu")


@pytest.mark.parametrize("kernel", [(3, 3), (4, 5), (9, 30), (2, 5, 4), (3, 7, 7)])
@pytest.mark.parametrize("margin", [0, 2])
def test_blur_is_the_direct_sum(kernel, margin):
    rng = np.random.default_rng(0)
    shape = (6, 7, 8)[-len(kernel) :]
    h = rng.random(kernel)
    op = Blur(h, shape, margin=margin)
    x = rng.random(op.in_shape)
    # the centre of the kernel is the voxel n // 2, whatever its size
    full = convolve(x, h, mode="full", method="direct")
    first = [k // 2 + margin for k in kernel]
    direct = full[tuple(slice(f, f + n) for f, n in zip(first, shape, strict=True))]
    np.testing.assert_allclose(op(x), direct, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 3, 4, 5])
@pytest.mark.parametrize("periodic", [False, True])
def test_a_delta_kernel_returns_the_input(size, periodic):
    delta = np.zeros((size, size))
    delta[size // 2, size // 2] = 1
    x = np.random.default_rng(0).random((7, 8))
    np.testing.assert_allclose(Blur(delta, (7, 8), periodic=periodic)(x), x, atol=1e-12)


def test_richardson_lucy_keeps_the_counts_and_stays_positive():
    rng = np.random.default_rng(SEED)
    kernel = rng.random((5, 5))
    op = Blur(kernel / kernel.sum(), (16, 18), periodic=True)
    counts = rng.poisson(op(100 * rng.random((16, 18)) ** 8)).astype(float)
    fit = richardson_lucy(op, counts, 60, device="cpu", snapshots=(1, 10, 60))
    for volume in fit.snapshots.values():
        np.testing.assert_allclose(volume.sum(), counts.sum(), rtol=1e-10)
        assert not np.signbit(volume).any()
    assert (np.diff(fit.history) <= 1e-12).all()


def test_acceleration_reaches_the_same_likelihood_in_a_third_of_the_iterations(scene):
    stack, op = scene
    plain = richardson_lucy(op, stack.counts, 60, stack.background, device="cpu")
    fast = richardson_lucy(op, stack.counts, 20, stack.background, accelerate=True, device="cpu")
    assert fast.history[-1] < plain.history[-1]
    assert fast.volume.min() >= 0


def test_the_simulator_and_the_kernel_agree_without_sharing_code(scene):
    stack, op = scene
    model = op(stack.truth) + stack.background
    assert np.abs(model - stack.expected).max() < 0.012 * stack.expected.max()
    wrong = Blur(kernel_of(SHAPE, {}), SHAPE)(stack.truth) + stack.background
    assert np.abs(wrong - stack.expected).max() > 0.05 * stack.expected.max()


def test_map_tv_beats_the_best_richardson_lucy(scene, map_fit):
    """On average of scenes; the weight is chosen from the counts, the iteration by the truth."""
    gains = []
    for k in range(4):
        stack, op = recorded(SEED + k) if k else scene
        choice, fit = fitted(stack, op) if k else map_fit
        baseline = richardson_lucy(
            op, stack.counts, 80, stack.background, accelerate=True, snapshots=range(2, 81, 2),
            device="cpu",
        )  # fmt: skip
        scores = {k: psnr(volume, stack.truth) for k, volume in baseline.snapshots.items()}
        assert not choice.at_edge
        gains.append(psnr(fit.volume, stack.truth) - max(scores.values()))
    assert np.mean(gains) > 0, gains


def test_map_tv_is_certified_and_no_neighbour_is_better(scene, map_fit):
    stack, op = scene
    choice, fit = map_fit
    assert fit.converged and 0 <= fit.gap <= 0.04 * fit.history[-1]
    assert (np.diff(fit.history) <= 0).all()

    def objective(x):
        mean, y = (op(x) + stack.background).astype(float), stack.counts.astype(float)
        logs = np.where(y > 0, y * np.log(np.maximum(y, 1) / mean), 0)
        return float((logs - y + mean).sum()) + choice.weight * tv(x.astype(float), spatial_dims=3)

    x = fit.with_margin
    value = objective(x)
    assert abs(value - fit.history[-1]) < 1e-4 * value
    rng = np.random.default_rng(0)
    others = [1.02 * x, 0.98 * x, x + 5, stack.truth, np.maximum(x + rng.normal(0, 5, x.shape), 0)]
    assert all(objective(other.astype(np.float32)) > value - fit.gap for other in others)


def test_the_bound_holds_before_the_end(scene, map_fit):
    """However early one stops, the best volume of a long run is not below the bound."""
    stack, op = scene
    choice, fit = map_fit
    for n_iter in (3, 6, 12):
        short = map_tv(
            op, stack.counts, choice.weight, stack.background, n_iter=n_iter, tol=0, device="cpu"
        )
        assert short.history[-1] - short.gap <= fit.history[-1] <= short.history[-1]


def test_a_strong_and_a_weak_weight_lose(scene, map_fit):
    stack, op = scene
    best = psnr(map_fit[1].volume, stack.truth)
    for factor, n_iter in ((1 / 1000, 300), (30, 100)):
        weight = factor * map_fit[0].weight
        fit = map_tv(op, stack.counts, weight, stack.background, n_iter=n_iter, device="cpu")
        assert best - psnr(fit.volume, stack.truth) > 0.5


def test_the_unit_of_light_does_not_matter():
    """Twice the counts with half the kernel and the weight halved: the same picture."""
    rng = np.random.default_rng(3)
    kernel = rng.random((3, 3))
    op = Blur(kernel / kernel.sum(), (16, 16))
    counts = rng.poisson(op(rng.random((16, 16)) * 50) + 2.0).astype(float)
    one = map_tv(op, counts, 0.02, 2.0, device="cpu").volume
    dim = op.with_kernel(op.kernel / 2)
    np.testing.assert_allclose(
        map_tv(dim, counts, 0.01, 2.0, device="cpu").volume, 2 * one, atol=0.02 * one.max()
    )


def test_a_margin_takes_up_the_light_from_outside():
    volume = tubes((12, 48, 48), seed=SEED)
    stack = widefield(volume, seed=SEED, margin=(0, 8, 8))
    shape = stack.counts.shape
    errors = {}
    for margin in (0, 8):
        kernel = kernel_of((12, 48, 48), ABERRATION)
        op = Blur(kernel, shape, margin=(0, margin, margin))
        fit = map_tv(op, stack.counts, 3e-4, stack.background, n_iter=40, device="cpu")
        rim = np.ones(shape, bool)
        rim[:, 4:-4, 4:-4] = False
        errors[margin] = np.abs(fit.volume - stack.truth)[rim].mean()
        assert fit.with_margin.shape == op.in_shape
    assert errors[8] < 0.9 * errors[0]


def test_saturated_pixels_are_masked_and_reported(scene):
    stack, op = scene
    full = float(np.quantile(stack.counts, 0.8))
    bright = stack.truth > 0.5 * stack.truth.max()
    clipped = np.minimum(stack.counts, full)
    for solve in (
        lambda y, **more: richardson_lucy(op, y, 40, 5.0, accelerate=True, device="cpu", **more),
        lambda y, **more: map_tv(op, y, 3e-4, 5.0, n_iter=40, device="cpu", **more),
    ):
        unaware, aware = solve(clipped), solve(clipped, saturation=full)
        assert unaware.n_masked == 0
        assert aware.n_masked == (clipped >= full).sum()
        broken = np.where(clipped >= full, np.nan, clipped)
        same = solve(broken, mask=np.isfinite(broken))
        np.testing.assert_allclose(same.volume, aware.volume, rtol=1e-4, atol=1e-2)
        hurt, well = (fit.volume[bright].mean() for fit in (unaware, aware))
        assert well / hurt > 1


def test_torch_in_torch_out_and_a_start_goes_on(scene):
    stack, op = scene
    counts = torch.as_tensor(stack.counts)
    fit = map_tv(op, counts, 3e-4, 5.0, n_iter=30, device="cpu")
    assert torch.is_tensor(fit.volume) and torch.is_tensor(fit.with_margin)
    more = map_tv(op, counts, 3e-4, 5.0, n_iter=3, start=fit.with_margin, device="cpu")
    fresh = map_tv(op, counts, 3e-4, 5.0, n_iter=3, device="cpu")
    assert more.history[-1] <= fit.history[-1]
    assert more.history[-1] / fresh.history[-1] < 0.9


BAD = [
    (lambda y: np.where(y > 50, np.nan, y), {}, "mask=np.isfinite"),
    (lambda y: y - 20, {}, "negative values"),
    (lambda y: y[:-1], {}, "build it for the shape"),
    (lambda y: y, {"background": -1.0}, "zero or more"),
    (lambda y: y, {"background": np.zeros(3)}, "a number or an image"),
    (lambda y: y, {"saturation": 0.0}, "no pixel is left"),
    (lambda y: y, {"mask": np.ones((2, 2))}, "mask has shape"),
    (lambda y: y, {"start": np.zeros((2, 2))}, "with its margin"),
    (lambda y: y, {"n_iter": 0}, "n_iter is 0"),
]


@pytest.mark.parametrize(("spoil", "options", "message"), BAD)
def test_bad_counts_are_refused(scene, spoil, options, message):
    stack, op = scene
    options = {"background": 5.0} | options
    with pytest.raises(ValueError, match=message):
        richardson_lucy(op, spoil(stack.counts), device="cpu", **options)
    with pytest.raises(ValueError, match=message):
        map_tv(op, spoil(stack.counts), 1e-3, device="cpu", **options)


@pytest.mark.parametrize(
    ("kernel", "options", "message"),
    [
        (np.full((3, 3), np.nan), {}, "it must be light"),
        (-np.ones((3, 3)), {}, "it must be light"),
        (np.zeros((3, 3)), {}, "no light"),
        (np.ones((3, 3, 3)), {}, "give both"),
        (np.ones((3, 3)), {"margin": -1}, "zero or more"),
        (np.ones((30, 3)), {"periodic": True}, "crop it"),
    ],
)
def test_bad_kernels_are_refused(kernel, options, message):
    with pytest.raises(ValueError, match=message):
        Blur(kernel, (8, 8), **options)


def test_other_errors_name_what_to_do(scene):
    stack, op = scene
    with pytest.raises(ValueError, match="made for"):
        op(np.zeros((3, 3, 3)))
    with pytest.raises(ValueError, match="positive number"):
        map_tv(op, stack.counts, 0.0)
    with pytest.raises(ValueError, match="not whole"):
        choose_weight(op, stack.counts + 0.5, 5.0)
    with pytest.raises(ValueError, match="odd numbers"):
        deconvolve.widefield_kernel(Pupil(1.3, 0.6, 1.515, 0.08), (4, 5, 5), 0.2, planes=4)
    with pytest.raises(ValueError, match="too large"):
        deconvolve.widefield_kernel(Pupil(1.3, 0.6, 1.515, 0.3), (3, 5, 5), 0.2, planes=4)


def test_a_kernel_that_is_no_kernel_is_flagged():
    z, y, x = np.mgrid[-6:7, -8:9, -8:9]
    psf = np.exp(-(x**2 + y**2) / (2 * 1.6**2) - z**2 / (2 * 2.5**2))
    counts = (psf * 60000).astype("uint16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Blur(psf / psf.sum(), (16, 48, 48))
    for kernel, words in (
        (counts, "sums to .*: divide it by its sum"),
        ((psf * 2000 + 100) / (psf * 2000 + 100).sum(), "its rim holds"),
        (np.roll(psf, (1, 3), (0, 1)) / psf.sum(), r"it lies .* \+3\.00 along y"),
        (psf.transpose(1, 2, 0) / psf.sum(), "axes look exchanged"),
    ):
        with pytest.warns(UserWarning, match=words):
            Blur(kernel, (16, 48, 48))
