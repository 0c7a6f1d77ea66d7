"""The compiled wavefront and plain torch take the same steps, on any number of threads."""

import numpy as np
import pytest
import torch

from helpers.fusion import fuse
from helpers.fusion.backends.steps import WavefrontSteps
from tests.unit.fusion.equation import KINDS, NUMBERS, SOLVERS, array, scene


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_elements", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(40, 31), (17, 64), (2, 3), (1, 9), (9, 1)])
def test_both_backends_take_the_same_steps(kind, n_elements, shape):
    haadf, maps = scene(n_elements, shape)
    for solver, n_iter, n_tv in (("tutorial", 12, 3), ("accelerated", 10, 4), ("tutorial", 2, 1)):
        kw = {
            "kind": kind,
            "solver": solver,
            "n_iter": n_iter,
            "n_iter_tv": n_tv,
            "lambda_tv": 0.1,
        }
        a, b = (
            fuse(haadf, maps, NUMBERS[:n_elements], backend=x, **kw) for x in ("wavefront", "torch")
        )
        np.testing.assert_allclose(a.maps, b.maps, atol=1e-5)
        np.testing.assert_allclose(a.haadf, b.haadf, atol=1e-5)
        np.testing.assert_allclose(a.cost.total, b.cost.total, rtol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 1.02, 1.3, 2.0])
def test_both_backends_agree_at_every_gamma_and_at_zero(gamma):
    haadf, maps = scene()
    maps[:, :9] = 0
    a, b = (
        fuse(haadf, maps, NUMBERS[:3], gamma=gamma, n_iter=8, backend=x)
        for x in ("wavefront", "torch")
    )
    np.testing.assert_allclose(a.maps, b.maps, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_both_backends_on_a_crystal_for_the_guides_thirty_iterations(crystal, solver):
    kw = {**crystal.settings, "solver": solver, "n_iter": 30, "tol": 0}
    a, b = (
        fuse(crystal.haadf, crystal.maps, crystal.numbers, backend=x, **kw)
        for x in ("wavefront", "torch")
    )
    difference = np.linalg.norm(array(a.maps) - array(b.maps)) / np.linalg.norm(array(b.maps))
    assert difference <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(280, 500), (37, 50), (3, 8)])
def test_the_number_of_threads_does_not_change_the_maps(kind, shape):
    haadf, maps = scene(2, shape)
    before, results = torch.get_num_threads(), {}
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for solver, n_iter in (("tutorial", 6), ("accelerated", 10)):
                results[solver, threads] = fuse(
                    haadf, maps, NUMBERS[:2], solver=solver, n_iter=n_iter, n_iter_tv=2, kind=kind,
                    backend="wavefront",
                ).maps  # fmt: skip
    finally:
        torch.set_num_threads(before)
    for threads in (2, 5):
        np.testing.assert_array_equal(results["tutorial", threads], results["tutorial", 1])
        np.testing.assert_allclose(
            results["accelerated", threads], results["accelerated", 1], atol=1e-6
        )


def test_bands_really_run_beside_each_other(monkeypatch):
    calls = []
    steps = WavefrontSteps(*[torch.zeros(1, 130, 2100), torch.zeros(130, 2100)], *[None] * 7)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    steps._bands(3, lambda first, last: calls.append((first, last)) or (1.0,))
    assert sorted(calls) == [(0, 32), (32, 65), (65, 97), (97, 130)]


def test_no_compiler_means_torch(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert fuse(*scene(), NUMBERS[:3], n_iter=1).settings["backend"] == "torch"


def test_what_a_callback_keeps_stays_as_it_was():
    haadf, maps = scene(2, (24, 20))
    kept = []
    result = fuse(haadf, maps, NUMBERS[:2], n_iter=6, backend="wavefront",
                  callback=lambda k, x, cost: kept.append(x[0].numpy()))  # fmt: skip
    shorter = fuse(haadf, maps, NUMBERS[:2], n_iter=3, backend="wavefront")
    np.testing.assert_array_equal(kept[2], shorter.maps[0])
    np.testing.assert_array_equal(kept[5], result.maps[0])
