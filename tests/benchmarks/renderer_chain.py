"""From camera counts to a table of molecules beside picasso: 512 x 512 pixels, one thread."""

from __future__ import annotations

import contextlib
import io
import statistics
import warnings

import numpy as np

from helpers.noise import SCMOS, to_electrons
from helpers.renderer.detect import localize, match
from helpers.renderer.simulate import crowded_frames

from .harness import Table, interleaved, ratio, threads

OURS, PEER = "localize", "picasso, box 7"
SIDE, N_FRAMES, GAIN, OFFSET, READ_NOISE = 512, 40, 2.2, 100.0, 3.5  # ADU
WIDTH, RADIUS = 1.3, 1.5


def run(options):
    """One movie of 100 molecules a frame."""
    repeats = options.repeats or 3
    counts, truth = crowded_frames(
        N_FRAMES, (SIDE, SIDE), emitters=100, present=1, photons=(1000, 1000),
        background=(10, 10), sigma=WIDTH, read_noise=READ_NOISE / GAIN, extent=0.95, seed=2000,
    )  # fmt: skip
    movie = np.round(counts * GAIN + OFFSET).clip(0).astype(np.uint16)
    found, calls = {}, {}

    def contender(name, call):
        call(movie[:1])  # loads and compiles
        calls[name] = lambda: found.__setitem__(name, call(movie))

    with threads(1):
        contender(OURS, _localized)
        peer = _picasso()
        if callable(peer):
            contender(PEER, peer)
        seconds = interleaved(calls, repeats)
    table = Table(
        f"{N_FRAMES} frames of {SIDE} x {SIDE}, 100 molecules of 1000 photons: {repeats} turns",
        ("", "ms a frame, best", "median", "of picasso's", "Jaccard", "RMSE px", "wanted"),
    )
    for name, times in seconds.items():
        scores = match(found[name], truth, RADIUS)
        table.rows.append((
            name, 1e3 * min(times) / N_FRAMES, 1e3 * statistics.median(times) / N_FRAMES,
            1 / ratio(seconds[PEER], times) if PEER in seconds else "-",
            scores.jaccard, scores.rmse, "1, 0.995" if name == OURS else "",
        ))  # fmt: skip
    if not callable(peer):
        table.notes.append(peer)
    yield table


def _localized(movie):
    electrons = to_electrons(movie, GAIN, OFFSET)
    return localize(electrons, WIDTH, SCMOS((READ_NOISE / GAIN) ** 2), device="cpu")


def _picasso():
    """The peer's chain with its present fitter, or why there is none."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from picasso.localize import localize_frames
    except ImportError as error:
        return f"picasso is not installed ({error}): make bench installs it"
    camera = {
        "Baseline": OFFSET, "Sensitivity": 1 / GAIN, "Gain": 1, "Qe": 1.0, "Pixelsize": 100,
    }  # fmt: skip

    def peer(movie):
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = localize_frames(
                movie,
                [{"Frames": len(movie), "Height": SIDE, "Width": SIDE}],
                {"Min. Net Gradient": 800, "Box Size": 7},
                camera_info=camera, fitting_method="gaussmle-spherical", threaded=False,
            )  # fmt: skip
        middle = (SIDE - 1) / 2
        columns = [np.asarray(table["frame"]), *(np.asarray(table[k]) - middle for k in "xy")]
        return np.rec.fromarrays(columns, names="frame,x,y")

    return peer
