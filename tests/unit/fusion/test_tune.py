"""The weight of total variation, chosen without the truth and judged by it."""

import numpy as np
import pytest

from helpers.fusion import calibrate_weights, choose_lambda, fuse, simulate, tune
from helpers.metrics import nrmse

CASES = [("dysco3", dose, seed) for dose in (0.1, 0.3, 1, 4) for seed in (0, 1)]
CASES += [("core_shell", dose, 0) for dose in (0.1, 0.3, 1, 4)]
LAMBDAS = np.geomspace(0.03, 10, 10) * 0.08


def problem(kind, dose, seed, size=96):
    """A simulated measurement, its truth, and the settings of a fusion of it."""
    data = simulate(kind, counts=dose, seed=seed, size=size)
    counts, scale = np.stack(list(data.counts.values())), 4.0 * dose
    haadf = data.haadf / data.haadf.max()
    fit = calibrate_weights(haadf, counts / scale, gamma=1)
    settings = {"weights": fit.weights, "gamma": 1, "background": 0.24}
    return haadf - fit.offset, counts, list(data.truth.values()), scale, settings


def regret(kind, dose, seed):
    """Percent by which the chosen weight's error is above that of the best weight."""
    haadf, counts, truth, scale, settings = problem(kind, dose, seed)
    errors, start = [], None
    for weight in LAMBDAS[::-1]:
        result = fuse(haadf, counts / scale, [1, 2, 3], lambda_tv=weight, start=start, **settings)
        start = result.maps
        each = [nrmse(m, t, affine=True) for m, t in zip(start, truth, strict=True)]
        errors.append(np.mean(each))
    errors = np.array(errors[::-1])
    assert errors.min() < 0.95 * min(errors[0], errors[-1]), "the choice must matter"
    choice = choose_lambda(
        haadf, counts, [1, 2, 3], lambdas=LAMBDAS, scale=scale, seed=seed, **settings
    )
    return 100 * (errors[list(LAMBDAS).index(choice.lambda_tv)] / errors.min() - 1)


def test_thinning_loses_little_against_the_best_weight():
    losses = np.array([regret(*case) for case in CASES])
    print(f"regret in percent: mean {losses.mean():.1f}, worst {losses.max():.1f}")
    assert losses.mean() <= 5 and losses.max() <= 15


@pytest.fixture(scope="module")
def small():
    haadf, counts, _, scale, settings = problem("dysco3", 1, 0, size=40)
    return haadf, counts, {"scale": scale, "n_iter": 8, "lambdas": LAMBDAS[::3], **settings}


@pytest.mark.parametrize("rule", tune.RULES)
def test_every_rule_chooses_the_lowest_of_its_scores(small, rule):
    haadf, counts, settings = small
    choice = choose_lambda(haadf, counts, [21, 66, 8], rule=rule, **settings)
    assert choice.rule == rule and choice.score.shape == choice.lambdas.shape == (4,)
    assert choice.lambda_tv == choice.lambdas[np.argmin(choice.score)]
    assert choice.at_edge is bool(np.argmin(choice.score) in (0, 3))
    np.testing.assert_array_equal(choice.lambdas, LAMBDAS[::3])


@pytest.mark.parametrize("rule", tune.RULES)
def test_the_seed_decides_and_nothing_else(small, rule):
    haadf, counts, settings = small

    def score(seed):
        return choose_lambda(haadf, counts, [21, 66, 8], rule=rule, seed=seed, **settings).score

    first = score(1)
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(score(1), first)
    assert (rule == "l_curve") is np.array_equal(score(2), first)


def test_what_is_predicted_was_never_fused(small, monkeypatch):
    """Thinning fuses a share of the counts; the other share is independent of it."""
    haadf, counts, settings = small
    counts, seen = counts * 50 + 1, []
    original = tune.fuse

    def watched(h, maps, *args, **kw):
        seen.append(maps * settings["scale"])
        return original(h, maps, *args, **kw)

    monkeypatch.setattr(tune, "fuse", watched)
    choose_lambda(haadf, counts, [21, 66, 8], fraction=0.7, n_repeats=3, **settings)
    assert len(seen) == 3 * 4
    splits = [kept.round() for kept in seen[::4]]
    for kept in splits:
        assert (kept <= counts).all()
        assert kept.sum() == pytest.approx(0.7 * counts.sum(), rel=0.01)
    assert (splits[0] != splits[1]).any() and (splits[1] != splits[2]).any()
    for other in seen[1:4]:
        np.testing.assert_array_equal(other, seen[0])


def test_the_settings_reach_the_fusion(small, monkeypatch):
    haadf, counts, settings = small
    calls, original = [], tune.fuse

    def watched(h, maps, numbers, **kw):
        calls.append((maps, numbers, kw))
        return original(h, maps, numbers, **kw)

    monkeypatch.setattr(tune, "fuse", watched)
    kw = {**settings, "scale": [2.0, 4.0, 8.0], "lambda_chem": 0.02, "kind": "anisotropic"}
    choose_lambda(haadf, counts, [21, 66, 8], rule="l_curve", **kw)
    maps, numbers, passed = calls[0]
    np.testing.assert_allclose(maps, counts / np.array([2, 4, 8])[:, None, None])
    assert list(numbers) == [21, 66, 8] and passed["n_iter"] == 8 and passed["gamma"] == 1
    assert passed["lambda_chem"] == 0.02 and passed["kind"] == "anisotropic"
    assert [c[2]["lambda_tv"] for c in calls] == list(LAMBDAS[::3][::-1])


