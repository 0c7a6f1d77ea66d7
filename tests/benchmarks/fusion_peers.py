"""The fusion beside its peers: the published Python loop and the compiled package, one thread."""

from __future__ import annotations

import statistics
from functools import partial

import numpy as np
import torch

from helpers.fusion import element_weights, fuse
from helpers.fusion.backends.steps import WavefrontSteps

from . import compiled_package, published_loop
from .fusion_case import SETTINGS, measured, simulated
from .harness import Table, interleaved, ratio, threads

PUBLISHED, GUIDE = "published loop, restated", "published loop, original"
PACKAGE, PACKAGE32 = "multimodal-fusion", "multimodal-fusion, float32 maps"
WAVEFRONT, TORCH, STEPS = "fuse, wavefront", "fuse, torch", "wavefront, steps alone"


def run(options):
    """One table of times and one of agreement for each size."""
    cases = [partial(simulated, size) for size in options.sizes]
    if 256 in options.sizes and (real := measured()):
        cases.insert(0, lambda: real)
    with threads(1):
        for case in cases:
            yield from _compare(case(), options)


def _compare(case, options):
    weights = element_weights(case.numbers, SETTINGS["gamma"])
    results, calls = {}, {}

    def contender(name, call):
        # The last result of every contender is kept, to be compared when the clock has stopped.
        calls[name] = lambda: results.__setitem__(name, call())

    matrix = published_loop.measurement_matrix(weights, case.haadf.size)
    loop = partial(published_loop.run, case.maps, case.haadf, matrix, **SETTINGS)
    ours = published_loop.published_projection, published_loop.published_roughness
    contender(PUBLISHED, lambda: loop(*ours)[0])
    if options.guide:
        original = published_loop.load_guide(options.guide, case.haadf.shape)
        contender(GUIDE, lambda: loop(*original)[0])
    absent = compiled_package.missing()
    if not absent:
        package = compiled_package.Package(case, weights, SETTINGS["gamma"])
        contender(PACKAGE, lambda: package.run(**SETTINGS))
        package32 = compiled_package.Package(case.as_float32(), weights, SETTINGS["gamma"])
        contender(PACKAGE32, lambda: package32.run(**SETTINGS))
    for name, backend in {WAVEFRONT: "wavefront", TORCH: "torch"}.items():
        fused = partial(fuse, solver="tutorial", backend=backend, device="cpu", **SETTINGS)
        fused(case.haadf[:32, :32], case.maps[:, :32, :32], case.numbers)  # loads and compiles
        contender(name, lambda f=fused: f(case.haadf, case.maps, case.numbers).maps)
    contender(STEPS, partial(_steps_alone, case.as_float32(), weights))

    seconds = interleaved(calls, options.repeats or max(2, min(9, 3072 // len(case.haadf))))
    yield _times(case, seconds, absent)
    yield _agreement(case, results, weights)


def _steps_alone(case, weights):
    """What the package does and no more: the steps, without a cost curve."""

    def each(value):
        return torch.full((len(case.maps),), value)

    steps = WavefrontSteps(
        torch.from_numpy(case.maps), torch.from_numpy(case.haadf),
        torch.from_numpy(weights.astype(np.float32)), SETTINGS["gamma"], 1 / len(case.maps),
        SETTINGS["lambda_chem"], each(SETTINGS["lambda_tv"]), each(SETTINGS["background"]),
        "isotropic",
    )  # fmt: skip
    x = steps.maps
    for _ in range(SETTINGS["n_iter"]):
        x = steps.prox_gradient(x, 1.0, SETTINGS["n_iter_tv"], warm=False)[0]
    return x.numpy()


def _times(case, seconds, absent):
    large = len(case.haadf) >= 2048
    wanted = {
        WAVEFRONT: ("20", "15") if large else ("10", "6"),
        TORCH: ("4", "2.4"),
    }
    table = Table(
        f"{case.name}: {SETTINGS['n_iter']} iterations of {SETTINGS['n_iter_tv']} sweeps, "
        f"{len(case.maps)} maps, one thread, {len(seconds[TORCH])} turns",
        ("", "best s", "median s", "ns/value/it", "x published", "wanted", "x package", "wanted"),
        notes=[
            "fuse: whole calls, checks and cost curves included; the package has no cost curves",
            "x: median of the ratios turn by turn; x package: against float64 maps, as measured",
        ],
    )
    if absent:
        table.notes.append(absent)
    for name, times in seconds.items():
        per_value = 1e9 * min(times) / case.work / SETTINGS["n_iter"]
        against = [ratio(seconds[peer], times) if peer in seconds else "-"
                   for peer in (PUBLISHED, PACKAGE)]  # fmt: skip
        goals = wanted.get(name, ("", ""))
        table.rows.append((
            name, min(times), statistics.median(times), per_value,
            against[0], goals[0], against[1], goals[1],
        ))  # fmt: skip
    return table


def _agreement(case, results, weights):
    def apart(a, b):
        return float(np.abs(results[a] - results[b]).max())

    table = Table(f"{case.name}: agreement", ("", "largest difference", "wanted"))
    table.rows.append(("wavefront and torch", apart(WAVEFRONT, TORCH), "1e-5"))
    table.rows.append(("wavefront and its steps alone", apart(WAVEFRONT, STEPS), "1e-5"))
    if case.haadf.size <= 512**2:
        matrix = published_loop.measurement_matrix(weights, case.haadf.size, np.float64)
        projection = published_loop.correct_projection
        results["reference"] = published_loop.run(
            case.maps, case.haadf, matrix, projection, np.linalg.norm, clip=False, **SETTINGS
        )[0]
        table.rows.append(("wavefront and float64 NumPy", apart(WAVEFRONT, "reference"), "1e-5"))
        table.rows.append(("torch and float64 NumPy", apart(TORCH, "reference"), "1e-5"))
    if GUIDE in results:
        table.rows.append(("published loop, restated and original", apart(PUBLISHED, GUIDE), "0"))
    for peer in (PUBLISHED, PACKAGE):
        if peer in results:
            error = np.linalg.norm(results[peer] - results[WAVEFRONT])
            share = error / np.linalg.norm(results[WAVEFRONT])
            table.notes.append(f"{peer} is {share:.1%} from ours: its projection is another")
    return table
