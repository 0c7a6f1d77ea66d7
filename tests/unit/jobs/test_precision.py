"""Trainings in bfloat16, as jobs."""

import numpy as np

from helpers import xray
from tests.unit.jobs.cases import run


def test_a_calibrator_is_trained_in_the_precision_that_was_asked_for(case, tmp_path, capsys):
    (exact,) = run(case("xray-train-calibrator"), tmp_path / "a", capsys)
    more = ["--precision", "bfloat16"]
    (rounded,) = run(case("xray-train-calibrator"), tmp_path / "b", capsys, *more)
    cards = [xray.load(result["output"], device="cpu").card for result in (exact, rounded)]
    assert [card["precision"] for card in cards] == ["float32", "bfloat16"]
    assert np.isfinite(rounded["loss"]) and rounded["loss"] != exact["loss"]
