"""Spots through a pupil: light is kept, derivatives are right, aberrations can be learned."""

import numpy as np
import pytest
import torch

from helpers.optics import Pupil, psf_from_pupil
from helpers.renderer.renderers import FourierOptics
from helpers.renderer.renderers.base import Renderer

SPOT = ["x", "y", "z", "photons", "background"]


def pupil(samples=40, **others):
    settings = {"pixel_size": 0.1, "zernikes": {5: 0.08, 3: 0.02, 7: -0.03}} | others
    return Pupil(1.4, 0.67, 1.518, samples=samples, **settings)


def places(batch=3, emitters=2, seed=2000):
    rng = np.random.default_rng(seed)
    ranges = {"x": (-2, 2), "y": (-3, 3), "z": (0.05, 0.5), "photons": (300, 900)}
    params = {k: rng.uniform(*r, (batch, emitters)) for k, r in ranges.items()}
    params["background"] = rng.uniform(0, 5, batch)
    return {name: torch.from_numpy(value) for name, value in params.items()}


def test_an_image_is_the_sum_of_its_spots_and_one_background():
    params, optics = places(), pupil()
    image = FourierOptics((13, 16), optics).render(params)
    spots = psf_from_pupil(optics, (13, 16), params["x"], params["y"], params["z"])
    expected = (params["photons"][..., None, None] * spots).sum(1)
    torch.testing.assert_close(image, expected + params["background"][:, None, None])


def test_photons_mean_the_same_at_every_depth():
    spots = FourierOptics((81, 81), pupil(128))
    depths = np.linspace(-0.5, 0.5, 5)
    light = spots.render({"z": depths, "photons": 1000.0, "background": 0.0}).sum((1, 2))
    assert light.min() > 980
    peaks = spots.render({"z": depths, "photons": 1000.0, "background": 0.0}).max((1, 2))
    assert np.ptp(light) < 5 and peaks.max() > 1.5 * peaks.min()


@pytest.mark.parametrize(
    "optics",
    [pupil(), pupil(pixel_size=0.13), pupil(aplanatic=True, medium_index=1.33, stage=-0.4)],
    ids=["plain", "large pixels", "two indices"],
)
def test_closed_derivatives_are_those_of_autograd(optics):
    spots, params = FourierOptics((9, 12), optics), places()
    image, closed = spots.jacobian(params, SPOT)
    generic_image, generic = Renderer.jacobian(spots, params, SPOT)
    torch.testing.assert_close(image, generic_image)
    torch.testing.assert_close(closed, generic, atol=1e-9, rtol=1e-9)
    assert closed.shape == (3, 4 * 2 + 1, 9, 12)


@pytest.mark.parametrize("name", SPOT)
def test_derivatives_are_finite_differences(name):
    spots, params = FourierOptics((9, 12), pupil()), places(emitters=1)
    _, slopes = spots.jacobian(params, [name])
    above, below = (spots.render(params | {name: params[name] + step}) for step in (1e-4, -1e-4))
    torch.testing.assert_close(slopes[:, 0], (above - below) / 2e-4, atol=1e-4, rtol=1e-4)


def test_derivatives_by_the_aberrations():
    params, modes = places(), (5, 7, 12)
    spots = FourierOptics((9, 12), pupil(), modes=modes)
    _, slopes = spots.jacobian(params, ["background", "coefficients"])
    assert slopes.shape == (3, 4, 9, 12)
    for number, mode in enumerate(modes):
        sides = []
        for step in (1e-4, -1e-4):
            zernikes = {5: 0.08, 3: 0.02, 7: -0.03}
            zernikes[mode] = zernikes.get(mode, 0) + step
            sides.append(FourierOptics((9, 12), pupil(zernikes=zernikes)).render(params))
        numeric = (sides[0] - sides[1]) / 2e-4
        torch.testing.assert_close(slopes[:, 1 + number], numeric, atol=2e-2, rtol=1e-3)


def test_weights_are_a_property_of_the_instrument():
    spots = FourierOptics((9, 9), pupil(), modes=[5, 12], learn_map=True)
    assert {name for name, _ in spots.named_parameters()} == {"coefficients", "phase_map"}
    params = {name: value.float() for name, value in places().items()}
    spots.render(params).square().sum().backward()
    for weight in spots.parameters():
        assert bool(weight.grad.isfinite().all()) and float(weight.grad.abs().max()) > 0
    with torch.no_grad():
        spots.coefficients.copy_(torch.tensor([0.1, 0.05]))
        spots.phase_map[10:20, 15:25] += 0.2
    found = spots.pupil
    assert found.zernikes == pytest.approx({5: 0.1, 3: 0.02, 7: -0.03, 12: 0.05})
    again = FourierOptics((9, 9), found).render(params)
    torch.testing.assert_close(again, spots.render(params), atol=1e-3, rtol=1e-5)
    assert not list(FourierOptics((9, 9), pupil()).parameters())


def test_an_aberration_is_learned_from_images():
    """Astigmatism and coma from spots at known places, by plain gradient steps."""
    params = places(batch=12, emitters=1)
    truth = FourierOptics((15, 15), pupil(zernikes={5: 0.08, 7: 0.05})).render(params)
    spots = FourierOptics((15, 15), pupil(zernikes={5: 0.04}), modes=[5, 7])
    optimizer = torch.optim.Adam(spots.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        (spots.render(params) - truth).square().mean().backward()
        optimizer.step()
    np.testing.assert_allclose(spots.coefficients.detach(), [0.08, 0.05], atol=2e-3)


def test_kinds_and_precision_are_kept():
    spots = FourierOptics((9, 9), pupil())
    assert isinstance(spots.render({"x": 0.5}), np.ndarray)
    assert spots.render({"x": torch.tensor([0.5])}).dtype == torch.float32
    single = spots.render({name: value.float() for name, value in places().items()})
    torch.testing.assert_close(single.double(), spots.render(places()), atol=2e-4, rtol=1e-4)


def test_a_spot_larger_than_the_image_loses_its_light_and_a_field_too_large_is_refused():
    light = FourierOptics((5, 5), pupil()).render({"z": 0.8, "photons": 100.0, "background": 0.0})
    assert 10 < light.sum() < 60
    with pytest.raises(ValueError, match="repeats: give samples of 42 or more"):
        FourierOptics((100, 100), pupil(40))
    with pytest.raises(ValueError, match=r"image_shape is \(5, 9, 9\)"):
        FourierOptics((5, 9, 9), pupil())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="give each once"):
        FourierOptics((9, 9), pupil(), modes=[5, 5])
    with pytest.raises(ValueError, match="holds a batch of aberrations"):
        FourierOptics((9, 9), pupil(zernikes={5: torch.zeros(3)}))
    with pytest.raises(ValueError, match="no derivative by coefficients"):
        FourierOptics((9, 9), pupil()).jacobian(places(), ["coefficients"])
    with pytest.raises(ValueError, match="has no parameter sigma"):
        FourierOptics((9, 9), pupil()).render({"sigma": 1.0})
