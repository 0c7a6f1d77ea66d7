"""Backgrounds taken off before a fusion: under an edge, and over the vacuum."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.fusion import subtract_power_law, subtract_vacuum

ENERGIES = np.arange(500.0, 760.0)
FIT, SIGNAL = (560, 630), (640, 700)


def tail(r=3.0, height=1e4):
    return height * (ENERGIES / 500) ** -r


def test_an_edge_on_a_power_law_comes_back():
    edge = np.where((ENERGIES >= 640) & (ENERGIES < 660), 5e3, 0.0)
    found = subtract_power_law(tail() + edge, ENERGIES, FIT, SIGNAL)
    assert found.signal == pytest.approx(edge.sum(), rel=0.03)
    under = tail()[(ENERGIES >= 640) & (ENERGIES < 700)].sum()
    assert found.background == pytest.approx(under, rel=1e-3)


@pytest.mark.parametrize("fit", [(580, 635), (560.5, 631), (561, 630)])
def test_windows_of_an_odd_number_of_channels(fit):
    """One channel more in the first half was taken for a slope: the background was 10 % low."""
    found = subtract_power_law(tail(), ENERGIES, fit, SIGNAL)
    assert abs(found.signal) < 2e-3 * found.background


def test_every_pixel_has_its_own_slope_unless_it_is_shared():
    spectra = np.stack([tail(2.0), tail(4.0)])
    own = subtract_power_law(spectra, ENERGIES, FIT, SIGNAL)
    shared = subtract_power_law(spectra, ENERGIES, FIT, SIGNAL, shared_slope=True)
    assert np.all(np.abs(own.signal) < 2e-3 * own.background)
    assert np.all(np.abs(shared.signal) > 0.05 * own.background)


def test_a_shared_slope_is_right_on_average_where_counts_are_few():
    spectra = np.random.default_rng(0).poisson(tail(height=0.6), (40, 40, ENERGIES.size))
    own = subtract_power_law(spectra, ENERGIES, FIT, SIGNAL)
    shared = subtract_power_law(spectra, ENERGIES, FIT, SIGNAL, shared_slope=True)
    error = shared.signal.std() / 40
    assert abs(shared.signal.mean()) < 4 * error
    assert own.signal.mean() < -10 * error


def test_a_pixel_without_counts_has_no_edge():
    spectra = np.stack([tail(), 0 * ENERGIES])
    found = subtract_power_law(spectra, ENERGIES, FIT, SIGNAL)
    assert found.signal[1] == found.background[1] == 0


@pytest.mark.parametrize(
    "energies, fit, signal, words",
    [
        (ENERGIES[:-1], FIT, SIGNAL, "the same number"),
        (ENERGIES[::-1], FIT, SIGNAL, "must rise"),
        (ENERGIES - 500, FIT, SIGNAL, "above 0 eV"),
        (ENERGIES, (560, 650), SIGNAL, "must lie before"),
        (ENERGIES, (560, 562), SIGNAL, "too few channels"),
        (ENERGIES, FIT, (800, 900), "too few channels"),
    ],
)
def test_windows_that_make_no_sense_are_named(energies, fit, signal, words):
    with pytest.raises(ValueError, match=words):
        subtract_power_law(tail(), energies, fit, signal)


def test_the_mean_of_the_vacuum_goes_and_the_image_stays_untouched():
    image = np.array([[1.0, 3.0], [6.0, 1.0]])
    kept = image.copy()
    top = np.s_[:1]
    assert subtract_vacuum(image, top).tolist() == [[0, 1], [4, 0]]
    assert subtract_vacuum(image, top, clip=False).tolist() == [[-1, 1], [4, -1]]
    mask = np.array([[False, False], [True, False]])
    assert subtract_vacuum(image, mask, clip=False)[1, 0] == 0
    assert np.array_equal(image, kept)


def test_an_empty_region_is_refused():
    with pytest.raises(ValueError, match="holds no pixel"):
        subtract_vacuum(np.ones((4, 4)), np.s_[4:])
