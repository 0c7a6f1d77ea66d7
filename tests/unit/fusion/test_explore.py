"""The sliders of a fusion call the real solver, live and on a built page."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest

from helpers.fusion import explore, fuse, simulate
from helpers.plots import use_style


@pytest.fixture(scope="module")
def data():
    return simulate("dysco3", counts=4, seed=0, size=24)


def grid(data, **options):
    maps = {e: m / 20 for e, m in data.maps.items()}
    return explore(data.haadf / data.haadf.max(), maps, data.atomic_numbers, **options)


def test_a_live_move_is_a_new_fusion(data, monkeypatch):
    calls = []

    def counted(*args, **settings):
        calls.append(settings)
        return fuse(*args, **settings)

    # by import_module, because the package gives the function the module's name
    monkeypatch.setattr(importlib.import_module("helpers.fusion._explore"), "fuse", counted)
    sliders = grid(data, static=False, lambda_chem=[0.02, 0.1], lambda_tv=[0.01, 0.1])
    assert set(sliders.controls) == {"lambda_chem", "lambda_tv", "n_iter", "n_iter_tv"}
    _ = sliders.widget
    before = sliders.image.value
    sliders.controls["lambda_tv"].value = 0.5
    sliders.controls["n_iter"].value = 7
    assert calls[-1]["lambda_tv"] == pytest.approx(0.5)
    assert calls[-1]["n_iter"] == 7
    assert sliders.image.value != before


def test_the_built_page_has_a_frame_for_each_pair(data):
    sliders = grid(data, static=True, lambda_chem=[0.02, 0.1], lambda_tv=[0.01, 0.1, 1.0])
    html = sliders._repr_html_()
    assert sliders.n_frames == 6
    assert html.count('type="range"') == 2
    assert "data:image/webp" in html


def test_the_picture_shows_the_maps_and_the_three_costs(data):
    figure = grid(data, static=True).render(0.08, 0.02, 10, 3)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["HAADF, model", "Sc", "Dy", "O", "HAADF", "Poisson", "TV"]
    line = figure.axes[-1].lines[0].get_ydata()
    assert len(line) == 11
    assert np.all(np.isfinite(line))


def test_the_panels_do_not_overlap_in_the_style_of_the_book(data):
    import matplotlib as mpl

    with mpl.rc_context():
        use_style()
        figure = grid(data, static=True).render(0.08, 0.02, 10, 3)
        figure.draw_without_rendering()
    boxes = [ax.get_position() for ax in figure.axes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_a_single_map_without_names(data):
    sliders = explore(data.haadf / 2000, data.maps["Dy"][None] / 20, ["Dy"], static=True)
    assert sliders.render(0.08, 0.02, 3, 3).axes[1].get_title() == "map 0"
