"""The transform between the cameras against the one with which grid and movie were made."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from helpers.io import save_h5
from helpers.xray.calibrate import SpatialCalibration, fit_transform, register, spatial
from helpers.xray.calibrate._spatial import Pairs
from helpers.xray.cameras import Transform, coarsen
from helpers.xray.simulate import Experiment, grid_image
from helpers.xray.simulate.recordings import COPPER

FIELD = np.stack(np.meshgrid(np.linspace(0, 95, 20), np.linspace(0, 95, 20)), -1)


def drawn(seed):
    rng = np.random.default_rng(seed)
    return Transform(*rng.uniform([-0.1, 3.95, 3.95, -8, -8], [0.1, 4.05, 4.05, 12, 12]))


def images(seed, transform=None, **options):
    transform = transform or drawn(seed)
    e = Experiment(shape=(384, 384), transform=transform, **COPPER)
    options = {"angle": np.random.default_rng(seed).uniform(-0.1, 0.1)} | options
    return grid_image(e, seed=seed, **options)


def worst(found, truth):
    return np.abs(found(FIELD) - truth(FIELD)).max()


def numbers(transform):
    return np.array([transform.theta, transform.sx, transform.sy, transform.tx, transform.ty])


def soil(image, holes, share, seed, amount=0.5):
    """Dirt that covers half of some holes, so that their centres are false."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    image = image.copy()
    pitch = np.sqrt(image.size / len(holes))
    for hx, hy in holes[rng.random(len(holes)) < share]:
        dx, dy = 0.25 * pitch * rng.choice([-1, 1], 2)
        image *= 1 - amount * np.exp(
            -(((x - hx - dx) ** 2 + (y - hy - dy) ** 2) / (0.02 * pitch**2))
        )
    return image


def squared(found, covariance, truth):
    """Square of the errors of the five numbers in units of their covariance: about 5."""
    error = numbers(found) - numbers(truth)
    return error @ np.linalg.solve(covariance, error)


@pytest.fixture(scope="module")
def calibrated():
    """Grids with blocked holes, broken bars, shading and photon noise, and what was found."""
    grids = {seed: images(seed, blocked=6) for seed in range(2000, 2006)}
    return {seed: (grid, spatial(grid.hr, grid.lr)) for seed, grid in grids.items()}


def test_the_covariance_covers_the_errors(calibrated):
    pairs = [(f.transform, f.covariance, grid.transform) for grid, f in calibrated.values()]
    assert np.mean([squared(*each) for each in pairs]) < 10


@pytest.mark.parametrize("seed", range(2000, 2006))
def test_the_field_is_carried_over_to_a_twentieth_of_a_pixel(calibrated, seed):
    grid, found = calibrated[seed]
    assert worst(found.transform, grid.transform) < 0.05
    assert found.uncertainty(FIELD).max() < 0.02
    assert len(found.pairs.lr) > 80
    assert found.contest[0] > 0.8 > found.contest[1] + 0.15


@pytest.mark.parametrize("seed", range(2006, 2009))
def test_a_tenth_of_false_pairs_does_not_matter(seed):
    """Dirt on one camera's window moves the centres of holes that the other one sees clean."""
    grid = images(seed, blocked=6)
    clean = spatial(grid.hr, grid.lr)
    dirty = soil(grid.lr, clean.pairs.lr, 0.1, seed)
    found = spatial(grid.hr, dirty)
    assert worst(found.transform, grid.transform) < 0.05
    away = np.linalg.norm(found.pairs.hr - grid.transform(found.pairs.lr), axis=1)
    assert (away > 0.5).sum() >= 3, "the dirt has done nothing"
    assert found.pairs.weight[away > 0.5].max() < 0.3


def test_the_covariance_is_that_of_many_fits():
    rng = np.random.default_rng(0)
    truth, points = Transform(0.05, 3.97, 4.02, 3, -2), rng.uniform(0, 96, (120, 2))
    z = []
    for _ in range(150):
        noisy = truth(points) + rng.normal(0, 0.08, points.shape)
        found, covariance, _ = fit_transform(points, noisy)
        z.append(squared(found, covariance, truth))
    assert np.mean(z) == pytest.approx(5, abs=1.0)  # chi-square of five numbers


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_false_pairs_are_left_out(share):
    """Holes taken for their neighbours, a whole period away."""
    rng = np.random.default_rng(1)
    truth, points = Transform(-0.08, 4.04, 3.96, 5, 9), rng.uniform(0, 96, (120, 2))
    seen = truth(points) + rng.normal(0, 0.08, points.shape)
    false = rng.random(120) < share
    seen[false] += 31 * rng.choice([-1, 1], (false.sum(), 2)) * rng.integers(0, 2, (false.sum(), 2))
    found, covariance, weight = fit_transform(points, seen)
    assert worst(found, truth) < 0.06
    moved = np.abs(seen - truth(points)).max(1) > 10
    assert moved.sum() > 0.5 * share * 120 and weight[moved].max() < 1e-3
    assert squared(found, covariance, truth) < 25


