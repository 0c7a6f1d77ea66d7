"""The selection tables, and that what is asked is never among what is given."""

import numpy as np
import pytest

from helpers.xray.data import select_frames


@pytest.mark.parametrize(
    ("index", "lr", "hr", "tau"),
    [
        (1, (0, 1, 2), (0, 20), 0.05),
        (19, (18, 19, 20), (0, 20), 0.95),
        (37, (36, 37, 38), (20, 40), 0.85),
        (41, (40, 41, 42), (40, 60), 0.05),
    ],
)
def test_virtual_samples_are_those_of_the_table(index, lr, hr, tau):
    found = select_frames(index, "virtual", key_every=20, n_frames=61)
    assert found == (lr, hr, index, tau)


def test_continuous_samples_are_those_of_the_table():
    times = [0, 10, 20.5, np.nan, 30]
    rows = {
        0: ((0, 0, 1), (0, 1), 0.0),
        9: ((8, 9, 10), (0, 1), 0.9),
        10: ((9, 10, 11), (1, 2), 0.0),
        20: ((19, 20, 21), (1, 2), 10 / 10.5),
        29: ((28, 29, 29), (2, 4), 8.5 / 9.5),
    }
    for index, (lr, hr, tau) in rows.items():
        found = select_frames(index, "continuous", key_times=times, n_frames=30)
        assert found == (lr, hr, None, pytest.approx(tau))


def test_double_samples_are_those_of_the_table():
    times = [0.0, 10.0, 20.5, 30.0]
    assert select_frames(1, "double", key_times=times, n_frames=31) == (
        (9, 10, 11),
        (0, 2),
        1,
        pytest.approx(10 / 20.5),
    )
    assert select_frames(2, "double", key_times=times, n_frames=31).lr == (19, 20, 21)


@pytest.mark.parametrize("n_frames", [40, 41, 42, 59])
@pytest.mark.parametrize("mode", ["virtual", "continuous", "double"])
def test_no_target_is_among_its_inputs_not_even_at_the_ends(mode, n_frames):
    """Whatever index is asked for: a sample without its own target, or an error."""
    given, refused = [], []
    for index in range(-1, n_frames + 1):
        try:
            found = select_frames(index, mode, key_every=10, n_frames=n_frames)
        except ValueError:
            refused.append(index)
            continue
        given.append(index)
        assert found.target not in found.hr
        assert found.hr[0] < found.hr[1]
        assert all(0 <= frame < n_frames for frame in found.lr)
        keys = found.hr if mode == "virtual" else [10 * k for k in found.hr]
        assert keys[1] < n_frames
        if mode == "continuous":  # nothing is held out: the moment may be that of a key frame
            assert found.target is None and keys[0] <= index < keys[1] and 0 <= found.tau < 1
        else:
            moment = index if mode == "virtual" else 10 * index
            assert keys[0] < moment < keys[1] and 0 < found.tau < 1 and found.lr[1] == moment
    last_key = (n_frames - 1) // 10
    expected = {
        "virtual": [i for i in range(10 * last_key) if i % 10],
        "continuous": list(range(10 * last_key)),
        "double": list(range(1, last_key)),
    }
    assert given == expected[mode]
    assert {-1, n_frames} <= set(refused)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select_frames(1, "single"), "mode is 'single': use one of virtual, continuous"),
        (lambda: select_frames(1, "virtual", n_frames=2), "has 2 frames: at least three"),
        (lambda: select_frames(40, "virtual"), "frame 40 is a key frame"),
        (lambda: select_frames(41, "virtual", n_frames=50), "no key frame after frame 41"),
        (lambda: select_frames(50, "virtual", n_frames=50), "whole number from 0 to 49"),
        (lambda: select_frames(-1, "continuous"), "index is -1: give a whole number from 0"),
        (lambda: select_frames(1.5, "continuous"), "index is 1.5"),
        (lambda: select_frames(1, "continuous", key_times=[2, 9]), "no key frame before frame 1"),
        (lambda: select_frames(1, "virtual", key_every=1), "key_every is 1"),
        (lambda: select_frames(0, "double", key_times=[0, 1, 2]), "key frame 0 of 3 lacks a key"),
        (lambda: select_frames(2, "double", key_times=[0, 1, 2]), "key frame 2 of 3 lacks a key"),
        (lambda: select_frames(1, "double", key_times=[0, 1, np.nan]), "frame 1 of 3 lacks a key"),
        (
            lambda: select_frames(1, "double", key_times=[0, 30, 60], n_frames=20),
            "key frame 1 was taken at 30, when no coarse frame was",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
