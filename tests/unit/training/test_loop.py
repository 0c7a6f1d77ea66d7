"""The loop itself; what all trainings have in common is in tests/properties/test_going_on.py."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from helpers import checkpoints
from helpers.training import Schedule, Step
from helpers.training.loop import Run, adapted

CARD = {"data": "none", "seed": 0}


def run(path=None, n=6, **options):
    number = nn.Linear(1, 1, bias=False)
    nn.init.ones_(number.weight)
    optimizer = torch.optim.SGD(number.parameters(), lr=0.1)
    options = {"identity": dict, "parts": {"net": number}, "save_every": 4, "card": CARD} | options
    made = Run(number, optimizer, n, lambda step: 0.1, checkpoint=path, **options)
    return number, made


def test_a_step_is_a_number_with_its_loss():
    step = Step(20, 0.5, nn.Identity())
    assert step == 20 and step % 10 == 0 and [0.0] * 21 == [0.0] * (step + 1)
    assert step.loss == 0.5 and isinstance(step.model, nn.Identity)


def test_the_steps_are_those_of_the_optimizer():
    number, made = run()
    made(lambda step: number.weight.square().sum())
    assert number.weight.item() == pytest.approx(0.8**6)
    np.testing.assert_allclose(made.history, 0.64 ** np.arange(6), rtol=1e-5)
    assert len(made.seconds) == 6 and not made.interrupted and made.resumed == 0


def test_an_optimizer_that_evaluates_several_times_gets_the_function(tmp_path):
    number, _ = run()
    search = torch.optim.LBFGS(number.parameters(), max_iter=1, line_search_fn="strong_wolfe")
    options = {"identity": dict, "parts": {"net": number}, "save_every": 1, "card": CARD}
    made = Run(number, search, 3, lambda step: 1.0, checkpoint=tmp_path / "run", **options)
    goals = [2.0, 2.0, float("nan")]

    def objective(step):
        def evaluate():
            search.zero_grad()
            value = (number.weight - goals[step]).square().sum()
            value.backward()
            return value

        return evaluate

    with pytest.raises(FloatingPointError, match="the loss of step 2 is nan"):
        made(objective)
    assert made.history[0] == 1 and abs(made.history[1]) < 1e-8
    assert len(checkpoints.load(tmp_path / "run")[0]["history"]) == 2


def test_the_gradient_is_clipped():
    number, made = run(n=1, clip=0.5)
    made(lambda step: number.weight.square().sum())
    assert number.weight.item() == pytest.approx(1 - 0.1 * 0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_not_followed(tmp_path, bad):
    number, made = run(tmp_path / "run", advice="think")
    with pytest.raises(FloatingPointError, match=rf"the loss of step 5 is {bad}: think"):
        made(lambda step: number.weight.sum() * (bad if step == 5 else 1.0))
    assert number.weight.item() == pytest.approx(0.5)
    assert len(checkpoints.load(tmp_path / "run")[0]["history"]) == 4


def test_a_file_of_an_earlier_version_is_refused(tmp_path):
    number, _ = run()
    card = CARD | {"steps": 1, "metric": {}}
    checkpoints.save(tmp_path / "run", {"net": number.state_dict()}, card)
    with pytest.raises(ValueError, match="is of an earlier version: choose another name, or del"):
        run(tmp_path / "run")


def test_no_probe_is_left_behind(tmp_path):
    run(tmp_path / "deep" / "run")
    assert list((tmp_path / "deep").iterdir()) == []


def test_callbacks_of_old_are_called_as_they_were_with_a_warning():
    step, seen = Step(3, 0.5, nn.Identity()), []
    with pytest.warns(DeprecationWarning, match="now called with one argument, a Step"):
        old = adapted(lambda step, loss: seen.append((step, loss)), lambda s: (int(s), s.loss))
    old(step)
    assert seen == [(3, 0.5)]
    with warnings.catch_warnings(action="error"):
        assert adapted(None, tuple) is None
        assert adapted(seen.append, tuple) == seen.append


def test_the_old_name_of_the_learning_rate_works_once_more():
    with pytest.warns(DeprecationWarning, match="rate is now learning_rate"):
        schedule = Schedule(3, rate=0.5)
    with pytest.warns(DeprecationWarning, match="rate is now learning_rate"):
        assert schedule.rate == schedule.learning_rate == 0.5
