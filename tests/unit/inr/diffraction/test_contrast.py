"""The index contrast of a worm, found from 20 images."""

from functools import partial

import numpy as np
import pytest
import torch

from helpers.inr.diffraction import (
    Born,
    Microscope,
    MultiSlice,
    contrast_field,
    fit_contrast,
    grounded,
    linear_inverse,
    ring,
    rings,
)
from helpers.inr.diffraction.contrast import linear_start
from helpers.inr.fields import Softplus, Voxels
from helpers.inr.fields.field import Index
from helpers.inr.fit import Stage
from helpers.inr.fit.losses import total_variation
from helpers.inr.phantoms.diffraction import simulate
from helpers.metrics import psnr

OPTICS = Microscope(voxel_size=(0.6, 0.2, 0.2))
QUICK = Stage(60, 0.3, views=8)


@pytest.fixture(scope="module")
def scan():
    return simulate(rings(20, 0.62), shape=(20, 48, 48), optics=OPTICS, seed=5)


@pytest.fixture(scope="module")
def model(scan):
    return MultiSlice(scan.optics, scan.leds, scan.truth.shape)


@pytest.fixture(scope="module")
def found(scan, model):
    return fit_contrast(model, scan.intensity, photons=scan.photons, schedule=QUICK)


def test_the_field_is_above_the_linear_inverse_at_its_best(scan, found):
    op = Born(scan.optics, scan.leds, scan.truth.shape)
    linear = [
        change(linear_inverse(op, scan.intensity, weight, logarithm=logarithm))
        for weight in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
        for logarithm in (False, True)
        for change in (grounded, lambda volume: volume)
    ]
    best = max(psnr(volume, scan.truth) for volume in linear)
    print(f"linear {best:.2f} dB, field {psnr(found.volume, scan.truth):.2f} dB")
    assert psnr(found.volume, scan.truth) > best + 3
    assert isinstance(found.volume, np.ndarray) and not np.signbit(found.volume).any()


def test_it_predicts_leds_that_it_never_saw(scan, model):
    kept = [n for n in range(20) if n % 5 != 2]
    rest = [n for n in range(20) if n % 5 == 2]
    fit = fit_contrast(
        model.select(kept), scan.intensity[kept], photons=scan.photons, schedule=QUICK
    )
    predicted = model.select(rest)(fit.volume)
    noise = np.sqrt(np.mean((scan.expected[rest] - scan.intensity[rest]) ** 2))
    assert np.sqrt(np.mean((predicted - scan.intensity[rest]) ** 2)) < 1.25 * noise


def test_the_seed_decides_and_nothing_else(scan, model):
    fits = [
        fit_contrast(model, scan.intensity, photons=1000, schedule=Stage(3, 0.3, views=4), seed=s)
        for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(fits[0].volume, fits[1].volume)
    assert abs(fits[0].volume - fits[2].volume).max() > 0


def test_free_voxels_and_the_linear_model_take_the_same_road(scan):
    shape = scan.truth.shape
    voxels = Voxels(shape, Softplus(mean=1e-3, scale=0.01))
    op = Born(scan.optics, scan.leds, shape)
    fit = fit_contrast(
        op, scan.intensity, photons=1000, field=voxels, background=1.0, schedule=Stage(5, 0.3)
    )
    assert isinstance(fit.field, Voxels) and fit.volume.shape == shape


def test_dark_field_images_are_left_out_of_the_start(scan):
    leds = np.concatenate([scan.leds, ring(2, 0.9)])
    model = MultiSlice(scan.optics, leds, scan.truth.shape)
    intensity = np.concatenate([scan.intensity, np.full((2, 48, 48), 7.0, np.float32)])
    alone = linear_start(MultiSlice(scan.optics, scan.leds, scan.truth.shape), scan.intensity)
    np.testing.assert_allclose(linear_start(model, intensity), alone, atol=1e-7)


def test_the_start_has_the_contrast_of_cells():
    field = contrast_field((8, 24, 24), (0.6, 0.2, 0.2))
    volume = field.volume((8, 24, 24))
    assert 5e-4 < float(volume.detach().mean()) < 2e-3 and volume.min() > 0


def test_total_variation_is_the_area_of_a_box_times_its_height():
    volume = torch.zeros(8, 9, 10)
    volume[2:5, 3:7, 4:6] = 0.5
    volume.requires_grad_()
    area = 2 * (3 * 4 + 3 * 2 + 4 * 2)
    corners = partial(total_variation, smooth=0.0)
    assert 0.85 * area * 0.5 < float(corners(volume)) <= area * 0.5
    step = torch.zeros(6, 4, 4)
    step[3:] = 2.0
    assert float(corners(step, weights=(0.5, 1.0, 1.0))) == pytest.approx(2.0 * 16 * 0.5)
    total_variation(volume, smooth=1e-3).backward()
    assert torch.isfinite(volume.grad).all()


def fields_of_an_index():
    return Voxels((12, 48, 48), Index(0.1, 1.33))


def test_fewer_leds_than_a_step_looks_at_are_all_looked_at():
    leds = ring(6, 0.6)
    scan = simulate(leds, shape=(4, 24, 24))
    model = MultiSlice(scan.optics, scan.leds, scan.truth.shape)
    found = fit_contrast(model, scan.intensity, photons=1000, device="cpu")
    assert found.settings["schedule"][0]["views"] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photons": 0}, "photons is 0"),
        ({"intensity": np.ones((19, 48, 48))}, "19 images for 20 LEDs"),
        ({"intensity": np.ones((20, 48, 47))}, r"intensity is \(20, 48, 47\)"),
        ({"intensity": np.full((20, 48, 48), np.nan)}, "NaN"),
        ({"intensity": -np.ones((20, 48, 48))}, "negative"),
        ({"intensity": np.full((20, 48, 48), 1000.0)}, "median of 1e.03: divide all images"),
        ({"field": fields_of_an_index()}, "starts at 1.33, which is an index"),
    ],
)
def test_errors_say_what_to_do(model, scan, change, message):
    arguments = {"intensity": scan.intensity, "photons": 1000} | change
    with pytest.raises(ValueError, match=message):
        fit_contrast(model, **arguments)


def test_dark_fields_alone_cannot_begin():
    model = MultiSlice(OPTICS, ring(3, 0.9), (4, 16, 16))
    with pytest.raises(ValueError, match="no LED is in the bright field"):
        fit_contrast(model, np.ones((3, 16, 16)), photons=10)
