"""Bars, tubes and their stacks: light, noise and geometry."""

import numpy as np
import pytest

from helpers.renderer.simulate import bars, tubes, widefield


def test_bars_are_there_in_both_directions_and_the_margin_is_empty():
    volume = bars((24, 64, 64), seed=2001)
    assert set(np.unique(volume)) == {0.0, 1000.0}
    assert 0.03 < (volume > 0).mean() < 0.12
    edge = volume.copy()
    edge[2:-2, 4:-4, 4:-4] = 0
    assert edge.max() == 0
    across = [np.abs(np.diff(volume, axis=axis)).sum() for axis in (1, 2)]
    assert abs(np.log(across[0] / across[1])) < 2
    np.testing.assert_array_equal(volume, bars((24, 64, 64), seed=2001))
    assert (volume != bars((24, 64, 64), seed=2002)).any()
    assert bars((24, 64, 64), seed=2001, level=5.0).max() == 5


def test_tubes_are_hollow_and_leave_the_field():
    volume = tubes((24, 64, 64), seed=2001, n_tubes=1, radius=6.0)
    assert volume.max() > 900
    assert max(volume[:, :, 0].max(), volume[:, 0].max()) > 300
    assert (volume > 300).mean() < 0.1
    walls = []
    for seed in range(2001, 2041):  # tubes in the middle plane: two walls with little between
        plane = tubes((24, 64, 64), seed=seed, n_tubes=1, radius=6.0)[12] > 300
        walls += [np.sum(np.diff(line.astype(int)) == 1) for line in (*plane, *plane.T)]
    assert walls.count(2) > 100


def test_light_is_shared_by_the_planes_and_none_is_invented():
    volume = np.zeros((12, 48, 48))
    volume[6, 24, 24] = 12_000.0
    stack = widefield(volume, background=0.0, aberration={})
    planes = stack.expected.sum((1, 2))
    assert planes[6] == pytest.approx(1000, rel=0.03)
    assert planes.max() <= 1000.01
    # in focus the image is an Airy disc, whose half width is 0.51 wavelengths over the aperture
    middle = stack.expected[6, 24]
    width = (middle > middle.max() / 2).sum() * stack.pixel_size
    assert width == pytest.approx(0.51 * 0.6 / 1.3, abs=0.08)
    assert stack.expected[6].argmax() == 24 * 48 + 24
    # without aberration a plane above the focus is like one below
    np.testing.assert_allclose(stack.expected[4], stack.expected[8], atol=1e-3)
    bent = widefield(volume, background=0.0).expected
    assert bent.sum((1, 2))[6] == pytest.approx(planes[6], rel=0.03)
    assert bent.max() < 0.9 * stack.expected.max()


def test_the_noise_is_poisson_and_the_margin_glows():
    volume = tubes((12, 40, 40), seed=2001)
    stack = widefield(volume, seed=2001, margin=(2, 6, 6), background=3.0)
    assert stack.counts.shape == stack.truth.shape == (8, 28, 28)
    np.testing.assert_array_equal(stack.truth, volume[2:-2, 6:-6, 6:-6])
    spread = (stack.counts - stack.expected) ** 2 / stack.expected
    assert spread.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / spread.size) + 0.01)
    dark = volume.copy()
    dark[2:-2, 6:-6, 6:-6] = 0
    assert widefield(dark, margin=(2, 6, 6), background=0.0).expected.mean() > 1
    again = widefield(volume, seed=2001, margin=(2, 6, 6), background=3.0)
    np.testing.assert_array_equal(again.counts, stack.counts)


def test_bad_volumes_are_refused():
    with pytest.raises(ValueError, match="at least"):
        bars((4, 64, 64))
    with pytest.raises(ValueError, match="finite values"):
        widefield(np.full((12, 24, 24), np.nan))
    with pytest.raises(ValueError, match="finite values"):
        widefield(np.ones((24, 24)))
    with pytest.raises(ValueError, match="must leave"):
        widefield(np.ones((12, 24, 24)), margin=(6, 0, 0))
