"""Light through an index contrast: flat without one, and what theory says with a faint one."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from helpers.inr.diffraction import (
    Born,
    Microscope,
    MultiSlice,
    grounded,
    linear_inverse,
    ring,
    rings,
    spiral,
)
from helpers.inr.phantoms import worm

OPTICS = Microscope()
LAYOUTS = {"spiral": spiral, "ring": ring, "rings": rings}


def relative(a, b):
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(b))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 16, 24), (1, 15, 17)])
def test_without_an_object_the_image_is_flat(shape, dtype):
    leds = np.concatenate([rings(6, 0.62), ring(3, 0.9)])
    model = MultiSlice(OPTICS, leds, shape)
    images = model(np.zeros(shape, dtype))
    assert images.dtype == dtype and images.shape == model.out_shape == (9, *shape[1:])
    expected = np.repeat([1.0, 0.0], [6, 3])[:, None, None] * np.ones(shape[1:])
    np.testing.assert_allclose(images, expected, atol=1e-5 if dtype == np.float32 else 1e-12)
    assert model.bright.tolist() == [True] * 6 + [False] * 3


def test_an_equal_index_everywhere_changes_nothing():
    model = MultiSlice(OPTICS, spiral(5, 0.6), (4, 16, 16))
    np.testing.assert_allclose(model(np.full((4, 16, 16), 0.02)), 1, atol=1e-12)


def test_propagation_keeps_the_energy():
    """An aperture that takes all light: no object of any strength changes the mean intensity."""
    wide = Microscope(na=1.32, voxel_size=(0.5, 0.1, 0.1))
    bumps = np.random.default_rng(0).normal(size=(6, 48, 48))
    contrast = gaussian_filter(bumps, (0, 5, 5), mode="wrap")
    contrast *= 0.1 / abs(contrast).max()
    images = MultiSlice(wide, spiral(4, 0.4), contrast.shape)(contrast)
    assert images.std() > 0.05, "the object must do something"
    np.testing.assert_allclose(images.mean(axis=(1, 2)), 1, atol=1e-6)


@pytest.mark.parametrize("distance", [-1.5, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("cycles", [3, 7])
def test_a_weak_grating_has_the_contrast_of_theory(cycles, distance):
    """On the axis a phase grating out of focus shows 2 phi sin(chi), chi its defocus."""
    optics = Microscope(voxel_size=(0.5, 0.2, 0.2))
    planes, n, amplitude = 11, 32, 1e-3
    q = cycles * optics.wavelength / (n * 0.2)
    contrast = np.zeros((planes, n, n))
    wave = np.cos(2 * np.pi * cycles * np.arange(n) / n)
    plane = planes // 2 + round(distance / 0.5)
    contrast[plane] = amplitude * wave
    phase = 2 * np.pi / optics.wavelength * 0.5 * amplitude
    chi = 2 * np.pi / optics.wavelength * distance * (1.33 - math.sqrt(1.33**2 - q**2))
    expected = -2 * phase * math.sin(chi) * (q <= optics.na)
    image = MultiSlice(optics, [[0.0, 0.0]], contrast.shape)(contrast)[0] - 1
    measured = 2 * (image * wave).mean()
    assert measured == pytest.approx(expected, rel=0.02, abs=0.01 * phase)
    linear = Born(optics, [[0.0, 0.0]], contrast.shape)(contrast)[0]
    assert 2 * (linear * wave).mean() == pytest.approx(expected, rel=1e-5, abs=1e-6 * phase)


def test_one_sideband_alone_shows_phase_in_focus():
    """A tilted LED at the rim: one side of a fine grating is cut off, the other beats alone."""
    shape, cycles = (1, 64, 64), 10
    led = ring(1, 0.62)  # along x
    contrast = 1e-3 * np.cos(2 * np.pi * cycles * np.arange(64) / 64) * np.ones(shape)
    step = 0.532 / 12.8
    tilt = round(0.62 / step) * step
    delay = 2 * np.pi / 0.532 * 0.5 * 1.33 / math.sqrt(1.33**2 - tilt**2)
    image = MultiSlice(OPTICS, led, shape)(contrast)[0] - 1
    assert image.max() == pytest.approx(1e-3 * delay, rel=0.02)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_faint_object_agrees_with_the_first_order(layout):
    shape = (8, 32, 32)
    leds = LAYOUTS[layout](7, 0.62)
    model, linear = MultiSlice(OPTICS, leds, shape), Born(OPTICS, leds, shape)
    contrast = 0.02 * worm(shape, OPTICS.voxel_size, seed=0).astype(float)
    first = linear(contrast)
    assert relative(model(contrast) - 1, first) < 0.02
    # what is left is of second order
    half = relative(model(contrast / 2) - 1, linear(contrast / 2))
    assert half == pytest.approx(relative(model(contrast) - 1, first) / 2, rel=0.1)


@pytest.mark.parametrize("chunk", [None, 2])
def test_the_gradient_is_right(chunk):
    shape = (3, 6, 5)
    model = MultiSlice(OPTICS, np.array([[0, 0], [0.4, 0], [0, 0.9]]), shape, chunk=chunk)
    contrast = 0.05 * torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(0))
    assert torch.autograd.gradcheck(model, contrast.requires_grad_(), eps=1e-6, atol=1e-7)


def test_chunks_change_the_memory_and_nothing_else():
    shape, leds = (4, 16, 16), spiral(7, 0.6)
    results = []
    for chunk in (None, 3):
        contrast = torch.full(shape, 0.01, dtype=torch.float64)
        contrast[1, 4:9, 5:11] = 0.03
        contrast.requires_grad_()
        images = MultiSlice(OPTICS, leds, shape, chunk=chunk)(contrast)
        (images**2).sum().backward()
        results.append((images.detach(), contrast.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_snapping_does_not_darken_an_led():
    """On a coarse grid the nearest frequency of 0.62 may lie outside the aperture of 0.65."""
    for n in (8, 12, 21, 64):
        assert MultiSlice(OPTICS, ring(40, 0.62), (1, n, n)).bright.all()


def test_a_selection_gives_the_images_of_its_leds():
    shape = (4, 16, 16)
    contrast = worm(shape, OPTICS.voxel_size, seed=1)
    for model in (MultiSlice(OPTICS, spiral(6, 0.6), shape), Born(OPTICS, spiral(6, 0.6), shape)):
        whole = model(contrast)
        for which in ([4, 1], slice(2, 5)):
            part = model.select(which)
            assert part.out_shape == part(contrast).shape
            np.testing.assert_allclose(part(contrast), whole[which], atol=1e-6)
            np.testing.assert_array_equal(part.leds, model.leds[which])


def test_the_leds_move_to_frequencies_of_the_grid():
    model = MultiSlice(OPTICS, spiral(20, 0.6), (2, 30, 40))
    steps = 0.532 / (np.array([30, 40]) * 0.2)
    turns = model.leds.numpy() / steps
    np.testing.assert_allclose(turns, turns.round(), atol=1e-9)
    assert abs(model.leds.numpy() - spiral(20, 0.6)).max() <= steps.max() / 2 + 1e-12


@pytest.mark.parametrize("plane", [4, 16])
def test_what_is_out_of_focus_moves_with_the_tilt(plane):
    """Geometry: an object at height z is seen at -z tan(theta)."""
    y, x = np.mgrid[:64, :64] - 32
    contrast = np.zeros((21, 64, 64))
    contrast[plane] = 1e-3 * np.exp(-(x**2 + y**2) / (2 * 3.0**2))
    model = MultiSlice(OPTICS, ring(1, 0.3), contrast.shape)
    change = (model(contrast)[0] - 1) ** 2
    tilt = float(model.leds[0, 1])
    shift = -(plane - 10) * 0.5 * tilt / math.sqrt(1.33**2 - tilt**2) / 0.2
    assert (change * x).sum() / change.sum() == pytest.approx(shift, abs=0.3)
    assert (change * y).sum() / change.sum() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("n_leds", [20, 40, 60])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_stay_in_the_aperture_and_apart(layout, n_leds):
    leds = LAYOUTS[layout](n_leds, 0.62)
    assert leds.shape == (n_leds, 2) and np.hypot(*leds.T).max() <= 0.62 + 1e-12
    distances = np.hypot(*(leds[:, None] - leds[None]).T) + 9 * np.eye(n_leds)
    assert distances.min() > 0.4 / n_leds**0.5 * 0.62 / 3
    assert np.hypot(*leds.mean(0)) < 0.1, "light from all sides"


@pytest.mark.parametrize("n_leds", [3, 9])
def test_the_linear_inverse_is_the_minimum(n_leds):
    """Fewer LEDs than slices, and more: the gradient of the objective is zero."""
    shape, weight = (5, 16, 17), 1e-3
    op = Born(OPTICS, spiral(n_leds, 0.6), shape)
    rng = np.random.default_rng(0)
    y = 1 + 0.1 * rng.normal(size=op.out_shape)
    x = linear_inverse(op, y, weight)
    scale = weight * (op.transfer.abs() ** 2).sum((0, 1)).max().item()
    gradient = op.adjoint(op(x) - (y - 1)) + scale * x
    assert np.linalg.norm(gradient) < 1e-5 * np.linalg.norm(op.adjoint(y - 1))
    np.testing.assert_allclose(x.mean(axis=(1, 2)), 0, atol=1e-9)


def test_the_linear_inverse_finds_a_faint_object():
    shape = (4, 24, 24)
    op = Born(OPTICS, rings(16, 0.62), shape)
    truth = 0.01 * worm(shape, OPTICS.voxel_size, seed=0).astype(float)
    intensity = MultiSlice(OPTICS, rings(16, 0.62), shape)(truth)
    found = linear_inverse(op, intensity, 1e-7)
    assert relative(op(found), intensity - 1) < 0.01
    logarithm = linear_inverse(op, intensity, 1e-7, logarithm=True)
    assert 0 < relative(logarithm, found) < 0.2


def test_the_logarithm_adds_phases_where_the_field_does_not():
    """Rytov's approximation is exact for a wide smooth delay, Born's is not."""
    shape = (1, 64, 64)
    y, x = np.mgrid[:64, :64] - 31.5
    thick = 0.25 * np.exp(-(x**2 + y**2) / 18.0**2)[None]  # 1.5 rad
    op = Born(OPTICS, ring(8, 0.62), shape)
    intensity = MultiSlice(OPTICS, ring(8, 0.62), shape)(thick)
    truth = thick - thick.mean()
    born, rytov = (linear_inverse(op, intensity, 1e-5, logarithm=log) for log in (False, True))
    assert relative(rytov, truth) < 0.75 * relative(born, truth)


def test_grounding_sets_the_border_to_zero():
    volume = np.zeros((2, 12, 12)) + np.array([-0.3, 0.2])[:, None, None]
    volume[:, 5:7, 5:7] += 1
    volume[0, 6, 8] -= 0.5
    found = grounded(volume)
    expected = np.zeros((2, 12, 12))
    expected[:, 5:7, 5:7] = 1
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_both_kinds_of_arrays():
    model, op = (kind(OPTICS, spiral(3, 0.6), (2, 8, 8)) for kind in (MultiSlice, Born))
    x = np.zeros((2, 8, 8), np.float32)
    for call in (model, op, lambda v: op.adjoint(op(v)), lambda v: linear_inverse(op, model(v), 1)):
        assert isinstance(call(x), np.ndarray) and call(x).dtype == np.float32
        assert torch.is_tensor(call(torch.tensor(x)))


SHAPE = (4, 8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Microscope(na=1.4), r"na is 1.4 in a medium of index 1.33"),
        (lambda: Microscope(voxel_size=(1, 0.5, 0.5)), "pixels are 0.5 um: .* 0.409 um or less"),
        (lambda: Microscope(voxel_size=(0.5, 0.2)), r"give \(z, y, x\)"),
        (lambda: Microscope(wavelength=float("nan")), "positive lengths"),
        (lambda: spiral(0, 0.5), "n_leds is 0"),
        (lambda: ring(4, -0.5), "na -0.5"),
        (lambda: MultiSlice(OPTICS, spiral(4, 0.5), (8, 8)), r"shape is \(8, 8\)"),
        (lambda: MultiSlice(OPTICS, [0.1, 0.2], SHAPE), r"leds have shape \(2,\)"),
        (lambda: MultiSlice(OPTICS, [[0.1, np.nan]], SHAPE), "leds hold NaN"),
        (lambda: MultiSlice(OPTICS, [[1.33, 0.4]], SHAPE), "an LED lies at 1.37"),
        (lambda: MultiSlice(OPTICS, [[0, 0]], SHAPE, chunk=0), "chunk is 0"),
        (lambda: Born(OPTICS, [[0.9, 0]], SHAPE), "no first order"),
        (lambda: model()(np.zeros((4, 8, 9))), r"contrast is \(4, 8, 9\), the model has"),
        (lambda: model()(np.full(SHAPE, 1.33)), "values up to 1.33: give the index minus"),
        (lambda: model()(np.full(SHAPE, np.nan)), "contrast holds NaN"),
        (lambda: op()(np.zeros((4, 9, 8))), r"contrast is \(4, 9, 8\), the operator needs"),
        (lambda: op().adjoint(np.zeros(SHAPE)), r"change is \(4, 8, 8\), the operator needs"),
        (lambda: linear_inverse(op(), np.ones((2, 8, 8)), 1e-3), r"intensity is \(2, 8, 8\)"),
        (lambda: linear_inverse(op(), -np.ones((3, 8, 8)), 1e-3), "negative values"),
        (lambda: linear_inverse(op(), np.full((3, 8, 8), np.nan), 1e-3), "NaN"),
        (lambda: linear_inverse(op(), np.full((3, 8, 8), np.inf), 1e-3), "infinity"),
        (lambda: linear_inverse(op(), np.ones((3, 8, 8)), 0), "regularisation is 0"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def model():
    return MultiSlice(OPTICS, ring(3, 0.6), SHAPE)


def op():
    return Born(OPTICS, ring(3, 0.6), SHAPE)