def test_exact_pairs_give_the_exact_transform():
    points = np.array([[0, 0], [90, 3], [7, 80], [95, 95.0]])
    for truth in (Transform(), Transform(0.3, 3.5, 4.4, -20, 7), Transform(-0.7)):
        found, *_ = fit_transform(points, truth(points))
        np.testing.assert_allclose(numbers(found), numbers(truth), atol=1e-8)


@pytest.mark.parametrize("seed", [2010, 2011, 2012])
def test_a_perfect_grid_is_refused(seed):
    grid = images(seed, blocked=0, broken=0)
    with pytest.raises(ValueError, match="cannot be told apart.*give near="):
        spatial(grid.hr, grid.lr)
    t = grid.transform
    x, y = t([48, 48])
    guess = Transform(0.0, 4.0, 4.0, x - 192 + 9, y - 192 - 8)  # not turned, and off
    found = spatial(grid.hr, grid.lr, near=guess)
    assert worst(found.transform, t) < 0.05 and np.isnan(found.contest).all()


@pytest.mark.parametrize(("blocked", "broken"), [(1, 0), (0, 1), (4, 2)])
def test_one_fault_of_the_grid_is_enough_or_refused(blocked, broken):
    """And a shift by more than a period is seen, which no periodic grid alone can show.

    A fault that is too weak, or at the border, is refused.
    """
    seen = 0
    for seed in range(2013, 2019):
        t = drawn(seed)
        truth = Transform(t.theta, t.sx, t.sy, t.tx + 37, t.ty - 33)
        grid = images(seed, truth, blocked=blocked, broken=broken)
        try:
            found = spatial(grid.hr, grid.lr).transform
        except ValueError as refusal:
            assert "cannot be told apart" in str(refusal)
        else:
            assert worst(found, truth) < 0.05
            seen += 1
    assert seen >= 1


def test_the_answer_does_not_depend_on_units_or_on_the_kind_of_array():
    grid = images(2014)
    first = spatial(grid.hr, grid.lr).transform
    other = spatial(torch.from_numpy(grid.hr * 900), torch.from_numpy(grid.lr * 7)).transform
    np.testing.assert_allclose(numbers(first), numbers(other), rtol=1e-4)


# Registration


def made(transform, lr_shape=(24, 30), hr_shape=(80, 100)):
    pairs = None
    return SpatialCalibration(transform, np.eye(5) * 1e-4, pairs, hr_shape, lr_shape, (1.0, 0.0))


def pattern(points):
    """A smooth picture, at points (x, y) of the sharp camera."""
    x, y = points[..., 0], points[..., 1]
    return 0.6 + 0.2 * np.cos(x / 9) * np.sin(y / 13 + 1) + 0.002 * x


def test_registered_frames_show_what_the_sharp_camera_sees():
    transform = Transform(0.06, 4.03, 3.97, -3, 2)
    calibration = made(transform, (30, 34))
    y, x = np.mgrid[:30, :34]
    frame = pattern(transform(np.stack([x, y], -1)))
    result = register(frame, calibration)
    y, x = np.mgrid[:20, :25] * 4 + 1.5
    expected = pattern(np.stack([x, y], -1))
    seen = calibration.seen().reshape(20, 4, 25, 4).all((1, 3))
    assert seen.mean() > 0.8
    inner = seen & np.roll(seen, 1, 0) & np.roll(seen, 1, 1) & np.roll(seen, -1, 0)
    assert np.abs(result - expected)[inner][5:-5].max() < 4e-3


