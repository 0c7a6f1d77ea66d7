"""The coarse camera against SciPy and by hand; coordinates against rotations done otherwise."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from helpers.xray.cameras import Transform, bicubic, coarsen, gaussian_taps


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


def test_taps_are_a_gaussian():
    taps = gaussian_taps(2.0, dtype=torch.float64)
    place = torch.arange(-8, 9)
    assert torch.isclose(taps.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert abs(float((taps * place**2).sum()) - 4.0) < 0.01


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
