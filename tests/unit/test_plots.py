"""Figures: what is drawn, to which scale and limits, and how heavy it is."""

import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from helpers._pictures import light_jpeg, light_png
from helpers.plots import add_scale_bar, nice_length, show_curves, show_images, use_style


@pytest.fixture(autouse=True)
def clean():
    with matplotlib.rc_context():
        use_style()
        yield


def ramp(low, high, shape=(24, 32)):
    return np.linspace(low, high, shape[0] * shape[1]).reshape(shape)


def panels(fig):
    return [ax for ax in fig.axes if ax.images]


def limits(fig):
    return [ax.images[0].get_clim() for ax in panels(fig)]


def test_text_is_legible_on_a_phone():
    sizes = [v for k, v in matplotlib.rcParams.items() if k.endswith("size") and "font" in k]
    named = ("axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    sizes += [matplotlib.rcParams[k] for k in named]
    assert min(s for s in sizes if isinstance(s, float)) >= 8
    styles = [str(c) for c in matplotlib.rcParams["axes.prop_cycle"].by_key()["linestyle"]]
    assert len(set(styles)) == len(styles) == 7, "no two curves differ by colour alone"


@pytest.mark.parametrize(
    ("width", "size", "unit", "expected"),
    [
        (256, 0.1, "nm", (50, "5 nm")),
        (400, 1.0, "nm", (100, "100 nm")),
        (512, 65, "nm", (10000 / 65, "10 µm")),
        (1000, 0.5, "Å", (200, "100 Å")),
        (10, None, "nm", (2, "2 px")),
    ],
)
def test_scale_bar_lengths_are_round(width, size, unit, expected):
    length, label = nice_length(width, size, unit)
    assert (pytest.approx(expected[0], rel=1e-5), expected[1]) == (length, label)
    assert width / 8 <= length <= width / 3


@pytest.mark.parametrize("size", [0, -1.0, float("nan")])
def test_a_pixel_size_must_be_a_length(size):
    with pytest.raises(ValueError, match="positive length, or None for px"):
        nice_length(100, size)


def test_the_drawn_bar_has_the_length_it_claims():
    ax = Figure().add_subplot()
    ax.imshow(ramp(0, 1, (100, 200)))
    bar = add_scale_bar(ax, 0.5, "nm")
    rectangle = bar.size_bar.get_children()[0]
    assert bar.txt_label.get_text() == f"{rectangle.get_width() * 0.5:g} nm"


def test_shared_limits_compare_and_own_limits_do_not():
    images = {"a": ramp(0, 1), "b": torch.tensor(ramp(-2, 0.5))}
    assert limits(show_images(images)) == [(-2, 1), (-2, 1)]
    assert limits(show_images(images, limits="each")) == [(0, 1), (-2, 0.5)]
    assert limits(show_images(images, limits=(0, 5))) == [(0, 5), (0, 5)]
    assert limits(show_images(images, limits=[None, (0, 5)])) == [(0, 1), (0, 5)]


def test_a_signed_map_is_diverging_about_zero_and_apart():
    fig = show_images({"a": ramp(0, 1), "error": ramp(-0.1, 0.3)}, signed="error", cmap="viridis")
    assert limits(fig) == [(0, 1), (-0.3, 0.3)]
    assert [ax.images[0].get_cmap().name for ax in panels(fig)] == ["viridis", "RdBu_r"]


def test_bars_follow_the_sets_of_limits():
    images = {name: ramp(0, n + 1) for n, name in enumerate("abc")}
    labels = {"a": "counts", "b": "counts", "c": "nm"}
    assert len(show_images(images).axes) == 3 + 1
    assert len(show_images(images, limits="each").axes) == 3 + 3
    assert len(show_images(images, colorbar=False).axes) == 3
    labelled = show_images(images, limits="each", colorbar_label=labels).axes[3:]
    assert [b.get_xlabel() for b in labelled] == ["counts", "counts", "nm"]


def test_bars_do_not_lie_over_images():
    images = {name: ramp(0, 1) for name in "abc"} | {"error": ramp(-1, 1)}
    for options in ({"columns": 2, "signed": "error"}, {"limits": "each"}, {"signed": "error"}):
        fig = show_images(images, **options)
        fig.draw_without_rendering()
        boxes = [ax.get_window_extent() for ax in fig.axes]
        for n, box in enumerate(boxes):
            for other in boxes[n + 1 :]:
                overlap = min(box.x1, other.x1) - max(box.x0, other.x0)
                assert overlap <= 0.5 or min(box.y1, other.y1) - max(box.y0, other.y0) <= 0.5


def test_rows_and_columns():
    fig = show_images({str(n): ramp(0, 1) for n in range(5)}, columns=3, colorbar=False)
    assert len(fig.axes) == 5
    assert fig.get_size_inches()[0] == pytest.approx(7.2)


def test_crop_shows_the_region():
    image = ramp(0, 1, (40, 60))
    shown = panels(show_images({"a": image}, crop=np.s_[10:20, 5:35]))[0].images[0].get_array()
    np.testing.assert_array_equal(shown, image[10:20, 5:35])


def test_the_callers_array_and_gaps_are_left_alone():
    image = ramp(0, 1)
    image[0, 0] = np.nan
    before = image.copy()
    assert limits(show_images({"a": image}))[0] == (np.nanmin(image), 1)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ({}, {}, "no images"),
        ({"a": np.zeros((2, 3, 4))}, {}, r"'a' is float64 of shape \(2, 3, 4\)"),
        ({"a": np.zeros((2, 3), complex)}, {}, "complex128 of shape"),
        ({"a": np.full((2, 3), np.nan)}, {}, "no finite value"),
        ({"a": ramp(0, 1)}, {"signed": "b"}, r"signed names \['b'\]"),
        ({"a": ramp(0, 1)}, {"cmap": {"b": "viridis"}}, r"cmap names \['b'\]"),
        ({"a": ramp(0, 1)}, {"limits": "equal"}, "limits is 'equal'"),
        ({"a": ramp(0, 1)}, {"limits": [(0, 1)] * 2}, "2 limits for 1 images"),
        ({"a": ramp(0, 1)}, {"crop": np.s_[99:, :]}, "leaves nothing of 'a'"),
    ],
)
def test_bad_images_fail_before_drawing(images, options, message):
    with pytest.raises(ValueError, match=message):
        show_images(images, **options)


