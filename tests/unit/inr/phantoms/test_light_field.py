"""The phantoms are objects in micrometres; what is recorded of them obeys the optics' own rules."""

import numpy as np
import pytest

from helpers.inr import phantoms
from helpers.inr.lightfield import Optics
from helpers.inr.phantoms import (
    Simulation,
    beads,
    microtubules,
    mitochondria,
    simulate,
    valley_to_peak,
    voxel_grid,
)
from helpers.inr.phantoms.light_field import bead_pairs
from helpers.inr.phantoms.tubes import Tube, draw, moving_tubes
from tests.margins.seeds import within

SHAPE, VOXEL = (16, 56, 56), (0.34, 0.2171, 0.2171)
SMALL = {"shape": (8, 32, 32), "n_tubes": 4}


def summed(volume, factors):
    return np.prod(factors) * voxel_grid.binned(volume, factors)


def psnr(a, b):
    return 10 * np.log10(b.max() ** 2 / np.mean((a - b) ** 2))


@pytest.mark.parametrize("phantom", [mitochondria, microtubules])
def test_a_seed_is_a_scene(phantom):
    one = phantom(SHAPE, VOXEL, seed=1)
    assert one.shape == SHAPE and one.dtype == np.float32
    np.testing.assert_array_equal(one, phantom(SHAPE, VOXEL, seed=1))
    assert psnr(phantom(SHAPE, VOXEL, seed=2), one) < 30
    assert one.min() >= 0 and 0.5 < one.max() < 4
    assert 0.005 < (one > 0.25).mean() < 0.1


@pytest.mark.parametrize("phantom", [mitochondria, microtubules])
def test_the_object_does_not_depend_on_the_grid(phantom):
    """Sampled ever more finely, and averaged, it converges: the object is in um."""
    settings = {"seed": 3, "t": 0.4}
    fine = phantom((64, 224, 224), tuple(d / 4 for d in VOXEL), **settings)
    truth = summed(fine, (4, 4, 4)) / 64
    twice = summed(phantom((32, 112, 112), tuple(d / 2 for d in VOXEL), **settings), (2, 2, 2)) / 8
    once = phantom(SHAPE, VOXEL, **settings)
    assert psnr(twice, truth) > 45 and psnr(twice, truth) > psnr(once, truth) + 6


def test_tubes_have_their_radius_and_their_brightness():
    path = np.stack([np.zeros(31), np.zeros(31), np.linspace(-2, 2, 31)], axis=1)
    grid, voxel = (41, 41, 81), (0.05, 0.05, 0.05)
    volume = draw([Tube(path, 0.3, 0.8)], grid, voxel)
    across = volume[:, 20, 40]
    assert volume[20, 20, 40] == pytest.approx(0.8, rel=0.02)
    assert np.count_nonzero(across > 0.4) == pytest.approx(0.6 / 0.05, abs=1)
    np.testing.assert_allclose(across, across[::-1], rtol=1e-5)
    # The same by the distance from every segment at every voxel, with nothing left out.
    z, y, x = np.meshgrid(*([(np.arange(n) - (n - 1) / 2) * 0.05 for n in grid]), indexing="ij")
    distance = np.sqrt(z**2 + y**2 + np.maximum(np.abs(x) - 2, 0) ** 2)
    np.testing.assert_allclose(volume, 0.8 / (1 + np.exp((distance - 0.3) / 0.07)), atol=1e-3)


def test_a_bent_tube_is_near_its_path_everywhere():
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.normal(0, 0.12, (25, 3)), axis=0)
    volume = draw([Tube(path, 0.25, 1.0)], (24, 30, 30), (0.2, 0.2, 0.2))
    grid = np.stack(
        np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * 0.2 for n in (24, 30, 30)], indexing="ij"), -1
    )
    points = np.concatenate([np.linspace(a, b, 50) for a, b in zip(path, path[1:], strict=False)])
    distance = np.min([np.linalg.norm(grid - p, axis=-1) for p in points], axis=0)
    np.testing.assert_allclose(volume, 1 / (1 + np.exp((distance - 0.25) / 0.07)), atol=2e-3)


