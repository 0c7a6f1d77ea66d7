"""Projections against closed forms, a dense matrix and turned images; SIRT against its theory."""

import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import rotate

from helpers.inr.tomography import ParallelBeam, Sirt, missing_wedge, sirt
from tests.benchmarks.inr_tomography import rotate_and_sum

SHAPES = [(9, 5, 9), (8, 3, 8), (7, 2, 12), (12, 4, 7)]
ANGLES = [-60.0, -17.3, 0.0, 30.0, 45.0, 90.0, 133.0, 180.0]


def gaussian(shape, sigma, centre=(0, 0, 0)):
    axes = [np.arange(n) - (n - 1) / 2 - c for n, c in zip(shape, centre, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.exp(-(z**2 + y**2 + x**2) / (2 * sigma**2))


def phantom(shape=(20, 6, 20), seed=0):
    """Blocks well inside the slice."""
    rng = np.random.default_rng(seed)
    volume = np.zeros(shape)
    for _ in range(5):
        z, y, x = (int(rng.integers(n // 4, n // 2 + 1)) for n in shape)
        volume[z : z + 4, y : y + 3, x : x + 4] += rng.uniform(0.5, 1)
    return volume


@pytest.mark.parametrize("shape", SHAPES)
def test_no_projection_loses_or_adds_light(shape):
    volume = np.random.default_rng(1).random(shape)
    op = ParallelBeam(ANGLES, shape)
    sums = op(volume).sum((1, 2))
    np.testing.assert_allclose(sums, volume.sum(), rtol=1e-9)
    np.testing.assert_allclose(op.sensitivity, len(ANGLES), rtol=1e-6)
    # the tilt axis keeps its light to itself
    np.testing.assert_allclose(op(volume).sum(2), np.tile(volume.sum((0, 2)), (len(ANGLES), 1)))


def test_a_centred_gaussian_looks_the_same_from_everywhere():
    volume = gaussian((33, 9, 33), 3.0)
    views = ParallelBeam(np.linspace(0, 180, 25), volume.shape)(volume)
    spread = np.abs(views - views[0]).max() / views[0].max()
    assert spread < 0.01
    width = views.shape[-1]
    s = np.arange(width) - (width - 1) / 2
    y = np.arange(9) - 4
    analytic = np.sqrt(2 * np.pi) * 3 * np.exp(-(y[:, None] ** 2 + s**2) / 18)
    assert np.abs(views - analytic).max() < 0.02 * analytic.max()


def test_the_angles_turn_the_way_the_equation_says():
    """A point at (z, x) falls on s = x cos + z sin."""
    volume = gaussian((31, 5, 31), 1.2, centre=(6, 1, -3))
    op = ParallelBeam(ANGLES, volume.shape)
    views = op(volume)
    s = np.arange(op.out_shape[2]) - (op.out_shape[2] - 1) / 2
    found = (views.sum(1) @ s) / views.sum((1, 2))
    angles = np.deg2rad(ANGLES)
    np.testing.assert_allclose(found, -3 * np.cos(angles) + 6 * np.sin(angles), atol=0.02)
    np.testing.assert_allclose(views.sum((0, 2)).argmax(), 3)


def test_right_angles_are_plain_sums():
    volume = np.random.default_rng(2).random((6, 3, 8))
    views = ParallelBeam([0, 90, 180], volume.shape)(volume)
    np.testing.assert_allclose(views[0][:, 1:9], volume.sum(0), atol=1e-12)
    np.testing.assert_allclose(views[1][:, 2:8], volume.sum(2).T, atol=1e-12)
    np.testing.assert_allclose(views[2], views[0][:, ::-1], atol=1e-12)


def test_it_agrees_with_turning_the_volume_and_summing():
    volume = gaussian((30, 3, 30), 2.5, (4, 0, 5)) + gaussian((30, 3, 30), 3.5, (-4, 0, -2))
    for angle in (12.0, 45.0, 77.0):
        turned = rotate(volume, angle, axes=(2, 0), reshape=False, order=3)
        view = ParallelBeam([angle], volume.shape, 30)(volume)[0]
        assert np.abs(view - turned.sum(0)).max() < 0.02 * view.max()


def test_the_benchmark_times_two_ways_to_the_same_answer():
    volume = gaussian((32, 4, 32), 2.5, (3, 0, -4))
    views = ParallelBeam(ANGLES, volume.shape)(volume)
    turned = rotate_and_sum(torch.tensor(volume).float(), ANGLES, views.shape[-1])
    assert np.abs(views - turned.numpy()).max() < 0.02 * views.max()


def test_a_turned_square_casts_a_trapezoid():
    """One voxel, against the shadow integrated by a million rays."""
    op = ParallelBeam([25.0], (1, 1, 1))
    rng = np.random.default_rng(0)
    z, x = rng.random((2, 1_000_000)) - 0.5
    s = x * np.cos(np.deg2rad(25)) + z * np.sin(np.deg2rad(25))
    share = np.histogram(s, bins=[-1, 0, 1])[0] / s.size
    assert op.out_shape == (1, 1, 2)
    np.testing.assert_allclose(op(np.ones((1, 1, 1)))[0, 0], share, atol=2e-3)
    narrow = ParallelBeam([25.0], (1, 1, 1), 1)(np.ones((1, 1, 1)))
    np.testing.assert_allclose(narrow[0, 0], np.mean(np.abs(s) < 0.5), atol=2e-3)


def test_leading_axes_are_a_batch():
    op = ParallelBeam(ANGLES, (7, 3, 8))
    batch = np.random.default_rng(3).random((2, 4, 7, 3, 8))
    views = op(batch)
    assert views.shape == (2, 4, *op.out_shape)
    np.testing.assert_allclose(views[1, 2], op(batch[1, 2]))
    back = op.adjoint(views)
    assert back.shape == batch.shape
    np.testing.assert_allclose(back[0, 3], op.adjoint(views[0, 3]))


def test_kind_and_precision_are_kept():
    op = ParallelBeam([0, 20], (4, 2, 4))
    single = np.ones(op.in_shape, np.float32)
    assert op(single).dtype == np.float32 and op(single.astype(float)).dtype == np.float64
    assert op(np.ones(op.in_shape, int)).dtype == np.float32
    tensor = op(torch.ones(op.in_shape, dtype=torch.float64))
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64


def test_gradients_go_through_twice():
    op = ParallelBeam([0, 33], (3, 2, 4))
    x = torch.rand(op.in_shape, dtype=torch.float64, requires_grad=True)
    y = torch.rand(op.out_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op, x) and torch.autograd.gradcheck(op.adjoint, y)
    assert torch.autograd.gradgradcheck(lambda x: op(x**2), x)
    gradient = torch.autograd.grad((op(x) * y).sum(), x)[0]
    torch.testing.assert_close(gradient, op.adjoint(y))


def test_some_of_the_views_are_the_rows_of_all():
    op = ParallelBeam(ANGLES, (8, 3, 9), 10)
    volume = np.random.default_rng(4).random(op.in_shape)
    part = op.select([1, 5])
    assert part.angles_deg == (-17.3, 90.0) and part.out_shape == (2, 3, 10)
    np.testing.assert_array_equal(part(volume), op(volume)[[1, 5]])


def test_no_warning_reaches_the_reader():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ParallelBeam([10], (3, 2, 3))(np.ones((3, 2, 3), np.float32))


# SIRT


@pytest.fixture(scope="module")
def noisy():
    op = ParallelBeam(np.arange(0, 180, 20), (20, 6, 20))
    truth = phantom()
    clean = op(truth)
    noise = np.random.default_rng(5).normal(0, 0.1 * clean.max(), clean.shape)
    return op, truth, clean, clean + noise


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("relaxation", [0.5, 1.0, 1.9])
def test_the_residual_never_rises(noisy, nonnegative, relaxation):
    op, _, _, y = noisy
    result = sirt(op, y, 80, nonnegative=nonnegative, relaxation=relaxation, device="cpu")
    assert isinstance(result, Sirt) and result.n_iter == 80 and len(result.history) == 81
    assert result.history[0] == 1 and (np.diff(result.history) <= 1e-12).all()
    assert result.history[-1] < (0.9 if nonnegative else 0.7)
    assert (result.volume.min() >= 0) is np.bool_(nonnegative)


def test_it_finds_the_truth_where_the_data_suffice(noisy):
    op, truth, clean, _ = noisy
    views = ParallelBeam(np.arange(0, 180, 4), op.in_shape)
    result = sirt(views, views(truth), 600, relaxation=1.9, device="cpu")
    assert np.linalg.norm(result.volume - truth) < 0.06 * np.linalg.norm(truth)


def test_every_iteration_is_the_equation(noisy):
    op, _, _, y = noisy
    rows, columns = op(np.ones(op.in_shape)), op.adjoint(np.ones(op.out_shape))
    weight = 1 / np.maximum(rows, 1)
    seen = []
    sirt(op, y, 3, relaxation=0.7, device="cpu", callback=lambda k, v: seen.append((k, v.numpy())))
    volume = np.zeros(op.in_shape)
    for k in range(3):
        volume += 0.7 / columns * op.adjoint(weight * (y - op(volume)))
        volume = np.maximum(volume, 0)
        assert seen[k][0] == k + 1
        np.testing.assert_allclose(seen[k][1], volume, atol=1e-12)


def test_noise_is_fitted_in_the_end(noisy):
    """The number of iterations is what regularises: there is a best one."""
    op, truth, _, y = noisy
    errors = []
    sirt(op, y, 300, device="cpu", callback=lambda k, v: errors.append(np.std(v.numpy() - truth)))
    best = int(np.argmin(errors))
    assert 3 < best < 200 and errors[-1] > 1.05 * errors[best]


def test_a_batch_is_reconstructed_as_one_by_one(noisy):
    op, _, clean, y = noisy
    both = sirt(op, np.stack([clean, y]), 5, device="cpu").volume
    np.testing.assert_allclose(both[1], sirt(op, y, 5, device="cpu").volume, atol=1e-12)


def test_views_without_light_give_an_empty_volume(noisy):
    op = noisy[0]
    result = sirt(op, np.zeros(op.out_shape), 2, device="cpu")
    assert not result.volume.any() and result.converged


def test_it_knows_when_nothing_changes_any_more(noisy):
    op, _, _, y = noisy
    assert not sirt(op, y, 5, device="cpu").converged
    assert sirt(op, y, 150, device="cpu").converged


# The wedge


def test_the_wedge_has_the_size_of_its_angle():
    wedge = missing_wedge((128, 2, 128), max_tilt=60)
    kz, kx = np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128), indexing="ij")
    disc = np.hypot(kz, kx) < 0.5
    assert wedge[:, 0][disc].mean() == pytest.approx(1 / 3, abs=0.02)
    assert wedge[40, 0, 0] and not wedge[0, 0, 40] and not wedge[0, 0, 0]
    np.testing.assert_array_equal(wedge[:, 0], wedge[:, 1])
    assert not missing_wedge((16, 1, 16), max_tilt=90).any()


def test_what_lies_in_the_wedge_is_not_seen():
    """A wave of a missing frequency leaves no trace in the views; one beside it does."""
    shape, angles = (64, 1, 64), np.linspace(-60, 60, 121)
    z, x = np.arange(64)[:, None], np.arange(64)
    # a window keeps the borders from spreading the frequency
    window = np.hanning(64)[:, None] * np.hanning(64)
    op = ParallelBeam(angles, shape)
    wedge = missing_wedge(shape, angles)[:, 0]
    strength = {}
    for kz, kx in ((12, 0), (12, 4), (3, 12), (0, 12)):
        wave = window * np.cos(2 * np.pi * (kz * z + kx * x) / 64)
        strength[bool(wedge[kz, kx]), kz, kx] = np.square(op(wave[:, None])).sum()
    hidden = [v for (missing, *_), v in strength.items() if missing]
    seen = [v for (missing, *_), v in strength.items() if not missing]
    assert len(hidden) == len(seen) == 2
    assert max(hidden) < 1e-3 * min(seen)


def test_a_lopsided_series_sees_one_diagonal_only():
    shape, angles = (64, 1, 64), np.linspace(0, 60, 61)
    wedge = missing_wedge(shape, angles)[:, 0]
    z, x = np.arange(64)[:, None], np.arange(64)
    window = np.hanning(64)[:, None] * np.hanning(64)
    op = ParallelBeam(angles, shape)
    seen, hidden = (
        np.square(op((window * np.cos(2 * np.pi * (8 * z + k * x) / 64))[:, None])).sum()
        for k in (8, -8)
    )
    assert wedge[8, -8] and not wedge[8, 8] and hidden < 1e-3 * seen


def test_few_views_leave_gaps_between_them():
    few = missing_wedge((48, 1, 48), np.arange(7) * 180 / 7)
    many = missing_wedge((48, 1, 48), np.arange(90) * 2)
    assert few.mean() > 0.5 > 0.05 > many.mean()
    gapless = missing_wedge((48, 1, 48), max_tilt=60)
    dense = missing_wedge((48, 1, 48), np.linspace(-60, 60, 121))
    assert np.mean(gapless != dense) < 0.01


OP = ParallelBeam([0, 45], (4, 3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ParallelBeam([], (4, 4, 4)), "give a list of finite angles"),
        (lambda: ParallelBeam([0, np.nan], (4, 4, 4)), "give a list of finite angles"),
        (lambda: ParallelBeam(30.0, (4, 4, 4)), "give a list of finite angles"),
        (lambda: ParallelBeam([0], (4, 4)), r"shape is \(4, 4\): give three positive whole"),
        (lambda: ParallelBeam([0], (4, 0, 4)), "give three positive whole"),
        (lambda: ParallelBeam([0], (4, 4, 4), 0), "width is 0: give a whole number of detector"),
        (lambda: OP(np.ones((3, 4, 4))), r"volume have shape \(3, 4, 4\).*= \(..., 4, 3, 4\)"),
        (lambda: OP.adjoint(np.ones((3, 3, 6))), "projections have shape .* N, Y, S"),
        (lambda: sirt(OP, np.ones((3, 3, 6)), 5), r"with 3 views.*with 2: give one angle for"),
        (lambda: sirt(OP, np.ones((3, 6)), 5), "with no views"),
        (lambda: sirt(OP, np.full((2, 3, 6), np.nan), 5), "projections hold NaN"),
        (lambda: sirt(OP, np.ones((2, 3, 6)), 0), "n_iter is 0: give a whole number"),
        (lambda: sirt(OP, np.ones((2, 3, 6)), 2.5), "n_iter is 2.5: give a whole number"),
        (lambda: sirt(OP, np.ones((2, 3, 6)), 5, relaxation=2), "must lie between 0 and 2"),
        (lambda: missing_wedge((4, 4, 4)), "give either angles_deg or max_tilt"),
        (lambda: missing_wedge((4, 4, 4), [0], max_tilt=60), "either angles_deg or max_tilt"),
        (lambda: missing_wedge((4, 4, 4), max_tilt=100), "max_tilt is 100: give degrees"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
