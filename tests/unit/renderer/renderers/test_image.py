"""Images as parameters: a blur that shifts nothing and keeps the light, and no blur at all."""

import numpy as np
import pytest
import torch
from scipy import signal

from helpers.renderer.renderers import Convolution, Passthrough

RNG = np.random.default_rng(2000)


def delta(shape):
    kernel = np.zeros(shape)
    kernel[tuple(n // 2 for n in shape)] = 7.0
    return kernel


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (5, 2), (1, 1), (25, 24)])
@pytest.mark.parametrize("image", [(12, 15), (13, 16)])
def test_a_bright_voxel_as_kernel_gives_the_object_back(size, image):
    thing = RNG.uniform(0, 9, (2, *image))
    out = Convolution(image, delta(size)).render({"object": thing, "background": 0.0})
    np.testing.assert_allclose(out, thing, atol=1e-5)


def test_a_volume_too():
    thing = RNG.uniform(0, 9, (1, 4, 9, 8))
    out = Convolution((4, 9, 8), delta((3, 4, 5))).render({"object": thing, "background": 2.0})
    np.testing.assert_allclose(out, thing + 2, atol=1e-5)


@pytest.mark.parametrize("size", [(5, 5), (3, 7), (31, 33)])
def test_it_is_the_convolution_with_darkness_outside(size):
    kernel, thing = RNG.uniform(0, 1, size), RNG.uniform(0, 9, (14, 17))
    out = Convolution((14, 17), kernel).render({"object": thing[None], "background": 0.0})[0]
    padded = np.pad(thing, [(n // 2, n // 2) for n in size])
    expected = signal.convolve(padded, kernel / kernel.sum(), mode="valid", method="direct")
    np.testing.assert_allclose(out, expected, rtol=1e-4)


def test_light_comes_in_from_the_margin():
    blurred = Convolution((8, 8), np.ones((5, 5)), margin=2)
    assert blurred.pixel_shape == (12, 12)
    out = blurred.render({"object": np.ones((1, 12, 12)), "background": 0.0})
    np.testing.assert_allclose(out, 1, rtol=1e-5)
    dark_outside = Convolution((8, 8), np.ones((5, 5)))
    out = dark_outside.render({"object": np.ones((1, 8, 8)), "background": 0.0})
    assert out[0, 0, 0] == pytest.approx(9 / 25, rel=1e-5) and out[0, 4, 4] == pytest.approx(1)


def test_background_is_counted_once_and_rates_are_never_negative():
    thing = np.zeros((1, 30, 30))
    thing[0, 3, 3] = 1e6
    out = Convolution((30, 30), np.ones((3, 3))).render({"object": thing, "background": 0.0})
    assert out.min() >= 0
    out = Convolution((30, 30), np.ones((3, 3))).render({"object": 0 * thing, "background": 2.5})
    np.testing.assert_allclose(out, 2.5)


def test_a_kernel_is_learned_and_stays_a_kernel():
    truth = np.array([[0.0, 1.0, 0.0], [2.0, 6.0, 0.0], [0.0, 1.0, 0.0]])
    thing = torch.from_numpy(RNG.uniform(0, 100, (4, 16, 16))).float()
    seen = Convolution((16, 16), truth).render({"object": thing, "background": torch.tensor(0.0)})
    blurred = Convolution((16, 16), np.ones((3, 3)), learn_kernel=True)
    optimizer = torch.optim.Adam(blurred.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        out = blurred.render({"object": thing, "background": torch.tensor(0.0)})
        (out - seen).square().mean().backward()
        optimizer.step()
    kernel = blurred.blur.kernel.detach().numpy()
    assert kernel.min() >= 0 and kernel.sum() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(kernel, truth / truth.sum(), atol=0.015)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (-np.ones((3, 3)), "zero or more"),
        (np.full((3, 3), np.inf), "finite"),
        (np.zeros((3, 3)), "holds no light"),
        (np.ones((3, 3, 3)), "give 2 axes"),
    ],
)
def test_impossible_kernels_are_named(kernel, message):
    with pytest.raises(ValueError, match=message):
        Convolution((9, 9), kernel)


def test_an_object_of_the_wrong_size_is_named():
    with pytest.raises(ValueError, match=r"object is \(1, 9, 9\) but"):
        Convolution((9, 9), np.ones((3, 3)), margin=1).render({"object": np.ones((1, 9, 9))})


def test_passing_through_changes_nothing():
    image = torch.rand(2, 5, 6)
    assert torch.equal(Passthrough((5, 6)).render({"image": image}), image)
    assert Passthrough((3, 5, 6)).render({"image": torch.rand(2, 3, 5, 6)}).shape == (2, 3, 5, 6)