def test_pyplot_does_not_know_the_figures():
    show_images({"a": ramp(0, 1)}), show_curves({"a": [1, 2]})
    assert plt.get_fignums() == [], "or a notebook would show them twice"


def test_curves_differ_by_more_than_colour():
    fig = show_curves({"a": [1, 2, 3], "b": ([1, 2], [3, 4])}, x=[5, 6, 7], xlabel="t (s)")
    lines = fig.axes[0].get_lines()
    assert lines[0].get_xdata().tolist() == [5, 6, 7] and lines[1].get_xdata().tolist() == [1, 2]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 2
    assert [t.get_text() for t in fig.axes[0].get_legend().get_texts()] == ["a", "b"]
    assert fig.axes[0].get_xlabel() == "t (s)"


def test_direct_labels_do_not_overlap():
    curves = {name: np.array([1.0, 0.1 + 1e-4 * n]) for n, name in enumerate("abcd")}
    fig = show_curves(curves, legend="direct", ylog=True)
    fig.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in fig.axes[0].texts), key=lambda b: b.y0)
    assert len(boxes) == 4 and fig.axes[0].get_legend() is None
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:], strict=False))
    assert all(b.x1 <= fig.bbox.x1 for b in boxes)


@pytest.mark.parametrize(
    ("curves", "options", "message"),
    [
        ({"a": ([1, 2], [1, 2, 3])}, {}, r"curve 'a': x is \(2,\) and y \(3,\)"),
        ({"a": np.zeros((2, 2))}, {}, "give equal lengths"),
        ({"a": [1]}, {"legend": "outside"}, "legend is 'outside'"),
    ],
)
def test_bad_curves_are_named(curves, options, message):
    with pytest.raises(ValueError, match=message):
        show_curves(curves, **options)


def test_noisy_figures_become_light_jpegs_and_curves_stay_sharp_pngs():
    noisy = show_images({n: np.random.default_rng(0).random((300, 300)) for n in "abc"})
    assert light_png(noisy) is None
    data, size = light_jpeg(noisy)
    assert len(data) < 300_000 and Image.open(io.BytesIO(data)).format == "JPEG"
    assert 600 < size["width"] < 760 and "height" not in size, "a phone would stretch it"
    curve = show_curves({"a": [1, 2, 3]})
    data, size = light_png(curve)
    assert len(data) < 150_000 and light_jpeg(curve) is None
    assert abs(Image.open(io.BytesIO(data)).width - 2 * size["width"]) <= 1
