"""A thin object under an LED array: the model against another one, and what is found with it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from helpers.inr.diffraction import Ptychography, explained, fit_transmission, led_directions
from helpers.inr.fields import Identity, Voxels
from helpers.inr.fit import Stage, fit, losses

WAVELENGTH, NA, PIXEL, FINER, N = 0.6, 0.12, 1.5, 3, 40
STEP = WAVELENGTH / (N * PIXEL)
GRID = np.mgrid[-2:3, -2:3].reshape(2, -1).T
LEDS = STEP * (5 * GRID + (1, -1))  # on the frequencies of the field, where waves are periodic
settings = dict(wavelength=WAVELENGTH, na=NA, pixel_size=PIXEL, finer=FINER)


def discs(n=N * FINER):
    """A transmission of discs that delay and absorb, laid out by hand."""
    y, x = np.mgrid[:n, :n] / n
    thick = np.zeros((n, n))
    for row, column, radius in [(0.3, 0.3, 0.12), (0.6, 0.7, 0.2), (0.75, 0.25, 0.08)]:
        thick += 1 / (1 + np.exp((np.hypot(y - row, x - column) - radius) * 90))
    stripes = 0.2 * np.sin(2 * np.pi * 14 * x) * (y > 0.5)
    return np.exp((0.9j - 0.2) * (thick + stripes))


def seen_by_another(t, leds, phase=lambda y, x: 0 * y, gain=1.0):
    """Plane wave times object, lens, camera: in space, on the whole grid, one LED at a time."""
    n = len(t)
    place = np.arange(n) * PIXEL / FINER
    along = np.fft.fftfreq(n, PIXEL / FINER) * WAVELENGTH
    y, x = along[:, None], along[None, :]
    pupil = np.clip(0.5 + (NA - np.hypot(y, x)) / STEP, 0, 1) * np.exp(1j * phase(y / NA, x / NA))
    images = []
    for qy, qx in leds:
        wave = np.exp(2j * np.pi * (qy * place[:, None] + qx * place) / WAVELENGTH)
        field = np.fft.ifft2(np.fft.fft2(wave * t) * pupil)
        images.append(gain * np.abs(field[::FINER, ::FINER]) ** 2)
    return np.array(images)


def defocused(y, x):
    return 0.8 * np.sqrt(3) * (2 * (y**2 + x**2) - 1)


def pair(t):
    return np.stack([t.real - 1, t.imag])


def test_without_an_object_bright_fields_are_flat_and_dark_fields_dark():
    model = Ptychography(LEDS, (N, N), **settings)
    images = model(np.zeros(model.in_shape))
    assert images.shape == model.out_shape == (25, N, N)
    radius = np.hypot(*LEDS.T)
    clear = np.abs(radius - NA) > STEP
    expected = np.where(radius < NA, 1.0, 0.0)[clear, None, None] * np.ones((N, N))
    np.testing.assert_allclose(images[clear], expected, atol=1e-5)
    assert model.bright.tolist() == (radius <= NA).tolist()


@pytest.mark.parametrize("phase", [lambda y, x: 0 * y, defocused])
def test_it_agrees_with_a_model_that_shares_no_code(phase):
    model = Ptychography(LEDS, (N, N), **settings)
    y, x = np.meshgrid(*model.frequencies, indexing="ij")
    given = model.at({"pupil": phase(y / NA, x / NA)})
    by_name = model.at({"aberration": [0.8, *[0] * 11]}) if phase is defocused else model
    expected = seen_by_another(discs(), LEDS, phase)
    for each in (given, by_name):
        np.testing.assert_allclose(each(pair(discs())), expected, atol=1e-6)


def test_an_led_between_frequencies_shows_gratings_through_the_pupil_there():
    """Three waves leave a grating; each takes the pupil's value at its own direction."""
    model = Ptychography([(0.31 * STEP, 0.7 * STEP)], (N, N), edge=0.3, **settings)
    model = model.at({"aberration": [0.8, *[0] * 11]})
    place = np.arange(N * FINER) / (N * FINER)
    t = 1 + 0.2j * np.cos(2 * np.pi * 4 * place) * np.ones((N * FINER, 1))
    y, x = np.meshgrid(np.arange(N) / N, np.arange(N) / N, indexing="ij")
    field = 0
    for order, amplitude in ((0, 1), (4, 0.1j), (-4, 0.1j)):
        qy, qx = 0.31 * STEP, (order + 0.7) * STEP
        rim = np.clip(0.5 + (NA - np.hypot(qy, qx)) / (0.3 * NA), 0, 1)
        pupil = rim * np.exp(1j * defocused(qy / NA, qx / NA))
        field = field + amplitude * pupil * np.exp(2j * np.pi * order * x)
    np.testing.assert_allclose(model(pair(t))[0], np.abs(field) ** 2, atol=5e-3)


def test_an_array_turned_by_180_degrees_shows_the_conjugate_object():
    model = Ptychography(LEDS + 0.3 * STEP, (N, N), **settings)
    y, x = np.meshgrid(*model.frequencies, indexing="ij")
    phase = 40 * y + 900 * x * y**2 + 50 * x**2
    turned = Ptychography(-LEDS - 0.3 * STEP, (N, N), **settings)
    here = model.at({"pupil": phase})(pair(discs()))
    there = turned.at({"pupil": -phase[::-1, ::-1]})(pair(discs().conj()))
    np.testing.assert_allclose(here, there, atol=1e-9)


