"""Runs again: intervals that cover, and maps that the HAADF did not touch."""

import numpy as np
import pytest

from helpers.fusion import bootstrap, fuse_counts, simulate, without_haadf


@pytest.fixture(scope="module")
def fused():
    data = simulate("dysco3", counts=2, seed=0, size=64)
    return data, fuse_counts(data.haadf, data.counts, background=0, seed=0)


def test_intervals_hold_the_truth(fused):
    """Truth and background are both in the counts here: the maps are of all that was counted."""
    data, result = fused
    found = bootstrap(result, 8, seed=0)
    covered = []
    for e, t in data.truth.items():
        expected = t * data.counts[e].sum() / t.sum()
        assert (found.low[e] <= result.maps[e] + 1e-6).all()
        assert (found.high[e] >= result.maps[e]).all()
        assert found.low[e].min() >= 0
        covered.append(((found.low[e] <= expected) & (expected <= found.high[e])).mean())
    assert 0.65 < np.mean(covered) < 0.99


def test_a_lower_level_is_a_narrower_interval(fused):
    _, result = fused
    wide, narrow = (bootstrap(result, 2, level=level) for level in (0.9, 0.5))
    for e in result.maps:
        assert (wide.high[e] >= narrow.high[e]).all()
        assert np.array_equal(wide.std[e], narrow.std[e])
        ratio = (wide.high[e] - result.maps[e]).sum() / (narrow.high[e] - result.maps[e]).sum()
        assert np.isclose(ratio, 1.6449 / 0.6745, rtol=1e-3)


def test_the_number_of_threads_does_not_matter(fused, monkeypatch):
    _, result = fused
    one = bootstrap(result, 5, seed=1)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    three = bootstrap(result, 5, seed=1)
    for e in one.std:
        assert np.array_equal(one.std[e], three.std[e])


def test_more_counts_are_more_certain():
    relative = []
    for counts in (0.5, 8):
        data = simulate("dysco3", counts=counts, seed=0, size=48)
        found = bootstrap(fuse_counts(data.haadf, data.counts, background=0), 4)
        relative.append(np.mean([s.mean() for s in found.std.values()]) / counts)
    assert relative[1] < 0.6 * relative[0]


def test_bad_arguments_are_answered(fused):
    _, result = fused
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap(result, 1)
    with pytest.raises(ValueError, match="level"):
        bootstrap(result, 2, level=90)


def test_without_the_haadf_no_haadf_is_used(fused):
    data, result = fused
    alone = without_haadf(result)
    assert not any("HAADF" in name for w in alone.weights.values() for name in w)
    assert any("HAADF" in name for w in result.weights.values() for name in w)
    assert alone.settings["haadf"] is False
    other = without_haadf(fuse_counts(data.haadf[::-1].copy(), data.counts, background=0, seed=0))
    for e in alone.maps:
        assert np.array_equal(alone.maps[e], other.maps[e])
        assert alone.totals[e] == result.totals[e]
    bootstrap(alone, 2)
