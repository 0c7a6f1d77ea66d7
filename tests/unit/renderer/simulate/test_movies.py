"""Movies against the statistics of their blinking; crowded frames against their truth."""

import numpy as np
import pytest

from helpers.renderer.simulate import blinking_movie, crowded_frames, spots_image
from tests.margins.seeds import within


def test_blinks_have_the_durations_and_numbers_that_were_asked_for():
    n = 4000
    positions = np.zeros((n, 2))
    movie = blinking_movie(
        positions,
        (3, 3),
        3000,
        time_on=3.0,
        time_off=40.0,
        bleaching=0.25,
        photons=100.0,
        seed=2000,
    )
    truth = movie.truth
    per_molecule = np.bincount(truth["molecule"], truth["photons"], n)
    # four blinks of three frames of a hundred photons; the sum is nearly exponential
    expected = 4 * 3 * 100
    assert per_molecule.mean() == pytest.approx(expected, abs=4 * expected * 1.1 / np.sqrt(n))
    first = np.full(n, 3000)
    np.minimum.at(first, truth["molecule"], truth["frame"])
    assert first.mean() == pytest.approx(39.5, rel=0.1)
    assert per_molecule.all() and within(first, 0, 2999)


def test_frames_are_shared_by_the_time_in_which_a_molecule_is_on():
    movie = blinking_movie(np.zeros((3000, 2)), (2, 2), 50, time_on=0.5, time_off=10.0, seed=2001)
    frames, photons = movie.truth["frame"], movie.truth["photons"]
    assert (np.diff(frames) >= 0).all() and frames.min() >= 0 and frames.max() < 50
    assert within(photons, 0, np.inf) and photons.mean() < 500  # mostly less than half of a frame


def test_a_frame_is_its_molecules_a_background_and_noise():
    rng = np.random.default_rng(2002)
    movie = blinking_movie(
        rng.uniform(-1, 1, (200, 2)), (20, 24), 60, time_off=20.0, read_noise=2.0, seed=2002
    )
    truth = movie.truth
    here = truth["frame"] == 11
    rate = 10 + spots_image(
        truth["x"][here], truth["y"][here], truth["photons"][here], 1.3, (20, 24)
    )
    np.testing.assert_allclose(movie.expected(11), rate)
    scaled = [(movie[k] - movie.expected(k)) / np.sqrt(movie.expected(k) + 4) for k in range(60)]
    assert np.var(scaled) == pytest.approx(1, abs=0.03)
    assert np.abs(np.mean(scaled)) < 0.03


def test_a_movie_is_made_anew_each_time_and_stays_the_same():
    movie = blinking_movie(np.zeros((20, 2)), (9, 9), 25, time_off=5.0, seed=2003)
    chunks = dict(movie.chunks(10))
    assert [len(stack) for stack in chunks.values()] == [10, 10, 5]
    np.testing.assert_array_equal(chunks[20][3], movie[23])
    np.testing.assert_array_equal(movie[-2], movie[23])
    assert not np.array_equal(movie[3], movie[4])
    with pytest.raises(IndexError, match="frame 25 of 25"):
        movie[25]


def test_nothing_that_blinks_gives_background():
    movie = blinking_movie(np.empty((0, 2)), (9, 9), 4, read_noise=0.0, seed=2004)
    assert len(movie.truth["x"]) == 0 and (movie.expected(2) == 10).all()
    assert np.array_equal(movie[1], movie[1].round())


def test_crowded_frames_hold_what_their_truth_says():
    frames, truth = crowded_frames(400, seed=2000)
    numbers = np.bincount(truth["frame"], minlength=400)
    share = np.bincount(numbers, minlength=5) / 400
    np.testing.assert_allclose(share, np.array([1, 4, 6, 4, 1]) / 16, atol=0.1)
    assert within(truth["x"], -11.2, 11.2) and within(truth["y"], -11.2, 11.2)
    light = np.bincount(truth["frame"], truth["photons"], minlength=400)
    rest = (frames.sum((1, 2), dtype=float) - light) / 1024
    assert rest.mean() == pytest.approx(50, abs=8)  # the background
    empty = numbers == 0
    assert frames[empty].std() == pytest.approx(100, rel=0.08)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: blinking_movie([[0, 0, 0]], (5, 5), 3), "positions have shape"),
        (lambda: blinking_movie([[0, 0]], (5, 5), 0), "0 frames"),
        (lambda: blinking_movie([[0, 0]], (5, 5), 3, time_on=0), "must be positive"),
        (lambda: blinking_movie([[0, 0]], (5, 5), 3, bleaching=0), "a probability above 0"),
        (lambda: crowded_frames(0), "0 frames"),
        (lambda: crowded_frames(1, present=1.5), "present is 1.5"),
        (lambda: crowded_frames(1, photons=(-1, 5)), "negative"),
    ],
)
def test_nonsense_is_refused_with_a_reason(call, words):
    with pytest.raises(ValueError, match=words):
        call()
