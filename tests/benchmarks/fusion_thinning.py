"""How much error the rules for choosing lambda_tv cost, over 12 simulated cases."""

from __future__ import annotations

import numpy as np

from helpers.fusion import calibrate_weights, choose_lambda, fuse, simulate
from helpers.metrics import nrmse

from .harness import Table, threads

COUNTS = (0.1, 0.3, 1, 4)
CASES = [(kind, counts, seed) for counts in COUNTS
         for kind, seed in (("dysco3", 0), ("dysco3", 1), ("core_shell", 0))]  # fmt: skip
RULES = ("thinning", "pure", "discrepancy", "l_curve")
WANTED = {"thinning": ("5", "15")}
LAMBDA_CHEM = 0.08
LAMBDAS = np.geomspace(0.03, 10, 10) * LAMBDA_CHEM


def run(options):
    """Regret of each rule in each case, then the summary."""
    table = Table(
        "regret in %: error at the chosen lambda above the error at the best one",
        ("specimen", "counts", "seed", "best error", *RULES),
        notes=["error: normalised rms against the truth, mean of the maps, after an affine fit"],
    )
    with threads(1):
        for kind, counts, seed in CASES:
            best, regrets = _case(kind, counts, seed)
            table.rows.append((kind, counts, seed, best, *(f"{regrets[r]:.1f}" for r in RULES)))
    yield table
    summary = Table("regret of the rules, %", ("rule", "mean", "wanted", "worst", "wanted"))
    for column, rule in enumerate(RULES, 4):
        values = [float(row[column]) for row in table.rows]
        mean, worst = WANTED.get(rule, ("", ""))
        summary.rows.append((rule, float(np.mean(values)), mean, max(values), worst))
    yield summary


def _case(kind, counts, seed):
    """Error of the best lambda, and by how many percent each rule's choice is worse."""
    data = simulate(kind, counts=counts, seed=seed, size=128)
    y = np.stack(list(data.counts.values()))
    truth = list(data.truth.values())
    numbers = list(data.atomic_numbers.values())
    scale = 4 * counts
    haadf = data.haadf / data.haadf.max()
    # Linear in the amount of matter, as the simulation is: the rules are compared, not the models.
    weights, offset, _ = calibrate_weights(haadf, y / scale, gamma=1)
    haadf = haadf - offset
    settings = {"weights": weights, "gamma": 1, "lambda_chem": LAMBDA_CHEM}

    errors, start = [], None
    for lambda_tv in LAMBDAS[::-1]:
        fit = fuse(haadf, y / scale, numbers, lambda_tv=lambda_tv, start=start, **settings)
        start = fit.maps
        each = [nrmse(m, t, affine=True) for m, t in zip(fit.maps, truth, strict=True)]
        errors.insert(0, np.mean(each))
    regrets = {}
    for rule in RULES:
        choice = choose_lambda(
            haadf, y, numbers, rule=rule, lambdas=LAMBDAS, scale=scale, seed=seed, **settings
        )
        regrets[rule] = 100 * (errors[int(np.argmin(choice.score))] / min(errors) - 1)
    return min(errors), regrets
