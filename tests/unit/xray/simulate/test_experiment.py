"""Movies of two cameras: what each frame shows, when, and with how much noise."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import label, map_coordinates

from helpers.xray.cameras import Transform, coarsen
from helpers.xray.simulate import Experiment, grid_image, simulate
from helpers.xray.simulate.recordings import COPPER, TURNED

SMALL = Experiment(shape=(64, 64), n_frames=13)
BRIGHT = replace(SMALL, hr_photons=1e8, lr_photons=1e8)
KINDS = [
    ("standard", "melt_pool"),
    ("standard", "bubbles"),
    ("standard", "cracks"),
    ("other", "melt_pool"),
]


def test_the_movie_has_the_frames_of_both_cameras():
    movie = simulate(SMALL, 1000)
    assert movie.hr.shape == (2, 64, 64) and movie.key_times.tolist() == [0, 10]
    assert movie.lr.shape == (13, 16, 16) and movie.truth.shape == (13, 64, 64)
    assert {movie.hr.dtype, movie.lr.dtype, movie.truth.dtype} == {np.dtype("float32")}
    assert movie.transform == Transform() and movie.time_offset == 0


def test_a_seed_gives_one_movie_whatever_its_length():
    first, longer = simulate(SMALL, 1000), simulate(replace(SMALL, n_frames=15), 1000)
    np.testing.assert_array_equal(first.truth, longer.truth[:13])
    np.testing.assert_array_equal(first.hr, simulate(SMALL, 1000).hr)
    assert np.abs(first.truth - simulate(SMALL, 1001).truth).max() > 0.1


@pytest.mark.parametrize(("generator", "scene"), KINDS)
def test_the_coarse_camera_sees_the_blurred_and_binned_truth(generator, scene):
    """Up to the blur of the sharp detector, which the truth has and the coarse frame has not."""
    inner = np.s_[:, 3:-3, 3:-3]  # at the border the operator does not know what comes beyond
    movie = simulate(replace(BRIGHT, generator=generator, scene=scene), 1000)
    difference = (movie.lr - coarsen(movie.truth))[inner]
    assert np.abs(difference.mean()) < 1e-3
    assert difference.std() / movie.lr.std() < 0.15
    noisy = simulate(replace(SMALL, generator=generator, scene=scene), 1000)
    noise = (noisy.lr - coarsen(noisy.truth))[inner]
    assert noise.var() == pytest.approx(noisy.lr.mean() / 3000, rel=0.4)


@pytest.mark.parametrize(("generator", "scene"), KINDS)
def test_specimens_are_physical_and_move(generator, scene):
    movie = simulate(replace(SMALL, generator=generator, scene=scene), 1001)
    assert np.isfinite(movie.truth).all() and movie.truth.min() > 0
    assert 0.3 < movie.truth.mean() < 1
    assert np.log10(np.abs(movie.truth[6] - movie.truth[0]).max()) > -2
    nothing = np.abs(movie.truth[6] - movie.truth[0]) < 0.02
    assert nothing.mean() > 0.25  # part of the field stands still
    step = np.abs(np.diff(movie.truth, axis=0)).mean()
    assert step / np.abs(movie.truth[10] - movie.truth[0]).mean() < 0.5  # motion, not flicker


def test_key_frames_are_noisy_views_of_the_truth():
    movie = simulate(SMALL, 1000)
    noise = movie.hr - movie.truth[[0, 10]]
    assert abs(noise.mean()) < 1e-3
    assert noise.var() == pytest.approx(movie.hr.mean() / 4000, rel=0.1)
    lr_noise = movie.lr[[0, 10]] - coarsen(movie.truth[[0, 10]])
    shared = (coarsen(noise, 0) * lr_noise).mean() / (coarsen(noise, 0).std() * lr_noise.std())
    assert abs(shared) < 0.25  # the cameras count other photons


def test_the_slow_clock_may_be_late_and_wrong():
    movie = simulate(replace(BRIGHT, time_offset=2.0), 1000)
    assert movie.key_times.tolist() == [0, 10] and movie.time_offset == 2
    np.testing.assert_allclose(movie.hr, movie.truth[[2, 12]], atol=1e-3)
    slow = simulate(replace(BRIGHT, clock_rate=0.9, time_offset=1.0), 1000)
    np.testing.assert_allclose(slow.hr, slow.truth[[1, 10]], atol=1e-3)
    between = simulate(replace(BRIGHT, time_offset=0.5), 1000)
    assert np.abs(between.hr[0] - between.truth[0]).max() > 0.01
    assert np.abs(between.hr[0] - (between.truth[0] + between.truth[1]) / 2).mean() < 0.006


def test_a_turned_camera_sees_the_same_specimen_elsewhere():
    turned = Transform(0.03, 4.04, 3.97, 0.5, 3.0)
    aligned, movie = (simulate(replace(BRIGHT, transform=t), 1000) for t in (Transform(), turned))
    np.testing.assert_array_equal(aligned.truth, movie.truth)
    assert movie.transform == turned
    # where the turned pixels lie on the aligned coarse image
    x, y = np.meshgrid(np.arange(16), np.arange(16))
    places = Transform().inverse(turned(np.stack([x, y], axis=-1)))
    found = map_coordinates(aligned.lr[5], places[..., ::-1].transpose(2, 0, 1), order=3)
    inner = np.s_[3:-3, 3:-3]
    right = np.abs(movie.lr[5] - found)[inner].mean()
    wrong = np.abs(movie.lr[5] - aligned.lr[5])[inner].mean()
    assert right < 0.3 * wrong and right < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene": "soup"}, "no scene standard soup: there are standard melt_pool"),
        ({"generator": "other", "scene": "cracks"}, "no scene other cracks"),
        ({"shape": (66, 64)}, "two multiples of 4"),
        ({"shape": (64, 28)}, "a specimen needs 64.0 um along both sides"),
        ({"n_frames": 2}, "three frames or more"),
        ({"key_every": 0}, "1 or more between keys"),
        ({"hr_photons": 0.0}, "hr_photons is 0.0: give a positive number"),
        ({"mu": -1.0}, "mu is -1.0"),
        ({"distance": float("nan")}, "distance is nan"),
    ],
)
def test_impossible_experiments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def centroids(image, brighter_than):
    """Centres (x, y) and areas of whole bright squares."""
    labels, n = label(image > brighter_than)
    squares = []
    for k in range(1, n + 1):
        y, x = np.nonzero(labels == k)
        inside = 0 < y.min() and 0 < x.min()
        inside &= y.max() < image.shape[0] - 1 and x.max() < image.shape[1] - 1
        if inside:
            squares.append((x.mean(), y.mean(), len(x)))
    return np.array(squares)


def test_the_grid_is_where_the_transform_says():
    images = grid_image(seed=2000, shading=0.0)
    sharp, coarse = centroids(images.hr, 0.86), centroids(images.lr, 0.86)
    there = images.transform(coarse[:, :2])
    distance = np.linalg.norm(there[:, None] - sharp[None, :, :2], axis=-1)
    near = distance.min(axis=1) < 1.5
    assert near.sum() > 80
    offset = there[near] - sharp[distance.argmin(axis=1)[near], :2]
    assert np.abs(np.median(offset, axis=0)).max() < 0.15
    assert images.transform == TURNED


def test_the_grid_has_its_pitch_and_its_faults():
    options = {"seed": 2001, "shading": 0.0, "angle": 0.0}
    perfect, faulty = (grid_image(**options, blocked=n, broken=n) for n in (0, 3))
    squares = centroids(perfect.hr, 0.86)
    along = np.sort(squares[:, 0])
    rows = [row.mean() for row in np.split(along, np.flatnonzero(np.diff(along) > 5) + 1)]
    assert abs(np.diff(rows).mean() * perfect.pixel_size - 62) < 0.5
    missing = len(squares) - len(centroids(faulty.hr, 0.86))
    assert 3 <= missing <= 6  # blocked holes, and pairs that became one
    assert centroids(faulty.hr, 0.86)[:, 2].max() > 2 * np.median(squares[:, 2])


def test_the_grid_is_shaded_and_noisy_as_told():
    flat, shaded = (grid_image(seed=2002, shading=s) for s in (0.0, 0.3))
    ratio = coarsen(shaded.hr, 8) / coarsen(flat.hr, 8)
    assert ratio.max() > 0.97 and ratio.min() < 0.75
    few, many = (
        grid_image(Experiment(shape=(192, 192), **COPPER), seed=3, frames=n) for n in (1, 10_000)
    )
    noise = few.hr - many.hr
    assert noise.var() == pytest.approx(few.hr.mean() / 4000, rel=0.05)
    with pytest.raises(ValueError, match="a bar thinner than the pitch"):
        grid_image(bar=70.0)
