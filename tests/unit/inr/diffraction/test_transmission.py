"""Where a transmission fit starts and ends; one that was stopped goes on to the same bits."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from helpers import checkpoints
from helpers.inr.diffraction import Ptychography, fit_transmission, transmission
from helpers.inr.diffraction._unknown import Unknown
from helpers.training import loop

N = 24
STEP = 0.6 / (N * 1.5)
LEDS = STEP * (3 * np.mgrid[-2:3, -2:3].reshape(2, -1).T + (1, -1))
N_ITER = 12  # twice from each of three starts with the bright field alone, then six with all LEDs


@pytest.fixture(scope="module")
def model():
    return Ptychography(LEDS, (N, N), wavelength=0.6, na=0.12, pixel_size=1.5)


def seen(model, defocus):
    """Images of three discs that delay and absorb, out of focus by some radians RMS."""
    y, x = np.mgrid[: 3 * N, : 3 * N] / (3 * N)
    thick = 0.0
    for row, column, radius in [(0.3, 0.3, 0.12), (0.6, 0.7, 0.2), (0.75, 0.25, 0.08)]:
        thick = thick + 1 / (1 + np.exp((np.hypot(y - row, x - column) - radius) * 60))
    t = np.exp((0.9j - 0.2) * thick)
    lens = model.at({"aberration": [defocus, *[0] * 11]})
    return np.maximum(lens(np.stack([t.real - 1, t.imag])), 0)


@pytest.fixture(scope="module")
def images(model):
    return seen(model, 0.6)


@pytest.fixture(scope="module")
def whole(model, images):
    return fit_transmission(model, images, n_iter=N_ITER, device="cpu")


def test_a_large_defocus_is_found_from_the_start_on_its_side(model, monkeypatch):
    images, found = seen(model, -1.2), {}
    for starts in ((0.0,), transmission.DEFOCUS):
        monkeypatch.setattr(transmission, "DEFOCUS", starts)
        found[len(starts)] = fit_transmission(model, images, n_iter=60, device="cpu")
    numbers = {k: float(each.model.parameters()["aberration"][0]) for k, each in found.items()}
    assert numbers[1] > -0.7, "one start ends in a local minimum"
    assert numbers[3] == pytest.approx(-1.2, abs=0.2) and found[3].settings["defocus"] == -0.5
    assert found[3].history["objective"][-1] < 0.5 * found[1].history["objective"][-1]


def test_the_background_of_dark_fields_is_found(model, images):
    dark = ~model.bright.numpy()
    found = fit_transmission(
        model, images + 0.004 * dark[:, None, None], n_iter=60, tol=0, device="cpu"
    )
    off = found.model.parameters()["background"].numpy()[dark] - 0.004
    assert np.median(np.abs(off)) < 0.001
    given = model.at({"background": 0.004 * dark})
    start = Unknown(given, torch.from_numpy(images), ["background"]).start["background"].numpy()
    np.testing.assert_allclose(start[dark], 0.004, rtol=1e-6)  # what is known stays


def test_the_fit_ends_when_it_has_settled(model, images):
    noisy = np.random.default_rng(0).poisson(200 * images) / 200
    found = fit_transmission(model, noisy, n_iter=300, device="cpu")
    assert found.converged and found.n_iter < 300
    last = found.history["objective"][150:]  # with all LEDs
    fall = (last[:-10] - last[10:]) / last[10:]
    assert fall[-1] < 0.01 < fall[:-1].min()
    whole = fit_transmission(model, noisy, n_iter=found.n_iter, tol=0, device="cpu")
    assert not whole.converged and whole.n_iter == found.n_iter


class Killed(Exception):
    pass


def killed_after(n, monkeypatch):
    """Let the process end right after the n-th checkpoint."""
    made, write = [], checkpoints.save

    def save(*arguments):
        write(*arguments)
        made.append(arguments)
        if len(made) == n:
            raise Killed

    monkeypatch.setattr(loop.checkpoints, "save", save)


def same(a, b):
    np.testing.assert_array_equal(a.volume, b.volume)
    np.testing.assert_array_equal(a.history["objective"], b.history["objective"])
    for name, value in a.model.parameters().items():
        np.testing.assert_array_equal(value, b.model.parameters()[name])
    assert a.n_iter == b.n_iter == N_ITER


@pytest.mark.parametrize(
    "every", [1, 2, 6, 9, 12]
)  # within a start, between two, before all LEDs ...
def test_a_killed_fit_goes_on_to_the_same_bits(model, images, whole, every, tmp_path, monkeypatch):
    path = tmp_path / "fit.safetensors"
    given = dict(n_iter=N_ITER, checkpoint=path, checkpoint_every=every, device="cpu")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(1, patch)
        fit_transmission(model, images, **given)
    assert checkpoints.load(path)[1]["steps"] == every
    same(fit_transmission(model, images, **given), whole)


def test_ctrl_c_gives_what_was_found_and_the_fit_goes_on(
    model, images, whole, tmp_path, monkeypatch
):
    path = tmp_path / "fit.safetensors"
    with monkeypatch.context() as patch:
        evaluate, asked = Ptychography.__call__, []

        def once(self, x):
            asked.append(x)
            if len(asked) == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return evaluate(self, x)

        patch.setattr(Ptychography, "__call__", once)
        part = fit_transmission(model, images, n_iter=N_ITER, checkpoint=path, device="cpu")
    assert part.interrupted and 0 < part.n_iter < N_ITER // 2
    assert part.transmission.shape == whole.transmission.shape and not part.converged
    same(fit_transmission(model, images, n_iter=N_ITER, checkpoint=path, device="cpu"), whole)


def test_a_checkpoint_with_other_numbers_or_another_border_is_refused(model, images, tmp_path):
    path = tmp_path / "fit.safetensors"
    given = dict(n_iter=N_ITER, checkpoint=path, device="cpu")
    fit_transmission(model, images, **given)
    for change, message in [
        ({"learn": ("gains",)}, "is for another model"),
        ({"n_iter": N_ITER + 6}, r"defocus -0.5, not 0.0, at step 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_transmission(model, images, **(given | change))
