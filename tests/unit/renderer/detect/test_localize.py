"""Molecules in crowded and in empty frames; pairs of found and true ones; what is refused."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from helpers.noise import SCMOS, Poisson
from helpers.renderer import mle
from helpers.renderer.detect import (
    MatchedFilter,
    _localize,
    _search_cpu,
    finder,
    localize,
    match,
    matched_filter,
)
from helpers.renderer.detect.matched_filter import threshold
from helpers.renderer.renderers import Gaussian2D, Gaussian3D, Spline2D
from helpers.renderer.simulate import blinking_movie, crowded_frames, spots_image
from helpers.renderer.simulate.spots import astigmatic_spots

WIDTH = 5**0.5


@pytest.fixture(scope="module")
def standard():
    """The crowded task: up to four molecules that may overlap, a noisy camera."""
    frames, truth = crowded_frames(500, seed=2000)
    return truth, localize(frames, WIDTH, SCMOS(100.0**2), device="cpu")


def test_crowded_frames_are_solved(standard):
    truth, found = standard
    result = match(found, truth, 2.5)
    print(f"{result.n_matched} pairs, {result.n_missed} missed, {result.n_extra} extra")
    assert result.n_matched + result.n_missed == len(truth)
    assert result.n_matched + result.n_extra == len(found)
    assert result.jaccard > 0.95 and result.precision > 0.97 and result.recall > 0.96
    assert result.rmse < 0.15


def test_each_error_is_what_the_bound_says(standard):
    """Where molecules overlap, too, if none was missed."""
    truth, found = standard
    result = match(found, truth, 2.5)
    wrong = np.union1d(
        np.setdiff1d(found.frame, found.frame[result.found]),
        truth.frame[np.setdiff1d(np.arange(len(truth)), result.truth)],
    )
    solved = ~np.isin(found.frame[result.found], wrong)
    found, truth = found[result.found[solved]], truth[result.truth[solved]]
    for name in ("x", "y", "photons"):
        score = (found[name] - truth[name]) / found[f"{name}_std"]
        assert np.median(np.abs(score)) / 0.6745 == pytest.approx(1, abs=0.13)
    assert found.chi2.mean() == pytest.approx(1, abs=0.05)
    assert found.converged.mean() > 0.95


def test_isolated_molecules_reach_the_bound():
    """In large frames, cut into regions, from data that no renderer made."""
    rng = np.random.default_rng(2001)
    n, shape = 250, (40, 61)
    x = np.array([-18.0, 0.0, 18.0, 8.0]) + rng.uniform(-1, 1, (n, 4))
    y = np.array([9.0, -9.0, -8.0, 9.0]) + rng.uniform(-1, 1, (n, 4))
    rate = [10 + spots_image(x[k], y[k], [1000.0] * 4, 1.3, shape) for k in range(n)]
    truth = {"frame": np.repeat(np.arange(n), 4), "x": x.ravel(), "y": y.ravel()}
    found = localize(rng.poisson(rate).astype(np.float32), 1.3, device="cpu")
    result = match(found, truth, 1.0)
    assert result.jaccard > 0.99
    bound = mle.crlb(
        Gaussian2D((13, 13)), {"photons": 1000.0, "background": 10.0}, Poisson(), fixed=["sigma"]
    )
    assert result.rmse == pytest.approx(float(bound["x"][0]), rel=0.06)
    assert np.median(found.x_std) == pytest.approx(float(bound["x"][0]), rel=0.03)
    assert np.median(found.photons) == pytest.approx(1000, rel=0.02)
    assert np.median(found.background) == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("shape", [(32, 32), (70, 50)])
def test_noise_alone_is_taken_for_molecules_as_often_as_allowed(shape):
    frames = np.random.default_rng(2002).poisson(20.0, (400, *shape)).astype(np.float32)
    found = localize(frames, 1.3, false_alarms=0.1, device="cpu")
    assert 10 < len(found) < 80  # 40 are allowed


def test_empty_frames_give_an_empty_table():
    found = localize(np.full((3, 20, 20), 5.0), 1.3, device="cpu")
    assert len(found) == 0
    assert found.dtype.names[:4] == ("frame", "x", "y", "photons")
    truth = {"frame": [0, 0], "x": [0.0, 5.0], "y": [1.0, 1.0]}
    result = match(found, truth, 1.0)
    assert (result.n_matched, result.n_missed, result.n_extra) == (0, 2, 0)
    assert result.jaccard == 0 and np.isnan(result.precision) and np.isnan(result.rmse)


def test_regions_find_what_whole_frames_find():
    frames, truth = crowded_frames(
        60, (30, 44), emitters=3, present=1.0, photons=(800, 1200), background=(8, 8), sigma=1.3,
        read_noise=0, extent=0.9, seed=2003,
    )  # fmt: skip
    regions = localize(frames, 1.3, device="cpu")
    whole = localize(frames, Gaussian2D((30, 44)), fixed={"sigma": 1.3}, device="cpu")
    pairs = match(regions, whole, 0.2)
    assert pairs.jaccard > 0.96 and pairs.rmse < 0.02
    assert match(regions, truth, 1.0).jaccard > 0.9


def test_the_result_does_not_depend_on_the_batch_or_the_container():
    movie = blinking_movie(
        np.random.default_rng(2004).uniform(-2, 2, (60, 2)), (48, 48), 23, time_off=20, seed=2004
    )
    frames = np.stack([movie[k] for k in range(len(movie))])
    noise = SCMOS(1.0)
    whole = localize(frames, 1.3, noise, device="cpu")
    parts = localize(movie, 1.3, noise, batch=7, device="cpu")
    tensor = localize(torch.as_tensor(frames), 1.3, noise)
    assert len(whole) > 10 and (np.diff(whole.frame) >= 0).all()
    for other in (parts, tensor):
        np.testing.assert_array_equal(other.frame, whole.frame)
        for name in ("x", "y", "photons", "x_std", "chi2"):
            np.testing.assert_allclose(other[name], whole[name], rtol=2e-3, atol=2e-3)


def test_a_pair_closer_than_the_spot_is_two_molecules_if_the_light_allows():
    rng = np.random.default_rng(2005)

    def share_of_pairs(photons, distance):
        half = distance / 2
        rate = 10 + spots_image([-half, half], [0, 0], [photons] * 2, 1.3, (15, 15))
        found = localize(rng.poisson(rate, (100, 15, 15)).astype("f4"), 1.3, device="cpu")
        return np.mean(np.bincount(found.frame, minlength=100) == 2)

    assert share_of_pairs(2000.0, 2.0) > 0.9
    assert share_of_pairs(300.0, 0.5) < 0.1


def test_hot_and_saturated_pixels_are_left_out():
    rate = 5 + spots_image([4.3], [-3.1], [3000.0], 1.3, (21, 21))
    frames = np.random.default_rng(2006).poisson(rate, (40, 21, 21)).astype(np.float32)
    frames[:, 3, 5] += 500
    frames = frames.clip(max=180)
    mask = np.ones((21, 21), bool)
    mask[3, 5] = False
    plain = localize(frames, 1.3, device="cpu")
    found = localize(frames, 1.3, mask=mask, saturation=180, device="cpu")
    truth = {"frame": np.arange(40), "x": [4.3] * 40, "y": [-3.1] * 40}
    result = match(found, truth, 1)
    assert len(plain) >= 75 and result.n_missed == 0
    assert result.n_extra < 6  # a false alarm in a hundred frames
    assert found.masked.mean() > 1 and plain.masked.max() == 0
    assert np.median(found.photons) == pytest.approx(3000, rel=0.03)
    at_spot = match(plain, truth, 1).found
    assert plain.photons[at_spot].mean() < 2900


def test_a_map_of_read_noise_is_cut_with_the_frames():
    """Noisy pixels are no molecules for a finder that knows them."""
    rng = np.random.default_rng(2007)
    variance = np.where(rng.random((50, 50)) < 0.03, 900.0, 1.0)
    rate = 5 + spots_image([10.2], [-12.4], [600.0], 1.3, (50, 50))
    noise = np.sqrt(variance) * rng.standard_normal((60, 50, 50))
    frames = (rng.poisson(rate, (60, 50, 50)) + noise).astype(np.float32)
    truth = {"frame": np.arange(60), "x": np.full(60, 10.2), "y": np.full(60, -12.4)}
    aware = match(localize(frames, 1.3, SCMOS(variance), device="cpu"), truth, 1.0)
    naive = match(localize(frames, 1.3, SCMOS(1.0), device="cpu"), truth, 1.0)
    assert aware.jaccard > 0.9 and naive.precision < 0.5


def test_other_renderers_bring_their_own_columns():
    spots = Gaussian3D((17, 17))
    z = np.linspace(-0.3, 0.3, 30)
    place = {"x": np.full(30, 1.2), "y": np.full(30, -0.7)}
    frames = spots.render({**place, "z": z, "photons": 4000.0, "background": 5.0})
    frames = np.random.default_rng(2008).poisson(frames).astype(np.float32)
    found = localize(frames, spots, device="cpu")
    pairs = match(found, {"frame": np.arange(30), **place}, 1.0)
    assert pairs.n_missed == 0 and pairs.n_extra < 4
    found = found[pairs.found]
    assert np.sqrt(np.mean((found.z - z[pairs.truth]) ** 2)) < 2 * np.median(found.z_std)
    wide = localize(frames[14:16], Gaussian2D((17, 17)), device="cpu")
    assert (wide.sigma > 1.3).all() and (wide.sigma_std > 0).all()


def test_a_neighbour_at_a_limit_leaves_the_others_converged():
    """The first two are neighbours, each outside the region of the other; the third is too deep."""
    x, y, z = np.array([[-16.0, -7.0, 16.2], [0.3, -0.2, 0.1], [0.1, -0.2, 0.75]])
    widths = [1.3 * np.hypot(1, (z - focus) / 0.4) for focus in (0.25, -0.25)]
    columns, rows = (
        np.diff(ndtr((np.arange(n + 1) - n / 2 - at[:, None]) / width[:, None]))
        for n, at, width in zip((60, 31), (x, y), widths, strict=True)
    )
    frame = 10 + 2000 * (rows.T @ columns)
    found = localize(frame[None], Gaussian3D((17, 17)), device="cpu")
    found = found[np.argsort(found.x)]
    np.testing.assert_allclose(found.x, x, atol=0.02)
    np.testing.assert_allclose(found.z[:2], z[:2], atol=0.02)
    assert found.converged.tolist() == [True, True, False]


def test_a_spline_through_the_spot_finds_what_the_gaussian_finds():
    frames, _ = crowded_frames(
        40, (45, 60), emitters=4, present=1.0, photons=(900, 1100), background=(10, 10),
        sigma=1.3, read_noise=0, seed=2010,
    )  # fmt: skip
    spline = Spline2D((15, 15), spots_image([0.0], [0.0], [1.0], 1.3, (25, 25)))
    pairs = match(localize(frames, spline, device="cpu"), localize(frames, 1.3, device="cpu"), 0.2)
    assert pairs.n_missed + pairs.n_extra <= 3 and pairs.rmse < 0.01


def test_the_filter_finds_light_and_place_of_a_lone_molecule():
    renderer = Gaussian2D((20, 21))
    matched = MatchedFilter(renderer, {"sigma": 1.5})
    image = torch.as_tensor(spots_image([3.0], [-2.5], [700.0], 1.5, (20, 21)))[None]
    significance, photons = matched(image, torch.ones_like(image))
    at = int(significance.argmax())
    assert divmod(at, 21) == (7, 13)
    assert float(photons.flatten()[at]) == pytest.approx(700, rel=1e-3)
    assert matched.width == pytest.approx(np.sqrt(1.5**2 + 1 / 12), rel=0.01)
    noise = torch.randn(200, 20, 21, generator=torch.Generator().manual_seed(0))
    scores = matched(noise, torch.ones_like(noise))[0]
    assert float(scores.std()) == pytest.approx(1, abs=0.02)
    assert threshold(100, 0.01) > threshold(100, 0.1) > threshold(10, 0.1)


def test_pairs_are_one_to_one_and_as_many_as_possible():
    # the nearest neighbours of both found ones are the same molecule
    truth = {"x": [0.0, 2.0], "y": [0.0, 0.0]}
    found = {"x": [0.9, -0.2], "y": [0.0, 0.0]}
    result = match(found, truth, 1.5)
    assert result.n_matched == 2 and result.jaccard == 1
    assert dict(zip(result.found, result.truth, strict=True)) == {0: 1, 1: 0}
    assert result.rmse == pytest.approx(np.sqrt((1.1**2 + 0.2**2) / 4))


def test_pairs_agree_with_a_search_through_all_assignments():
    from itertools import permutations

    rng = np.random.default_rng(2009)
    for _ in range(50):
        a, b = rng.uniform(0, 4, (3, 2)), rng.uniform(0, 4, (4, 2))
        distance = np.hypot(*(a[:, None] - b).transpose(2, 0, 1))
        best = max(
            (len(close), -sum(d**2 for d in close))
            for order in permutations(range(4), 3)
            for close in [[d for d in distance[range(3), order] if d <= 1.5]]
        )
        result = match({"x": a[:, 0], "y": a[:, 1]}, {"x": b[:, 0], "y": b[:, 1]}, 1.5)
        assert result.n_matched == best[0]
        if best[0]:
            assert 2 * best[0] * result.rmse**2 == pytest.approx(-best[1])


@pytest.mark.parametrize("background", [0.05, 0.5])
def test_dim_movies_are_read_to_the_end(background):
    """Most counts are zero, and no region ends the movie."""
    scores = []
    for seed in range(8):
        frames, truth = crowded_frames(
            5, (64, 64), emitters=8, present=1, photons=(300, 1500), sigma=1.3,
            background=(background, background), read_noise=0, extent=0.9, seed=seed,
        )  # fmt: skip
        scores.append(match(localize(frames, 1.3, device="cpu"), truth, 1.0).jaccard)
    assert np.mean(scores) > 0.9


FRAMES = np.full((2, 20, 20), 5.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: localize(FRAMES[0], 1.3), "a stack"),
        (lambda: localize(FRAMES[:0], 1.3), "at least one"),
        (lambda: localize(np.where(FRAMES > 0, np.nan, 0), 1.3), "NaN or infinity"),
        (lambda: localize(-FRAMES, 1.3), "negative"),
        (lambda: localize(FRAMES, -1.3), "psf is -1.3"),
        (lambda: localize(FRAMES, 4.0), "fills 27 px"),
        (lambda: localize(FRAMES, 130), "psf is 130 px in frames of"),
        (lambda: localize(FRAMES, 1.3, SCMOS(np.ones((9, 9)))), "a map of .9, 9. but images are"),
        (lambda: localize(FRAMES, Gaussian2D((25, 25))), "make it smaller"),
        (lambda: localize(FRAMES, Gaussian2D((9, 9)), fixed={"z": 0}), "cannot be fixed"),
        (lambda: localize(FRAMES, 1.3, false_alarms=0), "false_alarms is 0"),
        (lambda: localize(FRAMES, 1.3, batch=0), "batch is 0"),
        (lambda: localize(FRAMES, 1.3, mask=np.ones((3, 3))), "mask is"),
        (lambda: localize([FRAMES[0], np.ones((5, 5))], 1.3), "not all frames"),
        (lambda: match({"x": [0]}, {"x": [0], "y": [0]}, 1), "no columns"),
        (lambda: match({"x": [np.nan], "y": [0]}, {"x": [0], "y": [0]}, 1), "NaN"),
        (lambda: match({"x": [0], "y": [0]}, {"x": [0], "y": [0]}, 0), "radius is 0"),
        (lambda: match({"x": [0], "y": [0]}, {"x": [0], "y": [0]}, "2"), "radius is '2'"),
    ],
)
def test_nonsense_is_refused_with_a_reason(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- the search over whole frames


def test_frames_are_held_by_their_pixels(monkeypatch):
    """A movie of large frames takes no more memory than one of small frames."""
    assert [_localize._batch((n, n)) for n in (32, 512, 2048, 8192)] == [200, 50, 4, 1]
    held, read = [], _localize._read
    monkeypatch.setattr(_localize, "_read", lambda *a: held.append(a[2] - a[1]) or read(*a))
    monkeypatch.setattr(_localize, "MOST_PIXELS", 5 * 40 * 40)
    frames, _ = crowded_frames(13, (40, 40), emitters=2, sigma=1.3, read_noise=0, seed=2011)
    assert len(localize(frames, 1.3, device="cpu")) and held == [5, 5, 3]


def test_the_compiled_search_is_that_of_torch():
    """What a graphics card runs, written out: products with bands, medians, pooled maxima."""
    rng = np.random.default_rng(2013)
    images = torch.as_tensor(rng.poisson(3.0, (2, 37, 53)).astype("f4"))
    use = torch.as_tensor(rng.random((2, 37, 53)) > 0.1)
    use[0, :13, :14] = False  # a block without a pixel
    apply = MatchedFilter(Gaussian2D((13, 13)), {"sigma": 1.3})._apply
    column, row = torch.rand(9) + 0.1, torch.rand(7) - 0.5
    wanted = matched_filter._banded(column, 37) @ images @ matched_filter._banded(row, 53).mT
    torch.testing.assert_close(apply([(column, row)], images), wanted, rtol=1e-5, atol=1e-4)
    rows, columns = finder._edges(37, 3), finder._edges(53, 4)
    levels = np.empty((2, 3, 4), "f4")
    _search_cpu.block_medians(images.numpy(), use.numpy(), rows, columns, levels)
    pixels = torch.where(use, images, torch.nan)
    for r, strip in enumerate(pixels.tensor_split(3, 1)):
        for c, block in enumerate(strip.tensor_split(4, 2)):
            np.testing.assert_array_equal(levels[:, r, c], finder._nanmedian(block))
    assert levels[0, 0, 0] == 0
    smooth = torch.nn.functional.avg_pool2d(images, 3, 1, 1)  # with ties
    top = torch.nn.functional.max_pool2d(smooth, 5, 1, 2)
    expected = torch.nonzero((smooth == top) & (smooth > 3.5))
    assert len(expected) > 10
    np.testing.assert_array_equal(_search_cpu.peaks(smooth.numpy(), 2, 3.5), expected)
    padded = torch.nn.functional.pad(images, (3,) * 4)
    for place in ((0, 0, 0), (1, 36, 52), (0, 20, 30)):
        k, row, column = place
        wanted = padded[k, row : row + 7, column : column + 7].sum().item()
        at = (np.array([index]) for index in place)
        assert _search_cpu.sums_about(images.numpy(), *at, 3)[0] == wanted


def test_a_camera_of_a_users_own_is_cut_with_the_frames():
    class Cooled(SCMOS):
        def __init__(self, variance, temperature):
            super().__init__(variance)
            self.temperature = temperature

    frames, _ = crowded_frames(
        3, (40, 40), emitters=2, present=1, sigma=1.3, read_noise=2, seed=2012
    )
    variance = np.full((40, 40), 4.0)
    own = localize(frames, 1.3, Cooled(variance, -20), device="cpu")
    same = localize(frames, 1.3, SCMOS(variance), device="cpu")
    np.testing.assert_allclose(own.x, same.x, atol=1e-3)
    assert len(own) > 2


def test_depths_are_matched_and_scored():
    truth = {"x": [0.0, 5.0, 9.0], "y": [0.0, 0.0, 0.0], "z": [0.0, 0.3, -0.2]}
    found = {"x": [0.1, 5.1, 9.1], "y": [0.0, 0.0, 0.0], "z": [0.02, 0.32, 0.6]}
    flat, deep = match(found, truth, 1.0), match(found, truth, 1.0, depth=0.5)
    assert flat.n_matched == 3 and np.isnan(flat.rmse_z)
    assert (deep.n_matched, deep.n_missed, deep.n_extra) == (2, 1, 1) and deep.jaccard == 0.5
    assert deep.rmse_z == pytest.approx(0.02) and deep.rmse == pytest.approx(0.1 / 2**0.5)
    # 10 nm in the plane, with weight 1; 20 nm along z, with weight 1/2: the same
    assert deep.efficiency(0.1) == pytest.approx(100 - np.hypot(50, 10))
    assert flat.efficiency(0.1) == pytest.approx(90)
    with pytest.raises(ValueError, match="no columns `x` and `y` and `z`"):
        match({"x": [0.0], "y": [0.0]}, truth, 1.0, depth=0.5)
    with pytest.raises(ValueError, match="depth is 0: give the largest"):
        match(found, truth, 1.0, depth=0)


def test_molecules_of_every_depth_are_found_at_theirs():
    """Spots far from the middle plane are wide along one axis; a filter of that plane sees them."""
    spots = astigmatic_spots(60, (25, 27), photons=900, z=(-0.55, 0.55), seed=2000)
    found = localize(spots.images, Gaussian3D((17, 17)), device="cpu")
    truth = {name: spots.truth[name] for name in "xyz"} | {"frame": np.arange(60)}
    pairs = match(found, truth, 2.0, depth=0.2)
    assert pairs.n_missed <= 1 and pairs.n_extra <= 2
    error = found.z[pairs.found] - truth["z"][pairs.truth]
    assert np.sqrt(np.mean((error / found.z_std[pairs.found]) ** 2)) < 1.4