def test_weights_to_try_are_sorted_and_have_a_default(small):
    haadf, counts, settings = small
    kw = {**settings, "lambdas": [0.5, 0.01, 0.1], "rule": "l_curve"}
    np.testing.assert_array_equal(
        choose_lambda(haadf, counts, [21, 66, 8], **kw).lambdas, [0.01, 0.1, 0.5]
    )
    kw |= {"lambdas": None, "lambda_chem": 0.5, "n_iter": 1}
    found = choose_lambda(haadf, counts, [21, 66, 8], **kw).lambdas
    np.testing.assert_allclose([found.size, found[0], found[-1]], [10, 0.015, 5])


def test_a_choice_at_the_edge_says_so(small):
    haadf, counts, settings = small
    kw = {**settings, "lambdas": [1e-6, 2e-6, 4e-6]}
    assert choose_lambda(haadf, counts, [21, 66, 8], **kw).at_edge, "noise asks for more smoothing"


def test_a_dict_and_an_array_give_the_same_choice(small):
    haadf, counts, settings = small
    by_array = choose_lambda(haadf, counts, [21, 66, 8], **settings)
    by_dict = choose_lambda(
        haadf,
        dict(zip(["Sc", "Dy", "O"], counts, strict=True)),
        {"O": 8, "Sc": 21, "Dy": 66},
        **settings,
    )
    np.testing.assert_array_equal(by_array.score, by_dict.score)


def test_pure_estimates_the_true_error():
    """On average, and to first order, it is the squared error that only the truth can tell."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    mean = 3 + 2.5 * np.sin(x / 5) * np.cos(y / 7)
    haadf, settings = mean / mean.max(), {"lambda_haadf": 0, "n_iter": 25, "scale": 10.0}
    settings |= {"lambdas": [0.003, 0.03, 0.3], "background": 0.02, "lambda_chem": 0.3}
    estimates, errors = [], []
    for _ in range(6):
        counts = rng.poisson(mean)[None]
        estimates.append(
            choose_lambda(haadf, counts, [8], rule="pure", n_repeats=2, **settings).score
        )
        start, error = None, []
        for weight in settings["lambdas"][::-1]:
            fit = fuse(haadf, counts / 10.0, [8], lambda_haadf=0, n_iter=25, background=0.02,
                       lambda_chem=0.3, lambda_tv=weight, start=start)  # fmt: skip
            start = fit.maps
            error.append(np.square(10 * (fit.maps + 0.02) - mean).mean() / mean.mean())
        errors.append(error[::-1])
    estimate, error = np.mean(estimates, axis=0), np.mean(errors, axis=0)
    assert np.ptp(error) > 0.3, "the three fits must differ"
    np.testing.assert_allclose(estimate, error, rtol=0.25, atol=0.05)


def test_a_map_without_counts_does_not_break_the_choice(small):
    haadf, counts, settings = small
    counts = counts.copy()
    counts[2] = 0
    for rule in ("thinning", "pure"):
        choice = choose_lambda(haadf, counts, [21, 66, 8], rule=rule, **settings)
        assert np.isfinite(choice.score).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "guess"}, "rule is 'guess': use one of thinning, pure, discrepancy, l_curve"),
        ({"fraction": 1.0}, "fraction is 1.0: it must lie between 0 and 1"),
        ({"lambdas": [0.1, 0.2]}, "2 lambdas: give at least three"),
        (
            {"counts": np.full((3, 4, 4), 0.5)},
            "counts are not whole numbers: give the counts, and",
        ),
        ({"counts": -np.ones((3, 4, 4))}, "map 0 has negative values"),
        ({"counts": np.full((3, 4, 4), np.nan)}, "map 0 has NaN"),
        (
            {"counts": np.ones((2, 3, 4, 4))},
            r"counts have shape \(2, 3, 4, 4\): expected \(E, H, W\)",
        ),
        ({"counts": np.ones((3, 4, 5))}, "haadf is 4 x 4 but maps are 3 x 4 x 5"),
        ({"atomic_numbers": [8]}, "1 atomic numbers for 3 maps"),
        ({"counts": {"O": np.ones((4, 4))}, "atomic_numbers": {"Sc": 21}}, r"lacks \['O'\]"),
    ],
)
def test_bad_input_is_named_before_any_fusion(monkeypatch, change, message):
    monkeypatch.setattr(tune, "fuse", lambda *args, **kw: pytest.fail("a fusion began"))
    arguments = {
        "haadf": np.ones((4, 4)),
        "counts": np.ones((3, 4, 4)),
        "atomic_numbers": [1, 2, 3],
    }
    with pytest.raises(ValueError, match=message):
        choose_lambda(**arguments | change)