def test_the_tubes_stay_in_their_part_of_the_field():
    for seed in range(6):
        size = np.multiply(SHAPE, VOXEL)
        tubes = moving_tubes(size, 0.0, 14, None, 0.3, np.random.default_rng(seed))
        reach = np.max([np.abs(tube.path).max(axis=0) for tube in tubes], axis=0)
        # A step of the walk and the wave reach a little over the walls at 72 % and 82 %.
        assert (reach <= size * (0.36, 0.41, 0.41) + (0.01, 0.22, 0.22)).all()
        assert within([tube.radius for tube in tubes], 0.20, 0.32)
        assert within([tube.amplitude for tube in tubes], 0.5, 1)
        lengths = [np.linalg.norm(np.diff(t.path, axis=0), axis=1).sum() for t in tubes]
        assert 2.2 < min(lengths) and max(lengths) < 7.5
        late = moving_tubes(size, 30.0, 14, None, 0.3, np.random.default_rng(seed))
        reach = np.max([np.abs(tube.path).max(axis=0) for tube in late], axis=0)
        assert (reach < 0.5 * size).all(), "a tube drifted out of the field"


def test_motion_is_steady_and_goes_with_time():
    frames = [mitochondria(SHAPE, VOXEL, seed=1, t=t) for t in (0.0, 0.05, 0.2, 0.6)]
    scores = [psnr(frame, frames[0]) for frame in frames[1:]]
    assert scores[0] > 40 > scores[1] > 30 > scores[2]
    still = mitochondria(SHAPE, VOXEL, seed=1, t=5.0, speed=0.0)
    drift = mitochondria(SHAPE, VOXEL, seed=1, t=5.0)
    assert psnr(still, frames[0]) > psnr(drift, frames[0]) + 1
    assert np.abs(still - frames[0]).max() > 0.2, "the waves go on"
    # Light is neither made nor lost by motion.
    np.testing.assert_allclose([frame.sum() for frame in frames], frames[0].sum(), rtol=0.02)


def test_drift_is_as_fast_as_said():
    size, speeds = np.array([50.0, 50.0, 50.0]), []
    for seed in range(30):
        first, later = (
            moving_tubes(size, t, 14, None, 0.3, np.random.default_rng(seed)) for t in (0.0, 1.0)
        )
        speeds += [(b.path - a.path).mean(axis=0) for a, b in zip(first, later, strict=True)]
    np.testing.assert_allclose(np.std(speeds, axis=0), (0.15, 0.3, 0.3), rtol=0.1)


def test_fission_makes_one_tube_into_two():
    from scipy.ndimage import label

    def pieces(seed, t):
        one = {"n_tubes": 1, "fission_time": 0.5, "speed": 0.0}
        volume = mitochondria((32, 72, 72), (0.17, 0.17, 0.17), seed=seed, t=t, **one)
        return label(volume > 0.3, np.ones((3, 3, 3)))[1], float(volume.sum())

    seen = np.array([[pieces(seed, t) for t in (0.2, 0.5, 1.5)] for seed in range(10)])
    (whole, _, broken), (before, at, after) = seen.transpose(2, 1, 0)
    assert (whole == 1).all()
    assert np.sum(broken == 2) >= 6, "the halves of a few bent tubes touch"
    assert at.sum() == pytest.approx(before.sum(), rel=0.05)
    assert after.sum() == pytest.approx(before.sum(), rel=0.2), "two more ends, and no more"
    np.testing.assert_array_equal(
        mitochondria(SHAPE, VOXEL, seed=4, t=0.4, fission_time=0.5),
        mitochondria(SHAPE, VOXEL, seed=4, t=0.4),
    )


def test_bleaching_dims_all_light_alike():
    bright = mitochondria(SHAPE, VOXEL, seed=1, t=2.0, cytoplasm=0.05)
    dim = mitochondria(SHAPE, VOXEL, seed=1, t=2.0, cytoplasm=0.05, bleaching=np.log(2) / 2)
    np.testing.assert_allclose(dim, bright / 2, rtol=1e-5)


def test_cytoplasm_fills_an_ellipsoid():
    plain, filled = (mitochondria(SHAPE, VOXEL, seed=1, cytoplasm=c) for c in (0.0, 0.05))
    extra = filled - plain
    assert extra[8, 28, 28] == pytest.approx(0.05, rel=0.01) and extra[0, 0, 0] < 1e-4
    volume = 4 / 3 * np.pi * np.prod(0.46 * np.multiply(SHAPE, VOXEL)) / np.prod(VOXEL)
    assert extra.sum() / 0.05 == pytest.approx(volume, rel=0.03)