def test_the_margin_is_seen_by_the_object_alone():
    wide = Ptychography(LEDS, (N, N), **settings)
    cut = Ptychography(LEDS, (N - 8, N - 8), margin=4, **settings)
    x = pair(discs())
    assert cut.in_shape == wide.in_shape
    np.testing.assert_array_equal(cut(x), wide(x)[:, 4:-4, 4:-4])
    assert cut.transmission(x).shape == ((N - 8) * FINER,) * 2


@pytest.mark.parametrize("name", ["leds", "aberration", "pupil", "absorption", "gains"])
def test_derivatives_are_those_of_finite_differences(name):
    model = Ptychography(LEDS[:6] + 0.4 * STEP, (N, N), edge=0.3, **settings)
    x = torch.from_numpy(pair(discs()))
    value = model.parameters()[name]
    way = torch.cos(torch.arange(value.numel(), dtype=torch.float64)).reshape(value.shape)
    size = 1e-4 * STEP if name == "leds" else 1e-4

    def at(step):
        return model.at({name: value + step * size * way})(x)

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    weights = torch.sin(torch.arange(at(0).numel(), dtype=torch.float64)).reshape(at(0).shape)
    (slope,) = torch.autograd.grad((weights * at(step)).sum(), step)
    expected = (weights * (at(1) - at(-1))).sum() / 2
    assert float(slope) == pytest.approx(float(expected), rel=1e-3)


def test_an_unknown_pupil_is_found_and_unseen_leds_are_predicted():
    images = seen_by_another(discs(), LEDS, defocused)
    model = Ptychography(LEDS, (N, N), **settings)
    shown, hidden = np.arange(25) % 5 != 3, np.arange(25) % 5 == 3
    score = {}
    for learn in ((), ("aberration",)):
        found = fit_transmission(
            model.select(shown), images[shown], learn=learn, n_iter=80, device="cpu"
        )
        numbers = {"aberration": found.model.parameters()["aberration"]}
        predicted = model.at(numbers).select(hidden)(found.volume)
        score[learn] = np.median(explained(predicted, images[hidden]))
    assert numbers["aberration"][0] == pytest.approx(0.8, abs=0.1)
    assert score[("aberration",)] > 0.9 > score[()] + 0.1


def test_the_first_half_of_the_iterations_sees_the_bright_field_only():
    model = Ptychography(LEDS, (N, N), **settings)
    images = seen_by_another(discs(), LEDS, defocused)
    other = images * np.where(model.bright.numpy(), 1, 2)[:, None, None]
    histories = [
        fit_transmission(model, y, n_iter=18, device="cpu").history["objective"]
        for y in (images, other)
    ]
    first, second = (history[:9] for history in histories)
    assert np.array_equal(first, second) and np.all(first[2::3] < first[::3])
    assert histories[0][-1] != histories[1][-1]
    only = fit_transmission(model.select(model.bright), images[model.bright], n_iter=10)
    assert only.n_iter == 10
    short = fit_transmission(model, images, n_iter=2, device="cpu")
    assert short.n_iter == 2 and not short.converged


def test_a_general_fit_learns_the_gains_of_leds():
    gains = 1 + 0.2 * np.cos(np.arange(25))
    images = seen_by_another(discs(), LEDS) * gains[:, None, None]
    model = Ptychography(LEDS, (N, N), **settings)
    result = fit(
        Voxels(model.in_shape, Identity()), model, images, learn=["gains"], device="cpu",
        loss=partial(losses.amplitude, sigma=0.05), schedule=Stage(60, 0.05, betas=(0.8, 0.95)),
    )  # fmt: skip
    found, bright = result.learned["gains"], model.bright.numpy()
    assert np.corrcoef(found[bright], gains[bright])[0, 1] > 0.8
    assert set(result.errors) == {"gains"} and result.errors["gains"].shape == (25,)


def test_directions_of_leds():
    found = led_directions([[0, 0], [3, 4]], 12)
    np.testing.assert_allclose(found, [[0, 0], [-3 / 13, -4 / 13]])
    np.testing.assert_allclose(led_directions([[3, 4]], 12, index=1.5), [[-4.5 / 13, -6 / 13]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(pixel_size=3.0), "carry the field of an objective"),
        (dict(finer=1), "times finer than the camera"),
        (dict(finer=1.5), "finer is 1.5"),
        (dict(na=-0.1), "na is -0.1"),
        (dict(margin=-1), "margin is -1"),
        (dict(edge=1.2), "edge is 1.2"),
        (dict(shape=(N,)), "camera pixels"),
        (dict(leds=[[0, np.nan]]), "finite"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    arguments = settings | dict(leds=LEDS, shape=(N, N)) | changes
    with pytest.raises(ValueError, match=message):
        Ptychography(arguments.pop("leds"), arguments.pop("shape"), **arguments)


def test_numbers_and_images_that_cannot_be_are_refused():
    model = Ptychography(LEDS, (N, N), **settings)
    images = np.ones(model.out_shape)
    for wrong, message in [
        (lambda: model.at({"pupils": 0}), "is none of"),
        (lambda: model.at({"gains": np.ones(3)}), "give finite numbers"),
        (lambda: model(np.zeros((2, 8, 8))), "real and imaginary part"),
        (lambda: fit_transmission(model, -images), "below zero"),
        (lambda: fit_transmission(model, 1000 * images), "divide all images"),
        (lambda: fit_transmission(model, images, learn=("tilt",)), "the operator has"),
        (lambda: fit_transmission(model, images, n_iter=0), "n_iter"),
        (lambda: fit_transmission(model, images, tol=1.0), "tol is 1.0: give a share"),
        (lambda: fit_transmission(model, images[:3]), "the operator gives"),
        (lambda: led_directions([[0, 0]], 0), "distance"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
