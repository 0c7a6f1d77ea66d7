"""Samples: what is asked is never given, and a turned sample is still one experiment."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.xray.cameras import Transform, coarsen
from helpers.xray.data import MoviePairs, stack
from helpers.xray.data.samples import Sample, augment
from helpers.xray.simulate import Experiment, simulate


def movie(n_frames=21, keys=(0, 10, 20), shape=(4, 4)):
    """Every frame is a number: key frames 100 + k, coarse frames t, truth 1000 + t."""
    h, w = shape

    def frames(values, scale):
        return np.stack([np.full((scale * h, scale * w), v, np.float32) for v in values])

    return SimpleNamespace(
        hr=frames([100 + k for k in range(len(keys))], 4),
        lr=frames(range(n_frames), 1),
        truth=frames([1000 + t for t in range(n_frames)], 4),
        key_times=np.array(keys, float),
        transform=Transform(),
        time_offset=0.0,
    )


def test_a_sample_is_its_frames_and_the_key_frames_around_them():
    pairs = MoviePairs([movie()])
    asked = [t for _, t, _ in pairs.places]
    assert asked == [*range(1, 10), *range(11, 20)]
    for sample, t in zip((pairs[i] for i in range(len(pairs))), asked, strict=True):
        k = t // 10
        assert sample.lr[:, 0, 0, 0].tolist() == [t - 1, t, t + 1]
        assert sample.hr[:, 0, 0, 0].tolist() == [100 + k, 101 + k]
        assert sample.target[0, 0, 0] == 1000 + t
        assert sample.tau == pytest.approx((t - 10 * k) / 10)
        assert sample.target.shape == (1, 16, 16) and sample.lr.shape == (3, 1, 4, 4)


@pytest.mark.parametrize("keys", [(0, 10, 20), (3, 7, 20), (0.3, 9.7, 19.6), (-2.5, 7.5, 17.5)])
def test_no_key_frame_is_asked_for_at_either_end(keys):
    pairs = MoviePairs([movie(keys=keys)])
    for _, t, k in pairs.places:
        assert keys[k] < t < keys[k + 1]
        assert min(abs(t - key) for key in keys) >= 0.5
        assert 1 <= t <= 19
    seen = {t for _, t, _ in pairs.places}
    between = {t for t in range(1, 20) if keys[0] < t < keys[-1]}
    assert {t for t in between - seen if min(abs(t - key) for key in keys) >= 0.5} == set()


def test_in_a_simulated_movie_no_input_is_the_target():
    pairs = MoviePairs([simulate(Experiment(shape=(32, 32)), seed) for seed in (1000, 1001)])
    assert len(pairs) == 36 and pairs.clips.tolist() == [0] * 18 + [1] * 18
    for sample in (pairs[i] for i in range(len(pairs))):
        noise = 4 * np.sqrt(sample.target.max() / 4000)
        assert all(np.abs(key - sample.target).max() > noise for key in sample.hr)


def test_every_third_frame_starts_anew_behind_each_key_frame():
    pairs = MoviePairs([movie()], every=3)
    assert [t for _, t, _ in pairs.places] == [1, 4, 7, 11, 14, 17]


def test_a_batch_is_float32_tensors():
    pairs = MoviePairs([movie()])
    batch = stack([pairs[0], pairs[3]])
    assert isinstance(batch, Sample) and all(part.dtype == torch.float32 for part in batch)
    assert batch.hr.shape == (2, 2, 1, 16, 16) and batch.tau.shape == (2,)
    assert batch.target[1, 0, 0, 0] == 1004


def test_what_is_cut_and_turned_is_still_one_experiment():
    """Coarse and sharp pixels stay together, mirrored or not, forwards or backwards."""
    rng = np.random.default_rng(0)
    frames = rng.random((3, 1, 48, 64), dtype=np.float32)
    lr = coarsen(frames, sigma=0)
    sample = Sample(lr, frames[[0, 2]], 0.3, frames[1])
    seen = set()
    for seed in range(60):
        cut = augment(sample, 16, np.random.default_rng(seed))
        assert cut.target.shape == (1, 16, 16) and cut.lr.shape == (3, 1, 4, 4)
        for frame, seen_as in ((cut.target, cut.lr[1]), (cut.hr, cut.lr[[0, 2]])):
            np.testing.assert_allclose(coarsen(frame.copy(), sigma=0), seen_as, atol=1e-6)
        left, right = (np.argwhere(frames[1, 0] == cut.target[0, 0, k])[0, 1] for k in (0, -1))
        assert abs(left - right) == 15
        seen.add((bool(left > right), round(float(cut.tau), 3)))
        # the earlier key frame is the first unless time runs backwards
        backwards = not np.isin(cut.hr[0], frames[0]).all()
        assert cut.tau == pytest.approx(0.7 if backwards else 0.3)
    assert len(seen) == 4


def test_the_whole_field_is_kept_without_a_patch():
    sample = MoviePairs([movie()])[0]
    assert augment(sample, None, np.random.default_rng(0)).target.shape == (1, 16, 16)


GOOD = movie()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MoviePairs([]), "there are no movies"),
        (lambda: MoviePairs([GOOD], every=0), "every is 0"),
        (lambda: MoviePairs([movie(keys=(0, 1))]), "no frame lies between two key frames"),
        (lambda: MoviePairs([movie(n_frames=2, keys=(0, 10))]), "give longer movies"),
        (lambda: MoviePairs([SimpleNamespace(**vars(GOOD) | {"truth": None})]), "has no truth"),
        (
            lambda: MoviePairs(
                [GOOD, SimpleNamespace(**vars(GOOD) | {"transform": replace(Transform(), tx=2.0)})]
            ),
            "movie 1 differ by .*register the frames first",
        ),
        (
            lambda: MoviePairs([SimpleNamespace(**vars(GOOD) | {"time_offset": 0.4})]),
            "clocks of movie 0 differ by 0.4 frames",
        ),
        (
            lambda: augment(MoviePairs([GOOD])[0], 20, np.random.default_rng(0)),
            "patch is 20 and the field",
        ),
        (
            lambda: augment(MoviePairs([GOOD])[0], 10, np.random.default_rng(0)),
            "give a multiple of 4",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