def test_beads_hold_their_light_on_every_grid():
    places = [(0.1, -0.7, 1.3), (-0.9, 0.33, -2.0)]
    coarse = beads((16, 40, 40), VOXEL, positions=places)
    assert coarse.sum() == pytest.approx(2, rel=1e-4)
    fine = beads((32, 80, 80), tuple(d / 2 for d in VOXEL), positions=places)
    np.testing.assert_allclose(summed(fine, (2, 2, 2)), coarse, atol=1e-6)
    one = beads((16, 40, 40), VOXEL, positions=places[:1], sigma=0.2)
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(one.shape, VOXEL, strict=True)]
    for axis, (at, place) in enumerate(zip(axes, places[0], strict=True)):
        profile = one.sum(axis=tuple(a for a in range(3) if a != axis))
        assert profile @ at == pytest.approx(place, abs=1e-3)
        spread = profile @ (at - place) ** 2
        assert spread == pytest.approx(0.2**2 + VOXEL[axis] ** 2 / 12, rel=0.02)


def test_pairs_of_beads_are_their_gaps_apart():
    places = bead_pairs([0.68, 1.02, 1.36], 9.0)
    np.testing.assert_allclose(places[1::2] - places[::2], [(g, 0, 0) for g in (0.68, 1.02, 1.36)])
    assert np.abs(places[:, 2]).max() < 4.5
    volume = beads((16, 40, 40), VOXEL, gaps=[1.36])
    profile = volume[:, 19:21, 19:21].sum(axis=(1, 2))
    assert profile[8] + profile[7] < 0.1 * profile.max()
    random = beads((16, 40, 40), VOXEL, seed=1, n_beads=5)
    assert random.sum() == pytest.approx(5, rel=0.05)
    assert (random != beads((16, 40, 40), VOXEL, seed=2, n_beads=5)).any()


def test_a_valley_is_as_deep_as_two_gaussians_make_it():
    """Two beads of s.d. 0.3 um: 2 exp(-g^2 / 8 s^2) / (1 + exp(-g^2 / 2 s^2)) in the middle."""
    gaps, voxel = [0.4, 0.8, 1.2, 1.6], (0.1, 0.2, 0.2)
    volume = beads((60, 20, 80), voxel, gaps=gaps, sigma=0.3)
    u = np.square(gaps) / 0.3**2
    expected = 2 * np.exp(-u / 8) / (1 + np.exp(-u / 2))
    np.testing.assert_allclose(valley_to_peak(volume, voxel, gaps), expected, atol=0.03)
    coarse = beads((20, 20, 80), (0.3, 0.2, 0.2), gaps=gaps, sigma=0.3)
    # A coarser grid fills the valleys: it can separate less.
    filled = np.array(valley_to_peak(coarse, (0.3, 0.2, 0.2), gaps))
    assert (filled[1:] > expected[1:]).all() and (np.diff(filled) < 0).all()
    assert np.isnan(valley_to_peak(0 * volume, voxel, gaps)).all()


@pytest.mark.parametrize("kind", ["mitochondria", "microtubules", "beads"])
def test_a_simulation_is_a_recorded_truth(kind):
    sim = simulate(kind, shape=(8, 32, 32), photons=150, background=3, seed=1)
    assert isinstance(sim, Simulation)
    assert sim.truth.shape == sim.op.in_shape == (8, 32, 32)
    assert sim.views.shape == sim.expected.shape == sim.op.out_shape == (7, 72, 72)
    assert sim.expected.max() - 3 == pytest.approx(150, rel=1e-4)
    assert sim.views.min() >= 0 and sim.views.dtype == np.float32
    # The coarse operator explains the fine views, but not exactly: no inverse crime.
    signal = sim.expected - 3
    mismatch = np.linalg.norm(sim.op(sim.truth) - signal) / np.linalg.norm(signal)
    assert 1e-4 < mismatch < 0.03
    assert sim.op(sim.truth).sum() == pytest.approx(signal.sum(), rel=2e-3)


def test_the_views_hold_all_photons_of_the_truth():
    sim = simulate(seed=1, **SMALL)
    assert (sim.expected - 4).sum() == pytest.approx(sim.truth.sum(), rel=0.02)


def test_the_noise_is_that_of_a_camera():
    sim = simulate(seed=1, photons=60, background=9, read_noise=2.0, **SMALL)
    z = (sim.views - sim.expected) / np.sqrt(sim.expected + 4)
    assert abs(z.mean()) < 0.02 and z.std() == pytest.approx(1, abs=0.02)
    clean = simulate(seed=1, photons=60, background=9, read_noise=0.0, **SMALL)
    assert (clean.views == np.round(clean.views)).all()
    other = simulate(seed=1, photons=60, background=9, read_noise=0.0, noise_seed=7, **SMALL)
    assert (other.views != clean.views).any()
    np.testing.assert_array_equal(other.expected, clean.expected)
    again = simulate(seed=1, photons=60, background=9, read_noise=0.0, noise_seed=7, **SMALL)
    np.testing.assert_array_equal(other.views, again.views)


