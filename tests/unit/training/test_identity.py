"""Fingerprints: equal for equal things in any process, different for what decides a result."""

import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.inr.fit.losses import gaussian, poisson
from helpers.noise import PoissonGauss
from helpers.training.identity import differences, fingerprint, name_of

WEIGHT = 0.5


@dataclass
class Settings:
    width: float = 1.0
    shape: tuple = (3, 4)


class Operator:
    def __init__(self, kernel):
        self.kernel = kernel

    @cached_property
    def sum(self):
        return self.kernel.sum()

    def apply(self, x):
        return self.kernel * x


def penalty(weight):
    return lambda x: weight * x.sum()


def by_global(x):
    return WEIGHT * x.sum()


def net(weight=1.0, buffer=0.0, frozen=False):
    made = nn.Linear(2, 2)
    nn.init.constant_(made.weight, weight)
    nn.init.constant_(made.bias, 0.0)
    made.register_buffer("psf", torch.full((2,), buffer))
    return made.requires_grad_(not frozen)


SAME = {
    "numbers": lambda: [1, 2.5, "a", None, True, {"b": 1, "a": (2, 3)}],
    "array": lambda: np.arange(6.0).reshape(2, 3),
    "tensor": lambda: torch.arange(6.0),
    "dataclass": Settings,
    "noise": lambda: PoissonGauss(1.5),
    "loss": lambda: partial(poisson, read_noise=1.5),
    "closure": lambda: penalty(0.1),
    "method": lambda: Operator(np.ones(3)).apply,
    "module": net,
    "generator": lambda: torch.Generator().manual_seed(3),
}


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_equal_things_have_equal_fingerprints(make):
    assert fingerprint(make()) == fingerprint(make())


def test_another_process_finds_the_same():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_identity as t\n"
        "print(*(t.fingerprint(make()) for make in t.SAME.values()))"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, here]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    sys.path.insert(0, here)
    try:
        import test_identity as same_name  # functions are known by the module they are in
    finally:
        sys.path.remove(here)
    assert found == [fingerprint(make()) for make in same_name.SAME.values()]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        ([1, 2], [2, 1]),
        (np.arange(3), np.arange(3.0)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(3), np.array([0.0, 0.0, 1e-300])),
        (Settings(), Settings(shape=(3, 5))),
        (PoissonGauss(1.0), PoissonGauss(1.1)),
        (poisson, gaussian),
        (partial(poisson, read_noise=1.0), partial(poisson, read_noise=2.0)),
        (penalty(0.1), penalty(0.2)),
        (lambda x: 0.1 * x, lambda x: 0.2 * x),
        (lambda x: x.sum(), lambda x: x.mean()),
        (np.multiply, np.add),
        (Operator(np.ones(3)), Operator(np.ones(3) + 1e-9)),
        (Operator(np.ones(3)).apply, Operator(np.zeros(3)).apply),
        (net(1.0), net(2.0)),
        (torch.float32, torch.float64),
    ],
)
def test_what_differs_has_another_fingerprint(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_a_global_that_a_function_reads_counts(monkeypatch):
    before = fingerprint(by_global)
    monkeypatch.setitem(by_global.__globals__, "WEIGHT", 0.6)
    assert fingerprint(by_global) != before


def test_what_is_cached_does_not_count():
    operator = Operator(np.ones(3))
    before = fingerprint(operator)
    assert operator.sum == 3 and "sum" in operator.__dict__
    assert fingerprint(operator) == before


def test_shared_and_copied_parts_are_the_same():
    part = np.ones(3)
    assert fingerprint([part, part]) == fingerprint([part, part.copy()])


def test_an_object_may_hold_itself():
    loop = [1]
    loop.append(loop)
    assert fingerprint(loop) != fingerprint([1, [1]])


def test_what_is_trained_can_be_left_out():
    assert fingerprint(net(1.0), trained=False) == fingerprint(net(2.0), trained=False)
    assert fingerprint(net(buffer=0.0), trained=False) != fingerprint(
        net(buffer=1.0), trained=False
    )
    frozen = [fingerprint(net(weight, frozen=True), trained=False) for weight in (1.0, 2.0)]
    assert frozen[0] != frozen[1]


def test_differences_are_said_in_words():
    then = {"seed": 0, "betas": (0.9, 0.99), "prior": "l1 #12"}
    assert differences(then, {"seed": 0, "betas": [0.9, 0.99], "prior": "l1 #12"}) == ""
    now = {"seed": 1, "betas": (0.9, 0.99), "prior": None}
    assert differences(then, now) == "seed 0, not 1, prior l1 #12, not None"
    assert name_of(partial(poisson, read_noise=1.5)) == "poisson(read_noise=1.5)"
