"""Intervals cover what they promise; the coarse camera objects where it should."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.xray import baselines
from helpers.xray.reconstruct import (
    Interval,
    conformal,
    disagreement,
    motion_groups,
    reconstruct,
)
from helpers.xray.simulate import Experiment, simulate


def guess(seed, shape=(2, 100, 100)):
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0, 1, shape)
    return SimpleNamespace(frames=(0.2 + spread) * rng.normal(size=shape), ensemble_std=spread)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_an_interval_covers_other_frames_of_the_same_kind(level):
    interval = conformal(guess(0), np.zeros((2, 100, 100)), level)
    other = guess(1)
    assert np.mean(np.abs(other.frames) <= interval(other)) == pytest.approx(level, abs=0.02)
    assert interval.level == level and interval.floor > 0


def test_it_can_be_calibrated_on_some_pixels_alone():
    answer, hard = guess(0), np.zeros((2, 100, 100), bool)
    hard[:, 40:60] = True
    answer.frames[hard] *= 5
    easy, honest = (conformal(answer, np.zeros(hard.shape), where=w) for w in (None, hard))
    other = guess(1)
    other.frames[hard] *= 5
    covered = [np.mean((np.abs(other.frames) <= i(other))[hard]) for i in (easy, honest)]
    assert covered[0] < 0.8 and covered[1] == pytest.approx(0.9, abs=0.02)
    with pytest.raises(ValueError, match=r"where is \(2, 100, 100\) with 0 pixels"):
        conformal(answer, np.zeros(hard.shape), where=~hard & hard)


def test_it_is_wide_where_the_spread_is():
    width = Interval(0.9, 2.0, 0.1)(SimpleNamespace(ensemble_std=np.array([0.0, 1.0])))
    np.testing.assert_allclose(width, [0.2, 2.2])


def test_refusals():
    with pytest.raises(ValueError, match="readings are"):
        conformal(guess(0), np.zeros((1, 100, 100)))
    with pytest.raises(ValueError, match="level 1.5"):
        conformal(guess(0), np.zeros((2, 100, 100)), 1.5)
    with pytest.raises(ValueError, match="reconstruct with ensemble_std=True"):
        conformal(
            SimpleNamespace(frames=np.zeros((1, 4, 4)), ensemble_std=None), np.zeros((1, 4, 4))
        )


def test_the_coarse_camera_objects_to_what_it_has_not_seen():
    movie = simulate(Experiment(shape=(64, 64)), 2022)
    honest = reconstruct(baselines.linear, movie)
    perfect = replace(honest, frames=movie.truth[:20].copy())
    quiet = disagreement(perfect, movie)
    assert quiet.shape == (20, 16, 16)
    inner = quiet[:, 3:-3, 3:-3]
    assert 0.85 < inner.std() < 1.2 and np.abs(inner).max() < 5.5
    invented = perfect.frames.copy()
    invented[7, 28:40, 28:40] -= 0.15  # a droplet that was never there
    loud = disagreement(replace(perfect, frames=invented), movie)
    assert loud[7, 7:10, 7:10].min() > 3
    changed = np.zeros_like(loud, bool)
    changed[7] = True
    np.testing.assert_array_equal(loud[~changed], quiet[~changed])


def test_groups_hold_the_level_where_things_move_and_where_they_do_not():
    """Errors ten times larger in one class: one factor cannot serve both."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 2, (2, 100, 100))
    size = np.where(groups == 1, 0.1, 0.01)

    def result():
        frames = size * rng.standard_normal(size.shape)
        return SimpleNamespace(frames=frames, ensemble_std=np.full(size.shape, 0.01))

    first, second = result(), result()
    zero = np.zeros(size.shape)
    together, apart = (conformal(first, zero, groups=g) for g in (None, groups))
    hit = np.abs(second.frames) <= together(second)
    assert hit[groups == 1].mean() < 0.85 < 0.95 < hit[groups == 0].mean()
    hit = np.abs(second.frames) <= apart(second, groups)
    assert all(abs(hit[groups == k].mean() - 0.9) < 0.02 for k in (0, 1))
    with pytest.raises(ValueError, match="give them to both"):
        apart(second)
    with pytest.raises(ValueError, match="give them to both"):
        together(second, groups)


def test_motion_is_told_without_a_truth():
    movie = simulate(Experiment(), 2040)
    result = reconstruct(baselines.linear, movie, device="cpu")
    moves = motion_groups(result, movie) // 3
    keys = np.stack([movie.hr[list(s.hr)] for s in result.selections])
    off = np.abs(keys - movie.truth[:20, None]).max(1) > 0.15
    assert off[moves >= 2].mean() > 0.3 > 0.1 > off[moves == 0].mean()
