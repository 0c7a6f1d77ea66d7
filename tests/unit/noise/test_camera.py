"""The camera found in its own movie, and each flaw that spoils what comes after."""

import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from helpers.noise import (
    EMCCD,
    SCMOS,
    CameraCheck,
    Poisson,
    PoissonGauss,
    check_camera,
    to_electrons,
)
from helpers.renderer.denoise import denoise
from helpers.renderer.detect import localize
from helpers.renderer.simulate import filament_images
from helpers.renderer.simulate.filaments import spots_image

GAIN, SEEDS = 2.1, range(5)
TURNS = {
    "flipped left to right": lambda a: a[:, ::-1],
    "flipped upside down": lambda a: a[::-1],
    "turned by 180 degrees": lambda a: a[::-1, ::-1],
    "transposed": lambda a: a.T,
    "transposed across": lambda a: a[::-1, ::-1].T,
}


def scmos(seed, *, n=20, size=96, photons=(100, 300), molecules=24, hot=0.03):
    """Blinking molecules on a sloping background, and the maps of the camera."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    offset = 100 + 2 * rng.standard_normal((size, size))
    variance = 6 * rng.lognormal(0, 0.3, (size, size))
    variance[rng.random((size, size)) < hot] *= 100
    frames = np.empty((n, size, size))
    for k in range(n):
        spots = rng.uniform(-size / 2, size / 2, (2, molecules))
        light = spots_image(*spots, rng.uniform(*photons, molecules), 1.2, (size, size))
        electrons = rng.poisson(2 + 7 * x + 3 * y + light)
        frames[k] = GAIN * electrons + offset + np.sqrt(variance) * rng.standard_normal(y.shape)
    return np.round(frames).clip(0).astype("uint16"), offset, variance


@pytest.fixture(scope="module")
def movie():
    return scmos(0)


def test_the_right_constants_are_confirmed(movie):
    frames, offset, variance = movie
    found = check_camera(frames, gain=GAIN, offset=offset, variance=variance)
    assert isinstance(found, CameraCheck) and not found.findings, str(found)
    assert found.orientation == "as given"
    assert found.gain == pytest.approx(GAIN, abs=0.25)
    assert found.offset == pytest.approx(100, abs=1.5)
    assert found.read_noise == pytest.approx(6**0.5 / GAIN, rel=0.2)
    assert "as given" in str(found)


def test_gain_and_offset_are_found_and_their_errors_are_honest():
    found = [check_camera(frames, offset=o, variance=v) for frames, o, v in map(scmos, SEEDS)]
    pull = [(f.gain - GAIN) / f.gain_std for f in found]
    pull += [(f.offset - 100) / f.offset_std for f in found]
    print(np.round(pull, 1))
    assert np.sqrt(np.mean(np.square(pull))) < 3


@pytest.mark.parametrize("name", TURNS)
def test_turned_maps_are_told_and_do_not_spoil_the_rest(movie, name):
    frames, offset, variance = movie
    turned = TURNS[name]
    found = check_camera(frames, gain=GAIN, offset=turned(offset), variance=turned(variance))
    assert list(found.findings) == ["orientation"]
    assert found.orientation == name
    assert found.gain == pytest.approx(GAIN, abs=0.25)


def test_maps_that_are_moved_or_of_another_camera_are_told(movie):
    frames, offset, variance = movie
    moved = np.roll(offset, (2, -1), (0, 1)), np.roll(variance, (2, -1), (0, 1))
    found = check_camera(frames, offset=moved[0], variance=moved[1])
    assert "moved -2 px down and 1 px right" in found.findings["orientation"]
    _, offset, variance = scmos(99)
    found = check_camera(frames, offset=offset, variance=variance)
    assert found.orientation == "unknown" and "another camera" in found.findings["orientation"]


@pytest.mark.parametrize("off", [-10, 10])
def test_a_wrong_offset_is_told_under_turned_maps_too(movie, off):
    frames, offset, variance = movie
    for turned in (lambda a: a, lambda a: a.T):
        found = check_camera(
            frames, gain=GAIN, offset=turned(offset) + off, variance=turned(variance)
        )
        assert "offset" in found.findings and found.offset == pytest.approx(100, abs=1.5)
        assert ("raise" if off < 0 else "lower") in found.findings["offset"]


@pytest.mark.parametrize("factor", [0.5, 2.0, 1 / GAIN**2])
def test_a_wrong_gain_is_told(movie, factor):
    frames, offset, variance = movie
    found = check_camera(frames, gain=factor * GAIN, offset=offset, variance=variance)
    assert list(found.findings) == ["gain"]
    assert ("inverse" in found.findings["gain"]) == (factor < 0.4)


def test_a_frame_too_many_is_told(movie):
    frames, offset, variance = movie
    maps = {"gain": GAIN, "offset": offset, "variance": variance}
    dark = np.full_like(frames[:1], 100)
    for odd in (dark, frames[4:5], frames[4:5] + 30):
        found = check_camera(np.concatenate([frames[:5], odd, frames[5:]]), **maps)
        assert list(found.findings) == ["frames"] and "frame 5" in found.findings["frames"]


def test_hot_clipped_and_saturated_pixels_are_told(movie):
    frames, offset, _ = movie
    found = check_camera(frames, gain=GAIN, offset=offset)
    assert "hot" in found.findings
    clean = scmos(1, hot=0)[0]
    assert not check_camera(clean).findings
    cut = np.maximum(clean.astype(int) - 107, 0)
    assert "clipped" in check_camera(cut).findings
    full = np.minimum(clean, 180)
    assert "saturated" in check_camera(full).findings


def rows(seed):
    frames = scmos(seed, hot=0)[0]
    return frames + 1.5 * np.random.default_rng(seed).standard_normal((*frames.shape[:2], 1))


CORRELATED = {
    "row": rows,
    "column": lambda seed: rows(seed).swapaxes(1, 2),
    "neighbour": lambda seed: gaussian_filter(scmos(seed, hot=0)[0].astype(float), (0, 0.5, 0.5)),
}


@pytest.mark.parametrize("kind", CORRELATED)
def test_correlated_noise_is_told(kind):
    """With rows of 0.4 of the noise of a pixel, and a blur of half a pixel."""
    for seed in SEEDS:
        assert list(check_camera(CORRELATED[kind](seed)).findings) == [kind]


def test_independent_noise_is_not_called_correlated():
    rng = np.random.default_rng(7)
    movies = [scmos(seed, hot=0, photons=(20, 100), molecules=48)[0] for seed in SEEDS]
    movies += [rng.poisson(rate, (10, 64, 64)) for rate in (0.05, 0.5, 5.0)]
    movies += [EMCCD(100.0).sample(np.full((10, 64, 64), 3.0), rng)]
    assert not any(check_camera(movie).findings for movie in movies)


def test_a_single_image_tells_its_gain():
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:128, :128] / 128
    image = 100 + 3.0 * rng.poisson(5 + 40 * x * y + spots_image([9.0], [5.0], [4e3], 1.2, y.shape))
    found = check_camera(image, gain=3.0, offset=100)
    assert found.gain == pytest.approx(3.0, rel=0.15)
    assert found.offset == pytest.approx(100, abs=6)


def test_denoise_warns_of_rows_with_a_noise_in_common():
    """The network cannot: it predicts a row from the rest of it."""
    clean = filament_images(2, (64, 64), peak=40.0, seed=3)
    rng = np.random.default_rng(9)
    noisy = rng.poisson(clean) + rng.normal(0, 2, clean.shape)
    small = {"n_steps": 2, "width": 4, "depth": 1, "device": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoise(noisy, PoissonGauss(4.0), **small)
    with pytest.warns(UserWarning, match="rows have a noise in common"):
        denoise(noisy + rng.normal(0, 2, (2, 64, 1)), PoissonGauss(4.0), **small)


def test_a_movie_that_is_read_frame_by_frame(movie):
    frames, offset, variance = movie
    given = check_camera(list(frames), offset=offset, variance=variance)
    assert given.gain == check_camera(frames, offset=offset, variance=variance).gain


def test_localize_warns_by_what_the_movie_says(movie):
    frames, offset, variance = movie
    noise = SCMOS(variance / GAIN**2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        localize(to_electrons(frames[:6], GAIN, offset), 1.2, noise, device="cpu")
    with pytest.warns(UserWarning, match=r"dark at [45]"):
        localize(to_electrons(frames[:6], GAIN, offset - 10), 1.2, noise, device="cpu")
    with pytest.warns(UserWarning, match="transposed"):
        electrons = to_electrons(frames[:6], GAIN, offset.T)
        localize(electrons, 1.2, SCMOS(variance.T / GAIN**2), device="cpu")
    with pytest.warns(UserWarning, match="a gain of"):
        electrons = to_electrons(frames[:6], GAIN / 3, 100).clip(min=0)
        localize(electrons, 1.2, Poisson(), device="cpu")


def test_what_cannot_be_checked_is_refused(movie):
    frames, offset, _ = movie
    with pytest.raises(ValueError, match="crop both alike"):
        check_camera(frames, offset=offset[1:])
    with pytest.raises(ValueError, match="mend the calibration"):
        check_camera(frames, variance=np.where(offset > 100, np.nan, 1.0))
    with pytest.raises(ValueError, match="give frames"):
        check_camera(frames[0, 0])
    with pytest.raises(ValueError, match="NaN"):
        check_camera(np.full((5, 64, 64), np.nan))
