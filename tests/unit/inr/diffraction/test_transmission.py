"""A transmission fit that was stopped goes on to the same bits; another fit is refused."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from helpers import checkpoints
from helpers.inr.diffraction import Ptychography, fit_transmission
from helpers.training import loop

N = 24
STEP = 0.6 / (N * 1.5)
LEDS = STEP * (3 * np.mgrid[-2:3, -2:3].reshape(2, -1).T + (1, -1))
N_ITER = 12  # half of them with the bright field alone


@pytest.fixture(scope="module")
def model():
    return Ptychography(LEDS, (N, N), wavelength=0.6, na=0.12, pixel_size=1.5)


@pytest.fixture(scope="module")
def images(model):
    y, x = np.mgrid[: 3 * N, : 3 * N] / (3 * N)
    thick = np.exp(-40 * ((y - 0.4) ** 2 + (x - 0.6) ** 2)) + 0.2 * np.sin(40 * x)
    t = np.exp((0.8j - 0.2) * thick)
    lens = model.at({"aberration": [0.6, *[0] * 11]})
    return np.maximum(lens(np.stack([t.real - 1, t.imag])), 0)


@pytest.fixture(scope="module")
def whole(model, images):
    return fit_transmission(model, images, n_iter=N_ITER, device="cpu")


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


@pytest.mark.parametrize("every", [4, 6, 9, 12])  # among the bright, between, among all, at the end
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
        ({"n_iter": N_ITER + 2}, "leds all, not bright field, at step 7"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_transmission(model, images, **(given | change))
