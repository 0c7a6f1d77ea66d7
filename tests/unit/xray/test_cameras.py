"""The coarse camera against SciPy and by hand; coordinates against rotations done otherwise."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from helpers.operators import check_adjoint
from helpers.xray import CoarseCamera
from helpers.xray.calibrate import SpatialCalibration, register
from helpers.xray.cameras import Transform, bicubic, camera_matrix, coarsen


@pytest.fixture
def image():
    return np.random.default_rng(0).random((24, 32))


def test_coarsen_blurs_as_scipy_does_and_then_bins(image):
    blurred = gaussian_filter(image, 2.2, mode="nearest", radius=9)
    expected = blurred.reshape(6, 4, 8, 4).mean((1, 3))
    np.testing.assert_allclose(coarsen(image), expected, atol=1e-12)
    np.testing.assert_allclose(coarsen(image, sigma=0), image.reshape(6, 4, 8, 4).mean((1, 3)))


def test_coarsen_is_linear_and_differentiable(image):
    x = torch.tensor(image, requires_grad=True)
    y = torch.tensor(np.random.default_rng(1).random((6, 8)))
    (coarsen(x) * y).sum().backward()
    other = torch.tensor(np.random.default_rng(2).random(image.shape))
    # the gradient is the adjoint: <A other, y> = <other, A^T y>
    assert torch.allclose((coarsen(other) * y).sum(), (other * x.grad).sum())


def test_leading_axes_and_kinds_are_kept(image):
    stack = np.stack([[image, 2 * image]])
    small = coarsen(stack)
    assert isinstance(small, np.ndarray) and small.shape == (1, 2, 6, 8)
    np.testing.assert_allclose(small[0, 1], 2 * coarsen(image))
    assert bicubic(torch.tensor(stack)).shape == (1, 2, 96, 128)


def test_enlarging_keeps_pixel_centres():
    """A ramp over the sharp pixels comes back in place, away from the border."""
    ramp = np.broadcast_to(np.arange(48.0), (48, 48))
    error = (bicubic(coarsen(ramp, sigma=0)) - ramp)[12:-12, 12:-12]
    assert abs(error.mean()) < 1e-9 and np.abs(error).max() < 0.25  # torch's cubic is not exact


def test_refusals(image):
    with pytest.raises(ValueError, match=r"\(22, 32\): pad its sides to multiples of 4"):
        coarsen(image[:22])
    with pytest.raises(ValueError, match="sigma is -1"):
        coarsen(image, sigma=-1)
    with pytest.raises(ValueError, match=r"shape \(24,\)"):
        bicubic(image[:, 0])


@pytest.mark.parametrize("scale", [2, 2.92, 3, 4, 5, 8])
@pytest.mark.parametrize("sigma", [0, 0.7, 3.5])
def test_the_camera_has_its_adjoint_at_any_ratio(scale, sigma):
    shape = (round(6 * scale), round(11 * scale))
    assert check_adjoint(CoarseCamera(sigma, scale, gain=1.3, offset=0.2).on(shape)) < 1e-14


def test_readings_are_gain_times_transmission_plus_offset(image):
    camera = CoarseCamera(1.0, scale=2, gain=1.1, offset=0.05)
    plain = coarsen(image, 1.0, 2)
    np.testing.assert_allclose(camera(image), 1.1 * plain + 0.05)
    np.testing.assert_allclose(camera.transmission(camera(image)), plain)


def test_a_ratio_that_is_not_whole_averages_by_area():
    """Pixels of 2.5: the third sharp pixel belongs half to each of two coarse ones."""
    row = np.array([[1.0, 2.0, 4.0, 8.0, 16.0]])
    seen = CoarseCamera(0, scale=2.5)(np.repeat(row, 5, axis=0))
    np.testing.assert_allclose(seen, np.repeat([[(1 + 2 + 2) / 2.5, (2 + 8 + 16) / 2.5]], 2, 0))


def test_each_image_of_a_batch_has_its_own_camera(image):
    widths, gains = [0.0, 1.0, 2.2], [1.0, 2.0, 3.0]
    batch = torch.tensor(np.stack([image, 2 * image, image**2]))[:, None]
    together = CoarseCamera(torch.tensor(widths), gain=torch.tensor(gains))(batch)
    for seen, x, sigma, gain in zip(together, batch, widths, gains, strict=True):
        alone = CoarseCamera(sigma, gain=gain)(x)
        np.testing.assert_allclose(seen, alone, rtol=2e-4)  # tails beyond four widths


def test_frames_of_any_ratio_come_to_the_grid_of_the_networks():
    """What the resampled camera is said to see is what it sees, of a smooth image."""
    y, x = np.mgrid[:240, :240]
    smooth = np.sin(x / 9) + np.cos(y / 7)
    for scale, bound in ((2, 1e-9), (2.5, 0.01), (3, 0.01), (5, 0.02), (6, 0.03), (8, 0.06)):
        camera = CoarseCamera(1.5, scale)
        frames, equal = camera.to_grid(camera(smooth))
        error = (frames - equal(smooth))[5:-5, 5:-5]
        assert np.abs(error).max() < bound, scale
    same, equal = CoarseCamera(2.0).to_grid(smooth)
    assert same is smooth and equal == CoarseCamera(2.0)


def test_noise_of_resampled_frames_is_as_their_photons_say():
    rng = np.random.default_rng(0)
    for scale in (2, 3, 5, 8):
        noise = rng.normal(0, 0.1, (400, 400))
        frames, equal = CoarseCamera(1.0, scale, photons=100.0).to_grid(noise)
        assert abs(frames[5:-5, 5:-5].std() * equal.photons**0.5 - 1) < 0.05, scale


def test_a_camera_says_its_numbers_and_their_errors():
    camera = CoarseCamera(2.1234, gain=1.05, photons=300.0, errors={"sigma": 0.02})
    assert (
        repr(camera)
        == "CoarseCamera(sigma=2.123 ± 0.02, scale=4, gain=1.05, offset=0, photons=300)"
    )


def test_cameras_that_cannot_be(image):
    for wrong in ({"sigma": -1}, {"gain": 0}, {"photons": 0.0}, {"scale": 0}, {"scale": 20}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CoarseCamera(**{"sigma": 1.0} | wrong)
    with pytest.raises(ValueError, match="offset is nan"):
        CoarseCamera(1.0, offset=float("nan"))
    with pytest.raises(ValueError, match="multiples of 5"):
        CoarseCamera(1.0, scale=5)(image)


def test_a_row_of_the_matrix_is_a_gaussian_over_a_pixel():
    row = camera_matrix(80, 20, 2.0, 4, torch.zeros(1, dtype=torch.float64))[10]
    place = torch.arange(80) - 41.5
    assert torch.isclose(row.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert abs(float((row * place**2).sum()) - (4.0 + 15 / 12)) < 0.01


def test_the_aligned_transform_puts_a_coarse_pixel_on_its_block(image):
    y, x = np.mgrid[:24, :32]
    places = Transform()(np.array([[3, 2]]))[0]
    assert places.tolist() == [coarsen(x * 1.0, 0)[2, 3], coarsen(y * 1.0, 0)[2, 3]]


def test_a_transform_turns_from_x_towards_y():
    turned = Transform(theta=0.3, sx=4.1, sy=3.9, tx=5.0, ty=-2.0)
    points = np.random.default_rng(3).uniform(0, 30, (7, 2))
    scaled = np.c_[points * [4.1, 3.9], np.zeros(7)]
    expected = Rotation.from_euler("z", 0.3).apply(scaled)[:, :2] + [5.0, -2.0]
    np.testing.assert_allclose(turned(points), expected)
    np.testing.assert_allclose(turned.inverse(turned(points)), points)
    homogeneous = np.c_[points, np.ones(7)] @ turned.matrix.T
    np.testing.assert_allclose(homogeneous[:, :2], expected)


@pytest.mark.parametrize("ratio", [2.0, 2.92])
def test_smaller_coarse_pixels_are_averaged_not_picked(ratio):
    """White noise in, and the variance that is left: less than one picked reading keeps."""
    n = 64
    side = int(n * ratio)
    moved = Transform(0.0, ratio, ratio, (ratio - 1) / 2, (ratio - 1) / 2)
    calibration = SpatialCalibration(moved, np.eye(5), None, (side, side), (n, n), (1.0, 0.0))
    noise = np.random.default_rng(3).normal(size=(8, n, n))
    left = register(noise, calibration)[:, 4:-4, 4:-4].std()
    assert left < 1.15 * ratio / 4 * noise.std()
    ramp = np.broadcast_to(np.arange(n, dtype=float), (n, n))
    centres = (4 * np.arange(-(-side // 4)) + 1.5 - moved.tx) / ratio
    np.testing.assert_allclose(register(ramp, calibration)[8, 8:-8], centres[8:-8], atol=0.02)
