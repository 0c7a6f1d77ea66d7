"""Simulated specimens: seeded, Poisson, honest about the truth; twins of the measured files."""

import ast
from pathlib import Path

import numpy as np
import pytest

from helpers import datasets
from helpers.fusion import _simulate as phantoms
from helpers.fusion import simulate
from helpers.fusion._simulate import twin_core_shell, twin_dysco3

KINDS = {"dysco3": ["Sc", "Dy", "O"], "core_shell": ["Co", "Mn", "O"]}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_specimen(kind):
    first, again, other = (simulate(kind, seed=s, size=48) for s in (5, 5, 6))
    for element in KINDS[kind]:
        np.testing.assert_array_equal(first.counts[element], again.counts[element])
        assert (first.counts[element] != other.counts[element]).any()
    np.testing.assert_array_equal(first.haadf, again.haadf)


def test_the_lattice_does_not_depend_on_the_seed_but_the_heap_of_particles_does():
    for kind, same in (("dysco3", True), ("core_shell", False)):
        a, b = (simulate(kind, seed=s, size=48).truth["O"] for s in (0, 1))
        assert np.array_equal(a, b) is same


def test_simulating_leaves_the_global_generator_alone():
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    simulate(size=32)
    assert np.random.random() == expected  # noqa: NPY002


@pytest.mark.parametrize("kind", KINDS)
def test_the_layout(kind):
    data = simulate(kind, counts=2, size=40)
    assert list(data.counts) == list(data.truth) == list(data.atomic_numbers) == KINDS[kind]
    for element, image in data.counts.items():
        assert image.shape == data.truth[element].shape == data.haadf.shape == (40, 40)
        assert image.dtype.kind == "i" and image.min() >= 0 and data.truth[element].min() >= 0
        assert data.maps[element].dtype == float
    counts, haadf, truth = data
    assert counts is data.counts and haadf is data.haadf and truth is data.truth


@pytest.mark.parametrize("mean", [0.1, 3.0, 40.0])
def test_the_mean_is_what_was_asked_for(mean):
    data = simulate("dysco3", counts=mean, size=128)
    for image in data.counts.values():
        assert image.mean() == pytest.approx(mean, rel=4 / np.sqrt(mean * image.size))
    heap = simulate("core_shell", counts=mean, size=128)
    inside = sum(heap.truth.values()) > 0
    for image in heap.counts.values():
        assert image[inside].mean() == pytest.approx(mean, rel=5 / np.sqrt(mean * inside.sum()))


def test_the_counts_are_poisson_about_the_truth_and_a_background():
    """Many draws of one scene: variance equals mean, and the mean is the truth plus something."""
    stack = np.stack([simulate(counts=3, seed=s, size=24).counts["Dy"] for s in range(400)])
    assert (stack.var(axis=0, ddof=1) / stack.mean(axis=0)).mean() == pytest.approx(1, abs=0.02)
    truth = simulate(counts=3, size=24).truth["Dy"]
    background = (stack.mean(axis=0) - truth).mean()
    assert background == pytest.approx(3 - truth.mean(), abs=0.02) and background > 0.05


def test_the_truth_has_no_noise():
    """A hundred times the dose gives a hundred times the truth, and less noise about it."""
    for kind, elements in KINDS.items():
        low, high = (simulate(kind, counts=c, size=64) for c in (1, 100))
        for e in elements:
            np.testing.assert_allclose(high.truth[e], 100 * low.truth[e], rtol=1e-12)
            inside = high.truth[e] > 10
            assert inside.sum() > 50
            scatter = (high.counts[e] - high.truth[e])[inside] / np.sqrt(high.truth[e][inside])
            assert 0.8 < scatter.std() < 1.6


def test_some_columns_lack_dysprosium():
    data = simulate(size=128)
    cell = 0.395 / data.pixel_size

    def amount(row, column):
        y, x = (round((k + 0.3) * cell) for k in (row, column))
        return data.truth["Dy"][y - 9 : y + 10, x - 9 : x + 10].sum()

    for poor, full in (((1, 1), (1, 2)), ((2, 4), (2, 3)), ((4, 2), (4, 1))):
        assert amount(*poor) < 0.5 * amount(*full)


@pytest.mark.parametrize("twin", [twin_dysco3, twin_core_shell])
def test_twins_repeat(twin):
    first, again = twin(), twin()
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


@pytest.mark.parametrize("name", ["dysco3", "core_shell"])
def test_twins_have_the_measured_layout_and_units(measured, name):
    measured(name)  # skips where the file is not here
    real = datasets.load(name).arrays
    twin = {"dysco3": twin_dysco3, "core_shell": twin_core_shell}[name]()
    assert set(twin) == set(real)
    for key, image in real.items():
        assert twin[key].shape == image.shape and twin[key].dtype == image.dtype
        assert twin[key].min() >= 0.7 * image.min()
        # the same units: within a factor of three, and of six for the largest of few counts
        assert 1 / 6 < twin[key].max() / image.max() < 2
        assert 1 / 3 < twin[key].mean() / image.mean() < 3
        assert abs((twin[key] == 0).mean() - (image == 0).mean()) < 0.1
    if name == "dysco3":
        for arrays in (real, twin):
            total = arrays["Sc"] + arrays["Dy"] + arrays["O"]
            np.testing.assert_allclose(total, 1, atol=1e-6)


def test_the_haadf_is_not_made_by_the_model_of_the_solver():
    tree = ast.parse(Path(phantoms.__file__).read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported = {name.name for node in imports for name in node.names}
    assert "haadf_from_maps" not in imported and "element_weights" not in imported
    assert "atomic_number" in imported, "this test reads the imports"


def test_the_solvers_model_does_not_explain_the_haadf_exactly():
    """Even from the truth, with the best weights, the misfit is far above the shot noise."""
    from helpers.fusion import calibrate_weights

    data = simulate("dysco3", counts=2, size=96, peak=1e6)
    haadf = data.haadf / data.haadf.max()
    for gamma in (1.0, 1.6):
        fit = calibrate_weights(haadf, data.truth, gamma=gamma, smooth=0)
        assert fit.misfit > 10 / np.sqrt(1e6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cat"}, "kind is 'cat': use 'dysco3' or 'core_shell'"),
        ({"counts": 0}, "counts is 0: it must be above 0"),
        ({"counts": np.nan}, "counts is nan"),
        ({"size": -4}, "size is -4"),
        ({"peak": np.inf}, "peak is inf"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        simulate(**settings)