def test_it_is_one_resampling():
    """Noise, which every look-up between pixels changes, comes out as after a single one."""
    calibration = made(Transform(0.0, 4.0, 4.0, 1.5 + 2, 1.5), (20, 25))
    noise = np.random.default_rng(0).normal(size=(20, 25))
    from scipy.ndimage import shift

    moved = [shift(noise, (0, 0.5 * way), order=3, mode="nearest") for way in (1, -1)]
    twice = shift(shift(noise, (0, 0.25), order=3), (0, 0.25), order=3)
    result = register(noise, calibration)
    off = [np.abs(result - image)[5:-5, 5:-5].max() for image in (*moved, twice)]
    assert off[0] < 1e-6 < 0.1 < min(off[1:])


def test_frames_keep_their_kind_and_batch():
    calibration = made(Transform(0.02, 4.0, 4.0, 5, 1.5), (20, 25), (78, 99))
    frames = np.random.default_rng(0).random((2, 3, 20, 25)).astype(np.float32)
    result = register(frames, calibration)
    assert result.shape == (2, 3, 20, 25) and result.dtype == np.float32
    np.testing.assert_array_equal(register(frames[1, 2], calibration), result[1, 2])
    tensor = register(torch.from_numpy(frames), calibration)
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), result)
    counts = register((frames * 1000).astype(np.uint16), calibration)
    assert counts.dtype == np.float32
    filled = register(frames, calibration, fill=-1.0)
    assert (filled[..., 0] == -1).any() and (filled[..., 5:-5, 5:-5] != -1).all()


def test_the_pixel_centres_stay_in_place():
    """Aligned cameras: registration changes nothing, and agrees with the model of the camera."""
    sharp = gaussian_filter(np.random.default_rng(0).random((80, 100)), 5)
    frame = coarsen(sharp)
    np.testing.assert_allclose(register(frame, made(Transform(), (20, 25))), frame, atol=1e-7)


def test_uncertainty_grows_away_from_the_pairs():
    grid = images(2015)
    found = spatial(grid.hr, grid.lr)
    middle, corner, outside = (found.uncertainty(p).max() for p in ([48, 48], [0, 0], [-90, -90]))
    assert 1e-4 < middle < corner < outside


LEFT = np.array([[0, 0], [1, 0], [2, 0.0]])
SAMPLE = images(2016)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spatial(SAMPLE.hr, SAMPLE.hr), "31.0 sharp and 31.0 coarse .* 1.00 and not 4"),
        (lambda: spatial(SAMPLE.hr, np.ones((96, 96))), "lr_grid shows no grid"),
        (lambda: spatial(np.ones((384, 384)), SAMPLE.lr), "hr_grid shows no grid"),
        (lambda: spatial(SAMPLE.hr[None], SAMPLE.lr), "hr_grid has shape"),
        (
            lambda: spatial(SAMPLE.hr, SAMPLE.lr, near=Transform(tx=900)),
            "share 0 open holes: six are needed",
        ),
        (lambda: fit_transform(LEFT, LEFT), "lie on one line"),
        (lambda: fit_transform(LEFT[:2], LEFT[:2]), "three or more"),
        (lambda: fit_transform(LEFT, LEFT[:2]), "three or more"),
        (lambda: fit_transform(LEFT, LEFT * np.nan), "not all finite"),
        (lambda: register(np.ones((3, 10, 10)), made(Transform())), r"made for \(24, 30\)"),
        (lambda: register(np.ones(10), made(Transform())), "give whole frames"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_calibration_is_kept_in_a_file(tmp_path):
    path = tmp_path / "calibration.h5"
    for pairs in (None, Pairs(np.ones((2, 2)), np.zeros((2, 2)), np.ones(2))):
        whole = SpatialCalibration(
            Transform(0.01, 3.9, 4.1, 5.0, -2.0),
            np.eye(5),
            pairs,
            (64, 80),
            (16, 20),
            (0.9, np.nan),
        )
        whole.save(path)
        again = SpatialCalibration.load(path)
        assert again.transform == whole.transform
        assert (again.hr_shape, again.lr_shape) == (whole.hr_shape, whole.lr_shape)
        np.testing.assert_array_equal(again.contest, whole.contest)
        np.testing.assert_array_equal(again.covariance, whole.covariance)
        assert (again.pairs is None) == (pairs is None)
        if pairs is not None:
            for ours, theirs in zip(again.pairs, pairs, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    save_h5(path, {"x": 1.0})
    with pytest.raises(ValueError, match="holds no spatial calibration"):
        SpatialCalibration.load(path)
