"""A learnable picture of a spot: in the right place, never negative, its light kept."""

import numpy as np
import pytest
import torch

from helpers.renderer.renderers import Gaussian2D, Template
from helpers.renderer.renderers.base import Renderer


def gaussian(shape, sigma, x=0.0, y=0.0):
    v, u = (np.arange(n) - (n - 1) / 2 for n in shape)
    picture = np.exp(-((v[:, None] - y) ** 2 + (u - x) ** 2) / (2 * sigma**2))
    return picture / picture.sum()


@pytest.mark.parametrize("size", [20, 21, 46, 47])
@pytest.mark.parametrize("image", [(12, 13), (15, 16)])
@pytest.mark.parametrize("oversampling", [1, 2, 3])
def test_the_middle_of_the_template_lands_at_the_position(size, image, oversampling):
    sigma = 1.2
    template = gaussian((size, size + 1), sigma * oversampling)
    spots = Template(image, template, oversampling=oversampling)
    rendered = spots.render({"x": 0.7, "y": -1.3, "photons": 1.0, "background": 0.0})[0]
    expected = gaussian(image, sigma, 0.7, -1.3)
    if oversampling > 1:  # sums over points of a pixel, as close to its integral as they get
        full = Gaussian2D(image).render(
            {"x": 0.7, "y": -1.3, "photons": 1.0, "background": 0.0, "sigma": sigma}
        )[0]
        expected = full
    assert np.abs(rendered - expected).max() < 0.02 * expected.max()
    v, u = (np.arange(n) - (n - 1) / 2 for n in image)
    assert (rendered.sum(0) * u).sum() / rendered.sum() == pytest.approx(0.7, abs=0.02)
    assert (rendered.sum(1) * v).sum() / rendered.sum() == pytest.approx(-1.3, abs=0.02)


def test_light_is_kept_and_background_counted_once():
    spots = Template((21, 21))
    image = spots.render({"x": [[1.0, -2.0]], "photons": 100.0, "background": 3.0})
    assert image.sum() == pytest.approx(200 + 3 * 441, rel=1e-4)
    assert float(spots.template.detach().sum()) == pytest.approx(1)


def test_a_spot_at_the_edge_does_not_come_back_at_the_other_side():
    image = Template((15, 15)).render({"x": 9.0, "photons": 1000.0, "background": 0.0})[0]
    assert image[:, 11:].sum() > 0.9 * image.sum() and image[:, :7].max() < 1e-3


def test_a_template_larger_than_the_image_is_cut_by_it():
    wide = Template((5, 5), gaussian((41, 41), 6.0), oversampling=1)
    expected = gaussian((41, 41), 6.0)[18:23, 18:23]
    rendered = wide.render({"photons": 1.0, "background": 0.0})[0]
    np.testing.assert_allclose(rendered, expected, rtol=1e-2)


def test_derivatives_are_those_of_finite_differences():
    spots = Template((9, 11))
    params = {"x": torch.tensor([0.4, -1.0]), "y": torch.tensor([0.1, 0.7])}
    params = {k: v.double() for k, v in params.items()}
    params |= {"photons": torch.tensor([500.0, 300.0]), "background": torch.tensor([1.0, 2.0])}
    _, slopes = spots.jacobian(params, ["x", "y"])
    for number, name in enumerate(("x", "y")):
        above, below = (
            Renderer.render(spots, params | {name: params[name] + s}) for s in (1e-4, -1e-4)
        )
        torch.testing.assert_close(slopes[:, number], (above - below) / 2e-4, atol=1e-3, rtol=1e-3)


def test_a_sharp_template_stays_positive_and_gets_gradients():
    spots = Template((9, 9), np.eye(9), oversampling=1)
    x = torch.tensor([0.5], requires_grad=True)
    image = spots.render({"x": x, "photons": torch.tensor([100.0])})
    assert float(image.detach().min()) >= 0
    image.square().sum().backward()
    assert float(spots.raw.grad.abs().max()) > 0 and float(x.grad.abs()) > 0


def test_a_picture_is_learned_from_moved_copies():
    rng = np.random.default_rng(2000)
    x, y = torch.from_numpy(rng.uniform(-0.5, 0.5, (2, 40))).float()
    light = {"photons": torch.full((40,), 1000.0), "background": torch.zeros(40)}
    sigma = {"sigma": torch.full((40,), 1.0)}
    seen = Gaussian2D((9, 9)).render({"x": x, "y": y, **light, **sigma})
    spots = Template((9, 9))
    optimizer = torch.optim.Adam(spots.parameters(), lr=0.05)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (spots.render({"x": x, "y": y, **light}) - seen).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (-np.ones((3, 3)), "zero or more"),
        (np.full((3, 3), np.nan), "finite values"),
        (np.ones(3), "give 2 axes"),
        (np.zeros((3, 3)), "holds no light"),
    ],
)
def test_impossible_templates_are_named(template, message):
    with pytest.raises(ValueError, match=message):
        Template((9, 9), template)


def test_oversampling_is_whole():
    with pytest.raises(ValueError, match=r"oversampling is 1\.5"):
        Template((9, 9), oversampling=1.5)
