"""The forward model: five schemes, one equation, and the guide's scaling."""

import numpy as np
import pytest
import torch

from helpers.fusion import calibrate_weights, element_weights, haadf_from_maps, normalize
from helpers.fusion._checks import SYMBOLS, atomic_number
from helpers.fusion.model import SCHEMES

Z = np.array([21.0, 66.0, 8.0])
FORMULAS = {
    "equal": lambda g: np.ones(3),
    "z_over_mean": lambda g: Z / (95 / 3),
    "zg_over_mean": lambda g: Z**g / ((21**g + 66**g + 8**g) / 3),
    "z_over_sum": lambda g: Z / 95,
    "zg_over_sum": lambda g: Z**g / (21**g + 66**g + 8**g),
}


@pytest.mark.parametrize("gamma", [1.0, 1.6, 2.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_against_its_formula(scheme, gamma):
    expected = FORMULAS[scheme](gamma)
    number = list(FORMULAS).index(scheme)
    for name in (scheme, number):
        np.testing.assert_allclose(element_weights([21, 66, 8], gamma, name), expected, rtol=1e-12)
    np.testing.assert_array_equal(
        element_weights(["Sc", "Dy", "O"], gamma, scheme), element_weights(Z, gamma, scheme)
    )


def test_the_default_is_the_guide():
    np.testing.assert_allclose(element_weights(["Sc", "Dy", "O"]), Z / Z.mean())


@pytest.mark.parametrize(
    ("numbers", "scheme", "message"),
    [
        ([], 1, "atomic_numbers is empty"),
        (["Xx"], 1, "unknown element 'Xx': use a chemical symbol"),
        (["dy"], 1, "unknown element 'dy'"),
        ([0], 1, "atomic number 0: use a whole number from 1 to 118"),
        ([119], 1, "atomic number 119: use"),
        ([26.5], 1, "atomic number 26.5: use"),
        ([float("nan")], 1, "atomic number nan: use"),
        (["O"], 5, "scheme is 5: use one of equal, z_over_mean"),
        (["O"], "z", "scheme is 'z': use one of"),
    ],
)
def test_unknown_elements_and_schemes_are_named(numbers, scheme, message):
    with pytest.raises(ValueError, match=message):
        element_weights(numbers, scheme=scheme)


def test_the_periodic_table_is_complete_and_in_order():
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 118
    known = {"H": 1, "Ne": 10, "Ca": 20, "Sc": 21, "Fe": 26, "Sr": 38, "Xe": 54, "La": 57}
    known |= {"Dy": 66, "Lu": 71, "Hf": 72, "Au": 79, "Pb": 82, "U": 92, "Lr": 103, "Og": 118}
    assert {symbol: atomic_number(symbol) for symbol in known} == known


def test_the_haadf_is_the_weighted_sum_of_powers():
    x = np.random.default_rng(0).random((2, 3, 5, 4))
    expected = 0.5 * x[:, 0] ** 1.7 + 2 * x[:, 1] ** 1.7 + 0 * x[:, 2]
    result = haadf_from_maps(x, [0.5, 2, 0], 1.7)
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    tensor = haadf_from_maps(torch.tensor(x, dtype=torch.float32), [0.5, 2, 0], 1.7)
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor, expected, rtol=1e-5)
    for maps, weights in ((x, [1, 2]), (x[0, 0], [1.0])):
        with pytest.raises(ValueError, match=r"expected \(..., E, H, W\) and \(E,\)"):
            haadf_from_maps(maps, weights)


@pytest.mark.parametrize("kind", ["array", "dict", "tensor", "integers"])
def test_normalize_brings_every_image_to_the_unit_range(kind):
    rng = np.random.default_rng(0)
    maps, haadf = rng.integers(3, 90, (2, 6, 5)), rng.integers(1000, 9000, (6, 5))
    maps[1] = 7  # constant
    before = maps.copy(), haadf.copy()
    expected = (maps[0] - maps[0].min()) / np.ptp(maps[0])
    if kind == "dict":
        h, out = normalize(haadf, {"O": maps[0], "Sc": maps[1]})
        assert list(out) == ["O", "Sc"]
        out = np.stack(list(out.values()))
    elif kind == "tensor":
        h, out = normalize(torch.tensor(haadf), torch.tensor(maps))
        assert out.dtype == torch.float32 and isinstance(h, torch.Tensor)
        out = out.numpy()
    else:
        h, out = normalize(haadf, maps if kind == "integers" else maps.astype(float))
        assert out.dtype == h.dtype == float
    np.testing.assert_allclose(out[0], expected, atol=1e-6)
    assert not out[1].any()
    assert float(h.min()) == 0 and float(h.max()) == 1
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(haadf, before[1])


def test_a_constant_image_of_integers_still_becomes_floating():
    _, out = normalize(torch.ones(2, 2), torch.ones(1, 2, 2, dtype=torch.int32))
    assert out.dtype == torch.float32 and not out.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_normalize_names_the_image_that_is_not_finite(bad):
    good, broken = np.eye(2), np.array([[0, bad], [1, 2]])
    with pytest.raises(ValueError, match="map Dy has NaN or infinite values"):
        normalize(good, {"O": good, "Dy": broken})
    with pytest.raises(ValueError, match="map 1 has NaN"):
        normalize(good, np.stack([good, broken]))
    with pytest.raises(ValueError, match="haadf has NaN"):
        normalize(broken, good[None])


def smooth_maps(seed=0, shape=(3, 96, 96)):
    """Blobs with hard contrast, so that the columns of the fit are far from parallel."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    x = np.stack([gaussian_filter(m, 5) for m in rng.standard_normal(shape)])
    return np.maximum(x / x.std(), 0)


@pytest.mark.parametrize("gamma", [1.0, 1.6])
def test_calibration_recovers_weights_and_offset_without_noise(gamma):
    x, w = smooth_maps(), np.array([0.4, 2.0, 0.0])
    fit = calibrate_weights(haadf_from_maps(x, w, gamma) + 0.3, x, gamma=gamma, smooth=0)
    np.testing.assert_allclose(fit.weights, w, atol=1e-10)
    assert fit.offset == pytest.approx(0.3) and fit.misfit < 1e-10


def test_calibration_recovers_weights_and_offset_from_shot_noise():
    x, w, dose = smooth_maps(), np.array([0.4, 2.0, 0.9]), 4.0
    rng = np.random.default_rng(1)
    counts = {str(e): rng.poisson(dose * m) / dose for e, m in enumerate(x)}
    haadf = rng.poisson(200 * (haadf_from_maps(x, w, 1) + 0.3)) / 200
    fit = calibrate_weights(haadf, counts, gamma=1)
    np.testing.assert_allclose(fit.weights, w, rtol=0.1)
    assert fit.offset == pytest.approx(0.3, rel=0.2)
    rough = calibrate_weights(haadf, counts, gamma=1, smooth=0)
    assert rough.weights.sum() < 0.9 * w.sum(), "without smoothing noise pulls them to zero"


def test_calibration_never_gives_a_negative_weight_or_offset():
    x = smooth_maps()
    fit = calibrate_weights(np.maximum(2 * x[0] - x[1], 0), x, smooth=0)
    assert (fit.weights >= 0).all() and fit.weights[1] == 0 and fit.offset >= 0


def test_calibration_takes_no_batch():
    with pytest.raises(ValueError, match=r"shape \(2, 1, 8, 8\): expected \(E, H, W\)"):
        calibrate_weights(np.ones((8, 8)), np.ones((2, 1, 8, 8)))