def test_finer_grids_tell_the_same_story():
    coarse, fine = (simulate(seed=1, fine_pixels=f, **SMALL) for f in (1, 2))
    crime = simulate(seed=1, fine_planes=1, **SMALL)
    scale = np.linalg.norm(coarse.expected - 4)
    assert np.linalg.norm(fine.expected - coarse.expected) < 0.06 * scale
    assert np.linalg.norm(crime.expected - coarse.expected) < 0.06 * scale
    signal = fine.expected - 4
    shift = np.array(np.nonzero(signal[0] == signal[0].max())).ravel()
    assert (shift == np.array(np.nonzero(coarse.expected[0] == coarse.expected[0].max())).T).all()
    residual = fine.op(fine.truth) - signal
    assert np.linalg.norm(residual) < 0.06 * np.linalg.norm(signal)
    np.testing.assert_allclose(
        crime.op(crime.truth), crime.expected - 4, atol=1e-3 * crime.expected.max()
    )


def test_a_sequence_keeps_its_exposure():
    frames = [simulate(seed=1, t=t, bleaching=np.log(2), **SMALL) for t in (0.0, 1.0)]
    assert frames[0].scale == pytest.approx(frames[1].scale)
    assert frames[1].truth.sum() == pytest.approx(frames[0].truth.sum() / 2, rel=0.1)
    assert (frames[1].views != frames[0].views).any()
    late = simulate(seed=1, t=1.0, bleaching=np.log(2), photons_at=1.0, **SMALL)
    assert late.expected.max() == pytest.approx(104, rel=1e-4)


def test_views_optics_and_phantoms_of_your_own():
    def slab(shape, voxel_size, *, seed, t, height):
        volume = np.zeros(shape)
        volume[:, 10:20, 10:20] = height
        return volume

    sim = simulate(slab, shape=(4, 32, 32), height=3.0, views="hex3", view_pad=5)
    assert sim.views.shape == (3, 42, 42)
    two = simulate(slab, shape=(4, 32, 32), height=3.0, views=[(0, 0), (0, 1)], view_pad=5)
    assert two.views.shape == (2, 42, 42)
    index = Optics(index=1.45)
    other = simulate(slab, shape=(4, 32, 32), height=3.0, views="hex3", view_pad=5, optics=index)
    assert np.abs(other.expected - sim.expected).max() > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mitochondria((16, 56), VOXEL, seed=0), "give three whole numbers"),
        (lambda: mitochondria((16, 56, 0), VOXEL, seed=0), "give three whole numbers"),
        (lambda: mitochondria(SHAPE, 0.34, seed=0), r"give three lengths \(z, y, x\)"),
        (lambda: mitochondria(SHAPE, (0.3, 0.2, 0.0), seed=0), "give three lengths"),
        (lambda: mitochondria(SHAPE, VOXEL, seed=0, bleaching=-1), "bleaching is -1"),
        (lambda: mitochondria(SHAPE, VOXEL, seed=0, cytoplasm=np.nan), "cytoplasm is nan"),
        (lambda: mitochondria(SHAPE, VOXEL, seed=0, n_tubes=0), "n_tubes is 0"),
        (lambda: beads(SHAPE, VOXEL, positions=[(1, 2)]), r"positions have shape \(1, 2\)"),
        (lambda: beads(SHAPE, VOXEL, sigma=0), "sigma is 0"),
        (lambda: simulate("worms"), "use one of mitochondria, microtubules, beads"),
        (lambda: simulate(photons=0), "photons is 0"),
        (lambda: simulate(background=-1), "background is -1"),
        (lambda: simulate(read_noise=np.nan), "read_noise is nan"),
        (lambda: simulate(view_pad=-1), "view_pad is -1"),
        (lambda: simulate(fine_planes=0), "fine_planes is 0"),
        (lambda: simulate(voxel_size=(0.34, 0.1, 0.1)), "a camera pixel is 0.2171 um"),
        (lambda: simulate(lambda *_, **__: np.zeros((4, 8, 8)), shape=(2, 8, 8)), "is dark"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_objects_of_the_other_pages_are_here_as_well():
    for name in ("cells", "apoferritin"):
        volume = getattr(phantoms, name)((16, 16, 16), (2.0, 2.0, 2.0), seed=0)
        assert volume.shape == (16, 16, 16) and volume.max() > 0
